/* flow.c - copies owed: what one name of one sender still has to bring to one destination, oldest first. */
#include "remote.h"

#define STUCK_NS UINT64_C(1000000000) /* a publication in fragments may hold its publisher this long */

struct flow *layer8_flow_find(struct list *flows, const port_t *target, const struct alias *alias) {
    FOR_EACH(at, flows) {
        struct flow *flow = OWNER(struct flow, of_source, at);
        if (flow->target == target && flow->alias == alias) {
            return flow;
        }
    }
    return NULL;
}

struct flow *layer8_flow_open(layer8_switch *sw, port_t *source, struct handle *handle, port_t *target,
                              struct alias *alias) {
    struct flow *flow = layer8_pool_take(&sw->flow_pool);
    if (flow == NULL) {
        return NULL;
    }
    flow->source = source;
    flow->handle = handle;
    flow->target = target;
    flow->alias = alias;
    flow->replies = handle == NULL;
    flow->named = handle != NULL && handle->kind != LAYER8_TARGET_TOPIC;
    flow->moved_ns = sw->now_ns = layer8_now_ns();
    list_init(&flow->of_adjacent);
    list_append(handle != NULL ? &handle->flows : &source->flows, &flow->of_source);
    list_append(alias != NULL ? &alias->waiting : &target->waiting, &flow->of_target);
    if (alias != NULL) {
        for (uint32_t n = 0; n < alias->count; n++) {
            layer8_congest(sw, alias->members[n]->port);
        }
    } else {
        layer8_congest(sw, target);
    }
    return flow;
}

static bool is_reply(const struct held *held) { return layer8_is_reply(held->record.kind); }

/* What one handle holds in its sender's ring is bounded: over a quarter of it, the sender sees Xoff. Where everything must be
 * held, until another host has answered, it is three times what is free, less a burst that may follow: alone it may have
 * three quarters, and of several that are stuck each has less, so that there is room for one more. */
static void choke(struct flow *flow) {
    struct handle *handle = flow->handle;
    const port_t *source = flow->source;
    uint64_t most = source->hold_capacity / 4, again = most / 2;
    if (flow->target != NULL && flow->target->adjacent != NULL) {
        uint64_t taken = source->hold_live + HOLD_KEPT_BACK + 2 * LAYER8_BURST(source->transmit_capacity);
        uint64_t free = taken < source->hold_capacity ? source->hold_capacity - taken : 0;
        most = 3 * free;
        again = 2 * free; /* of a third of it: so that it need not run dry while the sender wakes up */
    }
    if (handle != NULL &&
        (handle->choked ? handle->owed_bytes < again || handle->owed_bytes == 0 : handle->owed_bytes > most)) {
        handle->choked = !handle->choked;
        layer8_handle_mark(handle);
    }
}

bool layer8_flow_owe(layer8_switch *sw, struct flow *flow, struct held *held, struct message *message,
                     struct subscription *subscription) {
    struct owed *owed = layer8_pool_take(&sw->owed_pool);
    if (owed == NULL) {
        return false;
    }
    owed->flow = flow;
    owed->held = held;
    owed->message = message;
    owed->subscription = subscription;
    held->copies++;
    if (message != NULL) {
        held->message = message;
        message->owed++;
        if (held->record.kind == LAYER8_PUBLISH) {
            sw->timed++; /* the clock is read while somebody may be stuck in a publication */
        }
    }
    if (is_reply(held)) {
        sw->timed++; /* or does not read what it asked for */
    }
    owed->previous = flow->last;
    if (flow->last != NULL) {
        flow->last->next = owed;
    } else {
        flow->first = owed;
    }
    flow->last = owed;
    flow->bytes += held->span;
    if (flow->handle != NULL) {
        flow->handle->owed_bytes += held->span;
    }
    choke(flow);
    if (flow->target != NULL && flow->target->adjacent != NULL) {
        layer8_remote_owe(sw, owed);
    }
    return true;
}

/* Takes a copy out of its flow. */
static void take_out(layer8_switch *sw, struct owed *owed) {
    struct flow *flow = owed->flow;
    if (flow->target != NULL && flow->target->adjacent != NULL) {
        layer8_remote_unowe(sw, owed);
    }
    if (owed->previous != NULL) {
        owed->previous->next = owed->next;
    } else {
        flow->first = owed->next;
    }
    if (owed->next != NULL) {
        owed->next->previous = owed->previous;
    } else {
        flow->last = owed->previous;
    }
    flow->bytes -= owed->held->span;
    if (flow->handle != NULL) {
        flow->handle->owed_bytes -= owed->held->span;
    }
    if (is_reply(owed->held)) {
        sw->timed--;
    }
    if (owed->message != NULL) {
        if (owed->held->record.kind == LAYER8_PUBLISH) {
            sw->timed--;
        }
        layer8_message_unowe(sw, owed->message);
    }
    layer8_held_release(sw, flow->source, owed->held);
    layer8_pool_give(&sw->owed_pool, owed);
    choke(flow);
}

static void close_flow(layer8_switch *sw, struct flow *flow) {
    list_remove(&flow->of_source);
    list_remove(&flow->of_target);
    list_remove(&flow->of_adjacent);
    layer8_pool_give(&sw->flow_pool, flow);
}

/* Where the record stands in its segment; NULL of one that came over a link. */
static uint8_t *header_of(const struct flow *flow, const struct owed *owed) {
    return flow->source->adjacent != NULL
               ? NULL
               : flow->source->hold + (owed->held->position & (flow->source->hold_capacity - 1));
}

/* A request that was on its way over a link has made its right already. */
static void end_right_of_call(layer8_switch *sw, struct owed *owed) {
    uint32_t index;
    struct right *right = owed->repeated || owed->sent != NULL
                              ? layer8_right_of_call(sw, owed->flow->source, owed->held->record.correlation, &index)
                              : NULL;
    if (right != NULL) {
        layer8_right_end(sw, right);
    }
}

static void refuse_one(layer8_switch *sw, struct owed *owed, uint16_t reason) {
    struct flow *flow = owed->flow;
    struct message *message = owed->message;
    bool over = message != NULL && message->right != NO_RIGHT && !layer8_right_stands(sw, message); /* said with its right */
    bool said = owed->held->dead || (message != NULL && message->refused) || over;
    const struct layer8_record *record = &owed->held->record;
    if (layer8_is_reply(record->kind)) {
        struct right *right = layer8_right_of_reply(sw, flow->source, record);
        COUNT(flow->source->undeliverable, 1);
        if (reason == LAYER8_REASON_TOO_MANY && right != NULL) { /* else whoever asked is gone: nobody is told */
            layer8_right_fail(sw, right, reason);
        }
        if (reason == LAYER8_REASON_TOO_MANY && message != NULL) {
            layer8_message_refuse(sw, flow->source, message);
        }
    } else if (record->kind != LAYER8_PUBLISH || reason == LAYER8_REASON_REVOKED) {
        if (!said) {
            if (record->kind == LAYER8_REQUEST) {
                end_right_of_call(sw, owed);
            }
            /* a publication once, not for each subscriber */
            layer8_held_give_back(sw, flow->source, owed->held, reason, flow->target != NULL ? flow->target->uuid : NULL);
        }
        if (message != NULL) {
            layer8_message_refuse(sw, flow->source, message); /* said or not: who has the beginning gets no more of it */
        }
    }
}

/* Whether an earlier Vnet, or connection, may have delivered it. Of a publication nobody is told who did not get it. */
bool layer8_owed_again(const struct owed *owed) {
    const struct layer8_record *record = &owed->held->record;
    return record->kind != LAYER8_PUBLISH && (owed->repeated || (record->flags & LAYER8_RETRY) != 0);
}

/* Of what goes again nothing is known. Nor is of what is on its way, unless the far Vnet has just said that its receiver is no
 * more, which comes after all that it answers. */
static uint16_t reason_of(const struct owed *owed, uint16_t reason) {
    const port_t *target = owed->flow->target;
    bool said = target != NULL && target->adjacent != NULL && target->adjacent->link != NULL &&
                reason == LAYER8_REASON_GONE;
    return layer8_owed_again(owed) || (owed->sent != NULL && !said) ? LAYER8_REASON_UNKNOWN : reason;
}

void layer8_flow_refuse(layer8_switch *sw, struct flow *flow, uint16_t reason) {
    while (flow->first != NULL) {
        refuse_one(sw, flow->first, reason_of(flow->first, reason));
        take_out(sw, flow->first);
    }
    close_flow(sw, flow);
}

void layer8_owed_refuse(layer8_switch *sw, struct owed *owed, uint16_t reason) {
    refuse_one(sw, owed, reason);
    layer8_owed_done(sw, owed);
}

void layer8_owed_done(layer8_switch *sw, struct owed *owed) {
    struct flow *flow = owed->flow;
    flow->moved_ns = sw->now_ns;
    take_out(sw, owed);
    if (flow->first == NULL) {
        close_flow(sw, flow);
    }
}

void layer8_flow_forget(layer8_switch *sw, struct flow *flow) {
    while (flow->first != NULL) {
        struct owed *owed = flow->first;
        const struct layer8_record *record = &owed->held->record;
        if (owed->message != NULL && owed->message->next > record->fragment) {
            owed->message->next = record->fragment;
        }
        if (owed->message != NULL && owed->message->ended && !owed->message->refused) {
            layer8_message_reopen(flow->source, owed->message); /* its end will come again */
        }
        if (layer8_is_reply(record->kind) && (record->flags & LAYER8_LAST) != 0) {
            struct right *right = layer8_right_of_reply(sw, flow->source, record);
            if (right != NULL) {
                right->state = RIGHT_OPEN; /* until it is answered again */
            }
        }
        take_out(sw, owed);
    }
    close_flow(sw, flow);
}

void layer8_flow_drop(layer8_switch *sw, struct flow *flow, const struct message *message,
                      const struct subscription *subscription) {
    for (struct owed *at = flow->first; at != NULL;) {
        struct owed *next = at->next;
        if ((message != NULL && at->message == message) || (subscription != NULL && at->subscription == subscription)) {
            if (subscription != NULL && at->message != NULL && at->message->ended && !at->message->refused &&
                (at->held->record.flags & LAYER8_LAST) != 0) { /* what it has of it will not be made whole */
                struct receiver *receiver = layer8_receiver_of(at->message, subscription);
                if (receiver != NULL) {
                    receiver->subscription = NULL;
                    layer8_abort_at(sw, flow->source, at->message, receiver);
                }
            }
            take_out(sw, at);
        }
        at = next;
    }
    if (flow->first == NULL) {
        close_flow(sw, flow);
    }
}

static enum put serve_one(layer8_switch *sw, struct flow *flow, struct owed *owed, port_t *to) {
    struct held *held = owed->held;
    const struct layer8_record *record = &held->record;
    const uint8_t *body = layer8_held_body(flow->source, held);
    switch (record->kind) {
    case LAYER8_PUBLISH:
        return layer8_put_publication(sw, flow->source, owed->subscription, record, body, PUT_RECORD);
    case LAYER8_REPLY:
    case LAYER8_FAILED_REPLY:
        return layer8_put_reply(sw, flow->source, to, record, body);
    default:
        break;
    }
    if (to == NULL) {
        return PUT_NO_ROOM;
    }
    if (flow->alias != NULL) {
        layer8_note(header_of(flow, owed), LAYER8_CHOSEN, to->uuid);
        KILL_POINT(10);
    }
    enum put put = layer8_put_unicast(sw, flow->source, to, record, body, held->deadline_ns, owed->message);
    if (flow->alias != NULL && put == PUT_NO_ROOM) { /* chosen for nothing: the next one may be another */
        layer8_note(header_of(flow, owed), LAYER8_REASON_NONE, NULL);
    }
    return put;
}

/* What waited for any member of the alias waits for this one, behind what is there. */
static bool join(layer8_switch *sw, struct owed *owed, struct flow *other, const port_t *to) {
    layer8_note(header_of(owed->flow, owed), LAYER8_CHOSEN, to->uuid);
    owed->held->record.reason = LAYER8_CHOSEN;
    memcpy(owed->held->record.source, to->uuid, sizeof to->uuid);
    return layer8_flow_owe(sw, other, owed->held, owed->message, NULL);
}

/* No member of the alias is left on this host: what waits for one goes to one elsewhere. */
static bool hand_over(layer8_switch *sw, struct owed *owed) {
    struct flow *flow = owed->flow;
    port_t *to = layer8_choose(sw, flow->alias);
    if (to == NULL || to->adjacent == NULL || flow->source->adjacent != NULL) {
        return false;
    }
    struct flow *other = layer8_flow_find(flow->handle != NULL ? &flow->handle->flows : &flow->source->flows, to, NULL);
    if (other == NULL) {
        other = layer8_flow_open(sw, flow->source, flow->handle, to, NULL);
    }
    return other != NULL && join(sw, owed, other, to);
}

struct flow *layer8_flow_of_replies(port_t *source, const port_t *target) {
    FOR_EACH(at, &source->flows) {
        struct flow *flow = OWNER(struct flow, of_source, at);
        if (flow->target == target && flow->replies) {
            return flow;
        }
    }
    return NULL;
}

struct flow *layer8_flow_to(const port_t *source, port_t *target) {
    FOR_EACH(at, &target->waiting) {
        struct flow *flow = OWNER(struct flow, of_target, at);
        if (flow->source == source && flow->named) {
            return flow;
        }
    }
    return NULL;
}

static bool is_name(const struct layer8_record *record) {
    return record->kind == LAYER8_UNICAST || record->kind == LAYER8_REQUEST;
}

/* It waits under another handle than its own, and that was taken away meanwhile. */
static bool is_revoked(const struct flow *flow, const struct layer8_record *record) {
    const struct handle *own = is_name(record) ? handle_at(flow->source, record->slot) : NULL;
    return own != NULL && own != flow->handle && own->kind == 0 && own->generation == record->generation &&
           own->byte == LAYER8_SLOT_REVOKED;
}

/* A message to an alias goes under the alias, a large one under the handle of the member that was asked for, and both are one
 * name to the program. So what goes to a port waits behind what its sender has waiting for it under another handle, and behind
 * what waits for any member of an alias that it has; that is for it from now on. */
struct flow *layer8_flow_beside(layer8_switch *sw, port_t *source, port_t *target) {
    FOR_EACH(at, &target->memberships) {
        struct alias *alias = OWNER(struct membership, of_port, at)->alias;
        FOR_EACH_SAFE(waiting, &alias->waiting) {
            struct flow *flow = OWNER(struct flow, of_target, waiting);
            if (flow->source != source || flow->handle == NULL) {
                continue;
            }
            struct flow *own = layer8_flow_to(source, target);
            if (own == NULL) {
                own = layer8_flow_open(sw, source, flow->handle, target, NULL);
            }
            while (own != NULL && flow->first != NULL && join(sw, flow->first, own, target)) {
                take_out(sw, flow->first);
            }
            if (flow->first == NULL) {
                close_flow(sw, flow);
            }
        }
    }
    return layer8_flow_to(source, target);
}

enum served layer8_flow_serve(layer8_switch *sw, struct flow *flow, uint32_t records) {
    while (flow->first != NULL) {
        struct owed *owed = flow->first;
        struct held *held = owed->held;
        if (flow->alias != NULL && flow->alias->locals == 0 && !held->dead) {
            if (!hand_over(sw, owed)) {
                return SERVED_NO_ROOM;
            }
            take_out(sw, owed);
            continue;
        }
        if (!held->dead && !(owed->message != NULL && owed->message->refused)) {
            if (records-- == 0) {
                return SERVED_SOME;
            }
            port_t *to = flow->alias != NULL ? layer8_choose(sw, flow->alias) : flow->target;
            struct flow *earlier = flow->alias != NULL && to != NULL ? layer8_flow_to(flow->source, to) : NULL;
            if (earlier != NULL) { /* chosen before, perhaps by an earlier Vnet, or of the same sender under another handle */
                if (!join(sw, owed, earlier, to)) {
                    return SERVED_NO_ROOM;
                }
                take_out(sw, owed);
                continue;
            }
            if (is_revoked(flow, &held->record)) {
                refuse_one(sw, owed, LAYER8_REASON_REVOKED);
                take_out(sw, owed);
                continue;
            }
            switch (serve_one(sw, flow, owed, to)) {
            case PUT_NO_ROOM:
                return SERVED_NO_ROOM;
            case PUT_TOO_MANY:
                layer8_held_give_back(sw, flow->source, held, LAYER8_REASON_TOO_MANY, NULL);
                if (owed->message != NULL) {
                    layer8_message_refuse(sw, flow->source, owed->message);
                }
                break;
            case PUT_DEAD: /* its close refuses the rest; only here when that is due at the end of this visit */
                return SERVED_NO_ROOM;
            case PUT_DONE:
                flow->moved_ns = sw->now_ns;
                layer8_message_begun(owed->message, &held->record, owed->subscription);
                break;
            }
        }
        take_out(sw, owed);
    }
    close_flow(sw, flow);
    return SERVED_ALL;
}

/* A subscriber that makes no progress in a publication it was admitted to is put out of it. */
void layer8_flow_tick(layer8_switch *sw, struct flow *flow) {
    struct owed *owed = flow->first;
    bool far = flow->target != NULL && flow->target->adjacent != NULL;
    if (far && flow->target->adjacent->link == NULL) {
        flow->moved_ns = sw->now_ns; /* nobody can make progress */
        return;
    }
    /* Of a caller elsewhere its own Vnet says so: what is on its way there may have arrived. */
    if (owed != NULL && is_reply(owed->held) && flow->source->stalled && !far && sw->now_ns >= flow->moved_ns + STUCK_NS) {
        layer8_flow_refuse(sw, flow, LAYER8_REASON_TOO_MANY); /* who does not read what it asked for stops no service */
        return;
    }
    if (owed == NULL || owed->message == NULL || owed->subscription == NULL ||
        (owed->held->record.flags & LAYER8_RELIABLE) != 0 || sw->now_ns < flow->moved_ns + STUCK_NS) {
        return;
    }
    struct message *message = owed->message;
    struct subscription *subscription = owed->subscription;
    layer8_miss(subscription, 1);
    struct receiver *receiver = layer8_receiver_of(message, subscription);
    if (receiver != NULL) {
        layer8_abort_at(sw, flow->source, message, receiver);
    }
    message->owed++; /* keep it while its copies are dropped */
    flow->moved_ns = sw->now_ns;
    layer8_flow_drop(sw, flow, message, NULL);
    layer8_message_unowe(sw, message);
}
