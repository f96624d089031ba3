/* test_adoption.c - a Vnet killed at every numbered point and at any time, and the next one that takes its ports over.
 *
 * The Vnet is a child process with a real switch; this process has the Vnics. It sends without pause, keeps the book
 * of what was accepted and of what arrived, kills the child, and starts another on the same segments. */
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "port.h"
#include "switch_world.h"

#define VNICS 4u /* 0 sends; 1 receives; 1, 2 and 3 share an alias and a topic */
#define TO_ONE 0u
#define TO_ALIAS 1u
#define TO_TOPIC 2u
#define TO_ONE_LARGE 3u
#define TO_TOPIC_LARGE 4u
#define NAMES 5u

struct book {
    uint64_t sent[NAMES];           /* the last number accepted under each name */
    uint64_t got[VNICS][NAMES];     /* the last number each receiver got */
    uint64_t anycast;               /* how many arrived at the alias, in all */
    uint64_t unknown;
};

static int segments[VNICS];
static layer8_port *ports[VNICS];
static uint8_t uuids[VNICS][16];
static struct book book;
static uint8_t large[NAMES][300000];
static layer8_outgoing going[NAMES]; /* messages in fragments under way */
static bool is_going[NAMES];

/* ---- the Vnet's process ---- */

static void send_descriptors(int socket, const int *descriptors, uint32_t count) {
    union {
        char bytes[CMSG_SPACE(sizeof(int) * VNICS)];
        struct cmsghdr align;
    } control;
    char byte = 1;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    memset(&control, 0, sizeof control);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(header), descriptors, sizeof(int) * count);
    CHECK(sendmsg(socket, &message, 0) == 1);
}

static bool take_descriptors(int socket, int *descriptors, uint32_t count) {
    union {
        char bytes[CMSG_SPACE(sizeof(int) * VNICS)];
        struct cmsghdr align;
    } control;
    char byte;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1) {
        return false;
    }
    memcpy(descriptors, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int) * count);
    return true;
}

static void vnet_main(int socket, bool adopt) {
    struct world world;
    int doorbells[VNICS];
    layer8_switch_config config = {.max_ports = WORLD_PORTS,
                                   .max_aliases = 4,
                                   .max_topics = 4,
                                   .max_rights = 64,
                                   .max_rights_per_port = 64,
                                   .visit_records = 64,
                                   .visit_bytes = 65536,
                                   .max_message_bytes = UINT64_C(8) << 20,
                                   .frozen = 1};
    memset(&world, 0, sizeof world);
    world.sw = layer8_switch_new(&config);
    CHECK(world.sw != NULL && pthread_create(&world.thread, NULL, world_main, world.sw) == 0);
    for (uint32_t n = 0; n < VNICS; n++) {
        int status;
        layer8_switch_port *port = layer8_switch_port_new(segments[n], uuids[n], 1, adopt, &status);
        if (port == NULL) {
            struct layer8_control *c = ports[n]->control;
            fprintf(stderr, "adopt %u: status %d; transmit %lu..%lu receive %lu..%lu hold %lu..%lu\n", n, status, c->transmit_head, c->transmit_tail, c->receive_head, c->receive_tail, c->hold_head, c->hold_tail);
        }
        CHECK(port != NULL);
        doorbells[n] = layer8_switch_port_doorbell(port);
        CHECK(world_command(&world, LAYER8_COMMAND_ADD_PORT, n | 1u << 16, n, 1, 0, port) == LAYER8_OK);
    }
    send_descriptors(socket, doorbells, VNICS);
    for (uint32_t n = 1; n < VNICS; n++) {
        CHECK(world_command(&world, LAYER8_COMMAND_JOIN_ALIAS, n | 1u << 16, 1, 0, 0, NULL) == LAYER8_OK);
        CHECK(world_command(&world, LAYER8_COMMAND_SUBSCRIBE, n | 1u << 16, 1, 5, 1, NULL) == LAYER8_OK);
    }
    const uint32_t targets[NAMES][2] = {{LAYER8_TARGET_PORT, 1u | 1u << 16},
                                        {LAYER8_TARGET_ALIAS, 1},
                                        {LAYER8_TARGET_TOPIC, 1},
                                        {LAYER8_TARGET_PORT, 1u | 1u << 16},
                                        {LAYER8_TARGET_TOPIC, 1}};
    for (uint32_t name = 0; name < NAMES; name++) {
        CHECK(world_command(&world, LAYER8_COMMAND_GRANT, 1u << 16, name | 7u << 16, targets[name][0],
                            targets[name][1], NULL) == LAYER8_OK);
    }
    for (uint32_t n = 0; n < VNICS; n++) {
        static uint8_t told[(LAYER8_GOING_MAX + LAYER8_HALVES_MAX) * LAYER8_HALF_BYTES];
        uint32_t own = layer8_port_going(ports[n], told, LAYER8_GOING_MAX);
        uint32_t halves = layer8_port_halves(ports[n], told + own * LAYER8_HALF_BYTES, LAYER8_HALVES_MAX);
        CHECK(world_command(&world, LAYER8_COMMAND_RESUME, n | 1u << 16, own, halves, 0, getenv("UNTOLD") ? NULL : told) == LAYER8_OK);
    }
    CHECK(world_command(&world, LAYER8_COMMAND_START, 0, 0, 0, 0, NULL) == LAYER8_OK);
    (void)send(socket, "s", 1, 0);
    while (world.violations == 0 && world.gone == 0) { /* until it is killed */
        struct pollfd wait = {.fd = layer8_switch_event_fd(world.sw), .events = POLLIN};
        (void)poll(&wait, 1, -1);
        (void)world_wait(&world, 0, 0);
    }
    CHECK(!"the switch closed a port");
}

static pid_t start_vnet(int *socket, bool adopt, const char *kill_at) {
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)close(pair[0]);
        if (kill_at != NULL) {
            (void)setenv("LAYER8_KILL_AT", kill_at, 1);
        }
        vnet_main(pair[1], adopt);
        _exit(0);
    }
    (void)close(pair[1]);
    *socket = pair[0];
    int doorbells[VNICS];
    if (take_descriptors(pair[0], doorbells, VNICS)) {
        for (uint32_t n = 0; n < VNICS; n++) {
            CHECK(layer8_port_set_doorbell(ports[n], doorbells[n]) == LAYER8_OK);
            (void)close(doorbells[n]);
        }
        char started; /* until then nothing is sent, as the library keeps it; 0 bytes: it died */
        (void)recv(pair[0], &started, 1, 0);
    }
    return pid;
}

/* ---- the Vnics ---- */

static uint32_t random_number(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

static void send_one(uint32_t name) {
    uint64_t number = book.sent[name] + 1;
    uint8_t payload[3000];
    size_t length = 8 + random_number() % 64;
    if (random_number() % 8 == 0) {
        length = 8 + random_number() % 2900;
    }
    memset(payload, (int)number, length);
    memcpy(payload, &number, 8);
    uint32_t handle = name | 7u << 16;
    int64_t sent = name == TO_TOPIC ? layer8_publish(ports[0], handle, payload, length, 1)
                                    : layer8_send(ports[0], handle, payload, length);
    if (sent > 0) {
        book.sent[name] = number;
    } else {
        if (sent != LAYER8_FULL && sent != LAYER8_XOFF) {
            struct layer8_control *c = ports[0]->control;
            fprintf(stderr, "send: %ld; transmit tail %lu head %lu seen %lu\n", sent, c->transmit_tail, c->transmit_head, ports[0]->transmit_head);
        }
        CHECK(sent == LAYER8_FULL || sent == LAYER8_XOFF);
    }
}

static void send_large(uint32_t name) {
    layer8_outgoing *message = &going[name];
    if (!is_going[name]) {
        uint64_t number = book.sent[name] + 1;
        memcpy(large[name], &number, 8);
        *message = (layer8_outgoing){.kind = name == TO_TOPIC_LARGE ? LAYER8_PUBLISH : LAYER8_UNICAST,
                                     .flags = name == TO_TOPIC_LARGE ? LAYER8_RELIABLE : 0,
                                     .handle = name | 7u << 16,
                                     .payload = large[name],
                                     .length = 100000 + random_number() % 200000};
        is_going[name] = true;
    }
    int status = layer8_push(ports[0], message);
    if (status == LAYER8_OK) {
        book.sent[name]++;
        is_going[name] = false;
    } else {
        CHECK(status == LAYER8_FULL || status == LAYER8_XOFF);
        if (message->fragment > 0 && random_number() % 16 == 0) {
            layer8_push_abort(ports[0], message);
            is_going[name] = false;
        }
    }
}

/* Takes what has arrived at one Vnic; true when there was something. */
static bool receive_some(uint32_t vnic) {
    int count = layer8_receive(ports[vnic], 1 + random_number() % 100, 0);
    CHECK(count >= 0);
    uint64_t size;
    const uint8_t *batch = layer8_port_batch(ports[vnic], &size);
    for (int n = 0; n < count; n++) {
        const layer8_entry *entry = &layer8_port_table(ports[vnic])[n];
        const uint8_t *payload = batch + entry->offset;
        struct layer8_record record;
        uint64_t number, length = entry->length;
        if ((entry->flags & LAYER8_ENTRY_LARGE) != 0) {
            const uint8_t *header;
            payload = layer8_port_large(ports[vnic], entry->offset, &length, &header);
            memcpy(&record, header, sizeof record);
            CHECK(memcmp(payload + 8, large[record.slot] + 8, length - 8) == 0);
        } else {
            memcpy(&record, payload - 64, sizeof record);
        }
        CHECK(entry->kind != LAYER8_NOTICE);
        memcpy(&number, payload, 8);
        uint64_t *last = &book.got[vnic][record.slot];
        if (record.slot == TO_ALIAS) {
            CHECK(number > *last);
            book.anycast++;
        } else {
            if (number != *last + 1) {
                fprintf(stderr, "vnic %u name %u: %lu after %lu (kind %u flags %x sequence %lu)\n", vnic, record.slot,
                        number, *last, entry->kind, entry->flags, record.sequence);
            }
            CHECK(number == *last + 1);
        }
        *last = number;
    }
    return count > 0;
}

/* Now and then a Vnic does not read, and the sender does not keep to Xoff: what waits fills the hold ring. */
static void work(uint32_t steps) {
    static uint32_t asleep; /* over the death of a Vnet too: the next one finds records held */
    for (uint32_t n = 0; n < steps; n++) {
        uint32_t what = random_number() % 64;
        if (n % 8192 == 8191) {
            asleep = random_number() % 6;
        }
        if (asleep != 0 && n % 64 == 0) {
            for (uint32_t name = 0; name < NAMES; name++) {
                __atomic_store_n(ports[0]->base + LAYER8_OFFSET_FLAGS + name, LAYER8_SLOT_OPEN, __ATOMIC_SEQ_CST);
            }
        }
        if (what >= 26 && asleep == 1 + what % 3) {
            continue;
        }
        if (what < 24) {
            send_one(what % 3);
        } else if (what < 26) {
            send_large(what % 2 == 0 ? TO_ONE_LARGE : TO_TOPIC_LARGE);
        } else if (what < 60) {
            (void)receive_some(1 + what % 3);
        }
    }
}

static bool all_arrived(void) {
    bool all = book.anycast == book.sent[TO_ALIAS] && book.got[1][TO_ONE] == book.sent[TO_ONE] &&
               book.got[1][TO_ONE_LARGE] == book.sent[TO_ONE_LARGE];
    for (uint32_t n = 1; n < VNICS; n++) {
        all = all && book.got[n][TO_TOPIC] == book.sent[TO_TOPIC] &&
              book.got[n][TO_TOPIC_LARGE] == book.sent[TO_TOPIC_LARGE];
    }
    return all;
}

/* How many messages stand half at the receivers. */
static uint32_t begun(void) {
    uint32_t count = 0;
    for (uint32_t vnic = 1; vnic < VNICS; vnic++) {
        count += ports[vnic]->assemblies.count;
    }
    return count;
}

static void finish(void) {
    int socket;
    for (uint32_t vnic = 1; vnic < VNICS; vnic++) { /* so that all that stands half is told the next Vnet */
        while (receive_some(vnic)) {
        }
    }
    pid_t pid = start_vnet(&socket, true, NULL);
    for (int n = 0; n < 2000 && (!all_arrived() || (!getenv("UNTOLD") && begun() != 0)); n++) {
        for (uint32_t name = 0; name < NAMES; name++) {
            if (is_going[name] && layer8_push(ports[0], &going[name]) == LAYER8_OK) {
                book.sent[name]++;
                is_going[name] = false;
            }
        }
        for (uint32_t vnic = 1; vnic < VNICS; vnic++) {
            while (receive_some(vnic)) {
            }
        }
        (void)layer8_wait_arrived(ports[1], SECOND / 100, 0);
    }
    if (!all_arrived()) {
        fprintf(stderr, "sent %lu %lu %lu %lu %lu; one %lu alias %lu topic %lu %lu %lu large %lu to a topic %lu %lu %lu\n",
                book.sent[0], book.sent[1], book.sent[2], book.sent[3], book.sent[4], book.got[1][0], book.anycast,
                book.got[1][2], book.got[2][2], book.got[3][2], book.got[1][3], book.got[1][4], book.got[2][4],
                book.got[3][4]);
    }
    CHECK(all_arrived());
    CHECK(getenv("UNTOLD") || begun() == 0); /* what was given up half-way was dropped */
    (void)kill(pid, SIGKILL);
    CHECK(waitpid(pid, NULL, 0) == pid);
    (void)close(socket);
}

/* True: it died by itself. */
static bool run_and_kill(bool adopt, const char *kill_at, uint32_t steps) {
    int socket, status;
    pid_t pid = start_vnet(&socket, adopt, kill_at);
    work(steps);
    bool died = kill_at != NULL && waitpid(pid, &status, WNOHANG) == pid;
    if (!died) {
        (void)kill(pid, SIGKILL);
        CHECK(waitpid(pid, &status, 0) == pid);
    }
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    (void)close(socket);
    return died;
}

#ifdef __SANITIZE_THREAD__
#define ROUNDS 2
#else
#define ROUNDS 8
#endif

int main(int argc, char **argv) {
    uint32_t rounds = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : ROUNDS; /* scripts/adoption-soak: 100 */
    (void)alarm(argc > 1 ? 1800 : 280);
    for (size_t n = 0; n < sizeof large; n++) {
        large[n / sizeof *large][n % sizeof *large] = (uint8_t)(n * 131 >> 5);
    }
    for (uint32_t n = 0; n < VNICS; n++) {
        int status;
        memset(uuids[n], (int)n + 1, 16);
        segments[n] = layer8_segment_create(LAYER8_RING_MIN, uuids[n]);
        ports[n] = layer8_port_open(segments[n], UINT64_C(8) << 20, UINT64_C(32) << 20, &status);
        CHECK(segments[n] >= 0 && ports[n] != NULL);
    }
    (void)run_and_kill(false, NULL, 2000);
    for (uint32_t n = 0; n < rounds; n++) {
        (void)run_and_kill(true, NULL, random_number() % 600000);
    }
    finish();
#ifdef LAYER8_KILL_POINTS
    uint32_t died = 0;
    for (int point = 1; point <= 16; point++) {
        if (point == 11 || point == 12) { /* nothing is refused here: left to real processes; and there is no 12 */
            continue;
        }
        uint32_t wanted = argc > 1 ? rounds : ROUNDS / 4 + 1, there = 0, tries = 0;
        for (; argc > 1 ? there < wanted && tries < 20 * wanted : tries < wanted; tries++) {
            char kill_at[32];
            uint32_t latest = argc > 1 && there < tries / 2 ? 1 : tries % 2 == 0 ? 4 : 200;
            (void)snprintf(kill_at, sizeof kill_at, "%d:%u", point, 1 + random_number() % latest);
            there += run_and_kill(true, kill_at, 100000 + random_number() % 200000);
        }
        finish();
        if (argc > 1) {
            printf("test_adoption: point %d: died %u times of %u\n", point, there, tries);
            (void)fflush(stdout);
        }
        died += there;
    }
    printf("test_adoption: died %u times at a point\n", died);
    CHECK(died > 0); /* else the points are not there */
#endif
    printf("test_adoption: %lu unicast, %lu anycast, %lu published, %lu large, %lu published: all arrived, once, in order\n",
           book.sent[0], book.sent[1], book.sent[2], book.sent[3], book.sent[4]);
    for (uint32_t n = 0; n < VNICS; n++) {
        layer8_port_stats stats;
        layer8_port_read_stats(ports[n], &stats);
        printf("  vnic %u: %lu duplicates dropped, %lu fragments discarded, %lu aborted, %lu late wakeups\n", n,
               stats.duplicates_dropped, stats.fragments_discarded, stats.messages_aborted, stats.late_wakeups);
        layer8_port_close(ports[n]);
        (void)close(segments[n]);
    }
    return 0;
}
