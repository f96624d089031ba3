/* hold.c - the hold ring: records that could not be finished on their visit, in the sender's own memory.
 *
 * The body stands in the segment, its header and everything decided about it in private memory (struct held). The ring
 * is a log: records are added at the tail and finish in any order; the head moves over finished ones. When finished
 * bytes are shut in behind an unfinished one, the oldest unfinished is copied to the tail. Room for that copy is always
 * kept back, so the ring never locks up.
 *
 * What came over a link has no such ring: it is an arrival (remote.c), and the link's window bounds it. */
#include "remote.h"

static uint64_t pad_before(const port_t *port, uint64_t span) {
    uint64_t to_end = port->hold_capacity - (port->hold_tail & (port->hold_capacity - 1));
    return to_end < span ? to_end : 0;
}

/* The tail at once, the head when what was copied from before it has been published: see layer8_flush. */
static void publish(layer8_switch *sw, port_t *port) {
    KILL_POINT(6);
    layer8_store_release(&port->control->hold_tail, port->hold_tail);
    KILL_POINT(7);
    if (port->hold_head != port->hold_published && !list_linked(&port->released)) {
        list_append(&sw->released, &port->released);
    }
    layer8_store_relaxed(&port->fill_hold, port->hold_live);
}

/* Writes a record at the tail; there is room. Returns its position. */
static uint64_t append(layer8_switch *sw, port_t *port, const struct layer8_record *record, const uint8_t *body) {
    if (port->hold_head != port->hold_published) { /* what is written now may stand where that still points */
        if (!list_linked(&port->released)) {
            list_append(&sw->released, &port->released);
        }
        layer8_flush(sw);
    }
    uint64_t span = layer8_record_span(record->length);
    uint64_t pad = pad_before(port, span);
    if (pad != 0) {
        struct layer8_record filler = {.length = (uint32_t)(pad - LAYER8_RECORD_BYTES), .kind = LAYER8_PAD};
        memcpy(port->hold + (port->hold_tail & (port->hold_capacity - 1)), &filler, sizeof filler);
        port->hold_tail += pad;
    }
    uint64_t position = port->hold_tail;
    uint8_t *at = port->hold + (position & (port->hold_capacity - 1));
    memcpy(at, record, sizeof *record);
    if (record->length != 0) {
        memmove(at + LAYER8_RECORD_BYTES, body, record->length);
    }
    port->hold_tail += span;
    return position;
}

/* Frees finished records at the head. */
static void advance(layer8_switch *sw, port_t *port) {
    while (!list_empty(&port->held)) {
        struct held *oldest = OWNER(struct held, in_ring, port->held.next);
        if (oldest->copies != 0) {
            port->hold_head = oldest->position;
            return;
        }
        list_remove(&oldest->in_ring);
        layer8_pool_give(&sw->held_pool, oldest);
    }
    port->hold_head = port->hold_tail;
}

static void move_oldest(layer8_switch *sw, port_t *port) {
    struct held *oldest = OWNER(struct held, in_ring, port->held.next);
    oldest->position = append(sw, port, &oldest->record, layer8_held_body(port, oldest));
    list_remove(&oldest->in_ring);
    list_append(&port->held, &oldest->in_ring);
    layer8_store_release(&port->control->hold_tail, port->hold_tail);
    KILL_POINT(8);
}

/* How many finished bytes are worth moving the unfinished ones for: half of what is free, in bounds. So a destination that
 * is stuck leaves room for others, and no byte is copied more than a few times. */
static uint64_t worth(const port_t *port) {
    uint64_t usable = port->hold_capacity - HOLD_KEPT_BACK;
    uint64_t half = usable > port->hold_live ? (usable - port->hold_live) / 2 : 0;
    uint64_t least = port->hold_capacity / 16;
    uint64_t most = port->hold_capacity / 4;
    return half < least ? least : half > most ? most : half;
}

bool layer8_hold_room(layer8_switch *sw, port_t *port, uint64_t length) {
    uint64_t span = layer8_record_span(length);
    if (port->adjacent != NULL) {
        return true;
    }
    advance(sw, port);
    for (;;) {
        uint64_t used = port->hold_tail - port->hold_head;
        uint64_t pad = pad_before(port, span);
        if (used == 0 || used + pad + span + HOLD_KEPT_BACK <= port->hold_capacity) {
            return true; /* nothing in it: a pad costs nothing, the head passes it with the next record */
        }
        /* Moving gains what is finished and, where little is held, the pad: a few small records do not keep out a large. */
        bool past_end = pad != 0 && port->hold_live + span + HOLD_KEPT_BACK <= port->hold_capacity &&
                        port->hold_live <= port->hold_capacity / 8;
        if (used - port->hold_live < worth(port) && !past_end) { /* too little to gain */
            publish(sw, port);
            return false;
        }
        move_oldest(sw, port);
        advance(sw, port);
    }
}

struct held *layer8_hold_add(layer8_switch *sw, port_t *port, const struct layer8_record *record, const uint8_t *body) {
    if (port->adjacent != NULL) {
        return layer8_arrival_keep(sw, port, record, body);
    }
    struct held *held = layer8_pool_take(&sw->held_pool);
    if (held == NULL) {
        return NULL;
    }
    held->record = *record;
    held->span = (uint32_t)layer8_record_span(record->length);
    held->position = append(sw, port, record, body);
    list_append(&port->held, &held->in_ring);
    port->hold_live += held->span;
    layer8_flush(sw); /* what came before it was copied: it must not be overtaken by a retry from here */
    layer8_held_time(sw, port, held);
    COUNT(sw->held_records, 1);
    COUNT(sw->held_bytes, held->span);
    publish(sw, port);
    return held;
}

void layer8_held_time(layer8_switch *sw, port_t *port, struct held *held) {
    if (held->record.ttl != 0 && !list_linked(&held->timed)) {
        held->deadline_ns = layer8_now_ns() + (uint64_t)held->record.ttl * 1000000u;
        list_append(&port->timed, &held->timed);
        sw->timed++;
    }
}

const uint8_t *layer8_held_body(const port_t *port, const struct held *held) {
    if (port->adjacent != NULL) {
        return layer8_arrival_body(held);
    }
    return port->hold + (held->position & (port->hold_capacity - 1)) + LAYER8_RECORD_BYTES;
}

void layer8_held_release(layer8_switch *sw, port_t *port, struct held *held) {
    if (--held->copies != 0) {
        return;
    }
    if (list_linked(&held->timed)) {
        list_remove(&held->timed);
        sw->timed--;
    }
    port->hold_live -= held->span;
    COUNT(sw->held_records, (uint64_t)-1);
    COUNT(sw->held_bytes, (uint64_t)0 - held->span);
    if (port->adjacent != NULL) {
        layer8_arrival_done(sw, port, held);
        return;
    }
    advance(sw, port);
    publish(sw, port);
    if (port->stalled) {
        port->stalled = false;
        layer8_activate(sw, port);
    }
}

void layer8_held_refuse(const port_t *port, struct held *held, uint16_t reason) {
    held->dead = true;
    held->record.reason = reason; /* in the copy too: the record may be moved to the tail */
    if (port->adjacent != NULL) {
        layer8_arrival_outcome(held, reason);
    } else {
        layer8_note(port->hold + (held->position & (port->hold_capacity - 1)), reason, NULL);
    }
}

void layer8_held_give_back(layer8_switch *sw, port_t *port, struct held *held, uint16_t reason, const uint8_t *to) {
    layer8_held_refuse(port, held, reason);
    KILL_POINT(11);
    if (port->adjacent == NULL) {
        layer8_report(sw, port, &held->record, reason, to);
    }
}

void layer8_held_tick(layer8_switch *sw, port_t *port) {
    FOR_EACH_SAFE(at, &port->timed) {
        struct held *held = OWNER(struct held, timed, at);
        struct message *message = held->message;
        bool said = held->dead || (message != NULL && message->refused);
        /* An earlier Vnet, or connection, may have delivered what goes again. */
        uint16_t reason = (held->record.flags & LAYER8_RETRY) != 0 ? LAYER8_REASON_UNKNOWN : LAYER8_REASON_EXPIRED;
        if (held->deadline_ns <= sw->now_ns || held->sent) {
            list_remove(&held->timed);
            sw->timed--;
            if (held->sent) {
                continue;
            }
            if (said) {
                layer8_held_refuse(port, held, reason);
            } else {
                layer8_held_give_back(sw, port, held, reason, NULL);
            }
            if (port->adjacent != NULL) {
                layer8_arrival_answer(sw, port, held); /* its sender need not wait until its turn comes */
            }
            if (message != NULL) {
                layer8_message_refuse(sw, port, message); /* whole or not at all */
            }
        }
    }
}
