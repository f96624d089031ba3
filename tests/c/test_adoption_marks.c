/* test_adoption_marks.c - Xoff and Xon when a Vnet dies and the next one adopts: no mark stays that should not, and none that
 * should is missing. */
#include "adoption_marks.h"

static bool drained_before_adoption(enum destination to, bool chimed) {
    struct scene scene;
    struct sleeper sleeper;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0];
    take_places(&scene, to, EARLIER);
    uint32_t handle = vnic_grant(sender, 3, kind_of(to), target_of(&scene, to));
    fill(sender, to, handle);
    die(&scene);
    read_all(&scene.vnics[1]);
    read_all(&scene.vnics[2]);
    CHECK(mark(sender, 3) == LAYER8_SLOT_XOFF);
    if (chimed) {
        CHECK(layer8_arm_room(sender->port) == LAYER8_OK && layer8_room(sender->port, 3, 4000) == 0);
    } else {
        fall_asleep(&sleeper, sender, 3);
    }
    scene.chimed = chimed;
    adopt_all(&scene);
    take_places(&scene, to, NEXT);
    int64_t since = now_ns();
    renew(&scene, 0, handle, kind_of(to), target_of(&scene, to));
    resume_all(&scene);
    int64_t took = now_ns() - since;
    CHECK(mark(sender, 3) == open_mark(to));
    CHECK(chimed ? chime_rings(&scene, 0) && layer8_room(sender->port, 3, 4000) == 1 : woken(&sleeper) == 1);
    start(&scene);
    wait_for_mark(&scene, 3, open_mark(to));
    CHECK(send_to(sender, to, handle, 4) > 0);
    return end_in_time(&scene, took);
}

static void a_receiver_that_drained_while_no_vnet_was_there_holds_nobody_up(void) {
    for (enum destination to = TO_VNIC; to <= TO_TOPIC; to++) {
        MADE_IN_TIME(drained_before_adoption(to, false));
        MADE_IN_TIME(drained_before_adoption(to, true));
    }
}

static bool still_over_half_full(enum destination to) {
    struct scene scene;
    struct sleeper sleeper;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0];
    take_places(&scene, to, EARLIER);
    uint32_t before = vnic_grant(sender, 3, kind_of(to), target_of(&scene, to));
    uint32_t after = vnic_grant(sender, 4, kind_of(to), target_of(&scene, to));
    fill(sender, to, before);
    die(&scene);
    adopt_all(&scene);
    take_places(&scene, to, NEXT);
    renew(&scene, 0, before, kind_of(to), target_of(&scene, to));
    resume(&scene, 1);
    resume(&scene, 2);
    renew(&scene, 0, after, kind_of(to), target_of(&scene, to));
    CHECK(mark(sender, 3) == LAYER8_SLOT_XOFF && mark(sender, 4) == LAYER8_SLOT_XOFF);
    resume(&scene, 0);
    start(&scene);
    let_it_finish(&scene);
    CHECK(mark(sender, 3) == LAYER8_SLOT_XOFF && mark(sender, 4) == LAYER8_SLOT_XOFF);
    fall_asleep(&sleeper, sender, 4);
    int64_t since = now_ns();
    read_all(&scene.vnics[1]);
    wait_for_mark(&scene, 3, LAYER8_SLOT_OPEN);
    wait_for_mark(&scene, 4, LAYER8_SLOT_OPEN);
    int64_t took = now_ns() - since;
    CHECK(woken(&sleeper) == 1);
    return end_in_time(&scene, took);
}

static void a_mark_stands_before_any_record_moves(void) {
    MADE_IN_TIME(still_over_half_full(TO_VNIC));
    MADE_IN_TIME(still_over_half_full(TO_ALIAS));
}

/* What one handle holds of reliable publications is bounded, and that by what is owed, which is found anew. */
static bool held_by_a_stuck_subscriber(void) {
    struct scene scene;
    struct sleeper sleeper;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0];
    take_places(&scene, TO_TOPIC, EARLIER);
    uint32_t handle = vnic_grant(sender, 3, LAYER8_TARGET_TOPIC, TOPIC);
    fill(sender, TO_TOPIC, handle);
    die(&scene);
    adopt_all(&scene);
    take_places(&scene, TO_TOPIC, NEXT);
    renew(&scene, 0, handle, LAYER8_TARGET_TOPIC, TOPIC);
    resume_all(&scene);
    start(&scene);
    wait_for_mark(&scene, 3, LAYER8_SLOT_XOFF);
    fall_asleep(&sleeper, sender, 3);
    int64_t since = now_ns();
    read_all(&scene.vnics[1]);
    wait_for_mark(&scene, 3, LAYER8_SLOT_METERED);
    int64_t took = now_ns() - since;
    CHECK(woken(&sleeper) == 1);
    return end_in_time(&scene, took);
}

static void a_handle_that_holds_too_much_is_choked_again(void) { MADE_IN_TIME(held_by_a_stuck_subscriber()); }

/* Whatever the earlier Vnet had marked: afterwards a mark says what the next one would do with a record. */
static void no_mark_stays_of_what_was_not_renewed(void) {
    struct scene scene;
    struct sleeper sleeper;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0], *full = &scene.vnics[1], *other = &scene.vnics[2];
    CHECK(vnic_command(full, LAYER8_COMMAND_JOIN_ALIAS, ALIAS, 0, 0) == LAYER8_OK);
    uint32_t dropped = vnic_grant(sender, 3, LAYER8_TARGET_PORT, full->id);
    uint32_t leaving = vnic_grant(sender, 4, LAYER8_TARGET_PORT, full->id);
    uint32_t empty = vnic_grant(sender, 5, LAYER8_TARGET_ALIAS, ALIAS);
    (void)vnic_grant(sender, 6, LAYER8_TARGET_PORT, full->id);
    (void)vnic_grant(sender, 7, LAYER8_TARGET_TOPIC, TOPIC);
    (void)vnic_grant(sender, 8, LAYER8_TARGET_PORT, other->id);
    fill(sender, TO_VNIC, dropped);
    die(&scene);
    set_mark(sender, 9, LAYER8_SLOT_GONE);
    for (uint32_t slot = 3; slot <= 6; slot++) {
        CHECK(mark(sender, slot) == LAYER8_SLOT_XOFF);
    }
    fall_asleep(&sleeper, sender, 3);
    adopt_all(&scene);
    renew(&scene, 0, leaving, LAYER8_TARGET_PORT, full->id);
    renew(&scene, 0, empty, LAYER8_TARGET_ALIAS, ALIAS);
    uint32_t fresh = vnic_grant(sender, 6, LAYER8_TARGET_PORT, other->id);
    resume(&scene, 1);
    CHECK(vnic_command(full, LAYER8_COMMAND_REMOVE_PORT, LAYER8_REASON_GONE, 0, 0) == LAYER8_OK);
    resume(&scene, 0);
    CHECK(mark(sender, 3) == LAYER8_SLOT_REVOKED && woken(&sleeper) == LAYER8_REVOKED);
    CHECK(layer8_send(sender->port, dropped, NULL, 0) == LAYER8_REVOKED);
    CHECK(mark(sender, 4) == LAYER8_SLOT_GONE);
    CHECK(mark(sender, 5) == LAYER8_SLOT_GONE);
    CHECK(mark(sender, 6) == LAYER8_SLOT_OPEN);
    CHECK(mark(sender, 7) == LAYER8_SLOT_REVOKED); /* it was metered, the next one open */
    CHECK(mark(sender, 8) == LAYER8_SLOT_REVOKED);
    CHECK(mark(sender, 9) == LAYER8_SLOT_GONE);
    resume(&scene, 2);
    start(&scene);
    CHECK(vnic_send(sender, fresh, "fresh", 5) > 0);
    expect(other, "fresh", 5);
    uint32_t again = vnic_grant(sender, 3, LAYER8_TARGET_PORT, other->id);
    CHECK(mark(sender, 3) == LAYER8_SLOT_OPEN);
    CHECK(vnic_send(sender, again, "again", 5) > 0);
    expect(other, "again", 5);
    world_wait(&scene.world, 0, 1);
    CHECK(end_in_time(&scene, 0));
}

enum when { BEFORE_IT_IS_ADDED, BEFORE_RESUME, BEFORE_START, AFTER_START };

/* The earlier Vnet had asked its receiver to say when it has drained. */
static bool drains(enum when when) {
    struct scene scene;
    struct sleeper sleeper;
    int64_t since = 0;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0], *receiver = &scene.vnics[1];
    uint32_t handle = vnic_grant(sender, 3, LAYER8_TARGET_PORT, receiver->id);
    fill(sender, TO_VNIC, handle);
    die(&scene);
    CHECK(layer8_load_seq(&receiver->port->control->drained.wanted) == 1);
    fall_asleep(&sleeper, sender, 3);
    for (enum when now = BEFORE_IT_IS_ADDED; now <= AFTER_START; now++) {
        CHECK(now == BEFORE_IT_IS_ADDED || now == BEFORE_RESUME || now > when || mark(sender, 3) == LAYER8_SLOT_XOFF);
        if (now == when) {
            since = now_ns();
            read_all(receiver);
            CHECK(layer8_load_seq(&receiver->port->control->drained.wanted) == 0); /* it has rung */
        }
        if (now == BEFORE_IT_IS_ADDED) {
            adopt_all(&scene);
        } else if (now == BEFORE_RESUME) {
            resume(&scene, 1); /* first, so that the mark does not go and come back */
            renew(&scene, 0, handle, LAYER8_TARGET_PORT, receiver->id);
            resume(&scene, 0);
            resume(&scene, 2);
        } else if (now == BEFORE_START) {
            if (when <= now) {
                wait_for_mark(&scene, 3, LAYER8_SLOT_OPEN);
            }
            start(&scene);
        }
    }
    wait_for_mark(&scene, 3, LAYER8_SLOT_OPEN);
    int64_t took = now_ns() - since;
    CHECK(woken(&sleeper) == 1);
    return end_in_time(&scene, took);
}

static void a_receiver_that_drains_lets_its_senders_go_whenever_it_does(void) {
    for (enum when when = BEFORE_IT_IS_ADDED; when <= AFTER_START; when++) {
        MADE_IN_TIME(drains(when));
    }
}

int main(void) {
    RUN(a_receiver_that_drained_while_no_vnet_was_there_holds_nobody_up);
    RUN(a_mark_stands_before_any_record_moves);
    RUN(a_handle_that_holds_too_much_is_choked_again);
    RUN(no_mark_stays_of_what_was_not_renewed);
    RUN(a_receiver_that_drains_lets_its_senders_go_whenever_it_does);
    return 0;
}
