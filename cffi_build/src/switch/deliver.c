/* deliver.c - into a receive ring: the only place that writes one, and the notices and aborts that go there. */
#include "remote.h"

void layer8_violation(layer8_switch *sw, port_t *port) {
    if (layer8_load_relaxed(&port->state) == PORT_UP && !list_linked(&port->doomed)) {
        COUNT(sw->violations, 1);
        list_append(&sw->doomed, &port->doomed);
    }
}

uint64_t layer8_fill(layer8_switch *sw, port_t *port) {
    if (port->adjacent != NULL) {
        return port->owed_bytes;
    }
    uint64_t head = layer8_load_seq(&port->control->receive_head);
    uint64_t unread = layer8_load_relaxed(&port->control->unread);
    if (head - port->receive_head > port->receive_published - port->receive_head || head % LAYER8_ALIGN != 0) {
        layer8_violation(sw, port);
        return port->receive_capacity;
    }
    port->receive_head = head;
    port->unread = unread < port->receive_capacity ? unread : port->receive_capacity;
    return port->receive_tail - head + port->unread;
}

static uint64_t limit_of(const port_t *port, enum put_limit limit) {
    return limit == PUT_NOTICE ? port->receive_capacity : port->receive_capacity / 8 * 7;
}

static bool has_room(const port_t *port, uint64_t need, enum put_limit limit) {
    uint64_t filled = port->receive_tail - port->receive_head + (limit == PUT_NOTICE ? 0 : port->unread);
    return filled + need <= limit_of(port, limit) && (limit != PUT_HALF || filled <= port->receive_capacity / 2);
}

enum put layer8_put(layer8_switch *sw, port_t *to, const struct layer8_record *record, const uint8_t *body,
                    enum put_limit limit) {
    uint64_t span = layer8_record_span(record->length);
    uint64_t offset = to->receive_tail & (to->receive_capacity - 1);
    uint64_t to_end = to->receive_capacity - offset;
    uint64_t pad = to_end < span ? to_end : 0;
    if (!port_alive(to) || list_linked(&to->doomed)) {
        return PUT_DEAD;
    }
    if (to->adjacent != NULL) {
        return PUT_NO_ROOM; /* it is owed until the far Vnet has answered */
    }
    if (!has_room(to, pad + span, limit)) {
        (void)layer8_fill(sw, to);
        if (list_linked(&to->doomed)) {
            return PUT_DEAD;
        }
        if (!has_room(to, pad + span, limit)) {
            return PUT_NO_ROOM;
        }
    }
    if (pad != 0) {
        struct layer8_record filler = {.length = (uint32_t)(pad - LAYER8_RECORD_BYTES), .kind = LAYER8_PAD};
        memcpy(to->receive + offset, &filler, sizeof filler);
        offset = 0;
    }
    memcpy(to->receive + offset, record, sizeof *record);
    if (record->length != 0) {
        memcpy(to->receive + offset + LAYER8_RECORD_BYTES, body, record->length);
    }
    to->receive_tail += pad + span;
    sw->spent += span;
    if (!list_linked(&to->dirty)) {
        list_append(&sw->dirty, &to->dirty);
    }
    if ((record->flags & LAYER8_LAST) != 0 && record->kind <= LAYER8_FAILED_REPLY) {
        COUNT(to->out_messages, 1);
    }
    COUNT(to->out_bytes, record->length - record->headers);
    if (!to->congested && to->receive_tail - to->receive_head + to->unread > to->receive_capacity / 2) {
        if (layer8_fill(sw, to) > to->receive_capacity / 2) {
            layer8_congest(sw, to);
        }
    }
    return PUT_DONE;
}

void layer8_flush(layer8_switch *sw) {
    while (!list_empty(&sw->dirty)) {
        port_t *port = OWNER(port_t, dirty, sw->dirty.next);
        list_remove(&port->dirty);
        port->receive_published = port->receive_tail;
        layer8_store_seq(&port->control->receive_tail, port->receive_tail);
        KILL_POINT(3);
        if (layer8_wakeup_claim(&port->control->arrived)) {
            layer8_post(port, &port->control->arrived);
            COUNT(sw->wakeups, 1);
        }
    }
    layer8_said(sw); /* after the copies, like what follows: a kill in between costs a repetition */
    while (!list_empty(&sw->released)) { /* after the copies, for the same reason as a transmit ring's head */
        port_t *port = OWNER(port_t, released, sw->released.next);
        list_remove(&port->released);
        KILL_POINT(9);
        port->hold_published = port->hold_head;
        layer8_store_release(&port->control->hold_head, port->hold_head);
    }
}

void layer8_stamp(struct layer8_record *delivered, const struct layer8_record *record, const port_t *source) {
    *delivered = *record;
    memcpy(delivered->source, source->uuid, sizeof delivered->source);
    delivered->principal = source->principal;
    delivered->topic = 0;
    delivered->reason = 0;
    delivered->missed = 0;
    delivered->ttl = 0;
}

/* The sequence that the sender was told for the message this record is of. */
static uint64_t sequence_of_message(const struct layer8_record *record) {
    bool own_correlation = record->kind == LAYER8_UNICAST || record->kind == LAYER8_PUBLISH;
    return record->fragments > 1 && own_correlation ? record->correlation : record->sequence;
}

/* Only the last fragment says how long the message is. */
static uint32_t size_of_message(const struct layer8_record *record) {
    if (record->fragments <= 1) {
        return record->length - record->headers;
    }
    return (record->fragments - 1u) * LAYER8_FRAGMENT_BYTES +
           ((record->flags & LAYER8_LAST) != 0 ? record->length : LAYER8_FRAGMENT_BYTES);
}

void layer8_report(layer8_switch *sw, port_t *source, const struct layer8_record *record, uint16_t reason,
                   const uint8_t *to) {
    COUNT(source->undeliverable, 1);
    if (!port_alive(source)) {
        return;
    }
    if (source->adjacent != NULL) {
        if (record->kind == LAYER8_REQUEST) {
            layer8_remote_fail(sw, source, record, reason, to);
        }
        return;
    }
    struct layer8_record notice = {
        .kind = LAYER8_NOTICE,
        .flags = LAYER8_FIRST | LAYER8_LAST,
        .slot = record->slot,
        .generation = record->generation,
        .topic = record->kind,
        .reason = reason,
        .sequence = sequence_of_message(record),
        .correlation = record->kind == LAYER8_REQUEST ? record->correlation : 0,
        .fragments = 1,
        .missed = 1,
        .ttl = size_of_message(record),
    };
    if (to != NULL) {
        memcpy(notice.source, to, sizeof notice.source);
    }
    if (list_empty(&source->due) && layer8_put(sw, source, &notice, NULL, PUT_NOTICE) == PUT_DONE) {
        return;
    }
    if (record->kind == LAYER8_REQUEST) {
        struct due *due = layer8_pool_take(&sw->due_pool);
        if (due != NULL) {
            due->record = notice;
            list_append(&source->due, &due->of_port);
            source->due_count++;
            layer8_congest(sw, source);
            return;
        }
    }
    source->lost_notices++;
    COUNT(source->notices_lost, 1);
    layer8_congest(sw, source);
}

void layer8_flush_notices(layer8_switch *sw, port_t *port) {
    while (!list_empty(&port->due)) {
        struct due *due = OWNER(struct due, of_port, port->due.next);
        if (layer8_put(sw, port, &due->record, NULL, PUT_NOTICE) != PUT_DONE) {
            return;
        }
        list_remove(&due->of_port);
        port->due_count -= due->record.kind == LAYER8_NOTICE; /* what others have aborted counts for nobody */
        layer8_pool_give(&sw->due_pool, due);
    }
    if (port->lost_notices != 0) {
        struct layer8_record notice = {
            .kind = LAYER8_NOTICE,
            .flags = LAYER8_FIRST | LAYER8_LAST,
            .reason = LAYER8_REASON_LOST_NOTICES,
            .fragments = 1,
            .missed = port->lost_notices < UINT32_MAX ? (uint32_t)port->lost_notices : UINT32_MAX,
        };
        if (layer8_put(sw, port, &notice, NULL, PUT_NOTICE) == PUT_DONE) {
            port->lost_notices = 0;
        }
    }
}

void layer8_put_abort(layer8_switch *sw, port_t *to, const struct layer8_record *record) {
    if (layer8_put(sw, to, record, NULL, PUT_NOTICE) == PUT_NO_ROOM) {
        struct due *due = layer8_pool_take(&sw->due_pool); /* what it has of it must not stand there for ever */
        if (due != NULL) {
            due->record = *record;
            list_append(&to->due, &due->of_port);
        }
        layer8_congest(sw, to);
    }
}

void layer8_abort_at(layer8_switch *sw, const port_t *source, const struct message *message, struct receiver *receiver) {
    port_t *to = port_by_id(sw, receiver->port);
    struct layer8_record record;
    if (receiver->out || !receiver->begun || !port_alive(to)) {
        receiver->out = true;
        return;
    }
    receiver->out = true;
    layer8_stamp(&record, &message->first, source);
    record.length = 0;
    record.headers = 0;
    record.kind = LAYER8_ABORT;
    record.flags = LAYER8_FIRST | LAYER8_LAST;
    record.reason = message->first.kind;
    record.topic = receiver->number;
    record.fragment = 0;
    record.fragments = 1;
    if (to->adjacent != NULL) {
        layer8_remote_abort(sw, to, &record, receiver->number);
    } else {
        layer8_put_abort(sw, to, &record);
    }
}
