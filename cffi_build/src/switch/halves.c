/* halves.c - messages that stood half somewhere when the earlier Vnet died: which of them go on.
 *
 * Who was to hear of the end of such a message is known to the switch that was killed, and to nobody else. So both sides say what they
 * have when they resume. A sender tells which messages it goes on sending: when all that is found of it has been repeated,
 * whatever else has begun and not ended is aborted. A receiver tells what stands half at it: of each the source is asked when
 * it is settled, and an abort is the answer unless that one goes on. Of a source that is not back yet the question waits.
 *
 *   told ──(its source has resumed, and all that was found of it is repeated | it has begun anew | it is gone)──▶ answered
 *
 * Of a source on another host its own Vnet knows. */
#include "remote.h"

static struct layer8_record record_of(const struct layer8_half *half) {
    return (struct layer8_record){.kind = (uint8_t)half->kind,
                                  .slot = half->slot,
                                  .generation = half->generation,
                                  .correlation = half->correlation,
                                  .fragments = 1};
}

static struct layer8_half *going_of(const port_t *port, const struct layer8_record *record) {
    for (uint32_t n = 0; n < port->going_count; n++) {
        struct layer8_half *going = &port->going[n];
        if (going->kind == record->kind && going->correlation == record->correlation && going->slot == record->slot &&
            going->generation == record->generation) {
            return going;
        }
    }
    return NULL;
}

void layer8_going_end(port_t *port, const struct layer8_record *record) {
    struct layer8_half *going = port->going_count != 0 && !port->unsettled ? going_of(port, record) : NULL;
    if (going != NULL) {
        *going = port->going[--port->going_count];
    }
}

/* Whether the next fragment, which has not come yet, will find its way to this receiver: see take_over in forward.c. */
static bool will_reach(port_t *source, const struct half *half) {
    struct handle *handle = half->key.slot < LAYER8_SLOTS ? handle_at(source, half->key.slot) : NULL;
    if (handle == NULL || handle->kind == 0 || handle->generation != half->key.generation || handle->target == NULL) {
        return false;
    }
    if (handle->kind == LAYER8_TARGET_PORT) {
        return half->key.kind == LAYER8_UNICAST && handle->target == half->to;
    }
    struct topic *topic = handle->kind == LAYER8_TARGET_TOPIC && half->key.kind == LAYER8_PUBLISH ? handle->target : NULL;
    for (uint32_t n = 0; topic != NULL && n < topic->count; n++) {
        if (topic->subscribers[n]->port == half->to && topic->subscribers[n]->number == half->key.topic) {
            return true;
        }
    }
    return false;
}

/* Whether more of it is owed: of a message that has come in whole nothing else is known any more. */
static bool is_owed(struct list *flows, const struct half *half) {
    FOR_EACH(at, flows) {
        struct flow *flow = OWNER(struct flow, of_source, at);
        for (struct owed *owed = flow->target == half->to ? flow->first : NULL; owed != NULL; owed = owed->next) {
            const struct layer8_record *record = &owed->held->record;
            if (record->kind == half->key.kind && record->correlation == half->key.correlation &&
                record->slot == half->key.slot && record->generation == half->key.generation) {
                return owed->message == NULL || !owed->message->refused;
            }
        }
    }
    return false;
}

static bool goes_on(port_t *source, const struct half *half) {
    struct layer8_record record = record_of(&half->key);
    struct handle *handle = half->key.slot < LAYER8_SLOTS ? handle_at(source, half->key.slot) : NULL;
    struct message *message = layer8_message_find(source, &record);
    if (message == NULL) {
        return !source->told || (handle != NULL && is_owed(&handle->flows, half)) || is_owed(&source->flows, half) ||
               (going_of(source, &record) != NULL && will_reach(source, half));
    }
    for (uint32_t n = 0; n < message->count && !message->refused; n++) {
        const struct receiver *receiver = &message->receivers[n];
        if (receiver->port == half->to->id && !receiver->out &&
            (half->key.kind == LAYER8_UNICAST || receiver->number == half->key.topic)) {
            return true;
        }
    }
    return false;
}

static void forget(struct half *half) {
    list_remove(&half->in_switch);
    list_remove(&half->of_port);
    free(half);
}

static void answer(layer8_switch *sw, port_t *source, struct half *half) {
    if (!goes_on(source, half)) {
        struct layer8_record record = record_of(&half->key), abort;
        layer8_stamp(&abort, &record, source);
        abort.kind = LAYER8_ABORT;
        abort.flags = LAYER8_FIRST | LAYER8_LAST;
        abort.reason = half->key.kind;
        abort.topic = half->key.topic;
        layer8_put_abort(sw, half->to, &abort);
    }
    forget(half);
}

void layer8_halves_of(layer8_switch *sw, port_t *source) {
    FOR_EACH_SAFE(at, &sw->halves) {
        struct half *half = OWNER(struct half, in_switch, at);
        if (memcmp(half->key.source, source->uuid, sizeof half->key.source) == 0) {
            answer(sw, source, half);
        }
    }
}

void layer8_halves_drop(port_t *port) {
    FOR_EACH_SAFE(at, &port->halves) { forget(OWNER(struct half, of_port, at)); }
}

void layer8_settle(layer8_switch *sw, port_t *port) {
    port->unsettled = false;
    if (port->told) {
        FOR_EACH_SAFE(at, &port->messages) {
            struct message *message = OWNER(struct message, of_source, at);
            if (message->first.kind > LAYER8_PUBLISH) {
                continue;
            }
            struct layer8_half *going = going_of(port, &message->first);
            if (going == NULL) {
                layer8_message_abort(sw, port, message);
                continue;
            }
            if (message->next < going->topic) { /* those between were delivered by the earlier Vnet */
                message->next = going->topic;
            }
            layer8_going_end(port, &message->first);
        }
    }
    layer8_halves_of(sw, port);
}

static port_t *source_of(const layer8_switch *sw, const struct half *half) {
    port_t *port = sw->by_uuid[layer8_uuid_bucket(sw, half->key.source)];
    while (port != NULL && memcmp(port->uuid, half->key.source, sizeof port->uuid) != 0) {
        port = port->of_uuid;
    }
    return port;
}

void layer8_halves_told(layer8_switch *sw, port_t *port, const struct layer8_half *told, uint32_t going, uint32_t halves) {
    if (port->resumed || going > LAYER8_GOING_MAX || halves > LAYER8_HALVES_MAX) {
        return;
    }
    port->going = malloc((going + (size_t)1) * sizeof *port->going);
    if (port->going == NULL) {
        return;
    }
    memcpy(port->going, told, going * sizeof *told);
    port->going_count = going;
    port->told = true;
    for (uint32_t n = 0; n < halves; n++) {
        struct half *half = calloc(1, sizeof *half);
        if (half == NULL) {
            return;
        }
        half->to = port;
        half->key = told[going + n];
        list_append(&sw->halves, &half->in_switch);
        list_append(&port->halves, &half->of_port);
        port_t *source = source_of(sw, half);
        if (half->key.kind < LAYER8_UNICAST || half->key.kind > LAYER8_PUBLISH || (source != NULL && source->adjacent != NULL)) {
            forget(half);
        } else if (source != NULL && source->resumed && !source->unsettled) {
            answer(sw, source, half);
        }
    }
}
