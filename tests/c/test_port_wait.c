/* Waiting: no wake-up is lost, and every wait can be ended. */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "fake_vnet.h"

#define SECOND INT64_C(1000000000)

static uint8_t bytes[LAYER8_FRAGMENT_BYTES];

/* Waits as a library does: until it is over, whatever ends a slice. */
static int wait_until_arrived(layer8_port *port, int64_t spin_ns) {
    int arrived;
    do {
        arrived = layer8_wait_arrived(port, 10 * SECOND, spin_ns);
    } while (arrived == 0 || arrived == LAYER8_INTERRUPTED);
    return arrived;
}

static layer8_port_stats stats_of(struct fake *fake) {
    layer8_port_stats stats;
    layer8_port_read_stats(fake->port, &stats);
    return stats;
}

static void wait_looks_before_it_sleeps(void) {
    struct fake fake;
    fake_open(&fake);
    CHECK(layer8_wait_arrived(fake.port, 0, 0) == 0 && layer8_wait_arrived(fake.port, 1000, 0) == 0);
    CHECK(layer8_wait_arrived(fake.port, 100000, 100000) == 0);
    CHECK(layer8_wait_arrived(fake.port, -1, 0) == 0);
    struct layer8_record record = fake_message(&fake, LAYER8_UNICAST, 1, 10);
    CHECK(fake_put(&fake, &record, bytes) && layer8_wait_arrived(fake.port, 0, 0) == 1);
    CHECK(layer8_load_seq(&fake.port->control->arrived.wanted) == 0);
    CHECK(stats_of(&fake).late_wakeups == 0);
    fake_close(&fake);
}

#define STREAM 1000000

static void *put_stream(void *argument) {
    struct fake *fake = argument;
    for (uint32_t n = 0; n < STREAM; n++) {
        struct layer8_record record = fake_message(fake, LAYER8_UNICAST, 1, n % 100);
        while (!fake_put(fake, &record, bytes)) {
            (void)sched_yield();
        }
    }
    return NULL;
}

static void a_million_records_wake_their_receiver(void) {
    struct fake fake;
    pthread_t vnet;
    uint64_t expected = 1;
    fake_open(&fake);
    CHECK(pthread_create(&vnet, NULL, put_stream, &fake) == 0);
    while (expected <= STREAM) {
        int count = layer8_receive(fake.port, 256, 0);
        CHECK(count >= 0);
        for (int n = 0; n < count; n++) {
            CHECK(layer8_port_table(fake.port)[n].sequence == expected++);
        }
        CHECK(count > 0 || wait_until_arrived(fake.port, 0) == 1);
    }
    CHECK(pthread_join(vnet, NULL) == 0);
    CHECK(stats_of(&fake).late_wakeups == 0 && stats_of(&fake).received_messages == STREAM);
    CHECK(layer8_load_seq(&fake.port->control->arrived.count) == 0); /* no token is left behind */
    fake_close(&fake);
}

#define ROUNDS 20000

/* Answers each record sent with one, asleep in between: the doorbell's handshake is the same. */
static void *answer(void *argument) {
    struct fake *fake = argument;
    struct layer8_wakeup *doorbell = &fake->port->control->doorbell;
    for (uint32_t n = 0; n < ROUNDS;) {
        struct layer8_record record;
        layer8_wakeup_announce(doorbell);
        bool found = fake_take(fake, &record, NULL);
        if (!found || !layer8_wakeup_retract(doorbell)) {
            struct pollfd token = {.fd = fake->doorbell, .events = POLLIN};
            CHECK(poll(&token, 1, -1) == 1);
            CHECK(fake_rung(fake) == 1);
        }
        if (found) {
            struct layer8_record reply = fake_message(fake, LAYER8_UNICAST, 1, 10);
            CHECK(fake_put(fake, &reply, bytes));
            n++;
        }
    }
    return NULL;
}

static void round_trips_lose_no_wake_up(void) {
    for (int64_t spin_ns = 0; spin_ns <= 2000; spin_ns += 2000) {
        struct fake fake;
        pthread_t vnet;
        fake_open(&fake);
        CHECK(pthread_create(&vnet, NULL, answer, &fake) == 0);
        for (uint32_t n = 0; n < ROUNDS; n++) {
            CHECK(layer8_send(fake.port, 1, bytes, 10) > 0);
            CHECK(wait_until_arrived(fake.port, spin_ns) == 1);
            CHECK(layer8_receive(fake.port, 256, 0) == 1);
        }
        CHECK(pthread_join(vnet, NULL) == 0);
        CHECK(stats_of(&fake).late_wakeups == 0);
        fake_close(&fake);
    }
}

#define RACES 60000

struct race {
    struct fake fake;
    _Atomic uint32_t ready; /* rounds that the receiver has begun */
};

/* Publishes a moment after the receiver began to wait: around the time of its announcement. */
static void *publish_in_time(void *argument) {
    struct race *race = argument;
    uint64_t random = 99;
    for (uint32_t n = 1; n <= RACES; n++) {
        uint32_t tries = 0;
        while (layer8_load_seq(&race->ready) < n) {
            if (++tries % 1024 == 0) {
                (void)sched_yield();
            }
        }
        for (volatile uint64_t pause = fake_random(&random) % 200; pause > 0; pause = pause - 1) {
        }
        struct layer8_record record = fake_message(&race->fake, LAYER8_UNICAST, 1, 10);
        CHECK(fake_put(&race->fake, &record, bytes));
    }
    return NULL;
}

static void work_that_comes_while_announcing_is_seen(void) {
    static struct race race;
    pthread_t vnet;
    fake_open(&race.fake);
    struct layer8_wakeup *arrived = &race.fake.port->control->arrived;
    CHECK(pthread_create(&vnet, NULL, publish_in_time, &race) == 0);
    for (uint32_t n = 1; n <= RACES; n++) {
        layer8_store_seq(&race.ready, n);
        CHECK(wait_until_arrived(race.fake.port, 0) == 1);
        CHECK(layer8_load_seq(&arrived->wanted) == 0 && layer8_load_seq(&arrived->count) == 0);
        CHECK(layer8_receive(race.fake.port, 256, 0) == 1);
    }
    CHECK(pthread_join(vnet, NULL) == 0);
    CHECK(stats_of(&race.fake).late_wakeups == 0);
    fake_close(&race.fake);
}

static void *drain(void *argument) {
    struct fake *fake = argument;
    struct layer8_record record;
    for (uint32_t n = 0; n < 50000;) {
        if (fake_take(fake, &record, NULL)) {
            n++;
        } else {
            (void)sched_yield();
        }
    }
    return NULL;
}

static void *send_half(void *argument) {
    struct fake *fake = argument;
    for (uint32_t n = 0; n < 25000;) {
        if (layer8_send(fake->port, 1, bytes, 900) > 0) {
            n++;
        } else {
            (void)sched_yield();
        }
    }
    return NULL;
}

static void two_senders_fill_the_ring_and_one_waits_for_room(void) {
    struct fake fake;
    pthread_t vnet, other;
    fake_open(&fake);
    CHECK(pthread_create(&vnet, NULL, drain, &fake) == 0);
    CHECK(pthread_create(&other, NULL, send_half, &fake) == 0);
    for (uint32_t n = 0; n < 25000;) {
        int64_t sent = layer8_send(fake.port, 1, bytes, 1100);
        if (sent > 0) {
            n++;
        } else {
            CHECK(sent == LAYER8_FULL && layer8_wait_room(fake.port, 1, 1100, SECOND, 0) >= 0);
        }
    }
    CHECK(pthread_join(other, NULL) == 0 && pthread_join(vnet, NULL) == 0);
    CHECK(stats_of(&fake).late_wakeups == 0 && stats_of(&fake).sent_messages == 50000);
    fake_close(&fake);
}

static void *wait_for_room(void *argument) {
    int status;
    do {
        status = layer8_wait_room(argument, 7, 100, SECOND, 0);
    } while (status == 0);
    return (void *)(intptr_t)status;
}

static void *wait_for_arrival(void *argument) {
    int status;
    do {
        status = layer8_wait_arrived(argument, SECOND, 0);
    } while (status == 0);
    return (void *)(intptr_t)status;
}

static int join(pthread_t thread) {
    void *status;
    CHECK(pthread_join(thread, &status) == 0);
    return (int)(intptr_t)status;
}

static void wake_and_shut_and_xon_end_waits(void) {
    struct fake fake;
    pthread_t room, arrival;
    fake_open(&fake);
    for (int round = 0; round < 200; round++) {
        fake_mark(&fake, 7, LAYER8_SLOT_XOFF);
        CHECK(pthread_create(&room, NULL, wait_for_room, fake.port) == 0);
        CHECK(pthread_create(&arrival, NULL, wait_for_arrival, fake.port) == 0);
        layer8_port_wake(fake.port); /* before, in or after the look: it is never lost */
        CHECK(join(room) == LAYER8_INTERRUPTED && join(arrival) == LAYER8_INTERRUPTED);
        CHECK(pthread_create(&room, NULL, wait_for_room, fake.port) == 0);
        fake_mark(&fake, 7, round % 2 ? LAYER8_SLOT_OPEN : LAYER8_SLOT_GONE);
        CHECK(join(room) == (round % 2 ? 1 : LAYER8_GONE));
    }
    fake_mark(&fake, 7, LAYER8_SLOT_XOFF);
    CHECK(pthread_create(&room, NULL, wait_for_room, fake.port) == 0);
    CHECK(pthread_create(&arrival, NULL, wait_for_arrival, fake.port) == 0);
    layer8_port_shut(fake.port, LAYER8_CLOSED);
    CHECK(join(room) == LAYER8_CLOSED && join(arrival) == LAYER8_CLOSED);
    CHECK(stats_of(&fake).late_wakeups == 0);
    fake_close(&fake);
}

static void what_arrived_before_the_end_is_still_received(void) {
    struct fake fake;
    fake_open(&fake);
    struct layer8_record record = fake_message(&fake, LAYER8_UNICAST, 1, 10);
    CHECK(fake_put(&fake, &record, bytes));
    layer8_port_shut(fake.port, LAYER8_CLOSED);
    CHECK(layer8_wait_arrived(fake.port, 0, 0) == 1 && layer8_receive(fake.port, 256, 0) == 1);
    CHECK(layer8_wait_arrived(fake.port, 0, 0) == LAYER8_CLOSED && layer8_receive(fake.port, 256, 0) == 0);
    fake_close(&fake);
}

static void ignore(int signal) { (void)signal; }

static void *interrupt(void *argument) {
    pthread_t *waiter = argument;
    for (int n = 0; n < 3; n++) {
        (void)usleep(1000);
        (void)pthread_kill(*waiter, SIGUSR1);
    }
    return NULL;
}

static void a_signal_ends_a_wait(void) {
    struct fake fake;
    struct sigaction action = {.sa_handler = ignore};
    pthread_t me = pthread_self(), other;
    fake_open(&fake);
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(pthread_create(&other, NULL, interrupt, &me) == 0);
    int status;
    do { /* a slice may end before the signal comes */
        status = layer8_wait_arrived(fake.port, SECOND, 0);
    } while (status == 0);
    CHECK(status == LAYER8_INTERRUPTED);
    CHECK(layer8_load_seq(&fake.port->control->arrived.wanted) == 0);
    CHECK(pthread_join(other, NULL) == 0);
    fake_close(&fake);
}

/* True: it slept already when the record came. Else it still looked, which cost it nothing. */
static bool loses_a_wake_up(void) {
    struct fake fake;
    fake_open(&fake);
    struct layer8_record record = fake_message(&fake, LAYER8_UNICAST, 1, 0);
    memcpy(fake.port->receive, &record, sizeof record);
    pthread_t arrival;
    CHECK(pthread_create(&arrival, NULL, wait_for_arrival, fake.port) == 0);
    while (layer8_load_seq(&fake.port->control->arrived.wanted) == 0) {
        (void)sched_yield();
    }
    layer8_store_seq(&fake.port->control->receive_tail, UINT64_C(64)); /* and nobody is told */
    CHECK(join(arrival) == 1);
    uint64_t late = stats_of(&fake).late_wakeups;
    CHECK(late <= 1);
    fake_close(&fake);
    return late == 1;
}

static void a_lost_wake_up_is_counted(void) {
    for (int tries = 0; !loses_a_wake_up(); tries++) {
        CHECK(tries < 1000);
    }
}

static void a_child_made_by_fork_is_refused(void) {
    struct fake fake;
    fake_open(&fake);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        layer8_port *port = fake.port;
        layer8_outgoing message = {.kind = LAYER8_UNICAST};
        layer8_port_stats stats;
        uint8_t table[LAYER8_RECORD_BYTES];
        layer8_port_shut(port, LAYER8_CLOSED);
        CHECK(layer8_send(port, 1, bytes, 1) == LAYER8_CLOSED && layer8_push(port, &message) == LAYER8_CLOSED);
        CHECK(layer8_receive(port, 1, 0) == LAYER8_CLOSED && layer8_wait_arrived(port, SECOND, 0) == LAYER8_CLOSED);
        CHECK(layer8_wait_room(port, 1, 1, SECOND, 0) == LAYER8_CLOSED && layer8_slot_state(port, 1) == LAYER8_CLOSED);
        CHECK(layer8_port_stranded(port, 0, table, 1) == LAYER8_CLOSED && layer8_missed(port, 1) == 0);
        layer8_push_abort(port, &message);
        layer8_set_unread(port, 1);
        layer8_port_wake(port);
        layer8_port_read_stats(port, &stats);
        layer8_port_close(port);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(layer8_send(fake.port, 1, bytes, 1) == 1);
    fake_close(&fake);
}

int main(void) {
    RUN(wait_looks_before_it_sleeps);
    RUN(a_million_records_wake_their_receiver);
    RUN(round_trips_lose_no_wake_up);
    RUN(work_that_comes_while_announcing_is_seen);
    RUN(two_senders_fill_the_ring_and_one_waits_for_room);
    RUN(wake_and_shut_and_xon_end_waits);
    RUN(what_arrived_before_the_end_is_still_received);
    RUN(a_signal_ends_a_wait);
    RUN(a_lost_wake_up_is_counted);
    RUN(a_child_made_by_fork_is_refused);
    return 0;
}
