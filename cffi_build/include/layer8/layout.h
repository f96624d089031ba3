/* layout.h - what two processes must agree on: the segment and the record.
 *
 * Everything here is little-endian, fixed width and checked by static assertions. A Vnic makes the segment, the
 * Vnet maps it; neither trusts what the other writes. Change a number here and LAYER8_LAYOUT_VERSION goes up; magic and
 * version stay the first twelve bytes of every layout, so that each can tell that another one is another one. Where the
 * record changes LINK_VERSION goes up too (layer8/protocol/link_messages.py): records travel between hosts as they are.
 *
 * SEGMENT (one memfd per Vnic; "V" = written by the Vnic, "N" = by the Vnet, "*" = by both, atomically)
 *
 *   0x0000  header page     V  magic, version, sizes, uuid, epoch; `ready` is stored last
 *   0x1000  control page       the positions of the rings and the four wake-ups, a pair of cache lines each
 *     +0x000  V  transmit.tail
 *     +0x080  V  receive.head, unread (bytes taken from the ring that the application has not yet read)
 *     +0x200  N  transmit.head
 *     +0x280  N  receive.tail
 *     +0x300  N  hold.head, hold.tail
 *     +0x400  *  arrived: count, wanted     data for the Vnic       (a semaphore and the waiter's flag)
 *     +0x480  *  room: count, wanted        room or Xon for a sender
 *     +0x500  *  doorbell: wanted           data for the switch     (the token is an eventfd)
 *     +0x580  *  drained: wanted            room in the receive ring (the token is the same eventfd)
 *   0x2000  flag area       N  one byte per handle slot: open, xoff, gone, revoked, metered
 *   0x3000                  N  one u64 per topic number: how many publications were dropped
 *   0x5000                  N  port state page: epoch of the Vnet, state, reason
 *   0x6000                  N  one u32 per topic number: how many of those dropped no record has said; for the next Vnet
 *   0x8000  transmit ring   V  records, Vnic -> Vnet
 *   ....    receive ring    N  records, Vnet -> Vnic
 *   ....    hold ring       N  records the Vnet could not finish; the Vnic neither reads nor writes it
 *
 * Ring positions are free-running u64 byte counts; position & (capacity - 1) is the offset in the ring.
 * Capacities are powers of two. Records start on 64 bytes, never wrap: a pad record fills the end of the ring.
 *
 * RECORD (64 bytes, then the header map, then the payload, then padding to 64)
 *
 *   off size field        in a transmit or hold ring            in a receive ring
 *     0   4  length       bytes of header map + payload (a pad: bytes to skip after the header)
 *     4   1  kind         enum layer8_kind
 *     5   1  flags        LAYER8_FIRST ... LAYER8_RELIABLE
 *     6   2  headers      bytes of the header map in front of the payload
 *     8   2  slot         of the sender's handle                same: the key for dropping doubles
 *    10   2  generation   of the sender's handle                same
 *    12   2  topic        reply: generation of the right        publish, abort of one: receiver's topic number;
 *                                                               request: generation of the right to reply
 *    14   2  reason       the switch's decision (0 none,        failed reply, notice: why
 *                         LAYER8_CHOSEN, else refused: why);
 *                         abort: kind of the message ended      same
 *    16  16  source       receiver chosen by the switch         uuid of the sender (a notice: destination)
 *    32   8  sequence     counts the records of the source      same (a notice: of the record it speaks of)
 *    40   8  correlation  request and its reply: chosen by the caller. A message in fragments that is neither:
 *                         the sequence of its first fragment. Else 0
 *    48   2  fragment     index of this fragment
 *    50   2  fragments    how many the message has (1: whole); all but the last are full
 *    52   4  principal    0                                     number of the sender's principal
 *    56   4  missed       reply: index of the right             publish: dropped for this subscriber before this one
 *                                                               (in fragments: the last has it);
 *                                                               request: index of the right to reply;
 *                                                               notice: how many notices this one stands for
 *    60   4  ttl          ms the record may wait (0: no limit)  request: ms that remain; notice: bytes of the payload
 *                                                               of the record it speaks of
 */
#ifndef LAYER8_LAYOUT_H
#define LAYER8_LAYOUT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define LAYER8_MAGIC UINT64_C(0x000038524559414c) /* "LAYER8\0\0" */
#ifndef LAYER8_LAYOUT_VERSION /* tests build another one */
#define LAYER8_LAYOUT_VERSION 2u
#endif

#define LAYER8_PAGE 4096u
#define LAYER8_ALIGN 64u
#define LAYER8_RECORD_BYTES 64u                     /* the record's fixed header */
#define LAYER8_FRAGMENT_BYTES 65536                /* header map + payload of one record, at most */
#define LAYER8_RECORD_MAX (LAYER8_RECORD_BYTES + LAYER8_FRAGMENT_BYTES)
#define LAYER8_HEADERS_MAX 4096                    /* bytes of an encoded header map */
#define LAYER8_SLOTS 4096                          /* handles of one Vnic */
#define LAYER8_TOPICS 1024                         /* subscriptions of one Vnic */
#define LAYER8_RING_MIN (UINT64_C(512) << 10)       /* receive ring; transmit is half of it, hold as large */
#define LAYER8_RING_MAX (UINT64_C(1) << 30)
#define LAYER8_SEGMENT_BYTES(receive) (LAYER8_OFFSET_RINGS + (receive) / 2 * 5)

#define LAYER8_OFFSET_CONTROL 0x1000u
#define LAYER8_OFFSET_FLAGS 0x2000u
#define LAYER8_OFFSET_MISSED 0x3000u
#define LAYER8_OFFSET_STATE 0x5000u
#define LAYER8_OFFSET_UNSAID 0x6000u
#define LAYER8_OFFSET_RINGS 0x8000u

enum layer8_kind {
    LAYER8_UNICAST = 1,
    LAYER8_PUBLISH = 2,
    LAYER8_REQUEST = 3,
    LAYER8_REPLY = 4,
    LAYER8_FAILED_REPLY = 5,
    LAYER8_CANCEL = 6, /* caller -> callee: the caller no longer waits; names the correlation */
    LAYER8_ABORT = 7,  /* ends a message in fragments that its sender gave up */
    LAYER8_NOTICE = 8, /* Vnet -> Vnic only */
    LAYER8_PAD = 9
};

enum layer8_flag {
    LAYER8_FIRST = 0x01,
    LAYER8_LAST = 0x02,
    LAYER8_RETRY = 0x04,   /* set by the switch alone, on records found at adoption */
    LAYER8_SEALED = 0x08,  /* payload is end-to-end sealed */
    LAYER8_HEADERS = 0x10, /* a header map stands in front of the payload */
    LAYER8_RELIABLE = 0x20 /* publish: wait for slow subscribers */
};

/* Byte of a handle slot in the flag area. */
enum layer8_slot_state {
    LAYER8_SLOT_OPEN = 0,
    LAYER8_SLOT_XOFF = 1,
    LAYER8_SLOT_GONE = 2,
    LAYER8_SLOT_REVOKED = 3,
    LAYER8_SLOT_METERED = 4 /* open; what must be held is sent in bursts: to another host, and reliable publications */
};

/* What must be held is written to the transmit ring while no more than this of it stands there. So a destination that is
 * stuck takes little more of the hold ring than the switch had allowed when it said Xoff, and leaves room for others. In a
 * ring of the default size it is one full fragment, and another may follow. */
#define LAYER8_BURST(transmit_capacity) ((transmit_capacity) / 8 + LAYER8_RECORD_BYTES)

/* Why a record came back, a request failed, a message was aborted, or a port was closed. */
enum layer8_reason {
    LAYER8_REASON_NONE = 0,
    LAYER8_REASON_GONE = 1,        /* the destination died or detached */
    LAYER8_REASON_NOT_FOUND = 2,   /* nobody has the alias */
    LAYER8_REASON_REVOKED = 3,     /* the handle is not (or no longer) granted */
    LAYER8_REASON_EXPIRED = 4,     /* its ttl passed */
    LAYER8_REASON_ABORTED = 5,     /* its sender gave it up, or a subscriber made no progress */
    LAYER8_REASON_UNANSWERED = 6,  /* the callee let the request go */
    LAYER8_REASON_TOO_MANY = 7,    /* over a limit: open messages, outstanding requests, what a caller leaves unread */
    LAYER8_REASON_UNREACHABLE = 8, /* the far Vnet was given up */
    LAYER8_REASON_UNKNOWN = 9,     /* it cannot be known whether it arrived */
    LAYER8_REASON_FAILED = 10,     /* the callee's handler failed */
    LAYER8_REASON_VIOLATION = 11,
    LAYER8_REASON_LOST_NOTICES = 12, /* a notice that stands for `missed` notices that found no room */
    LAYER8_CHOSEN = 0xffff
};

struct layer8_record {
    uint32_t length;
    uint8_t kind;
    uint8_t flags;
    uint16_t headers;
    uint16_t slot;
    uint16_t generation;
    uint16_t topic;
    uint16_t reason;
    uint8_t source[16];
    uint64_t sequence;
    uint64_t correlation;
    uint16_t fragment;
    uint16_t fragments;
    uint32_t principal;
    uint32_t missed;
    uint32_t ttl;
};

static_assert(sizeof(struct layer8_record) == LAYER8_RECORD_BYTES, "a record header is one cache line");
static_assert(offsetof(struct layer8_record, source) == 16, "layout");
static_assert(offsetof(struct layer8_record, sequence) == 32, "layout");
static_assert(offsetof(struct layer8_record, correlation) == 40, "layout");
static_assert(offsetof(struct layer8_record, principal) == 52, "layout");

/* A message in fragments that has begun and not ended, as a Vnic tells it the Vnet that adopts its port: one of its own that it
 * goes on sending (source: 0), or one that stands half in its memory. */
struct layer8_half {
    uint8_t source[16];
    uint64_t correlation;
    uint16_t slot, generation;
    uint16_t topic; /* own: the fragment that comes next. Of a publication that stands half: the receiver's own number */
    uint16_t kind;  /* unicast or publish: of requests and replies both sides know that they are over */
};

static_assert(sizeof(struct layer8_half) == 32, "what a Vnic tells of one message");

/* Of the message that this is the first record of, as it stands at its receiver. */
static inline struct layer8_half layer8_half_of(const struct layer8_record *first) {
    struct layer8_half half = {.correlation = first->correlation,
                               .slot = first->slot,
                               .generation = first->generation,
                               .topic = first->topic,
                               .kind = first->kind};
    for (int n = 0; n < 16; n++) {
        half.source[n] = first->source[n];
    }
    return half;
}

struct layer8_segment_header {
    uint64_t magic;
    uint32_t version;
    uint32_t header_bytes;
    uint64_t segment_bytes;
    uint64_t transmit_offset, transmit_capacity;
    uint64_t receive_offset, receive_capacity;
    uint64_t hold_offset, hold_capacity;
    uint32_t slots, topics;
    uint8_t uuid[16];
    uint64_t epoch;
    _Atomic uint32_t ready;
};

static_assert(offsetof(struct layer8_segment_header, version) == 8, "the same in every layout");
static_assert(sizeof(struct layer8_segment_header) <= LAYER8_PAGE, "layout");

struct layer8_wakeup { /* a waiter's flag and, where the token is not an eventfd, its semaphore */
    _Atomic uint32_t count;
    _Atomic uint32_t wanted;
};

struct layer8_control {
    _Alignas(128) _Atomic uint64_t transmit_tail;              /* 0x000 V */
    _Alignas(128) _Atomic uint64_t receive_head;               /* 0x080 V */
    _Atomic uint64_t unread;                                   /*       V */
    _Alignas(128) uint8_t reserved_vnic[256];                  /* 0x100   */
    _Alignas(128) _Atomic uint64_t transmit_head;              /* 0x200 N */
    _Alignas(128) _Atomic uint64_t receive_tail;               /* 0x280 N */
    _Alignas(128) _Atomic uint64_t hold_head;                  /* 0x300 N */
    _Atomic uint64_t hold_tail;                                /*       N */
    _Alignas(128) uint8_t reserved_vnet[128];                  /* 0x380   */
    _Alignas(128) struct layer8_wakeup arrived;                /* 0x400 * */
    _Alignas(128) struct layer8_wakeup room;                   /* 0x480 * */
    _Alignas(128) struct layer8_wakeup doorbell;               /* 0x500 * */
    _Alignas(128) struct layer8_wakeup drained;                /* 0x580 * */
};

static_assert(offsetof(struct layer8_control, receive_head) == 0x080, "layout");
static_assert(offsetof(struct layer8_control, transmit_head) == 0x200, "layout");
static_assert(offsetof(struct layer8_control, receive_tail) == 0x280, "layout");
static_assert(offsetof(struct layer8_control, hold_head) == 0x300, "layout");
static_assert(offsetof(struct layer8_control, arrived) == 0x400, "layout");
static_assert(offsetof(struct layer8_control, room) == 0x480, "layout");
static_assert(offsetof(struct layer8_control, doorbell) == 0x500, "layout");
static_assert(offsetof(struct layer8_control, drained) == 0x580, "layout");
static_assert(sizeof(struct layer8_control) <= LAYER8_PAGE, "layout");
static_assert(LAYER8_OFFSET_MISSED + LAYER8_TOPICS * sizeof(uint64_t) <= LAYER8_OFFSET_STATE, "layout");
static_assert(LAYER8_OFFSET_UNSAID + LAYER8_TOPICS * sizeof(uint32_t) <= LAYER8_OFFSET_RINGS, "layout");

struct layer8_state_page {
    _Atomic uint64_t epoch;
    _Atomic uint32_t state; /* 0 not attached, 1 attached, 2 stopping, 3 closed */
    _Atomic uint32_t reason;
};

/* Bytes a record with `length` bytes behind its header takes in a ring. */
static inline uint64_t layer8_record_span(uint64_t length) {
    return (LAYER8_RECORD_BYTES + length + LAYER8_ALIGN - 1) & ~(uint64_t)(LAYER8_ALIGN - 1);
}

#endif
