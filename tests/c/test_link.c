/* test_link.c - two switches and a link: what crosses it, how it is answered, and what a cut does. */
#include "port.h"

#include "link_world.h"

static uint8_t big[3 << 20];

static void test_unicast_crosses_both_ways_in_order(void) {
    struct pair *pair = pair_start();
    struct vnic a, b;
    vnic_attach(&a, &pair->a.world, 0);
    vnic_attach(&b, &pair->b.world, 0);
    uint32_t to_b = far_grant(&pair->a, &a, 3, &b);
    uint32_t to_a = far_grant(&pair->b, &b, 5, &a);
    for (uint32_t n = 0; n < 3000; n++) {
        CHECK(pair_send(pair, &a, to_b, &n, sizeof n) == (int64_t)n + 1);
        CHECK(pair_send(pair, &b, to_a, &n, sizeof n) == (int64_t)n + 1);
        if (n % 50 == 49) {
            for (uint32_t m = n - 49; m <= n; m++) {
                struct got got = pair_receive(pair, &b);
                uint8_t uuid[16];
                CHECK(got.entry.kind == LAYER8_UNICAST && memcmp(got.payload, &m, sizeof m) == 0);
                CHECK(got.entry.sequence == m + 1 && got.record.slot == 3);
                CHECK(layer8_port_source(b.port, got.entry.source, uuid) == 9 && memcmp(uuid, a.uuid, 16) == 0);
                got = pair_receive(pair, &a);
                CHECK(memcmp(got.payload, &m, sizeof m) == 0 && memcmp(got.record.source, b.uuid, 16) == 0);
            }
        }
    }
    CHECK(pair->a.asked == 1 && pair->b.asked == 1); /* authorized once a handle */
    pair_stop(pair);
}

static void test_large_messages_cross_whole(void) {
    struct pair *pair = pair_start();
    struct vnic a, b;
    vnic_attach(&a, &pair->a.world, 0);
    vnic_attach(&b, &pair->b.world, 0);
    uint32_t to_b = far_grant(&pair->a, &a, 3, &b);
    for (uint32_t n = 0; n < 4; n++) {
        layer8_outgoing out = {.handle = to_b, .kind = LAYER8_UNICAST, .payload = big, .length = sizeof big - n};
        int status;
        while ((status = layer8_push(a.port, &out)) != LAYER8_OK) {
            CHECK(status == LAYER8_FULL || status == LAYER8_XOFF);
            pair_events(pair);
            (void)layer8_wait_room(a.port, 3, 65536, SECOND / 100, 0);
            CHECK(layer8_receive(b.port, 1, 0) == 0);
        }
        struct got got = pair_receive(pair, &b);
        CHECK((got.entry.flags & LAYER8_ENTRY_LARGE) != 0 && got.entry.length == sizeof big - n);
        CHECK(memcmp(got.payload, big, got.entry.length) == 0);
    }
    pair_stop(pair);
}

int main(void) {
    for (size_t n = 0; n < sizeof big; n++) {
        big[n] = (uint8_t)(n * 7 + n / 251);
    }
    test_unicast_crosses_both_ways_in_order();
    test_large_messages_cross_whole();
    return 0;
}
