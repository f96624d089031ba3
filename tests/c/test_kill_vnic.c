/* test_kill_vnic.c - a Vnic's process killed at each numbered point of its library. What it had published arrives, in
 * order and whole; nothing else does; its port is reaped, and its peers go on. */
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "port.h"
#include "switch_world.h"

#define LARGE 150000u

/* ---- the Vnic that dies: it sends numbers to its peer, small and large, and takes what the peer sends ---- */

static int take_descriptor(int socket) {
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    char byte;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int descriptor;
    CHECK(recvmsg(socket, &message, 0) == 1);
    memcpy(&descriptor, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof descriptor);
    return descriptor;
}

static void give_descriptor(int socket, int descriptor) {
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    char byte = 1;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    memset(&control, 0, sizeof control);
    CMSG_FIRSTHDR(&message)->cmsg_level = SOL_SOCKET;
    CMSG_FIRSTHDR(&message)->cmsg_type = SCM_RIGHTS;
    CMSG_FIRSTHDR(&message)->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &descriptor, sizeof descriptor);
    CHECK(sendmsg(socket, &message, 0) == 1);
}

static void victim_main(int segment, int socket) {
    static uint8_t large[LARGE];
    int status;
    uint64_t small = 0, whole = 0;
    int doorbell = take_descriptor(socket);
    layer8_port *port = layer8_port_open(segment, UINT64_C(8) << 20, UINT64_C(32) << 20, &status);
    CHECK(port != NULL && layer8_port_set_doorbell(port, doorbell) == LAYER8_OK);
    memset(large, 7, sizeof large);
    for (uint32_t step = 0;; step++) {
        if (step % 8 == 0) {
            layer8_outgoing outgoing = {
                .kind = LAYER8_UNICAST, .handle = 4u | 1u << 16, .payload = large, .length = sizeof large};
            uint64_t number = ++whole;
            memcpy(large, &number, sizeof number);
            while ((status = layer8_push(port, &outgoing)) != LAYER8_OK) {
                CHECK(status == LAYER8_FULL || status == LAYER8_XOFF);
                (void)layer8_wait_room(port, 4, LARGE, SECOND / 50, 0);
            }
        }
        if (layer8_send(port, 3u | 1u << 16, (const uint8_t *)&(uint64_t){small + 1}, 8) > 0) {
            small++;
        } else {
            (void)layer8_wait_room(port, 3, 8, SECOND / 50, 0);
        }
        while (layer8_receive(port, 16, step % 2 * 64) > 0) {
        }
        (void)layer8_wait_arrived(port, SECOND / 1000, 0);
        if (step == 10) { /* as when another Vnet has adopted it */
            CHECK(layer8_port_set_doorbell(port, doorbell) == LAYER8_OK);
        }
    }
}

/* ---- its peer ---- */

struct seen {
    uint64_t small, large;
};

static bool take_one(struct vnic *peer, struct seen *seen) {
    if (layer8_receive(peer->port, 1, 0) != 1) {
        return false;
    }
    layer8_entry entry = layer8_port_table(peer->port)[0];
    if (entry.kind == LAYER8_NOTICE) { /* what was held for the victim comes back */
        return true;
    }
    uint64_t number, size = entry.length;
    const uint8_t *record, *batch = layer8_port_batch(peer->port, &number);
    const uint8_t *payload = batch + entry.offset;
    if ((entry.flags & LAYER8_ENTRY_LARGE) != 0) {
        payload = layer8_port_large(peer->port, entry.offset, &size, &record);
        CHECK(size == LARGE);
        for (uint32_t at = 8; at < LARGE; at++) {
            CHECK(payload[at] == 7);
        }
    }
    memcpy(&number, payload, sizeof number);
    CHECK(entry.kind == LAYER8_UNICAST);
    CHECK(number == (size == LARGE ? ++seen->large : ++seen->small));
    return true;
}

static void kill_at_point(int point, uint32_t count) {
    struct world world;
    struct vnic peer, bystander;
    struct seen seen = {0};
    int sockets[2], status;
    char kill_at[32];
    uint8_t uuid[16];
    memset(uuid, 9, sizeof uuid);
    (void)snprintf(kill_at, sizeof kill_at, "%d:%u", point, count);
    int segment = layer8_segment_create(LAYER8_RING_MIN, uuid);
    CHECK(segment >= 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
    pid_t pid = fork(); /* before there is a thread */
    CHECK(pid >= 0);
    if (pid == 0) { /* anew: the library looks at the environment once */
        char descriptors[2][16];
        (void)snprintf(descriptors[0], sizeof descriptors[0], "%d", dup(segment));
        (void)snprintf(descriptors[1], sizeof descriptors[1], "%d", dup(sockets[1]));
        CHECK(setenv("LAYER8_KILL_AT", kill_at, 1) == 0);
        (void)execl("/proc/self/exe", "victim", "victim", descriptors[0], descriptors[1], (char *)NULL);
        abort();
    }
    world_start(&world);
    vnic_attach(&peer, &world, 1);
    vnic_attach(&bystander, &world, 2);
    layer8_switch_port *port = layer8_switch_port_new(segment, uuid, 1, 0, &status);
    CHECK(port != NULL);
    uint32_t id = 0u | 1u << 16;
    world.ports[0] = port;
    CHECK(world_command(&world, LAYER8_COMMAND_ADD_PORT, id, 7, 0, 0, port) == LAYER8_OK);
    for (uint32_t slot = 3; slot < 5; slot++) {
        CHECK(world_command(&world, LAYER8_COMMAND_GRANT, id, slot | 1u << 16, LAYER8_TARGET_PORT, peer.id, NULL) ==
              LAYER8_OK);
    }
    uint32_t to_victim = vnic_grant(&peer, 3, LAYER8_TARGET_PORT, id);
    uint32_t to_peer = vnic_grant(&bystander, 3, LAYER8_TARGET_PORT, peer.id);
    give_descriptor(sockets[0], layer8_switch_port_doorbell(port));
    static const uint8_t noise[20000];
    uint32_t sent = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        while (take_one(&peer, &seen)) {
        }
        if (layer8_send(peer.port, to_victim, noise, 100 + sent++ % sizeof noise / 2) < 0) {
            (void)layer8_wait_arrived(peer.port, SECOND / 1000, 0);
        }
    }
    if (WTERMSIG(status) != SIGKILL) {
        fprintf(stderr, "point %s: signal %d; %lu small, %lu large came\n", kill_at, WTERMSIG(status), seen.small, seen.large);
    }
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CHECK(world_command(&world, LAYER8_COMMAND_REMOVE_PORT, id, LAYER8_REASON_GONE, 5000, 0, NULL) == LAYER8_OK);
    while (world.gone == 0) { /* while its peer reads */
        while (take_one(&peer, &seen)) {
        }
        (void)world_command(&world, LAYER8_COMMAND_REVOKE, peer.id, 99, 0, 0, NULL); /* takes events on the way */
    }
    while (take_one(&peer, &seen)) { /* what it had sent is here */
    }
    CHECK(seen.small > 0 || count < 20);
    CHECK(world.violations == 0);
    CHECK(vnic_send(&bystander, to_peer, "on", 2) > 0);
    struct got got = vnic_receive(&peer);
    while (got.entry.kind == LAYER8_NOTICE) { /* a count of those that found no room comes when it has drained */
        got = vnic_receive(&peer);
    }
    CHECK(got.entry.length == 2 && memcmp(got.payload, "on", 2) == 0);
    layer8_port_stats stats;
    layer8_port_read_stats(peer.port, &stats);
    CHECK(stats.assembling_bytes == 0); /* a message that it had begun was aborted */
    world_stop(&world);
    (void)close(segment);
    (void)close(sockets[0]);
    (void)close(sockets[1]);
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "victim") == 0) {
        (void)alarm(60);
        victim_main((int)strtol(argv[2], NULL, 10), (int)strtol(argv[3], NULL, 10));
    }
    uint32_t rounds = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 4;
    (void)alarm(argc > 1 ? 1800 : 280);
#ifdef LAYER8_KILL_POINTS
    for (int point = 20; point <= 27; point++) {
        for (uint32_t n = 0; n < rounds; n++) {
            kill_at_point(point, point == 27 ? 1 : 1 + (n * n * 7 + (uint32_t)point) % 60);
        }
    }
#else
    (void)rounds;
    (void)kill_at_point;
#endif
    printf("test_kill_vnic: what was published arrived, the others went on\n");
    return 0;
}
