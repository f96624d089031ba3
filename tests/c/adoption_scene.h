/* adoption_scene.h - three Vnics whose Vnet dies and is followed by another, step by step as a test says.
 *
 * The earlier Vnet is a switch that is stopped; what a kill would have left unpublished is put back in the segment. */
#ifndef LAYER8_TEST_ADOPTION_SCENE_H
#define LAYER8_TEST_ADOPTION_SCENE_H

#include "port.h"
#include "switch_world.h"

#define VNICS 3u
#define EARLIER 0
#define NEXT 1

struct scene {
    struct world world;
    struct vnic vnics[VNICS];
    int segments[VNICS];
    uint32_t round;
    bool chimed; /* the ports that are added from now on have chimes */
};

static inline void open_world(struct scene *scene, int frozen) {
    world_start_frozen(&scene->world, (uint32_t)frozen);
    scene->round++;
}

/* Gives the segment of one Vnic to the present Vnet. */
static inline void add(struct scene *scene, uint32_t n, int adopt) {
    int status;
    struct vnic *vnic = &scene->vnics[n];
    layer8_switch_port *port = layer8_switch_port_new(scene->segments[n], vnic->uuid, scene->round, adopt, &status);
    CHECK(port != NULL);
    CHECK(!scene->chimed || layer8_switch_port_chime(port) >= 0);
    vnic->world = &scene->world;
    vnic->id = n | scene->round << 16;
    scene->world.ports[n] = port;
    CHECK(layer8_port_set_doorbell(vnic->port, layer8_switch_port_doorbell(port)) == LAYER8_OK);
    CHECK(world_command(&scene->world, LAYER8_COMMAND_ADD_PORT, vnic->id, 7, (uint32_t)adopt, 0, port) == LAYER8_OK);
}

static inline void begin_with(struct scene *scene, uint64_t ring_bytes) { /* of the first one */
    memset(scene, 0, sizeof *scene);
    open_world(scene, 0);
    for (uint32_t n = 0; n < VNICS; n++) {
        int status;
        struct vnic *vnic = &scene->vnics[n];
        vnic->index = n;
        memset(vnic->uuid, (int)n + 1, sizeof vnic->uuid);
        scene->segments[n] = layer8_segment_create(n == 0 ? ring_bytes : LAYER8_RING_MIN, vnic->uuid);
        CHECK(scene->segments[n] >= 0);
        vnic->port = layer8_port_open(scene->segments[n], UINT64_C(8) << 20, UINT64_C(32) << 20, &status);
        CHECK(vnic->port != NULL);
        add(scene, n, EARLIER);
    }
}

static inline void begin(struct scene *scene) { begin_with(scene, LAYER8_RING_MIN); }

static inline void die(struct scene *scene) { world_stop(&scene->world); }

static inline void adopt_all(struct scene *scene) {
    open_world(scene, 1);
    for (uint32_t n = 0; n < VNICS; n++) {
        add(scene, n, NEXT);
    }
}

static inline void renew(struct scene *scene, uint32_t n, uint32_t handle, uint32_t kind, uint32_t target) {
    CHECK(vnic_command(&scene->vnics[n], LAYER8_COMMAND_GRANT, handle, kind, target) == LAYER8_OK);
}

static inline void resume(struct scene *scene, uint32_t n) {
    CHECK(vnic_command(&scene->vnics[n], LAYER8_COMMAND_RESUME, 0, 0, 0) == LAYER8_OK);
}

static inline void start(struct scene *scene) {
    CHECK(world_command(&scene->world, LAYER8_COMMAND_START, 0, 0, 0, 0, NULL) == LAYER8_OK);
}

static inline void end(struct scene *scene) {
    world_stop(&scene->world);
    for (uint32_t n = 0; n < VNICS; n++) {
        layer8_port_close(scene->vnics[n].port);
        (void)close(scene->segments[n]);
    }
}

static inline uint64_t doubles(const struct vnic *vnic) {
    layer8_port_stats stats;
    layer8_port_read_stats(vnic->port, &stats);
    return stats.duplicates_dropped;
}

/* Until everything that the Vnic has sent was moved. */
static inline void wait_moved(const struct vnic *vnic) {
    for (int n = 0; n < 20000; n++) {
        if (layer8_load_seq(&vnic->port->control->transmit_head) == layer8_load_seq(&vnic->port->control->transmit_tail)) {
            return;
        }
        (void)usleep(1000);
    }
    CHECK(!"it was not moved");
}

static inline void expect(struct vnic *vnic, const void *payload, uint32_t length) {
    struct got got = vnic_receive(vnic);
    if (got.entry.kind != LAYER8_UNICAST || got.entry.length != length) {
        fprintf(stderr, "kind %u, %u bytes: %.5s\n", got.entry.kind, got.entry.length, (const char *)got.payload);
    }
    CHECK(got.entry.kind == LAYER8_UNICAST && got.entry.length == length);
    CHECK(memcmp(got.payload, payload, length) == 0);
}

#endif
