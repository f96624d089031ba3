/* test_mirror.c - a port whose segment exists twice: what its Vnic sends and receives is what a local one would.
 *
 * A thread carries frames between the two ends through a wire that splits them anywhere and, where a test wants it, is
 * cut at random: what was on it is lost, and the ends resume where the other one stands. */
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "port.h"
#include "switch_world.h"

#define WIRE 300000u

struct wire {
    uint8_t bytes[WIRE];
    uint64_t length;
};

struct far {
    struct vnic vnic;
    layer8_mirror *at_vnic, *at_vnet;
    int doorbell;
    pthread_t carrier;
    _Atomic bool stop;
    _Atomic uint32_t cut_every; /* one of so many turns; 0: never */
    _Atomic uint32_t cuts;
    struct wire up, down;
};

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void resume(struct far *far, int fresh) {
    layer8_mirror_place vnic, vnet;
    layer8_mirror_about(far->at_vnic, &vnic);
    layer8_mirror_about(far->at_vnet, &vnet);
    CHECK(layer8_mirror_resume(far->at_vnic, vnet.received, fresh) == LAYER8_OK);
    CHECK(layer8_mirror_resume(far->at_vnet, vnic.received, fresh) == LAYER8_OK);
    far->up.length = far->down.length = 0;
}

/* One way: says what there is to say when the wire is empty, and lets some of it arrive. True: something happened. */
static bool carry(layer8_mirror *from, layer8_mirror *to, struct wire *wire, uint64_t *state) {
    bool did = wire->length != 0;
    if (wire->length < WIRE - LAYER8_MIRROR_COLLECT_MIN) {
        int64_t got = layer8_mirror_collect(from, wire->bytes + wire->length, WIRE - wire->length,
                                            next_random(state) % 4 == 0);
        CHECK(got >= 0);
        wire->length += (uint64_t)got;
        did = did || got != 0;
    }
    uint64_t most = next_random(state) % 4 == 0 ? 100 : WIRE;
    uint64_t arriving = wire->length < most ? wire->length : next_random(state) % most;
    arriving = arriving < wire->length ? arriving : wire->length;
    uint64_t consumed = 0;
    uint8_t *copy = malloc(arriving + 1); /* of exactly this size: a sanitizer sees reads past it */
    memcpy(copy, wire->bytes, arriving);
    CHECK(layer8_mirror_feed(to, copy, arriving, &consumed) == LAYER8_MIRROR_MORE);
    free(copy);
    if (consumed == 0 && arriving < wire->length) { /* all that is there */
        CHECK(layer8_mirror_feed(to, wire->bytes, wire->length, &consumed) == LAYER8_MIRROR_MORE);
    }
    memmove(wire->bytes, wire->bytes + consumed, wire->length - consumed);
    wire->length -= consumed;
    return did;
}

static void *carrier_main(void *argument) {
    struct far *far = argument;
    uint64_t state = 1234567;
    while (!far->stop) {
        bool did = carry(far->at_vnic, far->at_vnet, &far->up, &state);
        did = carry(far->at_vnet, far->at_vnic, &far->down, &state) || did;
        uint32_t every = far->cut_every;
        if (every != 0 && next_random(&state) % every == 0) {
            resume(far, 0);
            far->cuts++;
        }
        if (!did && layer8_mirror_arm(far->at_vnic) != LAYER8_MIRROR_WORK &&
            layer8_mirror_arm(far->at_vnet) != LAYER8_MIRROR_WORK) {
            struct pollfd wait = {.fd = far->doorbell, .events = POLLIN};
            (void)poll(&wait, 1, 1); /* the other end has no descriptor here */
            uint64_t ignored;
            (void)!read(far->doorbell, &ignored, sizeof ignored);
        }
    }
    return NULL;
}

static int own_file(const uint8_t *uuid) {
    char path[] = "/tmp/layer8-mirror-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    (void)unlink(path);
    CHECK(layer8_mirror_make(fd, LAYER8_RING_MIN, uuid) == 0);
    return fd;
}

static void far_attach(struct far *far, struct world *world, uint32_t index) {
    int status = 0;
    struct vnic *vnic = &far->vnic;
    memset(far, 0, sizeof *far);
    memset(vnic->uuid, (int)index + 1, sizeof vnic->uuid);
    vnic->world = world;
    vnic->index = index;
    vnic->id = index | (uint32_t)++world->generations[index] << 16;
    int segment = layer8_segment_create(LAYER8_RING_MIN, vnic->uuid);
    int mirror = own_file(vnic->uuid);
    CHECK(segment >= 0);
    vnic->port = layer8_port_open(segment, UINT64_C(8) << 20, UINT64_C(32) << 20, &status);
    CHECK(vnic->port != NULL);
    world->opened[world->opened_count++] = vnic->port;
    far->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(layer8_port_set_doorbell(vnic->port, far->doorbell) == LAYER8_OK);
    far->at_vnic = layer8_mirror_open(segment, 0, &status);
    CHECK(far->at_vnic != NULL && status == LAYER8_OK);
    CHECK(layer8_switch_port_new(mirror, vnic->uuid, 1, 0, &status) == NULL && status == LAYER8_INVALID); /* no seals */
    layer8_switch_port *port = layer8_switch_port_new(mirror, vnic->uuid, 1, LAYER8_OWN_FILE, &status);
    CHECK(port != NULL);
    far->at_vnet = layer8_mirror_open(mirror, 1, &status);
    CHECK(far->at_vnet != NULL && status == LAYER8_OK);
    layer8_mirror_set_bell(far->at_vnet, layer8_switch_port_doorbell(port));
    (void)close(segment);
    (void)close(mirror);
    world->ports[index] = port;
    CHECK(world_command(world, LAYER8_COMMAND_ADD_PORT, vnic->id, 7, 0, 0, port) == LAYER8_OK);
    resume(far, 1);
    CHECK(pthread_create(&far->carrier, NULL, carrier_main, far) == 0);
}

static void far_stop(struct far *far) {
    layer8_port_stats stats;
    layer8_port_read_stats(far->vnic.port, &stats);
    CHECK(stats.late_wakeups == 0);
    far->stop = true;
    CHECK(pthread_join(far->carrier, NULL) == 0);
}

static void far_end(struct far *far) { /* after world_stop: the switch writes to the doorbell's port */
    layer8_mirror_close(far->at_vnic);
    layer8_mirror_close(far->at_vnet);
    (void)close(far->doorbell);
}

/* Waits until the switch's command shows in the Vnic's own segment, as a Done behind it would make sure. */
static uint32_t far_grant(struct far *far, uint32_t slot, uint32_t kind, uint32_t target) {
    uint32_t handle = vnic_grant(&far->vnic, slot, kind, target);
    for (int tries = 0; tries < 20000 && layer8_slot_state(far->vnic.port, slot) != LAYER8_SLOT_OPEN; tries++) {
        (void)usleep(1000);
    }
    CHECK(layer8_slot_state(far->vnic.port, slot) == LAYER8_SLOT_OPEN);
    return handle;
}

static uint8_t big[3 << 20];

struct sending {
    struct vnic *vnic;
    uint32_t handle, count;
};

static uint64_t size_of(uint32_t n) { return 4 + (n * 7919u) % (n % 50 == 0 ? 60000u : 300u); }

static void *send_all(void *argument) {
    struct sending *sending = argument;
    uint8_t *payload = malloc(65536);
    for (uint32_t n = 0; n < sending->count; n++) {
        memset(payload, (int)n, 300);
        memcpy(payload, &n, sizeof n);
        int64_t sent = vnic_send(sending->vnic, sending->handle, payload, size_of(n));
        CHECK(sent == (int64_t)n + 1);
    }
    free(payload);
    return NULL;
}

static void receive_all(struct vnic *vnic, uint32_t count) {
    for (uint32_t n = 0; n < count; n++) {
        struct got got = vnic_receive(vnic);
        CHECK(got.entry.kind == LAYER8_UNICAST && got.entry.sequence == n + 1 && got.entry.length == size_of(n));
        CHECK(memcmp(got.payload, &n, sizeof n) == 0);
    }
}

static void both_ways(uint32_t cut_every, uint32_t count) {
    struct world world;
    struct far far;
    struct vnic local;
    pthread_t threads[2];
    world_start(&world);
    far_attach(&far, &world, 0);
    vnic_attach(&local, &world, 1);
    far.cut_every = cut_every;
    struct sending out = {&far.vnic, far_grant(&far, 3, LAYER8_TARGET_PORT, local.id), count};
    struct sending in = {&local, vnic_grant(&local, 4, LAYER8_TARGET_PORT, far.vnic.id), count};
    CHECK(pthread_create(&threads[0], NULL, send_all, &out) == 0);
    receive_all(&local, count);
    CHECK(pthread_join(threads[0], NULL) == 0);
    CHECK(pthread_create(&threads[1], NULL, send_all, &in) == 0);
    receive_all(&far.vnic, count);
    CHECK(pthread_join(threads[1], NULL) == 0);
    CHECK(cut_every == 0 || far.cuts > 3);
    far_stop(&far);
    world_stop(&world);
    far_end(&far);
}

static void test_what_is_sent_arrives_both_ways_in_order(void) { both_ways(0, 5000); }
static void test_a_cut_wire_loses_nothing_and_doubles_nothing(void) { both_ways(4, 4000); }

static void test_far_vnics_reach_each_other(void) {
    struct world world;
    static struct far a, b;
    pthread_t thread;
    world_start(&world);
    far_attach(&a, &world, 0);
    far_attach(&b, &world, 1);
    struct sending out = {&a.vnic, far_grant(&a, 0, LAYER8_TARGET_PORT, b.vnic.id), 2000};
    CHECK(pthread_create(&thread, NULL, send_all, &out) == 0);
    receive_all(&b.vnic, out.count);
    CHECK(pthread_join(thread, NULL) == 0);
    far_stop(&a);
    far_stop(&b);
    world_stop(&world);
    far_end(&a);
    far_end(&b);
}

static void push(struct vnic *vnic, uint32_t handle, uint64_t length) {
    layer8_outgoing message = {.handle = handle, .kind = LAYER8_UNICAST, .payload = big, .length = length};
    for (int tries = 0; tries < 2000; tries++) {
        int status = layer8_push(vnic->port, &message);
        if (status == LAYER8_OK) {
            return;
        }
        CHECK(status == LAYER8_FULL || status == LAYER8_XOFF);
        (void)layer8_wait_room(vnic->port, status == LAYER8_XOFF ? (int64_t)(handle & 0xffff) : -1, length, SECOND / 10,
                               0);
    }
    CHECK(!"never pushed");
}

struct pushing {
    struct vnic *vnic;
    uint32_t handle;
};

static void *push_big(void *argument) {
    struct pushing *pushing = argument;
    push(pushing->vnic, pushing->handle, sizeof big);
    return NULL;
}

static void test_messages_larger_than_the_rings_arrive_whole(void) {
    struct world world;
    struct far far;
    struct vnic local;
    pthread_t thread;
    world_start(&world);
    far_attach(&far, &world, 0);
    vnic_attach(&local, &world, 1);
    far.cut_every = 8;
    for (size_t n = 0; n < sizeof big; n++) {
        big[n] = (uint8_t)(n * 31 >> 3);
    }
    struct pushing up = {&far.vnic, far_grant(&far, 3, LAYER8_TARGET_PORT, local.id)};
    struct pushing down = {&local, vnic_grant(&local, 4, LAYER8_TARGET_PORT, far.vnic.id)};
    for (int n = 0; n < 2; n++) {
        CHECK(pthread_create(&thread, NULL, push_big, n == 0 ? &up : &down) == 0);
        struct got got = vnic_receive(n == 0 ? &local : &far.vnic);
        CHECK(got.entry.length == sizeof big && memcmp(got.payload, big, sizeof big) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    far_stop(&far);
    world_stop(&world);
    far_end(&far);
}

/* Sends until nothing more is taken; how many were. */
static uint32_t fill(struct vnic *vnic, uint32_t handle) {
    uint32_t count = 0;
    for (;;) {
        int64_t sent = layer8_send(vnic->port, handle, big, 10000);
        if (sent > 0) {
            count++;
        } else if (sent == LAYER8_XOFF || sent == LAYER8_FULL) {
            int64_t slot = sent == LAYER8_XOFF ? (int64_t)(handle & 0xffff) : -1;
            if (layer8_wait_room(vnic->port, slot, 10000, SECOND / 5, 0) == 0) {
                return count;
            }
        } else {
            CHECK(!"refused");
        }
    }
}

static void slow_receiver(bool far_sends) {
    struct world world;
    struct far far;
    struct vnic local;
    world_start(&world);
    far_attach(&far, &world, 0);
    vnic_attach(&local, &world, 1);
    struct vnic *sender = far_sends ? &far.vnic : &local, *receiver = far_sends ? &local : &far.vnic;
    uint32_t handle = far_sends ? far_grant(&far, 3, LAYER8_TARGET_PORT, local.id)
                                : vnic_grant(&local, 3, LAYER8_TARGET_PORT, far.vnic.id);
    uint64_t total = 0;
    for (int round = 0; round < 3; round++) {
        uint32_t count = fill(sender, handle);
        CHECK(count > 20);
        for (uint32_t n = 0; n < count; n++) {
            CHECK(vnic_receive(receiver).entry.sequence == ++total);
        }
        (void)layer8_wait_arrived(receiver->port, SECOND / 100, 0); /* says that nothing is unread */
        CHECK(layer8_wait_room(sender->port, handle & 0xffff, 10000, SECOND / 5, 0) == 1 ||
              vnic_send(sender, handle, big, 1) > 0);
        while (layer8_receive(receiver->port, 256, 0) > 0) {
            total++;
        }
        total = (uint64_t)vnic_send(sender, handle, big, 1);
        while (vnic_receive(receiver).entry.sequence != total) {
        }
    }
    far_stop(&far);
    world_stop(&world);
    far_end(&far);
}

static void test_a_slow_local_receiver_holds_its_far_sender(void) { slow_receiver(true); }
static void test_a_slow_far_receiver_holds_its_local_sender(void) { slow_receiver(false); }

/* ---- what cannot be ---- */

struct pair {
    layer8_mirror *vnic, *vnet;
    int files[2];
};

static void pair_open(struct pair *pair) {
    uint8_t uuid[16] = {7};
    int status;
    for (int n = 0; n < 2; n++) {
        pair->files[n] = own_file(uuid);
    }
    pair->vnic = layer8_mirror_open(pair->files[0], 0, &status);
    pair->vnet = layer8_mirror_open(pair->files[1], 1, &status);
    CHECK(pair->vnic != NULL && pair->vnet != NULL);
}

static void pair_close(struct pair *pair) {
    layer8_mirror_close(pair->vnic);
    layer8_mirror_close(pair->vnet);
    (void)close(pair->files[0]);
    (void)close(pair->files[1]);
}

static uint8_t frame[200000];

static uint64_t make_frame(uint8_t type, const void *body, uint32_t length, uint64_t claimed) {
    uint32_t size = (uint32_t)claimed;
    memcpy(frame, &size, 4);
    frame[4] = type;
    memcpy(frame + 5, body, length);
    return 5u + length;
}

static void refused(bool at_vnet, uint8_t type, const void *body, uint32_t length) {
    struct pair pair;
    layer8_mirror_place before, after;
    uint64_t consumed;
    pair_open(&pair);
    layer8_mirror *mirror = at_vnet ? pair.vnet : pair.vnic;
    layer8_mirror_about(mirror, &before);
    uint64_t size = make_frame(type, body, length, length + 1u);
    CHECK(layer8_mirror_feed(mirror, frame, size, &consumed) == LAYER8_CORRUPT && consumed == 0);
    layer8_mirror_about(mirror, &after);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    pair_close(&pair);
}

static void test_frames_that_cannot_be_are_refused(void) {
    uint64_t body[10000] = {0};
    for (int at_vnet = 0; at_vnet < 2; at_vnet++) {
        refused(at_vnet, LAYER8_MIRROR_RING, body, 8);            /* nothing in it */
        refused(at_vnet, LAYER8_MIRROR_RING, body, 8 + 63);       /* no whole line */
        refused(at_vnet, LAYER8_MIRROR_HEAD, body, 15);
        refused(at_vnet, LAYER8_MIRROR_HEAD, body, 24);
        for (uint64_t position = 1; position != 0; position <<= 1) {
            body[0] = position;
            refused(at_vnet, LAYER8_MIRROR_RING, body, 8 + 64);   /* not where the ring ends */
            refused(at_vnet, LAYER8_MIRROR_HEAD, body, 16);       /* past what was sent */
        }
        body[0] = UINT64_MAX - 63;
        refused(at_vnet, LAYER8_MIRROR_HEAD, body, 16);
        body[0] = 0;
    }
    refused(true, LAYER8_MIRROR_PAGES, body, 4 + 64);             /* only a Vnet writes them */
    const uint32_t offsets[] = {0, 0x1000, 0x1fc0, 0x2001, 0x5040, 0x8000, UINT32_MAX - 63, UINT32_MAX};
    for (size_t n = 0; n < sizeof offsets / sizeof *offsets; n++) {
        memcpy(body, &offsets[n], 4);
        refused(false, LAYER8_MIRROR_PAGES, body, 4 + 64);
    }
    uint32_t last = 0x5000; /* begins inside, ends behind */
    memcpy(body, &last, 4);
    refused(false, LAYER8_MIRROR_PAGES, body, 4 + 128);
}

static void test_more_than_a_ring_holds_is_refused(void) {
    struct pair pair;
    uint64_t consumed, position = 0;
    pair_open(&pair);
    static uint64_t body[8193];
    for (; position < LAYER8_RING_MIN / 2; position += 65536) {
        body[0] = position;
        uint64_t size = make_frame(LAYER8_MIRROR_RING, body, 8 + 65536, 9 + 65536);
        CHECK(layer8_mirror_feed(pair.vnet, frame, size, &consumed) == LAYER8_MIRROR_MORE && consumed == size);
    }
    body[0] = position;
    uint64_t size = make_frame(LAYER8_MIRROR_RING, body, 8 + 64, 9 + 64);
    CHECK(layer8_mirror_feed(pair.vnet, frame, size, &consumed) == LAYER8_CORRUPT);
    pair_close(&pair);
}

/* What it finds to do it does: else its carrier would never sleep, and never look at the network. */
static void test_it_sleeps_when_a_head_is_not_worth_telling_although_a_handle_is_marked(void) {
    struct pair pair;
    uint64_t consumed, body[1 + 8] = {0};
    static uint8_t out[LAYER8_MIRROR_COLLECT_MIN];
    pair_open(&pair);
    CHECK(layer8_mirror_resume(pair.vnet, 0, 1) == LAYER8_OK);
    uint8_t *page = mmap(NULL, 2 * LAYER8_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, pair.files[1], LAYER8_OFFSET_CONTROL);
    CHECK(page != MAP_FAILED);
    page[LAYER8_PAGE] = LAYER8_SLOT_XOFF; /* the flag of handle 0 */
    uint64_t size = make_frame(LAYER8_MIRROR_RING, body, 8 + 64, 9 + 64);
    CHECK(layer8_mirror_feed(pair.vnet, frame, size, &consumed) == LAYER8_MIRROR_MORE);
    while (layer8_mirror_collect(pair.vnet, out, sizeof out, 0) != 0) {
    }
    layer8_store_seq(&((struct layer8_control *)(void *)page)->transmit_head, 64); /* the switch has taken it */
    CHECK(layer8_mirror_collect(pair.vnet, out, sizeof out, 0) == 0);
    CHECK(layer8_mirror_arm(pair.vnet) == LAYER8_MIRROR_SOON);
    CHECK(layer8_mirror_collect(pair.vnet, out, sizeof out, 1) != 0); /* idle: told now */
    CHECK(layer8_mirror_arm(pair.vnet) == 0);
    (void)munmap(page, 2 * LAYER8_PAGE);
    pair_close(&pair);
}

static void test_lengths_that_cannot_be_are_refused(void) {
    struct pair pair;
    uint64_t consumed;
    pair_open(&pair);
    const uint32_t sizes[] = {0, LAYER8_MIRROR_FRAME_MAX + 1, UINT32_MAX};
    for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++) {
        uint64_t size = make_frame(LAYER8_MIRROR_RING, "", 0, sizes[n]);
        CHECK(layer8_mirror_feed(pair.vnet, frame, size, &consumed) == LAYER8_CORRUPT);
    }
    uint64_t size = make_frame(3, "abc", 3, 4); /* for Python */
    CHECK(layer8_mirror_feed(pair.vnet, frame, size, &consumed) == LAYER8_MIRROR_OTHER && consumed == 0);
    CHECK(layer8_mirror_feed(pair.vnet, frame, size - 1, &consumed) == LAYER8_MIRROR_MORE && consumed == 0);
    pair_close(&pair);
}

static void test_resuming_where_nobody_can_be_is_refused(void) {
    struct pair pair;
    pair_open(&pair);
    for (uint64_t received = 1; received != 0; received <<= 1) {
        CHECK(layer8_mirror_resume(pair.vnic, received, 0) == LAYER8_CORRUPT);
    }
    CHECK(layer8_mirror_resume(pair.vnic, 0, 0) == LAYER8_OK);
    pair_close(&pair);
}

static void test_any_bytes_leave_the_mirror_whole(void) {
    struct pair pair;
    uint64_t consumed;
    pair_open(&pair);
    for (int n = 0; n < 20000; n++) {
        uint64_t length = next_random(&random_state) % 300;
        for (uint64_t at = 0; at < length; at++) {
            frame[at] = (uint8_t)next_random(&random_state);
        }
        if (length >= 5 && n % 2 == 0) { /* almost right */
            uint32_t size = (uint32_t)length - 4;
            memcpy(frame, &size, 4);
            frame[4] = (uint8_t)(LAYER8_MIRROR_RING + next_random(&random_state) % 3);
        }
        uint8_t *copy = malloc(length + 1);
        memcpy(copy, frame, length);
        (void)layer8_mirror_feed(n % 4 < 2 ? pair.vnic : pair.vnet, copy, length, &consumed);
        CHECK(consumed <= length);
        free(copy);
    }
    pair_close(&pair);
}

static void test_files_that_are_no_segment_are_refused(void) {
    uint8_t uuid[16] = {1};
    int status = 0;
    int fd = own_file(uuid);
    CHECK(layer8_mirror_make(fd, 12345, uuid) == -EINVAL);
    CHECK(ftruncate(fd, 4096) == 0);
    CHECK(layer8_mirror_open(fd, 1, &status) == NULL && status == LAYER8_INVALID);
    CHECK(ftruncate(fd, 0) == 0 && ftruncate(fd, LAYER8_SEGMENT_BYTES(LAYER8_RING_MIN)) == 0);
    CHECK(layer8_mirror_open(fd, 1, &status) == NULL && status == LAYER8_INVALID);
    (void)close(fd);
}

#define RUN(test)                              \
    do {                                       \
        (void)fprintf(stderr, "  %s\n", #test); \
        (void)alarm(280);                      \
        test();                                \
    } while (0)

int main(void) {
    RUN(test_frames_that_cannot_be_are_refused);
    RUN(test_more_than_a_ring_holds_is_refused);
    RUN(test_it_sleeps_when_a_head_is_not_worth_telling_although_a_handle_is_marked);
    RUN(test_lengths_that_cannot_be_are_refused);
    RUN(test_resuming_where_nobody_can_be_is_refused);
    RUN(test_any_bytes_leave_the_mirror_whole);
    RUN(test_files_that_are_no_segment_are_refused);
    RUN(test_what_is_sent_arrives_both_ways_in_order);
    RUN(test_a_cut_wire_loses_nothing_and_doubles_nothing);
    RUN(test_far_vnics_reach_each_other);
    RUN(test_messages_larger_than_the_rings_arrive_whole);
    RUN(test_a_slow_local_receiver_holds_its_far_sender);
    RUN(test_a_slow_far_receiver_holds_its_local_sender);
    return 0;
}
