/* mirror.c - one end of a segment that exists twice, on two hosts, byte for byte at the same ring positions.
 *
 *   a Vnic's segment  ◀── mirror at the Vnic ══ frames ══ mirror at the Vnet ──▶  a file of the Vnet's, its switch's port
 *   (plays the Vnet)                                                              (plays the Vnic)
 *
 * Each end has one ring to send from and one to write to; otherwise they are the same:
 *
 *                  out: reads tail, writes head    in: writes tail, reads head
 *   at the Vnic    transmit                        receive
 *   at the Vnet    receive                         transmit
 *
 * Frames: u32 length of what follows, u8 type, then
 *   RING   u64 position, bytes       the next records of the sender's out ring; position is the receiver's tail
 *   HEAD   u64 head, u64 unread      how far the sender's in ring was read, up to what the receiver has sent
 *   PAGES  u32 offset, bytes         from the Vnet: flags, missed counts and state, as far as they have changed
 * Other types are not for here: layer8_mirror_feed stops at them. What comes is checked before a byte of it is used: it
 * can fill rings and move positions as far as they may move, and no more. The records in it are for the switch or the
 * library to check, as always. One thread at a time. */
#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FRAME_HEADER 5u                       /* length and type */
#define RING_BYTES_MAX ((uint64_t)LAYER8_RECORD_MAX) /* of a ring in one frame: any record fits */
#define PAGES_BEGIN LAYER8_OFFSET_FLAGS
#define PAGES_END (LAYER8_OFFSET_STATE + (uint32_t)sizeof(struct layer8_state_page))
#define LINE 64u                              /* pages are compared and sent by lines */
#define LINES ((PAGES_END - PAGES_BEGIN + LINE - 1u) / LINE)
#define HEAD_FRAME (FRAME_HEADER + 16u)

struct ring {
    uint8_t *bytes;
    uint64_t capacity;
    _Atomic uint64_t *head, *tail;
};

struct layer8_mirror {
    uint8_t *base;
    uint64_t bytes, ring_bytes;
    pid_t process;
    struct layer8_control *control;
    struct ring out, in;
    bool at_vnet, has_xoff, armed;
    int bell;                       /* written to when the other side of this segment is to be woken; not ours */
    uint64_t sent;                  /* out: up to here */
    uint64_t out_head, out_tail;    /* out: as published; as last seen */
    uint64_t in_tail, in_head;      /* in: as published; as last seen */
    uint64_t told_head, told_unread; /* in: as the other end was told */
    bool told;                      /* it was told at all */
    uint64_t shown[LINES * LINE / 8]; /* the pages as the other end has them */
    bool all_pages;                 /* it may have anything */
};

/* ---- making and opening ---- */

int layer8_mirror_make(int fd, uint64_t ring_bytes, const uint8_t *uuid) {
    if (ring_bytes < LAYER8_RING_MIN || ring_bytes > LAYER8_RING_MAX || (ring_bytes & (ring_bytes - 1)) != 0) {
        return -EINVAL;
    }
    const uint64_t bytes = LAYER8_SEGMENT_BYTES(ring_bytes);
    int result;
    if (ftruncate(fd, (off_t)bytes) != 0) {
        return -errno;
    }
    do { /* now, so that no page is missing later, when it would be a SIGBUS */
        result = fallocate(fd, 0, 0, (off_t)bytes);
    } while (result != 0 && errno == EINTR);
    if (result != 0) {
        return -errno;
    }
    struct layer8_segment_header *header = mmap(NULL, LAYER8_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (header == MAP_FAILED) {
        return -errno;
    }
    layer8_segment_fill(header, ring_bytes, uuid);
    (void)munmap(header, LAYER8_PAGE);
    return 0;
}

static bool positions_fit(const struct layer8_mirror *mirror) {
    return mirror->out_head % LAYER8_ALIGN == 0 && mirror->out_tail % LAYER8_ALIGN == 0 &&
           mirror->out_tail - mirror->out_head <= mirror->out.capacity && mirror->in_head % LAYER8_ALIGN == 0 &&
           mirror->in_tail % LAYER8_ALIGN == 0 && mirror->in_tail - mirror->in_head <= mirror->in.capacity;
}

static bool header_fits(const struct layer8_segment_header *header, uint64_t bytes) {
    const uint64_t receive = header->receive_capacity, half = receive / 2;
    return header->magic == LAYER8_MAGIC && header->version == LAYER8_LAYOUT_VERSION &&
           receive >= LAYER8_RING_MIN && receive <= LAYER8_RING_MAX && (receive & (receive - 1)) == 0 &&
           header->transmit_capacity == half && header->hold_capacity == receive &&
           header->transmit_offset == LAYER8_OFFSET_RINGS && header->receive_offset == LAYER8_OFFSET_RINGS + half &&
           header->segment_bytes == LAYER8_SEGMENT_BYTES(receive) && header->segment_bytes == bytes;
}

layer8_mirror *layer8_mirror_open(int segment_fd, int at_vnet, int *status) {
    struct stat about;
    *status = LAYER8_SYSTEM;
    if (fstat(segment_fd, &about) != 0) {
        return NULL;
    }
    *status = LAYER8_INVALID;
    if (!S_ISREG(about.st_mode) || about.st_size < (off_t)LAYER8_SEGMENT_BYTES(LAYER8_RING_MIN)) {
        return NULL;
    }
    const uint64_t bytes = (uint64_t)about.st_size;
    uint8_t *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, segment_fd, 0);
    struct layer8_mirror *mirror = base == MAP_FAILED ? NULL : calloc(1, sizeof *mirror);
    if (mirror == NULL) {
        *status = LAYER8_SYSTEM;
        if (base != MAP_FAILED) {
            (void)munmap(base, bytes);
        }
        return NULL;
    }
    struct layer8_segment_header header;
    const struct layer8_segment_header *shared = (const struct layer8_segment_header *)(void *)base;
    bool ready = layer8_load_acquire(&shared->ready) == 1u;
    layer8_copy_out(&header, base, sizeof header);
    *mirror = (struct layer8_mirror){.base = base,
                                     .bytes = bytes,
                                     .ring_bytes = header.receive_capacity,
                                     .process = getpid(),
                                     .control = (struct layer8_control *)(void *)(base + LAYER8_OFFSET_CONTROL),
                                     .at_vnet = at_vnet != 0,
                                     .bell = -1};
    if (!ready || !header_fits(&header, bytes)) {
        layer8_mirror_close(mirror);
        return NULL;
    }
    struct layer8_control *control = mirror->control;
    struct ring transmit = {base + header.transmit_offset, header.transmit_capacity, &control->transmit_head,
                            &control->transmit_tail};
    struct ring receive = {base + header.receive_offset, header.receive_capacity, &control->receive_head,
                           &control->receive_tail};
    mirror->out = mirror->at_vnet ? receive : transmit;
    mirror->in = mirror->at_vnet ? transmit : receive;
    mirror->out_head = mirror->sent = layer8_load_acquire(mirror->out.head);
    mirror->out_tail = layer8_load_acquire(mirror->out.tail);
    mirror->in_head = layer8_load_acquire(mirror->in.head);
    mirror->in_tail = layer8_load_acquire(mirror->in.tail);
    if (!positions_fit(mirror)) {
        *status = LAYER8_CORRUPT;
        layer8_mirror_close(mirror);
        return NULL;
    }
    (void)madvise(base, bytes, MADV_DONTFORK);
    *status = LAYER8_OK;
    return mirror;
}

void layer8_mirror_close(layer8_mirror *mirror) {
    if (mirror->process == getpid()) {
        (void)munmap(mirror->base, mirror->bytes);
    }
    free(mirror);
}

void layer8_mirror_about(layer8_mirror *mirror, layer8_mirror_place *place) {
    const struct layer8_state_page *page = (const struct layer8_state_page *)(void *)(mirror->base + LAYER8_OFFSET_STATE);
    memset(place, 0, sizeof *place);
    memcpy(place->uuid, mirror->base + offsetof(struct layer8_segment_header, uuid), sizeof place->uuid);
    place->ring_bytes = mirror->ring_bytes;
    place->received = mirror->in_tail;
    place->sent = mirror->sent;
    place->head = mirror->out_head;
    place->tail = layer8_load_seq(mirror->out.tail);
    place->used = layer8_load_relaxed(&page->epoch) != 0;
}

void layer8_mirror_set_bell(layer8_mirror *mirror, int bell) { mirror->bell = bell; }

int layer8_mirror_resume(layer8_mirror *mirror, uint64_t received, int fresh) {
    uint64_t tail = layer8_load_seq(mirror->out.tail);
    if (received % LAYER8_ALIGN != 0 || tail - mirror->out_head > mirror->out.capacity ||
        received - mirror->out_head > tail - mirror->out_head) {
        return LAYER8_CORRUPT;
    }
    mirror->sent = received;
    mirror->told = false;
    mirror->all_pages = fresh == 0;
    memset(mirror->shown, 0, sizeof mirror->shown);
    return LAYER8_OK;
}

/* ---- out ---- */

static uint8_t *put_header(uint8_t *at, uint64_t length, uint8_t type) {
    const uint32_t length32 = (uint32_t)(length + 1u);
    memcpy(at, &length32, sizeof length32);
    at[4] = type;
    return at + FRAME_HEADER;
}

/* How much of the in ring the other end must believe to be taken. Above an eighth it is to hear of room by itself;
 * below, with the next frame that goes there, or when there was nothing to do for a while. */
static bool owes_room(const struct layer8_mirror *mirror) {
    return mirror->in_tail - mirror->told_head + mirror->told_unread > mirror->in.capacity / 8;
}

static uint8_t *put_head(struct layer8_mirror *mirror, uint8_t *at, uint64_t head, uint64_t unread, bool alone) {
    if (mirror->told && ((head == mirror->told_head && unread == mirror->told_unread) || (alone && !owes_room(mirror)))) {
        return at;
    }
    mirror->told = true;
    mirror->told_head = head;
    mirror->told_unread = unread;
    at = put_header(at, 16, LAYER8_MIRROR_HEAD);
    memcpy(at, &head, sizeof head);
    memcpy(at + 8, &unread, sizeof unread);
    return at + 16;
}

static uint64_t page_word(const struct layer8_mirror *mirror, uint32_t word) {
    return layer8_load_relaxed((const _Atomic uint64_t *)(const void *)(mirror->base + PAGES_BEGIN + 8u * word));
}

static bool line_changed(struct layer8_mirror *mirror, uint32_t line) {
    for (uint32_t word = line * LINE / 8; word < (line + 1) * LINE / 8; word++) {
        if (page_word(mirror, word) != mirror->shown[word]) {
            return true;
        }
    }
    return false;
}

static bool pages_changed(struct layer8_mirror *mirror) {
    for (uint32_t line = 0; line < LINES; line++) {
        if (line_changed(mirror, line)) {
            return true;
        }
    }
    return false;
}

/* The lines that have changed, neighbours in one frame: at most all of them once, and a header for every other one. */
static uint8_t *put_pages(struct layer8_mirror *mirror, uint8_t *at) {
    bool flags = false;
    for (uint32_t line = 0; line < LINES; line++) {
        if (!mirror->all_pages && !line_changed(mirror, line)) {
            continue;
        }
        const uint32_t first = line, offset = PAGES_BEGIN + first * LINE;
        uint8_t *begin = at;
        at += FRAME_HEADER + 4u;
        do {
            for (uint32_t word = line * LINE / 8; word < (line + 1) * LINE / 8; word++) {
                mirror->shown[word] = page_word(mirror, word);
            }
            memcpy(at, &mirror->shown[line * LINE / 8], LINE);
            at += LINE;
            line++;
        } while (line < LINES && (mirror->all_pages || line_changed(mirror, line)));
        (void)put_header(begin, 4u + (uint64_t)(line - first) * LINE, LAYER8_MIRROR_PAGES);
        memcpy(begin + FRAME_HEADER, &offset, sizeof offset);
        flags = flags || offset < LAYER8_OFFSET_MISSED;
    }
    mirror->all_pages = false;
    if (flags) {
        const uint8_t *shown = (const uint8_t *)mirror->shown;
        mirror->has_xoff = memchr(shown, LAYER8_SLOT_XOFF, LAYER8_SLOTS) != NULL;
    }
    return at;
}

/* The tail of the out ring, checked; false: it makes no sense. */
static bool refresh_out(struct layer8_mirror *mirror) {
    uint64_t tail = layer8_load_seq(mirror->out.tail);
    if (!layer8_position_fits(tail, mirror->out_tail, mirror->out_head + mirror->out.capacity)) {
        return false;
    }
    mirror->out_tail = tail;
    return true;
}

/* The head of the in ring, checked in the same way. */
static bool refresh_in(struct layer8_mirror *mirror) {
    uint64_t head = layer8_load_seq(mirror->in.head);
    if (!layer8_position_fits(head, mirror->in_head, mirror->in_tail)) {
        return false;
    }
    mirror->in_head = head;
    return true;
}

static void disarm(struct layer8_mirror *mirror) {
    if (mirror->armed) {
        mirror->armed = false;
        struct layer8_control *control = mirror->control;
        (void)layer8_wakeup_retract(mirror->at_vnet ? &control->arrived : &control->doorbell);
        (void)layer8_wakeup_retract(mirror->at_vnet ? &control->room : &control->drained);
    }
}

/* How many bytes from `sent` on, up to `most`, are whole records: a tail is never seen inside one. 0: not even the first;
 * UINT64_MAX: it makes no sense. */
static uint64_t whole_records(const struct layer8_mirror *mirror, uint64_t most) {
    const uint64_t there = mirror->out_tail - mirror->sent;
    const uint64_t offset = mirror->sent & (mirror->out.capacity - 1);
    const uint64_t to_end = mirror->out.capacity - offset;
    uint64_t length = 0;
    while (length < there && length < to_end) {
        uint32_t behind; /* the header: the first field of the record */
        layer8_copy_out(&behind, mirror->out.bytes + offset + length, sizeof behind);
        const uint64_t span = layer8_record_span(behind);
        if (span > there - length || span > to_end - length || span > RING_BYTES_MAX) {
            return UINT64_MAX;
        }
        if (length + span > most) {
            break;
        }
        length += span;
    }
    return length;
}

int64_t layer8_mirror_collect(layer8_mirror *mirror, uint8_t *buffer, uint64_t size, int idle) {
    uint8_t *at = buffer;
    if (size < LAYER8_MIRROR_COLLECT_MIN) {
        return LAYER8_INVALID;
    }
    disarm(mirror);
    uint64_t unread = layer8_load_relaxed(&mirror->control->unread);
    if (!refresh_in(mirror) || !refresh_out(mirror)) {
        return LAYER8_CORRUPT;
    }
    if (mirror->at_vnet) {
        at = put_pages(mirror, at);
        unread = 0;
    }
    while (mirror->sent != mirror->out_tail) {
        const uint64_t over = FRAME_HEADER + 8u + HEAD_FRAME;
        const uint64_t room = size - (uint64_t)(at - buffer);
        uint64_t most = room > over ? room - over : 0;
        most = most < RING_BYTES_MAX ? most : RING_BYTES_MAX;
        const uint64_t length = whole_records(mirror, most);
        if (length == UINT64_MAX) {
            return LAYER8_CORRUPT;
        }
        if (length == 0) {
            break; /* the next buffer has room for it */
        }
        at = put_header(at, 8u + length, LAYER8_MIRROR_RING);
        memcpy(at, &mirror->sent, 8);
        memcpy(at + 8, mirror->out.bytes + (mirror->sent & (mirror->out.capacity - 1)), length);
        at += 8u + length;
        mirror->sent += length;
    }
    at = put_head(mirror, at, mirror->in_head, unread, idle == 0 && at == buffer);
    return at - buffer;
}

/* ---- in ---- */

static void ring_bell(const struct layer8_mirror *mirror) {
    const uint64_t one = 1;
    if (mirror->bell >= 0) {
        (void)!write(mirror->bell, &one, sizeof one); /* EAGAIN: it is full of tokens */
    }
}

/* Whoever waits in the other process that has this segment. */
static void wake(const struct layer8_mirror *mirror, struct layer8_wakeup *wakeup) {
    if (layer8_wakeup_claim(wakeup)) {
        if (mirror->bell >= 0) {
            ring_bell(mirror);
        } else {
            layer8_semaphore_post(wakeup);
        }
    }
}

static bool take_ring(struct layer8_mirror *mirror, const uint8_t *body, uint64_t length) {
    uint64_t position;
    if (length < 8 + LAYER8_ALIGN || (length - 8) % LAYER8_ALIGN != 0) {
        return false;
    }
    memcpy(&position, body, sizeof position);
    length -= 8;
    if (position != mirror->in_tail || !refresh_in(mirror) ||
        length > mirror->in.capacity - (mirror->in_tail - mirror->in_head)) {
        return false;
    }
    uint64_t offset = position & (mirror->in.capacity - 1);
    uint64_t first = length < mirror->in.capacity - offset ? length : mirror->in.capacity - offset;
    memcpy(mirror->in.bytes + offset, body + 8, first);
    memcpy(mirror->in.bytes, body + 8 + first, length - first);
    mirror->in_tail += length;
    layer8_store_seq(mirror->in.tail, mirror->in_tail);
    wake(mirror, mirror->at_vnet ? &mirror->control->doorbell : &mirror->control->arrived);
    return true;
}

static bool take_head(struct layer8_mirror *mirror, const uint8_t *body, uint64_t length) {
    uint64_t head, unread;
    if (length != 16) {
        return false;
    }
    memcpy(&head, body, sizeof head);
    memcpy(&unread, body + 8, sizeof unread);
    if (!layer8_position_fits(head, mirror->out_head, mirror->sent) || !refresh_out(mirror)) {
        return false;
    }
    struct layer8_control *control = mirror->control;
    const uint64_t quarter = mirror->out.capacity / 4;
    if (mirror->at_vnet) { /* unread first: fill is never seen too small */
        unread = unread < mirror->out.capacity ? unread : mirror->out.capacity;
        layer8_store_seq(&control->unread, unread);
    }
    mirror->out_head = head;
    layer8_store_seq(mirror->out.head, head);
    if (mirror->at_vnet) {
        if (mirror->out_tail - head + unread <= quarter) {
            wake(mirror, &control->drained);
        }
    } else { /* a head comes seldom enough; who waits for a small record may have room long before half of the ring is free */
        wake(mirror, &control->room);
    }
    return true;
}

static bool take_pages(struct layer8_mirror *mirror, const uint8_t *body, uint64_t length) {
    uint32_t offset;
    if (mirror->at_vnet || length < 4u + 8u || (length - 4u) % 8u != 0) {
        return false;
    }
    memcpy(&offset, body, sizeof offset);
    length -= 4;
    if (offset % LINE != 0 || offset < PAGES_BEGIN || length > LINES * LINE ||
        offset - PAGES_BEGIN > LINES * LINE - length) {
        return false;
    }
    bool freed = false;
    for (uint64_t n = 0; n < length; n++) {
        if (offset + n < LAYER8_OFFSET_MISSED) {
            _Atomic uint8_t *slot = (_Atomic uint8_t *)(mirror->base + offset + n);
            uint8_t before = layer8_load_relaxed(slot), now = body[4 + n];
            if (before != now) {
                layer8_store_seq(slot, now);
                freed = freed || before == LAYER8_SLOT_XOFF;
            }
        } else if (n % 8 == 0) {
            uint64_t word;
            memcpy(&word, body + 4 + n, sizeof word);
            layer8_store_release((_Atomic uint64_t *)(void *)(mirror->base + offset + n), word);
        }
    }
    if (freed) {
        wake(mirror, &mirror->control->room);
    }
    return true;
}

int layer8_mirror_feed(layer8_mirror *mirror, const uint8_t *bytes, uint64_t length, uint64_t *consumed) {
    *consumed = 0;
    for (;;) {
        uint32_t size;
        if (length - *consumed < FRAME_HEADER) {
            return LAYER8_MIRROR_MORE;
        }
        memcpy(&size, bytes + *consumed, sizeof size);
        if (size == 0 || size > LAYER8_MIRROR_FRAME_MAX) {
            return LAYER8_CORRUPT;
        }
        if (length - *consumed - 4u < size) {
            return LAYER8_MIRROR_MORE;
        }
        const uint8_t *body = bytes + *consumed + FRAME_HEADER;
        bool good;
        switch (body[-1]) {
        case LAYER8_MIRROR_RING:
            good = take_ring(mirror, body, size - 1u);
            break;
        case LAYER8_MIRROR_HEAD:
            good = take_head(mirror, body, size - 1u);
            break;
        case LAYER8_MIRROR_PAGES:
            good = take_pages(mirror, body, size - 1u);
            break;
        default:
            return LAYER8_MIRROR_OTHER;
        }
        if (!good) {
            return LAYER8_CORRUPT;
        }
        *consumed += 4u + size;
    }
}

/* ---- sleeping ---- */

int layer8_mirror_arm(layer8_mirror *mirror) {
    struct layer8_control *control = mirror->control;
    mirror->armed = true;
    layer8_wakeup_announce(mirror->at_vnet ? &control->arrived : &control->doorbell);
    bool owes = owes_room(mirror); /* else a head alone is not told at once: SOON */
    bool watches = owes || (mirror->at_vnet && mirror->has_xoff);
    if (watches) {
        layer8_wakeup_announce(mirror->at_vnet ? &control->room : &control->drained);
    }
    const uint64_t head = layer8_load_seq(mirror->in.head);
    bool work = layer8_load_seq(mirror->out.tail) != mirror->sent;
    if (mirror->at_vnet) {
        work = work || (owes && head != mirror->told_head) || pages_changed(mirror);
    } else if (watches) {
        uint64_t unread = layer8_load_seq(&control->unread);
        work = work || ((head != mirror->told_head || unread != mirror->told_unread) &&
                        mirror->in_tail - head + unread <= mirror->in.capacity / 4);
    }
    if (work) {
        disarm(mirror);
        return LAYER8_MIRROR_WORK;
    }
    return mirror->told_head != (mirror->at_vnet ? mirror->in_tail : head) ? LAYER8_MIRROR_SOON : 0;
}
