/* send.c - the transmit ring: whole messages in one call, large ones fragment by fragment.
 *
 * A record is written under the lock, the tail is published with it, and the switch is told after the lock. A message
 * in fragments reserves 64 bytes for its abort from its first fragment to its last, so a sender can always take back
 * what it began. */
#include "port.h"

static const struct layer8_record pad_template = {.kind = LAYER8_PAD, .flags = LAYER8_FIRST | LAYER8_LAST, .fragments = 1};

bool layer8_transmit_refresh(struct layer8_port *port) {
    uint64_t head = layer8_load_seq(&port->control->transmit_head);
    if (!layer8_position_fits(head, port->transmit_head, port->transmit_tail)) {
        return false;
    }
    port->transmit_head = head;
    return true;
}

/* Bytes that a record takes at the present tail: its span, and the pad where it does not fit before the end. */
static uint64_t cost(const struct layer8_port *port, uint64_t length) {
    uint64_t span = layer8_record_span(length);
    uint64_t to_end = port->transmit_capacity - (port->transmit_tail & (port->transmit_capacity - 1));
    return span <= to_end ? span : span + to_end;
}

bool layer8_transmit_fits(const struct layer8_port *port, uint64_t length, uint32_t open_messages) {
    uint64_t room = port->transmit_capacity - (port->transmit_tail - port->transmit_head);
    return room >= cost(port, length) + (uint64_t)open_messages * LAYER8_RECORD_BYTES;
}

bool layer8_burst_fits(struct layer8_port *port) {
    for (int n = 0; n < 2 && (int64_t)(port->transmit_head - port->bursts[0].end) >= 0; n++) {
        port->bursts[0] = port->bursts[1]; /* the switch has seen the older one */
        port->bursts[1] = (struct layer8_burst){.end = port->bursts[0].end};
    }
    return port->bursts[0].bytes + port->bursts[1].bytes <= LAYER8_BURST(port->transmit_capacity);
}

static void count_burst(struct layer8_port *port, uint64_t span) {
    bool older = port->bursts[1].bytes == 0 && port->bursts[0].bytes < LAYER8_BURST(port->transmit_capacity) / 2;
    struct layer8_burst *burst = &port->bursts[older ? 0 : 1];
    burst->bytes += span;
    burst->end = port->transmit_tail;
}

/* Writes one record under the lock. `open_messages`: how many will be unfinished after it. */
static int write_record(struct layer8_port *port, struct layer8_record *record, const uint8_t *headers,
                        const uint8_t *payload, uint32_t open_messages, bool metered) {
    if (!layer8_transmit_fits(port, record->length, open_messages) || (metered && !layer8_burst_fits(port))) {
        if (!layer8_transmit_refresh(port)) {
            layer8_store_seq(&port->shut, LAYER8_CORRUPT);
            return LAYER8_CORRUPT;
        }
        if (!layer8_transmit_fits(port, record->length, open_messages) || (metered && !layer8_burst_fits(port))) {
            return LAYER8_FULL;
        }
    }
    uint64_t tail = port->transmit_tail;
    uint64_t offset = tail & (port->transmit_capacity - 1);
    uint64_t to_end = port->transmit_capacity - offset;
    uint64_t span = layer8_record_span(record->length);
    if (span > to_end) {
        struct layer8_record pad = pad_template;
        pad.length = (uint32_t)(to_end - LAYER8_RECORD_BYTES);
        memcpy(port->transmit + offset, &pad, sizeof pad);
        tail += to_end;
        offset = 0;
    }
    record->sequence = ++port->sequence;
    uint8_t *at = port->transmit + offset;
    if (record->fragments > 1 && record->correlation == 0) {
        record->correlation = record->sequence;
    }
    memcpy(at, record, sizeof *record);
    at += sizeof *record;
    if (record->headers != 0) {
        memcpy(at, headers, record->headers);
        at += record->headers;
    }
    if (record->length != record->headers) {
        memcpy(at, payload, record->length - record->headers);
    }
    port->transmit_tail = tail + span;
    port->open_messages = open_messages;
    if (metered) {
        count_burst(port, span);
    }
    layer8_count(&port->sent_records, 1);
    KILL_POINT(20);
    layer8_store_seq(&port->control->transmit_tail, port->transmit_tail);
    KILL_POINT(21);
    return LAYER8_OK;
}

static inline void tell_switch(struct layer8_port *port) {
    if (layer8_wakeup_claim(&port->control->doorbell)) {
        layer8_port_ring(port);
    }
}

/* What the flag area says of a record's handle: 0 or a status. */
static inline int slot_status(const struct layer8_port *port, const struct layer8_record *record, bool *metered) {
    if (record->kind != LAYER8_UNICAST && record->kind != LAYER8_PUBLISH && record->kind != LAYER8_REQUEST) {
        return LAYER8_OK; /* it names none */
    }
    if (record->slot >= LAYER8_SLOTS) {
        return LAYER8_INVALID;
    }
    switch (layer8_load_acquire(&port->flags[record->slot])) {
    case LAYER8_SLOT_OPEN:
        return LAYER8_OK;
    case LAYER8_SLOT_METERED:
        *metered = record->kind != LAYER8_PUBLISH || (record->flags & LAYER8_RELIABLE) != 0;
        return LAYER8_OK;
    case LAYER8_SLOT_XOFF:
        return LAYER8_XOFF;
    case LAYER8_SLOT_REVOKED:
        return LAYER8_REVOKED;
    default:
        return LAYER8_GONE;
    }
}

/* A message of one record. */
static int64_t send_whole(struct layer8_port *port, struct layer8_record *record, const uint8_t *payload,
                          uint64_t length) {
    int status = layer8_port_status(port);
    if (status != LAYER8_OK) {
        return status;
    }
    if (length > LAYER8_FRAGMENT_BYTES || length > port->max_message_bytes) {
        return LAYER8_TOO_LARGE;
    }
    bool metered = false;
    status = slot_status(port, record, &metered);
    if (status != LAYER8_OK) {
        return status;
    }
    record->length = (uint32_t)length;
    record->flags |= LAYER8_FIRST | LAYER8_LAST;
    record->fragments = 1;
    (void)pthread_mutex_lock(&port->lock);
    status = write_record(port, record, NULL, payload, port->open_messages, metered);
    if (status == LAYER8_OK) {
        layer8_count(&port->sent_messages, 1);
        layer8_count(&port->sent_bytes, length);
    }
    (void)pthread_mutex_unlock(&port->lock);
    if (status != LAYER8_OK) {
        return status;
    }
    tell_switch(port);
    return (int64_t)record->sequence;
}

int64_t layer8_send(layer8_port *port, uint32_t handle, const uint8_t *payload, uint64_t length) {
    struct layer8_record record = {
        .kind = LAYER8_UNICAST, .slot = (uint16_t)handle, .generation = (uint16_t)(handle >> 16)};
    return send_whole(port, &record, payload, length);
}

int64_t layer8_publish(layer8_port *port, uint32_t handle, const uint8_t *payload, uint64_t length, int reliable) {
    struct layer8_record record = {.kind = LAYER8_PUBLISH,
                                   .flags = reliable ? LAYER8_RELIABLE : 0,
                                   .slot = (uint16_t)handle,
                                   .generation = (uint16_t)(handle >> 16)};
    return send_whole(port, &record, payload, length);
}

int64_t layer8_request(layer8_port *port, uint32_t handle, const uint8_t *payload, uint64_t length,
                       uint64_t correlation, uint32_t ttl_ms) {
    struct layer8_record record = {.kind = LAYER8_REQUEST,
                                   .slot = (uint16_t)handle,
                                   .generation = (uint16_t)(handle >> 16),
                                   .correlation = correlation,
                                   .ttl = ttl_ms};
    return send_whole(port, &record, payload, length);
}

int64_t layer8_reply(layer8_port *port, uint32_t right, uint16_t right_generation, uint64_t correlation,
                     const uint8_t *payload, uint64_t length) {
    struct layer8_record record = {
        .kind = LAYER8_REPLY, .topic = right_generation, .missed = right, .correlation = correlation};
    return send_whole(port, &record, payload, length);
}

/* ---- any message, any size ---- */

/* What all records of a message have in common, its abort too. */
static struct layer8_record record_of(const layer8_outgoing *message) {
    struct layer8_record record = {.kind = message->kind, .ttl = message->ttl};
    if (message->kind >= LAYER8_REQUEST) { /* the others have the sequence of their first fragment */
        record.correlation = message->correlation;
    }
    if (message->kind == LAYER8_REPLY || message->kind == LAYER8_FAILED_REPLY) {
        record.topic = message->right_generation;
        record.missed = message->right;
        record.reason = message->kind == LAYER8_FAILED_REPLY ? message->reason : 0;
    } else {
        record.slot = (uint16_t)message->handle;
        record.generation = (uint16_t)(message->handle >> 16);
    }
    return record;
}

static int check_outgoing(const struct layer8_port *port, const layer8_outgoing *message) {
    if (message->kind < LAYER8_UNICAST || message->kind > LAYER8_CANCEL ||
        message->headers_length > LAYER8_HEADERS_MAX) {
        return LAYER8_INVALID;
    }
    if (message->length > port->max_message_bytes ||
        message->length + message->headers_length > port->max_message_bytes) {
        return LAYER8_TOO_LARGE;
    }
    return LAYER8_OK;
}

/* Keeps the list of what has begun and not ended, for one fragment or an abort that was written. Under the lock. */
static void count_going(struct layer8_port *port, const struct layer8_record *record) {
    if (record->kind > LAYER8_PUBLISH || record->fragments == 1) {
        return;
    }
    uint32_t n = 0;
    while (n < port->going_count && port->going[n].correlation != record->correlation) { /* the sequence of its first */
        n++;
    }
    if (n == port->going_count && record->fragment == 0) {
        port->going[port->going_count++] = (struct layer8_half){.correlation = record->correlation,
                                                                .slot = record->slot,
                                                                .generation = record->generation,
                                                                .kind = record->kind};
    }
    if (n < port->going_count) {
        port->going[n].topic = (uint16_t)(record->fragment + 1u);
        if ((record->flags & LAYER8_LAST) != 0) {
            port->going[n] = port->going[--port->going_count];
        }
    }
}

uint32_t layer8_port_going(layer8_port *port, uint8_t *table, uint32_t max) {
    (void)pthread_mutex_lock(&port->lock);
    uint32_t count = port->going_count < max ? port->going_count : max;
    memcpy(table, port->going, count * sizeof *port->going);
    (void)pthread_mutex_unlock(&port->lock);
    return count;
}

/* Writes the abort record of a message that has begun. The room was reserved. Under the lock. */
static void write_abort(struct layer8_port *port, layer8_outgoing *message) {
    struct layer8_record record = record_of(message);
    record.kind = LAYER8_ABORT;
    record.flags = LAYER8_FIRST | LAYER8_LAST;
    record.fragments = 1;
    record.reason = message->kind;
    record.ttl = 0;
    if (record.correlation == 0) {
        record.correlation = (uint64_t)message->sequence;
    }
    message->fragment = message->fragments; /* over */
    struct layer8_record last = {.kind = message->kind, .flags = LAYER8_LAST, .correlation = record.correlation};
    count_going(port, &last);
    (void)write_record(port, &record, NULL, NULL, port->open_messages - 1, false);
}

static bool is_open(const layer8_outgoing *message) {
    return message->fragment > 0 && message->fragment < message->fragments;
}

/* Writes one fragment: 0 or a status. */
static int push_fragment(struct layer8_port *port, layer8_outgoing *message) {
    const uint64_t total = message->headers_length + message->length;
    const uint64_t from = (uint64_t)message->fragment * LAYER8_FRAGMENT_BYTES;
    const uint64_t rest = total - from;
    const bool first = message->fragment == 0;
    const bool last = message->fragment + 1 == message->fragments;
    struct layer8_record record = record_of(message);
    record.length = (uint32_t)(rest < LAYER8_FRAGMENT_BYTES ? rest : LAYER8_FRAGMENT_BYTES);
    record.flags = message->flags & (LAYER8_SEALED | LAYER8_RELIABLE);
    record.flags |= (uint8_t)((first ? LAYER8_FIRST : 0) | (last ? LAYER8_LAST : 0));
    record.fragment = (uint16_t)message->fragment;
    record.fragments = (uint16_t)message->fragments;
    if (first && message->headers_length != 0) {
        record.headers = message->headers_length;
        record.flags |= LAYER8_HEADERS;
    }
    if (!first && record.correlation == 0) {
        record.correlation = (uint64_t)message->sequence;
    }
    const uint8_t *payload = first ? message->payload : message->payload + (from - message->headers_length);
    bool metered = false;
    int status = slot_status(port, &record, &metered);
    if (status != LAYER8_OK) {
        return status;
    }
    (void)pthread_mutex_lock(&port->lock);
    uint32_t open_messages = port->open_messages + (first && !last ? 1 : 0) - (last && !first ? 1 : 0);
    status = first ? layer8_port_status(port) : LAYER8_OK; /* what was told to go on is all that does: layer8_port_going */
    if (status == LAYER8_OK) {
        status = open_messages > LAYER8_OPEN_MESSAGES
                     ? LAYER8_FULL
                     : write_record(port, &record, message->headers, payload, open_messages, metered);
    }
    if (status == LAYER8_OK) {
        count_going(port, &record);
        if (first) {
            message->sequence = (int64_t)record.sequence;
        }
        message->fragment++;
        if (last && message->kind != LAYER8_CANCEL) {
            layer8_count(&port->sent_messages, 1);
            layer8_count(&port->sent_bytes, message->length);
        }
    }
    (void)pthread_mutex_unlock(&port->lock);
    return status;
}

int layer8_push(layer8_port *port, layer8_outgoing *message) {
    int status = layer8_port_status(port);
    if (status != LAYER8_OK) {
        return status;
    }
    if (message->fragment == 0) {
        status = check_outgoing(port, message);
        if (status != LAYER8_OK) {
            return status;
        }
        uint64_t total = message->headers_length + message->length;
        message->fragments = total == 0 ? 1 : (uint32_t)((total + LAYER8_FRAGMENT_BYTES - 1) / LAYER8_FRAGMENT_BYTES);
        message->sequence = 0;
    }
    while (message->fragment < message->fragments) {
        status = push_fragment(port, message);
        if (status != LAYER8_OK) {
            if (status != LAYER8_FULL && status != LAYER8_XOFF) {
                layer8_push_abort(port, message);
            }
            return status;
        }
        tell_switch(port);
        KILL_POINT(22);
    }
    return LAYER8_OK;
}

void layer8_push_abort(layer8_port *port, layer8_outgoing *message) {
    if (!is_open(message) || layer8_load_relaxed(&port->elsewhere)) {
        return;
    }
    (void)pthread_mutex_lock(&port->lock);
    write_abort(port, message);
    (void)pthread_mutex_unlock(&port->lock);
    tell_switch(port);
}
