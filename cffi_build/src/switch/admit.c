/* admit.c - taking a Vnic's segment in: what must be true of the file before a byte of it is used. */
#include "internal.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define WANTED_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static bool power_of_two(uint64_t n) { return n != 0 && (n & (n - 1)) == 0; }

/* The header is the Vnic's to write: it is copied once, and only the copy is checked and used. */
static bool fits(const struct layer8_segment_header *header, uint64_t bytes) {
    uint64_t receive = header->receive_capacity;
    uint64_t half = receive / 2;
    return header->magic == LAYER8_MAGIC && header->version == LAYER8_LAYOUT_VERSION &&
           header->header_bytes == LAYER8_OFFSET_RINGS && header->slots == LAYER8_SLOTS && header->topics == LAYER8_TOPICS &&
           power_of_two(receive) && receive >= LAYER8_RING_MIN && receive <= LAYER8_RING_MAX &&
           header->transmit_capacity == half && header->hold_capacity == receive &&
           header->transmit_offset == LAYER8_OFFSET_RINGS && header->receive_offset == LAYER8_OFFSET_RINGS + half &&
           header->hold_offset == LAYER8_OFFSET_RINGS + half + receive &&
           header->segment_bytes == LAYER8_SEGMENT_BYTES(receive) && header->segment_bytes == bytes;
}

static bool rings_empty(const struct layer8_control *control) {
    return layer8_load_relaxed(&control->transmit_tail) == 0 && layer8_load_relaxed(&control->transmit_head) == 0 &&
           layer8_load_relaxed(&control->receive_tail) == 0 && layer8_load_relaxed(&control->receive_head) == 0 &&
           layer8_load_relaxed(&control->hold_tail) == 0 && layer8_load_relaxed(&control->hold_head) == 0;
}

void layer8_port_init(port_t *port) {
    list_init(&port->of_adjacent);
    list_init(&port->blocked);
    list_init(&port->arrivals);
    layer8_gate_init(&port->gate);
    list_init(&port->active);
    list_init(&port->dirty);
    list_init(&port->doomed);
    list_init(&port->closing);
    list_init(&port->released);
    list_init(&port->deferred);
    list_init(&port->flows);
    list_init(&port->waiting);
    list_init(&port->memberships);
    list_init(&port->subscriptions);
    list_init(&port->held);
    list_init(&port->timed);
    list_init(&port->messages);
    list_init(&port->due);
    list_init(&port->as_caller);
    list_init(&port->as_callee);
    list_init(&port->halves);
}

layer8_switch_port *layer8_switch_port_new(int segment_fd, const uint8_t *uuid, uint64_t epoch, int adopt,
                                           int *status) {
    struct stat file;
    int seals = fcntl(segment_fd, F_GET_SEALS);
    struct layer8_segment_header header;
    port_t *port = NULL;
    *status = LAYER8_INVALID;
    /* Only a memfd (or another file of tmpfs) has seals; SHRINK keeps a later access from ending in SIGBUS. */
    bool sealed = seals >= 0 && (seals & WANTED_SEALS) == WANTED_SEALS && (seals & F_SEAL_WRITE) == 0;
    bool own = (adopt & LAYER8_OWN_FILE) != 0;
    adopt &= ~LAYER8_OWN_FILE;
    if (!(sealed || own) || fstat(segment_fd, &file) != 0 || !S_ISREG(file.st_mode) ||
        file.st_size < (off_t)LAYER8_SEGMENT_BYTES(LAYER8_RING_MIN) ||
        file.st_size > (off_t)LAYER8_SEGMENT_BYTES(LAYER8_RING_MAX)) {
        return NULL;
    }
    uint64_t bytes = (uint64_t)file.st_size;
    uint8_t *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, segment_fd, 0);
    if (base == MAP_FAILED) {
        *status = LAYER8_SYSTEM;
        return NULL;
    }
    layer8_copy_out(&header, base, sizeof header);
    if (layer8_load_acquire(&((struct layer8_segment_header *)(void *)base)->ready) != 1u || !fits(&header, bytes) ||
        memcmp(header.uuid, uuid, sizeof header.uuid) != 0 ||
        (adopt == 0 && !rings_empty((struct layer8_control *)(void *)(base + LAYER8_OFFSET_CONTROL)))) {
        goto refused;
    }
    *status = LAYER8_SYSTEM;
    port = calloc(1, sizeof *port);
    if (port == NULL) {
        goto refused;
    }
    port->chime = port->chime_epoll = -1;
    port->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (port->doorbell < 0) {
        goto refused;
    }
    port->mirrored = own;
    port->base = base;
    port->bytes = bytes;
    port->control = (struct layer8_control *)(void *)(base + LAYER8_OFFSET_CONTROL);
    port->slot_bytes = (_Atomic uint8_t *)(base + LAYER8_OFFSET_FLAGS);
    port->missed = (_Atomic uint64_t *)(void *)(base + LAYER8_OFFSET_MISSED);
    port->state_page = (struct layer8_state_page *)(void *)(base + LAYER8_OFFSET_STATE);
    port->unsaid = (_Atomic uint32_t *)(void *)(base + LAYER8_OFFSET_UNSAID);
    port->transmit = base + header.transmit_offset;
    port->receive = base + header.receive_offset;
    port->hold = base + header.hold_offset;
    port->transmit_capacity = header.transmit_capacity;
    port->receive_capacity = header.receive_capacity;
    port->hold_capacity = header.hold_capacity;
    memcpy(port->uuid, uuid, sizeof port->uuid);
    layer8_port_init(port);
    if (adopt != 0 && !layer8_adopt(port)) {
        *status = LAYER8_INVALID;
        (void)close(port->doorbell);
        free(port->found);
        goto refused;
    }
    (void)madvise(base, bytes, MADV_DONTFORK);
    layer8_store_relaxed(&port->state_page->epoch, epoch);
    *status = LAYER8_OK;
    return port;
refused:
    free(port);
    (void)munmap(base, bytes);
    return NULL;
}

int layer8_switch_port_doorbell(layer8_switch_port *port) { return port->doorbell; }

/* An asyncio Vnic sleeps in its loop, so its token is an eventfd. It gets an epoll descriptor that watches the eventfd,
 * and not the eventfd: who holds one can make it blocking and fill it, and would stop the switch, which has no write to
 * an eventfd that is sure not to block (pwritev2 takes no RWF_NOWAIT there). Edge-triggered, so waiting empties it. */
int layer8_switch_port_chime(layer8_switch_port *port) {
    if (port->chime < 0) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLET};
        int chime = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        int watch = epoll_create1(EPOLL_CLOEXEC);
        if (chime < 0 || watch < 0 || epoll_ctl(watch, EPOLL_CTL_ADD, chime, &event) != 0) {
            int error = errno;
            (void)close(chime);
            (void)close(watch);
            errno = error;
            return LAYER8_SYSTEM;
        }
        port->chime = chime;
        port->chime_epoll = watch;
    }
    return port->chime_epoll;
}

uint64_t layer8_switch_port_bytes(layer8_switch_port *port) { return port->bytes; }

void layer8_switch_port_free(layer8_switch_port *port) {
    for (uint32_t n = 0; n < HANDLE_CHUNKS; n++) {
        free(port->handles[n]);
    }
    free(port->found);
    free(port->adopted);
    free(port->going);
    layer8_halves_drop(port);
    if (list_linked(&port->deferred)) {
        FOR_EACH_SAFE(at, &port->deferred) { free(OWNER(struct deferred, of_port, at)); }
    }
    if (port->base != NULL) { /* not of a proxy */
        (void)close(port->doorbell);
        if (port->chime >= 0) {
            (void)close(port->chime);
            (void)close(port->chime_epoll);
        }
        (void)munmap(port->base, port->bytes);
    }
    free(port);
}

/* The Vnic's positions are whatever it wrote: shown, never used. */
static uint64_t shown(uint64_t fill, uint64_t capacity) { return fill <= capacity ? fill : capacity; }

void layer8_switch_port_read(layer8_switch_port *port, layer8_port_counters *counters) {
    struct layer8_control *control = port->control;
    uint64_t receive = layer8_load_relaxed(&control->receive_tail) - layer8_load_relaxed(&control->receive_head) +
                       layer8_load_relaxed(&control->unread);
    uint64_t transmit = layer8_load_relaxed(&control->transmit_tail) - layer8_load_relaxed(&control->transmit_head);
    *counters = (layer8_port_counters){
        .in_messages = layer8_load_relaxed(&port->in_messages),
        .in_bytes = layer8_load_relaxed(&port->in_bytes),
        .out_messages = layer8_load_relaxed(&port->out_messages),
        .out_bytes = layer8_load_relaxed(&port->out_bytes),
        .undeliverable = layer8_load_relaxed(&port->undeliverable),
        .missed = layer8_load_relaxed(&port->missed_count),
        .refused = layer8_load_relaxed(&port->refused),
        .notices_lost = layer8_load_relaxed(&port->notices_lost),
        .retries = layer8_load_relaxed(&port->retries),
        .receive_fill = shown(receive, port->receive_capacity),
        .hold_fill = layer8_load_relaxed(&port->fill_hold),
        .transmit_fill = shown(transmit, port->transmit_capacity),
        .receive_capacity = port->receive_capacity,
        .hold_capacity = port->hold_capacity,
        .transmit_capacity = port->transmit_capacity,
        .handles = layer8_load_relaxed(&port->handle_count),
        .outstanding = layer8_load_relaxed(&port->outstanding_count),
        .xoff = layer8_load_relaxed(&port->xoff),
        .state = layer8_load_relaxed(&port->state),
    };
}
