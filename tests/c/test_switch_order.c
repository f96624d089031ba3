/* test_switch_order.c - one sender, one receiver, two handles: the alias, and the member of it that a large message was sent to. To
 * the program both are one name, so nothing overtakes. */
#include "port.h"
#include "switch_world.h"

#define TO_MEMBER 1u
#define TO_ALIAS 2u
#define LARGE 60000u

static const uint8_t noise[LARGE];

struct scene {
    struct world world;
    struct vnic sender, receiver;
    uint32_t member, alias;
    uint32_t filled;
};

/* As a library that does not keep to Xoff would. */
static void send(struct scene *scene, uint32_t handle, const void *payload, uint32_t length) {
    do {
        vnic_ignore_xoff(&scene->sender, handle & 0xffffu);
    } while (layer8_send(scene->sender.port, handle, payload, length) < 0);
}

/* The receiver has room for what is small, and for nothing large. */
static void begin(struct scene *scene) {
    world_start(&scene->world);
    vnic_attach(&scene->sender, &scene->world, 0);
    vnic_attach(&scene->receiver, &scene->world, 1);
    CHECK(vnic_command(&scene->receiver, LAYER8_COMMAND_JOIN_ALIAS, 1, 0, 0) == LAYER8_OK);
    scene->member = vnic_grant(&scene->sender, TO_MEMBER, LAYER8_TARGET_PORT, scene->receiver.id);
    scene->alias = vnic_grant(&scene->sender, TO_ALIAS, LAYER8_TARGET_ALIAS, 1);
    for (scene->filled = 0; scene->filled < 7; scene->filled++) {
        send(scene, scene->member, noise, LARGE);
    }
}

static void wait_moved(const struct vnic *vnic) {
    struct layer8_control *control = vnic->port->control;
    while (layer8_load_seq(&control->transmit_head) != layer8_load_seq(&control->transmit_tail)) {
        (void)usleep(200);
    }
}

static void expect(struct scene *scene, uint32_t length) {
    struct got got = vnic_receive(&scene->receiver);
    CHECK(got.entry.kind == LAYER8_UNICAST && got.entry.length == length);
}

static void read_all(struct scene *scene) {
    for (uint32_t n = 0; n < scene->filled; n++) {
        expect(scene, LARGE);
    }
}

static void a_small_one_to_the_alias_waits_behind_a_large_one(void) {
    struct scene scene;
    begin(&scene);
    send(&scene, scene.member, noise, LARGE);
    send(&scene, scene.alias, "one", 3);
    send(&scene, scene.alias, "four", 4);
    wait_moved(&scene.sender);
    read_all(&scene);
    expect(&scene, LARGE);
    expect(&scene, 3);
    expect(&scene, 4);
    world_stop(&scene.world);
}

static void a_large_one_waits_behind_small_ones_to_the_alias(void) {
    struct scene scene;
    begin(&scene);
    send(&scene, scene.alias, noise, 50000); /* for any member, when there is room */
    send(&scene, scene.alias, "one", 3);
    send(&scene, scene.member, "four", 4);
    wait_moved(&scene.sender);
    read_all(&scene);
    expect(&scene, 50000);
    expect(&scene, 3);
    expect(&scene, 4);
    world_stop(&scene.world);
}

/* What waits under another handle than its own is refused with its own. */
static void what_is_revoked_is_refused_wherever_it_waits(void) {
    struct scene scene;
    begin(&scene);
    send(&scene, scene.member, noise, LARGE);
    send(&scene, scene.alias, "one", 3);
    wait_moved(&scene.sender);
    CHECK(vnic_command(&scene.sender, LAYER8_COMMAND_REVOKE, scene.alias, LAYER8_SLOT_REVOKED, 0) == LAYER8_OK);
    read_all(&scene);
    expect(&scene, LARGE);
    struct got notice = vnic_receive(&scene.sender);
    CHECK(notice.entry.kind == LAYER8_NOTICE && notice.record.reason == LAYER8_REASON_REVOKED && notice.record.slot == TO_ALIAS);
    CHECK(vnic_empty(&scene.receiver));
    world_stop(&scene.world);
}

int main(void) {
    (void)alarm(100);
    a_small_one_to_the_alias_waits_behind_a_large_one();
    a_large_one_waits_behind_small_ones_to_the_alias();
    what_is_revoked_is_refused_wherever_it_waits();
    return 0;
}
