/* port.c - opens, shuts and closes a Vnic's side of its segment; doorbell, statistics, what is stranded. */
#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool ring_fits(uint64_t offset, uint64_t capacity, uint64_t bytes) {
    return capacity >= LAYER8_RING_MIN / 2 && capacity <= LAYER8_RING_MAX && (capacity & (capacity - 1)) == 0 &&
           offset >= LAYER8_OFFSET_RINGS && offset % LAYER8_PAGE == 0 && offset <= bytes && capacity <= bytes - offset;
}

static int map(struct layer8_port *port, int fd) {
    struct stat about;
    if (fstat(fd, &about) != 0) {
        return LAYER8_SYSTEM;
    }
    if (!S_ISREG(about.st_mode) || about.st_size < (off_t)LAYER8_OFFSET_RINGS) {
        return LAYER8_INVALID;
    }
    port->bytes = (uint64_t)about.st_size;
    void *base = mmap(NULL, port->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        return LAYER8_SYSTEM;
    }
    port->base = base;
    (void)madvise(base, port->bytes, MADV_DONTFORK); /* a child must not send for its parent */

    const struct layer8_segment_header *shared = base;
    if (layer8_load_acquire(&shared->ready) != 1u) {
        return LAYER8_INVALID;
    }
    struct layer8_segment_header header;
    layer8_copy_out(&header, shared, sizeof header);
    if (header.magic != LAYER8_MAGIC || header.version != LAYER8_LAYOUT_VERSION ||
        header.segment_bytes != port->bytes || header.slots != LAYER8_SLOTS || header.topics != LAYER8_TOPICS ||
        !ring_fits(header.transmit_offset, header.transmit_capacity, port->bytes) ||
        !ring_fits(header.receive_offset, header.receive_capacity, port->bytes) ||
        !ring_fits(header.hold_offset, header.hold_capacity, port->bytes)) {
        return LAYER8_INVALID;
    }
    port->control = (struct layer8_control *)(void *)(port->base + LAYER8_OFFSET_CONTROL);
    port->flags = (const _Atomic uint8_t *)(port->base + LAYER8_OFFSET_FLAGS);
    port->missed = (const _Atomic uint64_t *)(void *)(port->base + LAYER8_OFFSET_MISSED);
    port->transmit = port->base + header.transmit_offset;
    port->receive = port->base + header.receive_offset;
    port->hold = port->base + header.hold_offset;
    port->transmit_capacity = header.transmit_capacity;
    port->receive_capacity = header.receive_capacity;
    port->hold_capacity = header.hold_capacity;
    return LAYER8_OK;
}

/* Takes the positions this side wrote as its own, and checks those the Vnet wrote. */
static int take_positions(struct layer8_port *port) {
    port->transmit_tail = layer8_load_acquire(&port->control->transmit_tail);
    port->transmit_head = layer8_load_acquire(&port->control->transmit_head);
    port->bursts[0].end = port->bursts[1].end = port->transmit_head;
    port->receive_head = layer8_load_acquire(&port->control->receive_head);
    port->receive_tail = layer8_load_acquire(&port->control->receive_tail);
    port->released = port->receive_head;
    port->consumed = port->receive_head;
    port->unread = layer8_load_acquire(&port->control->unread);
    port->given = port->unread;
    if (port->transmit_tail % LAYER8_ALIGN != 0 || port->receive_head % LAYER8_ALIGN != 0 ||
        port->transmit_head % LAYER8_ALIGN != 0 || port->receive_tail % LAYER8_ALIGN != 0 ||
        port->transmit_tail - port->transmit_head > port->transmit_capacity ||
        port->receive_tail - port->receive_head > port->receive_capacity) {
        return LAYER8_CORRUPT;
    }
    return LAYER8_OK;
}

layer8_port *layer8_port_open(int segment_fd, uint64_t max_message_bytes, uint64_t assembly_bytes, int *status) {
    *status = LAYER8_INVALID;
    if (max_message_bytes == 0 || max_message_bytes > UINT64_C(65535) * LAYER8_FRAGMENT_BYTES) {
        return NULL;
    }
    struct layer8_port *port = aligned_alloc(_Alignof(struct layer8_port), sizeof *port);
    if (port == NULL) {
        *status = LAYER8_SYSTEM;
        return NULL;
    }
    memset(port, 0, sizeof *port);
    port->process = getpid();
    port->max_message_bytes = max_message_bytes;
    port->assemblies.message_max = max_message_bytes;
    port->assemblies.bytes_max = assembly_bytes;
    layer8_store_relaxed(&port->doorbell, -1);
    (void)pthread_mutex_init(&port->lock, NULL);
    (void)pthread_mutex_init(&port->release_lock, NULL);

    *status = map(port, segment_fd);
    if (*status == LAYER8_OK) {
        *status = take_positions(port);
    }
    if (*status == LAYER8_OK) {
        port->batch = aligned_alloc(64, LAYER8_BATCH_BYTES + LAYER8_RECORD_MAX);
        port->table = calloc(LAYER8_BATCH_RECORDS, sizeof *port->table);
        if (port->batch == NULL || port->table == NULL || !layer8_sources_open(&port->sources)) {
            errno = ENOMEM;
            *status = LAYER8_SYSTEM;
        }
    }
    if (*status != LAYER8_OK) {
        int error = errno;
        layer8_port_close(port);
        errno = error;
        return NULL;
    }
    return port;
}

void layer8_port_close(layer8_port *port) {
    /* In a child made by fork the mapping is not there, and its place may be another's by now. */
    if (port->base != NULL && port->process == getpid()) {
        (void)munmap(port->base, port->bytes);
    }
    int doorbell = layer8_load_relaxed(&port->doorbell);
    if (doorbell >= 0) {
        (void)close(doorbell);
    }
    layer8_assemblies_close(&port->assemblies);
    layer8_sources_close(&port->sources);
    free(port->batch);
    free(port->table);
    (void)pthread_mutex_destroy(&port->lock);
    (void)pthread_mutex_destroy(&port->release_lock);
    free(port);
}

int layer8_port_set_doorbell(layer8_port *port, int eventfd) {
    int present = layer8_load_seq(&port->doorbell);
    if (present >= 0) { /* under the same number: a sender may be writing to it */
        int status = dup3(eventfd, present, O_CLOEXEC) >= 0 ? LAYER8_OK : LAYER8_SYSTEM;
        KILL_POINT(27);
        return status;
    }
    int own = fcntl(eventfd, F_DUPFD_CLOEXEC, 3);
    if (own < 0) {
        return LAYER8_SYSTEM;
    }
    layer8_store_seq(&port->doorbell, own);
    if (layer8_exchange_seq(&port->doorbell_owed, 0) != 0) {
        layer8_port_ring(port);
    }
    return LAYER8_OK;
}

static void write_token(int doorbell) {
    const uint64_t one = 1;
    ssize_t written;
    do { /* EAGAIN: the counter is full of tokens, the switch will see one */
        written = write(doorbell, &one, sizeof one);
    } while (written < 0 && errno == EINTR);
}

void layer8_port_ring(struct layer8_port *port) {
    int doorbell = layer8_load_seq(&port->doorbell);
    if (doorbell < 0) {
        layer8_store_seq(&port->doorbell_owed, 1);
        doorbell = layer8_load_seq(&port->doorbell);
        if (doorbell < 0 || layer8_exchange_seq(&port->doorbell_owed, 0) == 0) {
            return; /* layer8_port_set_doorbell pays */
        }
    }
    (void)layer8_add_relaxed(&port->doorbells, 1);
    write_token(doorbell);
}

/* Every wait looks around. `owed`: whoever took a flag may be dead, and owe its token for ever. */
static void wake(layer8_port *port, bool owed) {
    if (port->process != getpid()) {
        return;
    }
    layer8_store_seq(&port->poked_arrived, true);
    layer8_store_seq(&port->poked_room, true);
    if (layer8_wakeup_claim(&port->control->arrived) || owed) {
        layer8_semaphore_post(&port->control->arrived);
    }
    if (layer8_wakeup_claim(&port->control->room) || owed) {
        layer8_semaphore_post(&port->control->room);
    }
}

void layer8_port_wake(layer8_port *port) { wake(port, false); }

void layer8_port_shut(layer8_port *port, int status) {
    if (port->process != getpid()) { /* the child's copy: from now on no call looks at the mapping */
        layer8_store_seq(&port->elsewhere, true);
    }
    layer8_store_seq(&port->shut, status < 0 ? status : LAYER8_CLOSED);
    wake(port, true);
}

void layer8_port_reopen(layer8_port *port) {
    int away = LAYER8_AWAY;
    (void)atomic_compare_exchange_strong(&port->shut, &away, LAYER8_OK);
}

int layer8_slot_state(layer8_port *port, uint32_t slot) {
    if (layer8_load_relaxed(&port->elsewhere)) {
        return LAYER8_CLOSED;
    }
    return slot < LAYER8_SLOTS ? layer8_load_acquire(&port->flags[slot]) : LAYER8_INVALID;
}

uint64_t layer8_missed(layer8_port *port, uint32_t topic) {
    if (layer8_load_relaxed(&port->elsewhere) || topic >= LAYER8_TOPICS) {
        return 0;
    }
    return layer8_load_acquire(&port->missed[topic]);
}

static uint64_t fill(const _Atomic uint64_t *head, const _Atomic uint64_t *tail, uint64_t capacity) {
    uint64_t at = layer8_load_acquire(head);
    uint64_t bytes = layer8_load_acquire(tail) - at;
    return bytes <= capacity ? bytes : capacity;
}

void layer8_port_read_stats(layer8_port *port, layer8_port_stats *stats) {
    memset(stats, 0, sizeof *stats);
    stats->sent_messages = layer8_load_relaxed(&port->sent_messages);
    stats->sent_bytes = layer8_load_relaxed(&port->sent_bytes);
    stats->sent_records = layer8_load_relaxed(&port->sent_records);
    stats->received_messages = layer8_load_relaxed(&port->received_messages);
    stats->received_bytes = layer8_load_relaxed(&port->received_bytes);
    stats->received_records = layer8_load_relaxed(&port->received_records);
    stats->late_wakeups = layer8_load_relaxed(&port->late_wakeups);
    stats->waits = layer8_load_relaxed(&port->waits);
    stats->doorbells = layer8_load_relaxed(&port->doorbells);
    stats->duplicates_dropped = layer8_load_relaxed(&port->duplicates_dropped);
    stats->fragments_discarded = layer8_load_relaxed(&port->fragments_discarded);
    stats->messages_aborted = layer8_load_relaxed(&port->messages_aborted);
    stats->assembling_bytes = layer8_load_relaxed(&port->assemblies.bytes);
    stats->transmit_capacity = port->transmit_capacity;
    stats->receive_capacity = port->receive_capacity;
    stats->hold_capacity = port->hold_capacity;
    if (!layer8_load_relaxed(&port->elsewhere)) {
        const struct layer8_control *control = port->control;
        stats->transmit_fill = fill(&control->transmit_head, &control->transmit_tail, port->transmit_capacity);
        stats->receive_fill = fill(&control->receive_head, &control->receive_tail, port->receive_capacity);
        stats->hold_fill = fill(&control->hold_head, &control->hold_tail, port->hold_capacity);
    }
}

int layer8_port_inherit(layer8_port *port, layer8_port *earlier) {
    return layer8_sources_inherit(&port->sources, &earlier->sources) ? LAYER8_OK : LAYER8_SYSTEM;
}

/* ---- what the Vnet left behind ---- */

struct stranded {
    uint32_t skip, max, count;
    uint8_t *table;
};

/* Headers of a ring from head to tail, as far as they make sense. */
static void walk(struct stranded *found, const uint8_t *ring, uint64_t capacity, uint64_t head, uint64_t tail) {
    if (head % LAYER8_ALIGN != 0 || tail % LAYER8_ALIGN != 0 || tail - head > capacity) {
        return;
    }
    while (head != tail && found->count < found->max) {
        struct layer8_record record;
        uint64_t offset = head & (capacity - 1);
        layer8_copy_out(&record, ring + offset, sizeof record);
        uint64_t span = layer8_record_span(record.length);
        if (span > tail - head || span > capacity - offset) {
            return;
        }
        head += span;
        if (record.kind == LAYER8_PAD) {
            continue;
        }
        if (found->skip > 0) {
            found->skip--;
            continue;
        }
        memcpy(found->table + (size_t)found->count * LAYER8_RECORD_BYTES, &record, sizeof record);
        found->count++;
    }
}

int layer8_port_stranded(layer8_port *port, uint32_t from, uint8_t *table, uint32_t max) {
    struct stranded found = {.skip = from, .max = max < INT32_MAX ? max : INT32_MAX, .table = table};
    if (layer8_load_relaxed(&port->elsewhere)) {
        return LAYER8_CLOSED;
    }
    const struct layer8_control *control = port->control;
    uint64_t held = layer8_load_acquire(&control->hold_head);
    walk(&found, port->hold, port->hold_capacity, held, layer8_load_acquire(&control->hold_tail));
    (void)pthread_mutex_lock(&port->lock);
    uint64_t sent = layer8_load_acquire(&control->transmit_head);
    walk(&found, port->transmit, port->transmit_capacity, sent, port->transmit_tail);
    (void)pthread_mutex_unlock(&port->lock);
    return (int)found.count;
}
