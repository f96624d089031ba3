/* queue.h - the two queues of one connection: frames of the switch to the link thread, and back. Private memory, one
 * producer and one consumer each. The link thread may be another one for every connection; a queue is never reused. */
#ifndef LAYER8_SWITCH_QUEUE_H
#define LAYER8_SWITCH_QUEUE_H

#include "internal.h"
#include "layer8/wire.h"

struct layer8_link {
    uint8_t *out, *in; /* `out` is the byte stream; frames in `in` start on 8 bytes and do not wrap */
    uint64_t capacity; /* of each, a power of two */
    int event_fd;      /* token for the link thread: something to send, or room to feed */
    int switch_fd;     /* token for the switch: something fed, or room to send */

    uint64_t out_written;                     /* switch: up to here frames stand in `out`, published once a round */
    _Alignas(128) _Atomic uint64_t out_tail;  /* switch */
    _Alignas(128) _Atomic uint64_t out_head;  /* link thread */
    _Alignas(128) _Atomic uint64_t in_tail;   /* link thread */
    _Alignas(128) _Atomic uint64_t in_head;   /* switch */
    _Alignas(128) struct layer8_wakeup filled; /* link thread waits: for something in `out` */
    struct layer8_wakeup drained;             /*                    for room in `in` */
    _Alignas(128) struct layer8_wakeup fed;   /* switch waits:      for something in `in` */
    struct layer8_wakeup room;                /*                    for room in `out` */

    _Alignas(128) _Atomic uint64_t records_out, bytes_out, batches_out; /* link thread, and the records the switch */
    _Alignas(128) _Atomic uint64_t records_in, bytes_in, batches_in;
};

/* ---- the switch's side ---- */

bool layer8_queue_room(const layer8_link *link, uint64_t bytes); /* for a frame, counting what is not published */
void layer8_queue_write(layer8_link *link, const void *bytes, uint64_t length); /* there is room */
void layer8_queue_publish(layer8_link *link);
bool layer8_queue_ask_room(layer8_link *link); /* announces; true: there is room after all */
/* The frame at the head, or NULL. It stays until `layer8_queue_take`. */
const struct layer8_frame_head *layer8_queue_next(layer8_link *link);
void layer8_queue_take(layer8_link *link);
void layer8_queue_taken(layer8_link *link); /* once a round: wakes a link thread that waits for room */
bool layer8_queue_ask_fed(layer8_link *link); /* announces; true: there is something after all */

#endif
