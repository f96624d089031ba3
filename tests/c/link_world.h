/* link_world.h - two switches in one process, joined by a link in memory: a thread moves what one collects to the other's
 * feed, and can be cut at any byte. What the control planes would decide is decided here: everything is allowed. */
#ifndef LAYER8_TEST_LINK_WORLD_H
#define LAYER8_TEST_LINK_WORLD_H

#include "layer8/wire.h"
#include "switch_world.h"

#define FIRST_PROXY 32u /* indices of ports from here on are proxies */
#define ALIAS 3u        /* the alias that all members of these tests have */
#define PIPE_BYTES (UINT64_C(512) << 10)

struct side {
    struct world world;
    struct side *other;
    layer8_link *queues;
    uint32_t link;
    uint32_t proxies, asked;
    bool refuse;
    uint32_t adjacent; /* the proxy of the other Vnet itself */
    uint8_t uuids[WORLD_PORTS][16]; /* of proxies, by index */
    uint32_t ids[WORLD_PORTS];
    uint8_t pipe[PIPE_BYTES]; /* to the other side */
    _Atomic uint64_t piped; /* bytes in `pipe` */
    _Atomic uint64_t moved, cut_at; /* bytes; cut_at 0: never */
    _Atomic int broken;            /* status of a feed that refused what came */
};

struct pair {
    struct side a, b;
    pthread_t pump;
    bool connected;
    _Atomic bool stop;
    _Atomic bool hung; /* moves nothing */
};

static inline void side_forget(struct side *side, uint32_t index) {
    memset(side->uuids[index], 0, 16);
    side->ids[index] = 0;
}

static inline uint32_t side_proxy(struct side *side, const uint8_t *uuid) {
    for (uint32_t n = FIRST_PROXY; n < WORLD_PORTS; n++) {
        if (side->ids[n] != 0 && memcmp(side->uuids[n], uuid, 16) == 0) {
            layer8_switch_port *known = side->world.ports[n];
            if (known != NULL) {
                return side->ids[n];
            }
            side_forget(side, n); /* GONE has come for it */
        }
    }
    return 0;
}

static inline uint64_t side_give(struct side *side, uint32_t kind, uint32_t port, uint32_t a, uint32_t b, uint32_t c,
                                 void *pointer) {
    uint64_t token = ++side->world.token;
    CHECK(layer8_switch_command(side->world.sw, kind, token, port, a, b, c, 0, pointer) == LAYER8_OK);
    return token;
}

/* The proxy of a Vnic at the other end, made when there is none. Does not wait for the switch. */
static inline uint32_t side_add_proxy(struct side *side, const uint8_t *uuid) {
    uint32_t id = side_proxy(side, uuid);
    if (id == 0) {
        uint32_t index = FIRST_PROXY;
        while (side->world.ports[index] != NULL) {
            index++;
        }
        CHECK(index < WORLD_PORTS);
        id = index | (uint32_t)++side->world.generations[index] << 16;
        layer8_switch_port *proxy = layer8_switch_remote_new(uuid);
        CHECK(proxy != NULL);
        side->world.ports[index] = proxy;
        memcpy(side->uuids[index], uuid, 16);
        side->ids[index] = id;
        (void)side_give(side, LAYER8_COMMAND_ADD_REMOTE, id, 9, side->link, 0, proxy);
    }
    return id;
}

static inline uint32_t side_local(struct side *side, const uint8_t *uuid) {
    for (uint32_t n = 0; n < FIRST_PROXY; n++) {
        if (side->world.ports[n] != NULL && memcmp(side->world.ports[n]->uuid, uuid, 16) == 0) {
            return n | (uint32_t)side->world.generations[n] << 16;
        }
    }
    return 0;
}

static inline void side_resolve(struct world *world, const layer8_event *event) {
    struct side *side = world->owner;
    side->asked++;
    CHECK(event->link == side->link);
    if (side->refuse && event->port == 0) {
        (void)side_give(side, LAYER8_COMMAND_REFUSE_SOURCE, 0, side->link, 0, 0, (void *)(uintptr_t)event->source);
        return;
    }
    uint32_t proxy = side_add_proxy(side, event->source);
    uint32_t handle = event->slot | (uint32_t)event->generation << 16;
    uint32_t kind = event->destination_kind, target = 0;
    if (kind == LAYER8_TARGET_TOPIC) {
        target = event->topic;
    } else if (kind == LAYER8_TARGET_ALIAS) {
        target = ALIAS;
    } else {
        target = side_local(side, event->destination);
    }
    (void)side_give(side, LAYER8_COMMAND_GRANT, proxy, handle, side->refuse ? LAYER8_TARGET_REFUSED : kind, target, NULL);
}

static inline void pair_events(struct pair *pair) {
    (void)world_wait(&pair->a.world, 0, 0);
    (void)world_wait(&pair->b.world, 0, 0);
}

/* Moves what there is from one side to the other: false when nothing moved, or the connection is cut. */
static inline bool pipe_step(struct side *from) {
    struct side *to = from->other;
    layer8_control_frame controls[4];
    uint64_t consumed = 0, got = 0;
    if (PIPE_BYTES - from->piped >= LAYER8_FRAME_MAX + 4) {
        got = layer8_link_collect(from->queues, from->pipe + from->piped, PIPE_BYTES - from->piped);
        from->piped += got;
    }
    uint64_t give = from->piped, cut_at = from->cut_at;
    if (cut_at != 0 && from->moved + give > cut_at) {
        give = cut_at - from->moved;
    }
    int count = layer8_link_feed(to->queues, from->pipe, give, controls, 4, &consumed);
    if (count < 0) {
        from->broken = count;
        return false;
    }
    memmove(from->pipe, from->pipe + consumed, from->piped - consumed);
    from->piped -= consumed;
    from->moved += consumed;
    return got != 0 || consumed != 0;
}

static inline bool pipe_is_cut(struct side *from) {
    return from->broken != 0 || (from->cut_at != 0 && from->moved + from->piped >= from->cut_at);
}

static void *pair_main(void *argument) {
    struct pair *pair = argument;
    while (!pair->stop && !pipe_is_cut(&pair->a) && !pipe_is_cut(&pair->b)) {
        bool moved = !pair->hung && pipe_step(&pair->a);
        moved = (!pair->hung && pipe_step(&pair->b)) || moved;
        if (!moved) {
            struct pollfd wait[2] = {{.fd = layer8_link_event_fd(pair->a.queues), .events = POLLIN},
                                     {.fd = layer8_link_event_fd(pair->b.queues), .events = POLLIN}};
            (void)poll(wait, 2, 5);
        }
    }
    return NULL;
}

static inline void pair_connect(struct pair *pair, bool another_epoch) {
    struct side *sides[2] = {&pair->a, &pair->b};
    for (int n = 0; n < 2; n++) {
        sides[n]->queues = layer8_link_new(0);
        CHECK(sides[n]->queues != NULL);
        sides[n]->piped = 0;
        sides[n]->moved = sides[n]->cut_at = 0;
        sides[n]->broken = 0;
    }
    pair->stop = false;
    for (int n = 0; n < 2; n++) {
        CHECK(world_command(&sides[n]->world, LAYER8_COMMAND_LINK_UP, 0, sides[n]->link, another_epoch, 0,
                            sides[n]->queues) == LAYER8_OK);
    }
    pair->connected = true;
    CHECK(pthread_create(&pair->pump, NULL, pair_main, pair) == 0);
}

static inline void pair_disconnect(struct pair *pair) {
    struct side *sides[2] = {&pair->a, &pair->b};
    if (!pair->connected) {
        return;
    }
    pair->connected = false;
    pair->stop = true;
    CHECK(pthread_join(pair->pump, NULL) == 0);
    for (int n = 0; n < 2; n++) {
        CHECK(world_command(&sides[n]->world, LAYER8_COMMAND_LINK_DOWN, 0, sides[n]->link, 0, 0, NULL) == LAYER8_OK);
        layer8_link_free(sides[n]->queues);
    }
}

static inline void side_start(struct side *side, struct side *other, uint8_t first_uuid) {
    uint8_t uuid[16];
    world_start(&side->world);
    side->other = other;
    side->world.first_uuid = first_uuid;
    side->world.owner = side;
    side->world.resolve = side_resolve;
    int64_t link = world_command(&side->world, LAYER8_COMMAND_ADD_LINK, 0, 0, 0, 0, NULL);
    CHECK(link >= 0);
    side->link = (uint32_t)link;
    memset(uuid, 0xf0 + (first_uuid == 0), sizeof uuid); /* of the other Vnet */
    side->adjacent = side_add_proxy(side, uuid);
}

static inline struct pair *pair_start(void) {
    struct pair *pair = calloc(1, sizeof *pair);
    CHECK(pair != NULL);
    side_start(&pair->a, &pair->b, 0);
    side_start(&pair->b, &pair->a, 100);
    pair_connect(pair, false);
    return pair;
}

static inline void pair_stop(struct pair *pair) {
    pair_disconnect(pair);
    world_stop(&pair->a.world);
    world_stop(&pair->b.world);
    free(pair);
}

/* A handle of `vnic` (at `side`) to a Vnic at the other end. */
static inline uint32_t far_grant(struct side *side, struct vnic *vnic, uint32_t slot, const struct vnic *to) {
    return vnic_grant(vnic, slot, LAYER8_TARGET_PORT, side_add_proxy(side, to->uuid));
}

/* The next message, while both control planes go on; at most 20 s. */
static inline struct got pair_receive(struct pair *pair, struct vnic *vnic) {
    for (int tries = 0; tries < 20000; tries++) {
        pair_events(pair);
        if (layer8_arrived(vnic->port) > 0) {
            int count = layer8_receive(vnic->port, 0, 0);
            CHECK(count >= 0);
            return vnic_receive(vnic);
        }
        (void)layer8_wait_arrived(vnic->port, SECOND / 1000, 0);
    }
    CHECK(!"nothing arrived");
    abort();
}

static inline int64_t pair_send(struct pair *pair, struct vnic *vnic, uint32_t handle, const void *payload,
                                uint64_t length) {
    for (int tries = 0; tries < 20000; tries++) {
        int64_t sent = layer8_send(vnic->port, handle, payload, length);
        if (sent != LAYER8_FULL && sent != LAYER8_XOFF) {
            return sent;
        }
        pair_events(pair);
        (void)layer8_wait_room(vnic->port, handle & 0xffffu, length, SECOND / 1000, 0);
    }
    CHECK(!"no room");
    abort();
}

static inline uint64_t side_outstanding(struct side *side) {
    layer8_switch_counters counters;
    layer8_switch_read(side->world.sw, &counters);
    return counters.outstanding;
}

static inline uint64_t side_records_out(struct side *side) {
    layer8_link_counters counters;
    layer8_link_read(side->queues, &counters);
    return counters.records_out;
}

/* Until nothing is held at either end: everything was answered. */
static inline void pair_idle(struct pair *pair) {
    for (int tries = 0; tries < 20000; tries++) {
        layer8_switch_counters a, b;
        pair_events(pair);
        layer8_switch_read(pair->a.world.sw, &a);
        layer8_switch_read(pair->b.world.sw, &b);
        if (a.held_records == 0 && b.held_records == 0) {
            return;
        }
        (void)poll(NULL, 0, 1);
    }
    CHECK(!"something is held for ever");
}

#endif
