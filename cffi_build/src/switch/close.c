/* close.c - how a port ends, and everything that must be told when it does.
 *
 *   up ──(remove, or a violation)──▶ closing ──(transmit ring forwarded, nothing held, or the wait is over)──▶ dead
 *
 * From the first moment of closing nobody can reach the port: what others hold for it goes back to them, requests to
 * it fail. What it had sent is still forwarded. */
#include "remote.h"

void layer8_handle_clear(layer8_switch *sw, struct handle *handle, uint8_t byte) {
    port_t *port = handle->owner;
    if (handle->kind == 0) {
        return;
    }
    if (byte == LAYER8_SLOT_REVOKED) {
        FOR_EACH_SAFE(at, &port->messages) {
            struct message *message = OWNER(struct message, of_source, at);
            const struct layer8_record *first = &message->first;
            if (first->kind <= LAYER8_REQUEST && first->slot == handle->slot &&
                first->generation == handle->generation) {
                if (!message->refused) {
                    layer8_report(sw, port, first, LAYER8_REASON_REVOKED, NULL);
                }
                layer8_message_abort(sw, port, message);
            }
        }
        FOR_EACH_SAFE(at, &port->as_caller) { /* delivered, and not answered yet */
            struct right *right = OWNER(struct right, of_caller, at);
            if (right->state == RIGHT_OPEN && right->slot == handle->slot &&
                right->handle_generation == handle->generation) {
                layer8_right_revoke(sw, right);
            }
        }
        while (!list_empty(&handle->flows)) {
            layer8_flow_refuse(sw, OWNER(struct flow, of_source, handle->flows.next), LAYER8_REASON_REVOKED);
        }
    }
    FOR_EACH(at, &handle->flows) { OWNER(struct flow, of_source, at)->handle = NULL; }
    list_splice(&port->flows, &handle->flows);
    list_remove(&handle->of_target);
    handle->kind = 0;
    handle->target = NULL;
    handle->gate_closed = handle->choked = handle->gone = false;
    handle->owed_bytes = 0;
    handle->byte = byte;
    layer8_store_seq(&port->slot_bytes[handle->slot], byte);
    layer8_wake_sender(port);
    layer8_marked(port);
    layer8_store_relaxed(&port->handle_count, layer8_load_relaxed(&port->handle_count) - 1u);
}

static void mark_all(struct gate *gate, bool gone) {
    FOR_EACH(at, &gate->open) {
        struct handle *handle = OWNER(struct handle, of_target, at);
        handle->gone = gone;
        layer8_handle_mark(handle);
    }
    FOR_EACH(at, &gate->marked) {
        struct handle *handle = OWNER(struct handle, of_target, at);
        handle->gone = gone;
        layer8_handle_mark(handle);
    }
}

void layer8_join_alias(layer8_switch *sw, struct membership *membership) {
    struct alias *alias = membership->alias;
    alias->members[alias->count++] = membership;
    if (membership->port->adjacent == NULL) { /* those of this host first */
        alias->members[alias->count - 1] = alias->members[alias->locals];
        alias->members[alias->locals++] = membership;
    }
    list_append(&membership->port->memberships, &membership->of_port);
    if (membership->port->congested) {
        membership->congested = true;
        if (++alias->congested == alias->count) {
            layer8_gate_close(sw, &alias->gate);
        }
    } else {
        layer8_gate_open(sw, &alias->gate);
    }
    mark_all(&alias->gate, false);
    if (!list_empty(&alias->waiting)) {
        layer8_congest(sw, membership->port);
    }
}

void layer8_leave_alias(layer8_switch *sw, struct membership *membership) {
    struct alias *alias = membership->alias;
    for (uint32_t n = 0; n < alias->count; n++) {
        if (alias->members[n] == membership) {
            if (n < alias->locals) {
                alias->members[n] = alias->members[--alias->locals];
                n = alias->locals;
            }
            alias->members[n] = alias->members[--alias->count];
            break;
        }
    }
    if (membership->congested) {
        alias->congested--;
    }
    list_remove(&membership->of_port);
    free(membership);
    if (alias->locals == 0) {
        mark_all(&alias->gate, alias->count == 0); /* what is sent goes elsewhere now, or nowhere */
    }
    if (alias->count == 0) {
        layer8_gate_open(sw, &alias->gate);
        while (!list_empty(&alias->waiting)) {
            layer8_flow_refuse(sw, OWNER(struct flow, of_target, alias->waiting.next), LAYER8_REASON_NOT_FOUND);
        }
    } else if (!list_empty(&alias->waiting) && alias->locals == 0) {
        (void)layer8_serve_waiting(sw, &alias->waiting);
    } else if (!list_empty(&alias->waiting)) {
        for (uint32_t n = 0; n < alias->count; n++) {
            layer8_congest(sw, alias->members[n]->port);
        }
    }
    if (alias->count != 0 && alias->congested == alias->count) {
        layer8_gate_close(sw, &alias->gate);
    }
}

void layer8_unsubscribe(layer8_switch *sw, struct subscription *subscription) {
    struct topic *topic = subscription->topic;
    for (uint32_t n = 0; n < topic->count; n++) {
        if (topic->subscribers[n] == subscription) {
            memmove(&topic->subscribers[n], &topic->subscribers[n + 1],
                    (topic->count - n - 1) * sizeof(struct subscription *));
            topic->count--;
            break;
        }
    }
    for (uint32_t index = 0; index < sw->config.max_ports; index++) {
        port_t *port = sw->ports[index];
        if (port == NULL) {
            continue;
        }
        FOR_EACH(at, &port->messages) {
            struct message *message = OWNER(struct message, of_source, at);
            struct receiver *receiver = layer8_receiver_of(message, subscription);
            if (receiver != NULL) {
                receiver->subscription = NULL;
                layer8_abort_at(sw, port, message, receiver);
            }
        }
    }
    FOR_EACH_SAFE(at, &subscription->port->waiting) {
        layer8_flow_drop(sw, OWNER(struct flow, of_target, at), NULL, subscription);
    }
    list_remove(&subscription->of_port);
    list_remove(&subscription->said);
    free(subscription);
}

/* What is said to those who had something for a port that ends. */
static uint16_t reason_for_others(const port_t *port) {
    return port->adjacent != NULL && port->reason == LAYER8_REASON_UNREACHABLE ? LAYER8_REASON_UNREACHABLE
                                                                                : LAYER8_REASON_GONE;
}

void layer8_port_begin_close(layer8_switch *sw, port_t *port, uint32_t reason, uint64_t wait_ns) {
    if (!port_alive(port)) {
        return;
    }
    uint64_t tail = layer8_load_acquire(&port->control->transmit_tail);
    uint64_t room = port->transmit_capacity - (port->transmit_tail - port->transmit_head);
    bool sane = reason != LAYER8_REASON_VIOLATION && tail - port->transmit_tail <= room && tail % LAYER8_ALIGN == 0;
    layer8_store_relaxed(&port->state, PORT_CLOSING);
    port->reason = reason;
    port->transmit_limit = sane ? tail : port->transmit_head;
    if (!port->resumed) {
        port->adopted_until = port->transmit_limit; /* it dies before its RESUME: all of it is a retry all the same */
    }
    port->wait_ns = wait_ns;
    port->close_ns = layer8_now_ns() + wait_ns;
    list_append(&sw->closing, &port->closing);
    list_remove(&port->doomed);
    list_remove(&port->dirty);
    list_remove(&port->gate.opening);
    while (!list_empty(&port->memberships)) {
        layer8_leave_alias(sw, OWNER(struct membership, of_port, port->memberships.next));
    }
    while (!list_empty(&port->subscriptions)) {
        layer8_unsubscribe(sw, OWNER(struct subscription, of_port, port->subscriptions.next));
    }
    mark_all(&port->gate, true);
    list_splice(&port->gate.open, &port->gate.marked);
    while (!list_empty(&port->gate.open)) {
        struct handle *handle = OWNER(struct handle, of_target, port->gate.open.next);
        list_remove(&handle->of_target);
        handle->target = NULL;
    }
    uint16_t why = reason_for_others(port);
    while (!list_empty(&port->waiting)) {
        layer8_flow_refuse(sw, OWNER(struct flow, of_target, port->waiting.next), why);
    }
    layer8_halves_drop(port);
    layer8_rights_cancel(sw, port);
    if (port->transmit_head == port->transmit_limit) { /* else replies may stand there: see layer8_port_try_reap */
        layer8_rights_fail(sw, port, why, false);
    }
    if (port->adjacent != NULL) {
        layer8_arrivals_end(sw, port);
    }
    while (!list_empty(&port->due)) {
        struct due *due = OWNER(struct due, of_port, port->due.next);
        list_remove(&due->of_port);
        layer8_pool_give(&sw->due_pool, due);
    }
    layer8_activate(sw, port);
}

static bool owes(const port_t *port) {
    if (!list_empty(&port->flows)) {
        return true;
    }
    for (uint32_t chunk = 0; chunk < HANDLE_CHUNKS; chunk++) {
        for (uint32_t n = 0; port->handles[chunk] != NULL && n < HANDLES_PER_CHUNK; n++) {
            if (port->handles[chunk][n].kind != 0 && !list_empty(&port->handles[chunk][n].flows)) {
                return true;
            }
        }
    }
    return false;
}

/* The wait is over: what is still owed is counted and lost; begun messages are aborted where they had begun. */
static void give_up(layer8_switch *sw, port_t *port, struct list *flows) {
    while (!list_empty(flows)) {
        struct flow *flow = OWNER(struct flow, of_source, flows->next);
        for (struct owed *owed = flow->first; owed != NULL; owed = owed->next) {
            COUNT(port->undeliverable, 1);
            owed->held->dead = true;
            if (owed->message != NULL) {
                layer8_message_refuse(sw, port, owed->message);
            }
        }
        layer8_flow_refuse(sw, flow, LAYER8_REASON_GONE);
    }
}

void layer8_port_try_reap(layer8_switch *sw, port_t *port) {
    bool late = layer8_now_ns() >= port->close_ns;
    bool moved = port->transmit_head == port->transmit_limit && port->adopted_next == port->adopted_count;
    if ((sw->frozen && port->adjacent == NULL) || (!moved && !(late && port->stalled))) {
        return; /* it is visited until what it had sent is forwarded, or held by as much as it may hold */
    }
    for (; port->adopted_next != port->adopted_count; port->adopted_next++) {
        COUNT(port->undeliverable, 1);
        layer8_held_release(sw, port, port->adopted[port->adopted_next]);
    }
    port->transmit_limit = port->transmit_head;
    while (!list_empty(&port->messages)) {
        layer8_message_abort(sw, port, OWNER(struct message, of_source, port->messages.next));
    }
    layer8_rights_fail(sw, port, reason_for_others(port), false);
    if (owes(port) && !late) {
        return;
    }
    give_up(sw, port, &port->flows);
    for (uint32_t chunk = 0; chunk < HANDLE_CHUNKS; chunk++) {
        for (uint32_t n = 0; port->handles[chunk] != NULL && n < HANDLES_PER_CHUNK; n++) {
            struct handle *handle = &port->handles[chunk][n];
            if (handle->kind != 0) {
                give_up(sw, port, &handle->flows);
                layer8_handle_clear(sw, handle, LAYER8_SLOT_GONE);
            }
        }
    }
    layer8_rights_fail(sw, port, reason_for_others(port), true);
    layer8_rights_cancel(sw, port);
    port->told = port->resumed = true; /* nothing of it goes on */
    port->unsettled = false;
    port->going_count = 0;
    layer8_halves_of(sw, port);
    layer8_flush(sw); /* whoever hears that the port is gone can already read what it left */
    list_remove(&port->closing);
    list_remove(&port->released);
    list_remove(&port->dirty);
    if (list_linked(&port->active)) {
        list_remove(&port->active);
        sw->active_count--;
    }
    layer8_store_relaxed(&port->state_page->reason, port->reason);
    layer8_store_release(&port->state_page->state, 3u);
    if (port->adjacent == NULL) {
        layer8_remote_gone(sw, port);
    }
    layer8_commands_deferred(sw, port, true);
    layer8_port_forget(sw, port);
    layer8_store_relaxed(&port->state, PORT_DEAD);
    layer8_emit(sw, LAYER8_EVENT_GONE, port->id, 0, (int64_t)port->reason, port);
}
