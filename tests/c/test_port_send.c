/* Sending: the transmit ring, the marks of handles, messages in fragments and their aborts. */
#include <fcntl.h>
#include <sys/stat.h>

#include "fake_vnet.h"

static uint8_t bytes[UINT64_C(6) << 20];
static uint8_t behind[LAYER8_FRAGMENT_BYTES];

static void segment_is_sealed_and_of_its_size(void) {
    uint8_t uuid[16] = {9};
    CHECK(layer8_segment_create(LAYER8_RING_MIN / 2, uuid) < 0);
    CHECK(layer8_segment_create(LAYER8_RING_MIN + 4096, uuid) < 0);
    int fd = layer8_segment_create(LAYER8_RING_MIN, uuid);
    CHECK(fd >= 0);
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    struct stat about;
    CHECK((fcntl(fd, F_GET_SEALS) & seals) == seals);
    CHECK(fstat(fd, &about) == 0 && about.st_size == (off_t)(LAYER8_SEGMENT_BYTES(LAYER8_RING_MIN)));
    CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    int status = 0;
    CHECK(layer8_port_open(fd, 0, 0, &status) == NULL && status == LAYER8_INVALID);
    (void)close(fd);
    CHECK(layer8_port_open(fd, 1, 0, &status) == NULL && status == LAYER8_SYSTEM);
}

static void records_carry_what_was_sent_around_the_ring(void) {
    struct fake fake;
    struct layer8_record record;
    uint64_t random = 88172645463325252u;
    fake_open(&fake);
    for (int64_t n = 1; n <= 20000; n++) {
        uint64_t length = fake_random(&random) % 3000;
        const uint8_t *from = bytes + fake_random(&random) % 1000;
        CHECK(layer8_send(fake.port, 5u | 7u << 16, from, length) == n);
        CHECK(fake_take(&fake, &record, behind));
        CHECK(record.kind == LAYER8_UNICAST && record.flags == (LAYER8_FIRST | LAYER8_LAST) && record.fragments == 1);
        CHECK(record.slot == 5 && record.generation == 7 && record.sequence == (uint64_t)n && record.length == length);
        CHECK(memcmp(behind, from, length) == 0);
    }
    CHECK(!fake_take(&fake, &record, NULL));
    fake_close(&fake);
}

static void each_call_writes_its_kind(void) {
    struct fake fake;
    struct layer8_record record;
    fake_open(&fake);
    CHECK(layer8_publish(fake.port, 1, bytes, 3, 1) == 1);
    CHECK(fake_take(&fake, &record, NULL) && record.kind == LAYER8_PUBLISH);
    CHECK((record.flags & LAYER8_RELIABLE) != 0);
    CHECK(layer8_request(fake.port, 1, bytes, 3, 77, 500) == 2);
    CHECK(fake_take(&fake, &record, NULL) && record.kind == LAYER8_REQUEST);
    CHECK(record.correlation == 77 && record.ttl == 500);
    CHECK(layer8_reply(fake.port, 70000, 9, 77, bytes, 3) == 3);
    CHECK(fake_take(&fake, &record, NULL) && record.kind == LAYER8_REPLY && record.slot == 0);
    CHECK(record.missed == 70000 && record.topic == 9 && record.correlation == 77);
    layer8_outgoing failed = {.kind = LAYER8_FAILED_REPLY, .right = 8, .right_generation = 2, .correlation = 5,
                              .reason = LAYER8_REASON_FAILED, .handle = 99};
    CHECK(layer8_push(fake.port, &failed) == LAYER8_OK && failed.sequence == 4);
    CHECK(fake_take(&fake, &record, NULL) && record.kind == LAYER8_FAILED_REPLY && record.slot == 0);
    CHECK(record.missed == 8 && record.topic == 2 && record.reason == LAYER8_REASON_FAILED);
    layer8_outgoing headed = {.kind = LAYER8_UNICAST, .handle = 3, .headers = bytes, .headers_length = 20,
                              .payload = bytes + 20, .length = 30, .ttl = 9};
    CHECK(layer8_push(fake.port, &headed) == LAYER8_OK);
    CHECK(fake_take(&fake, &record, behind) && record.headers == 20 && record.length == 50 && record.ttl == 9);
    CHECK((record.flags & LAYER8_HEADERS) != 0 && memcmp(behind, bytes, 50) == 0 && record.correlation == 0);
    fake_close(&fake);
}

static void full_ring_refuses_and_takes_again(void) {
    struct fake fake;
    struct layer8_record record;
    int64_t sent = 0, result;
    fake_open(&fake);
    while ((result = layer8_send(fake.port, 1, bytes, 1000)) > 0) {
        sent = result;
    }
    CHECK(result == LAYER8_FULL);
    CHECK(sent == (int64_t)(LAYER8_RING_MIN / 2 / 1088));
    CHECK(layer8_wait_room(fake.port, 1, 1000, 0, 0) == 0);
    CHECK(fake_take(&fake, &record, NULL) && fake_take(&fake, &record, NULL));
    CHECK(layer8_wait_room(fake.port, 1, 1000, 0, 0) == 1);
    CHECK(layer8_send(fake.port, 1, bytes, 1000) == sent + 1); /* a refused one has no number */
    for (int64_t n = 3; n <= sent + 1; n++) {
        CHECK(fake_take(&fake, &record, NULL) && record.sequence == (uint64_t)n);
    }
    fake_close(&fake);
}

static void marks_of_a_handle_are_looked_at_first(void) {
    struct fake fake;
    struct layer8_record record;
    fake_open(&fake);
    fake_mark(&fake, 4, LAYER8_SLOT_XOFF);
    CHECK(layer8_send(fake.port, 4, bytes, 1) == LAYER8_XOFF);
    CHECK(layer8_slot_state(fake.port, 4) == LAYER8_SLOT_XOFF);
    CHECK(layer8_wait_room(fake.port, 4, 1, 0, 0) == 0);
    CHECK(layer8_send(fake.port, 3, bytes, 1) == 1);
    layer8_outgoing cancel = {.kind = LAYER8_CANCEL, .handle = 4 | 1 << 16, .correlation = 12};
    CHECK(layer8_push(fake.port, &cancel) == LAYER8_OK);
    CHECK(fake_take(&fake, &record, NULL) && fake_take(&fake, &record, NULL));
    CHECK(record.kind == LAYER8_CANCEL && record.slot == 4 && record.correlation == 12);
    fake_mark(&fake, 4, LAYER8_SLOT_REVOKED);
    CHECK(layer8_publish(fake.port, 4, bytes, 1, 0) == LAYER8_REVOKED);
    CHECK(layer8_wait_room(fake.port, 4, 1, 0, 0) == LAYER8_REVOKED);
    fake_mark(&fake, 4, LAYER8_SLOT_GONE);
    CHECK(layer8_request(fake.port, 4, bytes, 1, 1, 0) == LAYER8_GONE);
    fake_mark(&fake, 4, LAYER8_SLOT_OPEN);
    CHECK(layer8_send(fake.port, 4, bytes, 1) == 3);
    CHECK(layer8_send(fake.port, LAYER8_SLOTS, bytes, 1) == LAYER8_INVALID);
    CHECK(layer8_slot_state(fake.port, LAYER8_SLOTS) == LAYER8_INVALID);
    fake_close(&fake);
}

static void what_must_be_held_waits_for_the_switch_in_bursts(void) {
    struct fake fake;
    struct layer8_record record;
    fake_open(&fake);
    const uint64_t burst = LAYER8_BURST(LAYER8_RING_MIN / 2);
    fake_mark(&fake, 4, LAYER8_SLOT_METERED);
    for (int64_t sent = 0, begun = 0, rounds = 0; rounds < 1000; rounds++) {
        while (layer8_send(fake.port, 4, bytes, 960) > 0) {
            sent++;
        }
        CHECK((uint64_t)(sent - begun) * 1024 > burst && (uint64_t)(sent - begun - 1) * 1024 <= burst);
        CHECK(layer8_send(fake.port, 3, bytes, 1) > 0); /* others go on, and it waits for itself alone */
        CHECK(layer8_publish(fake.port, 4, bytes, 1, 0) > 0);
        CHECK(layer8_publish(fake.port, 4, bytes, 1, 1) == LAYER8_FULL);
        CHECK(layer8_wait_room(fake.port, 4, 960, 0, 0) == 0 && layer8_wait_room(fake.port, 3, 960, 0, 0) == 1);
        while (begun < sent) {
            CHECK(fake_take(&fake, &record, NULL));
            begun += record.length == 960;
            CHECK(begun != sent || layer8_wait_room(fake.port, 4, 960, 0, 0) == 1);
        }
        for (int n = 0; n < 400 && rounds % 8 == 0; n++) { /* much else passes */
            CHECK(layer8_send(fake.port, 3, bytes, 4000) > 0 && fake_take(&fake, &record, NULL));
        }
    }
    fake_close(&fake);
}

static void too_large_writes_nothing(void) {
    struct fake fake;
    struct layer8_record record;
    fake_open(&fake);
    CHECK(layer8_send(fake.port, 1, bytes, LAYER8_FRAGMENT_BYTES) == 1);
    CHECK(fake_take(&fake, &record, NULL));
    CHECK(layer8_send(fake.port, 1, bytes, LAYER8_FRAGMENT_BYTES + 1) == LAYER8_TOO_LARGE);
    layer8_outgoing huge = {.kind = LAYER8_UNICAST, .handle = 1, .payload = bytes, .length = FAKE_MESSAGE_MAX + 1};
    CHECK(layer8_push(fake.port, &huge) == LAYER8_TOO_LARGE);
    huge.length = UINT64_MAX;
    CHECK(layer8_push(fake.port, &huge) == LAYER8_TOO_LARGE);
    layer8_outgoing strange = {.kind = LAYER8_NOTICE};
    CHECK(layer8_push(fake.port, &strange) == LAYER8_INVALID);
    CHECK(!fake_take(&fake, &record, NULL));
    fake_close(&fake);
}

static void large_message_goes_in_full_fragments(void) {
    struct fake fake;
    struct layer8_record record;
    static uint8_t got[UINT64_C(2) << 20];
    const uint64_t total = (UINT64_C(1) << 20) + 777;
    uint64_t at = 0;
    fake_open(&fake);
    layer8_outgoing message = {.kind = LAYER8_UNICAST, .handle = 2, .headers = bytes, .headers_length = 100,
                               .payload = bytes + 100, .length = total - 100};
    CHECK(layer8_send(fake.port, 2, bytes, 1) == 1 && fake_take(&fake, &record, NULL));
    int status;
    uint32_t index = 0;
    do {
        status = layer8_push(fake.port, &message);
        CHECK(status == LAYER8_OK || status == LAYER8_FULL);
        while (fake_take(&fake, &record, got + at)) {
            CHECK(record.fragment == index && record.fragments == 17 && record.correlation == 2);
            CHECK(record.headers == (index == 0 ? 100 : 0));
            CHECK(((record.flags & LAYER8_FIRST) != 0) == (index == 0));
            CHECK(((record.flags & LAYER8_LAST) != 0) == (index == 16));
            CHECK(index == 16 || record.length == LAYER8_FRAGMENT_BYTES);
            at += record.length;
            index++;
        }
    } while (status == LAYER8_FULL);
    CHECK(message.sequence == 2 && at == total && memcmp(got, bytes, total) == 0);
    CHECK(fake.port->open_messages == 0);
    layer8_push_abort(fake.port, &message); /* it is over: nothing to take back */
    CHECK(!fake_take(&fake, &record, NULL));
    fake_close(&fake);
}

static void there_is_always_room_for_an_abort(void) {
    enum { OPEN = 40 };
    struct fake fake;
    struct layer8_record record;
    layer8_outgoing messages[OPEN];
    fake_open(&fake);
    for (uint32_t n = 0; n < OPEN; n++) { /* each begins, and none comes further than the ring lets it */
        messages[n] = (layer8_outgoing){.kind = n % 2 ? LAYER8_REPLY : LAYER8_UNICAST, .handle = n | 3 << 16,
                                        .right = n, .right_generation = 4, .correlation = 1000 + n, .payload = bytes,
                                        .length = 5 * LAYER8_FRAGMENT_BYTES};
        int status;
        do {
            status = layer8_push(fake.port, &messages[n]);
        } while (status == LAYER8_FULL && messages[n].fragment == 0 && fake_take(&fake, &record, NULL));
        CHECK(status == LAYER8_FULL && messages[n].fragment > 0);
        CHECK(fake.port->open_messages == n + 1);
    }
    while (layer8_send(fake.port, 1, bytes, 1) > 0) {
    }
    for (uint32_t n = 0; n < OPEN; n++) {
        layer8_push_abort(fake.port, &messages[n]);
        layer8_push_abort(fake.port, &messages[n]); /* once is enough */
    }
    CHECK(fake.port->open_messages == 0);
    uint32_t aborts = 0;
    while (fake_take(&fake, &record, NULL)) {
        if (record.kind == LAYER8_ABORT) {
            const layer8_outgoing *message = &messages[aborts++];
            CHECK(record.length == 0 && record.headers == 0 && record.reason == message->kind);
            if (message->kind == LAYER8_REPLY) {
                CHECK(record.missed == message->right && record.topic == 4);
                CHECK(record.correlation == message->correlation);
            } else {
                CHECK(record.slot == (message->handle & 0xffff) && record.generation == 3);
                CHECK(record.correlation == (uint64_t)message->sequence);
            }
        }
    }
    CHECK(aborts == OPEN);
    fake_close(&fake);
}

static void lost_destination_ends_a_message_with_its_abort(void) {
    struct fake fake;
    struct layer8_record record;
    fake_open(&fake);
    layer8_outgoing message = {.kind = LAYER8_PUBLISH, .handle = 6, .payload = bytes, .length = UINT64_C(1) << 20};
    CHECK(layer8_push(fake.port, &message) == LAYER8_FULL);
    fake_mark(&fake, 6, LAYER8_SLOT_XOFF);
    while (fake_take(&fake, &record, NULL)) {
    }
    CHECK(layer8_push(fake.port, &message) == LAYER8_XOFF);
    fake_mark(&fake, 6, LAYER8_SLOT_GONE);
    CHECK(layer8_push(fake.port, &message) == LAYER8_GONE);
    CHECK(fake_take(&fake, &record, NULL) && record.kind == LAYER8_ABORT && record.reason == LAYER8_PUBLISH);
    CHECK(fake.port->open_messages == 0 && !fake_take(&fake, &record, NULL));
    fake_close(&fake);
}

static void doorbell_rings_once_for_each_announcement(void) {
    struct fake fake;
    fake_open(&fake);
    CHECK(layer8_send(fake.port, 1, bytes, 1) == 1 && fake_rung(&fake) == 0);
    layer8_wakeup_announce(&fake.port->control->doorbell);
    CHECK(layer8_send(fake.port, 1, bytes, 1) == 2 && layer8_send(fake.port, 1, bytes, 1) == 3);
    CHECK(fake_rung(&fake) == 1);
    int other = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(layer8_port_set_doorbell(fake.port, other) == LAYER8_OK);
    layer8_wakeup_announce(&fake.port->control->doorbell);
    CHECK(layer8_send(fake.port, 1, bytes, 1) == 4);
    uint64_t tokens;
    CHECK(fake_rung(&fake) == 0 && read(other, &tokens, sizeof tokens) == sizeof tokens && tokens == 1);
    (void)close(other);
    fake_close(&fake);
}

static void a_token_owed_before_there_is_a_doorbell_is_paid(void) {
    uint8_t uuid[16] = {1};
    int status = 0;
    int fd = layer8_segment_create(LAYER8_RING_MIN, uuid);
    layer8_port *port = layer8_port_open(fd, FAKE_MESSAGE_MAX, 0, &status);
    CHECK(port != NULL);
    (void)close(fd);
    layer8_wakeup_announce(&port->control->doorbell);
    CHECK(layer8_send(port, 1, bytes, 1) == 1);
    int doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    uint64_t tokens = 0;
    CHECK(layer8_port_set_doorbell(port, doorbell) == LAYER8_OK);
    CHECK(read(doorbell, &tokens, sizeof tokens) == sizeof tokens && tokens == 1);
    (void)close(doorbell);
    layer8_port_close(port);
}

static void shut_port_refuses_with_its_status(void) {
    struct fake fake;
    fake_open(&fake);
    layer8_port_shut(fake.port, LAYER8_GONE);
    layer8_outgoing message = {.kind = LAYER8_UNICAST};
    CHECK(layer8_send(fake.port, 1, bytes, 1) == LAYER8_GONE);
    CHECK(layer8_push(fake.port, &message) == LAYER8_GONE);
    CHECK(layer8_wait_room(fake.port, -1, 1, 1000000000, 0) == LAYER8_GONE);
    fake_close(&fake);
}

static void stranded_records_are_listed(void) {
    struct fake fake;
    struct layer8_record table[8], record;
    fake_open(&fake);
    for (int n = 0; n < 5; n++) {
        CHECK(layer8_send(fake.port, 1, bytes, 100) == n + 1);
    }
    CHECK(fake_take(&fake, &record, NULL));
    CHECK(layer8_port_stranded(fake.port, 0, (uint8_t *)table, 8) == 4 && table[0].sequence == 2);
    CHECK(layer8_port_stranded(fake.port, 3, (uint8_t *)table, 8) == 1 && table[0].sequence == 5);
    CHECK(layer8_port_stranded(fake.port, 0, (uint8_t *)table, 2) == 2);
    record.sequence = 1; /* and one that the Vnet held */
    memcpy(fake.port->base + LAYER8_OFFSET_RINGS + LAYER8_RING_MIN * 3 / 2, &record, sizeof record);
    layer8_store_seq(&fake.port->control->hold_tail, layer8_record_span(record.length));
    CHECK(layer8_port_stranded(fake.port, 0, (uint8_t *)table, 8) == 5 && table[0].sequence == 1);
    fake_close(&fake);
}

int main(void) {
    for (size_t n = 0; n < sizeof bytes; n++) {
        bytes[n] = (uint8_t)(n * 31 + n / 251);
    }
    RUN(segment_is_sealed_and_of_its_size);
    RUN(records_carry_what_was_sent_around_the_ring);
    RUN(each_call_writes_its_kind);
    RUN(full_ring_refuses_and_takes_again);
    RUN(marks_of_a_handle_are_looked_at_first);
    RUN(what_must_be_held_waits_for_the_switch_in_bursts);
    RUN(too_large_writes_nothing);
    RUN(large_message_goes_in_full_fragments);
    RUN(there_is_always_room_for_an_abort);
    RUN(lost_destination_ends_a_message_with_its_abort);
    RUN(doorbell_rings_once_for_each_announcement);
    RUN(a_token_owed_before_there_is_a_doorbell_is_paid);
    RUN(shut_port_refuses_with_its_status);
    RUN(stranded_records_are_listed);
    return 0;
}
