/* test_switch_random.c - ten Vnics that do everything at random, and a book of what must have become of each message.
 *
 *   test_switch_random [seed [steps]]
 *
 * One thread drives all Vnics against a real switch: sends, publishes, asks and answers, small and large, gives up half
 * way, sleeps, loses handles, leaves topics and aliases, dies. The book then knows for each message whether it may have
 * been lost, and that none came twice. The operations follow from the seed; what the switch has done of them by when
 * does not. */
#include <time.h>

#include "port.h"
#include "switch_world.h"

#define NODES 10u
#define SLOTS 24u
#define TOPICS_USED 4u
#define ALIASES_USED 3u
#define LARGE_MAX (300u << 10)
#define SENT_MAX 400000u
#define SERIALS 240u
#define PUSHING 3u

enum state { SENT = 0, DELIVERED, NOTICED, GIVEN_UP };

struct entry { /* one message in the book */
    uint8_t kind, state, reliable, cancelled, outcomes, topic, target_kind, delivered;
    uint16_t serial, target; /* of the sender; of the receiver, or the alias */
    uint32_t length, stream;
    uint64_t sequence, correlation;
    uint32_t expect[NODES]; /* publications: the subscription of each node when it was sent */
    uint16_t got;           /* bit per node */
};

struct head { /* what each payload begins with */
    uint32_t entry, reply;
};

struct slot {
    uint8_t kind;
    uint32_t handle, target, stream;
    uint16_t serial; /* of the node it names */
};

struct subscribed {
    uint32_t id; /* 0: not subscribed */
    uint32_t number, missed_told, unreliable_got;
};

struct right_kept {
    uint32_t entry, right;
    uint16_t generation;
};

struct pushing {
    bool active, is_reply;
    layer8_outgoing out;
    uint32_t entry;
    struct right_kept right;
    uint8_t *bytes;
};

struct node {
    struct vnic vnic;
    bool alive;
    uint16_t serial;
    int64_t asleep_until;
    uint64_t correlation;
    struct slot slots[SLOTS];
    struct subscribed topics[TOPICS_USED];
    bool member[ALIASES_USED];
    struct right_kept *rights; /* all that it took and has not answered: each must be */
    uint32_t right_count, right_capacity;
    struct pushing pushing[PUSHING];
};

static struct world world;
static struct node nodes[NODES];
static struct entry *book;
static uint32_t booked, streams, subscriptions, serials = 1, removals;
static uint64_t (*last_of)[NODES]; /* per stream and receiving node: the highest sequence seen */
static uint32_t *by_sequence[SERIALS];
static uint64_t by_sequence_size[SERIALS], lost_notices[SERIALS];
static bool dead[SERIALS];
static uint32_t alias_loss[ALIASES_USED]; /* entries before this number may have died with a member */
static uint8_t pattern[LARGE_MAX + 4096];
static uint64_t seed;
static uint64_t happened[16];

static uint32_t any(uint32_t below) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((seed >> 33) % below);
}

static int64_t now_ms(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The payload of a message: its head, then a piece of the pattern that depends on the entry. */
static void fill(uint8_t *bytes, uint32_t length, uint32_t entry, uint32_t reply) {
    struct head head = {entry, reply};
    memcpy(bytes, &head, sizeof head);
    memcpy(bytes + sizeof head, pattern + entry % 4096u, length - sizeof head);
}

static struct head check_payload(const struct got *got, uint32_t length) {
    struct head head;
    CHECK(length >= sizeof head && length <= LARGE_MAX);
    memcpy(&head, got->payload, sizeof head);
    CHECK(head.entry < booked);
    CHECK(memcmp(got->payload + sizeof head, pattern + head.entry % 4096u, length - sizeof head) == 0);
    return head;
}

static uint32_t any_length(void) {
    uint32_t most = any(8) == 0 ? 30000u : 600u;
    return (uint32_t)sizeof(struct head) + any(most);
}

/* ---- life ---- */

static void node_attach(uint32_t index) {
    struct node *node = &nodes[index];
    int status = 0;
    memset(node, 0, sizeof *node);
    node->serial = (uint16_t)serials++;
    CHECK(node->serial < SERIALS);
    struct vnic *vnic = &node->vnic;
    vnic->world = &world;
    vnic->index = index;
    vnic->id = index | (uint32_t)++world.generations[index] << 16;
    memcpy(vnic->uuid, &node->serial, sizeof node->serial);
    vnic->uuid[15] = 1;
    int fd = layer8_segment_create(LAYER8_RING_MIN << any(2), vnic->uuid);
    CHECK(fd >= 0);
    vnic->port = layer8_port_open(fd, UINT64_C(8) << 20, UINT64_C(32) << 20, &status);
    CHECK(vnic->port != NULL);
    world.opened[world.opened_count++] = vnic->port;
    layer8_switch_port *port = layer8_switch_port_new(fd, vnic->uuid, 1, 0, &status);
    CHECK(port != NULL);
    (void)close(fd);
    world.ports[index] = port;
    CHECK(layer8_port_set_doorbell(vnic->port, layer8_switch_port_doorbell(port)) == LAYER8_OK);
    CHECK(world_command(&world, LAYER8_COMMAND_ADD_PORT, vnic->id, node->serial, 0, 0, port) == LAYER8_OK);
    node->alive = true;
}

static void node_remove(struct node *node) {
    static const uint32_t waits[] = {0, 0, 20, 120};
    uint32_t gone = world.gone + 1;
    if (any(4) == 0) { /* what cannot be */
        layer8_store_seq(&node->vnic.port->control->transmit_tail, UINT64_C(1) << 40 | 3u);
        layer8_port_ring(node->vnic.port);
    } else {
        CHECK(vnic_command(&node->vnic, LAYER8_COMMAND_REMOVE_PORT, LAYER8_REASON_GONE, waits[any(4)], 0) == LAYER8_OK);
    }
    (void)world_wait(&world, 0, gone);
    for (uint32_t n = 0; n < ALIASES_USED; n++) {
        if (node->member[n]) {
            alias_loss[n] = booked;
        }
    }
    for (uint32_t n = 0; n < PUSHING; n++) {
        free(node->pushing[n].bytes);
    }
    free(node->rights);
    dead[node->serial] = true;
    node->alive = false;
    removals++;
}

/* ---- the book ---- */

static uint32_t enter(struct node *node, uint8_t kind, const struct slot *slot, uint32_t length) {
    CHECK(booked < SENT_MAX);
    struct entry *entry = &book[booked];
    *entry = (struct entry){.kind = kind, .serial = node->serial, .length = length, .stream = slot->stream};
    entry->target_kind = slot->kind;
    entry->target = slot->kind == LAYER8_TARGET_PORT ? slot->serial : (uint16_t)slot->target;
    if (kind == LAYER8_PUBLISH) {
        entry->topic = (uint8_t)slot->target;
        for (uint32_t n = 0; n < NODES; n++) {
            entry->expect[n] = nodes[n].alive ? nodes[n].topics[slot->target].id : 0;
        }
    }
    return booked++;
}

static void accepted(uint32_t index, int64_t sequence) {
    struct entry *entry = &book[index];
    uint64_t at = entry->sequence = (uint64_t)sequence;
    if (at >= by_sequence_size[entry->serial]) {
        uint64_t size = (at + 1) * 2;
        by_sequence[entry->serial] = realloc(by_sequence[entry->serial], size * sizeof(uint32_t));
        CHECK(by_sequence[entry->serial] != NULL);
        for (uint64_t n = by_sequence_size[entry->serial]; n < size; n++) {
            by_sequence[entry->serial][n] = UINT32_MAX;
        }
        by_sequence_size[entry->serial] = size;
    }
    by_sequence[entry->serial][at] = index;
}

/* Whether its sender can have heard nothing of its loss. */
static bool may_be_lost(const struct entry *entry, uint32_t index) {
    if (dead[entry->serial] || entry->state == GIVEN_UP || entry->cancelled) {
        return true;
    }
    if (entry->target_kind == LAYER8_TARGET_PORT) {
        return dead[entry->target]; /* with the ring it stood in */
    }
    return entry->target_kind == LAYER8_TARGET_ALIAS && index < alias_loss[entry->target];
}

static void on_notice(struct node *node, const struct layer8_record *record) {
    happened[record->reason]++;
    if (record->reason == LAYER8_REASON_LOST_NOTICES) {
        lost_notices[node->serial] += record->missed;
        return;
    }
    uint32_t index = booked - 1u;
    if (record->topic == LAYER8_REQUEST) { /* named by its correlation; the sequence may be a later fragment's */
        while (index != UINT32_MAX && (book[index].serial != node->serial || book[index].kind != LAYER8_REQUEST ||
                                       book[index].correlation != record->correlation)) {
            index--;
        }
    } else {
        CHECK(record->sequence < by_sequence_size[node->serial]);
        index = by_sequence[node->serial][record->sequence];
    }
    CHECK(index < booked);
    struct entry *entry = &book[index];
    CHECK(entry->kind == record->topic);
    if (entry->kind == LAYER8_REQUEST) {
        CHECK(entry->correlation == record->correlation);
        CHECK(++entry->outcomes == 1);
    } else {
        CHECK(entry->state == SENT || entry->state == GIVEN_UP);
    }
    if (entry->state == SENT) {
        entry->state = NOTICED;
    }
}

static void keep_right(struct node *node, struct right_kept right) {
    if (node->right_count == node->right_capacity) {
        node->right_capacity = node->right_capacity == 0 ? 64 : node->right_capacity * 2;
        node->rights = realloc(node->rights, node->right_capacity * sizeof *node->rights);
        CHECK(node->rights != NULL);
    }
    node->rights[node->right_count++] = right;
}

static void on_publication(struct node *node, struct entry *entry, const struct got *got) {
    uint32_t at = node->vnic.index;
    CHECK((entry->got >> at & 1u) == 0);
    entry->got = (uint16_t)(entry->got | 1u << at);
    struct subscribed *subscribed = &node->topics[entry->topic];
    if (subscribed->id == 0 || subscribed->number != got->entry.topic) {
        return; /* on its way when the topic was left */
    }
    subscribed->missed_told += got->record.missed;
    if (entry->expect[at] == subscribed->id && !entry->reliable) {
        subscribed->unreliable_got++;
    }
}

static void on_message(struct node *node, const struct got *got) {
    if (got->entry.kind == LAYER8_CANCEL) {
        for (uint32_t n = 0; n < node->right_count; n++) {
            if (node->rights[n].right == got->record.missed && node->rights[n].generation == got->record.topic) {
                node->rights[n] = node->rights[--node->right_count];
                break;
            }
        }
        return;
    }
    CHECK(got->entry.kind >= LAYER8_UNICAST && got->entry.kind <= LAYER8_FAILED_REPLY);
    struct head head = check_payload(got, got->entry.length);
    struct entry *entry = &book[head.entry];
    uint32_t at = node->vnic.index;
    if (head.reply != 0) {
        CHECK(entry->kind == LAYER8_REQUEST && entry->serial == node->serial && entry->delivered);
        CHECK(entry->correlation == got->record.correlation && ++entry->outcomes == 1);
        happened[14]++;
        return;
    }
    CHECK(entry->kind == got->entry.kind && entry->length == got->entry.length);
    CHECK(memcmp(got->record.source, &entry->serial, sizeof entry->serial) == 0);
    CHECK(entry->state != GIVEN_UP && entry->sequence == got->entry.sequence);
    if (entry->kind == LAYER8_PUBLISH) {
        on_publication(node, entry, got);
    } else {
        CHECK(!entry->delivered && (entry->state == SENT || entry->outcomes != 0));
        CHECK(entry->target_kind == LAYER8_TARGET_ALIAS || entry->target == node->serial);
        entry->delivered = 1;
        entry->state = DELIVERED;
    }
    if (got->record.fragments == 1) { /* large ones end later than others that began later */
        CHECK(entry->sequence > last_of[entry->stream][at]);
        last_of[entry->stream][at] = entry->sequence;
    }
    if (entry->kind == LAYER8_REQUEST) {
        keep_right(node, (struct right_kept){
                             .entry = head.entry, .right = got->record.missed, .generation = got->record.topic});
    }
    happened[13]++;
}

static uint32_t node_receive(struct node *node, uint32_t most) {
    layer8_port *port = node->vnic.port;
    int count = layer8_receive(port, most, any(3) == 0 ? any(4096) : 0);
    CHECK(count >= 0);
    uint64_t size;
    const uint8_t *batch = layer8_port_batch(port, &size);
    for (int n = 0; n < count; n++) {
        struct got got = {.entry = layer8_port_table(port)[n]};
        if ((got.entry.flags & LAYER8_ENTRY_LARGE) != 0) {
            const uint8_t *record;
            got.payload = layer8_port_large(port, got.entry.offset, &size, &record);
            memcpy(&got.record, record, sizeof got.record);
        } else {
            got.payload = batch + got.entry.offset;
            memcpy(&got.record, got.payload - LAYER8_RECORD_BYTES, sizeof got.record);
        }
        if (got.entry.kind == LAYER8_NOTICE) {
            on_notice(node, &got.record);
        } else {
            on_message(node, &got);
        }
    }
    return (uint32_t)count;
}

/* ---- what a node may do ---- */

static struct slot *any_slot(struct node *node) {
    struct slot *slot = &node->slots[any(SLOTS)];
    return slot->kind != 0 ? slot : NULL;
}

static void drop_slot(struct node *node, struct slot *slot, uint32_t byte) {
    CHECK(vnic_command(&node->vnic, LAYER8_COMMAND_REVOKE, slot->handle, byte, 0) == LAYER8_OK);
    slot->kind = 0;
}

static void do_grant(struct node *node) {
    uint32_t at = any(SLOTS), kind = 1 + any(3);
    struct slot *slot = &node->slots[at];
    if (slot->kind != 0) {
        return;
    }
    struct node *other = &nodes[any(NODES)];
    uint32_t target = kind == LAYER8_TARGET_PORT ? other->vnic.id : any(kind == LAYER8_TARGET_ALIAS ? ALIASES_USED : TOPICS_USED);
    if (kind != LAYER8_TARGET_PORT || other->alive) {
        *slot = (struct slot){.kind = (uint8_t)kind, .target = target, .stream = ++streams, .serial = other->serial};
        memset(last_of[slot->stream], 0, sizeof *last_of);
        slot->handle = vnic_grant(&node->vnic, at, kind, target);
    }
}

static void do_send(struct node *node) {
    static uint8_t bytes[40000];
    struct slot *slot = any_slot(node);
    if (slot == NULL) {
        return;
    }
    if (any(5) == 0) {
        vnic_ignore_xoff(&node->vnic, slot->handle & 0xffffu);
    }
    uint32_t times = 1 + any(12);
    bool request = slot->kind != LAYER8_TARGET_TOPIC && any(3) == 0;
    uint8_t kind = slot->kind == LAYER8_TARGET_TOPIC ? LAYER8_PUBLISH : request ? LAYER8_REQUEST : LAYER8_UNICAST;
    for (uint32_t n = 0; n < times; n++) {
        uint32_t length = any_length();
        uint32_t index = enter(node, kind, slot, length);
        struct entry *entry = &book[index];
        layer8_outgoing out = {.kind = kind, .handle = slot->handle, .payload = bytes, .length = length};
        fill(bytes, length, index, 0);
        if (kind == LAYER8_PUBLISH) {
            entry->reliable = any(2) == 0;
            out.flags = entry->reliable ? LAYER8_RELIABLE : 0;
        } else {
            out.ttl = any(6) == 0 ? 1 + any(150) : 0;
        }
        if (kind == LAYER8_REQUEST) {
            out.correlation = entry->correlation = ++node->correlation;
        }
        int status = layer8_push(node->vnic.port, &out);
        if (status != LAYER8_OK) {
            booked--;
            if (status == LAYER8_GONE && slot->kind == LAYER8_TARGET_PORT) {
                drop_slot(node, slot, LAYER8_SLOT_OPEN);
            }
            return;
        }
        accepted(index, out.sequence);
    }
}

static void push_on(struct node *node, struct pushing *pushing) {
    int status = layer8_push(node->vnic.port, &pushing->out);
    if (pushing->entry != UINT32_MAX && pushing->out.sequence != 0 && book[pushing->entry].sequence == 0) {
        accepted(pushing->entry, pushing->out.sequence);
    }
    bool over = status == LAYER8_OK;
    if (!over && (any(60) == 0 || (status != LAYER8_FULL && status != LAYER8_XOFF))) {
        layer8_push_abort(node->vnic.port, &pushing->out);
        over = true;
        happened[15]++;
        if (!pushing->is_reply) {
            book[pushing->entry].state = GIVEN_UP;
        } else {
            keep_right(node, pushing->right); /* answers it another time */
        }
    }
    if (over) {
        free(pushing->bytes);
        memset(pushing, 0, sizeof *pushing);
    }
}

static struct pushing *begin_push(struct node *node, uint32_t index, uint32_t reply, uint32_t length) {
    for (uint32_t n = 0; n < PUSHING; n++) {
        struct pushing *pushing = &node->pushing[n];
        if (!pushing->active) {
            *pushing = (struct pushing){.active = true, .entry = UINT32_MAX, .is_reply = reply != 0};
            pushing->bytes = malloc(length);
            CHECK(pushing->bytes != NULL);
            fill(pushing->bytes, length, index, reply);
            pushing->out = (layer8_outgoing){.payload = pushing->bytes, .length = length};
            return pushing;
        }
    }
    return NULL;
}

static void do_large(struct node *node) {
    struct slot *slot = any_slot(node);
    bool free_place = !node->pushing[0].active || !node->pushing[1].active || !node->pushing[2].active;
    if (slot == NULL || slot->kind == LAYER8_TARGET_ALIAS || !free_place) {
        return;
    }
    uint32_t length = LAYER8_FRAGMENT_BYTES + 1 + any(LARGE_MAX - LAYER8_FRAGMENT_BYTES - 1);
    uint8_t kind = slot->kind == LAYER8_TARGET_TOPIC ? LAYER8_PUBLISH : any(3) == 0 ? LAYER8_REQUEST : LAYER8_UNICAST;
    uint32_t index = enter(node, kind, slot, length);
    struct pushing *pushing = begin_push(node, index, 0, length);
    pushing->entry = index;
    pushing->out.kind = kind;
    pushing->out.handle = slot->handle;
    book[index].reliable = kind == LAYER8_PUBLISH && any(2) == 0;
    pushing->out.flags = book[index].reliable ? LAYER8_RELIABLE : 0;
    pushing->out.ttl = kind != LAYER8_PUBLISH && any(5) == 0 ? 1 + any(150) : 0;
    pushing->out.correlation = book[index].correlation = kind == LAYER8_REQUEST ? ++node->correlation : 0;
    push_on(node, pushing);
}

static void do_answer(struct node *node, bool small) {
    uint8_t bytes[700];
    if (node->right_count == 0) {
        return;
    }
    uint32_t at = any(node->right_count);
    struct right_kept right = node->rights[at];
    uint32_t length = !small && any(12) == 0 ? LAYER8_FRAGMENT_BYTES + 1 + any(LARGE_MAX / 2) : 8 + any(600);
    if (length > sizeof bytes) {
        struct pushing *pushing = begin_push(node, right.entry, 1, length);
        if (pushing != NULL) {
            node->rights[at] = node->rights[--node->right_count];
            pushing->right = right;
            pushing->out.kind = any(4) == 0 ? LAYER8_FAILED_REPLY : LAYER8_REPLY;
            pushing->out.right = right.right;
            pushing->out.right_generation = right.generation;
            pushing->out.correlation = book[right.entry].correlation;
            push_on(node, pushing);
        }
        return;
    }
    fill(bytes, length, right.entry, 1);
    layer8_outgoing out = {.kind = any(4) == 0 ? LAYER8_FAILED_REPLY : LAYER8_REPLY,
                           .payload = bytes,
                           .length = length,
                           .right = right.right,
                           .right_generation = right.generation,
                           .correlation = book[right.entry].correlation};
    if (layer8_push(node->vnic.port, &out) == LAYER8_OK) {
        node->rights[at] = node->rights[--node->right_count];
    }
}

static void do_cancel(struct node *node) {
    if (booked == 0) {
        return;
    }
    uint32_t index = booked - 1u - any(booked < 400u ? booked : 400u);
    struct entry *entry = &book[index];
    struct slot *slot = any_slot(node);
    if (slot == NULL || entry->serial != node->serial || entry->kind != LAYER8_REQUEST ||
        entry->length > LAYER8_FRAGMENT_BYTES) {
        return;
    }
    for (uint32_t n = 0; n < SLOTS; n++) { /* under the handle it was sent with, if there is one */
        if (node->slots[n].kind != 0 && node->slots[n].stream == entry->stream) {
            slot = &node->slots[n];
        }
    }
    layer8_outgoing out = {.kind = LAYER8_CANCEL, .handle = slot->handle, .correlation = entry->correlation};
    if (layer8_push(node->vnic.port, &out) == LAYER8_OK) {
        entry->cancelled = 1;
    }
}

static void do_topic(struct node *node) {
    uint32_t topic = any(TOPICS_USED);
    struct subscribed *subscribed = &node->topics[topic];
    if (subscribed->id == 0) {
        *subscribed = (struct subscribed){.id = ++subscriptions, .number = (subscriptions * TOPICS_USED + topic) % LAYER8_TOPICS};
        CHECK(vnic_command(&node->vnic, LAYER8_COMMAND_SUBSCRIBE, topic, subscribed->number, 0) == LAYER8_OK);
    } else if (any(4) == 0) {
        CHECK(vnic_command(&node->vnic, LAYER8_COMMAND_UNSUBSCRIBE, topic, subscribed->number, 0) == LAYER8_OK);
        subscribed->id = 0;
    }
}

static void do_alias(struct node *node) {
    uint32_t alias = any(ALIASES_USED);
    uint32_t kind = node->member[alias] ? LAYER8_COMMAND_LEAVE_ALIAS : LAYER8_COMMAND_JOIN_ALIAS;
    if (!node->member[alias] || any(3) == 0) {
        CHECK(vnic_command(&node->vnic, kind, alias, 0, 0) == LAYER8_OK);
        node->member[alias] = !node->member[alias];
        alias_loss[alias] = node->member[alias] ? alias_loss[alias] : booked; /* it may die later with what it took */
    }
}

static void step(void) {
    uint32_t index = any(NODES), what = any(1000);
    struct node *node = &nodes[index];
    if (!node->alive) {
        if (what < 100 && serials < SERIALS) {
            node_attach(index);
        }
        return;
    }
    if (what < 330) {
        do_send(node);
    } else if (what < 380) {
        do_large(node);
    } else if (what < 480) {
        do_answer(node, false);
    } else if (what < 500) {
        do_cancel(node);
    } else if (what < 560) {
        do_grant(node);
    } else if (what < 572) {
        struct slot *slot = any_slot(node);
        if (slot != NULL) {
            drop_slot(node, slot, any(2) == 0 ? LAYER8_SLOT_OPEN : LAYER8_SLOT_REVOKED);
        }
    } else if (what < 590) {
        do_topic(node);
    } else if (what < 600) {
        do_alias(node);
    } else if (what < 603 && removals < 60) {
        node_remove(node);
    } else if (what < 615) {
        node->asleep_until = now_ms() + any(any(20) == 0 ? 1300 : 60);
    } else if (what < 620) {
        int found = layer8_wait_arrived(node->vnic.port, SECOND / 1000, 0);
        CHECK(found >= 0);
    } else if (node->asleep_until <= now_ms()) {
        (void)node_receive(node, 1 + any(256));
    }
    for (uint32_t n = 0; n < PUSHING && node->alive; n++) {
        if (node->pushing[n].active) {
            push_on(node, &node->pushing[n]);
        }
    }
}

/* ---- the end ---- */

/* Everybody reads, answers and finishes until nothing moves any more. */
static void drain(void) {
    for (uint32_t quiet = 0; quiet < 3;) {
        bool busy = false;
        layer8_switch_counters counters;
        for (uint32_t n = 0; n < NODES; n++) {
            struct node *node = &nodes[n];
            layer8_port_counters port;
            if (!node->alive) {
                continue;
            }
            while (node_receive(node, 256) != 0) {
                busy = true;
            }
            layer8_set_unread(node->vnic.port, 0);
            (void)layer8_wait_arrived(node->vnic.port, SECOND / 5000, 0); /* whoever waits holds nothing */
            for (uint32_t k = node->right_count; k != 0; k--) {
                do_answer(node, true);
            }
            for (uint32_t k = 0; k < PUSHING; k++) {
                if (node->pushing[k].active) {
                    push_on(node, &node->pushing[k]);
                    busy = true;
                }
            }
            layer8_switch_port_read(world.ports[n], &port);
            busy = busy || node->right_count != 0 || port.transmit_fill != 0 || port.hold_fill != 0 ||
                   port.receive_fill != 0 || port.xoff != 0;
        }
        layer8_switch_read(world.sw, &counters);
        busy = busy || counters.held_records != 0;
        quiet = busy ? 0 : quiet + 1;
    }
    CHECK(world_command(&world, LAYER8_COMMAND_QUIESCE, 0, 0, 0, 0, NULL) == LAYER8_OK);
}

/* One reliable publication on each topic brings what was missed until now. */
static void tell_missed(void) {
    for (uint32_t n = 0; n < NODES; n++) {
        struct node *node = &nodes[n];
        for (uint32_t topic = 0; node->alive && topic < TOPICS_USED; topic++) {
            struct slot slot = {.kind = LAYER8_TARGET_TOPIC, .target = topic, .stream = ++streams};
            memset(last_of[slot.stream], 0, sizeof *last_of);
            slot.handle = vnic_grant(&node->vnic, SLOTS, LAYER8_TARGET_TOPIC, topic);
            uint8_t bytes[16];
            uint32_t index = enter(node, LAYER8_PUBLISH, &slot, sizeof bytes);
            fill(bytes, sizeof bytes, index, 0);
            book[index].reliable = 1;
            int64_t sequence = layer8_publish(node->vnic.port, slot.handle, bytes, sizeof bytes, 1);
            CHECK(sequence > 0);
            accepted(index, sequence);
            drop_slot(node, &slot, LAYER8_SLOT_OPEN);
        }
        if (node->alive) {
            return;
        }
    }
}

static void check_publication(const struct entry *entry, uint32_t *wanted) {
    for (uint32_t n = 0; n < NODES; n++) {
        bool stayed = nodes[n].alive && entry->expect[n] != 0 && entry->expect[n] == nodes[n].topics[entry->topic].id;
        if (!stayed || dead[entry->serial] || entry->state != SENT) {
            continue;
        }
        if (entry->reliable) {
            bool got = (entry->got >> n & 1u) != 0;
            CHECK(got || lost_notices[entry->serial] != 0);
        } else {
            wanted[n * TOPICS_USED + entry->topic]++;
        }
    }
}

static void check_book(void) {
    uint64_t unexplained[SERIALS] = {0};
    uint32_t wanted[NODES * TOPICS_USED] = {0};
    for (uint32_t index = 0; index < booked; index++) {
        const struct entry *entry = &book[index];
        if (entry->kind == LAYER8_PUBLISH) {
            check_publication(entry, wanted);
        } else if (entry->kind == LAYER8_REQUEST) {
            bool excused = dead[entry->serial] || entry->state == GIVEN_UP || entry->cancelled;
            if (entry->outcomes != 1 && !excused) {
                fprintf(stderr, "request %u of %u: %u outcomes, state %u, length %u, target %u/%u\n", index, entry->serial,
                        entry->outcomes, entry->state, entry->length, entry->target_kind, entry->target);
                CHECK(!"a request has one outcome");
            }
        } else if (entry->state == SENT && !may_be_lost(entry, index)) {
            unexplained[entry->serial]++;
        }
    }
    for (uint32_t n = 0; n < SERIALS; n++) {
        CHECK(unexplained[n] <= lost_notices[n]);
    }
    for (uint32_t n = 0; n < NODES * TOPICS_USED; n++) {
        struct node *node = &nodes[n / TOPICS_USED];
        const struct subscribed *subscribed = &node->topics[n % TOPICS_USED];
        if (node->alive && subscribed->id != 0) {
            uint64_t missed = layer8_missed(node->vnic.port, subscribed->number);
            CHECK(subscribed->missed_told == missed);
            CHECK(subscribed->unreliable_got + missed >= wanted[n]);
        }
    }
}

/* The switch thread has ended: nothing of it may be left over. */
static void check_switch(void) {
    layer8_switch_counters counters;
    layer8_switch_read(world.sw, &counters);
    CHECK(counters.held_records == 0 && counters.held_bytes == 0 && counters.outstanding == 0);
    CHECK(world.sw->timed == 0 && list_empty(&world.sw->closing) && list_empty(&world.sw->opening));
    for (uint32_t n = 0; n < NODES; n++) {
        const port_t *port = world.sw->ports[n];
        CHECK((port != NULL) == nodes[n].alive);
        if (port != NULL) {
            layer8_port_stats stats;
            CHECK(list_empty(&port->flows) && list_empty(&port->waiting) && list_empty(&port->timed));
            CHECK(list_empty(&port->messages) && list_empty(&port->due) && list_empty(&port->as_caller));
            CHECK(list_empty(&port->as_callee) && port->hold_live == 0 && !port->stalled && !port->congested);
            CHECK(port->message_count == 0 && port->due_count == 0 && port->outstanding == 0 && port->lost_notices == 0);
            layer8_port_read_stats(nodes[n].vnic.port, &stats);
            CHECK(stats.late_wakeups == 0 && stats.duplicates_dropped == 0 && stats.assembling_bytes == 0);
        }
    }
    for (uint32_t n = 0; n < ALIASES_USED; n++) {
        CHECK(world.sw->aliases[n] == NULL || (list_empty(&world.sw->aliases[n]->waiting) && world.sw->aliases[n]->congested == 0));
    }
}

int main(int count, char **arguments) {
    seed = count > 1 ? strtoull(arguments[1], NULL, 0) : 8;
    uint32_t steps = count > 2 ? (uint32_t)strtoul(arguments[2], NULL, 0) : 40000u;
    (void)alarm(280);
    printf("test_switch_random: seed %llu, %u steps\n", (unsigned long long)seed, steps);
    (void)fflush(stdout);
    for (uint32_t n = 0; n < sizeof pattern; n++) {
        pattern[n] = (uint8_t)(n * 2654435761u >> 13);
    }
    book = calloc(SENT_MAX, sizeof *book);
    last_of = calloc(SENT_MAX, sizeof *last_of);
    CHECK(book != NULL && last_of != NULL);
    world_start(&world);
    for (uint32_t n = 0; n < NODES; n++) {
        node_attach(n);
    }
    int64_t began = now_ms();
    for (uint32_t n = 0; n < steps && now_ms() - began < 20000; n++) {
        step();
    }
    drain();
    tell_missed();
    drain();
    CHECK(world_command(&world, LAYER8_COMMAND_STOP, 0, 0, 0, 0, NULL) == LAYER8_OK);
    CHECK(pthread_join(world.thread, NULL) == 0);
    check_switch();
    check_book();
    layer8_switch_free(world.sw);
    for (uint32_t n = 0; n < world.opened_count; n++) {
        layer8_port_close(world.opened[n]);
    }
    for (uint32_t n = 0; n < SERIALS; n++) {
        free(by_sequence[n]);
    }
    for (uint32_t n = 0; n < NODES; n++) {
        if (nodes[n].alive) {
            free(nodes[n].rights);
        }
    }
    free(book);
    free(last_of);
    printf("%u messages, %llu taken, %llu answers, %llu given up, %u ports removed; notices by reason:", booked,
           (unsigned long long)happened[13], (unsigned long long)happened[14], (unsigned long long)happened[15], removals);
    for (uint32_t n = 1; n < 13; n++) {
        printf(" %llu", (unsigned long long)happened[n]);
    }
    puts("\ntest_switch_random: all passed");
    return 0;
}
