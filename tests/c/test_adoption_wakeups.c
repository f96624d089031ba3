/* test_adoption_wakeups.c - wake-ups when a Vnet dies and the next one adopts.
 *
 * Each test brings the segments to one instant of the earlier Vnet's death: what it had published, which flags it had taken,
 * which tokens it still owed, and which it was not there any more to hear. */
#include "adoption_marks.h"

/* It had published what is waited for, a record or Xon, and was killed before it took the flag or, `taken`, right after. */
static bool owes_a_token(int64_t slot, bool taken) {
    struct scene scene;
    struct sleeper sleeper;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0], *receiver = &scene.vnics[1];
    uint32_t handle = vnic_grant(sender, 3, LAYER8_TARGET_PORT, receiver->id);
    CHECK(vnic_send(sender, handle, "one", 3) > 0);
    wait_moved(sender);
    die(&scene);
    uint64_t tail = layer8_load_seq(&receiver->port->control->receive_tail);
    layer8_store_seq(&receiver->port->control->receive_tail, 0); /* not yet */
    set_mark(sender, 3, LAYER8_SLOT_XOFF);
    fall_asleep(&sleeper, slot == ARRIVED ? receiver : sender, slot);
    int64_t since = now_ns();
    if (taken) { /* first, for who looks only now takes its own flag back */
        take_flag(wakeup_of(sleeper.vnic, slot));
    }
    layer8_store_seq(&receiver->port->control->receive_tail, tail);
    set_mark(sender, 3, LAYER8_SLOT_OPEN);
    adopt_all(&scene);
    renew(&scene, 0, handle, LAYER8_TARGET_PORT, receiver->id);
    resume_all(&scene);
    int64_t took = now_ns() - since;
    CHECK(woken(&sleeper) == 1);
    start(&scene);
    expect(receiver, "one", 3);
    CHECK(vnic_send(sender, handle, "two", 3) > 0);
    expect(receiver, "two", 3);
    return end_in_time(&scene, took);
}

static void a_token_that_the_earlier_vnet_owed_is_posted(void) {
    for (int taken = 0; taken <= 1; taken++) {
        MADE_IN_TIME(owes_a_token(ARRIVED, taken != 0));
        MADE_IN_TIME(owes_a_token(3, taken != 0));
    }
}

/* Whoever sleeps in a loop hears the next Vnet's chime: what the earlier one rang, or did not, is gone with it. */
static void a_chime_that_the_earlier_vnet_owed_rings(void) {
    struct scene scene;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0], *receiver = &scene.vnics[1];
    uint32_t handle = vnic_grant(sender, 3, LAYER8_TARGET_PORT, receiver->id);
    CHECK(layer8_arm_arrived(receiver->port) == 0);
    CHECK(vnic_send(sender, handle, "one", 3) > 0);
    wait_moved(sender);
    die(&scene);
    CHECK(layer8_load_seq(&receiver->port->control->arrived.wanted) == 0); /* it took the flag */
    scene.chimed = true;
    adopt_all(&scene);
    renew(&scene, 0, handle, LAYER8_TARGET_PORT, receiver->id);
    resume_all(&scene);
    CHECK(chime_rings(&scene, 1));
    start(&scene);
    expect(receiver, "one", 3);
    CHECK(end_in_time(&scene, 0));
}

/* The earlier Vnet had posted, and the next one does so too: a token too many costs a look and is not left behind. */
static void a_token_that_comes_twice_wakes_nobody_for_good(void) {
    struct scene scene;
    struct sleeper sleeper;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0], *receiver = &scene.vnics[1];
    struct layer8_wakeup *arrived = &receiver->port->control->arrived;
    uint32_t handle = vnic_grant(sender, 3, LAYER8_TARGET_PORT, receiver->id);
    CHECK(layer8_arm_arrived(receiver->port) == 0);
    CHECK(vnic_send(sender, handle, "one", 3) > 0);
    wait_moved(sender);
    die(&scene);
    adopt_all(&scene);
    renew(&scene, 0, handle, LAYER8_TARGET_PORT, receiver->id);
    resume_all(&scene);
    start(&scene);
    CHECK(layer8_load_seq(&arrived->count) == 2);
    expect(receiver, "one", 3);
    fall_asleep(&sleeper, receiver, ARRIVED);
    while (layer8_load_seq(&arrived->count) != 0) {
        (void)sched_yield();
    }
    CHECK(vnic_send(sender, handle, "two", 3) > 0);
    CHECK(woken(&sleeper) == 1);
    CHECK(layer8_load_seq(&arrived->count) == 0 && layer8_load_seq(&arrived->wanted) == 0);
    expect(receiver, "two", 3);
    CHECK(end_in_time(&scene, 0));
}

/* The earlier Vnet died over a full transmit ring: RESUME wakes its sender for nothing, the first head for good. */
static bool full_ring(void) {
    struct scene scene;
    struct sleeper sleeper;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0];
    uint32_t handle = vnic_grant(sender, 3, LAYER8_TARGET_PORT, scene.vnics[1].id);
    die(&scene);
    while (send_to(sender, TO_VNIC, handle, 4000) > 0) {
    }
    fall_asleep(&sleeper, sender, ANY_SLOT);
    adopt_all(&scene);
    renew(&scene, 0, handle, LAYER8_TARGET_PORT, scene.vnics[1].id);
    resume_all(&scene);
    int64_t since = now_ns();
    start(&scene);
    wait_moved(sender);
    let_it_finish(&scene);
    int64_t took = now_ns() - since;
    CHECK(woken(&sleeper) == 1);
    return end_in_time(&scene, took);
}

static void a_sender_that_waits_for_its_transmit_ring_goes_on(void) { MADE_IN_TIME(full_ring()); }

/* The library shuts the port when it has lost its Vnet. Who took the flag is dead, and may owe the token. */
static bool shut_while_a_token_is_owed(void) {
    struct scene scene;
    struct sleeper sleeper;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0], *receiver = &scene.vnics[1];
    uint32_t handle = vnic_grant(sender, 3, LAYER8_TARGET_PORT, receiver->id);
    CHECK(vnic_send(sender, handle, "one", 3) > 0);
    wait_moved(sender);
    die(&scene);
    uint64_t tail = layer8_load_seq(&receiver->port->control->receive_tail);
    layer8_store_seq(&receiver->port->control->receive_tail, 0);
    fall_asleep(&sleeper, receiver, ARRIVED);
    int64_t since = now_ns();
    take_flag(&receiver->port->control->arrived);
    layer8_store_seq(&receiver->port->control->receive_tail, tail);
    layer8_port_shut(receiver->port, LAYER8_AWAY);
    int64_t took = now_ns() - since;
    CHECK(woken(&sleeper) == 1);
    adopt_all(&scene);
    layer8_port_reopen(receiver->port);
    resume_all(&scene);
    start(&scene);
    expect(receiver, "one", 3);
    return end_in_time(&scene, took);
}

static void who_sleeps_when_the_port_is_shut_is_woken_whoever_took_the_flag(void) {
    MADE_IN_TIME(shut_while_a_token_is_owed());
}

/* The doorbell was rung at the earlier Vnet, which read it no more. `late`: RESUME comes when others move already. */
static void rung_in_vain(bool late) {
    struct scene scene;
    struct sleeper sleeper;
    layer8_port_stats stats;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0], *receiver = &scene.vnics[1];
    uint32_t handle = vnic_grant(sender, 3, LAYER8_TARGET_PORT, receiver->id);
    die(&scene);
    layer8_wakeup_announce(&sender->port->control->doorbell);
    CHECK(vnic_send(sender, handle, "one", 3) > 0);
    layer8_port_read_stats(sender->port, &stats);
    CHECK(stats.doorbells == 1 && layer8_load_seq(&sender->port->control->doorbell.wanted) == 0);
    fall_asleep(&sleeper, receiver, ARRIVED);
    adopt_all(&scene);
    renew(&scene, 0, handle, LAYER8_TARGET_PORT, receiver->id);
    resume(&scene, 1);
    resume(&scene, 2);
    if (late) {
        start(&scene);
        let_it_finish(&scene);
        resume(&scene, 0);
    } else {
        resume(&scene, 0);
        start(&scene);
    }
    CHECK(woken(&sleeper) == 1);
    expect(receiver, "one", 3);
    layer8_port_read_stats(sender->port, &stats);
    CHECK(stats.doorbells == 1);
    CHECK(vnic_send(sender, handle, "two", 3) > 0); /* the next one has asked for a token of its own */
    expect(receiver, "two", 3);
    CHECK(end_in_time(&scene, 0));
}

static void a_doorbell_that_nobody_heard_is_not_needed(void) {
    rung_in_vain(false);
    rung_in_vain(true);
}

int main(void) {
    RUN(a_token_that_the_earlier_vnet_owed_is_posted);
    RUN(a_chime_that_the_earlier_vnet_owed_rings);
    RUN(a_token_that_comes_twice_wakes_nobody_for_good);
    RUN(a_sender_that_waits_for_its_transmit_ring_goes_on);
    RUN(who_sleeps_when_the_port_is_shut_is_woken_whoever_took_the_flag);
    RUN(a_doorbell_that_nobody_heard_is_not_needed);
    return 0;
}
