/* adopt.c - a port that served an earlier Vnet: its rings, unread records and held records are taken over in place.
 *
 *   added ──(its renewals are complete: RESUME)──▶ resumed ──(START: all expected ports are back)──▶ moving
 *
 * What the earlier Vnet had begun is repeated with the flag *retry*: first the held records in order of sequence, then
 * the transmit ring up to where it stood. A record is held only when everything before it has been finished, held or
 * refused for good (layer8_hold_add), so what stands in the transmit ring up to the highest sequence held is over and is
 * passed by. A receiver drops a retry it took before (src/port/sources.c). So that a retry means the same thing as the
 * first try, the switch notes its decision in the record before it acts on an alias and before it refuses. Rights to reply are not taken over: the libraries of caller and callee give such requests up. */
#include "internal.h"

void layer8_note(uint8_t *at, uint16_t reason, const uint8_t *uuid) {
#ifdef LAYER8_WITHOUT_ADOPTION
    at = NULL;
#endif
    if (at != NULL) {
        if (uuid != NULL) {
            memcpy(at + offsetof(struct layer8_record, source), uuid, 16);
        }
        layer8_store_release((_Atomic uint16_t *)(void *)(at + offsetof(struct layer8_record, reason)), reason);
    }
}

/* A position of the segment: the rings are the Vnic's memory, so every one of them is checked. */
static bool take(uint64_t *head, uint64_t *tail, const _Atomic uint64_t *from, const _Atomic uint64_t *to,
                 uint64_t capacity) {
    *head = layer8_load_acquire(from);
    *tail = layer8_load_acquire(to);
    return *head % LAYER8_ALIGN == 0 && *tail % LAYER8_ALIGN == 0 && *tail - *head <= capacity;
}

static bool find_held(port_t *port) {
    uint64_t most = (port->hold_tail - port->hold_head) / LAYER8_ALIGN;
    port->found = most == 0 ? NULL : calloc(most, sizeof *port->found);
    if (most != 0 && port->found == NULL) {
        return false;
    }
    for (uint64_t at = port->hold_head; at != port->hold_tail;) {
        uint64_t offset = at & (port->hold_capacity - 1);
        struct layer8_record record;
        layer8_copy_out(&record, port->hold + offset, sizeof record);
        record.flags &= (uint8_t)~LAYER8_RETRY;
        if (!layer8_well_formed(&record, port->hold_tail - at, port->hold_capacity - offset, UINT64_MAX)) {
            return false;
        }
        if (record.kind != LAYER8_PAD) {
            port->found[port->adopted_count++] = (struct found){.record = record, .position = at};
            if (record.sequence > port->adopted_highest) {
                port->adopted_highest = record.sequence;
            }
        }
        at += layer8_record_span(record.length);
    }
    return true;
}

bool layer8_adopt(port_t *port) {
    struct layer8_control *control = port->control;
    uint64_t ignored;
    if (!take(&port->transmit_head, &ignored, &control->transmit_head, &control->transmit_tail,
              port->transmit_capacity) ||
        !take(&port->receive_head, &port->receive_tail, &control->receive_head, &control->receive_tail,
              port->receive_capacity) ||
        !take(&port->hold_head, &port->hold_tail, &control->hold_head, &control->hold_tail, port->hold_capacity)) {
        return false;
    }
    port->transmit_tail = port->transmit_published = port->transmit_head;
    port->receive_published = port->adopted_tail = port->receive_tail;
    port->hold_published = port->hold_head;
    port->is_adopted = true;
    return find_held(port);
}

/* Of a record that was being moved to the tail the later copy comes first: it is kept, and the head goes on. */
static int by_sequence(const void *a, const void *b) {
    const struct held *left = *(struct held *const *)a, *right = *(struct held *const *)b;
    if (left->record.sequence != right->record.sequence) {
        return left->record.sequence < right->record.sequence ? -1 : 1;
    }
    return left->position > right->position ? -1 : left->position < right->position;
}

bool layer8_adopted(layer8_switch *sw, port_t *port) {
    if (port->adopted_count == 0) {
        return true;
    }
    port->adopted = calloc(port->adopted_count, sizeof(struct held *));
    for (uint32_t n = 0; n < port->adopted_count; n++) {
        struct held *held = port->adopted != NULL ? layer8_pool_take(&sw->held_pool) : NULL;
        if (held == NULL) {
            return false;
        }
        held->record = port->found[n].record;
        held->record.flags |= LAYER8_RETRY;
        held->position = port->found[n].position;
        held->span = (uint32_t)layer8_record_span(held->record.length);
        held->copies = 1; /* until it has moved */
        list_append(&port->held, &held->in_ring);
        port->hold_live += held->span;
        COUNT(sw->held_records, 1);
        COUNT(sw->held_bytes, held->span);
        port->adopted[n] = held;
    }
    qsort(port->adopted, port->adopted_count, sizeof(struct held *), by_sequence);
    layer8_store_relaxed(&port->fill_hold, port->hold_live);
    return true;
}

bool layer8_poll_adopted(layer8_switch *sw, port_t *port) {
    while (port->adopted_next != port->adopted_count) {
        struct held *held = port->adopted[port->adopted_next];
        bool twin = port->adopted_next != 0 &&
                    port->adopted[port->adopted_next - 1]->record.sequence == held->record.sequence;
        if (!twin) { /* a record found twice: the earlier Vnet was moving it to the tail */
            sw->held_now = held;
            sw->at = port->hold + (held->position & (port->hold_capacity - 1));
            enum forward done = layer8_forward(sw, port, &held->record, layer8_held_body(port, held));
            sw->held_now = NULL;
            sw->at = NULL;
            if (done == FORWARD_STALLED) {
                port->stalled = true;
                return false;
            }
            COUNT(port->retries, 1);
        }
        KILL_POINT(13);
        port->adopted_next++;
        layer8_held_release(sw, port, held);
    }
    return true;
}

/* What the earlier Vnet had marked, and this one has no handle for, would stand for ever: what comes under such a handle is
 * refused, so its mark says that. */
static void mark_the_rest(port_t *port) {
    for (uint32_t slot = 0; slot < LAYER8_SLOTS; slot++) {
        const struct handle *handle = handle_at(port, slot);
        if ((handle == NULL || handle->kind == 0) && layer8_load_relaxed(&port->slot_bytes[slot]) != LAYER8_SLOT_GONE) {
            layer8_store_seq(&port->slot_bytes[slot], LAYER8_SLOT_REVOKED);
        }
    }
}

void layer8_resume(layer8_switch *sw, port_t *port) {
    if (port->resumed) {
        return;
    }
    port->resumed = true;
    port->adopted_until = layer8_load_acquire(&port->control->transmit_tail);
    port->unsettled = port->is_adopted;
    if (port->told) {
        layer8_halves_unread(sw, port);
    }
    layer8_store_release(&port->state_page->state, 1u);
    mark_the_rest(port);
    if (layer8_fill(sw, port) > port->receive_capacity / 2) {
        layer8_congest(sw, port);
    }
    /* A token of the earlier Vnet's may be lost, and a mark has changed without one: everybody looks once. */
    layer8_post(port, &port->control->arrived);
    layer8_post(port, &port->control->room);
    layer8_activate(sw, port);
}

void layer8_start(layer8_switch *sw) {
    uint64_t now = layer8_now_ns();
    sw->frozen = false;
    for (uint32_t n = 0; n < sw->config.max_ports; n++) {
        if (sw->ports[n] != NULL) {
            layer8_activate(sw, sw->ports[n]);
        }
    }
    FOR_EACH(at, &sw->closing) { /* what they had sent gets the time it would have had */
        port_t *port = OWNER(port_t, closing, at);
        port->close_ns = now + port->wait_ns;
    }
}
