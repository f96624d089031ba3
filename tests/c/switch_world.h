/* switch_world.h - a real switch in a thread and real Vnic ports in this process, for the tests of the switch. */
#ifndef LAYER8_TEST_SWITCH_WORLD_H
#define LAYER8_TEST_SWITCH_WORLD_H

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, __func__, #condition); \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

#define SECOND INT64_C(1000000000)
#define WORLD_PORTS 64u

struct world {
    layer8_switch *sw;
    pthread_t thread;
    uint64_t token;
    uint32_t gone, violations, link_violations;
    uint8_t first_uuid; /* worlds that are joined differ in it */
    bool keeps_segments; /* for the next Vnet */
    void *owner;
    void (*resolve)(struct world *world, const layer8_event *event);
    uint16_t generations[WORLD_PORTS];
    layer8_switch_port *ports[WORLD_PORTS];
    layer8_port *opened[4 * WORLD_PORTS]; /* closed by world_stop */
    uint32_t opened_count;
};

struct vnic {
    struct world *world;
    layer8_port *port;
    uint32_t index, id;
    int segment; /* -1 unless the world keeps them */
    uint8_t uuid[16];
    uint16_t generation;
};

static void *world_main(void *argument) {
    (void)layer8_switch_run(argument);
    return NULL;
}

static inline void world_start_frozen(struct world *world, uint32_t frozen) {
    layer8_switch_config config = {.max_ports = WORLD_PORTS,
                                   .max_aliases = 16,
                                   .max_topics = 16,
                                   .max_rights = 4096,
                                   .max_rights_per_port = 1024,
                                   .visit_records = 64,
                                   .visit_bytes = 65536,
                                   .max_message_bytes = UINT64_C(8) << 20,
                                   .frozen = frozen};
    memset(world, 0, sizeof *world);
    world->sw = layer8_switch_new(&config);
    CHECK(world->sw != NULL);
    CHECK(pthread_create(&world->thread, NULL, world_main, world->sw) == 0);
}

static inline void world_start(struct world *world) { world_start_frozen(world, 0); }

/* Takes events until the one with `token` has come (0: whatever is there). Returns its value. */
static inline int64_t world_wait(struct world *world, uint64_t token, uint32_t gone) {
    for (;;) {
        layer8_event events[32];
        bool found = false;
        int64_t value = 0;
        int count = layer8_switch_events(world->sw, events, 32);
        CHECK(count >= 0);
        for (int n = 0; n < count; n++) {
            if (events[n].kind == LAYER8_EVENT_GONE) {
                world->ports[events[n].port & 0xffffu] = NULL;
                layer8_switch_port_free(events[n].pointer);
                world->gone++;
            } else if (events[n].kind == LAYER8_EVENT_VIOLATION) {
                world->violations++;
            } else if (events[n].kind == LAYER8_EVENT_LINK_VIOLATION) {
                world->link_violations++;
            } else if (events[n].kind == LAYER8_EVENT_RESOLVE) {
                world->resolve(world, &events[n]);
            } else if (events[n].token == token) {
                found = true;
                value = events[n].value;
            }
        }
        if (token != 0 ? found : world->gone >= gone) { /* gone 0: at once */
            return value;
        }
        struct pollfd wait = {.fd = layer8_switch_event_fd(world->sw), .events = POLLIN};
        (void)poll(&wait, 1, 1000);
    }
}

static inline int64_t world_command(struct world *world, uint32_t kind, uint32_t port, uint32_t a, uint32_t b,
                                    uint32_t c, void *pointer) {
    uint64_t token = ++world->token;
    CHECK(layer8_switch_command(world->sw, kind, token, port, a, b, c, 0, pointer) == LAYER8_OK);
    return world_wait(world, token, 0);
}

static inline void world_stop(struct world *world) {
    CHECK(world_command(world, LAYER8_COMMAND_STOP, 0, 0, 0, 0, NULL) == LAYER8_OK);
    CHECK(pthread_join(world->thread, NULL) == 0);
    layer8_switch_free(world->sw);
    for (uint32_t n = 0; n < world->opened_count; n++) {
        layer8_port_close(world->opened[n]);
    }
}

static inline void vnic_attach(struct vnic *vnic, struct world *world, uint32_t index) {
    int status = 0;
    memset(vnic, 0, sizeof *vnic);
    memset(vnic->uuid, world->first_uuid + (int)index + 1, sizeof vnic->uuid);
    int fd = layer8_segment_create(LAYER8_RING_MIN, vnic->uuid);
    CHECK(fd >= 0);
    vnic->world = world;
    vnic->index = index;
    vnic->id = index | (uint32_t)++world->generations[index] << 16;
    vnic->port = layer8_port_open(fd, UINT64_C(8) << 20, UINT64_C(32) << 20, &status);
    CHECK(vnic->port != NULL);
    world->opened[world->opened_count++] = vnic->port;
    layer8_switch_port *port = layer8_switch_port_new(fd, vnic->uuid, 1, 0, &status);
    CHECK(port != NULL);
    vnic->segment = world->keeps_segments ? fd : -1;
    if (!world->keeps_segments) {
        (void)close(fd);
    }
    world->ports[index] = port;
    CHECK(layer8_port_set_doorbell(vnic->port, layer8_switch_port_doorbell(port)) == LAYER8_OK);
    CHECK(world_command(world, LAYER8_COMMAND_ADD_PORT, vnic->id, 7, 0, 0, port) == LAYER8_OK);
}

static inline int64_t vnic_command(struct vnic *vnic, uint32_t kind, uint32_t a, uint32_t b, uint32_t c) {
    return world_command(vnic->world, kind, vnic->id, a, b, c, NULL);
}

/* Asks for the port's end and waits until it is reaped. */
static inline void vnic_remove(struct vnic *vnic, uint32_t wait_ms) {
    uint32_t gone = vnic->world->gone + 1;
    CHECK(vnic_command(vnic, LAYER8_COMMAND_REMOVE_PORT, LAYER8_REASON_GONE, wait_ms, 0) == LAYER8_OK);
    (void)world_wait(vnic->world, 0, gone);
}

static inline uint32_t vnic_grant(struct vnic *vnic, uint32_t slot, uint32_t kind, uint32_t target) {
    uint32_t handle = slot | (uint32_t)++vnic->generation << 16;
    CHECK(vnic_command(vnic, LAYER8_COMMAND_GRANT, handle, kind, target) == LAYER8_OK);
    return handle;
}

/* As a library that does not keep to Xoff would: takes the mark away. */
static inline void vnic_ignore_xoff(struct vnic *vnic, uint32_t slot) {
    __atomic_store_n(vnic->port->base + LAYER8_OFFSET_FLAGS + slot, LAYER8_SLOT_OPEN, __ATOMIC_SEQ_CST);
}

struct got {
    layer8_entry entry;
    struct layer8_record record;
    const uint8_t *payload;
};

/* The next message, waiting up to 20 s; one at a time. */
static inline struct got vnic_receive(struct vnic *vnic) {
    for (int tries = 0; tries < 200; tries++) {
        int count = layer8_receive(vnic->port, 1, 0);
        CHECK(count >= 0);
        if (count == 1) {
            struct got got = {.entry = layer8_port_table(vnic->port)[0]};
            uint64_t size;
            if ((got.entry.flags & LAYER8_ENTRY_LARGE) != 0) {
                const uint8_t *record;
                got.payload = layer8_port_large(vnic->port, got.entry.offset, &size, &record);
                memcpy(&got.record, record, sizeof got.record);
            } else {
                const uint8_t *batch = layer8_port_batch(vnic->port, &size);
                got.payload = batch + got.entry.offset;
                memcpy(&got.record, got.payload - 64, sizeof got.record);
            }
            return got;
        }
        (void)layer8_wait_arrived(vnic->port, SECOND / 10, 0);
    }
    CHECK(!"nothing arrived");
    abort();
}

static inline bool vnic_empty(struct vnic *vnic) { return layer8_receive(vnic->port, 1, 0) == 0; }

/* Sends, waiting for room as long as it takes (at most 20 s). */
static inline int64_t vnic_send(struct vnic *vnic, uint32_t handle, const void *payload, uint64_t length) {
    for (int tries = 0; tries < 200; tries++) {
        int64_t sent = layer8_send(vnic->port, handle, payload, length);
        if (sent != LAYER8_FULL && sent != LAYER8_XOFF) {
            return sent;
        }
        (void)layer8_wait_room(vnic->port, handle & 0xffffu, length, SECOND / 10, 0);
    }
    return LAYER8_FULL;
}

#endif
