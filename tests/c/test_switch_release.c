/* test_switch_release.c - a handle is given back while its port's transmit ring is full: nothing sent under it is lost, and
 * nobody waits longer than for any other visit. */
#include <unistd.h>

#include "port.h"
#include "switch_world.h"

static const uint8_t noise[100];

static void what_was_sent_under_a_handle_given_back_is_delivered(void) {
    struct world world;
    struct vnic a, b;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&b, &world, 1);
    for (uint32_t repeat = 0; repeat < 200; repeat++) {
        uint32_t handle = vnic_grant(&a, 2, LAYER8_TARGET_PORT, b.id);
        for (uint32_t n = 0; n < 300; n++) {
            CHECK(layer8_send(a.port, handle, noise, 100) > 0);
        }
        CHECK(vnic_command(&a, LAYER8_COMMAND_REVOKE, handle, LAYER8_SLOT_OPEN, 0) == LAYER8_OK);
        for (uint32_t n = 0; n < 300; n++) {
            CHECK(vnic_receive(&b).entry.length == 100);
        }
    }
    CHECK(vnic_empty(&a));
    world_stop(&world);
}

/* The switch stands still while `records` stand in the ring of one and one in that of the other, who comes after it. */
static void neither_the_ring_nor_its_commands_go_before_others(void) {
    const uint32_t records = 1000;
    struct world world;
    struct vnic a, other, receiver;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&other, &world, 1);
    vnic_attach(&receiver, &world, 2);
    uint32_t handle = vnic_grant(&a, 2, LAYER8_TARGET_PORT, receiver.id);
    uint32_t others = vnic_grant(&other, 2, LAYER8_TARGET_PORT, receiver.id);
    CHECK(world_command(&world, LAYER8_COMMAND_STOP, 0, 0, 0, 0, NULL) == LAYER8_OK);
    CHECK(pthread_join(world.thread, NULL) == 0);
    for (uint32_t n = 0; n < records; n++) {
        CHECK(layer8_send(a.port, handle, noise, 1) > 0);
    }
    CHECK(layer8_send(other.port, others, noise, 2) > 0);
    uint64_t token = world.token;
    CHECK(layer8_switch_command(world.sw, LAYER8_COMMAND_REVOKE, token + 1, a.id, handle, LAYER8_SLOT_OPEN, 0, 0,
                                NULL) == LAYER8_OK);
    CHECK(layer8_switch_command(world.sw, LAYER8_COMMAND_GRANT, token + 2, a.id, handle + (1u << 16),
                                LAYER8_TARGET_PORT, other.id, 0, NULL) == LAYER8_OK); /* the same slot */
    CHECK(layer8_switch_command(world.sw, LAYER8_COMMAND_REVOKE, token + 3, a.id, handle + (1u << 16),
                                LAYER8_SLOT_REVOKED, 0, 0, NULL) == LAYER8_OK); /* and taken away at once */
    world.token = token + 3;
    world.sw->stop = false;
    CHECK(pthread_create(&world.thread, NULL, world_main, world.sw) == 0);
    CHECK(world_wait(&world, token + 3, 0) == LAYER8_OK); /* so the two before it have been carried out */
    uint32_t before = 0;
    for (uint32_t n = 0; n <= records; n++) {
        struct got got = vnic_receive(&receiver);
        CHECK(got.entry.kind == LAYER8_UNICAST);
        if (got.entry.length == 2) {
            before = n;
        }
    }
    CHECK(before <= 4u * 64u); /* a few visits, each of as many records as any */
    CHECK(vnic_empty(&a) && vnic_empty(&other));
    CHECK(layer8_send(a.port, handle + (1u << 16), noise, 1) == LAYER8_REVOKED);
    world_stop(&world);
}

/* A port that ends while a command of its waits: it is carried out, and answered, all the same. */
static void a_port_may_end_while_it_waits(void) {
    struct world world;
    struct vnic a, receiver;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&receiver, &world, 1);
    for (uint32_t repeat = 0; repeat < 50; repeat++) {
        uint32_t handle = vnic_grant(&a, 2, LAYER8_TARGET_PORT, receiver.id);
        uint32_t sent = 0;
        while (sent < 1000 && layer8_send(a.port, handle, noise, 1) > 0) {
            sent++;
        }
        uint64_t token = world.token;
        CHECK(layer8_switch_command(world.sw, LAYER8_COMMAND_REVOKE, token + 1, a.id, handle, LAYER8_SLOT_OPEN, 0, 0,
                                    NULL) == LAYER8_OK);
        world.token = token + 1;
        vnic_remove(&a, 5000);
        for (uint32_t n = 0; n < sent; n++) {
            CHECK(vnic_receive(&receiver).entry.kind == LAYER8_UNICAST);
        }
        vnic_attach(&a, &world, 0);
    }
    world_stop(&world);
}

int main(void) {
    (void)alarm(280);
    what_was_sent_under_a_handle_given_back_is_delivered();
    neither_the_ring_nor_its_commands_go_before_others();
    a_port_may_end_while_it_waits();
    printf("test_switch_release: ok\n");
    return 0;
}
