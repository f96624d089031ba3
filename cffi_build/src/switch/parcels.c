/* parcels.c - what is said to an adjacent Vnet once, and must arrive: gone, abort, cancel, a request that failed; and whether a
 * message that stands half here goes on. */
#include "remote.h"

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

void layer8_remote_ask(layer8_switch *sw, port_t *source, struct half *half) {
    struct layer8_record question = {.kind = LAYER8_CANCEL,
                                     .reason = half->key.kind,
                                     .slot = half->key.slot,
                                     .generation = half->key.generation,
                                     .correlation = half->key.correlation};
    struct parcel *parcel = say(sw, source, half->to->uuid, &question);
    if (parcel != NULL) {
        parcel->frame.record.topic = half->key.topic;
        parcel->half = half;
        half->parcel = parcel;
    }
}

bool layer8_parcels_send(layer8_switch *sw, struct adjacent *adjacent) {
    struct list *at = adjacent->parcels.prev;
    for (uint32_t n = 1; n < adjacent->parcels_unsent; n++) {
        at = at->prev;
    }
    while (adjacent->parcels_unsent != 0) {
        struct parcel *parcel = OWNER(struct parcel, of_adjacent, at);
        uint64_t length = parcel->gone ? sizeof(struct layer8_frame_gone) : sizeof parcel->frame;
        struct sent *sent = layer8_queue_room(adjacent->link, length) ? layer8_tag_new(sw, adjacent) : NULL;
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
