/* departures.c - copies that go to other hosts: when a flow may send, and what a copy becomes on the wire. */
#include "remote.h"

#define TURN_RECORDS 64u /* sent of one flow in its turn */
#define TURN_BYTES 65536u

/* ---- congestion of a proxy: its link is down, or too much is owed to it ---- */

void layer8_proxy_weigh(layer8_switch *sw, port_t *port) {
    bool down = port->adjacent->link == NULL;
    if (!port->congested && (down || port->owed_bytes > LAYER8_WINDOW)) {
        layer8_congest_mark(sw, port);
    } else if (port->congested && !down && port->owed_bytes <= LAYER8_WINDOW / 4) {
        layer8_congest_clear(sw, port);
    }
}

void layer8_flow_ready(layer8_switch *sw, struct flow *flow) {
    port_t *to = flow->target;
    if (flow->unsent != NULL && !list_linked(&flow->of_adjacent)) {
        list_append(to->way_bytes < LAYER8_WINDOW ? &to->adjacent->ready : &to->blocked, &flow->of_adjacent);
        layer8_adjacent_busy(sw, to->adjacent);
    }
}

void layer8_remote_owe(layer8_switch *sw, struct owed *owed) {
    struct flow *flow = owed->flow;
    port_t *to = flow->target;
    to->owed_bytes += owed->held->span;
    if (flow->unsent == NULL) {
        flow->unsent = owed;
        layer8_flow_ready(sw, flow);
    }
    if (to->owed_bytes > LAYER8_WINDOW) {
        layer8_proxy_weigh(sw, to);
    }
}

void layer8_remote_unowe(layer8_switch *sw, struct owed *owed) {
    struct flow *flow = owed->flow;
    port_t *to = flow->target;
    to->owed_bytes -= owed->held->span;
    if (owed->sent != NULL) { /* its outcome will still come, and its place in the window is free only then */
        owed->sent->owed = NULL;
        owed->sent = NULL;
    }
    if (flow->unsent == owed) {
        flow->unsent = owed->next;
        if (flow->unsent == NULL) {
            list_remove(&flow->of_adjacent);
        }
    }
    if (to->congested) {
        layer8_proxy_weigh(sw, to);
    }
}

/* ---- sending ---- */

/* The frame of a copy, but for its tag. */
static void frame_of(const struct owed *owed, struct layer8_frame_record *frame) {
    const struct held *held = owed->held;
    const struct flow *flow = owed->flow;
    struct layer8_record *record = &frame->record;
    memset(frame, 0, offsetof(struct layer8_frame_record, record));
    frame->record = held->record;
    frame->head.length = (uint32_t)(sizeof *frame - sizeof frame->head.length) + record->length;
    frame->head.type = LAYER8_FRAME_RECORD;
    frame->head.destination_kind = LAYER8_TARGET_PORT;
    memcpy(frame->destination, flow->target->uuid, sizeof frame->destination);
    memcpy(record->source, flow->source->uuid, sizeof record->source);
    record->topic = 0;
    record->principal = 0;
    record->missed = 0;
    record->flags = (uint8_t)((record->flags & ~LAYER8_RETRY) |
                              (owed->repeated || (record->flags & LAYER8_RETRY) != 0 ? LAYER8_RETRY : 0));
    if (record->kind == LAYER8_PUBLISH) {
        uint32_t number = owed->subscription->number;
        memset(frame->destination, 0, sizeof frame->destination);
        memcpy(frame->destination, &number, sizeof number);
        frame->head.destination_kind = LAYER8_TARGET_TOPIC;
        record->reason = 0;
        if ((record->flags & LAYER8_LAST) != 0) {
            record->missed = owed->subscription->missed;
            owed->subscription->missed = 0;
        }
    } else if (layer8_is_reply(record->kind)) {
        record->slot = 0;
        record->generation = 0;
        record->reason = record->kind == LAYER8_REPLY                        ? LAYER8_REASON_NONE
                         : record->reason == LAYER8_REASON_UNANSWERED ? LAYER8_REASON_UNANSWERED
                                                                      : LAYER8_REASON_FAILED;
    } else {
        if (record->reason == LAYER8_CHOSEN && record->fragments == 1) {
            frame->head.destination_kind = LAYER8_TARGET_ALIAS;
        }
        record->reason = 0;
    }
    if (held->deadline_ns != 0) {
        uint64_t now = layer8_now_ns();
        record->ttl = now < held->deadline_ns ? (uint32_t)((held->deadline_ns - now) / 1000000u) + 1u : 1u;
    }
}

/* A request makes its right to be answered when it goes for the first time. */
static bool make_right(layer8_switch *sw, const struct owed *owed) {
    const struct layer8_record *record = &owed->held->record;
    struct message *message = owed->message;
    uint32_t index;
    if (record->kind != LAYER8_REQUEST || owed->repeated || (message != NULL && message->right != NO_RIGHT)) {
        return true;
    }
    struct right *made = layer8_right_make(sw, owed->flow->source, owed->flow->target, record, &index);
    if (made != NULL && message != NULL) {
        message->right = index;
        message->right_generation = made->generation;
    }
    return made != NULL;
}

enum send { SEND_DONE, SEND_PASSED, SEND_NO_ROOM };

/* Sends the first unsent copy of a flow, or passes it by. The flow may be freed when it is passed. */
static enum send send_one(layer8_switch *sw, struct adjacent *adjacent, struct flow *flow) {
    struct owed *owed = flow->unsent;
    struct held *held = owed->held;
    if (held->dead || (owed->message != NULL && owed->message->refused)) {
        layer8_owed_done(sw, owed);
        return SEND_PASSED;
    }
    if (!layer8_queue_room(adjacent->link, sizeof(struct layer8_frame_record) + held->record.length)) {
        return SEND_NO_ROOM;
    }
    if (!make_right(sw, owed)) {
        layer8_owed_refuse(sw, owed, LAYER8_REASON_TOO_MANY);
        return SEND_PASSED;
    }
    struct layer8_frame_record frame;
    struct sent *sent = layer8_tag_new(sw, adjacent);
    if (sent == NULL) {
        return SEND_NO_ROOM;
    }
    frame_of(owed, &frame);
    frame.tag = sent->tag;
    sent->owed = owed;
    sent->port = flow->target->id;
    sent->span = held->span;
    owed->sent = sent;
    held->sent = true;
    flow->unsent = owed->next;
    flow->target->way_bytes += held->span;
    layer8_queue_write(adjacent->link, &frame, sizeof frame);
    layer8_queue_write(adjacent->link, layer8_held_body(flow->source, held), held->record.length);
    layer8_message_begun(owed->message, &held->record, owed->subscription);
    COUNT(adjacent->link->records_out, 1);
    return SEND_DONE;
}

/* One turn of a flow; false: the queue is full. */
bool layer8_departures_turn(layer8_switch *sw, struct adjacent *adjacent, struct flow *flow) {
    uint32_t records = TURN_RECORDS;
    int64_t bytes = TURN_BYTES;
    port_t *to = flow->target;
    list_remove(&flow->of_adjacent);
    for (;;) {
        struct owed *owed = flow->unsent;
        bool only = flow->first == owed && owed->next == NULL;
        int64_t span = owed->held->span;
        enum send sent = send_one(sw, adjacent, flow);
        if (sent == SEND_NO_ROOM) {
            list_append(&adjacent->ready, &flow->of_adjacent);
            return false;
        }
        if (sent == SEND_PASSED && only) {
            return true; /* the flow is no more */
        }
        if (flow->unsent == NULL) {
            return true;
        }
        bytes -= sent == SEND_DONE ? span : (int64_t)LAYER8_RECORD_BYTES;
        if (to->way_bytes >= LAYER8_WINDOW || --records == 0 || bytes <= 0) {
            layer8_flow_ready(sw, flow);
            return true;
        }
    }
}
