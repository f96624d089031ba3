/* command.c - what the control plane asks of the switch, and what it is told. Two rings in private memory: commands
 * have one producer (the control thread) and one consumer (the switch), events the other way round. */
#include "remote.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

static void ring(int eventfd) {
    uint64_t one = 1;
    ssize_t written = write(eventfd, &one, sizeof one);
    (void)written; /* full means that it is readable, which is all that is wanted */
}

/* ---- the control thread's side ---- */

int layer8_switch_command(layer8_switch *sw, uint32_t kind, uint64_t token, uint32_t port, uint32_t a, uint32_t b,
                          uint32_t c, uint32_t d, void *pointer) {
    uint64_t tail = layer8_load_relaxed(&sw->command_tail);
    if (sw->commands_open >= COMMAND_RING) {
        return LAYER8_FULL;
    }
    struct command *command = &sw->commands[tail % COMMAND_RING];
    *command = (struct command){
        .kind = kind, .port = port, .a = a, .b = b, .c = c, .d = d, .token = token, .pointer = pointer};
    if (kind == LAYER8_COMMAND_REFUSE_SOURCE && pointer != NULL) { /* the caller's bytes are not kept */
        memcpy(command->uuid, pointer, sizeof command->uuid);
        command->pointer = NULL;
    } else if (kind == LAYER8_COMMAND_RESUME && pointer != NULL) {
        size_t size = ((size_t)a + b) * sizeof(struct layer8_half);
        command->pointer = malloc(size + 1); /* without memory nothing is told */
        if (command->pointer != NULL) {
            memcpy(command->pointer, pointer, size);
        }
    }
    layer8_store_release(&sw->command_tail, tail + 1);
    sw->commands_open++;
    ring(sw->command_fd);
    return LAYER8_OK;
}

int layer8_switch_events(layer8_switch *sw, layer8_event *events, uint32_t max) {
    uint64_t ignored;
    if (read(sw->event_fd, &ignored, sizeof ignored) < 0 && errno != EAGAIN) {
        return LAYER8_SYSTEM;
    }
    uint64_t head = layer8_load_relaxed(&sw->event_head);
    uint64_t tail = layer8_load_acquire(&sw->event_tail);
    uint32_t count = 0;
    while (head != tail && count < max) {
        events[count] = sw->events[head++ & sw->event_mask];
        if (events[count].kind == LAYER8_EVENT_DONE) {
            sw->commands_open--;
        }
        count++;
    }
    layer8_store_release(&sw->event_head, head);
    if (head != tail) {
        ring(sw->event_fd); /* there is more */
    }
    return (int)count;
}

int layer8_switch_event_fd(layer8_switch *sw) { return sw->event_fd; }

/* ---- the switch's side ---- */

void layer8_emit_event(layer8_switch *sw, layer8_event event) {
    /* The ring has room for every open command, for four events a port and two a link and a stranger: it cannot be full. */
    uint64_t tail = layer8_load_relaxed(&sw->event_tail);
    sw->events[tail & sw->event_mask] = event;
    layer8_store_release(&sw->event_tail, tail + 1);
    ring(sw->event_fd);
}

void layer8_emit(layer8_switch *sw, uint32_t kind, uint32_t port, uint64_t token, int64_t value, port_t *pointer) {
    layer8_emit_event(sw, (layer8_event){.kind = kind, .port = port, .token = token, .value = value, .pointer = pointer});
}

static int add_port(layer8_switch *sw, const struct command *command) {
    uint32_t index = command->port & 0xffffu;
    port_t *port = command->pointer;
    if (index >= sw->config.max_ports || sw->ports[index] != NULL || port == NULL) {
        return LAYER8_INVALID;
    }
    struct epoll_event interest = {.events = EPOLLIN, .data.u64 = command->port};
    if (epoll_ctl(sw->epoll, EPOLL_CTL_ADD, port->doorbell, &interest) != 0) {
        return LAYER8_SYSTEM;
    }
    if (!layer8_adopted(sw, port)) {
        (void)epoll_ctl(sw->epoll, EPOLL_CTL_DEL, port->doorbell, NULL);
        return LAYER8_SYSTEM;
    }
    port->id = command->port;
    port->principal = command->a;
    port->resumed = command->b == 0;
    layer8_port_enter(sw, port);
    layer8_store_relaxed(&port->state, PORT_UP);
    layer8_store_relaxed(&port->state_page->reason, 0u);
    layer8_store_release(&port->state_page->state, 1u);
    layer8_activate(sw, port);
    if (!port->is_adopted) { /* it has begun anew: nothing of before goes on */
        port->told = true;
        layer8_halves_of(sw, port);
    }
    return LAYER8_OK;
}

static struct handle *handle_for(port_t *port, uint32_t slot) {
    struct handle **chunk = &port->handles[slot / HANDLES_PER_CHUNK];
    if (*chunk == NULL) {
        *chunk = calloc(HANDLES_PER_CHUNK, sizeof **chunk);
        for (uint32_t n = 0; *chunk != NULL && n < HANDLES_PER_CHUNK; n++) {
            struct handle *handle = &(*chunk)[n];
            handle->owner = port;
            handle->slot = (uint16_t)(slot / HANDLES_PER_CHUNK * HANDLES_PER_CHUNK + n);
            list_init(&handle->of_target);
            list_init(&handle->flows);
        }
    }
    return *chunk == NULL ? NULL : &(*chunk)[slot % HANDLES_PER_CHUNK];
}

static struct alias *alias_for(layer8_switch *sw, uint32_t number) {
    struct alias **alias = &sw->aliases[number];
    if (*alias == NULL && (*alias = calloc(1, sizeof **alias)) != NULL) {
        layer8_gate_init(&(*alias)->gate);
        list_init(&(*alias)->waiting);
    }
    return *alias;
}

static struct topic *topic_for(layer8_switch *sw, uint32_t number) {
    struct topic **topic = &sw->topics[number];
    if (*topic == NULL && (*topic = calloc(1, sizeof **topic)) != NULL) {
        list_init(&(*topic)->handles);
    }
    return *topic;
}

static int grant(layer8_switch *sw, port_t *port, uint32_t name, uint32_t kind, uint32_t target, uint32_t allows) {
    uint32_t slot = name & 0xffffu;
    if (slot >= LAYER8_SLOTS) {
        return LAYER8_INVALID;
    }
    struct handle *handle = handle_for(port, slot);
    struct gate *gate = NULL;
    struct list *list = NULL;
    void *to = NULL;
    bool gone = false;
    if (handle == NULL) {
        return LAYER8_SYSTEM;
    }
    if (handle->kind != 0 && port->adjacent != NULL) { /* its Vnic has given the slot another meaning */
        layer8_handle_clear(sw, handle, LAYER8_SLOT_OPEN);
    }
    if (handle->kind != 0) {
        return LAYER8_INVALID;
    }
    if (kind == LAYER8_TARGET_REFUSED && port->adjacent != NULL) {
        handle->kind = LAYER8_TARGET_REFUSED;
        handle->generation = (uint16_t)(name >> 16);
        layer8_store_relaxed(&port->handle_count, layer8_load_relaxed(&port->handle_count) + 1u);
        return LAYER8_OK;
    }
    if (kind == LAYER8_TARGET_PORT) {
        port_t *other = port_by_id(sw, target);
        if (!port_alive(other) || (port->adjacent != NULL && other->adjacent != NULL)) {
            return LAYER8_GONE;
        }
        to = other;
        gate = &other->gate;
    } else if (kind == LAYER8_TARGET_ALIAS && target < sw->config.max_aliases) {
        struct alias *alias = alias_for(sw, target);
        to = alias;
        gate = alias != NULL ? &alias->gate : NULL;
        gone = alias != NULL && alias->count == 0;
    } else if (kind == LAYER8_TARGET_TOPIC && target < sw->config.max_topics) {
        struct topic *topic = topic_for(sw, target);
        to = topic;
        list = topic != NULL ? &topic->handles : NULL;
    } else {
        return LAYER8_INVALID;
    }
    if (to == NULL) {
        return LAYER8_SYSTEM;
    }
    handle->kind = (uint8_t)kind;
    handle->generation = (uint16_t)(name >> 16);
    handle->allows = (uint8_t)allows;
    handle->target = to;
    handle->gone = gone;
    handle->gate_closed = gate != NULL && gate->closed;
    list_append(gate == NULL ? list : handle->gate_closed ? &gate->marked : &gate->open, &handle->of_target);
    handle->byte = LAYER8_SLOT_OPEN;
    layer8_store_seq(&port->slot_bytes[slot], LAYER8_SLOT_OPEN);
    layer8_handle_mark(handle);
    layer8_store_relaxed(&port->handle_count, layer8_load_relaxed(&port->handle_count) + 1u);
    return LAYER8_OK;
}

static int revoke_handle(layer8_switch *sw, port_t *port, uint32_t name, uint32_t byte) {
    struct handle *handle = (name & 0xffffu) < LAYER8_SLOTS ? handle_at(port, name & 0xffffu) : NULL;
    if (handle == NULL || handle->kind == 0 || handle->generation != (uint16_t)(name >> 16)) {
        return LAYER8_INVALID;
    }
    layer8_handle_clear(sw, handle, (uint8_t)byte);
    return LAYER8_OK;
}

static struct membership *membership_of(port_t *port, const struct alias *alias) {
    FOR_EACH(at, &port->memberships) {
        struct membership *membership = OWNER(struct membership, of_port, at);
        if (membership->alias == alias) {
            return membership;
        }
    }
    return NULL;
}

static int join(layer8_switch *sw, port_t *port, uint32_t number) {
    struct alias *alias = number < sw->config.max_aliases ? alias_for(sw, number) : NULL;
    if (alias == NULL || membership_of(port, alias) != NULL) {
        return LAYER8_INVALID;
    }
    if (alias->count == alias->capacity) {
        uint32_t capacity = alias->capacity == 0 ? 4 : alias->capacity * 2;
        struct membership **grown = realloc(alias->members, capacity * sizeof(struct membership *));
        if (grown == NULL) {
            return LAYER8_SYSTEM;
        }
        alias->members = grown;
        alias->capacity = capacity;
    }
    struct membership *membership = calloc(1, sizeof *membership);
    if (membership == NULL) {
        return LAYER8_SYSTEM;
    }
    membership->port = port;
    membership->alias = alias;
    layer8_join_alias(sw, membership);
    return LAYER8_OK;
}

static int leave(layer8_switch *sw, port_t *port, uint32_t number) {
    struct alias *alias = number < sw->config.max_aliases ? sw->aliases[number] : NULL;
    struct membership *membership = alias != NULL ? membership_of(port, alias) : NULL;
    if (membership == NULL) {
        return LAYER8_INVALID;
    }
    layer8_leave_alias(sw, membership);
    return LAYER8_OK;
}

static struct subscription *subscription_of(port_t *port, uint32_t number) {
    FOR_EACH(at, &port->subscriptions) {
        struct subscription *subscription = OWNER(struct subscription, of_port, at);
        if (subscription->number == number) {
            return subscription;
        }
    }
    return NULL;
}

static void renumber_receiver(const struct message *message, const struct subscription *subscription) {
    struct receiver *receiver = layer8_receiver_of(message, subscription);
    if (receiver != NULL) {
        receiver->number = (uint16_t)subscription->number;
    }
}

/* An adjacent Vnet that took over has another number for a topic of its earlier life: what waits for it goes under it. */
static bool renumber(layer8_switch *sw, port_t *port, const struct topic *topic, uint32_t number) {
    struct subscription *subscription = NULL;
    FOR_EACH(at, &port->subscriptions) {
        subscription = OWNER(struct subscription, of_port, at);
        if (subscription->topic == topic) {
            break;
        }
        subscription = NULL;
    }
    if (subscription == NULL) {
        return false;
    }
    subscription->number = number;
    for (uint32_t index = 0; index < sw->config.max_ports; index++) {
        if (sw->ports[index] != NULL) {
            FOR_EACH(at, &sw->ports[index]->messages) {
                renumber_receiver(OWNER(struct message, of_source, at), subscription);
            }
        }
    }
    FOR_EACH(at, &port->waiting) { /* those that have ended, as far as the switch is concerned */
        for (struct owed *owed = OWNER(struct flow, of_target, at)->first; owed != NULL; owed = owed->next) {
            if (owed->message != NULL) {
                renumber_receiver(owed->message, subscription);
            }
        }
    }
    return true;
}

static int subscribe(layer8_switch *sw, port_t *port, uint32_t topic_number, uint32_t number, bool renewed) {
    if (topic_number >= sw->config.max_topics || number >= (port->adjacent != NULL ? 65536u : LAYER8_TOPICS)) {
        return LAYER8_INVALID;
    }
    struct topic *topic = topic_for(sw, topic_number);
    if (port->adjacent != NULL && topic != NULL && renumber(sw, port, topic, number)) {
        return LAYER8_OK;
    }
    if (subscription_of(port, number) != NULL) {
        return LAYER8_INVALID;
    }
    struct subscription *subscription = calloc(1, sizeof *subscription);
    if (topic != NULL && topic->count == topic->capacity) {
        uint32_t capacity = topic->capacity == 0 ? 4 : topic->capacity * 2;
        struct subscription **grown = realloc(topic->subscribers, capacity * sizeof(struct subscription *));
        if (grown != NULL) {
            topic->subscribers = grown;
            topic->capacity = capacity;
        }
    }
    if (topic == NULL || subscription == NULL || topic->count == topic->capacity) {
        free(subscription);
        return LAYER8_SYSTEM;
    }
    subscription->port = port;
    subscription->topic = topic;
    subscription->number = number;
    if (port->adjacent != NULL) { /* its count goes with the records */
    } else if (renewed) {
        subscription->total = layer8_load_relaxed(&port->missed[number]);
        subscription->missed = subscription->unsaid = layer8_load_relaxed(&port->unsaid[number]);
    } else {
        layer8_store_relaxed(&port->missed[number], 0u);
        layer8_store_relaxed(&port->unsaid[number], 0u);
    }
    topic->subscribers[topic->count++] = subscription;
    list_append(&port->subscriptions, &subscription->of_port);
    return LAYER8_OK;
}

static int unsubscribe(layer8_switch *sw, port_t *port, uint32_t topic_number, uint32_t number) {
    struct subscription *subscription = subscription_of(port, number);
    (void)topic_number;
    if (subscription == NULL) {
        return LAYER8_INVALID;
    }
    layer8_unsubscribe(sw, subscription);
    return LAYER8_OK;
}

static int run_for_link(layer8_switch *sw, const struct command *command) {
    switch (command->kind) {
    case LAYER8_COMMAND_ADD_LINK:
        return layer8_add_link(sw);
    case LAYER8_COMMAND_LINK_UP:
        return layer8_link_up(sw, command->a, command->pointer, command->b != 0);
    case LAYER8_COMMAND_LINK_DOWN:
        return layer8_link_down(sw, command->a);
    case LAYER8_COMMAND_REMOVE_LINK:
        return layer8_remove_link(sw, command->a, (uint16_t)command->b);
    case LAYER8_COMMAND_ADD_REMOTE:
        return layer8_add_remote(sw, command->port, command->pointer, command->a, command->b);
    default:
        return layer8_refuse_source(sw, command->a, command->uuid);
    }
}

/* A handle that is given back, not taken away: what was sent under it is still delivered. So the command waits until the
 * transmit ring has been forwarded, by its turns, up to where it stood, and what concerns the port's handles waits behind
 * it, for the slot may be granted again. A port that is stalled waits for nothing. */
static bool defer(layer8_switch *sw, port_t *port, const struct command *command) {
    if ((command->kind != LAYER8_COMMAND_GRANT && command->kind != LAYER8_COMMAND_REVOKE) || !port_alive(port) ||
        port->adjacent != NULL) {
        return false;
    }
    bool release = command->kind == LAYER8_COMMAND_REVOKE && command->b == LAYER8_SLOT_OPEN;
    uint64_t tail = layer8_load_acquire(&port->control->transmit_tail);
    bool must_wait = release && tail != port->transmit_head && !sw->frozen && port->resumed && !port->stalled;
    if (!must_wait && list_empty(&port->deferred)) {
        return false;
    }
    struct deferred *deferred = calloc(1, sizeof *deferred);
    if (deferred == NULL) {
        layer8_commands_deferred(sw, port, true);
        return false;
    }
    *deferred = (struct deferred){.command = *command, .until = tail, .released = release};
    list_append(&port->deferred, &deferred->of_port);
    layer8_activate(sw, port);
    return true;
}

static void carry_out(layer8_switch *sw, const struct command *command) {
    port_t *port = port_by_id(sw, command->port);
    int status = LAYER8_GONE;
    if (command->kind == LAYER8_COMMAND_STOP) {
        sw->stop = true;
        status = LAYER8_OK;
    } else if (command->kind == LAYER8_COMMAND_QUIESCE) {
        sw->quiescing = true;
        sw->quiesce_token = command->token;
        return;
    } else if (command->kind == LAYER8_COMMAND_START) {
        KILL_POINT(14);
        layer8_start(sw);
        status = LAYER8_OK;
    } else if (command->kind == LAYER8_COMMAND_ADD_PORT) {
        status = add_port(sw, command);
    } else if (command->kind >= LAYER8_COMMAND_ADD_LINK && command->kind <= LAYER8_COMMAND_REFUSE_SOURCE) {
        status = run_for_link(sw, command);
    } else if (port_alive(port)) {
        switch (command->kind) {
        case LAYER8_COMMAND_REMOVE_PORT:
            layer8_port_begin_close(sw, port, command->a, (uint64_t)command->b * 1000000u);
            status = LAYER8_OK;
            break;
        case LAYER8_COMMAND_RESUME:
            if (port->adjacent == NULL) {
                if (command->pointer != NULL) {
                    layer8_halves_told(sw, port, command->pointer, command->a, command->b);
                }
                layer8_resume(sw, port);
                status = LAYER8_OK;
            }
            break;
        case LAYER8_COMMAND_GRANT:
            status = grant(sw, port, command->a, command->b, command->c, command->d);
            if (port->adjacent != NULL) {
                layer8_remote_granted(sw, port, status != LAYER8_OK);
            }
            break;
        case LAYER8_COMMAND_REVOKE:
            status = revoke_handle(sw, port, command->a, command->b);
            break;
        case LAYER8_COMMAND_JOIN_ALIAS:
            status = join(sw, port, command->a);
            break;
        case LAYER8_COMMAND_LEAVE_ALIAS:
            status = leave(sw, port, command->a);
            break;
        case LAYER8_COMMAND_SUBSCRIBE:
            status = subscribe(sw, port, command->a, command->b, command->c != 0);
            break;
        case LAYER8_COMMAND_UNSUBSCRIBE:
            status = unsubscribe(sw, port, command->a, command->b);
            break;
        default:
            status = LAYER8_INVALID;
        }
    }
    if (command->kind == LAYER8_COMMAND_RESUME) {
        free(command->pointer);
    }
    layer8_emit(sw, LAYER8_EVENT_DONE, command->port, command->token, status, NULL);
}

void layer8_commands_deferred(layer8_switch *sw, port_t *port, bool all) {
    while (!list_empty(&port->deferred)) {
        struct deferred *first = OWNER(struct deferred, of_port, port->deferred.next);
        if (first->released && !all && port->transmit_head - first->until >= UINT64_MAX / 2) {
            return;
        }
        list_remove(&first->of_port);
        carry_out(sw, &first->command);
        free(first);
    }
}

void layer8_commands_free(layer8_switch *sw) {
    uint64_t tail = layer8_load_relaxed(&sw->command_tail);
    for (uint64_t at = layer8_load_relaxed(&sw->command_head); sw->commands != NULL && at != tail; at++) {
        if (sw->commands[at % COMMAND_RING].kind == LAYER8_COMMAND_RESUME) {
            free(sw->commands[at % COMMAND_RING].pointer);
        }
    }
    free(sw->commands);
}

void layer8_commands_run(layer8_switch *sw) {
    uint64_t head = layer8_load_relaxed(&sw->command_head);
    uint64_t tail = layer8_load_acquire(&sw->command_tail);
    while (head != tail) {
        struct command command = sw->commands[head++ % COMMAND_RING];
        layer8_store_release(&sw->command_head, head);
        if (!defer(sw, port_by_id(sw, command.port), &command)) {
            carry_out(sw, &command);
        }
    }
}
