/* halves.c - messages that stood half somewhere when a Vnet died: which of them go on.
 *
 * Who was to hear of the end of such a message is known to the switch that was killed, and to nobody else. So both sides say
 * what they have when they resume. A sender tells which messages it goes on sending: when all that is found of it has been
 * repeated, whatever else has begun and not ended is aborted. A receiver tells what stands half at it: of each the source is
 * asked when it is settled, and an abort is the answer unless that one goes on.
 *
 *   told ──(its source has resumed, and all that was found of it is repeated | it has begun anew | it is gone)──▶ answered
 *
 * A source on another host is asked over the link, and the outcome is the answer. So it is when the far Vnet was another one:
 * then about what has begun here. Of a source that is not back yet the question waits. */
#include "remote.h"

#define ASKED_MOST 4096u /* of one adjacent Vnet, at a time; of more nothing is known */

static struct layer8_record record_of(const struct layer8_half *half) {
    return (struct layer8_record){.kind = (uint8_t)half->kind,
                                  .slot = half->slot,
                                  .generation = half->generation,
                                  .correlation = half->correlation,
                                  .fragments = 1};
}

void layer8_half_free(struct half *half) {
    if (half->parcel != NULL) {
        half->parcel->half = NULL;
    }
    if (half->asker != NULL) {
        half->asker->asked--;
    }
    list_remove(&half->in_switch);
    list_remove(&half->of_port);
    free(half);
}

static struct half *half_new(layer8_switch *sw, const struct layer8_half *key, port_t *to) {
    struct half *half = calloc(1, sizeof *half);
    if (half != NULL) {
        half->key = *key;
        half->to = to;
        list_init(&half->of_port);
        list_append(&sw->halves, &half->in_switch);
        if (to != NULL) {
            list_append(&to->halves, &half->of_port);
        }
    }
    return half;
}

/* ---- does it go on? ---- */

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

/* Whether this port is the one that has it, or stands for the Vnet that asks. `number`: of a publication, at the port. */
static bool has_it(const port_t *port, uint32_t number, const struct half *half) {
    if (port == NULL || (half->key.kind == LAYER8_PUBLISH && number != half->key.topic)) {
        return false;
    }
    if (half->to != NULL) {
        return port == half->to;
    }
    return port->adjacent == half->asker &&
           (half->key.kind == LAYER8_PUBLISH || memcmp(port->uuid, half->uuid, sizeof half->uuid) == 0);
}

/* Whether the next fragment, which has not come yet, will find its way there: see take_over in forward.c. */
static bool will_reach(port_t *source, const struct half *half) {
    struct handle *handle = half->key.slot < LAYER8_SLOTS ? handle_at(source, half->key.slot) : NULL;
    if (handle == NULL || handle->kind == 0 || handle->generation != half->key.generation || handle->target == NULL) {
        return false;
    }
    if (handle->kind == LAYER8_TARGET_PORT) {
        return half->key.kind == LAYER8_UNICAST && has_it(handle->target, 0, half);
    }
    struct topic *topic = handle->kind == LAYER8_TARGET_TOPIC && half->key.kind == LAYER8_PUBLISH ? handle->target : NULL;
    for (uint32_t n = 0; topic != NULL && n < topic->count; n++) {
        if (has_it(topic->subscribers[n]->port, topic->subscribers[n]->number, half)) {
            return true;
        }
    }
    return false;
}

static bool is_in(const struct flow *flow, const struct half *half) {
    for (const struct owed *owed = flow->first; owed != NULL; owed = owed->next) {
        const struct layer8_record *record = &owed->held->record;
        uint32_t number = owed->subscription != NULL ? owed->subscription->number : 0;
        if (record->kind == half->key.kind && record->correlation == half->key.correlation &&
            record->slot == half->key.slot && record->generation == half->key.generation &&
            (owed->message == NULL || !owed->message->refused) && has_it(flow->target, number, half)) {
            return true;
        }
    }
    return false;
}

/* Whether more of it is owed: of a message that has come in whole nothing else is known any more. */
static bool is_owed(port_t *source, const struct half *half) {
    struct handle *handle = half->key.slot < LAYER8_SLOTS ? handle_at(source, half->key.slot) : NULL;
    if (half->to != NULL) { /* under whatever handle it waits */
        FOR_EACH(at, &half->to->waiting) {
            const struct flow *flow = OWNER(struct flow, of_target, at);
            if (flow->source == source && is_in(flow, half)) {
                return true;
            }
        }
        return false;
    }
    FOR_EACH(at, &source->flows) {
        if (is_in(OWNER(struct flow, of_source, at), half)) {
            return true;
        }
    }
    if (handle != NULL) {
        FOR_EACH(at, &handle->flows) {
            if (is_in(OWNER(struct flow, of_source, at), half)) {
                return true;
            }
        }
    }
    return false;
}

static bool goes_on(layer8_switch *sw, port_t *source, const struct half *half) {
    struct layer8_record record = record_of(&half->key);
    struct message *message = layer8_message_find(source, &record);
    if (is_owed(source, half)) {
        return true;
    }
    if (message == NULL) {
        return !source->told || (going_of(source, &record) != NULL && will_reach(source, half));
    }
    for (uint32_t n = 0; n < message->count && !message->refused; n++) {
        const struct receiver *receiver = &message->receivers[n];
        if (!receiver->out && has_it(port_by_id(sw, receiver->port), receiver->number, half)) {
            return true;
        }
    }
    return false;
}

/* ---- questions and answers ---- */

/* Whoever has the half of it drops it. */
static void abort_half(layer8_switch *sw, const struct half *half) {
    struct layer8_record abort = record_of(&half->key);
    memcpy(abort.source, half->key.source, sizeof abort.source);
    abort.kind = LAYER8_ABORT;
    abort.flags = LAYER8_FIRST | LAYER8_LAST;
    abort.reason = half->key.kind;
    abort.topic = half->key.topic;
    layer8_put_abort(sw, half->to, &abort);
}

static void answer(layer8_switch *sw, port_t *source, struct half *half) {
    bool is_over = !goes_on(sw, source, half);
    if (half->asker != NULL) {
        layer8_answer(sw, half->asker, half->tag, 0, is_over ? LAYER8_REASON_ABORTED : LAYER8_REASON_NONE);
    } else if (is_over) {
        abort_half(sw, half);
    }
    layer8_half_free(half);
}

static port_t *source_of(const layer8_switch *sw, const struct half *half) {
    port_t *port = sw->by_uuid[layer8_uuid_bucket(sw, half->key.source)];
    while (port != NULL && memcmp(port->uuid, half->key.source, sizeof port->uuid) != 0) {
        port = port->of_uuid;
    }
    return port;
}

/* The number of a topic that a port subscribes to under its own. */
static bool topic_number(const layer8_switch *sw, const port_t *port, uint32_t own, uint16_t *number) {
    FOR_EACH(at, &port->subscriptions) {
        const struct subscription *subscription = OWNER(struct subscription, of_port, at);
        for (uint32_t n = 0; subscription->number == own && n < sw->config.max_topics; n++) {
            if (sw->topics[n] == subscription->topic) {
                *number = (uint16_t)n;
                return true;
            }
        }
    }
    return false;
}

/* Asks the source, as far as it can be. */
static void ask(layer8_switch *sw, port_t *source, struct half *half) {
    if (source == NULL || half->parcel != NULL) {
        return;
    }
    if (source->adjacent == NULL) {
        if (source->resumed && !source->unsettled) {
            answer(sw, source, half);
        }
        return;
    }
    uint16_t own = half->key.topic;
    if (half->asker != NULL) { /* one hop */
        layer8_answer(sw, half->asker, half->tag, 0, LAYER8_REASON_NONE);
        layer8_half_free(half);
    } else if (half->key.kind == LAYER8_PUBLISH && !topic_number(sw, half->to, own, &half->key.topic)) {
        abort_half(sw, half); /* it subscribes no more */
        layer8_half_free(half);
    } else {
        layer8_remote_ask(sw, source, half);
        half->key.topic = own;
    }
}

void layer8_halves_of(layer8_switch *sw, port_t *source) {
    FOR_EACH_SAFE(at, &sw->halves) {
        struct half *half = OWNER(struct half, in_switch, at);
        if (memcmp(half->key.source, source->uuid, sizeof half->key.source) != 0) {
            continue;
        }
        if (port_alive(source)) {
            ask(sw, source, half);
        } else {
            answer(sw, source, half);
        }
    }
}

void layer8_halves_drop(port_t *port) {
    FOR_EACH_SAFE(at, &port->halves) { layer8_half_free(OWNER(struct half, of_port, at)); }
}

void layer8_settle(layer8_switch *sw, port_t *port) {
    port->unsettled = false;
    FOR_EACH_SAFE(at, &port->messages) {
        struct message *message = OWNER(struct message, of_source, at);
        if (message->first.kind > LAYER8_PUBLISH || !port->told) {
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
    layer8_halves_of(sw, port);
}

void layer8_halves_told(layer8_switch *sw, port_t *port, const struct layer8_half *told, uint32_t going, uint32_t halves) {
    if (port->resumed || port->told || going > LAYER8_GOING_MAX || halves > LAYER8_HALVES_MAX) {
        return;
    }
    port->going = malloc((going + (size_t)1) * sizeof *port->going);
    if (port->going == NULL) {
        return;
    }
    memcpy(port->going, told, going * sizeof *told);
    port->going_count = going;
    port->told = true;
    for (uint32_t n = going; n < going + halves; n++) {
        struct half *half = told[n].kind >= LAYER8_UNICAST && told[n].kind <= LAYER8_PUBLISH ? half_new(sw, &told[n], port) : NULL;
        if (half != NULL) {
            ask(sw, source_of(sw, half), half);
        }
    }
}

/* What the earlier Vnet has written and the Vnic had not read when it told what it has: of a far Vnic, what had not been carried
 * to it. Requests and replies are over; what it has no beginning of it discards by itself. */
void layer8_halves_unread(layer8_switch *sw, port_t *port) {
    uint32_t count = 0;
    (void)layer8_fill(sw, port);
    for (uint64_t at = port->receive_head; at - port->adopted_tail >= UINT64_MAX / 2 && count < LAYER8_HALVES_MAX;) {
        uint64_t offset = at & (port->receive_capacity - 1);
        struct layer8_record record;
        layer8_copy_out(&record, port->receive + offset, sizeof record);
        uint64_t span = layer8_record_span(record.length);
        if (list_linked(&port->doomed) || span > port->adopted_tail - at || span > port->receive_capacity - offset) {
            return;
        }
        at += span;
        if (record.kind < LAYER8_UNICAST || record.kind > LAYER8_FAILED_REPLY || record.fragments < 2 || record.fragment != 0) {
            continue;
        }
        count++;
        struct layer8_half key = layer8_half_of(&record);
        struct half *half = half_new(sw, &key, port);
        if (half != NULL && record.kind <= LAYER8_PUBLISH) {
            ask(sw, source_of(sw, half), half);
        } else if (half != NULL) {
            abort_half(sw, half);
            layer8_half_free(half);
        }
    }
}

/* ---- over a link ---- */

void layer8_halves_begun(layer8_switch *sw, port_t *source) {
    FOR_EACH(at, &source->messages) {
        const struct message *message = OWNER(struct message, of_source, at);
        const struct layer8_record *first = &message->first;
        for (uint32_t n = 0; first->kind <= LAYER8_PUBLISH && n < message->count; n++) {
            const struct receiver *receiver = &message->receivers[n];
            port_t *to = port_by_id(sw, receiver->port);
            struct layer8_half key = layer8_half_of(first);
            key.topic = receiver->number;
            memcpy(key.source, source->uuid, sizeof key.source);
            struct half *half = port_alive(to) && !receiver->out ? half_new(sw, &key, to) : NULL;
            if (half != NULL) {
                ask(sw, source, half);
            }
        }
    }
}

void layer8_half_answered(layer8_switch *sw, struct half *half, bool is_over) {
    port_t *source = source_of(sw, half);
    if (is_over && source != NULL) {
        struct layer8_record record = record_of(&half->key);
        struct message *message = layer8_message_find(source, &record);
        if (message != NULL) {
            layer8_message_abort(sw, source, message);
        }
        abort_half(sw, half);
    }
    layer8_half_free(half);
}

bool layer8_halves_asked(layer8_switch *sw, struct adjacent *adjacent, const struct layer8_frame_record *frame) {
    const struct layer8_record *record = &frame->record;
    struct layer8_half key = {.correlation = record->correlation,
                              .slot = record->slot,
                              .generation = record->generation,
                              .topic = record->topic,
                              .kind = record->reason};
    memcpy(key.source, frame->destination, sizeof key.source);
    bool sane = record->reason <= LAYER8_PUBLISH && adjacent->asked < ASKED_MOST;
    struct half *half = sane ? half_new(sw, &key, NULL) : NULL;
    if (half == NULL) {
        layer8_answer(sw, adjacent, frame->tag, 0, LAYER8_REASON_NONE);
        return true;
    }
    half->asker = adjacent;
    adjacent->asked++;
    half->tag = frame->tag;
    memcpy(half->uuid, record->source, sizeof half->uuid);
    ask(sw, source_of(sw, half), half);
    return true;
}

void layer8_halves_cut(layer8_switch *sw, const struct adjacent *adjacent) {
    FOR_EACH_SAFE(at, &sw->halves) {
        if (OWNER(struct half, in_switch, at)->asker == adjacent) {
            layer8_half_free(OWNER(struct half, in_switch, at));
        }
    }
}
