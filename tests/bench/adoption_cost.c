/* adoption_cost [ROUNDS]: processor time for a message of 64 bytes through the C core, sender, switch and receiver in one
 * process: nanoseconds by uuid and by alias, the least of ROUNDS (200) times 1,000 messages. */
#include "port.h"
#include "switch_world.h"

#define MESSAGES 1000u

static uint64_t processor_ns(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static double least(struct vnic *a, struct vnic *b, uint32_t handle, uint32_t rounds) {
    static const uint8_t payload[64];
    uint64_t best = UINT64_MAX;
    for (uint32_t round = 0; round < rounds; round++) {
        uint64_t before = processor_ns();
        for (uint32_t n = 0; n < MESSAGES; n++) {
            CHECK(layer8_send(a->port, handle, payload, sizeof payload) > 0);
        }
        for (uint32_t got = 0; got < MESSAGES;) {
            int count = layer8_receive(b->port, 256, 0);
            CHECK(count >= 0);
            got += (uint32_t)count;
            if (count == 0) {
                (void)layer8_wait_arrived(b->port, SECOND / 10, 0);
            }
        }
        (void)layer8_receive(b->port, 1, 0);
        uint64_t took = processor_ns() - before;
        best = took < best ? took : best;
    }
    return (double)best / MESSAGES;
}

int main(int argc, char **argv) {
    uint32_t rounds = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 200;
    struct world world;
    struct vnic a, b;
    world_start(&world);
    vnic_attach(&a, &world, 0);
    vnic_attach(&b, &world, 1);
    CHECK(vnic_command(&b, LAYER8_COMMAND_JOIN_ALIAS, 3, 0, 0) == LAYER8_OK);
    uint32_t by_uuid = vnic_grant(&a, 0, LAYER8_TARGET_PORT, b.id), by_alias = vnic_grant(&a, 1, LAYER8_TARGET_ALIAS, 3);
    double uuid = least(&a, &b, by_uuid, rounds), alias = least(&a, &b, by_alias, rounds);
    printf("%.2f %.2f\n", uuid, alias);
    world_stop(&world);
    return 0;
}
