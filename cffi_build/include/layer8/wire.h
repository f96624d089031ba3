/* wire.h - what two Vnets must agree on: the frames in a link's TLS stream. Little-endian, as in layout.h.
 *
 *   off size field
 *     0   4  length        of what follows, at most LAYER8_FRAME_MAX
 *     4   1  type          enum layer8_frame
 *     5   3  by type, else 0
 *
 *   CONTROL  5   ... message of the control planes (msgpack), at most LAYER8_CONTROL_MAX bytes; not read here
 *
 *   RECORD   5   1  destination kind   LAYER8_TARGET_PORT, _ALIAS or _TOPIC
 *            8   8  tag                answered by an outcome: the sender keeps the record until then
 *           16  16  destination        uuid of the Vnic (of an alias: of the member chosen), or u32 the topic's number at
 *                                      the receiving switch and zeros
 *           32  64  record header      as it would be delivered: source filled in; principal 0, right to reply 0
 *           96   .  header map and payload
 *   A CANCEL with a reason asks, of the Vnic that is its destination: does the message that stands half at `source` go on? Its
 *   kind is `reason`, of a publication `topic` is the number at the asking switch. The outcome is ABORTED if it does not.
 *   A NOTICE says that the request with that correlation, delivered before, will not be answered, and why.
 *
 *   OUTCOMES 8  16  each: first tag u64, count u32, reason u16 (0: delivered, or dropped by choice), u16 0
 *   GONE     8   8  tag
 *           16  16  uuid of a Vnic that is no more; everything of it came before */
#ifndef LAYER8_WIRE_H
#define LAYER8_WIRE_H

#include "layer8/layout.h"

#define LAYER8_FRAME_MAX (131072u + 256u)
#define LAYER8_CONTROL_MAX 65536u
#define LAYER8_RUN_MAX 4096u /* tags in one outcome */
#define LAYER8_RUNS_MAX 512u /* outcomes in one frame */
#define LAYER8_WINDOW (UINT64_C(4) << 20) /* bytes of records to one destination that may be sent and unanswered */

enum layer8_frame { LAYER8_FRAME_CONTROL = 0, LAYER8_FRAME_RECORD = 1, LAYER8_FRAME_OUTCOMES = 2, LAYER8_FRAME_GONE = 3 };

struct layer8_frame_head {
    uint32_t length;
    uint8_t type;
    uint8_t destination_kind; /* RECORD */
    uint16_t reserved;
};

struct layer8_frame_record {
    struct layer8_frame_head head;
    uint64_t tag;
    uint8_t destination[16];
    struct layer8_record record;
};

struct layer8_outcome {
    uint64_t first;
    uint32_t count;
    uint16_t reason;
    uint16_t reserved;
};

struct layer8_frame_gone {
    struct layer8_frame_head head;
    uint64_t tag;
    uint8_t uuid[16];
};

static_assert(sizeof(struct layer8_frame_head) == 8, "wire");
static_assert(offsetof(struct layer8_frame_record, record) == 32, "wire");
static_assert(sizeof(struct layer8_frame_record) == 96, "wire");
static_assert(sizeof(struct layer8_outcome) == 16, "wire");
static_assert(sizeof(struct layer8_frame_gone) == 32, "wire");

#endif
