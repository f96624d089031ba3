/* link.c - the session with an adjacent Vnet: what goes out, in which order, and what its answers mean.
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
#define TURN_RECORDS 64u               /* sent of one flow in its turn */
#define TURN_BYTES 65536u
#define ANSWER_BYTES (UINT64_C(32) << 10) /* outcomes of less wait for company, */
#define ANSWER_NS UINT64_C(1000000)       /* so long */
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

/* ---- tags ---- */

static void grow_sent(struct adjacent *adjacent) {
    uint32_t mask = adjacent->sent_mask * 2 + 1;
    struct sent **grown = calloc(mask + (size_t)1, sizeof(struct sent *));
    if (grown == NULL) {
        return; /* longer chains will do */
    }
    for (uint32_t n = 0; n <= adjacent->sent_mask; n++) {
        for (struct sent *at = adjacent->sent[n]; at != NULL;) {
            struct sent *next = at->next;
            at->next = grown[at->tag & mask];
            grown[at->tag & mask] = at;
            at = next;
        }
    }
    free(adjacent->sent);
    adjacent->sent = grown;
    adjacent->sent_mask = mask;
}

static struct sent *new_tag(layer8_switch *sw, struct adjacent *adjacent) {
    struct sent *sent = layer8_pool_take(&sw->sent_pool);
    if (sent == NULL) {
        return NULL;
    }
    if (adjacent->sent_count > adjacent->sent_mask) {
        grow_sent(adjacent);
    }
    sent->tag = adjacent->next_tag++;
    struct sent **bucket = &adjacent->sent[sent->tag & adjacent->sent_mask];
    sent->next = *bucket;
    *bucket = sent;
    adjacent->sent_count++;
    return sent;
}

static struct sent *take_tag(struct adjacent *adjacent, uint64_t tag) {
    struct sent **at = &adjacent->sent[tag & adjacent->sent_mask];
    while (*at != NULL && (*at)->tag != tag) {
        at = &(*at)->next;
    }
    struct sent *sent = *at;
    if (sent != NULL) {
        *at = sent->next;
        adjacent->sent_count--;
    }
    return sent;
}

/* ---- congestion of a proxy: its link is down, or too much is owed to it ---- */

static void weigh(layer8_switch *sw, port_t *port) {
    bool down = port->adjacent->link == NULL;
    if (!port->congested && (down || port->owed_bytes > LAYER8_WINDOW)) {
        layer8_congest_mark(sw, port);
    } else if (port->congested && !down && port->owed_bytes <= LAYER8_WINDOW / 4) {
        layer8_congest_clear(sw, port);
    }
}

static void make_ready(layer8_switch *sw, struct flow *flow) {
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
        make_ready(sw, flow);
    }
    if (to->owed_bytes > LAYER8_WINDOW) {
        weigh(sw, to);
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
        weigh(sw, to);
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
    struct sent *sent = new_tag(sw, adjacent);
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
    COUNT(adjacent->link->records_out, 1);
    return SEND_DONE;
}

/* One turn of a flow; false: the queue is full. */
static bool send_turn(layer8_switch *sw, struct adjacent *adjacent, struct flow *flow) {
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
            make_ready(sw, flow);
            return true;
        }
    }
}

static bool send_parcels(layer8_switch *sw, struct adjacent *adjacent) {
    struct link *at = adjacent->parcels.prev;
    for (uint32_t n = 1; n < adjacent->parcels_unsent; n++) {
        at = at->prev;
    }
    while (adjacent->parcels_unsent != 0) {
        struct parcel *parcel = OWNER(struct parcel, of_adjacent, at);
        uint64_t length = parcel->gone ? sizeof(struct layer8_frame_gone) : sizeof parcel->frame;
        struct sent *sent = layer8_queue_room(adjacent->link, length) ? new_tag(sw, adjacent) : NULL;
        if (sent == NULL) {
            return false;
        }
        sent->parcel = parcel;
        parcel->sent = sent;
        parcel->frame.tag = sent->tag;
        layer8_queue_write(adjacent->link, &parcel->frame, length);
        adjacent->parcels_unsent--;
        at = at->next;
    }
    return true;
}

static bool send_answers(struct adjacent *adjacent) {
    uint32_t from = 0;
    while (from != adjacent->answer_count) {
        uint32_t count = adjacent->answer_count - from < LAYER8_RUNS_MAX ? adjacent->answer_count - from : LAYER8_RUNS_MAX;
        uint64_t bytes = count * sizeof(struct layer8_outcome);
        struct layer8_frame_head head = {.length = (uint32_t)(sizeof head - sizeof head.length + bytes),
                                         .type = LAYER8_FRAME_OUTCOMES};
        if (!layer8_queue_room(adjacent->link, sizeof head + bytes)) {
            break;
        }
        layer8_queue_write(adjacent->link, &head, sizeof head);
        layer8_queue_write(adjacent->link, adjacent->answers + from, bytes);
        from += count;
    }
    adjacent->answer_count -= from;
    adjacent->answer_bytes = 0;
    if (adjacent->answer_count == 0) {
        return true;
    }
    memmove(adjacent->answers, adjacent->answers + from, adjacent->answer_count * sizeof(struct layer8_outcome));
    return false;
}

/* A few outcomes wait a moment for a record that goes the same way, mostly a reply: alone they would wake four threads,
 * and these would be in the way of the reply. A sender can have far more on its way than is kept back here. */
static bool answers_wait(layer8_switch *sw, struct adjacent *adjacent) {
    if (adjacent->answer_count == 0 || adjacent->answer_bytes >= ANSWER_BYTES || adjacent->parcels_unsent != 0 ||
        !list_empty(&adjacent->ready) || sw->quiescing) {
        return false;
    }
    uint64_t now = layer8_now_ns();
    if (!list_linked(&adjacent->late)) {
        adjacent->late_ns = now + ANSWER_NS;
        list_append(&sw->late, &adjacent->late);
    }
    return now < adjacent->late_ns;
}

/* Sends what may go; true: there is more, and the queue has room again. */
static bool send_all(layer8_switch *sw, struct adjacent *adjacent) {
    if (answers_wait(sw, adjacent)) {
        return false;
    }
    list_remove(&adjacent->late);
    bool room = send_answers(adjacent) && send_parcels(sw, adjacent);
    while (room && !list_empty(&adjacent->ready)) {
        room = send_turn(sw, adjacent, OWNER(struct flow, of_adjacent, adjacent->ready.next));
        if (adjacent->link->out_written - layer8_load_relaxed(&adjacent->link->out_tail) >= PUBLISH_BYTES) {
            layer8_queue_publish(adjacent->link); /* so that it is encrypted while the rest is copied */
        }
    }
    layer8_queue_publish(adjacent->link);
    return !room && layer8_queue_ask_room(adjacent->link);
}

void layer8_answer(layer8_switch *sw, struct adjacent *adjacent, uint64_t tag, uint64_t span, uint16_t reason) {
    if (adjacent->link == NULL) {
        return; /* it will come again */
    }
    adjacent->answer_bytes += reason == LAYER8_REASON_NONE ? span : ANSWER_BYTES; /* bad news travels at once */
    layer8_adjacent_busy(sw, adjacent);
    struct layer8_outcome *last = adjacent->answer_count != 0 ? &adjacent->answers[adjacent->answer_count - 1] : NULL;
    if (last != NULL && last->first + last->count == tag && last->reason == reason && last->count < LAYER8_RUN_MAX) {
        last->count++;
        return;
    }
    if (adjacent->answer_count == adjacent->answer_capacity) {
        uint32_t capacity = adjacent->answer_capacity == 0 ? 64 : adjacent->answer_capacity * 2;
        struct layer8_outcome *grown = realloc(adjacent->answers, capacity * sizeof *grown);
        if (grown == NULL) {
            layer8_adjacent_violation(sw, adjacent); /* what cannot be answered must come again */
            return;
        }
        adjacent->answers = grown;
        adjacent->answer_capacity = capacity;
    }
    adjacent->answers[adjacent->answer_count++] = (struct layer8_outcome){.first = tag, .count = 1, .reason = reason};
}

/* ---- what is said once ---- */

static struct parcel *new_parcel(layer8_switch *sw, struct adjacent *adjacent) {
    struct parcel *parcel = layer8_pool_take(&sw->parcel_pool);
    if (parcel != NULL) {
        parcel->frame.head.type = LAYER8_FRAME_RECORD;
        parcel->frame.head.destination_kind = LAYER8_TARGET_PORT;
        parcel->frame.head.length = sizeof parcel->frame - sizeof(uint32_t);
        list_append(&adjacent->parcels, &parcel->of_adjacent);
        adjacent->parcels_unsent++;
        layer8_adjacent_busy(sw, adjacent);
    }
    return parcel;
}

/* A record without a body for a Vnic at the other end. */
static struct parcel *say(layer8_switch *sw, port_t *to, const uint8_t *source, const struct layer8_record *record) {
    struct parcel *parcel = new_parcel(sw, to->adjacent);
    if (parcel != NULL) {
        parcel->frame.record = *record;
        parcel->frame.record.flags = LAYER8_FIRST | LAYER8_LAST;
        parcel->frame.record.length = 0;
        parcel->frame.record.headers = 0;
        parcel->frame.record.fragment = 0;
        parcel->frame.record.fragments = 1;
        parcel->frame.record.topic = 0;
        parcel->frame.record.missed = 0;
        parcel->frame.record.principal = 0;
        memcpy(parcel->frame.record.source, source, sizeof parcel->frame.record.source);
        memcpy(parcel->frame.destination, to->uuid, sizeof to->uuid);
    }
    return parcel;
}

void layer8_remote_abort(layer8_switch *sw, port_t *to, const struct layer8_record *abort, uint16_t topic_number) {
    struct parcel *parcel = port_alive(to) ? say(sw, to, abort->source, abort) : NULL;
    if (parcel != NULL && abort->reason == LAYER8_PUBLISH) {
        uint32_t number = topic_number;
        memset(parcel->frame.destination, 0, sizeof parcel->frame.destination);
        memcpy(parcel->frame.destination, &number, sizeof number);
        parcel->frame.head.destination_kind = LAYER8_TARGET_TOPIC;
    }
}

void layer8_remote_cancel(layer8_switch *sw, port_t *callee, const port_t *caller, const struct layer8_record *cancel) {
    (void)say(sw, callee, caller->uuid, cancel);
}

void layer8_remote_fail(layer8_switch *sw, port_t *caller, const struct layer8_record *request, uint16_t reason,
                        const uint8_t *callee) {
    struct layer8_record notice = *request;
    notice.kind = LAYER8_NOTICE;
    notice.reason = reason;
    if (callee != NULL) {
        (void)say(sw, caller, callee, &notice);
    }
}

void layer8_remote_gone(layer8_switch *sw, const port_t *port) {
    for (uint32_t n = 0; n < LAYER8_LINKS; n++) {
        struct parcel *parcel = sw->adjacents[n] != NULL ? new_parcel(sw, sw->adjacents[n]) : NULL;
        if (parcel != NULL) {
            struct layer8_frame_gone gone = {.head = {.length = sizeof gone - sizeof(uint32_t), .type = LAYER8_FRAME_GONE}};
            memcpy(gone.uuid, port->uuid, sizeof gone.uuid);
            parcel->gone = true;
            memcpy(&parcel->frame, &gone, sizeof gone);
        }
    }
}

/* ---- answers ---- */

static void answered(layer8_switch *sw, struct adjacent *adjacent, struct sent *sent, uint16_t reason) {
    port_t *to = sent->span != 0 ? port_by_id(sw, sent->port) : NULL;
    struct owed *owed = sent->owed;
    if (sent->parcel != NULL) {
        list_remove(&sent->parcel->of_adjacent);
        layer8_pool_give(&sw->parcel_pool, sent->parcel);
    }
    if (to != NULL && to->adjacent == adjacent) {
        to->way_bytes -= sent->span;
        while (!list_empty(&to->blocked) && to->way_bytes < LAYER8_WINDOW) { /* each looks again when its turn comes */
            struct link *flow = to->blocked.next;
            list_remove(flow);
            list_append(&adjacent->ready, flow);
        }
    }
    layer8_pool_give(&sw->sent_pool, sent);
    if (owed == NULL) {
        return;
    }
    owed->sent = NULL;
    owed->repeated = true; /* it was there, whatever comes next */
    const struct layer8_record *record = &owed->held->record;
    if (layer8_is_reply(record->kind)) {
        struct right *right = layer8_right_of_reply(sw, owed->flow->source, record);
        if (reason != LAYER8_REASON_NONE && owed->message != NULL && !owed->message->refused) {
            layer8_message_refuse(sw, owed->flow->source, owed->message); /* the caller no longer waits */
        }
        if (right != NULL && (reason != LAYER8_REASON_NONE || (record->flags & LAYER8_LAST) != 0)) {
            layer8_right_end(sw, right);
        }
        layer8_owed_done(sw, owed);
    } else if (reason == LAYER8_REASON_NONE) {
        layer8_owed_done(sw, owed);
    } else {
        layer8_owed_refuse(sw, owed, reason);
    }
}

/* False: it answers what was never sent. */
static bool take_outcomes(layer8_switch *sw, struct adjacent *adjacent, const struct layer8_frame_head *head) {
    uint32_t count = (uint32_t)((head->length + sizeof head->length - sizeof *head) / sizeof(struct layer8_outcome));
    for (uint32_t n = 0; n < count; n++) {
        struct layer8_outcome run;
        memcpy(&run, (const uint8_t *)(head + 1) + n * sizeof run, sizeof run);
        if (run.first >= adjacent->next_tag || run.count > adjacent->next_tag - run.first) {
            return false;
        }
        for (uint32_t at = 0; at < run.count; at++) {
            struct sent *sent = take_tag(adjacent, run.first + at);
            if (sent != NULL) {
                answered(sw, adjacent, sent, run.reason);
            }
        }
    }
    return true;
}

/* ---- a round ---- */

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
        return take_outcomes(sw, adjacent, head);
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
    struct link round;
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
        bool more = take_frames(sw, adjacent);
        layer8_flush(sw); /* receivers read while the answers are on their way */
        list_remove(&adjacent->busy); /* what was found to be sent meanwhile is sent now */
        more = send_all(sw, adjacent) || more;
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
        }
        weigh(sw, port);
    }
    adjacent->ever_up = true;
    layer8_adjacent_busy(sw, adjacent);
    return LAYER8_OK;
}

/* Nothing is on its way any more. */
static void forget_sent(layer8_switch *sw, struct adjacent *adjacent) {
    for (uint32_t n = 0; n <= adjacent->sent_mask; n++) {
        while (adjacent->sent[n] != NULL) {
            struct sent *sent = adjacent->sent[n];
            adjacent->sent[n] = sent->next;
            if (sent->owed != NULL) {
                sent->owed->sent = NULL;
                sent->owed->repeated = true;
            }
            if (sent->parcel != NULL) {
                sent->parcel->sent = NULL;
                adjacent->parcels_unsent++;
            }
            layer8_pool_give(&sw->sent_pool, sent);
        }
    }
    adjacent->sent_count = 0;
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
    forget_sent(sw, adjacent);
    layer8_arrivals_forget(sw, adjacent);
    FOR_EACH(at, &adjacent->proxies) {
        port_t *port = OWNER(port_t, of_adjacent, at);
        port->way_bytes = 0;
        FOR_EACH(waiting, &port->waiting) {
            struct flow *flow = OWNER(struct flow, of_target, waiting);
            flow->unsent = flow->first;
            list_remove(&flow->of_adjacent);
            make_ready(sw, flow);
        }
        weigh(sw, port);
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
        struct link *at = adjacent->parcels.next;
        list_remove(at);
        layer8_pool_give(&sw->parcel_pool, OWNER(struct parcel, of_adjacent, at));
    }
    layer8_adjacent_free(sw, adjacent);
    return LAYER8_OK;
}
