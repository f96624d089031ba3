/* outcomes.c - the tags of what is on its way over a link, the outcomes that end them, and those for what came. */
#include "remote.h"

#define ANSWER_BYTES (UINT64_C(32) << 10) /* outcomes of less wait for company, */
#define ANSWER_NS UINT64_C(1000000)       /* so long */

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

struct sent *layer8_tag_new(layer8_switch *sw, struct adjacent *adjacent) {
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

/* ---- outcomes for what came ---- */

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

bool layer8_outcomes_send(struct adjacent *adjacent) {
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
bool layer8_outcomes_wait(layer8_switch *sw, struct adjacent *adjacent) {
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

/* ---- outcomes of what was sent ---- */

static void answered(layer8_switch *sw, struct adjacent *adjacent, struct sent *sent, uint16_t reason) {
    port_t *to = sent->span != 0 ? port_by_id(sw, sent->port) : NULL;
    struct owed *owed = sent->owed;
    if (sent->parcel != NULL) {
        if (sent->parcel->half != NULL) {
            layer8_half_answered(sw, sent->parcel->half, reason == LAYER8_REASON_ABORTED);
        }
        list_remove(&sent->parcel->of_adjacent);
        layer8_pool_give(&sw->parcel_pool, sent->parcel);
    }
    if (to != NULL && to->adjacent == adjacent) {
        to->way_bytes -= sent->span;
        while (!list_empty(&to->blocked) && to->way_bytes < LAYER8_WINDOW) { /* each looks again when its turn comes */
            struct list *flow = to->blocked.next;
            list_remove(flow);
            list_append(&adjacent->ready, flow);
        }
    }
    layer8_pool_give(&sw->sent_pool, sent);
    if (owed == NULL) {
        return;
    }
    if (reason != LAYER8_REASON_NONE && layer8_owed_again(owed)) {
        reason = LAYER8_REASON_UNKNOWN; /* refused now, and perhaps delivered before */
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
bool layer8_outcomes_take(layer8_switch *sw, struct adjacent *adjacent, const struct layer8_frame_head *head) {
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

/* Nothing is on its way any more. */
void layer8_tags_forget(layer8_switch *sw, struct adjacent *adjacent) {
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
