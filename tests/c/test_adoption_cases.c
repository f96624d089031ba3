/* test_adoption_cases.c - single situations in which a Vnet dies and the next one adopts, each made by hand. */
#include "adoption_scene.h"

/* Its sender dies while it waits for others: what the earlier Vnet may have moved is still a retry. */
static void a_sender_that_dies_before_it_has_resumed_doubles_nothing(void) {
    struct scene scene;
    begin(&scene);
    uint32_t handle = vnic_grant(&scene.vnics[0], 3, LAYER8_TARGET_PORT, scene.vnics[1].id);
    CHECK(vnic_send(&scene.vnics[0], handle, "one", 3) > 0);
    expect(&scene.vnics[1], "one", 3);
    wait_moved(&scene.vnics[0]);
    die(&scene);
    layer8_store_seq(&scene.vnics[0].port->control->transmit_head, 0); /* killed before this was published */
    CHECK(vnic_send(&scene.vnics[0], handle, "two", 3) > 0);
    adopt_all(&scene);
    renew(&scene, 0, handle, LAYER8_TARGET_PORT, scene.vnics[1].id);
    resume(&scene, 1);
    resume(&scene, 2);
    CHECK(vnic_command(&scene.vnics[0], LAYER8_COMMAND_REMOVE_PORT, LAYER8_REASON_GONE, 1000, 0) == LAYER8_OK);
    start(&scene);
    (void)world_wait(&scene.world, 0, 1);
    expect(&scene.vnics[1], "two", 3);
    CHECK(vnic_empty(&scene.vnics[1]));
    CHECK(doubles(&scene.vnics[1]) == 1);
    end(&scene);
}

/* Fills the receive ring of a Vnic that does not read, until one record is held for it. */
static uint32_t stop_reading(struct scene *scene, uint32_t from, uint32_t handle) {
    static const uint8_t noise[60000];
    uint32_t sent = 0;
    struct vnic *vnic = &scene->vnics[from];
    while (layer8_load_seq(&vnic->port->control->hold_tail) == 0) {
        vnic_ignore_xoff(vnic, handle & 0xffffu);
        if (layer8_send(vnic->port, handle, noise, 100) > 0) {
            sent++;
        }
        wait_moved(vnic);
    }
    return sent;
}

/* A record's end was noted and reported; it stands in the hold ring until its turn comes, and was moved in it. */
static void what_has_expired_stays_expired_when_it_was_moved_in_the_hold_ring(void) {
    static const uint8_t noise[60000];
    struct scene scene;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0], *stuck = &scene.vnics[1], *other = &scene.vnics[2];
    uint32_t to_stuck = vnic_grant(sender, 3, LAYER8_TARGET_PORT, stuck->id);
    uint32_t to_other = vnic_grant(sender, 4, LAYER8_TARGET_PORT, other->id);
    uint32_t held = stop_reading(&scene, 0, to_stuck);
    layer8_outgoing brief = {
        .kind = LAYER8_UNICAST, .handle = to_stuck, .payload = (const uint8_t *)"brief", .length = 5, .ttl = 1};
    vnic_ignore_xoff(sender, 3);
    CHECK(layer8_push(sender->port, &brief) == LAYER8_OK);
    struct got notice = vnic_receive(sender);
    CHECK(notice.entry.kind == LAYER8_NOTICE && notice.record.reason == LAYER8_REASON_EXPIRED);
    uint32_t fills = 0, overtaken = 0;
    uint64_t head = layer8_load_seq(&sender->port->control->hold_head);
    for (int n = 0; n < 200 && layer8_load_seq(&sender->port->control->hold_head) == head; n++) {
        vnic_ignore_xoff(sender, 4); /* for the other one: into its ring, then held, then taken */
        fills += layer8_send(sender->port, to_other, noise, sizeof noise) > 0;
        wait_moved(sender);
        if (fills - overtaken == 9) { /* seven in its ring, two held */
            while (overtaken < fills) {
                expect(other, noise, sizeof noise);
                overtaken++;
            }
        }
    }
    CHECK(layer8_load_seq(&sender->port->control->hold_head) != head); /* the oldest were moved to the tail */
    while (overtaken < fills) {
        expect(other, noise, sizeof noise);
        overtaken++;
    }
    die(&scene);
    adopt_all(&scene);
    renew(&scene, 0, to_stuck, LAYER8_TARGET_PORT, stuck->id);
    renew(&scene, 0, to_other, LAYER8_TARGET_PORT, other->id);
    for (uint32_t n = 0; n < VNICS; n++) {
        resume(&scene, n);
    }
    start(&scene);
    for (uint32_t n = 0; n < held; n++) {
        expect(stuck, noise, 100);
    }
    CHECK(vnic_send(sender, to_stuck, "last", 4) > 0);
    expect(stuck, "last", 4);
    notice = vnic_receive(sender);
    CHECK(notice.entry.kind == LAYER8_NOTICE && notice.record.reason == LAYER8_REASON_EXPIRED);
    end(&scene);
}

/* Its time runs out while it waits to go again: the earlier Vnet may have delivered it, and here it had. */
static void a_retry_that_expires_comes_back_as_unknown(void) {
    static const uint8_t noise[4000]; /* more than fits beside the small ones */
    struct scene scene;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0], *stuck = &scene.vnics[1], *other = &scene.vnics[2];
    struct layer8_control *control = sender->port->control;
    uint32_t handle = vnic_grant(sender, 3, LAYER8_TARGET_PORT, stuck->id);
    uint32_t beside = vnic_grant(other, 3, LAYER8_TARGET_PORT, stuck->id);
    uint32_t held = stop_reading(&scene, 0, handle);
    layer8_outgoing brief = {
        .kind = LAYER8_UNICAST, .handle = handle, .payload = noise, .length = sizeof noise, .ttl = 60000};
    vnic_ignore_xoff(sender, 3);
    uint64_t at = layer8_load_seq(&control->hold_tail);
    CHECK(layer8_push(sender->port, &brief) == LAYER8_OK);
    wait_moved(sender);
    for (uint32_t n = 0; n < held; n++) {
        (void)vnic_receive(stuck);
    }
    expect(stuck, noise, sizeof noise);
    (void)stop_reading(&scene, 2, beside);
    die(&scene);
    layer8_store_seq(&control->hold_head, at); /* killed before it published that */
    uint8_t *hold = sender->port->base + LAYER8_OFFSET_RINGS + sender->port->transmit_capacity + sender->port->receive_capacity;
    ((struct layer8_record *)(void *)(hold + at))->ttl = 1; /* its time is nearly over */
    adopt_all(&scene);
    renew(&scene, 0, handle, LAYER8_TARGET_PORT, stuck->id);
    renew(&scene, 2, beside, LAYER8_TARGET_PORT, stuck->id);
    for (uint32_t n = 0; n < VNICS; n++) {
        resume(&scene, n);
    }
    start(&scene);
    struct got notice = vnic_receive(sender);
    CHECK(notice.entry.kind == LAYER8_NOTICE && notice.record.reason == LAYER8_REASON_UNKNOWN);
    end(&scene);
}

/* Chosen is not delivered: when the handle is not granted any more nobody knows. */
static void a_record_whose_receiver_was_chosen_comes_back_as_unknown_when_its_handle_is_gone(void) {
    struct scene scene;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0];
    CHECK(vnic_command(&scene.vnics[1], LAYER8_COMMAND_JOIN_ALIAS, 1, 0, 0) == LAYER8_OK);
    uint32_t handle = vnic_grant(sender, 3, LAYER8_TARGET_ALIAS, 1);
    CHECK(vnic_send(sender, handle, "one", 3) > 0);
    expect(&scene.vnics[1], "one", 3);
    wait_moved(sender);
    die(&scene);
    layer8_store_seq(&sender->port->control->transmit_head, 0);
    adopt_all(&scene);
    for (uint32_t n = 0; n < VNICS; n++) {
        resume(&scene, n);
    }
    start(&scene);
    struct got notice = vnic_receive(sender);
    CHECK(notice.entry.kind == LAYER8_NOTICE && notice.record.reason == LAYER8_REASON_UNKNOWN);
    CHECK(vnic_empty(&scene.vnics[1]));
    end(&scene);
}

/* A member that had no room was chosen for nothing: another one may have what waits for the alias. */
static void what_waits_for_an_alias_is_not_bound_to_a_member_without_room(void) {
    static const uint8_t noise[30000];
    const uint32_t count = 50;
    uint32_t came = 0;
    struct scene scene;
    begin_with(&scene, LAYER8_RING_MIN * 8); /* so that it may hold more than a receive ring takes */
    struct vnic *sender = &scene.vnics[0], *first = &scene.vnics[1], *second = &scene.vnics[2];
    CHECK(vnic_command(first, LAYER8_COMMAND_JOIN_ALIAS, 1, 0, 0) == LAYER8_OK);
    uint32_t handle = vnic_grant(sender, 3, LAYER8_TARGET_ALIAS, 1);
    for (uint32_t n = 0; n < count; n++) {
        vnic_ignore_xoff(sender, 3);
        CHECK(layer8_send(sender->port, handle, noise, sizeof noise) > 0);
        wait_moved(sender);
    }
    uint64_t head = layer8_load_seq(&sender->port->control->hold_head);
    CHECK(layer8_load_seq(&sender->port->control->hold_tail) - head > 1000000);
    while (layer8_load_seq(&sender->port->control->hold_head) == head) { /* until what waits is served, up to no room */
        expect(first, noise, sizeof noise);
        came++;
        (void)layer8_receive(first->port, 0, 0);
        (void)usleep(10000);
    }
    die(&scene);
    while (layer8_receive(first->port, 1, 0) == 1) {
        came++;
    }
    CHECK(came < count);
    open_world(&scene, 1); /* the first one does not come back */
    add(&scene, 0, NEXT);
    add(&scene, 2, NEXT);
    CHECK(vnic_command(second, LAYER8_COMMAND_JOIN_ALIAS, 1, 0, 0) == LAYER8_OK);
    renew(&scene, 0, handle, LAYER8_TARGET_ALIAS, 1);
    resume(&scene, 0);
    resume(&scene, 2);
    start(&scene);
    for (; came < count; came++) {
        expect(second, noise, sizeof noise);
    }
    CHECK(vnic_empty(sender)); /* nothing is unknown */
    end(&scene);
}

/* Each next Vnet chooses the only member for the first that waits for the alias. Small ones that come later fit where those
 * do not, but they must not overtake: what is chosen and comes again would be taken for a double and dropped. */
static void what_an_earlier_vnet_has_chosen_a_member_for_is_not_overtaken(void) {
    static const uint8_t noise[60000];
    const uint32_t lives = 12;
    uint32_t sent = 0, held = 0;
    struct scene scene;
    begin_with(&scene, LAYER8_RING_MIN * 8); /* so that it may hold more than a receive ring takes */
    struct vnic *sender = &scene.vnics[0], *stuck = &scene.vnics[1], *other = &scene.vnics[2];
    CHECK(vnic_command(stuck, LAYER8_COMMAND_JOIN_ALIAS, 1, 0, 0) == LAYER8_OK);
    uint32_t handle = vnic_grant(sender, 3, LAYER8_TARGET_ALIAS, 1);
    uint32_t beside = vnic_grant(sender, 4, LAYER8_TARGET_PORT, other->id);
    while (held < lives) {
        vnic_ignore_xoff(sender, 3);
        CHECK(layer8_send(sender->port, handle, noise, sizeof noise) > 0);
        sent++;
        wait_moved(sender);
        held += layer8_load_seq(&sender->port->control->hold_tail) != 0;
    }
    for (uint32_t life = 0; life <= lives; life++) {
        die(&scene);
        adopt_all(&scene);
        CHECK(vnic_command(stuck, LAYER8_COMMAND_JOIN_ALIAS, 1, 0, 0) == LAYER8_OK);
        renew(&scene, 0, handle, LAYER8_TARGET_ALIAS, 1);
        renew(&scene, 0, beside, LAYER8_TARGET_PORT, other->id);
        for (uint32_t n = 0; n < VNICS; n++) {
            resume(&scene, n);
        }
        start(&scene);
        CHECK(vnic_send(sender, beside, "beside", 6) > 0); /* it comes after all that is repeated */
        expect(other, "beside", 6);
    }
    for (uint32_t n = 0; n < 3; n++, sent++) {
        vnic_ignore_xoff(sender, 3);
        CHECK(vnic_send(sender, handle, "more", 4) > 0);
    }
    wait_moved(sender);
    for (uint32_t n = 0; n < sent; n++) {
        struct got got = vnic_receive(stuck);
        CHECK(got.entry.kind == LAYER8_UNICAST && got.entry.length == (n < sent - 3 ? sizeof noise : 4));
    }
    CHECK(vnic_empty(stuck));
    CHECK(vnic_empty(sender));
    end(&scene);
}

/* Killed while it moved a record to the tail of the hold ring: of the two the one further back is kept. */
static void of_a_record_that_stands_twice_in_the_hold_ring_the_later_is_kept(void) {
    struct scene scene;
    begin(&scene);
    struct vnic *sender = &scene.vnics[0], *stuck = &scene.vnics[1];
    uint32_t to_stuck = vnic_grant(sender, 3, LAYER8_TARGET_PORT, stuck->id);
    uint32_t sent = stop_reading(&scene, 0, to_stuck);
    die(&scene);
    struct layer8_port *port = sender->port;
    uint64_t head = layer8_load_seq(&port->control->hold_head);
    uint64_t tail = layer8_load_seq(&port->control->hold_tail);
    uint8_t *hold = port->base + LAYER8_OFFSET_RINGS + port->transmit_capacity + port->receive_capacity;
    memcpy(hold + tail, hold + head, (size_t)(tail - head));
    layer8_store_seq(&port->control->hold_tail, tail + (tail - head));
    adopt_all(&scene);
    renew(&scene, 0, to_stuck, LAYER8_TARGET_PORT, stuck->id);
    for (uint32_t n = 0; n < VNICS; n++) {
        resume(&scene, n);
    }
    start(&scene);
    for (int n = 0; n < 20000 && layer8_load_seq(&port->control->hold_head) == head; n++) {
        (void)usleep(1000);
    }
    CHECK(layer8_load_seq(&port->control->hold_head) >= tail);
    for (uint32_t n = 0; n < sent; n++) {
        struct got got = vnic_receive(stuck);
        CHECK(got.entry.kind == LAYER8_UNICAST && got.record.sequence == n + 1);
    }
    CHECK(vnic_empty(stuck));
    end(&scene);
}

int main(void) {
    (void)alarm(280);
    a_sender_that_dies_before_it_has_resumed_doubles_nothing();
    what_has_expired_stays_expired_when_it_was_moved_in_the_hold_ring();
    a_retry_that_expires_comes_back_as_unknown();
    a_record_whose_receiver_was_chosen_comes_back_as_unknown_when_its_handle_is_gone();
    what_waits_for_an_alias_is_not_bound_to_a_member_without_room();
    what_an_earlier_vnet_has_chosen_a_member_for_is_not_overtaken();
    of_a_record_that_stands_twice_in_the_hold_ring_the_later_is_kept();
    printf("test_adoption_cases: ok\n");
    return 0;
}
