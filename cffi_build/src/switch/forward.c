/* forward.c - what a record means: unicast and request by handle, reply by right, cancel; a publication: publication.c.
 *
 *   send ─▶ in the transmit ring ─▶ checked ─┬─▶ delivered (in the receiver's ring)
 *                                            ├─▶ held (copies owed) ─▶ delivered, refused, expired or aborted
 *                                            └─▶ refused (a notice says why)
 *
 * layer8_forward either does all it does with a record, or returns FORWARD_STALLED having done nothing. */
#include "remote.h"

enum put layer8_put_unicast(layer8_switch *sw, port_t *source, port_t *to, const struct layer8_record *record,
                            const uint8_t *body, uint64_t deadline_ns, struct message *message) {
    struct layer8_record delivered;
    struct right *made = NULL;
    if (to->adjacent != NULL) {
        return port_alive(to) ? PUT_NO_ROOM : PUT_DEAD; /* its right is made when it goes */
    }
    layer8_stamp(&delivered, record, source);
    if (record->kind == LAYER8_REQUEST) {
        uint32_t index = NO_RIGHT;
        uint16_t generation = 0;
        if (message != NULL && message->right != NO_RIGHT) {
            index = message->right;
            generation = message->right_generation;
        } else if (port_alive(to)) {
            made = layer8_right_make(sw, source, to, record, &index);
            if (made == NULL) {
                return PUT_TOO_MANY;
            }
            generation = made->generation;
        }
        delivered.missed = index;
        delivered.topic = generation;
        delivered.ttl = record->ttl;
        if (deadline_ns != 0) {
            uint64_t now = layer8_now_ns();
            delivered.ttl = now < deadline_ns ? (uint32_t)((deadline_ns - now) / 1000000u) + 1u : 1u;
        }
    }
    enum put put = layer8_put(sw, to, &delivered, body, PUT_RECORD);
    if (made != NULL && put != PUT_DONE) {
        layer8_right_end(sw, made);
    } else if (made != NULL && message != NULL) {
        message->right = delivered.missed;
        message->right_generation = delivered.topic;
    }
    return put;
}

enum put layer8_put_reply(layer8_switch *sw, port_t *source, port_t *to, const struct layer8_record *record,
                          const uint8_t *body) {
    struct layer8_record delivered;
    layer8_stamp(&delivered, record, source);
    delivered.slot = 0;
    delivered.generation = 0;
    delivered.reason = record->kind == LAYER8_REPLY                        ? 0
                       : record->reason == LAYER8_REASON_UNANSWERED ? LAYER8_REASON_UNANSWERED
                                                                    : LAYER8_REASON_FAILED;
    enum put put = layer8_put(sw, to, &delivered, body, PUT_RECORD);
    if (put == PUT_DONE && (record->flags & LAYER8_LAST) != 0) {
        struct right *right = layer8_right_of_reply(sw, source, record);
        if (right != NULL) {
            layer8_right_end(sw, right);
        }
    }
    return put;
}

port_t *layer8_choose(layer8_switch *sw, struct alias *alias) {
    port_t *best = NULL;
    uint64_t least = UINT64_MAX;
    struct membership **members = alias->locals != 0 ? alias->members : alias->members + alias->locals;
    uint32_t count = alias->locals != 0 ? alias->locals : alias->count;
    uint32_t looked = count < 64u ? count : 64u;
    uint32_t turn = count == 0 ? 0 : ++alias->turn % count;
    for (uint32_t n = 0; n < looked; n++) {
        port_t *port = members[(turn + n) % count]->port;
        if (!port_alive(port) || list_linked(&port->doomed)) {
            continue;
        }
        if (port->adjacent != NULL) { /* how full it is there is not known here */
            if (!port->congested) {
                return port;
            }
            best = best == NULL ? port : best;
            continue;
        }
        uint64_t fill = (layer8_fill(sw, port) << 30) / port->receive_capacity; /* in parts of it: rings differ in size */
        if (fill < least && !list_linked(&port->doomed)) {
            least = fill;
            best = port;
        }
    }
    return best;
}

/* Whether the handle was granted for this kind of record. */
bool layer8_allowed(const struct handle *handle, const struct layer8_record *record) {
    uint8_t needed = record->kind == LAYER8_UNICAST ? LAYER8_ALLOW_SEND
                     : record->kind == LAYER8_REQUEST ? LAYER8_ALLOW_REQUEST
                                                    : 0;
    return needed == 0 || handle->allows == 0 || (handle->allows & needed) != 0;
}

/* Refuses a record for good, and the message it is of; false when the notice of a request could not be kept. */
static bool refuse(layer8_switch *sw, port_t *port, const struct layer8_record *record, struct message *message,
                   uint16_t reason, const uint8_t *to) {
    bool said = message != NULL && message->right != NO_RIGHT && !layer8_right_stands(sw, message);
    if (record->kind == LAYER8_REQUEST && port->due_count >= sw->config.max_rights_per_port) {
        return false;
    }
    if ((record->flags & LAYER8_RETRY) != 0 &&
        (record->reason == LAYER8_REASON_NONE || record->reason == LAYER8_CHOSEN)) {
        reason = LAYER8_REASON_UNKNOWN; /* the earlier Vnet may have delivered it */
    }
    COUNT(port->refused, 1);
    layer8_note(sw->at, reason, NULL);
    KILL_POINT(11);
    if (port->adjacent != NULL) {
        sw->arriving->outcome = reason;
        if (message != NULL) {
            message->reason = reason;
        }
    } else if (!said) { /* else the right to reply ended already, and with a notice */
        layer8_report(sw, port, record, reason, to);
    }
    if (message != NULL) {
        layer8_message_refuse(sw, port, message);
    }
    return true;
}

struct held *layer8_take_or_make_held(layer8_switch *sw, port_t *port, const struct layer8_record *record,
                                      const uint8_t *body) {
    struct held *held = sw->held_now;
    if (held != NULL) {
        layer8_held_time(sw, port, held);
    } else if (!layer8_hold_room(sw, port, record->length) ||
               (held = layer8_hold_add(sw, port, record, body)) == NULL) {
        return NULL;
    }
    held->copies++;
    return held;
}

/* Queues one copy behind a flow, holding the record. */
static enum forward hold(layer8_switch *sw, port_t *port, const struct layer8_record *record, const uint8_t *body,
                         struct flow *flow, struct handle *handle, port_t *target, struct alias *alias,
                         struct message *message) {
    struct held *held = layer8_take_or_make_held(sw, port, record, body);
    if (held == NULL) {
        return FORWARD_STALLED;
    }
    if (record->reason == LAYER8_CHOSEN) { /* decided just now, if it was held before */
        held->record.reason = LAYER8_CHOSEN;
        memcpy(held->record.source, record->source, sizeof record->source);
    }
    if (flow == NULL) {
        flow = layer8_flow_open(sw, port, handle, target, alias);
    }
    if (flow == NULL || !layer8_flow_owe(sw, flow, held, message, NULL)) {
        (void)refuse(sw, port, record, message, LAYER8_REASON_TOO_MANY, NULL);
    }
    layer8_held_release(sw, port, held);
    return FORWARD_DONE;
}

static port_t *member_named(const struct alias *alias, const uint8_t *uuid) {
    for (uint32_t n = 0; n < alias->count; n++) {
        port_t *port = alias->members[n]->port;
        if (memcmp(port->uuid, uuid, sizeof port->uuid) == 0) {
            return port_alive(port) ? port : NULL;
        }
    }
    return NULL;
}

static enum forward to_port_or_alias(layer8_switch *sw, port_t *port, struct handle *handle,
                                     const struct layer8_record *record, const uint8_t *body,
                                     struct message *message) {
    struct alias *alias = handle->kind == LAYER8_TARGET_ALIAS ? handle->target : NULL;
    port_t *target = handle->kind == LAYER8_TARGET_PORT ? handle->target : NULL;
    struct layer8_record chosen;
    bool retry = (record->flags & LAYER8_RETRY) != 0 || port->adjacent != NULL;
    if (!retry) {
        chosen = *record;
        chosen.reason = LAYER8_REASON_NONE; /* it is the switch's to write */
        record = &chosen;
    }
    if (alias != NULL && retry && record->reason == LAYER8_CHOSEN) {
        target = member_named(alias, record->source); /* as the earlier Vnet decided */
        if (target == NULL || (port->adjacent != NULL && target->adjacent != NULL)) {
            uint16_t reason = port->adjacent != NULL ? LAYER8_REASON_GONE : LAYER8_REASON_UNKNOWN;
            return refuse(sw, port, record, message, reason, record->source) ? FORWARD_DONE : FORWARD_STALLED;
        }
        alias = NULL;
    }
    struct flow *flow = list_empty(&handle->flows) ? NULL : layer8_flow_find(&handle->flows, target, alias);
    port_t *to = alias != NULL && flow == NULL ? layer8_choose(sw, alias) : target;
    if (handle->target == NULL || (to == NULL && flow == NULL)) {
        uint16_t reason = alias != NULL || handle->kind == LAYER8_TARGET_ALIAS ? LAYER8_REASON_NOT_FOUND
                                                                                : LAYER8_REASON_GONE;
        return refuse(sw, port, record, message, reason, NULL) ? FORWARD_DONE : FORWARD_STALLED;
    }
    if (message != NULL && message->count == 0 && !layer8_message_add(message, to, NULL)) {
        return FORWARD_STALLED;
    }
    if (flow == NULL && target != NULL && target->adjacent == NULL) {
        flow = layer8_flow_beside(sw, port, target);
    }
    if (flow == NULL) {
        if (alias != NULL) {
            layer8_note(sw->at, LAYER8_CHOSEN, to->uuid);
            KILL_POINT(10);
        }
        if (to->adjacent != NULL && !port_alive(to)) {
            return refuse(sw, port, record, message, LAYER8_REASON_GONE, to->uuid) ? FORWARD_DONE : FORWARD_STALLED;
        }
        if (alias != NULL) {
            flow = to->adjacent == NULL ? layer8_flow_to(port, to) : layer8_flow_find(&handle->flows, to, NULL);
        }
        /* It stays the one chosen, whatever happens to the alias. So it does where something waits for it that an earlier
         * Vnet had chosen it for: overtaken, that would be taken for a double. */
        if (alias != NULL && (to->adjacent != NULL || flow != NULL)) {
            chosen = *record;
            chosen.reason = LAYER8_CHOSEN;
            memcpy(chosen.source, to->uuid, sizeof to->uuid);
            return hold(sw, port, &chosen, body, flow, handle, to, NULL, message);
        }
        switch (layer8_put_unicast(sw, port, to, record, body, 0, message)) {
        case PUT_DONE:
            layer8_message_begun(message, record, NULL);
            return FORWARD_DONE;
        case PUT_TOO_MANY:
        case PUT_DEAD: {
            bool dead = !port_alive(to) || list_linked(&to->doomed);
            uint16_t reason = dead ? LAYER8_REASON_GONE : LAYER8_REASON_TOO_MANY;
            return refuse(sw, port, record, message, reason, to->uuid) ? FORWARD_DONE : FORWARD_STALLED;
        }
        case PUT_NO_ROOM:
            if (alias != NULL) { /* chosen for nothing: another one may have room first */
                layer8_note(sw->at, LAYER8_REASON_NONE, NULL);
            }
            break;
        }
    }
    return hold(sw, port, record, body, flow, handle, target, alias, message);
}

static enum forward reply(layer8_switch *sw, port_t *port, const struct layer8_record *record, const uint8_t *body,
                          struct message *message) {
    struct right *right = layer8_right_of_reply(sw, port, record);
    if (right == NULL || right->state != RIGHT_OPEN) {
        COUNT(port->refused, 1); /* too late, or twice: the caller no longer waits */
        if (message != NULL && message->count != 0) {
            layer8_message_refuse(sw, port, message); /* and has the beginning of it */
        }
        return FORWARD_DONE;
    }
    port_t *caller = right->caller;
    struct flow *flow = list_empty(&port->flows) ? NULL : layer8_flow_of_replies(port, caller);
    if (message != NULL && message->count == 0 && !layer8_message_add(message, caller, NULL)) {
        return FORWARD_STALLED;
    }
    if (flow == NULL) {
        enum put put = layer8_put_reply(sw, port, caller, record, body);
        if (put == PUT_DONE) {
            layer8_message_begun(message, record, NULL);
        }
        if (put != PUT_NO_ROOM) {
            return FORWARD_DONE;
        }
    } else if (caller->adjacent == NULL && flow->bytes > port->hold_capacity / 4 && message == NULL &&
               flow->first->message == NULL) { /* a large one that is on its way may take a second: layer8_flow_tick */
        /* It does not read what it asked for. Of a caller elsewhere its own Vnet says so. */
        struct layer8_record request = {.kind = LAYER8_REQUEST,
                                        .slot = right->slot,
                                        .generation = right->handle_generation,
                                        .sequence = right->sequence,
                                        .correlation = right->correlation,
                                        .fragments = 1};
        layer8_right_end(sw, right);
        layer8_report(sw, caller, &request, LAYER8_REASON_TOO_MANY, port->uuid);
        return FORWARD_DONE;
    }
    enum forward done = hold(sw, port, record, body, flow, NULL, caller, NULL, message);
    if (done == FORWARD_DONE && (record->flags & LAYER8_LAST) != 0) {
        right->state = RIGHT_ANSWERED;
    }
    return done;
}

/* A cancelled request that is still held is passed over when its turn comes. */
static void forget_held(layer8_switch *sw, port_t *port, uint64_t correlation) {
    FOR_EACH(at, &port->held) {
        struct held *held = OWNER(struct held, in_ring, at);
        if (held->copies != 0 && held->record.kind == LAYER8_REQUEST && held->record.correlation == correlation) {
            held->dead = true;
            if (held->message != NULL) {
                layer8_message_refuse(sw, port, held->message);
            }
        }
        sw->spent += LAYER8_RECORD_BYTES; /* looking costs as much as moving */
    }
}

/* The caller no longer waits: the callee is told, or the request does not get there. */
static void cancel(layer8_switch *sw, port_t *port, const struct layer8_record *record) {
    uint32_t index;
    struct right *right = layer8_right_of_call(sw, port, record->correlation, &index);
    if (right == NULL) {
        forget_held(sw, port, record->correlation);
        return;
    }
    port_t *callee = right->callee;
    struct layer8_record told;
    layer8_stamp(&told, record, port);
    told.length = 0;
    told.headers = 0;
    told.flags = LAYER8_FIRST | LAYER8_LAST;
    told.missed = index;
    told.topic = right->generation;
    layer8_replies_abort(sw, right);
    layer8_right_end(sw, right);
    if (callee->adjacent != NULL) {
        forget_held(sw, port, record->correlation);
        layer8_remote_cancel(sw, callee, port, &told);
        return;
    }
    (void)layer8_put(sw, callee, &told, NULL, PUT_RECORD);
}

/* A message that an earlier Vnet moved the beginning of: whoever may have been admitted is, and drops what it lacks the
 * beginning of. NULL when it is none. */
static struct message *take_over(layer8_switch *sw, port_t *port, struct handle *handle,
                                 const struct layer8_record *record) {
    struct layer8_record first = *record;
    first.kind = record->kind == LAYER8_ABORT ? (uint8_t)record->reason : record->kind;
    if (!port->is_adopted || handle == NULL || handle->target == NULL || first.kind < LAYER8_UNICAST ||
        first.kind > LAYER8_PUBLISH || (first.kind == LAYER8_PUBLISH) != (handle->kind == LAYER8_TARGET_TOPIC) ||
        handle->kind == LAYER8_TARGET_ALIAS) {
        return NULL;
    }
    struct message *message = layer8_message_begin(sw, port, &first);
    if (message == NULL) {
        return NULL;
    }
    layer8_going_end(port, &first);
    message->next = record->fragment;
    if (handle->kind == LAYER8_TARGET_PORT) {
        message->refused = !layer8_message_add(message, handle->target, NULL);
    } else {
        struct topic *topic = handle->target;
        for (uint32_t n = 0; n < topic->count && !message->refused; n++) {
            message->refused = !layer8_message_add(message, topic->subscribers[n]->port, topic->subscribers[n]);
        }
    }
    for (uint32_t n = 0; n < message->count; n++) {
        message->receivers[n].begun = true;
    }
    return message;
}

/* What the earlier Vnet refused is refused, and the message that it is a fragment of: who has the beginning may not have heard. */
static enum forward refuse_again(layer8_switch *sw, port_t *port, struct handle *handle,
                                 const struct layer8_record *record) {
    struct message *message = record->fragments > 1 ? layer8_message_find(port, record) : NULL;
    if (message == NULL && record->fragments > 1) {
        message = take_over(sw, port, handle, record);
    }
    if (!refuse(sw, port, record, message, record->reason, NULL)) {
        return FORWARD_STALLED;
    }
    if (message != NULL) {
        message->next = record->fragment + 1u;
        if ((record->flags & LAYER8_LAST) != 0) {
            layer8_message_end(sw, port, message);
        }
    }
    return FORWARD_DONE;
}

bool layer8_is_reply(uint8_t kind) { return kind == LAYER8_REPLY || kind == LAYER8_FAILED_REPLY; }

/* A retry over a link, of what had arrived before the cut: true when it needs nothing more. It may begin a message anew
 * whose beginning is here. */
static bool had_it(layer8_switch *sw, port_t *port, const struct layer8_record *record, struct message *message) {
    uint32_t index;
    if (port->adjacent == NULL || (record->flags & LAYER8_RETRY) == 0 || record->kind == LAYER8_PUBLISH) {
        return false;
    }
    if (message != NULL && !message->refused) {
        return record->fragment < message->next;
    }
    return message == NULL && record->kind == LAYER8_REQUEST &&
           (record->fragment > 0 || layer8_right_of_call(sw, port, record->correlation, &index) != NULL);
}

enum forward layer8_forward(layer8_switch *sw, port_t *port, const struct layer8_record *record, const uint8_t *body) {
    struct handle *handle = layer8_is_reply(record->kind) ? NULL : handle_at(port, record->slot);
    struct message *message = NULL;
    enum forward done;
    if (handle != NULL && (handle->kind == 0 || handle->generation != record->generation)) {
        handle = NULL;
    }
    if (record->kind == LAYER8_ABORT) {
        message = layer8_message_find(port, record);
        if (message == NULL) {
            message = take_over(sw, port, handle, record);
        }
        if (message != NULL) {
            layer8_message_abort(sw, port, message);
        }
        return FORWARD_DONE;
    }
    if (record->kind == LAYER8_CANCEL) {
        cancel(sw, port, record);
        return FORWARD_DONE;
    }
    if (record->kind == LAYER8_REQUEST && !port_alive(port)) {
        return FORWARD_DONE; /* whoever asked is dead */
    }
    if ((record->flags & LAYER8_RETRY) != 0 && record->kind >= LAYER8_REQUEST && port->adjacent == NULL) {
        return FORWARD_DONE; /* both libraries gave these up when the earlier Vnet was gone */
    }
    if ((record->flags & LAYER8_RETRY) != 0 && record->reason != LAYER8_REASON_NONE &&
        record->reason != LAYER8_CHOSEN) { /* refused before, and perhaps not reported; a second report is dropped */
        return refuse_again(sw, port, handle, record);
    }
    if (handle != NULL && (record->kind == LAYER8_PUBLISH) != (handle->kind == LAYER8_TARGET_TOPIC)) {
        return FORWARD_VIOLATION;
    }
    if (record->fragments > 1 || record->kind == LAYER8_REQUEST) {
        message = record->fragments > 1 ? layer8_message_find(port, record) : NULL;
        if (had_it(sw, port, record, message)) {
            return FORWARD_DONE;
        }
    }
    if (record->fragment > 0 || (message != NULL && port->adjacent != NULL && (record->flags & LAYER8_RETRY) != 0)) {
        if (message == NULL) {
            message = take_over(sw, port, handle, record);
        }
        if (message == NULL && handle == NULL && port->is_adopted && record->kind <= LAYER8_PUBLISH &&
            (record->flags & LAYER8_LAST) != 0) { /* begun under an earlier Vnet, and not granted by this one */
            return refuse(sw, port, record, NULL, LAYER8_REASON_UNKNOWN, NULL) ? FORWARD_DONE : FORWARD_STALLED;
        }
        if (message == NULL) {
            if (port->adjacent != NULL) {
                sw->arriving->outcome = LAYER8_REASON_ABORTED;
            }
            return FORWARD_DONE; /* its beginning was refused, and that was said */
        }
        if ((record->flags & LAYER8_RETRY) != 0) {
            message->next = record->fragment; /* the earlier Vnet moved those between */
        }
        if (message->next != record->fragment || message->first.fragments != record->fragments) {
            return FORWARD_VIOLATION;
        }
    } else if (record->fragments > 1) {
        if (handle != NULL && handle->kind == LAYER8_TARGET_ALIAS) {
            return FORWARD_VIOLATION; /* the library asks for one member first */
        }
        if (message != NULL) {
            return FORWARD_VIOLATION;
        }
        message = layer8_message_begin(sw, port, record);
        if (message == NULL) {
            if (layer8_is_reply(record->kind)) {
                return FORWARD_DONE;
            }
            return refuse(sw, port, record, NULL, LAYER8_REASON_TOO_MANY, NULL) ? FORWARD_DONE : FORWARD_STALLED;
        }
        message->next = 0;
    }
    if (message != NULL && message->refused) {
        done = FORWARD_DONE;
        if (port->adjacent != NULL) {
            sw->arriving->outcome = message->reason;
        }
    } else if (layer8_is_reply(record->kind)) {
        done = reply(sw, port, record, body, message);
    } else if (handle == NULL || !layer8_allowed(handle, record)) {
        done = refuse(sw, port, record, message, LAYER8_REASON_REVOKED, NULL) ? FORWARD_DONE : FORWARD_STALLED;
    } else if (record->kind == LAYER8_PUBLISH) {
        done = layer8_forward_publication(sw, port, handle, record, body, message);
    } else {
        done = to_port_or_alias(sw, port, handle, record, body, message);
    }
    if (message != NULL && done == FORWARD_DONE) {
        message->next = record->fragment + 1u;
    }
    if (message != NULL &&
        ((record->flags & LAYER8_LAST) != 0 ? done == FORWARD_DONE : done == FORWARD_STALLED && record->fragment == 0)) {
        message->refused = message->refused && done == FORWARD_DONE;
        layer8_message_end(sw, port, message); /* ended, or not begun after all */
    }
    return done;
}
