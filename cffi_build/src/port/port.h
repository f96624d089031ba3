/* port.h - a Vnic's side of its segment: what the files of this directory share.
 *
 * Whoever sends holds `lock` for one record; whoever receives is one thread at a time, and owns what is marked so.
 * The positions this side writes are kept here in private memory; the ones the Vnet writes are read once a call,
 * checked against the last one seen, and only then used. What was copied out of the segment is checked in the copy. */
#ifndef LAYER8_PORT_H
#define LAYER8_PORT_H

#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/types.h>

#include "layer8/atomic.h"
#include "layer8/core.h"
#include "layer8/kill.h"
#include "layer8/wakeup.h"

#define LAYER8_BATCH_RECORDS 256u
#define LAYER8_BATCH_BYTES 65536u      /* a batch ends with the record that reaches this */
#define LAYER8_OPEN_MESSAGES ((uint32_t)LAYER8_GOING_MAX)
#define LAYER8_ASSEMBLIES ((uint32_t)LAYER8_HALVES_MAX)
#define LAYER8_SOURCES 65536u          /* small numbers given to sources */
#define LAYER8_SLICE_NS INT64_C(200000000) /* no wait is longer */

/* A counter with one writer at a time, readable by any thread. */
typedef _Atomic uint64_t layer8_counter;

static inline void layer8_count(layer8_counter *counter, uint64_t n) {
    layer8_store_relaxed(counter, layer8_load_relaxed(counter) + n);
}

/* ---- sources.c: small numbers for senders, and the highest sequence taken from each of their handles ---- */

struct layer8_source {
    uint8_t uuid[16];
    uint32_t principal;
};

struct layer8_taken { /* the highest sequence taken under one handle of one source */
    uint64_t key;
    uint64_t sequence;
};

struct layer8_sources {
    struct layer8_source *sources;
    uint32_t *slots; /* open addressing; number + 1, 0: free */
    uint32_t count, capacity, slot_mask;
    uint32_t last; /* memo */
    uint64_t seed;
    struct layer8_taken *taken; /* `sets` sets of eight */
    struct layer8_taken *last_taken;
    uint64_t last_memo;
    uint32_t turn, sets;
};

bool layer8_sources_open(struct layer8_sources *table);
void layer8_sources_close(struct layer8_sources *table);
uint32_t layer8_source_number(struct layer8_sources *table, const struct layer8_record *record);
/* What was taken through another port is remembered here; before the first record. False: no memory, or too late. */
bool layer8_sources_inherit(struct layer8_sources *table, const struct layer8_sources *from);
/* False: the record is a retry of one that was taken before. */
bool layer8_source_take(struct layer8_sources *table, uint32_t source, const struct layer8_record *record);

/* ---- assembly.c: messages in fragments, on the receiving side ---- */

struct layer8_assembly {
    struct layer8_record first; /* its key: source, kind, slot, generation, correlation; of a publication topic too */
    struct layer8_record whole; /* made when the last fragment came */
    uint8_t *bytes;
    uint64_t size;     /* of the buffer */
    uint64_t length;   /* of the message, when complete */
    uint32_t next;     /* fragment expected */
    uint32_t fragments;
    bool old;          /* it stood half here when a Vnet died */
};

struct layer8_assemblies {
    struct layer8_assembly *open[LAYER8_ASSEMBLIES];
    uint32_t count;
    struct layer8_assembly *done[LAYER8_BATCH_RECORDS]; /* of the present batch */
    uint32_t done_count;
    layer8_counter bytes; /* reserved by `open` and `done` */
    uint64_t bytes_max, message_max;
    uint8_t *spare;       /* one buffer kept, so that the next large message costs no page faults */
    uint64_t spare_size;
};

enum layer8_assembled { LAYER8_DISCARDED, LAYER8_GROWN, LAYER8_COMPLETE };

void layer8_assemblies_close(struct layer8_assemblies *assemblies);
/* Where the fragment's bytes go, or NULL: it is to be discarded. */
struct layer8_assembly *layer8_assembly_place(struct layer8_assemblies *assemblies, const struct layer8_record *record,
                                              uint8_t **place);
/* After the bytes were copied. LAYER8_COMPLETE: it is the last of `done`. */
enum layer8_assembled layer8_assembly_add(struct layer8_assemblies *assemblies, struct layer8_assembly *assembly,
                                          const struct layer8_record *record);
bool layer8_assembly_abort(struct layer8_assemblies *assemblies, const struct layer8_record *record);
uint32_t layer8_assemblies_forget(struct layer8_assemblies *assemblies, const uint8_t *source); /* NULL: all that is no
                                                                                                  message */
uint32_t layer8_assemblies_tell(struct layer8_assemblies *assemblies, struct layer8_half *table, uint32_t max); /* old now */
void layer8_assemblies_reuse(struct layer8_assemblies *assemblies); /* frees what is `done` */

/* ---- segment.c ---- */

/* The header of an empty segment; `ready` is stored last. */
void layer8_segment_fill(struct layer8_segment_header *header, uint64_t ring_bytes, const uint8_t *uuid);

/* ---- the port ---- */

struct layer8_port {
    /* written at open only */
    uint8_t *base;
    uint64_t bytes;
    pid_t process;
    struct layer8_control *control;
    const _Atomic uint8_t *flags;
    const _Atomic uint64_t *missed;
    uint8_t *transmit, *receive;
    const uint8_t *hold;
    uint64_t transmit_capacity, receive_capacity, hold_capacity;
    uint64_t max_message_bytes;

    _Alignas(64) _Atomic int shut;     /* 0, or the status that every send and wait returns */
    _Atomic int doorbell;              /* descriptor, or -1 */
    _Atomic int doorbell_owed;         /* claimed while there was no descriptor */
    _Atomic bool elsewhere;            /* this is a child made by fork: the mapping is not here */
    _Atomic bool poked_arrived, poked_room; /* layer8_port_wake: look at everything */

    /* transmit: under `lock` */
    _Alignas(64) pthread_mutex_t lock;
    uint64_t transmit_tail, transmit_head; /* head: the last one seen */
    uint64_t sequence;
    uint32_t open_messages, going_count;
    struct layer8_half going[LAYER8_OPEN_MESSAGES]; /* those of them that the next Vnet is told of */
    struct layer8_burst { /* of what must be held: bytes that the switch may not have seen, and where they end */
        uint64_t bytes, end;
    } bursts[2]; /* the older one first */
    layer8_counter sent_messages, sent_bytes, sent_records, doorbells;

    /* receive: the receiving thread */
    _Alignas(64) uint64_t receive_head, receive_tail; /* head: everything before was copied; tail: the last one seen */
    int broken;                                       /* status, once the ring made no sense */
    uint8_t *batch;
    layer8_entry *table;
    struct layer8_sources sources;
    struct layer8_assemblies assemblies;
    layer8_counter received_messages, received_bytes, received_records;
    layer8_counter duplicates_dropped, fragments_discarded, messages_aborted;

    /* what the Vnet sees of it: under `release_lock`, since any thread may say what is unread */
    _Alignas(64) pthread_mutex_t release_lock;
    uint64_t consumed; /* receive_head after the last batch */
    uint64_t released; /* head as the Vnet sees it */
    uint64_t given;    /* unread, as the library said */
    uint64_t unread;   /* as the Vnet sees it: with what was released before the library could count it */

    /* waits */
    _Alignas(64) _Atomic uint64_t waits, late_wakeups;
};

/* The status that ends every call, or 0. */
static inline int layer8_port_status(struct layer8_port *port) { return layer8_load_relaxed(&port->shut); }

void layer8_port_ring(struct layer8_port *port); /* one token for the switch */

/* A position that the Vnet writes, checked: it moves forward, by whole lines, and not past `limit`. */
static inline bool layer8_position_fits(uint64_t position, uint64_t last, uint64_t limit) {
    return position % LAYER8_ALIGN == 0 && position - last <= limit - last;
}

bool layer8_transmit_refresh(struct layer8_port *port); /* under `lock`; false: the head makes no sense */
bool layer8_transmit_fits(const struct layer8_port *port, uint64_t length, uint32_t open_messages);
bool layer8_burst_fits(struct layer8_port *port); /* under `lock`: something that must be held may be written */
int layer8_arrived(struct layer8_port *port); /* 1 something is there, 0 nothing, or a status */
void layer8_release_given(struct layer8_port *port); /* all of the last batch; unread stays as given */

#endif
