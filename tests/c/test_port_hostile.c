/* A Vnet that writes what cannot be: the port says CORRUPT or drops it, and touches nothing outside its rings. */
#include <pthread.h>

#include "fake_vnet.h"

static uint8_t bytes[LAYER8_FRAGMENT_BYTES];

static void impossible_tails_are_refused(void) {
    const uint64_t tails[] = {1, 63, LAYER8_RING_MIN + 64, UINT64_MAX, UINT64_MAX - 63, UINT64_C(1) << 63, 64 + 7};
    for (size_t n = 0; n < sizeof tails / sizeof *tails; n++) {
        struct fake fake;
        fake_open(&fake);
        layer8_store_seq(&fake.port->control->receive_tail, tails[n]);
        CHECK(layer8_receive(fake.port, 256, 0) == LAYER8_CORRUPT);
        CHECK(layer8_wait_arrived(fake.port, 1000, 0) == LAYER8_CORRUPT);
        layer8_store_seq(&fake.port->control->receive_tail, UINT64_C(0));
        CHECK(layer8_receive(fake.port, 256, 0) == LAYER8_CORRUPT); /* it is over */
        fake_close(&fake);
    }
}

static void tail_never_goes_back(void) {
    struct fake fake;
    fake_open(&fake);
    for (int n = 0; n < 2; n++) {
        struct layer8_record record = fake_message(&fake, LAYER8_UNICAST, 1, 0);
        CHECK(fake_put(&fake, &record, bytes));
    }
    CHECK(layer8_receive(fake.port, 1, 0) == 1);
    layer8_store_seq(&fake.port->control->receive_tail, UINT64_C(64));
    CHECK(layer8_receive(fake.port, 1, 0) == LAYER8_CORRUPT);
    fake_close(&fake);
}

static void impossible_heads_are_refused(void) {
    const uint64_t heads[] = {1, 64 * 1000000, UINT64_MAX - 63, UINT64_MAX};
    for (size_t n = 0; n < sizeof heads / sizeof *heads; n++) {
        struct fake fake;
        int64_t status;
        fake_open(&fake);
        layer8_store_seq(&fake.port->control->transmit_head, heads[n]);
        do {
            status = layer8_send(fake.port, 1, bytes, 5000);
        } while (status > 0);
        CHECK(status == LAYER8_CORRUPT);
        CHECK(layer8_send(fake.port, 1, bytes, 1) == LAYER8_CORRUPT);
        CHECK(layer8_wait_room(fake.port, 1, 1, 1000000000, 0) == LAYER8_CORRUPT);
        fake_close(&fake);
    }
}

static void expect_corrupt(struct layer8_record record) {
    struct fake fake;
    fake_open(&fake);
    struct layer8_record good = fake_message(&fake, LAYER8_UNICAST, 1, 5);
    CHECK(fake_put(&fake, &good, bytes));
    memcpy(fake.port->receive + 128, &record, sizeof record);
    layer8_store_seq(&fake.port->control->receive_tail, UINT64_C(256)); /* two lines more */
    CHECK(layer8_receive(fake.port, 256, 0) == 1); /* what came before counts */
    CHECK(layer8_receive(fake.port, 256, 0) == LAYER8_CORRUPT);
    fake_close(&fake);
}

static void impossible_records_are_refused(void) {
    const struct layer8_record good = {.kind = LAYER8_UNICAST, .flags = LAYER8_FIRST | LAYER8_LAST, .fragments = 1};
    struct layer8_record record = good;
    record.kind = 0;
    expect_corrupt(record);
    record.kind = LAYER8_PAD + 1;
    expect_corrupt(record);
    record.kind = LAYER8_PAD; /* not at the end */
    expect_corrupt(record);
    record = good;
    record.length = 65; /* past the tail */
    expect_corrupt(record);
    record.length = UINT32_MAX;
    expect_corrupt(record);
    record = good;
    record.headers = 1; /* more than there is */
    expect_corrupt(record);
    record = good;
    record.fragments = 0;
    expect_corrupt(record);
    record.fragments = 2; /* and the last one */
    expect_corrupt(record);
    record = good;
    record.fragment = 1;
    record.fragments = 1;
    expect_corrupt(record);
    record = good;
    record.flags = 0;
    expect_corrupt(record);
    record = good;
    record.kind = LAYER8_PUBLISH;
    record.topic = LAYER8_TOPICS;
    expect_corrupt(record);
}

/* Records of all kinds with fields that are mostly possible, so that they get far. */
static struct layer8_record random_record(uint64_t *random, uint64_t sequence) {
    struct layer8_record record = {.kind = (uint8_t)(1 + fake_random(random) % 8),
                                   .slot = (uint16_t)(fake_random(random) % 4),
                                   .generation = (uint16_t)(fake_random(random) % 4),
                                   .topic = (uint16_t)(fake_random(random) % LAYER8_TOPICS),
                                   .reason = (uint16_t)(fake_random(random) % 16),
                                   .correlation = fake_random(random) % 4,
                                   .missed = (uint32_t)(fake_random(random) % 2),
                                   .sequence = sequence - fake_random(random) % 8,
                                   .fragments = (uint16_t)(1 + fake_random(random) % 4)};
    record.fragment = (uint16_t)(fake_random(random) % record.fragments);
    record.flags = (uint8_t)((record.fragment == 0 ? LAYER8_FIRST : 0) |
                             (record.fragment + 1 == record.fragments ? LAYER8_LAST : 0) |
                             (fake_random(random) % 8 == 0 ? LAYER8_RETRY : 0));
    record.length = record.fragments > 1 && fake_random(random) % 4 != 0
                        ? LAYER8_FRAGMENT_BYTES
                        : (uint32_t)(fake_random(random) % (LAYER8_FRAGMENT_BYTES + 1));
    record.headers = record.fragment == 0 ? (uint16_t)(fake_random(random) % LAYER8_HEADERS_MAX) : 0;
    if (record.headers > record.length) {
        record.headers = 0;
    }
    memset(record.source, (int)(fake_random(random) % 3), sizeof record.source);
    return record;
}

/* Reads all that the library would read of a batch. */
static uint64_t look_at_batch(layer8_port *port, int count) {
    uint64_t size, sum = 0;
    const uint8_t *batch = layer8_port_batch(port, &size);
    for (int n = 0; n < count; n++) {
        const layer8_entry *entry = &layer8_port_table(port)[n];
        const uint8_t *payload = batch + entry->offset;
        struct layer8_record record;
        if ((entry->flags & LAYER8_ENTRY_LARGE) != 0) {
            uint64_t length;
            const uint8_t *header;
            payload = layer8_port_large(port, entry->offset, &length, &header);
            CHECK(payload != NULL && entry->length <= length);
            memcpy(&record, header, sizeof record);
            payload += record.headers;
        } else {
            CHECK((uint64_t)entry->offset + entry->length <= size && entry->offset >= LAYER8_RECORD_BYTES);
            memcpy(&record, payload - LAYER8_RECORD_BYTES, sizeof record);
            CHECK(entry->offset >= (uint32_t)LAYER8_RECORD_BYTES + record.headers);
        }
        for (uint32_t at = 0; at < entry->length; at += 97) {
            sum += payload[at];
        }
        sum += entry->length == 0 ? 0 : payload[entry->length - 1];
    }
    return sum;
}

/* There is one thread in these, so ThreadSanitizer finds nothing that a few rounds do not show. */
#ifdef __SANITIZE_THREAD__
#define RECORDS 3000u
#define ROUNDS 60
#else
#define RECORDS 30000u
#define ROUNDS 800
#endif

static void strange_but_possible_records_do_no_harm(void) {
    uint64_t random = 20240601, sum = 0;
    struct fake fake;
    fake_open(&fake);
    for (uint64_t n = 0; n < RECORDS; n++) {
        struct layer8_record record = random_record(&random, n + 100);
        while (!fake_put(&fake, &record, bytes)) {
            int count = layer8_receive(fake.port, 1 + (uint32_t)(fake_random(&random) % 256), 0);
            CHECK(count >= 0);
            sum += look_at_batch(fake.port, count);
        }
    }
    CHECK(sum != 1);
    fake_close(&fake);
}

static void bits_flipped_in_the_ring_do_no_harm(void) {
    uint64_t random = 97, sum = 0;
    uint32_t broken = 0;
    for (int round = 0; round < ROUNDS; round++) {
        struct fake fake;
        fake_open(&fake);
        int count = 0;
        for (uint64_t n = 0; n < 12 && count >= 0; n++) {
            struct layer8_record record = random_record(&random, n + 100);
            uint64_t before = fake.receive_tail & (LAYER8_RING_MIN - 1);
            if (fake_put(&fake, &record, bytes)) {
                uint64_t at = before + fake_random(&random) % LAYER8_RECORD_BYTES;
                fake.port->receive[at] ^= (uint8_t)(1u << fake_random(&random) % 8);
            }
            if (fake_random(&random) % 2 == 0) {
                count = layer8_receive(fake.port, 256, 0);
                CHECK(count >= 0 || count == LAYER8_CORRUPT);
                sum += count > 0 ? look_at_batch(fake.port, count) : 0;
            }
        }
        broken += count < 0;
        fake_close(&fake);
    }
    CHECK(broken > 0 && sum != 1);
}

#ifndef __SANITIZE_THREAD__ /* the races are the point */

/* Everything the Vnet may write, overwritten at random while the port works. */
struct storm {
    struct fake *fake;
    _Atomic bool over;
};

static void *rage(void *argument) {
    struct storm *storm = argument;
    layer8_port *port = storm->fake->port;
    uint64_t random = 31337;
    while (!layer8_load_seq(&storm->over)) {
        volatile uint8_t *target = port->receive + fake_random(&random) % 8192;
        *target = (uint8_t)fake_random(&random);
        if (fake_random(&random) % 64 == 0) {
            target = (volatile uint8_t *)port->base + LAYER8_OFFSET_FLAGS + fake_random(&random) % 0x6000;
            *target = (uint8_t)fake_random(&random);
        }
        if (fake_random(&random) % 512 == 0) {
            layer8_store_seq(&port->control->hold_tail, fake_random(&random));
            layer8_store_seq(&port->control->arrived.count, (uint32_t)(fake_random(&random) % 3));
            layer8_store_seq(&port->control->room.wanted, (uint32_t)(fake_random(&random) % 2));
        }
    }
    return NULL;
}

static void overwriting_while_receiving_does_no_harm(void) {
    uint64_t random = 7, sum = 0;
    for (int round = 0; round < 60; round++) {
        struct fake fake;
        struct storm storm = {.fake = &fake};
        pthread_t thread;
        uint8_t table[16 * LAYER8_RECORD_BYTES];
        fake_open(&fake);
        CHECK(pthread_create(&thread, NULL, rage, &storm) == 0);
        int count = 0;
        for (int n = 0; n < 300 && count >= 0; n++) {
            struct layer8_record record = random_record(&random, (uint64_t)n + 100);
            (void)fake_put(&fake, &record, bytes);
            count = layer8_receive(fake.port, 256, 0);
            sum += count > 0 ? look_at_batch(fake.port, count) : 0;
            (void)layer8_send(fake.port, (uint32_t)n % 64, bytes, 3000);
            (void)layer8_port_stranded(fake.port, 0, table, 16);
            (void)layer8_wait_arrived(fake.port, 1000, 0);
        }
        layer8_store_seq(&storm.over, true);
        CHECK(pthread_join(thread, NULL) == 0);
        fake_close(&fake);
    }
    CHECK(sum != 1);
}

#endif

int main(void) {
    RUN(impossible_tails_are_refused);
    RUN(tail_never_goes_back);
    RUN(impossible_heads_are_refused);
    RUN(impossible_records_are_refused);
    RUN(strange_but_possible_records_do_no_harm);
    RUN(bits_flipped_in_the_ring_do_no_harm);
#ifndef __SANITIZE_THREAD__
    RUN(overwriting_while_receiving_does_no_harm);
#endif
    return 0;
}
