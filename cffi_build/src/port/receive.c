/* receive.c - takes records from the receive ring, in batches, into private memory.
 *
 * The Vnet counts as fill what stands in the ring and what the library says it holds unread. A batch stays in the ring,
 * as fill, until the library comes back: for the next batch, to say what is unread, or to wait. So whoever does not
 * come back holds its senders off, and whoever sleeps holds nothing. Fragments are the exception, for a message may be
 * larger than the ring: their room is given back on the way, and the batch is counted as unread meanwhile. */
#include "port.h"

/* Gives back all before `head`. Under `release_lock`. Unread is stored first: fill is never seen too small. */
static void release(struct layer8_port *port, uint64_t head, uint64_t unread) {
    struct layer8_control *control = port->control;
    bool moved = false;
    if (unread != port->unread) {
        port->unread = unread;
        layer8_store_seq(&control->unread, unread);
        KILL_POINT(24);
        moved = true;
    }
    if (head != port->released) {
        port->released = head;
        layer8_store_seq(&control->receive_head, head);
        KILL_POINT(25);
        moved = true;
    }
    if (moved && layer8_load_seq(&control->receive_tail) - head + unread <= port->receive_capacity / 4 &&
        layer8_wakeup_claim(&control->drained)) {
        layer8_port_ring(port);
    }
}

static void release_batch(struct layer8_port *port, uint64_t given) {
    (void)pthread_mutex_lock(&port->release_lock);
    port->given = given;
    release(port, port->consumed, given);
    (void)pthread_mutex_unlock(&port->release_lock);
}

/* In the middle of a batch: `used` bytes of it are in private memory and will be counted by the library later. */
static void release_early(struct layer8_port *port, uint64_t head, uint64_t used) {
    (void)pthread_mutex_lock(&port->release_lock);
    port->consumed = head;
    release(port, head, port->given + used);
    (void)pthread_mutex_unlock(&port->release_lock);
}

void layer8_release_given(struct layer8_port *port) {
    (void)pthread_mutex_lock(&port->release_lock);
    release(port, port->consumed, port->given);
    (void)pthread_mutex_unlock(&port->release_lock);
}

void layer8_set_unread(layer8_port *port, uint64_t unread) {
    if (!layer8_load_relaxed(&port->elsewhere)) {
        release_batch(port, unread);
    }
}

int layer8_arrived(struct layer8_port *port) {
    if (port->broken != LAYER8_OK) {
        return port->broken;
    }
    uint64_t tail = layer8_load_seq(&port->control->receive_tail);
    if (!layer8_position_fits(tail, port->receive_tail, port->receive_head + port->receive_capacity)) {
        port->broken = LAYER8_CORRUPT;
        return port->broken;
    }
    port->receive_tail = tail;
    return tail != port->receive_head;
}

/* A batch being filled. */
struct batch {
    uint32_t count;
    uint32_t used;  /* bytes of the batch buffer */
    uint64_t large; /* bytes of its assembled messages */
};

static bool is_message(uint8_t kind) { return kind >= LAYER8_UNICAST && kind <= LAYER8_FAILED_REPLY; }

/* Whether a header, in private memory, can be: what follows may rely on it. */
static bool record_fits(const struct layer8_record *record, uint64_t span, uint64_t available, uint64_t to_end) {
    if (span > available || span > to_end || record->kind < LAYER8_UNICAST || record->kind > LAYER8_PAD) {
        return false;
    }
    if (record->kind == LAYER8_PAD) {
        return span == to_end;
    }
    if (record->length > LAYER8_FRAGMENT_BYTES || record->headers > record->length ||
        record->headers > LAYER8_HEADERS_MAX) {
        return false;
    }
    if (!is_message(record->kind)) {
        return true;
    }
    return record->fragment < record->fragments &&
           ((record->flags & LAYER8_FIRST) != 0) == (record->fragment == 0) &&
           ((record->flags & LAYER8_LAST) != 0) == (record->fragment + 1u == record->fragments) &&
           (record->fragment == 0 || record->headers == 0) &&
           (record->kind != LAYER8_PUBLISH || record->topic < LAYER8_TOPICS);
}

static void add_entry(struct layer8_port *port, struct batch *batch, const struct layer8_record *record,
                      uint32_t source, uint32_t offset, uint8_t flags) {
    layer8_entry *entry = &port->table[batch->count++];
    entry->offset = offset;
    entry->length = record->length - record->headers;
    entry->kind = record->kind;
    entry->flags = (uint8_t)((record->flags & 0x3f) | flags);
    if (record->kind == LAYER8_PUBLISH && record->missed != 0) {
        entry->flags |= LAYER8_ENTRY_MISSED;
    }
    entry->topic = record->topic;
    entry->source = source;
    entry->sequence = record->sequence;
    if (is_message(record->kind)) {
        layer8_count(&port->received_messages, 1);
        layer8_count(&port->received_bytes, entry->length);
    }
}

/* A fragment: into its assembly, and into the table when the message is whole. False: there is no room for the message
 * that begins here, and what follows of it will be discarded too. */
static bool take_fragment(struct layer8_port *port, struct batch *batch, const struct layer8_record *record,
                          uint32_t source, const uint8_t *bytes) {
    uint8_t *place = NULL;
    struct layer8_assembly *assembly = layer8_assembly_place(&port->assemblies, record, &place);
    if (assembly == NULL) {
        layer8_count(&port->fragments_discarded, 1);
        return record->fragment != 0;
    }
    memcpy(place, bytes, record->length);
    switch (layer8_assembly_add(&port->assemblies, assembly, record)) {
    case LAYER8_COMPLETE: {
        uint32_t number = port->assemblies.done_count - 1;
        const struct layer8_record *whole = &port->assemblies.done[number]->whole;
        add_entry(port, batch, whole, source, number, LAYER8_ENTRY_LARGE);
        batch->large += whole->length;
        break;
    }
    case LAYER8_DISCARDED:
        layer8_count(&port->fragments_discarded, 1);
        break;
    case LAYER8_GROWN:
        break;
    }
    return true;
}

/* Takes the record at `head`: its span, or 0 when it cannot be. */
static uint64_t take_record(struct layer8_port *port, struct batch *batch, uint64_t head, uint64_t tail) {
    const uint64_t offset = head & (port->receive_capacity - 1);
    const uint8_t *at = port->receive + offset;
    uint8_t *copy = port->batch + batch->used;
    const struct layer8_record *record = (const struct layer8_record *)(void *)copy;
    layer8_copy_out(copy, at, LAYER8_RECORD_BYTES);
    const uint64_t span = layer8_record_span(record->length);
    if (!record_fits(record, span, tail - head, port->receive_capacity - offset)) {
        return 0;
    }
    at += LAYER8_RECORD_BYTES;
    if (record->kind == LAYER8_PAD) {
        return span;
    }
    layer8_count(&port->received_records, 1);
    if (record->kind == LAYER8_ABORT) {
        if (layer8_assembly_abort(&port->assemblies, record)) {
            layer8_count(&port->messages_aborted, 1);
        }
        return span;
    }
    /* The source of a notice is a destination; it is read from the header. */
    uint32_t source = record->kind == LAYER8_NOTICE ? LAYER8_NO_SOURCE : layer8_source_number(&port->sources, record);
    if (record->kind <= LAYER8_REQUEST && !layer8_source_take(&port->sources, source, record)) {
        layer8_count(&port->duplicates_dropped, 1);
        return span;
    }
    if (is_message(record->kind) && record->fragments > 1) {
        if (!take_fragment(port, batch, record, source, at)) {
            struct layer8_record *said = (struct layer8_record *)(void *)copy;
            said->reason = said->kind;
            said->kind = LAYER8_ABORT;
            said->length = said->headers = 0;
            add_entry(port, batch, said, source, batch->used + LAYER8_RECORD_BYTES, 0);
            batch->used += LAYER8_RECORD_BYTES;
        }
        return span;
    }
    const uint32_t payload = batch->used + LAYER8_RECORD_BYTES;
    if (record->headers == 0) {
        memcpy(copy + LAYER8_RECORD_BYTES, at, record->length);
        add_entry(port, batch, record, source, payload, 0);
    } else { /* the header map goes in front of the record header, which so stands where it is looked for */
        const struct layer8_record header = *record;
        memcpy(copy, at, header.headers);
        copy += header.headers;
        memcpy(copy, &header, sizeof header);
        memcpy(copy + sizeof header, at + header.headers, header.length - header.headers);
        add_entry(port, batch, &header, source, payload + header.headers, 0);
    }
    batch->used += (uint32_t)span;
    return span;
}

uint32_t layer8_port_forget_begun(layer8_port *port, const uint8_t *source) {
    uint32_t count = layer8_assemblies_forget(&port->assemblies, source);
    layer8_count(&port->messages_aborted, count);
    return count;
}

uint32_t layer8_port_halves(layer8_port *port, uint8_t *table, uint32_t max) {
    return layer8_assemblies_tell(&port->assemblies, (struct layer8_half *)(void *)table, max);
}

int layer8_receive(layer8_port *port, uint32_t max_messages, uint64_t unread) {
    if (layer8_load_relaxed(&port->elsewhere)) {
        return LAYER8_CLOSED;
    }
    layer8_assemblies_reuse(&port->assemblies);
    release_batch(port, unread);
    int arrived = layer8_arrived(port);
    if (arrived <= 0) {
        return arrived;
    }
    if (max_messages > LAYER8_BATCH_RECORDS) {
        max_messages = LAYER8_BATCH_RECORDS;
    }
    struct batch batch = {0};
    const uint64_t tail = port->receive_tail;
    uint64_t head = port->receive_head;
    uint64_t released = head;
    while (head != tail && batch.count < max_messages && batch.used + batch.large < LAYER8_BATCH_BYTES) {
        uint32_t count = batch.count;
        uint64_t span = take_record(port, &batch, head, tail);
        if (span == 0) {
            port->broken = LAYER8_CORRUPT;
            break;
        }
        head += span;
        if ((batch.count == count || batch.large != 0) && head - released > port->receive_capacity / 8) {
            release_early(port, head, batch.used);
            released = head;
        }
    }
    port->receive_head = head;
    KILL_POINT(23);
    (void)pthread_mutex_lock(&port->release_lock);
    port->consumed = head;
    if (batch.count == 0) {
        release(port, head, port->given);
    }
    (void)pthread_mutex_unlock(&port->release_lock);
    return batch.count == 0 && port->broken != LAYER8_OK ? port->broken : (int)batch.count;
}

const uint8_t *layer8_port_batch(layer8_port *port, uint64_t *size) {
    *size = LAYER8_BATCH_BYTES + LAYER8_RECORD_MAX;
    return port->batch;
}

const layer8_entry *layer8_port_table(layer8_port *port) { return port->table; }

const uint8_t *layer8_port_large(layer8_port *port, uint32_t number, uint64_t *length, const uint8_t **record) {
    if (number >= port->assemblies.done_count) {
        return NULL;
    }
    const struct layer8_assembly *assembly = port->assemblies.done[number];
    *length = assembly->length;
    *record = (const uint8_t *)&assembly->whole;
    return assembly->bytes;
}

uint32_t layer8_port_source(layer8_port *port, uint32_t source, uint8_t *uuid) {
    if (source >= port->sources.count) {
        memset(uuid, 0, 16);
        return 0;
    }
    memcpy(uuid, port->sources.sources[source].uuid, 16);
    return port->sources.sources[source].principal;
}
