/* test_link_cut.c - a link that is cut at random bytes, and a book of what must have become of each message.
 *
 *   test_link_cut [seed [cuts]]
 *
 * Vnics at both ends send, ask, answer and publish, small and large, while the connection is cut and made again. At the
 * end each accepted message has arrived exactly once, in order, or its request was answered or failed; nothing is held. */
#include "link_book.h"

/* `to_be_cut`: this connection, too. What cuts it must not be taken back later: it may be cut by then, and nobody would see. */
static void reconnect(bool another_epoch, bool to_be_cut) {
    pair_disconnect(pair);
    if (any(3) == 0) { /* what was in the queue to the switch, or a while without */
        pair_events(pair);
        for (int n = 0; n < 50; n++) {
            say((int)any(2), any(NODES));
        }
    }
    pair_connect(pair, another_epoch);
    struct side *side = any(2) == 0 ? &pair->a : &pair->b;
    if (to_be_cut) {
        side->cut_at = side->moved + 1 + any(any(2) == 0 ? 3000 : 600000);
    }
}

static void run(uint64_t first, uint32_t cuts, bool epochs) {
    open_book(first, epochs, false);
    pair->a.cut_at = pair->a.moved + 5000;
    uint32_t cut = 0;
    int64_t quiet = 0;
    while (!finished() || cut < cuts) {
        if (pipe_is_cut(&pair->a) || pipe_is_cut(&pair->b)) {
            CHECK(pair->a.broken == 0 && pair->b.broken == 0);
            cut++;
            reconnect(epochs && any(2) == 0, cut < cuts);
        }
        for (int n = 0; cut < cuts && n < 20; n++) {
            say((int)any(2), any(NODES));
        }
        read_all(8);
        pair_events(pair);
        CHECK(pair->a.world.violations + pair->b.world.violations + pair->a.world.link_violations + pair->b.world.link_violations == 0);
        if (cut >= cuts) {
            (void)poll(NULL, 0, 1);
            CHECK(++quiet < 30000);
        }
    }
    close_book("cuts", cut);
}

/* Each record that was accepted for it is in its ring or comes back, once; what is surely not there comes as such. */
static void a_receiver_dies_while_the_link_is_cut(uint64_t first) {
    enum { MOST = 2000 };
    static uint8_t bytes[4000];
    static bool had[MOST + 1];
    static uint16_t reported[MOST + 1];
    struct vnic sender, victim;
    uint32_t accepted = 0, delivered = 0, back = 0;
    seed = first;
    memset(had, 0, sizeof had);
    memset(reported, 0, sizeof reported);
    pair = pair_start();
    vnic_attach(&sender, &pair->a.world, 0);
    vnic_attach(&victim, &pair->b.world, 0);
    uint32_t handle = far_grant(&pair->a, &sender, 1, &victim);
    pair->a.cut_at = pair->a.moved + 1 + any(600000);
    uint32_t wanted = 20 + any(MOST - 20);
    for (uint32_t tries = 0; accepted < wanted && tries < 200; tries++) { /* it does not read: some wait for it, at either end */
        vnic_ignore_xoff(&sender, 1);
        if (layer8_send(sender.port, handle, bytes, 8 + any(sizeof bytes - 8)) > 0) {
            accepted++;
            tries = 0;
        } else {
            (void)poll(NULL, 0, 1);
        }
        pair_events(pair);
    }
    pair_disconnect(pair);
    vnic_remove(&victim, 0);
    while (layer8_receive(victim.port, 1, 0) == 1) { /* what died with it */
        uint64_t size;
        struct layer8_record record;
        const uint8_t *payload = layer8_port_batch(victim.port, &size) + layer8_port_table(victim.port)[0].offset;
        memcpy(&record, payload - 64, sizeof record);
        CHECK(record.sequence <= accepted && !had[record.sequence]);
        had[record.sequence] = true;
        delivered++;
    }
    pair_connect(pair, false);
    for (int tries = 0; back + delivered < accepted; tries++) {
        pair_events(pair);
        while (layer8_receive(sender.port, 1, 0) == 1) {
            struct layer8_record record;
            uint64_t size;
            const uint8_t *payload = layer8_port_batch(sender.port, &size) + layer8_port_table(sender.port)[0].offset;
            CHECK(layer8_port_table(sender.port)[0].kind == LAYER8_NOTICE);
            memcpy(&record, payload - 64, sizeof record);
            CHECK(record.sequence <= accepted && reported[record.sequence] == 0);
            CHECK(record.reason == LAYER8_REASON_UNKNOWN || !had[record.sequence]);
            reported[record.sequence] = record.reason;
            back += !had[record.sequence];
        }
        CHECK(tries < 20000);
        (void)poll(NULL, 0, 1);
    }
    pair_idle(pair);
    pair_stop(pair);
}

int main(int count, char **arguments) {
    uint64_t first = count > 1 ? strtoull(arguments[1], NULL, 10) : 1;
    uint32_t cuts = count > 2 ? (uint32_t)strtoul(arguments[2], NULL, 10) : 20;
    run(first, cuts, false);
    run(first + 1, cuts, true);
    for (uint64_t n = 0; n < 10; n++) {
        a_receiver_dies_while_the_link_is_cut(first + n);
    }
    return 0;
}
