/* test_switch_aborts.c - whoever got the beginning of a message and will not get its end is told, whatever ended it. */
#include "port.h"
#include "switch_world.h"

static uint8_t big[3 << 20];

static uint64_t assembling(struct vnic *vnic) {
    layer8_port_stats stats;
    layer8_port_read_stats(vnic->port, &stats);
    return stats.assembling_bytes;
}

static void push_some(struct vnic *vnic, layer8_outgoing *out) {
    int status = layer8_push(vnic->port, out);
    CHECK(status == LAYER8_FULL || status == LAYER8_XOFF);
    (void)layer8_wait_room(vnic->port, -1, LAYER8_FRAGMENT_BYTES, SECOND / 100, 0);
}

struct asked {
    struct world world;
    struct vnic caller, callee;
    uint32_t to;
    layer8_outgoing answer;
};

/* A request, and the beginning of its answer with whoever asked. */
static void ask_and_begin(struct asked *asked) {
    world_start(&asked->world);
    vnic_attach(&asked->caller, &asked->world, 0);
    vnic_attach(&asked->callee, &asked->world, 1);
    asked->to = vnic_grant(&asked->caller, 0, LAYER8_TARGET_PORT, asked->callee.id);
    CHECK(layer8_request(asked->caller.port, asked->to, (const uint8_t *)"q", 1, 9, 0) > 0);
    struct got question = vnic_receive(&asked->callee);
    asked->answer = (layer8_outgoing){.kind = LAYER8_REPLY,
                                      .right = question.record.missed,
                                      .right_generation = question.record.topic,
                                      .correlation = 9,
                                      .payload = big,
                                      .length = sizeof big};
    while (assembling(&asked->caller) == 0) {
        push_some(&asked->callee, &asked->answer);
        CHECK(vnic_empty(&asked->caller));
    }
}

/* The callee goes on, for it need not have heard that nobody waits any more. */
static void go_on_to_the_end(struct asked *asked) {
    int status;
    while ((status = layer8_push(asked->callee.port, &asked->answer)) != LAYER8_OK) {
        CHECK(status == LAYER8_FULL);
        CHECK(vnic_empty(&asked->caller));
        (void)layer8_wait_room(asked->callee.port, -1, LAYER8_FRAGMENT_BYTES, SECOND / 100, 0);
    }
    CHECK(world_command(&asked->world, LAYER8_COMMAND_QUIESCE, 0, 0, 0, 0, NULL) == LAYER8_OK);
    CHECK(vnic_empty(&asked->caller));
    layer8_port_stats stats;
    layer8_port_read_stats(asked->caller.port, &stats);
    CHECK(stats.assembling_bytes == 0 && stats.messages_aborted == 1);
    world_stop(&asked->world);
}

static void test_an_answer_that_has_begun_ends_with_the_handle_it_was_asked_under(void) {
    struct asked asked;
    ask_and_begin(&asked);
    CHECK(vnic_command(&asked.caller, LAYER8_COMMAND_REVOKE, asked.to, LAYER8_SLOT_REVOKED, 0) == LAYER8_OK);
    CHECK(vnic_receive(&asked.caller).record.reason == LAYER8_REASON_REVOKED);
    CHECK(assembling(&asked.caller) == 0); /* at once: the callee may never go on */
    go_on_to_the_end(&asked);
}

static void test_an_answer_that_has_begun_ends_when_another_one_came_first(void) {
    struct asked asked;
    ask_and_begin(&asked);
    while (layer8_reply(asked.callee.port, asked.answer.right, asked.answer.right_generation, 9, (const uint8_t *)"a",
                        1) < 0) {
        CHECK(vnic_empty(&asked.caller));
    }
    CHECK(vnic_receive(&asked.caller).entry.length == 1);
    go_on_to_the_end(&asked);
}

static void until_taken(struct vnic *vnic) {
    layer8_port_stats stats;
    for (int tries = 0;; tries++) {
        layer8_port_read_stats(vnic->port, &stats);
        if (stats.transmit_fill == 0) {
            return;
        }
        CHECK(tries < 20000);
        (void)poll(NULL, 0, 1);
    }
}

static void test_an_abort_waits_until_its_receiver_has_room_for_it(void) {
    struct world world;
    struct vnic receiver, sender, other;
    layer8_port_stats stats;
    world_start(&world);
    vnic_attach(&receiver, &world, 0);
    vnic_attach(&sender, &world, 1);
    vnic_attach(&other, &world, 2);
    uint32_t to = vnic_grant(&sender, 0, LAYER8_TARGET_PORT, receiver.id);
    uint32_t others = vnic_grant(&other, 0, LAYER8_TARGET_PORT, receiver.id);
    layer8_outgoing message = {.kind = LAYER8_UNICAST, .handle = to, .payload = big, .length = sizeof big};
    while (assembling(&receiver) == 0) {
        push_some(&sender, &message);
        CHECK(vnic_empty(&receiver));
    }
    do { /* its ring is full, */
        vnic_ignore_xoff(&other, 0);
        CHECK(layer8_send(other.port, others, big, 4000) > 0);
        until_taken(&other);
        layer8_port_read_stats(receiver.port, &stats);
    } while (stats.receive_fill < LAYER8_RING_MIN / 8 * 7 - 4200);
    for (int n = 0; n < 1100; n++) { /* and what is kept for notices too */
        CHECK(vnic_send(&receiver, 99, "x", 1) > 0);
    }
    until_taken(&receiver);
    layer8_port_read_stats(receiver.port, &stats);
    CHECK(stats.receive_fill > LAYER8_RING_MIN - 1000);
    layer8_push_abort(sender.port, &message);
    until_taken(&sender);
    for (int tries = 0; assembling(&receiver) != 0; tries++) {
        while (!vnic_empty(&receiver)) {
        }
        CHECK(tries < 2000);
        (void)layer8_wait_arrived(receiver.port, SECOND / 100, 0);
    }
    world_stop(&world);
}

static void fill(struct vnic *sender, uint32_t to, uint32_t count) {
    for (uint32_t sent = 0; sent < count; sent++) {
        vnic_ignore_xoff(sender, 0);
        CHECK(layer8_send(sender->port, to, big, 4000) > 0);
        until_taken(sender);
    }
}

static void take(struct vnic *receiver, uint32_t count) {
    for (uint32_t taken = 0; taken < count; taken++) {
        CHECK(vnic_receive(receiver).entry.length == 4000);
    }
}

static void test_nobody_hears_of_a_message_whose_beginning_is_not_there(void) {
    struct world world;
    struct vnic receiver, sender;
    layer8_port_stats stats;
    world_start(&world);
    vnic_attach(&receiver, &world, 0);
    vnic_attach(&sender, &world, 1);
    uint32_t to = vnic_grant(&sender, 0, LAYER8_TARGET_PORT, receiver.id);
    fill(&sender, to, 110); /* almost what its ring takes */
    layer8_outgoing message = {.kind = LAYER8_UNICAST, .handle = to, .payload = big, .length = sizeof big};
    vnic_ignore_xoff(&sender, 0);
    push_some(&sender, &message);
    CHECK(message.fragment != 0);
    CHECK(vnic_command(&sender, LAYER8_COMMAND_REVOKE, to, LAYER8_SLOT_REVOKED, 0) == LAYER8_OK);
    CHECK(vnic_receive(&sender).record.reason == LAYER8_REASON_REVOKED);
    take(&receiver, 110);
    CHECK(vnic_empty(&receiver));
    layer8_port_read_stats(receiver.port, &stats);
    CHECK(stats.received_records == 110);
    world_stop(&world);
}

/* Nobody waits for its reply any more, and the callee has no room to be told of that. */
static void test_a_cancelled_request_whose_rest_is_refused_leaves_no_beginning(void) {
    struct world world;
    struct vnic caller, callee;
    layer8_port_stats stats;
    world_start(&world);
    vnic_attach(&caller, &world, 0);
    vnic_attach(&callee, &world, 1);
    uint32_t to = vnic_grant(&caller, 0, LAYER8_TARGET_PORT, callee.id);
    fill(&caller, to, 70);
    layer8_outgoing request = {
        .kind = LAYER8_REQUEST, .handle = to, .correlation = 9, .payload = big, .length = 5 * LAYER8_FRAGMENT_BYTES};
    do {
        vnic_ignore_xoff(&caller, 0);
    } while (layer8_push(caller.port, &request) != LAYER8_OK);
    until_taken(&caller);
    layer8_outgoing cancel = {.kind = LAYER8_CANCEL, .handle = to, .correlation = 9};
    vnic_ignore_xoff(&caller, 0);
    CHECK(layer8_push(caller.port, &cancel) == LAYER8_OK);
    until_taken(&caller);
    CHECK(vnic_command(&caller, LAYER8_COMMAND_REVOKE, to, LAYER8_SLOT_REVOKED, 0) == LAYER8_OK);
    take(&callee, 70);
    for (int tries = 0; tries < 20; tries++) {
        (void)vnic_empty(&callee);
        (void)layer8_wait_arrived(callee.port, SECOND / 100, 0);
    }
    layer8_port_read_stats(callee.port, &stats);
    CHECK(stats.received_records > 70 && stats.assembling_bytes == 0 && stats.messages_aborted == 1);
    world_stop(&world);
}

int main(void) {
    (void)alarm(280);
    test_an_answer_that_has_begun_ends_with_the_handle_it_was_asked_under();
    test_an_answer_that_has_begun_ends_when_another_one_came_first();
    test_an_abort_waits_until_its_receiver_has_room_for_it();
    test_nobody_hears_of_a_message_whose_beginning_is_not_there();
    test_a_cancelled_request_whose_rest_is_refused_leaves_no_beginning();
    puts("test_switch_aborts: all passed");
    return 0;
}
