/* messages.c - messages in fragments that have begun: who was admitted to them, and how they end. */
#include "internal.h"

#define OPEN_MESSAGES 256u /* of one port */

static uint8_t kind_of(const struct layer8_record *record) {
    return record->kind == LAYER8_ABORT ? (uint8_t)record->reason : record->kind;
}

struct message *layer8_message_find(port_t *port, const struct layer8_record *record) {
    uint8_t kind = kind_of(record);
    bool reply = kind == LAYER8_REPLY || kind == LAYER8_FAILED_REPLY;
    FOR_EACH(at, &port->messages) {
        struct message *message = OWNER(struct message, of_source, at);
        const struct layer8_record *first = &message->first;
        if (first->kind == kind && first->correlation == record->correlation &&
            (reply ? first->missed == record->missed && first->topic == record->topic
                   : first->slot == record->slot && first->generation == record->generation)) {
            return message;
        }
    }
    return NULL;
}

struct message *layer8_message_begin(layer8_switch *sw, port_t *port, const struct layer8_record *record) {
    struct message *message = port->message_count < OPEN_MESSAGES ? layer8_pool_take(&sw->message_pool) : NULL;
    if (message != NULL) {
        message->first = *record;
        message->right = NO_RIGHT;
        message->next = 1;
        list_append(&port->messages, &message->of_source);
        port->message_count++;
    }
    return message;
}

bool layer8_message_add(struct message *message, const port_t *to, struct subscription *subscription) {
    if (message->count == message->capacity) {
        uint32_t capacity = message->capacity == 0 ? 1 : message->capacity * 4;
        struct receiver *grown = realloc(message->receivers, capacity * sizeof *grown);
        if (grown == NULL) {
            return false;
        }
        message->receivers = grown;
        message->capacity = capacity;
    }
    message->receivers[message->count++] = (struct receiver){
        .port = to->id, .subscription = subscription, .number = subscription != NULL ? (uint16_t)subscription->number : 0};
    return true;
}

/* Of a message that is no publication: its only one. */
struct receiver *layer8_receiver_of(const struct message *message, const struct subscription *subscription) {
    for (uint32_t n = 0; n < message->count; n++) {
        if (message->receivers[n].subscription == subscription) {
            return &message->receivers[n];
        }
    }
    return NULL;
}

void layer8_message_begun(struct message *message, const struct layer8_record *record,
                          const struct subscription *subscription) {
    struct receiver *receiver =
        message != NULL && record->fragment == 0 ? layer8_receiver_of(message, subscription) : NULL;
    if (receiver != NULL) {
        receiver->begun = true;
    }
}

static void free_message(layer8_switch *sw, struct message *message) {
    free(message->receivers);
    layer8_pool_give(&sw->message_pool, message);
}

void layer8_message_end(layer8_switch *sw, port_t *port, struct message *message) {
    list_remove(&message->of_source);
    port->message_count--;
    message->ended = true;
    if (message->owed == 0) {
        free_message(sw, message);
    }
}

void layer8_message_reopen(port_t *port, struct message *message) {
    message->ended = false;
    list_append(&port->messages, &message->of_source);
    port->message_count++;
}

void layer8_message_unowe(layer8_switch *sw, struct message *message) {
    if (--message->owed == 0 && message->ended) {
        free_message(sw, message);
    }
}

static void drop_copies(layer8_switch *sw, struct list *flows, const struct message *message) {
    FOR_EACH_SAFE(at, flows) { layer8_flow_drop(sw, OWNER(struct flow, of_source, at), message, NULL); }
}

void layer8_message_refuse(layer8_switch *sw, port_t *port, struct message *message) {
    if (message->refused) {
        return;
    }
    message->refused = true;
    if (message->reason == LAYER8_REASON_NONE) {
        message->reason = LAYER8_REASON_ABORTED;
    }
    for (uint32_t n = 0; n < message->count; n++) {
        layer8_abort_at(sw, port, message, &message->receivers[n]);
    }
    if (layer8_right_stands(sw, message)) {
        layer8_right_end(sw, &sw->rights[message->right]);
    }
}

void layer8_message_abort(layer8_switch *sw, port_t *port, struct message *message) {
    message->owed++;
    layer8_message_refuse(sw, port, message);
    struct handle *handle = message->first.kind <= LAYER8_REQUEST ? handle_at(port, message->first.slot) : NULL;
    if (handle != NULL) {
        drop_copies(sw, &handle->flows, message);
    }
    drop_copies(sw, &port->flows, message);
    port_t *to = message->count != 0 ? port_by_id(sw, message->receivers[0].port) : NULL;
    if ((message->first.kind == LAYER8_UNICAST || message->first.kind == LAYER8_REQUEST) && to != NULL) { /* under another handle: layer8_flow_beside */
        FOR_EACH_SAFE(at, &to->waiting) {
            if (OWNER(struct flow, of_target, at)->source == port) {
                layer8_flow_drop(sw, OWNER(struct flow, of_target, at), message, NULL);
            }
        }
    }
    layer8_message_end(sw, port, message);
    layer8_message_unowe(sw, message);
}

void layer8_replies_abort(layer8_switch *sw, const struct right *right) {
    const uint32_t index = (uint32_t)(right - sw->rights);
    port_t *callee = right->callee;
    FOR_EACH_SAFE(at, &callee->messages) {
        struct message *message = OWNER(struct message, of_source, at);
        if (layer8_is_reply(message->first.kind) && message->first.missed == index &&
            message->first.topic == right->generation) {
            layer8_message_abort(sw, callee, message);
        }
    }
}
