/* link.c - the session with an adjacent Vnet, its connections, and its rounds: what is taken, and what goes, in which order.
 *
 *   owed to a proxy ─▶ unsent ──(queue and window have room)──▶ on its way ──(outcome)──▶ delivered, or refused: why
 *                        ▲                                        │
 *                        └──────────────(LINK_DOWN)───────────────┘  and is then a retry
 *
 * A round sends outcomes first, then parcels, then flows in turn, so a large message delays others by a fragment each.
 * What was written in a round is published once, at its end. */
#include "remote.h"

#include <sys/epoll.h>

#define LINKS_ID (UINT64_C(1) << 32)
#define ROUND_FRAMES 1024u             /* taken from one link in its turn, */
#define ROUND_BYTES (UINT64_C(128) << 10) /* or so much: then receivers are rung and the answers go */
#define PUBLISH_BYTES (UINT64_C(128) << 10)

/* ---- life ---- */

struct adjacent *layer8_adjacent(layer8_switch *sw, uint32_t number) {
    return number < LAYER8_LINKS ? sw->adjacents[number] : NULL;
}

int layer8_add_link(layer8_switch *sw) {
    for (uint32_t n = 0; n < LAYER8_LINKS; n++) {
        if (sw->adjacents[n] != NULL) {
            continue;
        }
        struct adjacent *adjacent = calloc(1, sizeof *adjacent);
        if (adjacent == NULL) {
            return LAYER8_SYSTEM;
        }
        adjacent->sent_mask = 1023;
        adjacent->sent = calloc(adjacent->sent_mask + (size_t)1, sizeof(struct sent *));
        adjacent->unanswered = calloc(sw->config.max_ports + (size_t)1, sizeof(uint64_t));
        adjacent->number = n;
        list_init(&adjacent->busy);
        list_init(&adjacent->late);
        list_init(&adjacent->proxies);
        list_init(&adjacent->ready);
        list_init(&adjacent->parcels);
        list_init(&adjacent->strangers);
        if (adjacent->sent == NULL || adjacent->unanswered == NULL) {
            layer8_adjacent_free(sw, adjacent);
            return LAYER8_SYSTEM;
        }
        sw->adjacents[n] = adjacent;
        return (int)n;
    }
    return LAYER8_FULL;
}

void layer8_adjacent_free(layer8_switch *sw, struct adjacent *adjacent) {
    FOR_EACH_SAFE(at, &adjacent->strangers) {
        struct stranger *stranger = OWNER(struct stranger, of_adjacent, at);
        FOR_EACH(queued, &stranger->arrivals) { free(OWNER(struct arrival, queue, queued)->body); }
        sw->stranger_count--;
        free(stranger);
    }
    if (adjacent->number < LAYER8_LINKS && sw->adjacents[adjacent->number] == adjacent) {
        sw->adjacents[adjacent->number] = NULL;
    }
    list_remove(&adjacent->busy);
    list_remove(&adjacent->late);
    free(adjacent->sent);
    free(adjacent->unanswered);
    free(adjacent->answers);
    free(adjacent);
}

void layer8_adjacent_busy(layer8_switch *sw, struct adjacent *adjacent) {
    if (adjacent->link != NULL && !list_linked(&adjacent->busy)) {
        list_append(&sw->busy, &adjacent->busy);
    }
}

void layer8_take_link_token(layer8_switch *sw, uint32_t number) {
    struct adjacent *adjacent = layer8_adjacent(sw, number);
    if (adjacent != NULL && adjacent->link != NULL) {
        uint64_t ignored;
        ssize_t got = read(adjacent->link->switch_fd, &ignored, sizeof ignored);
        (void)got;
        layer8_adjacent_busy(sw, adjacent);
    }
}

void layer8_adjacent_violation(layer8_switch *sw, struct adjacent *adjacent) {
    if (!adjacent->broken) {
        adjacent->broken = true;
        COUNT(sw->violations, 1);
        layer8_emit_event(sw, (layer8_event){.kind = LAYER8_EVENT_LINK_VIOLATION, .link = adjacent->number});
    }
}

/* ---- a round ---- */

/* Sends what may go; true: there is more, and the queue has room again. */
static bool send_all(layer8_switch *sw, struct adjacent *adjacent) {
    if (layer8_outcomes_wait(sw, adjacent)) {
        return false;
    }
    list_remove(&adjacent->late);
    bool room = layer8_outcomes_send(adjacent) && layer8_parcels_send(sw, adjacent);
    while (room && !list_empty(&adjacent->ready)) {
        room = layer8_departures_turn(sw, adjacent, OWNER(struct flow, of_adjacent, adjacent->ready.next));
        if (adjacent->link->out_written - layer8_load_relaxed(&adjacent->link->out_tail) >= PUBLISH_BYTES) {
            layer8_queue_publish(adjacent->link); /* so that it is encrypted while the rest is copied */
        }
    }
    layer8_queue_publish(adjacent->link);
    return !room && layer8_queue_ask_room(adjacent->link);
}

static bool take_frame(layer8_switch *sw, struct adjacent *adjacent, const struct layer8_frame_head *head) {
    switch (head->type) {
    case LAYER8_FRAME_RECORD: {
        const struct layer8_frame_record *frame = (const void *)head;
        return layer8_arrive(sw, adjacent, frame, (const uint8_t *)(frame + 1));
    }
    case LAYER8_FRAME_GONE:
        layer8_arrive_gone(sw, adjacent, (const void *)head);
        return true;
    default:
        return layer8_outcomes_take(sw, adjacent, head);
    }
}

/* True: there is more to take. */
static bool take_frames(layer8_switch *sw, struct adjacent *adjacent) {
    const struct layer8_frame_head *head;
    uint64_t bytes = 0;
    sw->spent = 0;
    for (uint32_t n = 0; n < ROUND_FRAMES && bytes < ROUND_BYTES && !adjacent->broken; n++) {
        head = layer8_queue_next(adjacent->link);
        if (head == NULL) {
            layer8_queue_taken(adjacent->link);
            return layer8_queue_ask_fed(adjacent->link);
        }
        bytes += head->length;
        if (!take_frame(sw, adjacent, head)) {
            layer8_adjacent_violation(sw, adjacent);
        }
        layer8_queue_take(adjacent->link);
    }
    layer8_queue_taken(adjacent->link);
    return !adjacent->broken;
}

void layer8_adjacents_step(layer8_switch *sw) {
    struct list round;
    list_init(&round);
    if (sw->frozen) {
        return;
    }
    uint64_t now = list_empty(&sw->late) ? 0 : layer8_now_ns();
    FOR_EACH(at, &sw->late) {
        struct adjacent *adjacent = OWNER(struct adjacent, late, at);
        if (now >= adjacent->late_ns) {
            layer8_adjacent_busy(sw, adjacent);
        }
    }
    list_splice(&round, &sw->busy);
    while (!list_empty(&round)) {
        struct adjacent *adjacent = OWNER(struct adjacent, busy, round.next);
        list_remove(&adjacent->busy);
        const uint64_t in = layer8_load_relaxed(&adjacent->link->in_head), out = adjacent->link->out_written;
        bool more = take_frames(sw, adjacent);
        layer8_flush(sw); /* receivers read while the answers are on their way */
        list_remove(&adjacent->busy); /* what was found to be sent meanwhile is sent now */
        more = send_all(sw, adjacent) || more;
        if (layer8_load_relaxed(&adjacent->link->in_head) != in || adjacent->link->out_written != out) {
            sw->linked_ns = layer8_now_ns();
        }
        if (more) {
            layer8_adjacent_busy(sw, adjacent);
        }
    }
}

/* ---- connections ---- */

int layer8_link_up(layer8_switch *sw, uint32_t number, layer8_link *link, bool another_epoch) {
    struct adjacent *adjacent = layer8_adjacent(sw, number);
    if (adjacent == NULL || link == NULL || adjacent->link != NULL) {
        return LAYER8_INVALID;
    }
    struct epoll_event interest = {.events = EPOLLIN, .data.u64 = LINKS_ID | number};
    if (epoll_ctl(sw->epoll, EPOLL_CTL_ADD, link->switch_fd, &interest) != 0) {
        return LAYER8_SYSTEM;
    }
    adjacent->link = link;
    adjacent->broken = false;
    adjacent->next_tag = 1;
    FOR_EACH(at, &adjacent->proxies) {
        port_t *port = OWNER(port_t, of_adjacent, at);
        if (another_epoch && adjacent->ever_up) { /* both ends gave up what they had asked and were asked */
            FOR_EACH_SAFE(waiting, &port->waiting) {
                struct flow *flow = OWNER(struct flow, of_target, waiting);
                bool last = false;
                for (struct owed *owed = flow->first; owed != NULL && !last;) {
                    struct owed *next = owed->next;
                    last = next == NULL;
                    if (owed->held->record.kind == LAYER8_REQUEST && owed->repeated) {
                        layer8_owed_refuse(sw, owed, LAYER8_REASON_UNKNOWN);
                    }
                    owed = next;
                }
            }
            FOR_EACH_SAFE(begun, &port->messages) { /* and what of it stands half at its receiver */
                struct message *message = OWNER(struct message, of_source, begun);
                if (message->first.kind >= LAYER8_REQUEST) {
                    layer8_message_abort(sw, port, message);
                }
            }
            layer8_rights_fail(sw, port, LAYER8_REASON_UNKNOWN, true);
            layer8_rights_cancel(sw, port);
            layer8_halves_begun(sw, port);
        }
        layer8_proxy_weigh(sw, port);
    }
    adjacent->ever_up = true;
    layer8_adjacent_busy(sw, adjacent);
    return LAYER8_OK;
}

int layer8_link_down(layer8_switch *sw, uint32_t number) {
    struct adjacent *adjacent = layer8_adjacent(sw, number);
    if (adjacent == NULL) {
        return LAYER8_INVALID;
    }
    if (adjacent->link == NULL) {
        return LAYER8_OK;
    }
    (void)epoll_ctl(sw->epoll, EPOLL_CTL_DEL, adjacent->link->switch_fd, NULL);
    adjacent->link = NULL;
    adjacent->answer_count = 0;
    adjacent->answer_bytes = 0;
    list_remove(&adjacent->busy);
    list_remove(&adjacent->late);
    layer8_tags_forget(sw, adjacent);
    layer8_halves_cut(sw, adjacent);
    layer8_arrivals_forget(sw, adjacent);
    FOR_EACH(at, &adjacent->proxies) {
        port_t *port = OWNER(port_t, of_adjacent, at);
        port->way_bytes = 0;
        FOR_EACH(waiting, &port->waiting) {
            struct flow *flow = OWNER(struct flow, of_target, waiting);
            flow->unsent = flow->first;
            list_remove(&flow->of_adjacent);
            layer8_flow_ready(sw, flow);
        }
        layer8_proxy_weigh(sw, port);
    }
    return LAYER8_OK;
}

int layer8_remove_link(layer8_switch *sw, uint32_t number, uint16_t reason) {
    struct adjacent *adjacent = layer8_adjacent(sw, number);
    if (adjacent == NULL) {
        return LAYER8_INVALID;
    }
    (void)layer8_link_down(sw, number);
    while (!list_empty(&adjacent->proxies)) {
        port_t *port = OWNER(port_t, of_adjacent, adjacent->proxies.next);
        if (port_alive(port)) {
            layer8_port_begin_close(sw, port, reason, 0);
        }
        port->close_ns = 0;
        layer8_port_try_reap(sw, port);
    }
    while (!list_empty(&adjacent->parcels)) {
        struct list *at = adjacent->parcels.next;
        struct parcel *parcel = OWNER(struct parcel, of_adjacent, at);
        list_remove(at);
        if (parcel->half != NULL) {
            layer8_half_free(parcel->half);
        }
        layer8_pool_give(&sw->parcel_pool, parcel);
    }
    layer8_adjacent_free(sw, adjacent);
    return LAYER8_OK;
}
