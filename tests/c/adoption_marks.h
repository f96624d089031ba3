/* adoption_marks.h - what the tests of marks and wake-ups at adoption share: who is sent to, who sleeps, and was it in time.
 *
 * Nobody waits in vain after an adoption, and no wait ends late: one that expires with work there is counted when its token
 * does not come within another slice. So a test says how long it took between the two. On a machine that was busy elsewhere
 * for so long that says nothing, and the test is made again. */
#ifndef LAYER8_TEST_ADOPTION_MARKS_H
#define LAYER8_TEST_ADOPTION_MARKS_H

#include <sched.h>

#include "adoption_scene.h"

#include "check.h"

#define MADE_IN_TIME(made)              \
    do {                                \
        (void)alarm(WATCHDOG_SECONDS);  \
    } while (!(made))

static inline int64_t now_ns(void) { return (int64_t)layer8_now_ns(); }

/* Ends a test whose waits had their tokens `took_ns` after they had work. False: it is to be made again. */
static inline bool end_in_time(struct scene *scene, int64_t took_ns) {
    uint64_t late = 0;
    for (uint32_t n = 0; n < VNICS; n++) {
        layer8_port_stats stats;
        layer8_port_read_stats(scene->vnics[n].port, &stats);
        late += stats.late_wakeups;
    }
    bool in_time = took_ns < LAYER8_SLICE_NS;
    CHECK(late == 0 || !in_time);
    end(scene);
    return in_time;
}

/* ---- what is sent to ---- */

enum destination { TO_VNIC, TO_ALIAS, TO_TOPIC }; /* the second; both others; the second, which subscribes */

#define ALIAS 1u
#define TOPIC 1u
#define NUMBER 5u /* the subscriber's own, of the topic */

static inline void take_places(struct scene *scene, enum destination to, int renewed) {
    if (to == TO_ALIAS) {
        CHECK(vnic_command(&scene->vnics[1], LAYER8_COMMAND_JOIN_ALIAS, ALIAS, 0, 0) == LAYER8_OK);
        CHECK(vnic_command(&scene->vnics[2], LAYER8_COMMAND_JOIN_ALIAS, ALIAS, 0, 0) == LAYER8_OK);
    } else if (to == TO_TOPIC) {
        CHECK(vnic_command(&scene->vnics[1], LAYER8_COMMAND_SUBSCRIBE, TOPIC, NUMBER, (uint32_t)renewed) == LAYER8_OK);
    }
}

static inline uint32_t kind_of(enum destination to) {
    return to == TO_VNIC ? LAYER8_TARGET_PORT : to == TO_ALIAS ? LAYER8_TARGET_ALIAS : LAYER8_TARGET_TOPIC;
}

static inline uint32_t target_of(const struct scene *scene, enum destination to) {
    return to == TO_VNIC ? scene->vnics[1].id : to == TO_ALIAS ? ALIAS : TOPIC;
}

static inline uint8_t open_mark(enum destination to) { return to == TO_TOPIC ? LAYER8_SLOT_METERED : LAYER8_SLOT_OPEN; }

static inline int64_t send_to(struct vnic *from, enum destination to, uint32_t handle, uint64_t length) {
    static const uint8_t noise[60000];
    return to == TO_TOPIC ? layer8_publish(from->port, handle, noise, length, 1)
                          : layer8_send(from->port, handle, noise, length);
}

/* Sends until the mark stands; all of it has been moved. */
static inline void fill(struct vnic *from, enum destination to, uint32_t handle) {
    int64_t sent;
    while ((sent = send_to(from, to, handle, 4000)) != LAYER8_XOFF) {
        CHECK(sent > 0);
        wait_moved(from);
    }
}

static inline void read_all(struct vnic *vnic) {
    int got;
    do { /* the last look gives the room of the batch before it back */
        got = layer8_receive(vnic->port, 256, 0);
        CHECK(got >= 0);
    } while (got > 0);
}

static inline uint8_t mark(const struct vnic *vnic, uint32_t slot) { return (uint8_t)layer8_slot_state(vnic->port, slot); }

static inline void set_mark(const struct vnic *vnic, uint32_t slot, uint8_t byte) {
    __atomic_store_n(vnic->port->base + LAYER8_OFFSET_FLAGS + slot, byte, __ATOMIC_SEQ_CST);
}

/* What the switch had begun by now it has done. */
static inline void let_it_finish(struct scene *scene) {
    CHECK(world_command(&scene->world, LAYER8_COMMAND_REVOKE, scene->vnics[0].id, 99, 0, 0, NULL) == LAYER8_INVALID);
}

static inline void wait_for_mark(struct scene *scene, uint32_t slot, uint8_t byte) {
    for (int n = 0; n < 20000 && mark(&scene->vnics[0], slot) != byte; n++) {
        (void)usleep(1000);
    }
    CHECK(mark(&scene->vnics[0], slot) == byte);
    let_it_finish(scene);
}

static inline void resume_all(struct scene *scene) {
    for (uint32_t n = 0; n < VNICS; n++) {
        resume(scene, n);
    }
}

/* ---- who sleeps ---- */

#define ARRIVED INT64_C(-2) /* in place of a slot: waits for data */
#define ANY_SLOT INT64_C(-1)

struct sleeper {
    struct vnic *vnic;
    int64_t slot;
    int result;
    pthread_t thread;
};

static inline struct layer8_wakeup *wakeup_of(const struct vnic *vnic, int64_t slot) {
    return slot == ARRIVED ? &vnic->port->control->arrived : &vnic->port->control->room;
}

static inline void *sleep_main(void *argument) {
    struct sleeper *sleeper = argument;
    layer8_port *port = sleeper->vnic->port;
    do {
        sleeper->result = sleeper->slot == ARRIVED ? layer8_wait_arrived(port, SECOND, 0)
                                                   : layer8_wait_room(port, sleeper->slot, 4000, SECOND, 0);
    } while (sleeper->result == 0);
    return NULL;
}

static inline void fall_asleep(struct sleeper *sleeper, struct vnic *vnic, int64_t slot) {
    *sleeper = (struct sleeper){.vnic = vnic, .slot = slot};
    CHECK(pthread_create(&sleeper->thread, NULL, sleep_main, sleeper) == 0);
    while (layer8_load_seq(&wakeup_of(vnic, slot)->wanted) == 0) {
        (void)sched_yield();
    }
}

static inline int woken(struct sleeper *sleeper) {
    CHECK(pthread_join(sleeper->thread, NULL) == 0);
    return sleeper->result;
}

/* As a Vnet that dies before it posts the token. */
static inline void take_flag(struct layer8_wakeup *wakeup) {
    while (!layer8_wakeup_claim(wakeup)) {
        (void)sched_yield(); /* whoever sleeps announces anew, once a slice */
    }
}

static inline bool chime_rings(const struct scene *scene, uint32_t n) {
    struct pollfd chime = {.fd = layer8_switch_port_chime(scene->world.ports[n]), .events = POLLIN};
    return poll(&chime, 1, 20000) == 1;
}

#endif
