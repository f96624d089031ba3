/* publication.c - one publication, and each of its subscribers: who gets it now, who is owed it, who misses it. */
#include "remote.h"

enum put layer8_put_publication(layer8_switch *sw, port_t *source, struct subscription *subscription,
                                const struct layer8_record *record, const uint8_t *body, enum put_limit limit) {
    struct layer8_record delivered;
    layer8_stamp(&delivered, record, source);
    delivered.topic = (uint16_t)subscription->number;
    /* Only then is it sure that the receiver will read it: it drops what it lacks the beginning of, and a retry it had. */
    bool read = (record->flags & (LAYER8_LAST | LAYER8_RETRY)) == LAYER8_LAST;
    delivered.missed = read ? subscription->missed : 0;
    enum put put = layer8_put(sw, subscription->port, &delivered, body, limit);
    if (put == PUT_DONE && delivered.missed != 0) {
        subscription->missed = 0;
        if (!list_linked(&subscription->said)) {
            list_append(&sw->said, &subscription->said);
        }
    }
    return put;
}

static void note_unsaid(struct subscription *subscription, uint32_t count) {
    subscription->unsaid = count;
    layer8_store_release(&subscription->port->unsaid[subscription->number], count);
}

void layer8_said(layer8_switch *sw) {
    while (!list_empty(&sw->said)) {
        struct subscription *subscription = OWNER(struct subscription, said, sw->said.next);
        list_remove(&subscription->said);
        note_unsaid(subscription, subscription->missed);
    }
}

void layer8_miss(struct subscription *subscription, uint32_t count) {
    subscription->missed += count;
    subscription->total += count;
    COUNT(subscription->port->missed_count, count);
    if (subscription->port->adjacent == NULL) { /* another host is told with the next record */
        note_unsaid(subscription, subscription->unsaid + count);
        layer8_store_seq(&subscription->port->missed[subscription->number], subscription->total);
        layer8_marked(subscription->port);
    }
}

/* Whether a publication that may be dropped for a subscriber on another host is taken for it: not when what it is owed
 * already takes much of its publisher's hold ring. */
static bool far_admits(const port_t *port, const struct handle *handle, const port_t *to) {
    return to->adjacent->link != NULL && !to->congested && handle->owed_bytes <= port->hold_capacity / 4;
}

/* The copy of one publication for one subscriber. `held` is made when the first copy is owed. */
static bool to_subscriber(layer8_switch *sw, port_t *port, struct handle *handle, const struct layer8_record *record,
                          const uint8_t *body, struct subscription *subscription, struct message *message,
                          struct held **held) {
    bool reliable = (record->flags & LAYER8_RELIABLE) != 0;
    port_t *to = subscription->port;
    if (to->adjacent != NULL && port->adjacent != NULL) {
        return false; /* one hop */
    }
    bool admitted =
        reliable || record->fragment > 0 || (to->adjacent != NULL && far_admits(port, handle, to));
    struct flow *flow =
        list_empty(&handle->flows) ? NULL : layer8_flow_find(&handle->flows, subscription->port, NULL);
    if (flow == NULL) {
        enum put put =
            layer8_put_publication(sw, port, subscription, record, body, admitted ? PUT_RECORD : PUT_HALF);
        if (put == PUT_DONE) {
            layer8_message_begun(message, record, subscription);
        }
        if (put != PUT_NO_ROOM) {
            return put == PUT_DONE;
        }
    }
    if (!admitted) {
        layer8_miss(subscription, 1);
        return false;
    }
    if (*held == NULL) {
        *held = layer8_take_or_make_held(sw, port, record, body);
    }
    if (*held != NULL && flow == NULL) {
        flow = layer8_flow_open(sw, port, handle, subscription->port, NULL);
    }
    if (*held == NULL || flow == NULL || !layer8_flow_owe(sw, flow, *held, message, subscription)) {
        layer8_miss(subscription, 1);
        return false;
    }
    return true;
}

enum forward layer8_forward_publication(layer8_switch *sw, port_t *port, struct handle *handle,
                                        const struct layer8_record *record, const uint8_t *body,
                                        struct message *message) {
    struct topic *topic = handle->target;
    if (port->adjacent != NULL && record->missed != 0) { /* its Vnet dropped some on the way here */
        for (uint32_t n = 0; n < topic->count; n++) {
            if (topic->subscribers[n]->port->adjacent == NULL) {
                layer8_miss(topic->subscribers[n], record->missed);
            }
        }
    }
    bool may_hold = record->fragments > 1 || (record->flags & LAYER8_RELIABLE) != 0;
    struct held *held = NULL;
    if (may_hold && sw->held_now == NULL && !layer8_hold_room(sw, port, record->length)) {
        return FORWARD_STALLED;
    }
    if (record->fragment == 0 && (message == NULL || message->count == 0)) {
        for (uint32_t n = 0; n < topic->count; n++) {
            struct subscription *subscription = topic->subscribers[n];
            if (message != NULL && !layer8_message_add(message, subscription->port, subscription)) {
                layer8_message_refuse(sw, port, message); /* out of memory: nobody gets the rest */
                layer8_miss(subscription, 1);
            } else if (!to_subscriber(sw, port, handle, record, body, subscription, message, &held) && message != NULL) {
                message->count--;
            }
        }
    } else {
        for (uint32_t n = 0; n < message->count; n++) {
            struct receiver *receiver = &message->receivers[n];
            if (receiver->out) {
                continue;
            }
            if (!port_alive(port_by_id(sw, receiver->port)) ||
                !to_subscriber(sw, port, handle, record, body, receiver->subscription, message, &held)) {
                receiver->out = true;
            }
        }
    }
    if (held != NULL) {
        layer8_held_release(sw, port, held);
    }
    return FORWARD_DONE;
}
