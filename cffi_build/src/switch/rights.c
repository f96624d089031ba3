/* rights.c - rights to reply: (callee, caller, correlation), one slot each.
 *
 *   open ──(last fragment of the reply accepted into the hold ring)──▶ answered ──(delivered)──▶ free
 *     ├──(last fragment of the reply delivered)──▶ free
 *     └──(cancel by the caller, death of either)──▶ free; the caller is told unless it cancelled or died
 *
 * A delivered request carries the slot's index and generation, the reply brings them back: one look-up, no search. The
 * hash (caller, correlation) serves cancels alone. */
#include "internal.h"

static uint32_t bucket_of(const layer8_switch *sw, const port_t *caller, uint64_t correlation) {
    uint64_t mixed = (correlation ^ ((uint64_t)caller->id << 32) ^ sw->right_seed) * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(mixed >> 32) & sw->rights_mask;
}

struct right *layer8_right_make(layer8_switch *sw, port_t *caller, port_t *callee, const struct layer8_record *record,
                                uint32_t *index) {
    if (caller->outstanding >= sw->config.max_rights_per_port) {
        return NULL;
    }
    if (sw->rights_free != NO_RIGHT) {
        *index = sw->rights_free;
        sw->rights_free = sw->rights[*index].next;
    } else if (sw->rights_made < sw->max_rights) {
        *index = sw->rights_made++;
        sw->rights[*index].generation = (uint16_t)(sw->right_seed >> 16); /* a right of an earlier Vnet names none here */
    } else {
        return NULL;
    }
    struct right *right = &sw->rights[*index];
    uint32_t bucket = bucket_of(sw, caller, record->correlation);
    right->caller = caller;
    right->callee = callee;
    right->correlation = record->correlation;
    right->sequence = record->sequence;
    right->slot = record->slot;
    right->handle_generation = record->generation;
    right->state = RIGHT_OPEN;
    right->next = sw->right_buckets[bucket];
    sw->right_buckets[bucket] = *index;
    list_append(&caller->as_caller, &right->of_caller);
    list_append(&callee->as_callee, &right->of_callee);
    layer8_store_relaxed(&caller->outstanding_count, ++caller->outstanding);
    COUNT(sw->outstanding, 1);
    return right;
}

struct right *layer8_right_of_reply(layer8_switch *sw, const port_t *callee, const struct layer8_record *record) {
    if (record->missed >= sw->rights_made) {
        return NULL;
    }
    struct right *right = &sw->rights[record->missed];
    return right->state != RIGHT_FREE && right->callee == callee && right->generation == record->topic &&
                   right->correlation == record->correlation
               ? right
               : NULL;
}

bool layer8_right_stands(const layer8_switch *sw, const struct message *message) {
    return message->right != NO_RIGHT && sw->rights[message->right].state != RIGHT_FREE &&
           sw->rights[message->right].generation == message->right_generation;
}

struct right *layer8_right_of_call(layer8_switch *sw, const port_t *caller, uint64_t correlation, uint32_t *index) {
    for (*index = sw->right_buckets[bucket_of(sw, caller, correlation)]; *index != NO_RIGHT;
         *index = sw->rights[*index].next) {
        struct right *right = &sw->rights[*index];
        if (right->caller == caller && right->correlation == correlation) {
            return right;
        }
    }
    return NULL;
}

void layer8_right_end(layer8_switch *sw, struct right *right) {
    uint32_t index = (uint32_t)(right - sw->rights);
    uint32_t *at = &sw->right_buckets[bucket_of(sw, right->caller, right->correlation)];
    while (*at != index) {
        at = &sw->rights[*at].next;
    }
    *at = right->next;
    list_remove(&right->of_caller);
    list_remove(&right->of_callee);
    layer8_store_relaxed(&right->caller->outstanding_count, --right->caller->outstanding);
    COUNT(sw->outstanding, (uint64_t)-1);
    right->state = RIGHT_FREE;
    right->generation++;
    right->next = sw->rights_free;
    sw->rights_free = index;
}

/* As the right's caller sees it: the request it sent. */
static struct layer8_record request_of(const struct right *right) {
    return (struct layer8_record){
        .kind = LAYER8_REQUEST,
        .slot = right->slot,
        .generation = right->handle_generation,
        .sequence = right->sequence,
        .correlation = right->correlation,
        .fragments = 1,
    };
}

void layer8_right_fail(layer8_switch *sw, struct right *right, uint16_t reason) {
    struct layer8_record request = request_of(right);
    port_t *caller = right->caller;
    const uint8_t *callee = right->callee->uuid;
    layer8_right_end(sw, right);
    layer8_report(sw, caller, &request, reason, callee);
}

/* The requests that `port` took and will not answer: their callers are told. */
void layer8_rights_fail(layer8_switch *sw, port_t *port, uint16_t reason, bool answered_too) {
    FOR_EACH_SAFE(at, &port->as_callee) {
        struct right *right = OWNER(struct right, of_callee, at);
        if (right->state == RIGHT_OPEN || answered_too) {
            layer8_right_fail(sw, right, reason);
        }
    }
}

/* The callee need not answer any more. */
static void right_cancel(layer8_switch *sw, struct right *right, uint16_t reason) {
    struct layer8_record cancel = request_of(right);
    port_t *callee = right->callee;
    cancel.kind = LAYER8_CANCEL;
    cancel.flags = LAYER8_FIRST | LAYER8_LAST;
    memcpy(cancel.source, right->caller->uuid, sizeof cancel.source);
    cancel.principal = right->caller->principal;
    cancel.reason = reason;
    cancel.missed = (uint32_t)(right - sw->rights);
    cancel.topic = right->generation;
    layer8_right_end(sw, right);
    (void)layer8_put(sw, callee, &cancel, NULL, PUT_RECORD);
}

/* The requests that `port` made: whoever took them need not answer any more. */
void layer8_rights_cancel(layer8_switch *sw, port_t *port) {
    FOR_EACH_SAFE(at, &port->as_caller) { right_cancel(sw, OWNER(struct right, of_caller, at), LAYER8_REASON_GONE); }
}

/* The handle under which it was asked is taken away: both sides are told. */
void layer8_right_revoke(layer8_switch *sw, struct right *right) {
    struct layer8_record request = request_of(right);
    port_t *caller = right->caller;
    uint8_t callee[16];
    memcpy(callee, right->callee->uuid, sizeof callee);
    layer8_replies_abort(sw, right);
    right_cancel(sw, right, LAYER8_REASON_REVOKED);
    layer8_report(sw, caller, &request, LAYER8_REASON_REVOKED, callee);
}
