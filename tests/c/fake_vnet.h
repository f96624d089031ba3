/* fake_vnet.h - the other side of one port, without a switch: writes its receive ring, reads its transmit ring.
 *
 * It works on the port's own mapping, so that a sanitizer sees both sides at the same addresses. */
#ifndef LAYER8_TESTS_FAKE_VNET_H
#define LAYER8_TESTS_FAKE_VNET_H

#include <poll.h>
#include <sys/eventfd.h>

#include "check.h"
#include "port.h"

#define FAKE_MESSAGE_MAX (UINT64_C(4) << 20)
#define FAKE_ASSEMBLY_MAX (UINT64_C(8) << 20)

struct fake {
    layer8_port *port;
    uint64_t receive_tail, transmit_head;
    uint64_t sequence;
    int doorbell;
};

static inline void fake_open(struct fake *fake) {
    uint8_t uuid[16] = {1, 2, 3};
    int status = 1;
    memset(fake, 0, sizeof *fake);
    int fd = layer8_segment_create(LAYER8_RING_MIN, uuid);
    CHECK(fd >= 0);
    fake->port = layer8_port_open(fd, FAKE_MESSAGE_MAX, FAKE_ASSEMBLY_MAX, &status);
    CHECK(fake->port != NULL && status == LAYER8_OK);
    (void)close(fd);
    fake->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(fake->doorbell >= 0);
    CHECK(layer8_port_set_doorbell(fake->port, fake->doorbell) == LAYER8_OK);
}

static inline void fake_close(struct fake *fake) {
    layer8_port_close(fake->port);
    (void)close(fake->doorbell);
}

static inline void fake_mark(struct fake *fake, uint32_t slot, uint8_t state) {
    layer8_store_seq((_Atomic uint8_t *)(fake->port->base + LAYER8_OFFSET_FLAGS + slot), state);
    if (layer8_wakeup_claim(&fake->port->control->room)) {
        layer8_semaphore_post(&fake->port->control->room);
    }
}

/* Tokens in the doorbell since the last call. */
static inline uint64_t fake_rung(struct fake *fake) {
    uint64_t tokens = 0;
    return read(fake->doorbell, &tokens, sizeof tokens) == (ssize_t)sizeof tokens ? tokens : 0;
}

static inline void fake_publish(struct fake *fake) {
    layer8_store_seq(&fake->port->control->receive_tail, fake->receive_tail);
    if (layer8_wakeup_claim(&fake->port->control->arrived)) {
        layer8_semaphore_post(&fake->port->control->arrived);
    }
}

/* Writes a record with what stands behind its header; false when there is no room. */
static inline bool fake_put(struct fake *fake, const struct layer8_record *record, const void *behind) {
    struct layer8_port *port = fake->port;
    uint64_t span = layer8_record_span(record->length);
    uint64_t offset = fake->receive_tail & (port->receive_capacity - 1);
    uint64_t to_end = port->receive_capacity - offset;
    uint64_t pad = span > to_end ? to_end : 0;
    uint64_t fill = fake->receive_tail - layer8_load_acquire(&port->control->receive_head);
    if (fill + pad + span > port->receive_capacity) {
        return false;
    }
    if (pad != 0) {
        struct layer8_record filler = {.kind = LAYER8_PAD, .length = (uint32_t)(pad - LAYER8_RECORD_BYTES)};
        memcpy(port->receive + offset, &filler, sizeof filler);
        offset = 0;
    }
    memcpy(port->receive + offset, record, sizeof *record);
    if (record->length != 0) {
        memcpy(port->receive + offset + sizeof *record, behind, record->length);
    }
    fake->receive_tail += pad + span;
    fake_publish(fake);
    return true;
}

/* A whole message of some source. */
static inline struct layer8_record fake_message(struct fake *fake, uint8_t kind, uint8_t source, uint32_t length) {
    struct layer8_record record = {.kind = kind,
                                   .flags = LAYER8_FIRST | LAYER8_LAST,
                                   .length = length,
                                   .fragments = 1,
                                   .slot = 1,
                                   .generation = 1,
                                   .sequence = ++fake->sequence};
    memset(record.source, source, sizeof record.source);
    return record;
}

/* Takes the next record of the transmit ring; false when it is empty. `behind`: LAYER8_FRAGMENT_BYTES, or NULL. */
static inline bool fake_take(struct fake *fake, struct layer8_record *record, uint8_t *behind) {
    struct layer8_port *port = fake->port;
    for (;;) {
        if (layer8_load_seq(&port->control->transmit_tail) == fake->transmit_head) {
            return false;
        }
        uint64_t offset = fake->transmit_head & (port->transmit_capacity - 1);
        memcpy(record, port->transmit + offset, sizeof *record);
        uint64_t span = layer8_record_span(record->length);
        CHECK(offset + span <= port->transmit_capacity);
        if (behind != NULL && record->kind != LAYER8_PAD) {
            memcpy(behind, port->transmit + offset + sizeof *record, record->length);
        }
        fake->transmit_head += span;
        layer8_store_seq(&port->control->transmit_head, fake->transmit_head);
        if (layer8_wakeup_claim(&port->control->room)) {
            layer8_semaphore_post(&port->control->room);
        }
        if (record->kind != LAYER8_PAD) {
            return true;
        }
    }
}

/* xorshift: the same numbers in every run. */
static inline uint64_t fake_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#endif
