/* test_link_hostile.c - an adjacent Vnet that sends whatever it likes: it loses its connection, and nobody else anything.
 *
 *   test_link_hostile [seed [frames]] */
#include "port.h"

#include "link_world.h"

static struct side side, nobody;
static struct vnic local[2];
static uint32_t handle;
static uint64_t seed = 1, closed, refused, delivered;

static uint32_t any(uint32_t below) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((seed >> 33) % below);
}

static void connect_again(void) {
    if (side.queues != NULL) {
        CHECK(world_command(&side.world, LAYER8_COMMAND_LINK_DOWN, 0, side.link, 0, 0, NULL) == LAYER8_OK);
        layer8_link_free(side.queues);
    }
    side.queues = layer8_link_new(0);
    CHECK(side.queues != NULL);
    CHECK(world_command(&side.world, LAYER8_COMMAND_LINK_UP, 0, side.link, any(2), 0, side.queues) == LAYER8_OK);
    side.world.link_violations = 0;
}

/* A frame that is right but for a field or two. Returns its length. */
static uint32_t make(uint8_t *bytes) {
    struct layer8_frame_record frame = {.head = {.type = LAYER8_FRAME_RECORD, .destination_kind = (uint8_t)(1 + any(3))}, .tag = 1 + any(1000)};
    struct layer8_record *record = &frame.record;
    uint32_t length = any(6) == 0 ? any(LAYER8_FRAGMENT_BYTES + 1) : any(300);
    uint32_t what = any(20);
    record->kind = (uint8_t)(1 + any(8));
    record->fragments = any(4) == 0 ? (uint16_t)(1 + any(5)) : 1;
    record->fragment = (uint16_t)any(record->fragments);
    record->flags = (uint8_t)((record->fragment == 0 ? LAYER8_FIRST : 0) | (record->fragment + 1 == record->fragments ? LAYER8_LAST : 0) |
                              (any(3) == 0 ? LAYER8_RETRY : 0) | (any(5) == 0 ? LAYER8_RELIABLE : 0));
    record->slot = (uint16_t)any(4);
    record->generation = (uint16_t)any(2);
    record->reason = record->kind == LAYER8_ABORT ? (uint16_t)(1 + any(6)) : (uint16_t)any(11);
    record->correlation = any(4);
    record->sequence = any(1000);
    record->ttl = any(4) == 0 ? any(50) : 0;
    record->missed = any(10) == 0 ? any(5000) : 0;
    record->length = record->kind >= LAYER8_CANCEL ? 0 : length + 1;
    if (record->kind == LAYER8_PUBLISH || (record->kind == LAYER8_ABORT && record->reason == LAYER8_PUBLISH)) {
        frame.head.destination_kind = LAYER8_TARGET_TOPIC;
        frame.destination[0] = (uint8_t)any(20);
    } else {
        frame.head.destination_kind = (uint8_t)(any(4) == 0 ? LAYER8_TARGET_ALIAS : LAYER8_TARGET_PORT);
        memcpy(frame.destination, any(5) == 0 ? (const uint8_t *)"nobody is so named" : local[any(2)].uuid, 16);
    }
    memset(record->source, any(3) == 0 ? 1 : 200 + (int)any(4), 16); /* perhaps one of this host */
    frame.head.length = (uint32_t)sizeof frame - 4 + record->length;
    memcpy(bytes, &frame, sizeof frame);
    memset(bytes + sizeof frame, 7, record->length);
    length = (uint32_t)sizeof frame + record->length;
    if (what == 0) { /* one byte of it is another one */
        bytes[any((uint32_t)sizeof frame)] = (uint8_t)any(256);
    } else if (what == 1) {
        struct layer8_outcome run = {.first = 1 + any(200), .count = 1 + any(100), .reason = (uint16_t)any(11)};
        struct layer8_frame_head head = {.length = sizeof head - 4 + sizeof run, .type = LAYER8_FRAME_OUTCOMES};
        memcpy(bytes, &head, sizeof head);
        memcpy(bytes + sizeof head, &run, sizeof run);
        length = sizeof head + sizeof run;
    } else if (what == 2) {
        struct layer8_frame_gone gone = {.head = {.length = sizeof gone - 4, .type = LAYER8_FRAME_GONE}, .tag = 1 + any(9)};
        memset(gone.uuid, 200 + (int)any(4), 16);
        memcpy(bytes, &gone, sizeof gone);
        length = sizeof gone;
    }
    return length;
}

static void local_goes_on(void) {
    uint32_t value = any(1000000);
    while (layer8_receive(local[0].port, 64, 0) > 0 || layer8_receive(local[1].port, 64, 0) > 0) {
        delivered++;
    }
    for (int tries = 0; layer8_send(local[0].port, handle, (const uint8_t *)&value, sizeof value) < 0; tries++) {
        CHECK(tries < 20000);
        (void)layer8_receive(local[1].port, 64, 0);
        (void)poll(NULL, 0, 1);
    }
    for (int tries = 0;; tries++) {
        int count = layer8_receive(local[1].port, 1, 0);
        CHECK(count >= 0 && tries < 20000);
        if (count == 1) {
            uint64_t size;
            const layer8_entry *entry = layer8_port_table(local[1].port);
            if (entry->kind == LAYER8_UNICAST && entry->length == sizeof value &&
                memcmp(layer8_port_batch(local[1].port, &size) + entry->offset, &value, sizeof value) == 0) {
                return;
            }
        } else {
            (void)layer8_wait_arrived(local[1].port, SECOND / 1000, 0);
        }
    }
}

int main(int count, char **arguments) {
    static uint8_t bytes[LAYER8_FRAME_MAX + 4], out[LAYER8_FRAME_MAX + 4];
    seed = count > 1 ? strtoull(arguments[1], NULL, 10) : 1;
    uint32_t frames = count > 2 ? (uint32_t)strtoul(arguments[2], NULL, 10) : 5000;
    side_start(&side, &nobody, 0);
    vnic_attach(&local[0], &side.world, 0);
    vnic_attach(&local[1], &side.world, 1);
    handle = vnic_grant(&local[0], 9, LAYER8_TARGET_PORT, local[1].id);
    CHECK(vnic_command(&local[0], LAYER8_COMMAND_JOIN_ALIAS, ALIAS, 0, 0) == LAYER8_OK);
    CHECK(vnic_command(&local[1], LAYER8_COMMAND_SUBSCRIBE, 5, 1, 0) == LAYER8_OK);
    connect_again();
    for (uint32_t n = 0; n < frames; n++) {
        layer8_control_frame controls[4];
        uint64_t consumed = 0;
        uint32_t length = make(bytes);
        int status = layer8_link_feed(side.queues, bytes, length, controls, 4, &consumed);
        (void)layer8_link_collect(side.queues, out, sizeof out);
        (void)world_wait(&side.world, 0, 0);
        if (status < 0 || side.world.link_violations != 0) {
            refused += status < 0;
            closed++;
            connect_again();
        }
        if (n % 50 == 0) {
            local_goes_on();
        }
    }
    local_goes_on();
    CHECK(side.world.violations == 0 && closed > 10);
    CHECK(world_command(&side.world, LAYER8_COMMAND_REMOVE_LINK, 0, side.link, LAYER8_REASON_UNREACHABLE, 0, NULL) == LAYER8_OK);
    layer8_link_free(side.queues);
    (void)world_wait(&side.world, 0, 0);
    printf("%u frames, %lu connections closed (%lu at the frame), %lu batches delivered\n", frames, (unsigned long)closed,
           (unsigned long)refused, (unsigned long)delivered);
    world_stop(&side.world);
    return 0;
}
