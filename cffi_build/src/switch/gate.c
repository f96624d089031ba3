/* gate.c - Xoff and Xon: what the senders to a destination see of its fill.
 *
 *   open ──(ring over half full)──▶ closed ──(drained to a quarter, nothing owed)──▶ opening ──(all let go)──▶ open
 *                                     ▲───────────────(over half full again)────────────┘
 *
 * A closed gate has announced `drained`; the receiver's library rings when its ring is a quarter full. An opening gate
 * lets a few senders go each round, so that a thousand of them do not run into the same half ring at once. */
#include "remote.h"

#define OPENED_PER_ROUND 8

void layer8_gate_init(struct gate *gate) {
    list_init(&gate->open);
    list_init(&gate->marked);
    list_init(&gate->opening);
    gate->closed = false;
}

/* The chime is an eventfd that nobody else has a descriptor of (admit.c), so it stays non-blocking; full, it is heard
 * all the same. One chime serves both waits: whoever hears it looks for both. */
void layer8_post(port_t *port, struct layer8_wakeup *wakeup) {
    if (port->chime < 0) {
        layer8_semaphore_post(wakeup);
        return;
    }
    const uint64_t one = 1;
    (void)!write(port->chime, &one, sizeof one);
}

void layer8_wake_sender(port_t *port) {
    if (layer8_wakeup_claim(&port->control->room)) {
        layer8_post(port, &port->control->room);
    }
}

void layer8_marked(port_t *port) {
    if (port->mirrored && layer8_wakeup_claim(&port->control->arrived)) {
        layer8_post(port, &port->control->arrived);
    }
}

/* Whether what is sent to it may have to be held before anybody can say Xoff. */
static bool metered(const struct handle *handle) {
    switch (handle->kind) {
    case LAYER8_TARGET_PORT:
        return handle->target != NULL && ((const port_t *)handle->target)->adjacent != NULL;
    case LAYER8_TARGET_ALIAS:
        return ((const struct alias *)handle->target)->locals == 0;
    default:
        return true; /* a topic: of its publications the reliable ones are meant */
    }
}

void layer8_handle_mark(struct handle *handle) {
    uint8_t byte = handle->gone                             ? LAYER8_SLOT_GONE
                   : handle->gate_closed || handle->choked ? LAYER8_SLOT_XOFF
                   : metered(handle)                        ? LAYER8_SLOT_METERED
                                                            : LAYER8_SLOT_OPEN;
    if (byte != handle->byte) {
        bool waited = handle->byte == LAYER8_SLOT_XOFF;
        handle->byte = byte;
        layer8_store_seq(&handle->owner->slot_bytes[handle->slot], byte);
        if (waited) {
            layer8_wake_sender(handle->owner);
        } else {
            layer8_marked(handle->owner);
        }
    }
}

void layer8_gate_close(layer8_switch *sw, struct gate *gate) {
    (void)sw;
    gate->closed = true;
    list_remove(&gate->opening);
    while (!list_empty(&gate->open)) {
        struct handle *handle = OWNER(struct handle, of_target, gate->open.next);
        list_remove(&handle->of_target);
        list_append(&gate->marked, &handle->of_target);
        handle->gate_closed = true;
        layer8_handle_mark(handle);
    }
}

void layer8_gate_open(layer8_switch *sw, struct gate *gate) {
    gate->closed = false;
    if (!list_empty(&gate->marked) && !list_linked(&gate->opening)) {
        list_append(&sw->opening, &gate->opening);
    }
}

bool layer8_gates_step(layer8_switch *sw) {
    FOR_EACH_SAFE(at, &sw->opening) {
        struct gate *gate = OWNER(struct gate, opening, at);
        for (int n = 0; n < OPENED_PER_ROUND && !list_empty(&gate->marked); n++) {
            struct handle *handle = OWNER(struct handle, of_target, gate->marked.next);
            list_remove(&handle->of_target);
            list_append(&gate->open, &handle->of_target);
            handle->gate_closed = false;
            layer8_handle_mark(handle);
        }
        if (list_empty(&gate->marked)) {
            list_remove(&gate->opening);
        }
    }
    return !list_empty(&sw->opening);
}

/* Asks the receiver to ring when it has drained; if it has by now, its visit does the rest. */
static void ask_for_drain(layer8_switch *sw, port_t *port) {
    layer8_wakeup_announce(&port->control->drained);
    if (layer8_fill(sw, port) <= port->receive_capacity / 4 || !port_alive(port)) {
        port->drain_due = true;
        (void)layer8_wakeup_retract(&port->control->drained);
        layer8_activate(sw, port);
    }
}

void layer8_congest_mark(layer8_switch *sw, port_t *port) {
    port->congested = true;
    layer8_store_relaxed(&port->xoff, 1u);
    layer8_gate_close(sw, &port->gate);
    FOR_EACH(at, &port->memberships) {
        struct membership *membership = OWNER(struct membership, of_port, at);
        membership->congested = true;
        if (++membership->alias->congested == membership->alias->count) {
            layer8_gate_close(sw, &membership->alias->gate);
        }
    }
}

void layer8_congest(layer8_switch *sw, port_t *port) {
    if (!port->congested && port_alive(port) && port->adjacent == NULL) {
        layer8_congest_mark(sw, port);
        ask_for_drain(sw, port);
    }
}

void layer8_congest_clear(layer8_switch *sw, port_t *port) {
    port->congested = false;
    layer8_store_relaxed(&port->xoff, 0u);
    layer8_gate_open(sw, &port->gate);
    FOR_EACH(at, &port->memberships) {
        struct membership *membership = OWNER(struct membership, of_port, at);
        if (membership->congested) {
            membership->congested = false;
            membership->alias->congested--;
            layer8_gate_open(sw, &membership->alias->gate);
        }
    }
}

bool layer8_serve_waiting(layer8_switch *sw, struct list *waiting) {
    while (!list_empty(waiting)) {
        struct flow *flow = OWNER(struct flow, of_target, waiting->next);
        KILL_POINT(16);
        enum served served = layer8_flow_serve(sw, flow, sw->config.visit_records);
        if (served == SERVED_NO_ROOM) {
            return false;
        }
        if (served == SERVED_SOME) { /* the next one's turn */
            list_remove(&flow->of_target);
            list_append(waiting, &flow->of_target);
        }
    }
    return true;
}

void layer8_relieve(layer8_switch *sw, port_t *port) {
    bool all = true;
    port->drain_due = false;
    if (layer8_fill(sw, port) <= port->receive_capacity / 4) {
        layer8_flush_notices(sw, port);
        all = layer8_serve_waiting(sw, &port->waiting);
        FOR_EACH(at, &port->memberships) {
            struct alias *alias = OWNER(struct membership, of_port, at)->alias;
            if (!list_empty(&alias->waiting)) {
                all = layer8_serve_waiting(sw, &alias->waiting) && all; /* of many members not each is looked at each time */
            }
        }
        layer8_flush(sw); /* so that the receiver reads while the rest is done */
    }
    if (!port_alive(port) || list_linked(&port->doomed)) {
        return;
    }
    if (!all || !list_empty(&port->due) || port->lost_notices != 0 ||
        layer8_fill(sw, port) > port->receive_capacity / 4) {
        ask_for_drain(sw, port);
        return;
    }
    layer8_congest_clear(sw, port);
    if (port->stalled) { /* it may have waited for room for its own notices */
        port->stalled = false;
        layer8_activate(sw, port);
    }
}
