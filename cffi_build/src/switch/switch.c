/* switch.c - the switch's one thread: who is visited next, and when it may sleep.
 *
 * Ports are treated as a network driver treats cards. A doorbell puts a port on the active list; it is polled with a
 * quota, deficit round robin; found empty it is re-armed and leaves the list. With nothing active the thread sleeps in
 * epoll, over one eventfd a port and one for commands. */
#include "remote.h"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#define COMMANDS_ID UINT64_MAX
#define LINKS_ID (UINT64_C(1) << 32) /* and the number of the link */
#define TICK_NS UINT64_C(50000000)
#define ROUNDS_PER_POLL 4u
#define LINK_SPIN_NS UINT64_C(60000) /* after something came or went over a link: the answer is often near */

uint64_t layer8_now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- life ---- */

static uint32_t power_of_two_over(uint32_t n) {
    uint32_t power = 64;
    while (power < n) {
        power *= 2;
    }
    return power;
}

layer8_switch *layer8_switch_new(const layer8_switch_config *config) {
    layer8_switch *sw = aligned_alloc(128, (sizeof *sw + 127u) & ~(size_t)127u);
    if (sw == NULL) {
        return NULL;
    }
    memset(sw, 0, sizeof *sw);
    sw->config = *config;
    sw->max_rights = config->max_rights;
    sw->rights_mask = power_of_two_over(config->max_rights) - 1u;
    sw->event_mask = power_of_two_over(2u * COMMAND_RING + 4u * config->max_ports + 2u * (LAYER8_LINKS + STRANGERS)) - 1u;
    sw->uuid_mask = power_of_two_over(config->max_ports) - 1u;
    sw->right_seed = (uint32_t)layer8_now_ns() * 2654435761u;
    sw->rights_free = NO_RIGHT;
    sw->frozen = config->frozen != 0;
    sw->ports = calloc(config->max_ports, sizeof(port_t *));
    sw->aliases = calloc(config->max_aliases, sizeof(struct alias *));
    sw->topics = calloc(config->max_topics, sizeof(struct topic *));
    sw->rights = calloc(config->max_rights, sizeof(struct right));
    sw->right_buckets = malloc((sw->rights_mask + (size_t)1) * sizeof(uint32_t));
    sw->commands = calloc(COMMAND_RING, sizeof(struct command));
    sw->events = calloc(sw->event_mask + (size_t)1, sizeof(layer8_event));
    sw->epoll = epoll_create1(EPOLL_CLOEXEC);
    sw->command_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sw->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    list_init(&sw->active);
    list_init(&sw->dirty);
    list_init(&sw->doomed);
    list_init(&sw->closing);
    list_init(&sw->opening);
    list_init(&sw->released);
    list_init(&sw->said);
    list_init(&sw->busy);
    list_init(&sw->late);
    list_init(&sw->halves);
    sw->adjacents = calloc(LAYER8_LINKS, sizeof(struct adjacent *));
    sw->by_uuid = calloc(sw->uuid_mask + (size_t)1, sizeof(port_t *));
    sw->arrival_pool.size = sizeof(struct arrival);
    sw->sent_pool.size = sizeof(struct sent);
    sw->parcel_pool.size = sizeof(struct parcel);
    sw->owed_pool.size = sizeof(struct owed);
    sw->held_pool.size = sizeof(struct held);
    sw->flow_pool.size = sizeof(struct flow);
    sw->message_pool.size = sizeof(struct message);
    sw->due_pool.size = sizeof(struct due);
    struct epoll_event interest = {.events = EPOLLIN, .data.u64 = COMMANDS_ID};
    if (sw->ports == NULL || sw->aliases == NULL || sw->topics == NULL || sw->rights == NULL ||
        sw->right_buckets == NULL || sw->adjacents == NULL || sw->by_uuid == NULL || sw->commands == NULL || sw->events == NULL || sw->epoll < 0 ||
        sw->command_fd < 0 || sw->event_fd < 0 ||
        epoll_ctl(sw->epoll, EPOLL_CTL_ADD, sw->command_fd, &interest) != 0) {
        layer8_switch_free(sw);
        return NULL;
    }
    memset(sw->right_buckets, 0xff, (sw->rights_mask + (size_t)1) * sizeof(uint32_t));
    return sw;
}

void layer8_switch_free(layer8_switch *sw) {
    FOR_EACH_SAFE(half, &sw->halves) { layer8_half_free(OWNER(struct half, in_switch, half)); }
    for (uint32_t n = 0; sw->ports != NULL && n < sw->config.max_ports; n++) {
        if (sw->ports[n] != NULL) {
            FOR_EACH(at, &sw->ports[n]->waiting) {
                for (struct owed *owed = OWNER(struct flow, of_target, at)->first; owed != NULL; owed = owed->next) {
                    if (owed->message != NULL && owed->message->ended) { /* no longer in a port's list */
                        free(owed->message->receivers);
                        owed->message->receivers = NULL;
                    }
                }
            }
            if (sw->ports[n]->adjacent != NULL) {
                FOR_EACH(at, &sw->ports[n]->held) { free((void *)(uintptr_t)layer8_arrival_body(OWNER(struct held, in_ring, at))); }
            }
            FOR_EACH_SAFE(at, &sw->ports[n]->messages) { free(OWNER(struct message, of_source, at)->receivers); }
            FOR_EACH_SAFE(at, &sw->ports[n]->subscriptions) { free(OWNER(struct subscription, of_port, at)); }
            FOR_EACH_SAFE(at, &sw->ports[n]->memberships) { free(OWNER(struct membership, of_port, at)); }
            layer8_switch_port_free(sw->ports[n]);
        }
    }
    for (uint32_t n = 0; sw->adjacents != NULL && n < LAYER8_LINKS; n++) {
        if (sw->adjacents[n] != NULL) {
            layer8_adjacent_free(sw, sw->adjacents[n]);
        }
    }
    for (uint32_t n = 0; sw->aliases != NULL && n < sw->config.max_aliases; n++) {
        if (sw->aliases[n] != NULL) {
            free(sw->aliases[n]->members);
            free(sw->aliases[n]);
        }
    }
    for (uint32_t n = 0; sw->topics != NULL && n < sw->config.max_topics; n++) {
        if (sw->topics[n] != NULL) {
            free(sw->topics[n]->subscribers);
            free(sw->topics[n]);
        }
    }
    layer8_pool_close(&sw->owed_pool);
    layer8_pool_close(&sw->held_pool);
    layer8_pool_close(&sw->flow_pool);
    layer8_pool_close(&sw->message_pool);
    layer8_pool_close(&sw->due_pool);
    layer8_pool_close(&sw->arrival_pool);
    layer8_pool_close(&sw->sent_pool);
    layer8_pool_close(&sw->parcel_pool);
    free(sw->adjacents);
    free(sw->by_uuid);
    free(sw->ports);
    free(sw->aliases);
    free(sw->topics);
    free(sw->rights);
    free(sw->right_buckets);
    layer8_commands_free(sw);
    free(sw->events);
    if (sw->epoll >= 0) {
        (void)close(sw->epoll);
    }
    if (sw->command_fd >= 0) {
        (void)close(sw->command_fd);
    }
    if (sw->event_fd >= 0) {
        (void)close(sw->event_fd);
    }
    free(sw);
}

uint32_t layer8_uuid_bucket(const layer8_switch *sw, const uint8_t *uuid) {
    uint64_t half[2];
    memcpy(half, uuid, sizeof half);
    return (uint32_t)(((half[0] ^ half[1] ^ sw->right_seed) * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & sw->uuid_mask;
}

void layer8_port_enter(layer8_switch *sw, port_t *port) {
    port_t **bucket = &sw->by_uuid[layer8_uuid_bucket(sw, port->uuid)];
    port->of_uuid = *bucket;
    *bucket = port;
    sw->ports[port->id & 0xffffu] = port;
    sw->port_count++;
}

void layer8_port_forget(layer8_switch *sw, port_t *port) {
    if (port->adjacent == NULL) {
        (void)epoll_ctl(sw->epoll, EPOLL_CTL_DEL, port->doorbell, NULL);
    }
    port_t **at = &sw->by_uuid[layer8_uuid_bucket(sw, port->uuid)];
    while (*at != port) {
        at = &(*at)->of_uuid;
    }
    *at = port->of_uuid;
    list_remove(&port->of_adjacent);
    sw->ports[port->id & 0xffffu] = NULL;
    sw->port_count--;
}

/* ---- a visit ---- */

void layer8_activate(layer8_switch *sw, port_t *port) {
    if (!list_linked(&port->active)) {
        list_append(&sw->active, &port->active);
        sw->active_count++;
    }
}

static void deactivate(layer8_switch *sw, port_t *port) {
    if (list_linked(&port->active)) {
        list_remove(&port->active);
        sw->active_count--;
    }
}

/* A record header, already copied out of the segment: may a Vnic have written it? `there`: bytes up to the tail. */
bool layer8_well_formed(const struct layer8_record *record, uint64_t there, uint64_t to_end, uint64_t message_max) {
    const uint8_t known = LAYER8_FIRST | LAYER8_LAST | LAYER8_SEALED | LAYER8_HEADERS | LAYER8_RELIABLE;
    if (record->kind == LAYER8_PAD) {
        return LAYER8_RECORD_BYTES + (uint64_t)record->length == to_end && to_end <= there;
    }
    return record->kind >= LAYER8_UNICAST && record->kind <= LAYER8_ABORT && (record->flags & ~known) == 0 &&
           record->length <= LAYER8_FRAGMENT_BYTES && layer8_record_span(record->length) <= there &&
           layer8_record_span(record->length) <= to_end && record->slot < LAYER8_SLOTS && record->fragments >= 1 &&
           record->fragment < record->fragments && (record->fragments == 1 || record->length > 0) &&
           (uint64_t)(record->fragments - 1u) * LAYER8_FRAGMENT_BYTES <= message_max &&
           ((record->flags & LAYER8_FIRST) != 0) == (record->fragment == 0) &&
           ((record->flags & LAYER8_LAST) != 0) == (record->fragment + 1u == record->fragments) &&
           ((record->flags & LAYER8_HEADERS) != 0) == (record->headers != 0) && record->headers <= record->length &&
           record->headers <= LAYER8_HEADERS_MAX && (record->headers == 0 || record->fragment == 0) &&
           (record->kind < LAYER8_CANCEL || (record->length == 0 && record->fragments == 1));
}

/* Polls one port. Says whether it still has work. */
static bool poll_transmit(layer8_switch *sw, port_t *port) {
    bool alive = port_alive(port);
    uint64_t tail = alive ? layer8_load_acquire(&port->control->transmit_tail) : port->transmit_limit;
    uint32_t records = sw->config.visit_records;
    if (tail - port->transmit_tail > port->transmit_capacity - (port->transmit_tail - port->transmit_head) ||
        tail % LAYER8_ALIGN != 0) {
        if (alive) {
            layer8_violation(sw, port);
        }
        return false;
    }
    port->transmit_tail = tail;
    port->deficit += sw->config.visit_bytes;
    if (port->deficit > (int64_t)sw->config.visit_bytes) {
        port->deficit = sw->config.visit_bytes;
    }
    sw->spent = 0;
    bool bad = false;
    while (port->transmit_head != tail && records != 0 && port->deficit > (int64_t)sw->spent) {
        uint64_t offset = port->transmit_head & (port->transmit_capacity - 1);
        struct layer8_record record;
        layer8_copy_out(&record, port->transmit + offset, sizeof record);
        if (!layer8_well_formed(&record, tail - port->transmit_head, port->transmit_capacity - offset,
                                sw->config.max_message_bytes)) {
            bad = true;
            break;
        }
        uint64_t span = layer8_record_span(record.length);
#ifdef LAYER8_WITHOUT_ADOPTION
        const bool retry = false;
#else
        bool retry = port->transmit_head - port->adopted_until >= UINT64_MAX / 2; /* before it */
#endif
        if (!retry && port->unsettled) {
            layer8_settle(sw, port);
        }
        if (record.kind != LAYER8_PAD && !(retry && record.sequence <= port->adopted_highest)) {
            if (retry) {
                record.flags |= LAYER8_RETRY;
                COUNT(port->retries, 1);
            }
            KILL_POINT(1);
            sw->at = port->transmit + offset;
            enum forward done = layer8_forward(sw, port, &record, port->transmit + offset + LAYER8_RECORD_BYTES);
            sw->at = NULL;
            KILL_POINT(2);
            if (done == FORWARD_STALLED) {
                port->stalled = true;
                break;
            }
            if (done == FORWARD_VIOLATION) {
                bad = true;
                break;
            }
            sw->spent += LAYER8_RECORD_BYTES; /* so that what is copied nowhere costs something too */
            records--;
            COUNT(port->in_bytes, record.length - record.headers);
            if ((record.flags & LAYER8_LAST) != 0 && record.kind <= LAYER8_FAILED_REPLY) {
                COUNT(port->in_messages, 1);
            }
            COUNT(sw->records, 1);
        }
        port->transmit_head += span;
    }
    if (port->unsettled && port->transmit_head == port->adopted_until) {
        layer8_settle(sw, port);
    }
    if (bad) {
        layer8_violation(sw, port);
        port->transmit_limit = port->transmit_head; /* of a port that is closing already, nothing more is taken */
    }
    port->deficit -= (int64_t)sw->spent;
    layer8_flush(sw); /* first the copies, then what they were copied from: a kill in between costs a retry, no loss */
    KILL_POINT(4);
    if (port->transmit_head != port->transmit_published) {
        port->transmit_published = port->transmit_head;
        layer8_store_seq(&port->control->transmit_head, port->transmit_head);
        KILL_POINT(5);
        if (tail - port->transmit_head <= port->transmit_capacity / 2) {
            layer8_wake_sender(port);
        }
    }
    return port->transmit_head != tail && !port->stalled && !bad;
}

/* Empty: asks for a doorbell and looks again. True: there is work after all. */
static bool rearm(port_t *port) {
    layer8_wakeup_announce(&port->control->doorbell);
    if (layer8_load_seq(&port->control->transmit_tail) == port->transmit_tail) {
        return false;
    }
    (void)layer8_wakeup_retract(&port->control->doorbell); /* was it claimed, a spare token makes one visit more */
    return true;
}

static void visit(layer8_switch *sw, port_t *port) {
    COUNT(sw->visits, 1);
    list_remove(&port->active);
    sw->active_count--;
    if (port->congested && port->drain_due) {
        layer8_relieve(sw, port);
    }
    if (list_linked(&port->doomed)) {
        return;
    }
    if (sw->frozen || (port_alive(port) && (!port->resumed || port->adjacent != NULL))) {
        return; /* START or RESUME brings it back; a proxy that is up has no ring to look at */
    }
    port->stalled = false;
    bool more = layer8_poll_adopted(sw, port) && poll_transmit(sw, port);
    layer8_flush(sw);
    if (list_linked(&port->doomed)) {
        return;
    }
    layer8_commands_deferred(sw, port, !more);
    if (!port_alive(port)) {
        if (more) {
            layer8_activate(sw, port);
        } else {
            layer8_port_try_reap(sw, port);
        }
        return;
    }
    if (more || (!port->stalled && rearm(port))) {
        layer8_activate(sw, port);
    }
}

static void close_doomed(layer8_switch *sw) {
    while (!list_empty(&sw->doomed)) {
        port_t *port = OWNER(port_t, doomed, sw->doomed.next);
        list_remove(&port->doomed);
        deactivate(sw, port);
        layer8_emit(sw, LAYER8_EVENT_VIOLATION, port->id, 0, 0, port);
        layer8_port_begin_close(sw, port, LAYER8_REASON_VIOLATION, 0);
    }
}

/* ---- time ---- */

static void tick(layer8_switch *sw) {
    if (sw->frozen) {
        return;
    }
    sw->now_ns = layer8_now_ns();
    if (sw->now_ns < sw->tick_ns) {
        return;
    }
    sw->tick_ns = sw->now_ns + TICK_NS;
    for (uint32_t n = 0; n < sw->config.max_ports && sw->timed != 0; n++) {
        port_t *port = sw->ports[n];
        if (port != NULL) {
            layer8_held_tick(sw, port);
            FOR_EACH_SAFE(at, &port->waiting) { layer8_flow_tick(sw, OWNER(struct flow, of_target, at)); }
        }
    }
    FOR_EACH_SAFE(at, &sw->closing) {
        port_t *port = OWNER(port_t, closing, at);
        if (port->transmit_head == port->transmit_limit || sw->now_ns >= port->close_ns) {
            layer8_port_try_reap(sw, port);
        }
    }
    layer8_flush(sw);
}

static void quiesce(layer8_switch *sw) {
    for (uint32_t n = 0; n < sw->config.max_ports; n++) {
        port_t *port = sw->ports[n];
        if (port != NULL && port_alive(port) && port->adjacent == NULL &&
            (port->hold_live != 0 || port->transmit_head != layer8_load_acquire(&port->control->transmit_tail))) {
            return;
        }
    }
    sw->quiescing = false;
    layer8_emit(sw, LAYER8_EVENT_DONE, 0, sw->quiesce_token, LAYER8_OK, NULL);
}

/* ---- the loop ---- */

static void take_doorbell(layer8_switch *sw, uint64_t id) {
    port_t *port = port_by_id(sw, (uint32_t)id);
    uint64_t count;
    struct iovec into = {.iov_base = &count, .iov_len = sizeof count};
    if (port != NULL) {
        /* RWF_NOWAIT: the Vnic shares this file and could have made it blocking, and empty again. */
        (void)preadv2(port->doorbell, &into, 1, -1, RWF_NOWAIT);
        KILL_POINT(15);
        port->drain_due = port->congested;
        layer8_activate(sw, port);
    }
}

/* True: something came. */
static bool poll_doorbells(layer8_switch *sw, int timeout_ms) {
    struct epoll_event events[64];
    int count = epoll_wait(sw->epoll, events, 64, timeout_ms);
    for (int n = 0; n < count; n++) {
        if ((events[n].data.u64 & LINKS_ID) == LINKS_ID && events[n].data.u64 != COMMANDS_ID) {
            layer8_take_link_token(sw, (uint32_t)events[n].data.u64);
        } else if (events[n].data.u64 == COMMANDS_ID) {
            uint64_t ignored;
            ssize_t got = read(sw->command_fd, &ignored, sizeof ignored);
            (void)got;
            layer8_commands_run(sw);
        } else {
            take_doorbell(sw, events[n].data.u64);
        }
    }
    return count > 0;
}

static int patience_ms(const layer8_switch *sw, bool timed) {
    if (!list_empty(&sw->late) && !sw->frozen) {
        return 1;
    }
    return timed || sw->quiescing ? (int)(TICK_NS / 1000000u) : -1;
}

static bool idle(const layer8_switch *sw) { return list_empty(&sw->active) && (list_empty(&sw->busy) || sw->frozen); }

/* Before it sleeps: looks for a while, so that a quick answer needs no wake-up. Whoever is to give it may need the processor. */
static bool spin(layer8_switch *sw) {
    uint64_t now = layer8_now_ns();
    uint64_t until = now + (uint64_t)sw->config.spin_us * 1000u;
    if (until < sw->linked_ns + LINK_SPIN_NS) {
        until = sw->linked_ns + LINK_SPIN_NS;
    }
    for (; idle(sw) && !sw->stop && now < until; now = layer8_now_ns()) {
        (void)sched_yield();
        if (poll_doorbells(sw, 0)) { /* a command may have changed what there is to wait for, or whether to go on */
            return true;
        }
    }
    return !idle(sw);
}

int layer8_switch_run(layer8_switch *sw) {
    uint32_t round = 0;
    while (!sw->stop) {
        bool opening = layer8_gates_step(sw);
        bool timed = sw->timed != 0 || !list_empty(&sw->closing);
        if (timed) {
            tick(sw);
        }
        layer8_flush(sw);
        close_doomed(sw);
        if (sw->quiescing) {
            quiesce(sw);
        }
        if (idle(sw)) {
            if (opening) {
                (void)poll_doorbells(sw, 0);
            } else if ((sw->config.spin_us == 0 && sw->linked_ns == 0) || !spin(sw)) {
                COUNT(sw->sleeps, 1);
                (void)poll_doorbells(sw, patience_ms(sw, timed));
            }
        } else if (++round % ROUNDS_PER_POLL == 0) {
            (void)poll_doorbells(sw, 0);
        }
        for (uint32_t n = sw->active_count; n != 0 && !list_empty(&sw->active); n--) {
            visit(sw, OWNER(port_t, active, sw->active.next));
            close_doomed(sw);
        }
        layer8_adjacents_step(sw);
    }
    layer8_flush(sw);
    return LAYER8_OK;
}

void layer8_switch_read(layer8_switch *sw, layer8_switch_counters *counters) {
    *counters = (layer8_switch_counters){
        .visits = layer8_load_relaxed(&sw->visits),
        .records = layer8_load_relaxed(&sw->records),
        .wakeups = layer8_load_relaxed(&sw->wakeups),
        .sleeps = layer8_load_relaxed(&sw->sleeps),
        .violations = layer8_load_relaxed(&sw->violations),
        .held_records = layer8_load_relaxed(&sw->held_records),
        .held_bytes = layer8_load_relaxed(&sw->held_bytes),
        .outstanding = (uint32_t)layer8_load_relaxed(&sw->outstanding),
    };
}
