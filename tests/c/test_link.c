/* test_link.c - two switches and a link: what crosses it, how it is answered, and who is told when somebody ends. */
#include <sys/eventfd.h>

#include "port.h"

#include "link_world.h"

static uint8_t big[3 << 20];

struct couple { /* a Vnic at each end, and a handle of the first for the second */
    struct pair *pair;
    struct vnic a, b;
    uint32_t to_b;
};

static struct couple couple_start(void) {
    struct couple couple = {.pair = pair_start()};
    vnic_attach(&couple.a, &couple.pair->a.world, 0);
    vnic_attach(&couple.b, &couple.pair->b.world, 0);
    couple.to_b = far_grant(&couple.pair->a, &couple.a, 3, &couple.b);
    return couple;
}

static void test_unicast_crosses_both_ways_in_order(void) {
    struct couple c = couple_start();
    uint32_t to_a = far_grant(&c.pair->b, &c.b, 5, &c.a);
    for (uint32_t n = 0; n < 3000; n++) {
        CHECK(pair_send(c.pair, &c.a, c.to_b, &n, sizeof n) == (int64_t)n + 1);
        CHECK(pair_send(c.pair, &c.b, to_a, &n, sizeof n) == (int64_t)n + 1);
        for (uint32_t m = n - 49; n % 50 == 49 && m <= n; m++) {
            struct got got = pair_receive(c.pair, &c.b);
            uint8_t uuid[16];
            CHECK(got.entry.kind == LAYER8_UNICAST && memcmp(got.payload, &m, sizeof m) == 0);
            CHECK(got.entry.sequence == m + 1 && got.record.slot == 3);
            CHECK(layer8_port_source(c.b.port, got.entry.source, uuid) == 9 && memcmp(uuid, c.a.uuid, 16) == 0);
            got = pair_receive(c.pair, &c.a);
            CHECK(memcmp(got.payload, &m, sizeof m) == 0 && memcmp(got.record.source, c.b.uuid, 16) == 0);
        }
    }
    CHECK(c.pair->a.asked == 1 && c.pair->b.asked == 1); /* authorized once a handle */
    pair_idle(c.pair);
    pair_stop(c.pair);
}

static void push(struct pair *pair, struct vnic *from, layer8_outgoing *out, struct vnic *reader) {
    int status;
    while ((status = layer8_push(from->port, out)) != LAYER8_OK) {
        CHECK(status == LAYER8_FULL || status == LAYER8_XOFF);
        pair_events(pair);
        (void)layer8_wait_room(from->port, -1, 65536, SECOND / 500, 0);
        CHECK(layer8_receive(reader->port, 1, 0) == 0);
    }
}

static void test_large_messages_cross_whole(void) {
    struct couple c = couple_start();
    for (uint32_t n = 0; n < 4; n++) {
        layer8_outgoing out = {.handle = c.to_b, .kind = LAYER8_UNICAST, .payload = big, .length = sizeof big - n};
        push(c.pair, &c.a, &out, &c.b);
        struct got got = pair_receive(c.pair, &c.b);
        CHECK((got.entry.flags & LAYER8_ENTRY_LARGE) != 0 && got.entry.length == sizeof big - n);
        CHECK(memcmp(got.payload, big, got.entry.length) == 0);
    }
    pair_stop(c.pair);
}

static void test_a_message_given_up_is_not_left_half_at_the_far_end(void) {
    struct couple c = couple_start();
    for (uint32_t n = 0; n < 5; n++) {
        layer8_outgoing out = {.handle = c.to_b, .kind = LAYER8_UNICAST, .payload = big, .length = sizeof big};
        while (out.fragment == 0) {
            (void)layer8_push(c.a.port, &out);
            CHECK(layer8_receive(c.b.port, 1, 0) == 0);
            pair_events(c.pair);
        }
        layer8_push_abort(c.a.port, &out);
    }
    CHECK(pair_send(c.pair, &c.a, c.to_b, "after", 5) > 0);
    struct got got = pair_receive(c.pair, &c.b);
    layer8_port_stats stats;
    CHECK(got.entry.length == 5);
    pair_idle(c.pair);
    layer8_port_read_stats(c.b.port, &stats);
    CHECK(stats.assembling_bytes == 0);
    pair_stop(c.pair);
}

static void answer(struct vnic *vnic, const struct got *request, const void *payload, uint64_t length) {
    CHECK(layer8_reply(vnic->port, request->record.missed, request->record.topic, request->record.correlation, payload,
                       length) > 0);
}

static void test_requests_are_answered_across_the_link(void) {
    struct couple c = couple_start();
    for (uint64_t n = 1; n <= 500; n++) {
        CHECK(layer8_request(c.a.port, c.to_b, (const uint8_t *)&n, sizeof n, n, 0) > 0);
        struct got got = pair_receive(c.pair, &c.b);
        CHECK(got.entry.kind == LAYER8_REQUEST && memcmp(got.payload, &n, sizeof n) == 0 && got.record.correlation == n);
        answer(&c.b, &got, &n, sizeof n);
        got = pair_receive(c.pair, &c.a);
        CHECK(got.entry.kind == LAYER8_REPLY && got.record.correlation == n && memcmp(got.payload, &n, sizeof n) == 0);
        CHECK(memcmp(got.record.source, c.b.uuid, 16) == 0);
    }
    layer8_outgoing large = {.handle = c.to_b, .kind = LAYER8_REQUEST, .payload = big, .length = sizeof big, .correlation = 77};
    push(c.pair, &c.a, &large, &c.b);
    struct got got = pair_receive(c.pair, &c.b);
    CHECK(got.entry.kind == LAYER8_REQUEST && got.entry.length == sizeof big);
    layer8_outgoing back = {.kind = LAYER8_REPLY, .payload = big, .length = sizeof big - 9, .correlation = 77,
                            .right = got.record.missed, .right_generation = got.record.topic};
    push(c.pair, &c.b, &back, &c.a);
    got = pair_receive(c.pair, &c.a);
    CHECK(got.entry.kind == LAYER8_REPLY && got.entry.length == sizeof big - 9 && memcmp(got.payload, big, got.entry.length) == 0);
    pair_idle(c.pair);
    CHECK(side_outstanding(&c.pair->a) == 0 && side_outstanding(&c.pair->b) == 0);
    pair_stop(c.pair);
}

static void test_a_cancel_reaches_the_far_callee(void) {
    struct couple c = couple_start();
    CHECK(layer8_request(c.a.port, c.to_b, big, 10, 5, 0) > 0);
    struct got request = pair_receive(c.pair, &c.b);
    layer8_outgoing cancel = {.handle = c.to_b, .kind = LAYER8_CANCEL, .correlation = 5};
    CHECK(layer8_push(c.a.port, &cancel) == LAYER8_OK);
    struct got got = pair_receive(c.pair, &c.b);
    CHECK(got.entry.kind == LAYER8_CANCEL && got.record.correlation == 5 && got.record.missed == request.record.missed);
    answer(&c.b, &request, "late", 4); /* nobody waits for it */
    CHECK(pair_send(c.pair, &c.a, c.to_b, "x", 1) > 0);
    CHECK(pair_receive(c.pair, &c.b).entry.kind == LAYER8_UNICAST);
    pair_idle(c.pair);
    CHECK(vnic_empty(&c.a) && side_outstanding(&c.pair->a) == 0 && side_outstanding(&c.pair->b) == 0);
    pair_stop(c.pair);
}

static void test_requests_fail_when_the_far_callee_dies(void) {
    struct couple c = couple_start();
    for (uint64_t n = 1; n <= 20; n++) {
        CHECK(layer8_request(c.a.port, c.to_b, big, 10, n, 0) > 0);
    }
    CHECK(pair_receive(c.pair, &c.b).entry.kind == LAYER8_REQUEST);
    vnic_remove(&c.b, 0);
    for (uint64_t n = 1; n <= 20; n++) {
        struct got got = pair_receive(c.pair, &c.a);
        CHECK(got.entry.kind == LAYER8_NOTICE && got.record.reason == LAYER8_REASON_GONE);
        CHECK(memcmp(got.record.source, c.b.uuid, 16) == 0);
    }
    while (layer8_send(c.a.port, c.to_b, big, 1) > 0) { /* the mark comes with the proxy's end */
        struct got got = pair_receive(c.pair, &c.a);
        CHECK(got.entry.kind == LAYER8_NOTICE && got.record.reason == LAYER8_REASON_GONE);
    }
    CHECK(layer8_send(c.a.port, c.to_b, big, 1) == LAYER8_GONE);
    CHECK(side_outstanding(&c.pair->a) == 0 && side_outstanding(&c.pair->b) == 0);
    pair_stop(c.pair);
}

static void test_the_far_callee_is_told_when_its_caller_dies(void) {
    struct couple c = couple_start();
    CHECK(layer8_request(c.a.port, c.to_b, big, 10, 5, 0) > 0);
    CHECK(pair_receive(c.pair, &c.b).entry.kind == LAYER8_REQUEST);
    vnic_remove(&c.a, 0);
    struct got got = pair_receive(c.pair, &c.b);
    CHECK(got.entry.kind == LAYER8_CANCEL && got.record.correlation == 5);
    pair_stop(c.pair);
}

static void test_an_alias_prefers_its_own_host(void) {
    struct couple c = couple_start();
    struct vnic here;
    vnic_attach(&here, &c.pair->a.world, 1);
    uint32_t proxy = side_add_proxy(&c.pair->a, c.b.uuid);
    CHECK(vnic_command(&c.b, LAYER8_COMMAND_JOIN_ALIAS, ALIAS, 0, 0) == LAYER8_OK);
    CHECK(world_command(&c.pair->a.world, LAYER8_COMMAND_JOIN_ALIAS, proxy, ALIAS, 0, 0, NULL) == LAYER8_OK);
    CHECK(vnic_command(&here, LAYER8_COMMAND_JOIN_ALIAS, ALIAS, 0, 0) == LAYER8_OK);
    uint32_t to_alias = vnic_grant(&c.a, 7, LAYER8_TARGET_ALIAS, ALIAS);
    CHECK(layer8_slot_state(c.a.port, 7) == LAYER8_SLOT_OPEN);
    for (uint32_t n = 0; n < 50; n++) {
        CHECK(pair_send(c.pair, &c.a, to_alias, &n, sizeof n) > 0);
        CHECK(memcmp(pair_receive(c.pair, &here).payload, &n, sizeof n) == 0);
    }
    for (uint32_t n = 0; layer8_send(c.a.port, to_alias, big, 30000) > 0; n++) { /* until it is stuck */
    }
    vnic_remove(&here, 0); /* what waited for a member here goes there */
    uint64_t last = 0;
    CHECK(pair_send(c.pair, &c.a, to_alias, "last", 4) > 0);
    for (;;) {
        struct got got = pair_receive(c.pair, &c.b);
        CHECK(got.entry.sequence > last && got.record.slot == 7);
        last = got.entry.sequence;
        if (got.entry.length == 4) {
            break;
        }
    }
    CHECK(layer8_slot_state(c.a.port, 7) == LAYER8_SLOT_METERED);
    CHECK(vnic_command(&c.b, LAYER8_COMMAND_LEAVE_ALIAS, ALIAS, 0, 0) == LAYER8_OK); /* not known here yet */
    CHECK(pair_send(c.pair, &c.a, to_alias, "x", 1) > 0);
    struct got got = pair_receive(c.pair, &c.a);
    CHECK(got.entry.kind == LAYER8_NOTICE && got.record.reason == LAYER8_REASON_GONE);
    pair_stop(c.pair);
}

#define TOPIC_A 2u /* the same topic has another number at each switch */
#define TOPIC_B 5u

static void interest(struct side *side, uint32_t topic, uint32_t far_topic) {
    CHECK(world_command(&side->world, LAYER8_COMMAND_SUBSCRIBE, side->adjacent, topic, far_topic, 0, NULL) == LAYER8_OK);
}

static int64_t publish(struct pair *pair, struct vnic *vnic, uint32_t handle, const void *payload, uint64_t length,
                       bool reliable) {
    for (int tries = 0; tries < 20000; tries++) {
        int64_t sent = layer8_publish(vnic->port, handle, payload, length, reliable);
        if (sent != LAYER8_FULL && sent != LAYER8_XOFF) {
            return sent;
        }
        pair_events(pair);
        (void)layer8_wait_room(vnic->port, handle & 0xffffu, length, SECOND / 1000, 0);
    }
    abort();
}

static void test_a_publication_reaches_each_subscriber_once_and_crosses_only_on_interest(void) {
    struct couple c = couple_start();
    struct vnic near, far;
    vnic_attach(&near, &c.pair->a.world, 1);
    vnic_attach(&far, &c.pair->b.world, 1);
    uint32_t topic = vnic_grant(&c.a, 9, LAYER8_TARGET_TOPIC, TOPIC_A);
    CHECK(vnic_command(&near, LAYER8_COMMAND_SUBSCRIBE, TOPIC_A, 1, 0) == LAYER8_OK);
    CHECK(vnic_command(&c.b, LAYER8_COMMAND_SUBSCRIBE, TOPIC_B, 1, 0) == LAYER8_OK);
    CHECK(vnic_command(&far, LAYER8_COMMAND_SUBSCRIBE, TOPIC_B, 2, 0) == LAYER8_OK);
    CHECK(publish(c.pair, &c.a, topic, "here", 4, true) > 0);
    CHECK(pair_receive(c.pair, &near).entry.length == 4);
    CHECK(side_records_out(&c.pair->a) == 0);
    interest(&c.pair->a, TOPIC_A, TOPIC_B);
    interest(&c.pair->b, TOPIC_B, TOPIC_A); /* what came from there must not go back */
    for (uint32_t n = 0; n < 300; n++) {
        CHECK(publish(c.pair, &c.a, topic, &n, sizeof n, n % 2 == 0) > 0);
        struct vnic *all[3] = {&near, &c.b, &far};
        for (int m = 0; m < 3; m++) {
            struct got got = pair_receive(c.pair, all[m]);
            CHECK(got.entry.kind == LAYER8_PUBLISH && memcmp(got.payload, &n, sizeof n) == 0);
            CHECK(got.entry.topic == (m == 2 ? 2 : 1));
        }
    }
    CHECK(side_records_out(&c.pair->a) == 300 && side_records_out(&c.pair->b) == 0);
    layer8_outgoing out = {.handle = topic, .kind = LAYER8_PUBLISH, .flags = LAYER8_RELIABLE, .payload = big, .length = 1 << 20};
    int status;
    bool done[3] = {0};
    while ((status = layer8_push(c.a.port, &out)) != LAYER8_OK) {
        CHECK(status == LAYER8_FULL || status == LAYER8_XOFF);
        pair_events(c.pair);
        CHECK(layer8_receive(near.port, 1, 0) == 0 && layer8_receive(c.b.port, 1, 0) == 0 && layer8_receive(far.port, 1, 0) == 0);
    }
    while (!done[0] || !done[1] || !done[2]) {
        struct vnic *all[3] = {&near, &c.b, &far};
        for (int m = 0; m < 3; m++) {
            if (layer8_receive(all[m]->port, 1, 0) == 1) {
                CHECK(!done[m] && layer8_port_table(all[m]->port)[0].length == 1 << 20);
                done[m] = true;
            }
        }
        pair_events(c.pair);
    }
    CHECK(world_command(&c.pair->a.world, LAYER8_COMMAND_UNSUBSCRIBE, c.pair->a.adjacent, TOPIC_A, TOPIC_B, 0, NULL) == LAYER8_OK);
    uint64_t records = side_records_out(&c.pair->a);
    CHECK(publish(c.pair, &c.a, topic, "here", 4, true) > 0);
    CHECK(pair_receive(c.pair, &near).entry.length == 4);
    CHECK(side_records_out(&c.pair->a) == records);
    pair_stop(c.pair);
}

/* As much as is accepted at once, before the switch has looked. Then until it has taken all of it. */
static uint32_t burst(struct couple *c, uint32_t to, uint32_t accepted) {
    uint32_t before = accepted;
    int64_t sent;
    int unheard = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(layer8_port_set_doorbell(c->a.port, unheard) == LAYER8_OK);
    while ((sent = layer8_send(c->a.port, to, big, 4000 + accepted % 99)) > 0) {
        accepted++;
    }
    CHECK(sent == LAYER8_FULL || sent == LAYER8_XOFF);
    CHECK(layer8_port_set_doorbell(c->a.port, layer8_switch_port_doorbell(c->pair->a.world.ports[0])) == LAYER8_OK);
    (void)close(unheard);
    layer8_port_ring(c->a.port);
    for (int tries = 0;; tries++) {
        layer8_port_stats stats;
        layer8_port_read_stats(c->a.port, &stats);
        if (stats.transmit_fill == 0) {
            return accepted - before;
        }
        CHECK(tries < 5000); /* the transmit ring waits for nobody */
        pair_events(c->pair);
        (void)poll(NULL, 0, 1);
    }
}

static void test_a_stuck_far_receiver_stops_nobody_else(void) {
    struct couple c = couple_start();
    struct vnic other;
    vnic_attach(&other, &c.pair->b.world, 1);
    uint32_t to_other = far_grant(&c.pair->a, &c.a, 4, &other);
    uint32_t accepted = 0;
    for (; accepted < 105; accepted++) { /* its ring is almost full, and everything was answered */
        CHECK(pair_send(c.pair, &c.a, c.to_b, big, 4000 + accepted % 99) > 0);
    }
    pair_idle(c.pair);
    for (uint32_t quiet = 0; quiet < 20; quiet++) { /* ms */
        uint32_t more = burst(&c, c.to_b, accepted);
        accepted += more;
        quiet = more != 0 ? 0 : quiet;
        pair_events(c.pair);
        (void)poll(NULL, 0, 1);
    }
    for (uint32_t n = 0; n < 500; n++) {
        CHECK(pair_send(c.pair, &c.a, to_other, &n, sizeof n) > 0);
        CHECK(memcmp(pair_receive(c.pair, &other).payload, &n, sizeof n) == 0);
    }
    uint64_t last = 0;
    for (uint32_t n = 0; n < accepted; n++) {
        struct got got = pair_receive(c.pair, &c.b);
        CHECK(got.entry.sequence > last && got.entry.length == 4000 + n % 99);
        last = got.entry.sequence;
    }
    pair_idle(c.pair);
    pair_stop(c.pair);
}

static void test_what_the_far_control_plane_refuses_comes_back(void) {
    struct couple c = couple_start();
    c.pair->b.refuse = true;
    for (int64_t n = 1; n < 4; n++) {
        CHECK(pair_send(c.pair, &c.a, c.to_b, "x", 1) == n);
        struct got got = pair_receive(c.pair, &c.a);
        CHECK(got.entry.kind == LAYER8_NOTICE && got.record.reason == LAYER8_REASON_REVOKED);
        CHECK((int64_t)got.record.sequence == n);
    }
    c.pair->b.refuse = false; /* a source once allowed, and then one handle refused */
    CHECK(pair_send(c.pair, &c.a, c.to_b, "y", 1) == 4);
    CHECK(pair_receive(c.pair, &c.b).entry.length == 1);
    c.pair->b.refuse = true;
    uint32_t again = vnic_grant(&c.a, 8, LAYER8_TARGET_PORT, side_add_proxy(&c.pair->a, c.b.uuid));
    uint32_t asked = c.pair->b.asked;
    for (int64_t n = 5; n < 9; n++) {
        CHECK(pair_send(c.pair, &c.a, again, "x", 1) == n);
        CHECK(pair_receive(c.pair, &c.a).record.reason == LAYER8_REASON_REVOKED);
    }
    CHECK(c.pair->b.asked == asked + 1); /* the answer is kept */
    CHECK(layer8_request(c.a.port, again, big, 10, 5, 0) > 0);
    struct got got = pair_receive(c.pair, &c.a);
    CHECK(got.record.reason == LAYER8_REASON_REVOKED && got.record.correlation == 5);
    CHECK(side_outstanding(&c.pair->a) == 0);
    pair_stop(c.pair);
}

static void test_a_ttl_runs_at_the_far_end_too(void) {
    struct couple c = couple_start();
    for (uint32_t n = 0; n < 12; n++) {
        CHECK(pair_send(c.pair, &c.a, c.to_b, big, 30000) > 0);
    }
    layer8_outgoing out = {.handle = c.to_b, .kind = LAYER8_UNICAST, .payload = big, .length = 60000, .ttl = 100};
    for (uint32_t n = 0; n < 7; n++) {
        out.fragment = 0;
        while (layer8_push(c.a.port, &out) != LAYER8_OK) {
            vnic_ignore_xoff(&c.a, 3);
            pair_events(c.pair);
        }
    }
    struct got got = pair_receive(c.pair, &c.a);
    CHECK(got.entry.kind == LAYER8_NOTICE && got.record.reason == LAYER8_REASON_EXPIRED);
    pair_stop(c.pair);
}

/* Replies on their way to a caller elsewhere may have arrived: however long nothing comes back, they are not given up. */
static void test_replies_outlast_a_link_that_stands_still(void) {
    enum { REQUESTS = 40 };
    struct couple c = couple_start();
    struct got requests[REQUESTS];
    uint32_t answered = 0, refused = 0, got = 0;
    for (uint64_t n = 0; n < REQUESTS; n++) {
        CHECK(layer8_request(c.a.port, c.to_b, big, 10, n + 1, 0) > 0);
        requests[n] = pair_receive(c.pair, &c.b);
    }
    c.pair->hung = true;
    while (refused < 50) { /* until its rings are full, and stay so */
        CHECK(answered < REQUESTS);
        if (layer8_reply(c.b.port, requests[answered].record.missed, requests[answered].record.topic,
                         requests[answered].record.correlation, big, 60000) > 0) {
            answered++;
            refused = 0;
        } else {
            refused++;
            (void)poll(NULL, 0, 1);
        }
    }
    (void)poll(NULL, 0, 1300);
    c.pair->hung = false;
    while (got < REQUESTS) {
        if (answered < REQUESTS && layer8_reply(c.b.port, requests[answered].record.missed, requests[answered].record.topic,
                                                requests[answered].record.correlation, big, 60000) > 0) {
            answered++;
        }
        if (got < answered) {
            struct got reply = pair_receive(c.pair, &c.a);
            CHECK(reply.entry.kind == LAYER8_REPLY && reply.record.correlation == ++got);
        }
    }
    pair_idle(c.pair);
    CHECK(side_outstanding(&c.pair->a) == 0 && side_outstanding(&c.pair->b) == 0);
    pair_stop(c.pair);
}

int main(void) {
    for (size_t n = 0; n < sizeof big; n++) {
        big[n] = (uint8_t)(n * 7 + n / 251);
    }
    test_unicast_crosses_both_ways_in_order();
    test_large_messages_cross_whole();
    test_a_message_given_up_is_not_left_half_at_the_far_end();
    test_requests_are_answered_across_the_link();
    test_a_cancel_reaches_the_far_callee();
    test_requests_fail_when_the_far_callee_dies();
    test_the_far_callee_is_told_when_its_caller_dies();
    test_an_alias_prefers_its_own_host();
    test_a_publication_reaches_each_subscriber_once_and_crosses_only_on_interest();
    test_a_stuck_far_receiver_stops_nobody_else();
    test_what_the_far_control_plane_refuses_comes_back();
    test_a_ttl_runs_at_the_far_end_too();
    test_replies_outlast_a_link_that_stands_still();
    return 0;
}
