/* link_book.h - Vnics at both ends of a link that send, ask, answer and publish, small and large, and the book of what must
 * have become of each message: it arrived exactly once, in order, or its request was answered or failed. */
#ifndef LAYER8_TEST_LINK_BOOK_H
#define LAYER8_TEST_LINK_BOOK_H

#include "port.h"

#include "link_world.h"

#define NODES 3u            /* at each end */
#define LARGE (200u << 10)
#define HUGE (6u << 20) /* more than a link's window */
#define TOPIC 4u
#define REPLIES 400u

struct head {
    uint32_t kind, from;
    uint64_t serial; /* counts by kind, sender and receiver */
};

struct node {
    struct vnic vnic;
    struct side *side;
    uint32_t handle[NODES], topic;
    uint64_t sent[NODES], published, asked[NODES], outstanding, correlation;
    uint64_t got[NODES], got_published[NODES], got_asked[NODES];
    uint64_t answers, failures;
    layer8_outgoing large, reply[REPLIES];
    uint32_t replies;
    bool pushing;
    uint64_t *pushed; /* the count of what is being pushed */
    uint8_t *bytes;
};

static struct node nodes[2][NODES];
static struct pair *pair;
static uint64_t seed, first_seed;
static uint8_t pattern[HUGE + 64];
static bool expect_unknown, say_huge, give_up; /* give_up: large messages, half-way */

static inline uint32_t any(uint32_t below) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((seed >> 33) % below);
}

static inline void check_bytes(const struct got *got, struct head *head) {
    CHECK(got->entry.length >= sizeof *head);
    memcpy(head, got->payload, sizeof *head);
    CHECK(memcmp(got->payload + sizeof *head, pattern + head->serial % 32, got->entry.length - sizeof *head) == 0);
}

static inline void fill(uint8_t *bytes, uint32_t length, const struct head *head) {
    memcpy(bytes, head, sizeof *head);
    memcpy(bytes + sizeof *head, pattern + head->serial % 32, length - sizeof *head);
}

static inline void go_on_replying(struct node *node) {
    while (node->replies != 0) {
        int status = layer8_push(node->vnic.port, &node->reply[0]);
        if (status == LAYER8_FULL || status == LAYER8_XOFF) {
            return;
        }
        CHECK(status == LAYER8_OK);
        memmove(&node->reply[0], &node->reply[1], --node->replies * sizeof node->reply[0]);
    }
}

static inline void take(int end, uint32_t index) {
    struct node *node = &nodes[end][index];
    int count = 0;
    go_on_replying(node);
    while ((count = layer8_receive(node->vnic.port, 1, 0)) == 1) {
        struct got got = {.entry = layer8_port_table(node->vnic.port)[0]};
        struct head head;
        uint64_t size;
        if ((got.entry.flags & LAYER8_ENTRY_LARGE) != 0) {
            const uint8_t *record;
            got.payload = layer8_port_large(node->vnic.port, got.entry.offset, &size, &record);
            memcpy(&got.record, record, sizeof got.record);
        } else {
            got.payload = layer8_port_batch(node->vnic.port, &size) + got.entry.offset;
            memcpy(&got.record, got.payload - 64, sizeof got.record);
        }
        switch (got.entry.kind) {
        case LAYER8_UNICAST:
            check_bytes(&got, &head);
            CHECK(head.kind == LAYER8_UNICAST && head.serial == node->got[head.from] + 1);
            node->got[head.from] = head.serial;
            break;
        case LAYER8_PUBLISH:
            check_bytes(&got, &head);
            CHECK(head.kind == LAYER8_PUBLISH && head.serial == node->got_published[head.from] + 1);
            node->got_published[head.from] = head.serial;
            break;
        case LAYER8_REQUEST: {
            check_bytes(&got, &head);
            CHECK(head.kind == LAYER8_REQUEST && (expect_unknown ? head.serial > node->got_asked[head.from]
                                                                 : head.serial == node->got_asked[head.from] + 1));
            node->got_asked[head.from] = head.serial;
            CHECK(node->replies < REPLIES);
            node->reply[node->replies++] = (layer8_outgoing){
                .kind = LAYER8_REPLY, .payload = pattern, .length = any(9) == 0 ? LARGE : 40, .correlation = got.record.correlation,
                .right = got.record.missed, .right_generation = got.record.topic};
            break;
        }
        case LAYER8_CANCEL: /* its caller gave up when the Vnet was another one */
            CHECK(expect_unknown);
            break;
        case LAYER8_REPLY:
            CHECK(node->outstanding != 0 && memcmp(got.payload, pattern, got.entry.length) == 0);
            CHECK(got.entry.length == 40 || got.entry.length == LARGE);
            node->outstanding--;
            node->answers++;
            break;
        default:
            CHECK(got.entry.kind == LAYER8_NOTICE && expect_unknown && got.record.reason == LAYER8_REASON_UNKNOWN);
            CHECK(got.record.topic == LAYER8_REQUEST && node->outstanding != 0);
            node->outstanding--;
            node->failures++;
        }
    }
    CHECK(count == 0);
    go_on_replying(node);
}

static inline void go_on_pushing(struct node *node) {
    int status = layer8_push(node->vnic.port, &node->large);
    CHECK(status == LAYER8_OK || status == LAYER8_FULL || status == LAYER8_XOFF);
    bool given_up = status != LAYER8_OK && give_up && node->large.kind != LAYER8_REQUEST && any(16) == 0;
    if (given_up) {
        layer8_push_abort(node->vnic.port, &node->large);
        *node->pushed -= 1;
    }
    if (status == LAYER8_OK || given_up) {
        free(node->bytes);
        node->pushing = false;
    }
}

/* One small or large message of some kind, when there is room for it. */
static inline void say(int end, uint32_t index) {
    struct node *node = &nodes[end][index];
    uint32_t to = any(NODES), what = any(10);
    if (node->pushing) {
        go_on_pushing(node);
        return;
    }
    bool large = any(40) == 0;
    uint32_t length = (uint32_t)sizeof(struct head) + any(large ? LARGE - 100 : any(8) == 0 ? 20000 : 300);
    if (large && say_huge && any(4) == 0) {
        length = HUGE - any(LAYER8_FRAGMENT_BYTES);
    }
    struct head head = {.from = index};
    head.kind = what < 6 ? LAYER8_UNICAST : what < 8 ? LAYER8_PUBLISH : LAYER8_REQUEST;
    uint64_t *count = head.kind == LAYER8_UNICAST ? &node->sent[to] : head.kind == LAYER8_PUBLISH ? &node->published : &node->asked[to];
    if (head.kind == LAYER8_REQUEST && node->outstanding >= 20) {
        return;
    }
    head.serial = *count + 1;
    node->bytes = malloc(length);
    fill(node->bytes, length, &head);
    node->large = (layer8_outgoing){.handle = head.kind == LAYER8_PUBLISH ? node->topic : node->handle[to],
                                    .kind = (uint8_t)head.kind,
                                    .flags = head.kind == LAYER8_PUBLISH ? LAYER8_RELIABLE : 0,
                                    .payload = node->bytes,
                                    .length = length,
                                    .correlation = head.kind == LAYER8_REQUEST ? ++node->correlation : 0};
    int status = layer8_push(node->vnic.port, &node->large);
    CHECK(status == LAYER8_OK || status == LAYER8_FULL || status == LAYER8_XOFF);
    if (status != LAYER8_OK && node->large.fragment == 0) { /* nothing was written */
        free(node->bytes);
        return;
    }
    *count += 1;
    node->pushed = count;
    node->outstanding += head.kind == LAYER8_REQUEST;
    node->pushing = status != LAYER8_OK;
    if (!node->pushing) {
        free(node->bytes);
    }
}

/* Everybody takes what has come, or one in `lazy` does not, and goes on with what it had begun. */
static inline void read_all(uint32_t lazy) {
    for (int end = 0; end < 2; end++) {
        for (uint32_t n = 0; n < NODES; n++) {
            if (any(lazy) != 0) {
                take(end, n);
            }
            if (nodes[end][n].pushing) {
                go_on_pushing(&nodes[end][n]);
            }
        }
    }
}

static inline bool finished(void) {
    for (int end = 0; end < 2; end++) {
        for (uint32_t n = 0; n < NODES; n++) {
            struct node *node = &nodes[end][n];
            if (node->outstanding != 0 || node->pushing || node->replies != 0) {
                return false;
            }
            for (uint32_t m = 0; m < NODES; m++) {
                struct node *from = &nodes[1 - end][m];
                if (node->got[m] != from->sent[n] || node->got_published[m] != from->published ||
                    (!expect_unknown && node->got_asked[m] != from->asked[n])) {
                    return false;
                }
            }
        }
    }
    return true;
}

static inline void open_book(uint64_t first, bool unknown, bool mortal) {
    seed = first_seed = first;
    expect_unknown = unknown;
    for (size_t n = 0; n < sizeof pattern; n++) {
        pattern[n] = (uint8_t)(n % 32 * 7);
    }
    memset(nodes, 0, sizeof nodes);
    pair = pair_start();
    pair->a.world.keeps_segments = pair->b.world.keeps_segments = mortal;
    for (int end = 0; end < 2; end++) {
        for (uint32_t n = 0; n < NODES; n++) {
            nodes[end][n].side = end == 0 ? &pair->a : &pair->b;
            vnic_attach(&nodes[end][n].vnic, &nodes[end][n].side->world, n);
            CHECK(vnic_command(&nodes[end][n].vnic, LAYER8_COMMAND_SUBSCRIBE, TOPIC, 1, 0) == LAYER8_OK);
            CHECK(vnic_command(&nodes[end][n].vnic, LAYER8_COMMAND_UNSUBSCRIBE, TOPIC, 1, 0) == LAYER8_OK);
            CHECK(vnic_command(&nodes[end][n].vnic, LAYER8_COMMAND_SUBSCRIBE, TOPIC + (end == 0), 1, 0) == LAYER8_OK);
        }
        struct side *side = end == 0 ? &pair->a : &pair->b; /* what is published at one end is subscribed to at the other */
        CHECK(world_command(&side->world, LAYER8_COMMAND_SUBSCRIBE, side->adjacent, TOPIC + (end == 1), TOPIC + (end == 1), 0, NULL) == LAYER8_OK);
    }
    for (int end = 0; end < 2; end++) {
        for (uint32_t n = 0; n < NODES; n++) {
            struct node *node = &nodes[end][n];
            for (uint32_t m = 0; m < NODES; m++) {
                node->handle[m] = far_grant(node->side, &node->vnic, m, &nodes[1 - end][m].vnic);
            }
            node->topic = vnic_grant(&node->vnic, 9, LAYER8_TARGET_TOPIC, TOPIC + (end == 1));
        }
    }
}

/* All has come: nothing more does, and nothing is left anywhere. */
static inline void close_book(const char *what, uint32_t times) {
    uint64_t messages = 0, answers = 0, failures = 0;
    pair_idle(pair);
    for (int end = 0; end < 2; end++) {
        for (uint32_t n = 0; n < NODES; n++) {
            layer8_port_stats stats;
            take(end, n);
            CHECK(finished());
            layer8_port_read_stats(nodes[end][n].vnic.port, &stats);
            CHECK(stats.assembling_bytes == 0);
            messages += stats.received_messages;
            answers += nodes[end][n].answers;
            failures += nodes[end][n].failures;
        }
    }
    for (int tries = 0; side_outstanding(&pair->a) + side_outstanding(&pair->b) != 0; tries++) {
        if (tries == 20000) {
            fprintf(stderr, "seed %lu: %lu and %lu rights are left\n", (unsigned long)first_seed,
                    (unsigned long)side_outstanding(&pair->a), (unsigned long)side_outstanding(&pair->b));
        }
        CHECK(tries < 20000);
        pair_events(pair);
        (void)poll(NULL, 0, 1);
    }
    pair_stop(pair);
    printf("seed %lu: %u %s, %lu messages, %lu answers, %lu requests failed as unknown\n", (unsigned long)first_seed, times, what,
           (unsigned long)messages, (unsigned long)answers, (unsigned long)failures);
}

#endif
