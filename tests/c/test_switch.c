/* test_switch.c - the switch with real ports: what arrives, what waits, what comes back, and who is told. */
#include "port.h"
#include "switch_world.h"

static uint8_t big[3 << 20];

static void test_unicast_arrives_stamped_and_in_order(void) {
    struct world world;
    struct vnic a, b;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&b, &world, 1);
    uint32_t to_b = vnic_grant(&a, 3, LAYER8_TARGET_PORT, b.id);
    for (uint32_t n = 0; n < 5000; n++) {
        CHECK(vnic_send(&a, to_b, &n, sizeof n) == (int64_t)n + 1);
        if (n % 7 == 6) {
            for (uint32_t m = n - 6; m <= n; m++) {
                struct got got = vnic_receive(&b);
                uint8_t uuid[16];
                CHECK(memcmp(got.payload, &m, sizeof m) == 0 && got.entry.sequence == m + 1);
                CHECK(layer8_port_source(b.port, got.entry.source, uuid) == 7 && memcmp(uuid, a.uuid, 16) == 0);
                CHECK(got.record.slot == 3 && got.entry.kind == LAYER8_UNICAST);
            }
        }
    }
    vnic_remove(&a, 0);
    vnic_remove(&b, 0);
    world_stop(&world);
}

static void test_a_handle_not_granted_comes_back(void) {
    struct world world;
    struct vnic a, b;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&b, &world, 1);
    uint32_t handle = vnic_grant(&a, 0, LAYER8_TARGET_PORT, b.id);
    CHECK(vnic_send(&a, 5, "x", 1) == 1);
    struct got got = vnic_receive(&a);
    CHECK(got.entry.kind == LAYER8_NOTICE && got.record.reason == LAYER8_REASON_REVOKED && got.record.sequence == 1);
    CHECK(vnic_send(&a, handle + 65536, "x", 1) == 2); /* another generation of the slot */
    got = vnic_receive(&a);
    CHECK(got.record.reason == LAYER8_REASON_REVOKED && got.record.sequence == 2 && got.record.ttl == 1);
    CHECK(vnic_command(&a, LAYER8_COMMAND_REVOKE, handle, LAYER8_SLOT_REVOKED, 0) == LAYER8_OK);
    CHECK(layer8_send(a.port, handle, (const uint8_t *)"x", 1) == LAYER8_REVOKED);
    world_stop(&world);
}

static void test_a_full_receiver_holds_its_senders_only(void) {
    struct world world;
    struct vnic a, stuck, other;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&stuck, &world, 1);
    vnic_attach(&other, &world, 2);
    uint32_t to_stuck = vnic_grant(&a, 0, LAYER8_TARGET_PORT, stuck.id);
    uint32_t to_other = vnic_grant(&a, 1, LAYER8_TARGET_PORT, other.id);
    uint32_t accepted = 0;
    int64_t sent = 0;
    while ((sent = layer8_send(a.port, to_stuck, big, 4096 + accepted % 999)) != LAYER8_XOFF) {
        CHECK(sent > 0 || sent == LAYER8_FULL);
        if (sent > 0) {
            accepted++;
        } else {
            (void)layer8_wait_room(a.port, -1, 8192, SECOND / 10, 0);
        }
    }
    for (uint32_t n = 0; n < 1000; n++) {
        CHECK(vnic_send(&a, to_other, &n, sizeof n) > 0);
        struct got got = vnic_receive(&other);
        CHECK(memcmp(got.payload, &n, sizeof n) == 0);
    }
    int64_t last = 0;
    for (uint32_t n = 0; n < accepted; n++) {
        struct got got = vnic_receive(&stuck);
        CHECK((int64_t)got.entry.sequence > last && got.entry.length == 4096 + n % 999);
        last = (int64_t)got.entry.sequence;
    }
    CHECK(vnic_send(&a, to_stuck, "again", 5) > 0);
    CHECK(vnic_receive(&stuck).entry.length == 5);
    world_stop(&world);
}

/* Sends past the Xoff mark until the hold ring is full too. Returns how many were accepted. */
static uint32_t overfill(struct vnic *a, uint32_t handle) {
    for (uint32_t accepted = 0;;) {
        vnic_ignore_xoff(a, handle & 0xffffu);
        int64_t sent = layer8_send(a->port, handle, big, 8000);
        if (sent > 0) {
            accepted++;
        } else if (sent == LAYER8_FULL && layer8_wait_room(a->port, -1, 16384, SECOND / 5, 0) == 0) {
            return accepted;
        }
    }
}

static void test_what_is_held_for_the_dead_goes_back(void) {
    struct world world;
    struct vnic a, b, other;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&b, &world, 1);
    vnic_attach(&other, &world, 2);
    uint32_t to_b = vnic_grant(&a, 0, LAYER8_TARGET_PORT, b.id);
    uint32_t to_other = vnic_grant(&a, 1, LAYER8_TARGET_PORT, other.id);
    uint32_t accepted = overfill(&a, to_b), back = 0;
    layer8_switch_counters counters;
    layer8_switch_read(world.sw, &counters);
    CHECK(counters.held_records > 10);
    vnic_remove(&b, 0);
    CHECK(vnic_send(&a, to_other, "after", 5) > 0);
    CHECK(vnic_receive(&other).entry.length == 5);
    CHECK(layer8_send(a.port, to_b, (const uint8_t *)"x", 1) == LAYER8_GONE);
    while (!vnic_empty(&a)) {
        CHECK(layer8_port_table(a.port)[0].kind == LAYER8_NOTICE);
        back++;
    }
    CHECK(back > 10 && back < accepted);
    layer8_switch_read(world.sw, &counters);
    CHECK(counters.held_records == 0 && counters.held_bytes == 0);
    world_stop(&world);
}

static void test_an_overfilled_hold_ring_drains_in_order(void) {
    struct world world;
    struct vnic a, b;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&b, &world, 1);
    uint32_t to_b = vnic_grant(&a, 0, LAYER8_TARGET_PORT, b.id);
    for (int repeat = 0; repeat < 5; repeat++) {
        uint32_t accepted = overfill(&a, to_b);
        uint64_t last = 0;
        for (uint32_t n = 0; n < accepted; n++) {
            struct got got = vnic_receive(&b);
            CHECK(last == 0 || got.entry.sequence == last + 1);
            last = got.entry.sequence;
        }
        CHECK(vnic_empty(&b));
    }
    world_stop(&world);
}

static void test_anycast_takes_turns_and_prefers_the_emptiest(void) {
    struct world world;
    struct vnic a, workers[3];
    uint32_t counts[3] = {0};
    world_start(&world);
    vnic_attach(&a, &world, 0);
    for (uint32_t n = 0; n < 3; n++) {
        vnic_attach(&workers[n], &world, n + 1);
        CHECK(vnic_command(&workers[n], LAYER8_COMMAND_JOIN_ALIAS, 4, 0, 0) == LAYER8_OK);
    }
    uint32_t pool = vnic_grant(&a, 0, LAYER8_TARGET_ALIAS, 4);
    for (uint32_t n = 0; n < 300; n++) {
        CHECK(vnic_send(&a, pool, &n, sizeof n) > 0);
    }
    CHECK(world_command(&world, LAYER8_COMMAND_QUIESCE, 0, 0, 0, 0, NULL) == LAYER8_OK);
    for (uint32_t n = 0; n < 3; n++) {
        while (!vnic_empty(&workers[n])) {
            counts[n]++;
        }
    }
    CHECK(counts[0] == 100 && counts[1] == 100 && counts[2] == 100);
    for (uint32_t n = 0; n < 3; n++) {
        vnic_remove(&workers[n], 0);
    }
    CHECK(layer8_send(a.port, pool, (const uint8_t *)"x", 1) == LAYER8_GONE);
    vnic_attach(&workers[0], &world, 1);
    CHECK(vnic_command(&workers[0], LAYER8_COMMAND_JOIN_ALIAS, 4, 0, 0) == LAYER8_OK);
    CHECK(vnic_send(&a, pool, "back", 4) > 0);
    CHECK(vnic_receive(&workers[0]).entry.length == 4);
    world_stop(&world);
}

static void test_publication_reaches_all_and_a_slow_subscriber_is_told(void) {
    struct world world;
    struct vnic a, fast, slow;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&fast, &world, 1);
    vnic_attach(&slow, &world, 2);
    CHECK(vnic_command(&fast, LAYER8_COMMAND_SUBSCRIBE, 2, 11, 0) == LAYER8_OK);
    CHECK(vnic_command(&slow, LAYER8_COMMAND_SUBSCRIBE, 2, 12, 0) == LAYER8_OK);
    uint32_t topic = vnic_grant(&a, 0, LAYER8_TARGET_TOPIC, 2);
    uint32_t taken = 0, missed = 0;
    for (uint32_t n = 0; n < 400; n++) {
        CHECK(layer8_publish(a.port, topic, big, 4000, 0) > 0);
        struct got got = vnic_receive(&fast);
        CHECK(got.entry.topic == 11 && got.entry.sequence == n + 1 && got.record.missed == 0);
    }
    while (!vnic_empty(&slow)) {
        taken++;
    }
    missed = (uint32_t)layer8_missed(slow.port, 12);
    CHECK(taken + missed == 400 && missed > 0);
    CHECK(layer8_publish(a.port, topic, big, 1, 0) > 0);
    struct got got = vnic_receive(&slow);
    CHECK(got.entry.topic == 12 && got.record.missed == missed);
    world_stop(&world);
}

static void test_reliable_publication_waits_for_the_slow(void) {
    struct world world;
    struct vnic a, fast, slow;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&fast, &world, 1);
    vnic_attach(&slow, &world, 2);
    CHECK(vnic_command(&fast, LAYER8_COMMAND_SUBSCRIBE, 2, 1, 0) == LAYER8_OK);
    CHECK(vnic_command(&slow, LAYER8_COMMAND_SUBSCRIBE, 2, 1, 0) == LAYER8_OK);
    uint32_t topic = vnic_grant(&a, 0, LAYER8_TARGET_TOPIC, 2);
    uint32_t published = 0, slow_taken = 0, fast_taken = 0;
    int64_t sent;
    while ((sent = layer8_publish(a.port, topic, big, 5000, 1)) != LAYER8_XOFF) {
        if (sent == LAYER8_FULL) {
            (void)layer8_wait_room(a.port, -1, 8192, SECOND / 10, 0);
            continue;
        }
        published++;
        while (!vnic_empty(&fast)) {
            fast_taken++;
        }
    }
    CHECK(published > 50);
    while (slow_taken < published) {
        CHECK(vnic_receive(&slow).entry.sequence == slow_taken + 1);
        slow_taken++;
    }
    while (fast_taken < published) {
        (void)vnic_receive(&fast);
        fast_taken++;
    }
    CHECK(layer8_missed(slow.port, 1) == 0 && vnic_empty(&slow) && vnic_empty(&fast));
    CHECK(layer8_wait_room(a.port, 0, 8192, 5 * SECOND, 0) == 1);
    world_stop(&world);
}

static void test_a_stuck_subscriber_of_reliable_publications_holds_nothing_else_up(void) {
    struct world world;
    struct vnic a, stuck, other;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&stuck, &world, 1);
    vnic_attach(&other, &world, 2);
    CHECK(vnic_command(&stuck, LAYER8_COMMAND_SUBSCRIBE, 2, 1, 0) == LAYER8_OK);
    uint32_t topic = vnic_grant(&a, 0, LAYER8_TARGET_TOPIC, 2), to_other = vnic_grant(&a, 1, LAYER8_TARGET_PORT, other.id);
    uint32_t published = 0;
    for (int full = 0; full < 20;) { /* as fast as it is taken, again and again before the mark is seen */
        int64_t sent = layer8_publish(a.port, topic, big, 4000, 1);
        published += sent > 0;
        if (sent < 0) {
            CHECK(sent == LAYER8_FULL || sent == LAYER8_XOFF);
            full = layer8_wait_room(a.port, 0, 4000, SECOND / 1000, 0) == 1 ? 0 : full + 1;
        }
    }
    CHECK(vnic_send(&a, to_other, "passes", 6) > 0);
    CHECK(vnic_receive(&other).entry.length == 6);
    for (uint32_t n = 0; n < published; n++) {
        CHECK(vnic_receive(&stuck).entry.length == 4000);
    }
    CHECK(layer8_missed(stuck.port, 1) == 0);
    world_stop(&world);
}

static void test_a_large_message_arrives_whole_or_not_at_all(void) {
    struct world world;
    struct vnic a, b;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&b, &world, 1);
    uint32_t to_b = vnic_grant(&a, 0, LAYER8_TARGET_PORT, b.id);
    for (size_t n = 0; n < sizeof big; n++) {
        big[n] = (uint8_t)(n * 31 >> 3);
    }
    for (int repeat = 0; repeat < 3; repeat++) {
        layer8_outgoing out = {.kind = LAYER8_UNICAST, .handle = to_b, .payload = big, .length = sizeof big - 5};
        int status;
        int received = 0;
        while ((status = layer8_push(a.port, &out)) != LAYER8_OK) {
            CHECK(status == LAYER8_FULL || status == LAYER8_XOFF);
            received += layer8_receive(b.port, 1, 0);
            (void)layer8_wait_room(a.port, 0, 65536, SECOND / 1000, 0);
        }
        CHECK(received == 0);
        struct got got = vnic_receive(&b);
        CHECK((got.entry.flags & LAYER8_ENTRY_LARGE) != 0 && got.entry.length == sizeof big - 5);
        CHECK(memcmp(got.payload, big, sizeof big - 5) == 0 && (int64_t)got.entry.sequence == out.sequence);
    }
    layer8_outgoing out = {.kind = LAYER8_UNICAST, .handle = to_b, .payload = big, .length = sizeof big};
    CHECK(layer8_push(a.port, &out) < 0);
    layer8_push_abort(a.port, &out);
    while (layer8_slot_state(a.port, 0) == LAYER8_SLOT_XOFF) {
        CHECK(vnic_empty(&b));
        (void)layer8_wait_arrived(b.port, SECOND / 100, 0);
    }
    CHECK(vnic_send(&a, to_b, "after", 5) > 0);
    CHECK(vnic_receive(&b).entry.length == 5);
    /* A sender that is gone in the middle: what it began is aborted. */
    out = (layer8_outgoing){.kind = LAYER8_UNICAST, .handle = to_b, .payload = big, .length = sizeof big};
    CHECK(layer8_push(a.port, &out) < 0);
    vnic_remove(&a, 5000);
    layer8_port_stats stats;
    do {
        CHECK(vnic_empty(&b));
        layer8_port_read_stats(b.port, &stats);
    } while (stats.receive_fill != 0);
    CHECK(stats.assembling_bytes == 0 && stats.messages_aborted == 2);
    world_stop(&world);
}

static void test_request_is_answered_once_and_by_the_callee_only(void) {
    struct world world;
    struct vnic caller, callee, stranger;
    world_start(&world);
    vnic_attach(&caller, &world, 0);
    vnic_attach(&callee, &world, 1);
    vnic_attach(&stranger, &world, 2);
    uint32_t to = vnic_grant(&caller, 0, LAYER8_TARGET_PORT, callee.id);
    for (uint64_t n = 100; n < 2100; n++) {
        CHECK(layer8_request(caller.port, to, (const uint8_t *)"question", 8, n, 5000) > 0);
        struct got question = vnic_receive(&callee);
        CHECK(question.entry.kind == LAYER8_REQUEST && question.record.correlation == n && question.record.ttl > 0);
        uint32_t right = question.record.missed;
        uint16_t generation = question.record.topic;
        if (n % 50 == 0) { /* forged: by another port, with another correlation, twice */
            CHECK(layer8_reply(stranger.port, right, generation, n, (const uint8_t *)"forged", 6) > 0);
            CHECK(layer8_reply(callee.port, right, generation, n + 1, (const uint8_t *)"forged", 6) > 0);
            CHECK(layer8_reply(callee.port, right, (uint16_t)(generation + 1), n, (const uint8_t *)"forged", 6) > 0);
            CHECK(layer8_reply(callee.port, UINT32_MAX, generation, n, (const uint8_t *)"forged", 6) > 0);
        }
        CHECK(layer8_reply(callee.port, right, generation, n, (const uint8_t *)"answer", 6) > 0);
        CHECK(layer8_reply(callee.port, right, generation, n, (const uint8_t *)"again!", 6) > 0);
        struct got answer = vnic_receive(&caller);
        CHECK(answer.entry.kind == LAYER8_REPLY && answer.record.correlation == n);
        CHECK(memcmp(answer.payload, "answer", 6) == 0);
    }
    CHECK(world_command(&world, LAYER8_COMMAND_QUIESCE, 0, 0, 0, 0, NULL) == LAYER8_OK);
    CHECK(vnic_empty(&caller));
    world_stop(&world);
}

static void test_a_dead_callee_fails_its_requests_at_once(void) {
    struct world world;
    struct vnic caller, callee;
    world_start(&world);
    vnic_attach(&caller, &world, 0);
    vnic_attach(&callee, &world, 1);
    uint32_t to = vnic_grant(&caller, 0, LAYER8_TARGET_PORT, callee.id);
    for (uint64_t n = 1; n <= 500; n++) {
        CHECK(layer8_request(caller.port, to, (const uint8_t *)"q", 1, n, 0) > 0);
    }
    (void)vnic_receive(&callee);
    vnic_remove(&callee, 0);
    bool told[501] = {false};
    for (int n = 0; n < 500; n++) {
        struct got got = vnic_receive(&caller);
        CHECK(got.entry.kind == LAYER8_NOTICE && got.record.reason == LAYER8_REASON_GONE);
        CHECK(got.record.topic == LAYER8_REQUEST && got.record.correlation <= 500 && !told[got.record.correlation]);
        told[got.record.correlation] = true;
    }
    layer8_switch_counters counters;
    layer8_switch_read(world.sw, &counters);
    CHECK(counters.outstanding == 0);
    world_stop(&world);
}

static void test_replies_survive_a_callee_that_leaves_right_after(void) {
    static struct got questions[900];
    struct world world;
    struct vnic caller, callee;
    world_start(&world);
    vnic_attach(&caller, &world, 0);
    vnic_attach(&callee, &world, 1);
    uint32_t to = vnic_grant(&caller, 0, LAYER8_TARGET_PORT, callee.id);
    for (uint64_t n = 0; n < 900; n++) {
        CHECK(layer8_request(caller.port, to, (const uint8_t *)"q", 1, n, 0) > 0);
    }
    for (int n = 0; n < 900; n++) {
        questions[n] = vnic_receive(&callee);
    }
    for (int n = 0; n < 900; n++) { /* more than one visit takes */
        const struct layer8_record *question = &questions[n].record;
        CHECK(layer8_reply(callee.port, question->missed, question->topic, question->correlation, (const uint8_t *)"a",
                           1) > 0);
    }
    vnic_remove(&callee, 5000);
    for (uint64_t n = 0; n < 900; n++) {
        struct got answer = vnic_receive(&caller);
        CHECK(answer.entry.kind == LAYER8_REPLY && answer.record.correlation == n);
    }
    CHECK(vnic_empty(&caller));
    world_stop(&world);
}

static void test_a_caller_that_does_not_read_stops_no_service(void) {
    struct world world;
    struct vnic caller, callee, other;
    world_start(&world);
    vnic_attach(&caller, &world, 0);
    vnic_attach(&callee, &world, 1);
    vnic_attach(&other, &world, 2);
    uint32_t to_callee = vnic_grant(&caller, 0, LAYER8_TARGET_PORT, callee.id);
    uint32_t to_other = vnic_grant(&callee, 0, LAYER8_TARGET_PORT, other.id);
    CHECK(layer8_request(caller.port, to_callee, (const uint8_t *)"q", 1, 77, 0) > 0);
    struct got question = vnic_receive(&callee);
    layer8_outgoing answer = {.kind = LAYER8_REPLY,
                              .right = question.record.missed,
                              .right_generation = question.record.topic,
                              .correlation = 77,
                              .payload = big,
                              .length = sizeof big};
    int status;
    while ((status = layer8_push(callee.port, &answer)) == LAYER8_FULL) { /* until the caller is given up */
        (void)layer8_wait_room(callee.port, -1, LAYER8_FRAGMENT_BYTES, SECOND / 10, 0);
    }
    CHECK(status == LAYER8_OK);
    CHECK(vnic_send(&callee, to_other, "on", 2) > 0 && vnic_receive(&other).entry.length == 2);
    struct got told = vnic_receive(&caller);
    CHECK(told.entry.kind == LAYER8_NOTICE && told.record.reason == LAYER8_REASON_TOO_MANY);
    CHECK(told.record.correlation == 77);
    while (!vnic_empty(&caller)) {
    }
    layer8_port_stats stats;
    layer8_port_read_stats(caller.port, &stats);
    layer8_switch_counters counters;
    layer8_switch_read(world.sw, &counters);
    CHECK(stats.assembling_bytes == 0 && counters.outstanding == 0 && counters.held_records == 0);
    world_stop(&world);
}

static void test_a_revoked_handle_fails_its_outstanding_requests_alone(void) {
    struct world world;
    struct vnic caller, callee, other;
    world_start(&world);
    vnic_attach(&caller, &world, 0);
    vnic_attach(&callee, &world, 1);
    vnic_attach(&other, &world, 2);
    uint32_t to = vnic_grant(&caller, 0, LAYER8_TARGET_PORT, callee.id);
    uint32_t kept = vnic_grant(&caller, 1, LAYER8_TARGET_PORT, other.id);
    CHECK(layer8_request(caller.port, to, (const uint8_t *)"q", 1, 9, 0) > 0);
    CHECK(layer8_request(caller.port, kept, (const uint8_t *)"k", 1, 10, 0) > 0);
    struct got question = vnic_receive(&callee);
    struct got asked = vnic_receive(&other);
    CHECK(vnic_command(&caller, LAYER8_COMMAND_REVOKE, to, LAYER8_SLOT_REVOKED, 0) == LAYER8_OK);
    struct got failed = vnic_receive(&caller);
    CHECK(failed.entry.kind == LAYER8_NOTICE && failed.record.correlation == 9);
    CHECK(failed.record.reason == LAYER8_REASON_REVOKED);
    struct got told = vnic_receive(&callee);
    CHECK(told.entry.kind == LAYER8_CANCEL && told.record.correlation == 9);
    CHECK(layer8_reply(callee.port, question.record.missed, question.record.topic, 9, (const uint8_t *)"late", 4) > 0);
    CHECK(layer8_reply(other.port, asked.record.missed, asked.record.topic, 10, (const uint8_t *)"ok", 2) > 0);
    struct got answer = vnic_receive(&caller);
    CHECK(answer.entry.kind == LAYER8_REPLY && answer.record.correlation == 10);
    CHECK(world_command(&world, LAYER8_COMMAND_QUIESCE, 0, 0, 0, 0, NULL) == LAYER8_OK);
    CHECK(vnic_empty(&caller));
    world_stop(&world);
}

static void test_a_handle_is_for_what_it_was_granted_for(void) {
    struct world world;
    struct vnic a, b;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&b, &world, 1);
    for (uint32_t allows = LAYER8_ALLOW_SEND; allows <= LAYER8_ALLOW_REQUEST; allows++) {
        uint32_t handle = allows | allows << 16;
        uint64_t token = ++world.token;
        CHECK(layer8_switch_command(world.sw, LAYER8_COMMAND_GRANT, token, a.id, handle, LAYER8_TARGET_PORT, b.id, allows,
                                    NULL) == LAYER8_OK);
        CHECK(world_wait(&world, token, 0) == LAYER8_OK);
        CHECK(layer8_send(a.port, handle, (const uint8_t *)"s", 1) > 0);
        CHECK(layer8_request(a.port, handle, (const uint8_t *)"r", 1, 9, 0) > 0);
        struct got refused = vnic_receive(&a);
        struct got arrived = vnic_receive(&b);
        bool sends = allows == LAYER8_ALLOW_SEND;
        CHECK(refused.record.reason == LAYER8_REASON_REVOKED && refused.record.correlation == (sends ? 9u : 0u));
        CHECK(arrived.entry.kind == (sends ? LAYER8_UNICAST : LAYER8_REQUEST));
    }
    world_stop(&world);
}

static void test_a_cancel_reaches_the_callee_and_ends_the_right(void) {
    struct world world;
    struct vnic caller, callee;
    world_start(&world);
    vnic_attach(&caller, &world, 0);
    vnic_attach(&callee, &world, 1);
    uint32_t to = vnic_grant(&caller, 0, LAYER8_TARGET_PORT, callee.id);
    CHECK(layer8_request(caller.port, to, (const uint8_t *)"q", 1, 9, 0) > 0);
    struct got question = vnic_receive(&callee);
    layer8_outgoing cancel = {.kind = LAYER8_CANCEL, .handle = to, .correlation = 9};
    CHECK(layer8_push(caller.port, &cancel) == LAYER8_OK);
    struct got told = vnic_receive(&callee);
    CHECK(told.entry.kind == LAYER8_CANCEL && told.record.correlation == 9);
    CHECK(layer8_reply(callee.port, question.record.missed, question.record.topic, 9, (const uint8_t *)"late", 4) > 0);
    CHECK(world_command(&world, LAYER8_COMMAND_QUIESCE, 0, 0, 0, 0, NULL) == LAYER8_OK);
    CHECK(vnic_empty(&caller));
    world_stop(&world);
}

static void test_a_record_expires_where_it_waits(void) {
    struct world world;
    struct vnic a, b, other;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&b, &world, 1);
    vnic_attach(&other, &world, 2);
    uint32_t to_b = vnic_grant(&a, 0, LAYER8_TARGET_PORT, b.id);
    uint32_t others = vnic_grant(&other, 0, LAYER8_TARGET_PORT, b.id);
    uint32_t accepted = overfill(&other, others);
    vnic_ignore_xoff(&a, 0);
    layer8_outgoing brief = {
        .kind = LAYER8_UNICAST, .handle = to_b, .payload = big, .length = 8000, .ttl = 60};
    CHECK(layer8_push(a.port, &brief) == LAYER8_OK);
    struct got got = vnic_receive(&a);
    CHECK(got.entry.kind == LAYER8_NOTICE && got.record.reason == LAYER8_REASON_EXPIRED);
    CHECK((int64_t)got.record.sequence == brief.sequence && got.record.ttl == 8000);
    for (uint32_t n = 0; n < accepted; n++) {
        CHECK(vnic_receive(&b).entry.length == 8000);
    }
    CHECK(vnic_empty(&b));
    world_stop(&world);
}

static void *hostile_main(void *argument) {
    struct vnic *vnic = argument;
    uint32_t seed = 12345;
    uint8_t *base = vnic->port->base;
    for (int n = 0; n < 2000000; n++) {
        seed = seed * 1664525u + 1013904223u;
        uint64_t at = (seed >> 8) % (LAYER8_OFFSET_RINGS + 4096u);
        uint8_t value = (uint8_t)(seed >> 3);
        if (at >= LAYER8_OFFSET_CONTROL) {
            __atomic_store_n(base + at, value, __ATOMIC_RELAXED);
        }
        if (n % 4096 == 0) {
            (void)layer8_send(vnic->port, seed & 7u, (const uint8_t *)&seed, 4);
            layer8_port_ring(vnic->port);
        }
    }
    return NULL;
}

static void test_a_hostile_segment_costs_only_its_own_port(void) {
    struct world world;
    struct vnic a, b, hostile;
    pthread_t thread;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&b, &world, 1);
    vnic_attach(&hostile, &world, 2);
    uint32_t to_b = vnic_grant(&a, 0, LAYER8_TARGET_PORT, b.id);
    (void)vnic_grant(&hostile, 0, LAYER8_TARGET_PORT, b.id);
    (void)vnic_grant(&hostile, 1, LAYER8_TARGET_TOPIC, 1);
    CHECK(vnic_command(&hostile, LAYER8_COMMAND_SUBSCRIBE, 1, 0, 0) == LAYER8_OK);
    uint32_t topic = vnic_grant(&a, 1, LAYER8_TARGET_TOPIC, 1);
    CHECK(pthread_create(&thread, NULL, hostile_main, &hostile) == 0);
    for (uint32_t n = 0; n < 20000; n++) {
        CHECK(vnic_send(&a, to_b, &n, sizeof n) > 0);
        (void)layer8_publish(a.port, topic, big, 64, 0);
        for (;;) {
            struct got got = vnic_receive(&b);
            uint8_t uuid[16];
            (void)layer8_port_source(b.port, got.entry.source, uuid);
            if (memcmp(uuid, a.uuid, 16) == 0) {
                CHECK(memcmp(got.payload, &n, sizeof n) == 0);
                break;
            }
            CHECK(memcmp(uuid, hostile.uuid, 16) == 0);
        }
    }
    CHECK(pthread_join(thread, NULL) == 0);
    layer8_port_ring(hostile.port);
    (void)world_wait(&world, 0, 1);
    CHECK(world.violations == 1 && world.gone == 1);
    world_stop(&world);
}

int main(void) {
    (void)alarm(280);
    test_unicast_arrives_stamped_and_in_order();
    test_a_handle_not_granted_comes_back();
    test_a_full_receiver_holds_its_senders_only();
    test_what_is_held_for_the_dead_goes_back();
    test_an_overfilled_hold_ring_drains_in_order();
    test_anycast_takes_turns_and_prefers_the_emptiest();
    test_publication_reaches_all_and_a_slow_subscriber_is_told();
    test_reliable_publication_waits_for_the_slow();
    test_a_stuck_subscriber_of_reliable_publications_holds_nothing_else_up();
    test_a_large_message_arrives_whole_or_not_at_all();
    test_request_is_answered_once_and_by_the_callee_only();
    test_a_dead_callee_fails_its_requests_at_once();
    test_replies_survive_a_callee_that_leaves_right_after();
    test_a_caller_that_does_not_read_stops_no_service();
    test_a_revoked_handle_fails_its_outstanding_requests_alone();
    test_a_handle_is_for_what_it_was_granted_for();
    test_a_cancel_reaches_the_callee_and_ends_the_right();
    test_a_record_expires_where_it_waits();
    test_a_hostile_segment_costs_only_its_own_port();
    puts("test_switch: all passed");
    return 0;
}
