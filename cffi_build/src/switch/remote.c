/* remote.c - proxies, and what comes from them over a link.
 *
 *   record ─▶ its source has a proxy? ─▶ the handle is known? ─▶ layer8_forward ─┬─▶ delivered: answered at once
 *                 │ no                      │ no                                 ├─▶ kept (an arrival): answered later
 *                 ▼                         ▼                                    └─▶ refused: answered with the reason
 *             stranger ──(RESOLVE)──▶  waits, and what follows from that source behind it
 *
 * A proxy's handle table is the memory of what the control plane allowed: the wire carries the slot and generation of the
 * sender's handle. A record from a link goes to ports of this host only. */
#include "remote.h"

/* In place of what a segment gives a port. Written, and never read: a proxy has no marks to look at and nobody to wake.
 * All that touches it is atomic, so that one is enough for all switches of the process. */
static _Alignas(LAYER8_PAGE) uint8_t nowhere[LAYER8_OFFSET_RINGS];

#define REMOTE_HOLD LAYER8_WINDOW /* bounds the replies that one caller leaves unread, as a hold ring does */

layer8_switch_port *layer8_switch_remote_new(const uint8_t *uuid) {
    port_t *port = calloc(1, sizeof *port);
    if (port != NULL) {
        layer8_port_init(port);
        memcpy(port->uuid, uuid, sizeof port->uuid);
        port->doorbell = port->chime = -1;
        port->hold_capacity = REMOTE_HOLD;
        port->control = (struct layer8_control *)(void *)(nowhere + LAYER8_OFFSET_CONTROL);
        port->slot_bytes = (_Atomic uint8_t *)(nowhere + LAYER8_OFFSET_FLAGS);
        port->missed = (_Atomic uint64_t *)(void *)(nowhere + LAYER8_OFFSET_MISSED);
        port->state_page = (struct layer8_state_page *)(void *)(nowhere + LAYER8_OFFSET_STATE);
        port->unsaid = (_Atomic uint32_t *)(void *)(nowhere + LAYER8_OFFSET_UNSAID);
    }
    return port;
}

static port_t *find(layer8_switch *sw, const struct adjacent *adjacent, const uint8_t *uuid) {
    port_t *port = sw->by_uuid[layer8_uuid_bucket(sw, uuid)];
    while (port != NULL && (port->adjacent != adjacent || memcmp(port->uuid, uuid, sizeof port->uuid) != 0)) {
        port = port->of_uuid;
    }
    return port;
}

/* ---- arrivals: what could not be finished at once ---- */

static struct arrival *new_arrival(layer8_switch *sw, const struct layer8_record *record, const uint8_t *body,
                                   const struct arriving *arriving) {
    struct arrival *arrival = layer8_pool_take(&sw->arrival_pool);
    uint8_t *copy = arrival != NULL ? malloc(record->length != 0 ? record->length : 1u) : NULL;
    if (copy == NULL) {
        if (arrival != NULL) {
            layer8_pool_give(&sw->arrival_pool, arrival);
        }
        return NULL;
    }
    memcpy(copy, body, record->length);
    arrival->body = copy;
    arrival->held.record = *record;
    arrival->held.span = (uint32_t)layer8_record_span(record->length);
    arrival->tag = arriving->tag;
    arrival->counted = arriving->counted;
    arrival->destination_kind = arriving->destination_kind;
    memcpy(arrival->destination, arriving->destination, sizeof arrival->destination);
    list_init(&arrival->queue);
    return arrival;
}

static void count(layer8_switch *sw, struct adjacent *adjacent, const struct arrival *arrival) {
    uint64_t *bytes = &adjacent->unanswered[arrival->counted];
    *bytes += arrival->held.span;
    if (*bytes > LAYER8_WINDOW + LAYER8_RECORD_MAX) {
        layer8_adjacent_violation(sw, adjacent); /* more than was agreed */
    }
}

static void own(layer8_switch *sw, port_t *port, struct arrival *arrival) {
    list_append(&port->held, &arrival->held.in_ring);
    port->hold_live += arrival->held.span;
    COUNT(sw->held_records, 1);
    COUNT(sw->held_bytes, arrival->held.span);
}

struct held *layer8_arrival_keep(layer8_switch *sw, port_t *port, const struct layer8_record *record,
                                 const uint8_t *body) {
    struct arrival *arrival = new_arrival(sw, record, body, sw->arriving);
    if (arrival == NULL) {
        return NULL;
    }
    sw->arriving->kept = true;
    own(sw, port, arrival);
    count(sw, port->adjacent, arrival);
    layer8_held_time(sw, port, &arrival->held);
    return &arrival->held;
}

const uint8_t *layer8_arrival_body(const struct held *held) { return OWNER(const struct arrival, held, held)->body; }

void layer8_arrival_outcome(struct held *held, uint16_t reason) { OWNER(struct arrival, held, held)->outcome = reason; }

void layer8_arrival_answer(layer8_switch *sw, port_t *port, struct held *held) {
    struct arrival *arrival = OWNER(struct arrival, held, held);
    if (arrival->tag != 0) {
        port->adjacent->unanswered[arrival->counted] -= held->span;
        layer8_answer(sw, port->adjacent, arrival->tag, held->span, arrival->outcome);
        arrival->tag = 0;
        free(arrival->body);
        arrival->body = NULL;
    }
}

/* The last copy is made, or given up. */
void layer8_arrival_done(layer8_switch *sw, port_t *port, struct held *held) {
    struct arrival *arrival = OWNER(struct arrival, held, held);
    layer8_arrival_answer(sw, port, held);
    list_remove(&held->in_ring);
    layer8_pool_give(&sw->arrival_pool, arrival);
}

/* ---- asking the control plane ---- */

static void ask(layer8_switch *sw, const struct adjacent *adjacent, uint32_t port, const struct arrival *arrival,
                const uint8_t *source) {
    layer8_event event = {.kind = LAYER8_EVENT_RESOLVE,
                          .port = port,
                          .link = adjacent->number,
                          .slot = arrival->held.record.slot,
                          .generation = arrival->held.record.generation,
                          .record_kind = arrival->held.record.kind,
                          .destination_kind = arrival->destination_kind};
    memcpy(event.source, source, sizeof event.source);
    memcpy(event.destination, arrival->destination, sizeof event.destination);
    if (event.destination_kind == LAYER8_TARGET_TOPIC) {
        memcpy(&event.topic, arrival->destination, sizeof event.topic);
    }
    layer8_emit_event(sw, event);
}

static void queue(layer8_switch *sw, port_t *port, struct arrival *arrival) {
    arrival->held.copies = 1; /* until it has moved */
    own(sw, port, arrival);
    list_append(&port->arrivals, &arrival->queue);
    if (!port->asked) {
        port->asked = true;
        ask(sw, port->adjacent, port->id, arrival, port->uuid);
    }
}

static bool from_stranger(layer8_switch *sw, struct adjacent *adjacent, const struct layer8_record *record,
                          const uint8_t *body, const struct arriving *arriving) {
    struct stranger *stranger = NULL;
    FOR_EACH(at, &adjacent->strangers) {
        if (memcmp(OWNER(struct stranger, of_adjacent, at)->uuid, record->source, 16) == 0) {
            stranger = OWNER(struct stranger, of_adjacent, at);
            break;
        }
    }
    bool speaks = record->kind >= LAYER8_UNICAST && record->kind <= LAYER8_REQUEST;
    if (stranger == NULL && (!speaks || sw->stranger_count >= STRANGERS)) {
        layer8_answer(sw, adjacent, arriving->tag, 0, speaks ? LAYER8_REASON_TOO_MANY : LAYER8_REASON_NONE);
        return true; /* it answers nobody here */
    }
    struct arrival *arrival = new_arrival(sw, record, body, arriving);
    bool asked = stranger != NULL;
    if (stranger == NULL && arrival != NULL && (stranger = calloc(1, sizeof *stranger)) != NULL) {
        memcpy(stranger->uuid, record->source, sizeof stranger->uuid);
        list_init(&stranger->arrivals);
        list_append(&adjacent->strangers, &stranger->of_adjacent);
        sw->stranger_count++;
    }
    if (arrival == NULL || stranger == NULL) {
        return false;
    }
    list_append(&stranger->arrivals, &arrival->queue);
    count(sw, adjacent, arrival);
    if (!asked) {
        ask(sw, adjacent, 0, arrival, stranger->uuid);
    }
    return true;
}

static struct stranger *stranger_named(struct adjacent *adjacent, const uint8_t *uuid) {
    FOR_EACH(at, &adjacent->strangers) {
        struct stranger *stranger = OWNER(struct stranger, of_adjacent, at);
        if (memcmp(stranger->uuid, uuid, sizeof stranger->uuid) == 0) {
            return stranger;
        }
    }
    return NULL;
}

static void drop_stranger(layer8_switch *sw, struct stranger *stranger) {
    list_remove(&stranger->of_adjacent);
    sw->stranger_count--;
    free(stranger);
}

/* ---- what a record from a proxy means ---- */

enum passed { PASSED, UNKNOWN_HANDLE };

static struct right *right_at(layer8_switch *sw, const port_t *callee, const uint8_t *caller_uuid, uint64_t correlation,
                              uint32_t *index) {
    port_t *caller = find(sw, NULL, caller_uuid);
    struct right *right = caller != NULL ? layer8_right_of_call(sw, caller, correlation, index) : NULL;
    return right != NULL && right->callee == callee ? right : NULL;
}

/* The request has been there, whatever became of its outcome: it need not go again. */
static void request_arrived(layer8_switch *sw, const struct right *right, port_t *callee) {
    FOR_EACH(at, &callee->waiting) {
        struct flow *flow = OWNER(struct flow, of_target, at);
        for (struct owed *owed = flow->source == right->caller ? flow->first : NULL; owed != NULL; owed = owed->next) {
            const struct layer8_record *record = &owed->held->record;
            if (record->kind == LAYER8_REQUEST && record->correlation == right->correlation) {
                owed->held->dead = true;
            }
            sw->spent += LAYER8_RECORD_BYTES;
        }
    }
}

static bool handle_means(const layer8_switch *sw, const struct handle *handle, const struct layer8_record *record,
                         const struct arriving *arriving) {
    uint32_t topic;
    if (handle == NULL || handle->kind == 0 || handle->generation != record->generation) {
        return false;
    }
    if (handle->kind == LAYER8_TARGET_REFUSED) {
        return true;
    }
    if (!arriving->told && !layer8_allowed(handle, record)) {
        return false; /* allowed for another kind of record: it is asked about this one */
    }
    switch (arriving->destination_kind) {
    case LAYER8_TARGET_PORT: /* gone: the record is refused, and nobody need be asked */
        return handle->kind == LAYER8_TARGET_PORT &&
               (handle->target == NULL || memcmp(((port_t *)handle->target)->uuid, arriving->destination, 16) == 0);
    case LAYER8_TARGET_ALIAS:
        return handle->kind == LAYER8_TARGET_ALIAS;
    default:
        memcpy(&topic, arriving->destination, sizeof topic);
        return handle->kind == LAYER8_TARGET_TOPIC && topic < sw->config.max_topics && sw->topics[topic] == handle->target;
    }
}

/* Does what can be done with a record; sets the outcome. `held`: it has waited, and is `body`'s owner. */
static enum passed pass(layer8_switch *sw, port_t *port, struct layer8_record record, const uint8_t *body,
                        struct arriving *arriving, struct held *held) {
    uint32_t index = NO_RIGHT;
    uint8_t kind = record.kind == LAYER8_ABORT ? (uint8_t)record.reason : record.kind;
    if (!port_alive(port)) {
        return PASSED;
    }
    if (layer8_is_reply(kind) || record.kind == LAYER8_NOTICE) {
        struct right *right = right_at(sw, port, arriving->destination, record.correlation, &index);
        if (right == NULL) {
            return PASSED; /* too late: whoever asked no longer waits */
        }
        request_arrived(sw, right, port);
        if (record.kind == LAYER8_NOTICE) {
            layer8_right_fail(sw, right, record.reason);
            return PASSED;
        }
        record.missed = index;
        record.topic = right->generation;
    } else if (record.kind != LAYER8_CANCEL) {
        struct handle *handle = handle_at(port, record.slot);
        if (arriving->destination_kind == LAYER8_TARGET_PORT && find(sw, NULL, arriving->destination) == NULL &&
            record.kind != LAYER8_ABORT) {
            arriving->outcome = LAYER8_REASON_GONE;
            return PASSED;
        }
        if (!handle_means(sw, handle, &record, arriving)) {
            if (record.kind == LAYER8_ABORT) {
                return PASSED; /* of a message whose beginning was never allowed */
            }
            return UNKNOWN_HANDLE;
        }
        if (handle->kind == LAYER8_TARGET_REFUSED) {
            arriving->outcome = LAYER8_REASON_REVOKED;
            return PASSED;
        }
        if (arriving->destination_kind == LAYER8_TARGET_ALIAS) {
            record.reason = LAYER8_CHOSEN;
            memcpy(record.source, arriving->destination, sizeof record.source);
        } else if (record.kind != LAYER8_ABORT) {
            record.reason = LAYER8_REASON_NONE;
        }
        if ((uint64_t)(record.fragments - 1u) * LAYER8_FRAGMENT_BYTES > sw->config.max_message_bytes) {
            arriving->outcome = LAYER8_REASON_TOO_MANY;
            return PASSED;
        }
    }
    if (held != NULL) {
        held->record = record;
    }
    sw->arriving = arriving;
    sw->held_now = held;
    enum forward done = layer8_forward(sw, port, &record, body);
    sw->held_now = NULL;
    sw->arriving = NULL;
    if (done != FORWARD_DONE) { /* out of order, or no memory */
        struct message *message = layer8_message_find(port, &record);
        arriving->outcome = done == FORWARD_STALLED ? LAYER8_REASON_TOO_MANY : LAYER8_REASON_ABORTED;
        if (message != NULL) {
            message->reason = arriving->outcome;
            layer8_message_refuse(sw, port, message);
        }
    }
    if ((record.flags & LAYER8_LAST) != 0 && record.kind <= LAYER8_FAILED_REPLY) {
        COUNT(port->in_messages, 1);
    }
    COUNT(port->in_bytes, record.length - record.headers);
    COUNT(sw->records, 1);
    if ((record.flags & LAYER8_RETRY) != 0) {
        COUNT(port->retries, 1);
    }
    return PASSED;
}

/* Goes on with what waited; stops where the control plane must be asked again. */
static void go_on(layer8_switch *sw, port_t *port, bool told) {
    while (!list_empty(&port->arrivals) && !port->asked) {
        struct arrival *arrival = OWNER(struct arrival, queue, port->arrivals.next);
        struct arriving arriving = {.tag = arrival->tag,
                                    .counted = arrival->counted,
                                    .destination_kind = arrival->destination_kind,
                                    .destination = arrival->destination,
                                    .told = told};
        told = false;
        if (pass(sw, port, arrival->held.record, arrival->body, &arriving, &arrival->held) == UNKNOWN_HANDLE) {
            port->asked = true;
            ask(sw, port->adjacent, port->id, arrival, port->uuid);
            return;
        }
        list_remove(&arrival->queue);
        if (arriving.outcome != LAYER8_REASON_NONE) {
            arrival->outcome = arriving.outcome;
        }
        layer8_held_release(sw, port, &arrival->held);
    }
}

void layer8_remote_granted(layer8_switch *sw, port_t *port, bool refused) {
    if (refused && !list_empty(&port->arrivals)) { /* what was asked about is not there any more */
        struct arrival *arrival = OWNER(struct arrival, queue, port->arrivals.next);
        list_remove(&arrival->queue);
        arrival->outcome = LAYER8_REASON_GONE;
        layer8_held_release(sw, port, &arrival->held);
    }
    port->asked = false;
    go_on(sw, port, !refused);
    layer8_flush(sw);
}

/* A retry of a request that is being answered. Known when it comes and not when its turn comes: if it waits, the answer may
 * be over by then, and it would be asked again. */
static bool was_asked(layer8_switch *sw, port_t *port, const struct layer8_record *record) {
    uint32_t index;
    return record->kind == LAYER8_REQUEST && (record->flags & LAYER8_RETRY) != 0 &&
           layer8_message_find(port, record) == NULL &&
           layer8_right_of_call(sw, port, record->correlation, &index) != NULL;
}

bool layer8_arrive(layer8_switch *sw, struct adjacent *adjacent, const struct layer8_frame_record *frame,
                   const uint8_t *body) {
    const struct layer8_record *record = &frame->record;
    if (record->kind == LAYER8_CANCEL && record->reason != LAYER8_REASON_NONE) {
        return layer8_halves_asked(sw, adjacent, frame);
    }
    port_t *port = find(sw, adjacent, record->source);
    struct arriving arriving = {.tag = frame->tag,
                                .counted = sw->config.max_ports,
                                .destination_kind = frame->head.destination_kind,
                                .destination = frame->destination};
    if (arriving.destination_kind != LAYER8_TARGET_TOPIC) {
        const port_t *to = find(sw, NULL, frame->destination);
        if (to != NULL) {
            arriving.counted = to->id & 0xffffu;
        }
    }
    if (port == NULL) {
        return from_stranger(sw, adjacent, record, body, &arriving);
    }
    if (was_asked(sw, port, record)) {
        layer8_answer(sw, adjacent, frame->tag, layer8_record_span(record->length), LAYER8_REASON_NONE);
        return true;
    }
    if (!list_empty(&port->arrivals) ||
        pass(sw, port, *record, body, &arriving, NULL) == UNKNOWN_HANDLE) { /* in order, behind what waits */
        struct arrival *arrival = new_arrival(sw, record, body, &arriving);
        if (arrival == NULL) {
            return false;
        }
        count(sw, adjacent, arrival);
        queue(sw, port, arrival);
        return true;
    }
    if (!arriving.kept) {
        layer8_answer(sw, adjacent, frame->tag, layer8_record_span(record->length), arriving.outcome);
    }
    return true;
}

void layer8_arrive_gone(layer8_switch *sw, struct adjacent *adjacent, const struct layer8_frame_gone *frame) {
    port_t *port = find(sw, adjacent, frame->uuid);
    struct stranger *stranger = stranger_named(adjacent, frame->uuid);
    layer8_answer(sw, adjacent, frame->tag, 0, LAYER8_REASON_NONE);
    if (stranger != NULL) {
        (void)layer8_refuse_source(sw, adjacent->number, frame->uuid);
    }
    if (port_alive(port)) {
        layer8_port_begin_close(sw, port, LAYER8_REASON_GONE, 0);
        layer8_port_try_reap(sw, port);
    }
}

/* ---- commands ---- */

int layer8_add_remote(layer8_switch *sw, uint32_t id, port_t *port, uint32_t principal, uint32_t number) {
    struct adjacent *adjacent = layer8_adjacent(sw, number);
    uint32_t index = id & 0xffffu;
    if (adjacent == NULL || port == NULL || index >= sw->config.max_ports || sw->ports[index] != NULL ||
        find(sw, adjacent, port->uuid) != NULL) {
        return LAYER8_INVALID;
    }
    port->id = id;
    port->principal = principal;
    port->adjacent = adjacent;
    port->resumed = true;
    port->is_adopted = true; /* a message may have begun over an earlier session */
    layer8_port_enter(sw, port);
    list_append(&adjacent->proxies, &port->of_adjacent);
    layer8_store_relaxed(&port->state, PORT_UP);
    if (adjacent->link == NULL) {
        layer8_congest_mark(sw, port);
    }
    struct stranger *stranger = stranger_named(adjacent, port->uuid);
    while (stranger != NULL && !list_empty(&stranger->arrivals)) {
        struct arrival *arrival = OWNER(struct arrival, queue, stranger->arrivals.next);
        list_remove(&arrival->queue);
        port->asked = true; /* the same question stands: a GRANT answers it */
        queue(sw, port, arrival);
    }
    if (stranger != NULL) {
        drop_stranger(sw, stranger);
    }
    layer8_halves_of(sw, port);
    return LAYER8_OK;
}

int layer8_refuse_source(layer8_switch *sw, uint32_t number, const uint8_t *uuid) {
    struct adjacent *adjacent = layer8_adjacent(sw, number);
    struct stranger *stranger = adjacent != NULL ? stranger_named(adjacent, uuid) : NULL;
    if (stranger == NULL) {
        return LAYER8_GONE;
    }
    while (!list_empty(&stranger->arrivals)) {
        struct arrival *arrival = OWNER(struct arrival, queue, stranger->arrivals.next);
        list_remove(&arrival->queue);
        adjacent->unanswered[arrival->counted] -= arrival->held.span;
        layer8_answer(sw, adjacent, arrival->tag, arrival->held.span, LAYER8_REASON_REVOKED);
        free(arrival->body);
        layer8_pool_give(&sw->arrival_pool, arrival);
    }
    drop_stranger(sw, stranger);
    return LAYER8_OK;
}

/* ---- ends ---- */

void layer8_arrivals_end(layer8_switch *sw, port_t *port) {
    while (!list_empty(&port->arrivals)) {
        struct arrival *arrival = OWNER(struct arrival, queue, port->arrivals.next);
        list_remove(&arrival->queue);
        arrival->outcome = LAYER8_REASON_GONE;
        layer8_held_release(sw, port, &arrival->held);
    }
}

static void forget_flows(layer8_switch *sw, struct list *flows) {
    while (!list_empty(flows)) {
        layer8_flow_forget(sw, OWNER(struct flow, of_source, flows->next));
    }
}

void layer8_arrivals_forget(layer8_switch *sw, struct adjacent *adjacent) {
    FOR_EACH(at, &adjacent->proxies) {
        port_t *port = OWNER(port_t, of_adjacent, at);
        forget_flows(sw, &port->flows);
        for (uint32_t chunk = 0; chunk < HANDLE_CHUNKS; chunk++) {
            for (uint32_t n = 0; port->handles[chunk] != NULL && n < HANDLES_PER_CHUNK; n++) {
                forget_flows(sw, &port->handles[chunk][n].flows);
            }
        }
        layer8_arrivals_end(sw, port);
        port->asked = false;
    }
    while (!list_empty(&adjacent->strangers)) {
        (void)layer8_refuse_source(sw, adjacent->number,
                                   OWNER(struct stranger, of_adjacent, adjacent->strangers.next)->uuid);
    }
}
