/* test_halves.c - a message stands half at its receiver when the Vnet dies, and nobody may ever hear of its end: what the next one
 * makes of it, once sender and receiver have said what they have. */
#include "adoption_scene.h"

#define SLOT 3u
#define FRAGMENTS 6u

static uint8_t content[(FRAGMENTS - 1) * LAYER8_FRAGMENT_BYTES + 100];

struct half_scene {
    struct scene scene;
    struct vnic *sender, *receiver, *other;
    uint32_t handle, kind;
    layer8_outgoing message;
};

static uint64_t half_at(const struct vnic *vnic) {
    layer8_port_stats stats;
    layer8_port_read_stats(vnic->port, &stats);
    return stats.assembling_bytes;
}

static void resume_told(struct scene *scene, uint32_t n) {
    static uint8_t told[(LAYER8_GOING_MAX + LAYER8_HALVES_MAX) * LAYER8_HALF_BYTES];
    struct vnic *vnic = &scene->vnics[n];
    uint32_t going = layer8_port_going(vnic->port, told, LAYER8_GOING_MAX);
    uint32_t halves = layer8_port_halves(vnic->port, told + going * LAYER8_HALF_BYTES, LAYER8_HALVES_MAX);
    CHECK(world_command(&scene->world, LAYER8_COMMAND_RESUME, vnic->id, going, halves, 0, told) == LAYER8_OK);
}

static void renew_all(struct half_scene *at, uint32_t n) {
    if (n == 0) {
        renew(&at->scene, 0, at->handle, at->kind == LAYER8_PUBLISH ? LAYER8_TARGET_TOPIC : LAYER8_TARGET_PORT,
              at->kind == LAYER8_PUBLISH ? 1 : at->receiver->id);
    } else if (at->kind == LAYER8_PUBLISH) {
        CHECK(vnic_command(&at->scene.vnics[n], LAYER8_COMMAND_SUBSCRIBE, 1, 5, 1) == LAYER8_OK);
    }
}

static void next_vnet(struct half_scene *at) {
    adopt_all(&at->scene);
    for (uint32_t n = VNICS; n-- > 0;) {
        renew_all(at, n);
    }
    for (uint32_t n = 0; n < VNICS; n++) {
        resume_told(&at->scene, n);
    }
    start(&at->scene);
}

static void next_vnet_without_sender(struct half_scene *at) {
    open_world(&at->scene, 1);
    for (uint32_t n = 1; n < VNICS; n++) {
        add(&at->scene, n, NEXT);
        resume_told(&at->scene, n);
    }
    start(&at->scene);
}

/* Until what has come so far was read. */
static void read_halves(struct half_scene *at, uint64_t records) {
    layer8_port_stats stats = {0};
    for (int n = 0; n < 20000 && stats.received_records < records; n++) {
        CHECK(layer8_receive(at->receiver->port, 1, 0) == 0);
        layer8_port_read_stats(at->receiver->port, &stats);
        (void)usleep(500);
    }
    CHECK(stats.received_records == records);
}

/* At least one record that had not been read. */
static void read_some(struct half_scene *at) {
    layer8_port_stats before, now;
    layer8_port_read_stats(at->receiver->port, &before);
    do {
        CHECK(layer8_receive(at->receiver->port, 1, 0) == 0);
        layer8_port_read_stats(at->receiver->port, &now);
    } while (now.received_records == before.received_records);
}

static void expect_nothing_half(struct half_scene *at) {
    for (int n = 0; n < 20000 && half_at(at->receiver) != 0; n++) {
        CHECK(layer8_receive(at->receiver->port, 1, 0) == 0);
        (void)usleep(500);
    }
    CHECK(half_at(at->receiver) == 0);
}

/* Some of six fragments stand in the receiver's ring, the sender goes on. */
static void begin_unread(struct half_scene *at, uint32_t kind) {
    memset(at, 0, sizeof *at);
    begin(&at->scene);
    at->sender = &at->scene.vnics[0];
    at->receiver = &at->scene.vnics[1];
    at->other = &at->scene.vnics[2];
    at->kind = kind;
    if (kind == LAYER8_PUBLISH) {
        CHECK(vnic_command(at->receiver, LAYER8_COMMAND_SUBSCRIBE, 1, 5, 0) == LAYER8_OK);
        CHECK(vnic_command(at->other, LAYER8_COMMAND_SUBSCRIBE, 1, 5, 0) == LAYER8_OK);
        at->handle = vnic_grant(at->sender, SLOT, LAYER8_TARGET_TOPIC, 1);
    } else {
        at->handle = vnic_grant(at->sender, SLOT, LAYER8_TARGET_PORT, at->receiver->id);
    }
    die(&at->scene);
    at->message = (layer8_outgoing){.kind = (uint8_t)kind,
                                    .flags = kind == LAYER8_PUBLISH ? LAYER8_RELIABLE : 0,
                                    .handle = at->handle,
                                    .payload = content,
                                    .length = sizeof content};
    CHECK(layer8_push(at->sender->port, &at->message) == LAYER8_FULL && at->message.fragment > 0); /* what the ring takes */
    next_vnet(at);
    wait_moved(at->sender);
}

/* They stand in its memory. */
static void begin_half(struct half_scene *at, uint32_t kind) {
    begin_unread(at, kind);
    read_halves(at, at->message.fragment);
    CHECK(half_at(at->receiver) != 0);
}

static void finish_message(struct half_scene *at) {
    while (layer8_push(at->sender->port, &at->message) != LAYER8_OK) {
        (void)layer8_receive(at->other->port, 1, 0);
        CHECK(layer8_receive(at->receiver->port, 1, 0) == 0);
        (void)layer8_wait_room(at->sender->port, SLOT, LAYER8_FRAGMENT_BYTES, SECOND / 100, 0);
    }
    struct got got = vnic_receive(at->receiver);
    uint64_t length;
    const uint8_t *record, *payload = layer8_port_large(at->receiver->port, got.entry.offset, &length, &record);
    CHECK(got.entry.kind == at->kind && length == sizeof content && memcmp(payload, content, length) == 0);
    CHECK(half_at(at->receiver) <= FRAGMENTS * LAYER8_FRAGMENT_BYTES); /* the buffer of the batch */
}

/* The sender gives up, the switch moves that, and dies before it has found room to say so. */
static void give_up_unheard(struct half_scene *at) {
    struct layer8_control *control = at->receiver->port->control;
    uint64_t tail = layer8_load_seq(&control->receive_tail);
    layer8_push_abort(at->sender->port, &at->message);
    wait_moved(at->sender);
    die(&at->scene);
    layer8_store_seq(&control->receive_tail, tail);
}

static void a_message_that_was_given_up_is_dropped(uint32_t kind) {
    struct half_scene at;
    begin_half(&at, kind);
    give_up_unheard(&at);
    next_vnet(&at);
    expect_nothing_half(&at);
    end(&at.scene);
}

/* The receiver tells nothing of what it has not read. */
static void a_message_that_was_given_up_is_dropped_though_it_was_not_read(uint32_t kind) {
    struct half_scene at;
    begin_unread(&at, kind);
    give_up_unheard(&at);
    next_vnet(&at);
    read_some(&at);
    expect_nothing_half(&at);
    end(&at.scene);
}

/* Both sides know that requests are over, but not what of them stands in the ring. */
static void a_request_that_stands_half_unread_is_dropped(void) {
    static const uint8_t huge[2 << 20]; /* more than all rings on its way take */
    struct half_scene at;
    begin_half(&at, LAYER8_UNICAST);
    layer8_push_abort(at.sender->port, &at.message);
    expect_nothing_half(&at);
    at.message = (layer8_outgoing){
        .kind = LAYER8_REQUEST, .handle = at.handle, .payload = huge, .length = sizeof huge, .correlation = 77};
    uint64_t tail = layer8_load_seq(&at.receiver->port->control->receive_tail);
    CHECK(layer8_push(at.sender->port, &at.message) != LAYER8_OK && at.message.fragment > 0);
    while (layer8_load_seq(&at.receiver->port->control->receive_tail) == tail) {
        (void)usleep(500);
    }
    die(&at.scene);
    at.message.fragment = at.message.fragments; /* its library gives it up */
    next_vnet(&at);
    read_some(&at);
    expect_nothing_half(&at);
    end(&at.scene);
}

static void a_message_that_goes_on_arrives_whole(uint32_t kind, bool is_read) {
    struct half_scene at;
    begin_unread(&at, kind);
    if (is_read) {
        read_halves(&at, at.message.fragment);
    }
    die(&at.scene);
    next_vnet(&at);
    finish_message(&at);
    end(&at.scene);
}

static void a_message_that_was_given_up_while_no_vnet_was_there_is_dropped(void) {
    struct half_scene at;
    begin_half(&at, LAYER8_UNICAST);
    die(&at.scene);
    layer8_push_abort(at.sender->port, &at.message);
    next_vnet(&at);
    expect_nothing_half(&at);
    end(&at.scene);
}

/* Its receiver has resumed long before its sender does: it is neither dropped nor kept for ever. */
static void a_sender_that_is_late_decides(bool goes_on) {
    struct half_scene at;
    begin_half(&at, LAYER8_UNICAST);
    if (goes_on) {
        die(&at.scene);
    } else {
        give_up_unheard(&at);
    }
    next_vnet_without_sender(&at);
    CHECK(layer8_receive(at.receiver->port, 1, 0) == 0 && half_at(at.receiver) != 0);
    add(&at.scene, 0, NEXT);
    renew_all(&at, 0);
    resume_told(&at.scene, 0);
    if (goes_on) {
        finish_message(&at);
    } else {
        expect_nothing_half(&at);
    }
    end(&at.scene);
}

/* A receiver that is late asks a sender that has gone on long ago. */
static void a_receiver_that_is_late_is_told(void) {
    struct half_scene at;
    begin_half(&at, LAYER8_UNICAST);
    die(&at.scene);
    open_world(&at.scene, 1);
    add(&at.scene, 0, NEXT);
    resume_told(&at.scene, 0);
    start(&at.scene);
    (void)layer8_push(at.sender->port, &at.message); /* to nobody: its handle was not renewed */
    layer8_push_abort(at.sender->port, &at.message);
    wait_moved(at.sender);
    add(&at.scene, 1, NEXT);
    add(&at.scene, 2, NEXT);
    resume_told(&at.scene, 1);
    expect_nothing_half(&at);
    end(&at.scene);
}

static void a_sender_that_begins_anew_goes_on_with_nothing(void) {
    struct half_scene at;
    begin_half(&at, LAYER8_UNICAST);
    die(&at.scene);
    next_vnet_without_sender(&at);
    int status;
    layer8_port_close(at.sender->port);
    (void)close(at.scene.segments[0]);
    at.scene.segments[0] = layer8_segment_create(LAYER8_RING_MIN, at.sender->uuid);
    at.sender->port = layer8_port_open(at.scene.segments[0], UINT64_C(8) << 20, UINT64_C(32) << 20, &status);
    CHECK(at.sender->port != NULL);
    add(&at.scene, 0, EARLIER);
    expect_nothing_half(&at);
    end(&at.scene);
}

static void a_sender_that_dies_before_it_has_resumed_goes_on_with_nothing(void) {
    struct half_scene at;
    begin_half(&at, LAYER8_UNICAST);
    die(&at.scene);
    adopt_all(&at.scene);
    renew_all(&at, 0);
    resume_told(&at.scene, 1);
    resume_told(&at.scene, 2);
    CHECK(vnic_command(at.sender, LAYER8_COMMAND_REMOVE_PORT, LAYER8_REASON_GONE, 0, 0) == LAYER8_OK);
    start(&at.scene);
    expect_nothing_half(&at);
    end(&at.scene);
}

/* The policy has changed: the handle is not granted again, and nobody knows any more to whom it was. */
static void a_message_whose_handle_is_not_renewed_is_dropped(void) {
    struct half_scene at;
    begin_half(&at, LAYER8_UNICAST);
    die(&at.scene);
    adopt_all(&at.scene);
    for (uint32_t n = 0; n < VNICS; n++) {
        resume_told(&at.scene, n);
    }
    start(&at.scene);
    expect_nothing_half(&at);
    end(&at.scene);
}

/* A fragment was refused, and noted so; the switch died before it could tell who has the beginning. */
static void what_was_refused_in_the_middle_is_dropped(void) {
    struct half_scene at;
    begin_half(&at, LAYER8_UNICAST);
    die(&at.scene);
    struct layer8_control *control = at.sender->port->control;
    uint64_t head = layer8_load_seq(&control->transmit_tail);
    CHECK(at.message.fragment == 3 && layer8_push(at.sender->port, &at.message) == LAYER8_OK); /* the other three */
    uint8_t *ring = at.sender->port->transmit;
    uint64_t offset = head & (at.sender->port->transmit_capacity - 1);
    struct layer8_record record;
    memcpy(&record, ring + offset, sizeof record);
    if (record.kind == LAYER8_PAD) {
        offset = 0;
    }
    struct layer8_record *refused = (struct layer8_record *)(void *)(ring + offset);
    CHECK(refused->kind == LAYER8_UNICAST && refused->fragment == 3);
    refused->reason = LAYER8_REASON_EXPIRED;
    next_vnet(&at);
    expect_nothing_half(&at);
    struct got notice = vnic_receive(at.sender);
    CHECK(notice.entry.kind == LAYER8_NOTICE && notice.record.reason == LAYER8_REASON_EXPIRED);
    CHECK(vnic_send(at.sender, at.handle, "next", 4) > 0);
    expect(at.receiver, "next", 4);
    layer8_port_stats stats;
    layer8_port_read_stats(at.receiver->port, &stats);
    CHECK(stats.fragments_discarded == 0); /* the two behind it went nowhere */
    end(&at.scene);
}

/* What was held and is delivered is found again, because something older is held before it; later fragments are not. The
 * sender goes on behind those. */
static void a_fragment_found_again_does_not_make_the_next_one_a_violation(void) {
    struct half_scene at;
    begin_half(&at, LAYER8_UNICAST);
    die(&at.scene);
    struct layer8_control *control = at.sender->port->control;
    struct layer8_record first = {.kind = LAYER8_UNICAST,
                                  .flags = LAYER8_FIRST,
                                  .slot = SLOT,
                                  .generation = (uint16_t)(at.handle >> 16),
                                  .length = LAYER8_FRAGMENT_BYTES,
                                  .sequence = (uint64_t)at.message.sequence,
                                  .correlation = (uint64_t)at.message.sequence,
                                  .fragments = FRAGMENTS};
    uint64_t tail = layer8_load_seq(&control->hold_tail);
    CHECK(tail % at.sender->port->hold_capacity == 0);
    memcpy((uint8_t *)(uintptr_t)at.sender->port->hold, &first, sizeof first);
    layer8_store_seq(&control->hold_head, tail);
    layer8_store_seq(&control->hold_tail, tail + LAYER8_RECORD_BYTES + LAYER8_FRAGMENT_BYTES);
    next_vnet(&at);
    finish_message(&at);
    CHECK(at.scene.world.violations == 0);
    CHECK(doubles(at.receiver) == 1);
    end(&at.scene);
}

int main(void) {
    (void)alarm(280);
    for (size_t n = 0; n < sizeof content; n++) {
        content[n] = (uint8_t)(n * 131 >> 5);
    }
    a_message_that_was_given_up_is_dropped(LAYER8_UNICAST);
    a_message_that_was_given_up_is_dropped(LAYER8_PUBLISH);
    a_message_that_was_given_up_is_dropped_though_it_was_not_read(LAYER8_UNICAST);
    a_message_that_was_given_up_is_dropped_though_it_was_not_read(LAYER8_PUBLISH);
    a_request_that_stands_half_unread_is_dropped();
    for (int is_read = 0; is_read < 2; is_read++) {
        a_message_that_goes_on_arrives_whole(LAYER8_UNICAST, is_read);
        a_message_that_goes_on_arrives_whole(LAYER8_PUBLISH, is_read);
    }
    a_message_that_was_given_up_while_no_vnet_was_there_is_dropped();
    a_sender_that_is_late_decides(true);
    a_sender_that_is_late_decides(false);
    a_receiver_that_is_late_is_told();
    a_sender_that_begins_anew_goes_on_with_nothing();
    a_sender_that_dies_before_it_has_resumed_goes_on_with_nothing();
    a_message_whose_handle_is_not_renewed_is_dropped();
    what_was_refused_in_the_middle_is_dropped();
    a_fragment_found_again_does_not_make_the_next_one_a_violation();
    return 0;
}
