/* queue.c - the queues of one connection, both ends, and the split of the stream into frames.
 *
 * A link thread calls collect and feed with a TLS socket between; the switch does the rest. Whatever can be said of a
 * frame by looking at it alone is checked in feed, outside of the switch's time: what stands in `in` is well-formed. */
#include "queue.h"

#include <sys/eventfd.h>

#define PAD UINT32_MAX                 /* in place of a frame's length: the rest of `in` up to its end is empty */
#define QUEUE_MIN (UINT64_C(512) << 10) /* two frames of the largest size, and their pads */
#define QUEUE_MAX (UINT64_C(64) << 20)

static void ring(int eventfd) {
    uint64_t one = 1;
    ssize_t written = write(eventfd, &one, sizeof one);
    (void)written;
}

static void take_token(int eventfd) {
    uint64_t ignored;
    ssize_t got = read(eventfd, &ignored, sizeof ignored);
    (void)got;
}

layer8_link *layer8_link_new(uint64_t queue_bytes) {
    uint64_t capacity = QUEUE_MIN;
    while (capacity < queue_bytes && capacity < QUEUE_MAX) {
        capacity *= 2;
    }
    layer8_link *link = aligned_alloc(128, (sizeof *link + 127u) & ~(size_t)127u);
    if (link == NULL) {
        return NULL;
    }
    memset(link, 0, sizeof *link);
    link->capacity = capacity;
    link->out = malloc(capacity);
    link->in = malloc(capacity);
    link->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    link->switch_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (link->out == NULL || link->in == NULL || link->event_fd < 0 || link->switch_fd < 0) {
        layer8_link_free(link);
        return NULL;
    }
    return link;
}

void layer8_link_free(layer8_link *link) {
    free(link->out);
    free(link->in);
    if (link->event_fd >= 0) {
        (void)close(link->event_fd);
    }
    if (link->switch_fd >= 0) {
        (void)close(link->switch_fd);
    }
    free(link);
}

int layer8_link_event_fd(layer8_link *link) { return link->event_fd; }

void layer8_link_read(layer8_link *link, layer8_link_counters *counters) {
    *counters = (layer8_link_counters){
        .records_out = layer8_load_relaxed(&link->records_out),
        .bytes_out = layer8_load_relaxed(&link->bytes_out),
        .batches_out = layer8_load_relaxed(&link->batches_out),
        .records_in = layer8_load_relaxed(&link->records_in),
        .bytes_in = layer8_load_relaxed(&link->bytes_in),
        .batches_in = layer8_load_relaxed(&link->batches_in),
        .out_fill = layer8_load_relaxed(&link->out_tail) - layer8_load_relaxed(&link->out_head),
        .in_fill = layer8_load_relaxed(&link->in_tail) - layer8_load_relaxed(&link->in_head),
        .capacity = link->capacity,
    };
}

/* ---- out: the switch writes, the link thread collects ---- */

bool layer8_queue_room(const layer8_link *link, uint64_t bytes) {
    return link->out_written - layer8_load_acquire(&link->out_head) + bytes <= link->capacity;
}

void layer8_queue_write(layer8_link *link, const void *bytes, uint64_t length) {
    uint64_t offset = link->out_written & (link->capacity - 1);
    uint64_t first = link->capacity - offset < length ? link->capacity - offset : length;
    memcpy(link->out + offset, bytes, first);
    memcpy(link->out, (const uint8_t *)bytes + first, length - first);
    link->out_written += length;
}

void layer8_queue_publish(layer8_link *link) {
    if (link->out_written != layer8_load_relaxed(&link->out_tail)) {
        layer8_store_seq(&link->out_tail, link->out_written);
        if (layer8_wakeup_claim(&link->filled)) {
            ring(link->event_fd);
        }
    }
}

bool layer8_queue_ask_room(layer8_link *link) {
    layer8_wakeup_announce(&link->room);
    if (link->out_written - layer8_load_seq(&link->out_head) > link->capacity / 2) {
        return false;
    }
    (void)layer8_wakeup_retract(&link->room); /* was it claimed, a spare token makes one round more */
    return true;
}

static void read_out(const layer8_link *link, uint64_t position, uint8_t *into, uint64_t length) {
    uint64_t offset = position & (link->capacity - 1);
    uint64_t first = link->capacity - offset < length ? link->capacity - offset : length;
    memcpy(into, link->out + offset, first);
    memcpy(into + first, link->out, length - first);
}

uint64_t layer8_link_collect(layer8_link *link, uint8_t *buffer, uint64_t size) {
    uint64_t head = layer8_load_relaxed(&link->out_head);
    uint64_t tail = layer8_load_seq(&link->out_tail);
    if (tail == head) {
        take_token(link->event_fd);
        layer8_wakeup_announce(&link->filled);
        tail = layer8_load_seq(&link->out_tail);
        if (tail == head) {
            return 0;
        }
        (void)layer8_wakeup_retract(&link->filled); /* was it claimed, a spare token costs one call more */
    }
    uint64_t end = head;
    while (end != tail) {
        uint32_t length;
        read_out(link, end, (uint8_t *)&length, sizeof length);
        if (end + sizeof length + length - head > size) {
            break;
        }
        end += sizeof length + length;
    }
    read_out(link, head, buffer, end - head);
    layer8_store_seq(&link->out_head, end);
    COUNT(link->bytes_out, end - head);
    COUNT(link->batches_out, 1);
    if (tail - end <= link->capacity / 2 && layer8_wakeup_claim(&link->room)) {
        ring(link->switch_fd);
    }
    return end - head;
}

/* ---- in: the link thread feeds, the switch takes ---- */

static bool record_fits(const struct layer8_frame_record *frame) {
    struct layer8_record record = frame->record;
    uint8_t kind = frame->head.destination_kind;
    uint8_t zeros[12] = {0};
    record.flags &= (uint8_t)~LAYER8_RETRY;
    bool form = record.kind == LAYER8_NOTICE
                    ? record.length == 0 && record.fragments == 1 && record.fragment == 0 && record.headers == 0
                    : record.kind >= LAYER8_UNICAST && record.kind <= LAYER8_ABORT &&
                          layer8_well_formed(&record, UINT64_MAX, UINT64_MAX, UINT64_MAX);
    bool topic = record.kind == LAYER8_PUBLISH || (record.kind == LAYER8_ABORT && record.reason == LAYER8_PUBLISH);
    return form && frame->head.length == sizeof *frame - sizeof(uint32_t) + record.length && frame->tag != 0 &&
           frame->head.reserved == 0 && topic == (kind == LAYER8_TARGET_TOPIC) &&
           (topic ? memcmp(frame->destination + 4, zeros, sizeof zeros) == 0
                  : kind == LAYER8_TARGET_PORT ||
                        (kind == LAYER8_TARGET_ALIAS &&
                         (record.kind == LAYER8_UNICAST || record.kind == LAYER8_REQUEST) && record.fragments == 1));
}

static bool outcomes_fit(const uint8_t *frame, uint32_t length) {
    uint64_t bytes = (uint64_t)length + sizeof length - sizeof(struct layer8_frame_head);
    if (length < sizeof(struct layer8_frame_head) - sizeof length || bytes % sizeof(struct layer8_outcome) != 0 ||
        bytes / sizeof(struct layer8_outcome) > LAYER8_RUNS_MAX || bytes == 0) {
        return false;
    }
    for (uint64_t at = 0; at < bytes; at += sizeof(struct layer8_outcome)) {
        struct layer8_outcome run;
        memcpy(&run, frame + sizeof(struct layer8_frame_head) + at, sizeof run);
        if (run.first == 0 || run.count == 0 || run.count > LAYER8_RUN_MAX || run.reserved != 0 ||
            run.reason > LAYER8_REASON_FAILED) {
            return false;
        }
    }
    return true;
}

static bool frame_fits(const uint8_t *bytes, uint32_t length) {
    struct layer8_frame_head head;
    memcpy(&head, bytes, sizeof head);
    if (head.type == LAYER8_FRAME_RECORD && length >= sizeof(struct layer8_frame_record) - sizeof length) {
        struct layer8_frame_record record;
        memcpy(&record, bytes, sizeof record);
        return record_fits(&record);
    }
    if (head.destination_kind != 0 || head.reserved != 0) {
        return false;
    }
    if (head.type == LAYER8_FRAME_GONE) {
        struct layer8_frame_gone gone;
        if (length != sizeof gone - sizeof length) {
            return false;
        }
        memcpy(&gone, bytes, sizeof gone);
        return gone.tag != 0;
    }
    return head.type == LAYER8_FRAME_OUTCOMES && outcomes_fit(bytes, length);
}

/* Copies one frame in at `tail`; false: no room now. */
static bool put_in(layer8_link *link, uint64_t *tail, const uint8_t *bytes, uint64_t length) {
    uint64_t span = (length + 7u) & ~(uint64_t)7u;
    uint64_t offset = *tail & (link->capacity - 1);
    uint64_t pad = link->capacity - offset < span ? link->capacity - offset : 0;
    if (*tail - layer8_load_acquire(&link->in_head) + pad + span > link->capacity) {
        return false;
    }
    if (pad != 0) {
        uint32_t mark = PAD;
        memcpy(link->in + offset, &mark, sizeof mark);
        *tail += pad;
        offset = 0;
    }
    memcpy(link->in + offset, bytes, length);
    *tail += span;
    return true;
}

int layer8_link_feed(layer8_link *link, const uint8_t *bytes, uint64_t length, layer8_control_frame *controls,
                     uint32_t max, uint64_t *consumed) {
    uint64_t before = layer8_load_relaxed(&link->in_tail);
    uint64_t tail = before;
    uint64_t at = 0;
    uint64_t records = 0;
    int count = 0;
    int status = LAYER8_OK;
    while (length - at > sizeof(uint32_t)) {
        uint32_t frame;
        memcpy(&frame, bytes + at, sizeof frame);
        uint8_t type = bytes[at + sizeof frame];
        if (frame == 0 || frame > LAYER8_FRAME_MAX || type > LAYER8_FRAME_GONE ||
            (type == LAYER8_FRAME_CONTROL ? frame > LAYER8_CONTROL_MAX + 1 : frame < sizeof(struct layer8_frame_head) - sizeof frame)) {
            status = LAYER8_CORRUPT;
            break;
        }
        if (length - at - sizeof frame < frame) {
            break;
        }
        if (type == LAYER8_FRAME_CONTROL) {
            if ((uint32_t)count == max) {
                break;
            }
            controls[count++] = (layer8_control_frame){.offset = at + sizeof frame + 1, .length = frame - 1};
        } else if (!frame_fits(bytes + at, frame)) {
            status = LAYER8_CORRUPT;
            break;
        } else if (!put_in(link, &tail, bytes + at, sizeof frame + frame)) {
            take_token(link->event_fd);
            layer8_wakeup_announce(&link->drained);
            if (!put_in(link, &tail, bytes + at, sizeof frame + frame)) {
                break;
            }
            (void)layer8_wakeup_retract(&link->drained);
            records += type == LAYER8_FRAME_RECORD;
        } else {
            records += type == LAYER8_FRAME_RECORD;
        }
        at += sizeof frame + frame;
    }
    if (tail != before) {
        layer8_store_seq(&link->in_tail, tail);
        if (layer8_wakeup_claim(&link->fed)) {
            ring(link->switch_fd);
        }
    }
    COUNT(link->records_in, records);
    COUNT(link->bytes_in, at);
    COUNT(link->batches_in, 1);
    *consumed = at;
    return status == LAYER8_OK ? count : status;
}

const struct layer8_frame_head *layer8_queue_next(layer8_link *link) {
    uint64_t head = layer8_load_relaxed(&link->in_head);
    if (head == layer8_load_acquire(&link->in_tail)) {
        return NULL;
    }
    uint64_t offset = head & (link->capacity - 1);
    uint32_t length;
    memcpy(&length, link->in + offset, sizeof length);
    if (length == PAD) { /* and a frame stands behind it: both were published together */
        layer8_store_release(&link->in_head, head + link->capacity - offset);
        offset = 0;
    }
    return (const struct layer8_frame_head *)(const void *)(link->in + offset);
}

void layer8_queue_take(layer8_link *link) {
    uint64_t head = layer8_load_relaxed(&link->in_head);
    uint32_t length;
    memcpy(&length, link->in + (head & (link->capacity - 1)), sizeof length);
    layer8_store_seq(&link->in_head, head + ((sizeof length + (uint64_t)length + 7u) & ~(uint64_t)7u));
}

void layer8_queue_taken(layer8_link *link) {
    uint64_t fill = layer8_load_relaxed(&link->in_tail) - layer8_load_relaxed(&link->in_head);
    if (fill <= link->capacity / 2 && layer8_wakeup_claim(&link->drained)) {
        ring(link->event_fd);
    }
}

bool layer8_queue_ask_fed(layer8_link *link) {
    layer8_wakeup_announce(&link->fed);
    if (layer8_load_seq(&link->in_tail) == layer8_load_relaxed(&link->in_head)) {
        return false;
    }
    (void)layer8_wakeup_retract(&link->fed);
    return true;
}
