/* Receiving: batches, what counts as fill, assembling, sources and doubles. */
#include "fake_vnet.h"

static uint8_t bytes[UINT64_C(5) << 20];

static const layer8_entry *entry_of(struct fake *fake, uint32_t n) { return &layer8_port_table(fake->port)[n]; }

static const uint8_t *payload_of(struct fake *fake, uint32_t n) {
    uint64_t size;
    return layer8_port_batch(fake->port, &size) + entry_of(fake, n)->offset;
}

static layer8_port_stats stats_of(struct fake *fake) {
    layer8_port_stats stats;
    layer8_port_read_stats(fake->port, &stats);
    return stats;
}

static void batch_has_payload_header_and_header_map(void) {
    struct fake fake;
    uint64_t random = 4711;
    fake_open(&fake);
    for (uint32_t round = 0; round < 3000; round++) {
        uint32_t count = 1 + (uint32_t)(fake_random(&random) % 7);
        uint32_t lengths[8];
        uint16_t headers[8];
        for (uint32_t n = 0; n < count; n++) {
            lengths[n] = (uint32_t)(fake_random(&random) % 2000);
            struct layer8_record record = fake_message(&fake, LAYER8_UNICAST, (uint8_t)n, lengths[n]);
            headers[n] = (uint16_t)(n % 2 ? fake_random(&random) % (lengths[n] + 1) : 0);
            record.headers = headers[n];
            CHECK(fake_put(&fake, &record, bytes + n));
        }
        CHECK(layer8_receive(fake.port, 256, 0) == (int)count);
        for (uint32_t n = 0; n < count; n++) {
            struct layer8_record record;
            const uint8_t *payload = payload_of(&fake, n);
            memcpy(&record, payload - LAYER8_RECORD_BYTES, sizeof record);
            CHECK(entry_of(&fake, n)->length == lengths[n] - headers[n] && record.length == lengths[n]);
            CHECK(record.headers == headers[n] && record.sequence == entry_of(&fake, n)->sequence);
            CHECK(memcmp(payload - LAYER8_RECORD_BYTES - headers[n], bytes + n, headers[n]) == 0);
            CHECK(memcmp(payload, bytes + n + headers[n], lengths[n] - headers[n]) == 0);
        }
    }
    CHECK(layer8_receive(fake.port, 256, 0) == 0);
    fake_close(&fake);
}

static void batch_is_bounded_by_count_and_bytes(void) {
    struct fake fake;
    fake_open(&fake);
    for (int n = 0; n < 300; n++) {
        struct layer8_record record = fake_message(&fake, LAYER8_UNICAST, 1, 10);
        CHECK(fake_put(&fake, &record, bytes));
    }
    CHECK(layer8_receive(fake.port, 3, 0) == 3);
    CHECK(layer8_receive(fake.port, 100000, 0) == 256);
    CHECK(layer8_receive(fake.port, 256, 0) == 41);
    for (int n = 0; n < 5; n++) {
        struct layer8_record record = fake_message(&fake, LAYER8_UNICAST, 1, 40000);
        CHECK(fake_put(&fake, &record, bytes));
    }
    CHECK(layer8_receive(fake.port, 256, 0) == 2);
    CHECK(layer8_receive(fake.port, 256, 0) == 2);
    CHECK(layer8_receive(fake.port, 256, 0) == 1);
    for (int n = 0; n < 2; n++) {
        struct layer8_record record = fake_message(&fake, LAYER8_UNICAST, 1, n == 0 ? 65400 : LAYER8_FRAGMENT_BYTES);
        CHECK(fake_put(&fake, &record, bytes));
    }
    CHECK(layer8_receive(fake.port, 256, 0) == 2);
    CHECK(memcmp(payload_of(&fake, 1), bytes, LAYER8_FRAGMENT_BYTES) == 0);
    fake_close(&fake);
}

static void batch_counts_as_fill_until_the_library_comes_back(void) {
    struct fake fake;
    fake_open(&fake);
    struct layer8_control *control = fake.port->control;
    struct layer8_record record = fake_message(&fake, LAYER8_UNICAST, 1, 1000);
    CHECK(fake_put(&fake, &record, bytes));
    layer8_wakeup_announce(&control->drained);
    CHECK(layer8_receive(fake.port, 256, 0) == 1);
    CHECK(layer8_load_seq(&control->receive_head) == 0 && fake_rung(&fake) == 0);
    layer8_set_unread(fake.port, LAYER8_RING_MIN / 2); /* the batch went to a long queue */
    CHECK(layer8_load_seq(&control->receive_head) == 1088 && fake_rung(&fake) == 0);
    CHECK(layer8_load_seq(&control->unread) == LAYER8_RING_MIN / 2);
    layer8_set_unread(fake.port, LAYER8_RING_MIN / 4 + 1);
    CHECK(fake_rung(&fake) == 0);
    layer8_set_unread(fake.port, LAYER8_RING_MIN / 4);
    CHECK(fake_rung(&fake) == 1);
    layer8_set_unread(fake.port, 0);
    CHECK(fake_rung(&fake) == 0); /* it had not asked again */

    CHECK(fake_put(&fake, &record, bytes) && layer8_receive(fake.port, 256, 64) == 1);
    CHECK(layer8_load_seq(&control->unread) == 64 && layer8_load_seq(&control->receive_head) == 1088);
    CHECK(layer8_wait_arrived(fake.port, 0, 0) == 0); /* who waits holds nothing but what it says */
    CHECK(layer8_load_seq(&control->unread) == 64 && layer8_load_seq(&control->receive_head) == 2176);
    fake_close(&fake);
}

static struct layer8_record fragment_of(struct fake *fake, uint8_t source, uint16_t index, uint16_t count,
                                        uint32_t length, uint64_t correlation) {
    struct layer8_record record = fake_message(fake, LAYER8_UNICAST, source, length);
    record.flags = (uint8_t)((index == 0 ? LAYER8_FIRST : 0) | (index + 1 == count ? LAYER8_LAST : 0));
    record.fragment = index;
    record.fragments = count;
    record.correlation = correlation;
    return record;
}

static void large_message_passes_a_smaller_ring(void) {
    struct fake fake;
    fake_open(&fake);
    const uint32_t last = 777;
    const uint16_t count = 33; /* 2 MiB through 512 KiB */
    for (int round = 0; round < 3; round++) {
        uint64_t first = fake.sequence + 1;
        int received = 0;
        for (uint16_t n = 0; n < count; n++) {
            struct layer8_record record =
                fragment_of(&fake, 1, n, count, n + 1 < count ? LAYER8_FRAGMENT_BYTES : last, first);
            if (n == 0) {
                record.headers = 50;
                record.flags |= LAYER8_HEADERS;
            } else if (n + 1 == count) {
                record.missed = 1234;
            }
            while (!fake_put(&fake, &record, bytes + (size_t)n * LAYER8_FRAGMENT_BYTES)) {
                CHECK(received == 0);
                received = layer8_receive(fake.port, 256, 0);
            }
        }
        while (received == 0) {
            received = layer8_receive(fake.port, 256, 0);
        }
        uint64_t length;
        const uint8_t *header;
        struct layer8_record record;
        const layer8_entry *entry = entry_of(&fake, 0);
        CHECK(received == 1 && (entry->flags & LAYER8_ENTRY_LARGE) != 0 && entry->sequence == first);
        const uint8_t *message = layer8_port_large(fake.port, entry->offset, &length, &header);
        memcpy(&record, header, sizeof record);
        CHECK(length == UINT64_C(32) * LAYER8_FRAGMENT_BYTES + last && entry->length == length - 50);
        CHECK(record.headers == 50 && record.missed == 1234 && record.length == length && record.sequence == first);
        CHECK((record.flags & LAYER8_HEADERS) != 0 && memcmp(message, bytes, length) == 0);
        CHECK(layer8_port_large(fake.port, 1, &length, &header) == NULL);
        CHECK(stats_of(&fake).assembling_bytes == UINT64_C(33) * LAYER8_FRAGMENT_BYTES);
        CHECK(layer8_receive(fake.port, 256, 0) == 0 && stats_of(&fake).assembling_bytes == 0);
    }
    CHECK(stats_of(&fake).received_messages == 3 && stats_of(&fake).fragments_discarded == 0);
    fake_close(&fake);
}

static void batch_released_early_is_counted_as_unread(void) {
    struct fake fake;
    fake_open(&fake);
    struct layer8_record record = fake_message(&fake, LAYER8_UNICAST, 1, 1000);
    CHECK(fake_put(&fake, &record, bytes));
    for (uint16_t n = 0; n < 3; n++) {
        record = fragment_of(&fake, 1, n, 5, LAYER8_FRAGMENT_BYTES, 2);
        CHECK(fake_put(&fake, &record, bytes));
    }
    CHECK(layer8_receive(fake.port, 256, 10) == 1);
    CHECK(layer8_load_seq(&fake.port->control->receive_head) > 1088);
    CHECK(layer8_load_seq(&fake.port->control->unread) == 10 + 1088);
    CHECK(layer8_receive(fake.port, 256, 0) == 0);
    CHECK(layer8_load_seq(&fake.port->control->unread) == 0);
    CHECK(layer8_load_seq(&fake.port->control->receive_head) == fake.receive_tail);
    fake_close(&fake);
}

/* Puts and takes; expects that no message comes of it. True: the message that begins here was said to be discarded. */
static bool feed(struct fake *fake, struct layer8_record record) {
    CHECK(fake_put(fake, &record, bytes));
    int count = layer8_receive(fake->port, 256, 0);
    CHECK(count == 0 || (count == 1 && entry_of(fake, 0)->kind == LAYER8_ABORT && entry_of(fake, 0)->length == 0));
    return count == 1;
}

static void broken_messages_are_discarded_and_counted(void) {
    struct fake fake;
    fake_open(&fake);
    feed(&fake, fragment_of(&fake, 1, 1, 3, LAYER8_FRAGMENT_BYTES, 1)); /* no beginning */
    CHECK(stats_of(&fake).fragments_discarded == 1);
    feed(&fake, fragment_of(&fake, 1, 0, 3, LAYER8_FRAGMENT_BYTES, 2));
    feed(&fake, fragment_of(&fake, 1, 2, 3, 5, 2)); /* a hole */
    CHECK(stats_of(&fake).fragments_discarded == 2 && stats_of(&fake).assembling_bytes == 0);
    feed(&fake, fragment_of(&fake, 1, 0, 3, 100, 3)); /* not full */
    CHECK(stats_of(&fake).fragments_discarded == 3);
    feed(&fake, fragment_of(&fake, 1, 0, 3, LAYER8_FRAGMENT_BYTES, 4));
    feed(&fake, fragment_of(&fake, 1, 1, 4, LAYER8_FRAGMENT_BYTES, 4)); /* another count */
    CHECK(stats_of(&fake).fragments_discarded == 4 && stats_of(&fake).assembling_bytes == 0);
    CHECK(feed(&fake, fragment_of(&fake, 1, 0, 66, LAYER8_FRAGMENT_BYTES, 5))); /* over the limit of a message */
    CHECK(stats_of(&fake).fragments_discarded == 5);

    feed(&fake, fragment_of(&fake, 1, 0, 3, LAYER8_FRAGMENT_BYTES, 6));
    feed(&fake, fragment_of(&fake, 2, 0, 3, LAYER8_FRAGMENT_BYTES, 6)); /* of another source */
    CHECK(stats_of(&fake).assembling_bytes == UINT64_C(6) * LAYER8_FRAGMENT_BYTES);
    struct layer8_record ends = fake_message(&fake, LAYER8_ABORT, 1, 0);
    ends.reason = LAYER8_UNICAST;
    ends.correlation = 6;
    feed(&fake, ends);
    CHECK(stats_of(&fake).messages_aborted == 1);
    CHECK(stats_of(&fake).assembling_bytes == UINT64_C(3) * LAYER8_FRAGMENT_BYTES);
    feed(&fake, fragment_of(&fake, 1, 1, 3, LAYER8_FRAGMENT_BYTES, 6)); /* after its abort */
    CHECK(stats_of(&fake).fragments_discarded == 6);
    feed(&fake, fragment_of(&fake, 2, 1, 3, LAYER8_FRAGMENT_BYTES, 6));
    struct layer8_record last = fragment_of(&fake, 2, 2, 3, 9, 6);
    CHECK(fake_put(&fake, &last, bytes) && layer8_receive(fake.port, 256, 0) == 1);
    CHECK(stats_of(&fake).received_messages == 1);
    fake_close(&fake); /* frees what is being assembled, the sanitizer says */
}

static void what_stood_half_when_a_vnet_died_is_dropped_by_source_and_what_began_later_is_not(void) {
    struct fake fake;
    fake_open(&fake);
    struct layer8_half halves[4];
    uint8_t *table = (uint8_t *)halves;
    CHECK(layer8_port_halves(fake.port, table, 4) == 0);
    feed(&fake, fragment_of(&fake, 1, 0, 3, LAYER8_FRAGMENT_BYTES, 1));
    feed(&fake, fragment_of(&fake, 2, 0, 3, LAYER8_FRAGMENT_BYTES, 1));
    struct layer8_record request = fragment_of(&fake, 3, 0, 3, LAYER8_FRAGMENT_BYTES, 1);
    request.kind = LAYER8_REQUEST; /* of which both sides know that it is over */
    feed(&fake, request);
    CHECK(layer8_port_halves(fake.port, table, 1) == 1 && halves[0].source[0] == 1);
    CHECK(layer8_port_halves(fake.port, table, 4) == 2 && halves[0].source[0] == 1 && halves[1].source[0] == 2);
    const uint8_t *source = halves[0].source;
    feed(&fake, fragment_of(&fake, 1, 0, 3, LAYER8_FRAGMENT_BYTES, 5));
    CHECK(layer8_port_forget_begun(fake.port, source) == 1 && layer8_port_forget_begun(fake.port, source) == 0);
    CHECK(stats_of(&fake).messages_aborted == 1);
    CHECK(stats_of(&fake).assembling_bytes == UINT64_C(9) * LAYER8_FRAGMENT_BYTES);
    CHECK(layer8_port_forget_begun(fake.port, NULL) == 1);
    feed(&fake, fragment_of(&fake, 1, 1, 3, LAYER8_FRAGMENT_BYTES, 5));
    for (uint8_t from = 1; from <= 2; from++) { /* of source 2 it goes on where it stood */
        if (from == 2) {
            feed(&fake, fragment_of(&fake, 2, 1, 3, LAYER8_FRAGMENT_BYTES, 1));
        }
        struct layer8_record last = fragment_of(&fake, from, 2, 3, 5, from == 1 ? 5 : 1);
        CHECK(fake_put(&fake, &last, bytes) && layer8_receive(fake.port, 256, 0) == 1);
    }
    CHECK(layer8_port_halves(fake.port, table, 4) == 0);
    fake_close(&fake);
}

static void assembling_is_bounded(void) {
    struct fake fake;
    fake_open(&fake);
    for (uint16_t n = 0; n < 5; n++) { /* 2 MiB each of 8 MiB */
        CHECK(feed(&fake, fragment_of(&fake, 1, 0, 32, LAYER8_FRAGMENT_BYTES, 10 + n)) == (n == 4));
    }
    CHECK(stats_of(&fake).assembling_bytes == UINT64_C(8) << 20 && stats_of(&fake).fragments_discarded == 1);
    fake_close(&fake);
}

static void doubles_are_dropped_where_retry_is_set(void) {
    struct fake fake;
    fake_open(&fake);
    struct layer8_record record = fake_message(&fake, LAYER8_UNICAST, 1, 10);
    record.sequence = 50;
    CHECK(fake_put(&fake, &record, bytes) && layer8_receive(fake.port, 256, 0) == 1);
    CHECK(fake_put(&fake, &record, bytes) && layer8_receive(fake.port, 256, 0) == 1); /* no retry, no question */
    record.flags |= LAYER8_RETRY;
    feed(&fake, record);
    record.sequence = 49;
    feed(&fake, record);
    CHECK(stats_of(&fake).duplicates_dropped == 2);
    record.sequence = 51;
    CHECK(fake_put(&fake, &record, bytes) && layer8_receive(fake.port, 256, 0) == 1);
    record.sequence = 20;
    record.generation++; /* another handle */
    CHECK(fake_put(&fake, &record, bytes) && layer8_receive(fake.port, 256, 0) == 1);
    for (uint32_t handle = 0; handle < 100000; handle++) { /* what is remembered is bounded */
        record.slot = (uint16_t)(handle % LAYER8_SLOTS);
        record.generation = (uint16_t)(100 + handle / LAYER8_SLOTS);
        CHECK(fake_put(&fake, &record, bytes) && layer8_receive(fake.port, 256, 0) == 1);
    }
    fake_close(&fake);
}

static struct layer8_record retry_of(struct fake *fake, uint32_t handle) {
    struct layer8_record record = fake_message(fake, LAYER8_UNICAST, 1, 0);
    record.slot = (uint16_t)(handle % LAYER8_SLOTS);
    record.generation = (uint16_t)(1 + handle / LAYER8_SLOTS);
    record.sequence = 7 + handle;
    record.flags |= LAYER8_RETRY;
    return record;
}

static void what_was_taken_is_remembered_for_tens_of_thousands_of_handles(void) {
    const uint32_t handles = 30000;
    struct fake fake, fresh;
    fake_open(&fake);
    for (int round = 0; round < 2; round++) { /* the first time each is new */
        for (uint32_t handle = 0; handle < handles; handle++) {
            struct layer8_record record = retry_of(&fake, handle);
            CHECK(fake_put(&fake, &record, bytes) && layer8_receive(fake.port, 256, 0) == 1 - round);
        }
    }
    CHECK(stats_of(&fake).duplicates_dropped == handles);
    fake_open(&fresh); /* another segment of the same Vnic */
    CHECK(layer8_port_inherit(fresh.port, fake.port) == LAYER8_OK);
    fake_close(&fake);
    for (uint32_t handle = 0; handle < handles; handle++) {
        struct layer8_record record = retry_of(&fresh, handle);
        CHECK(fake_put(&fresh, &record, bytes) && layer8_receive(fresh.port, 256, 0) == 0);
        record.sequence++;
        CHECK(fake_put(&fresh, &record, bytes) && layer8_receive(fresh.port, 256, 0) == 1);
    }
    fake_open(&fake);
    CHECK(layer8_port_inherit(fresh.port, fake.port) == LAYER8_SYSTEM); /* too late */
    fake_close(&fake);
    fake_close(&fresh);
}

static void sources_have_numbers_that_stay(void) {
    struct fake fake;
    uint8_t uuid[16];
    fake_open(&fake);
    for (int round = 0; round < 2; round++) {
        for (uint32_t n = 0; n < 3000; n++) {
            struct layer8_record record = fake_message(&fake, LAYER8_UNICAST, 0, 0);
            memcpy(record.source, &n, sizeof n);
            record.principal = n / 2;
            CHECK(fake_put(&fake, &record, bytes) && layer8_receive(fake.port, 256, 0) == 1);
            CHECK(entry_of(&fake, 0)->source == n);
            CHECK(layer8_port_source(fake.port, n, uuid) == n / 2 && memcmp(uuid, record.source, 16) == 0);
        }
    }
    struct layer8_record notice = fake_message(&fake, LAYER8_NOTICE, 9, 0);
    CHECK(fake_put(&fake, &notice, bytes) && layer8_receive(fake.port, 256, 0) == 1);
    CHECK(entry_of(&fake, 0)->source == LAYER8_NO_SOURCE && entry_of(&fake, 0)->kind == LAYER8_NOTICE);
    CHECK(layer8_port_source(fake.port, LAYER8_NO_SOURCE, uuid) == 0);
    fake_close(&fake);
}

static void more_sources_than_numbers_have_none(void) {
    struct fake fake;
    fake_open(&fake);
    for (uint32_t n = 0; n <= LAYER8_SOURCES; n++) {
        struct layer8_record record = fake_message(&fake, LAYER8_UNICAST, 0, 0);
        memcpy(record.source, &n, sizeof n);
        CHECK(fake_put(&fake, &record, bytes) && layer8_receive(fake.port, 256, 0) == 1);
        CHECK(entry_of(&fake, 0)->source == (n < LAYER8_SOURCES ? n : LAYER8_NO_SOURCE));
    }
    fake_close(&fake);
}

static void missed_publications_are_flagged(void) {
    struct fake fake;
    fake_open(&fake);
    struct layer8_record record = fake_message(&fake, LAYER8_PUBLISH, 1, 10);
    record.topic = 17;
    CHECK(fake_put(&fake, &record, bytes) && layer8_receive(fake.port, 256, 0) == 1);
    CHECK(entry_of(&fake, 0)->topic == 17 && (entry_of(&fake, 0)->flags & LAYER8_ENTRY_MISSED) == 0);
    record.missed = 3;
    CHECK(fake_put(&fake, &record, bytes) && layer8_receive(fake.port, 256, 0) == 1);
    CHECK((entry_of(&fake, 0)->flags & LAYER8_ENTRY_MISSED) != 0);
    layer8_store_seq((_Atomic uint64_t *)(fake.port->base + LAYER8_OFFSET_MISSED) + 17, UINT64_C(3));
    CHECK(layer8_missed(fake.port, 17) == 3 && layer8_missed(fake.port, LAYER8_TOPICS) == 0);
    fake_close(&fake);
}

int main(void) {
    for (size_t n = 0; n < sizeof bytes; n++) {
        bytes[n] = (uint8_t)(n * 131 + n / 253);
    }
    RUN(batch_has_payload_header_and_header_map);
    RUN(batch_is_bounded_by_count_and_bytes);
    RUN(batch_counts_as_fill_until_the_library_comes_back);
    RUN(large_message_passes_a_smaller_ring);
    RUN(batch_released_early_is_counted_as_unread);
    RUN(broken_messages_are_discarded_and_counted);
    RUN(what_stood_half_when_a_vnet_died_is_dropped_by_source_and_what_began_later_is_not);
    RUN(assembling_is_bounded);
    RUN(doubles_are_dropped_where_retry_is_set);
    RUN(what_was_taken_is_remembered_for_tens_of_thousands_of_handles);
    RUN(sources_have_numbers_that_stay);
    RUN(more_sources_than_numbers_have_none);
    RUN(missed_publications_are_flagged);
    return 0;
}
