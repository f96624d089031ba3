/* internal.h - what the switch owns. Only the switch thread touches anything here, except where a comment says so.
 *
 *   port ── handles ──▶ port | alias | topic        authority: one look-up a record
 *   port ── flows ────▶ port | alias                copies owed, oldest first, of records in the port's hold ring
 *   port ── rights ───▶ port                        who may reply to whom
 *   port ── messages                                messages in fragments that have begun and not ended
 *
 * A Vnic of another host is a port too, a *proxy*: one without a segment, that belongs to an adjacent Vnet (remote.h).
 * A *flow* is the order of one name: as long as a (handle, destination) has copies owed, later records of it queue
 * behind them. A *gate* is what senders see of a destination: open, or Xoff in each sender's flag area.
 * Nothing of a segment is used before it was copied and checked; lengths, positions and headers used here are private. */
#ifndef LAYER8_SWITCH_INTERNAL_H
#define LAYER8_SWITCH_INTERNAL_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "layer8/kill.h"
#include "layer8/switch.h"
#include "layer8/wakeup.h"
#include "list.h"
#include "pool.h"

/* ---- the nouns ---- */

typedef layer8_switch_port port_t;

struct gate {              /* what the senders to one destination see */
    struct list open;      /* handles not marked by it */
    struct list marked;    /* handles marked Xoff by it */
    struct list opening;   /* in layer8_switch.opening while marked handles are let go, a few a round */
    bool closed;
};

struct handle {
    port_t *owner;
    struct list of_target; /* in a gate's open or marked list, or in topic->handles */
    struct list flows;     /* flows with copies owed under this handle */
    void *target;          /* port_t, struct alias or struct topic; NULL when gone */
    uint64_t owed_bytes;   /* topics: spans of copies owed, to bound what one topic takes of the hold ring */
    uint16_t slot, generation;
    uint8_t kind;          /* 0: free, LAYER8_TARGET_* */
    uint8_t byte;          /* what stands in the flag area */
    uint8_t allows;        /* LAYER8_ALLOW_*; 0: all */
    bool gate_closed, choked, gone;
};

#define HANDLES_PER_CHUNK 64u
#define HANDLE_CHUNKS (LAYER8_SLOTS / HANDLES_PER_CHUNK)

struct alias {
    struct gate gate;
    struct list waiting;   /* flows whose records any member may take */
    struct membership **members; /* those of this host first: they are chosen before others */
    uint32_t count, locals, capacity, turn, congested;
};

struct membership {
    struct list of_port;
    port_t *port;
    struct alias *alias;
    bool congested;        /* counted in alias->congested */
};

struct topic {
    struct list handles;
    struct subscription **subscribers;
    uint32_t count, capacity;
};

struct subscription {
    struct list of_port;
    port_t *port;
    struct topic *topic;
    uint32_t number;       /* the subscriber's own number for the topic */
    uint32_t missed;       /* since the last record it got */
    uint32_t unsaid;       /* the same, as its segment has it: until the record that says it is published */
    struct list said;      /* in layer8_switch.said while such a record is not */
    uint64_t total;
};

struct held {              /* one record in a hold ring; its header stands here, its body in the segment */
    struct layer8_record record;
    struct list in_ring;   /* oldest position first */
    struct list timed;     /* in port->timed while it has a deadline */
    uint64_t position, deadline_ns;
    uint32_t span, copies;
    struct message *message; /* in fragments, that it is of: valid while copies are owed */
    bool dead;             /* expired, cancelled or aborted: skipped when its turn comes */
    bool sent;             /* a copy went over a link: its time is the far Vnet's to watch */
};

struct found {             /* one record of a hold ring, at adoption */
    struct layer8_record record;
    uint64_t position;
};

struct owed {              /* one copy */
    struct owed *next, *previous;
    struct flow *flow;
    struct held *held;
    struct sent *sent;     /* it is on its way over a link and not answered */
    bool repeated;         /* it was on its way once: it goes as a retry */
    struct message *message; /* the message in fragments it belongs to, or NULL */
    struct subscription *subscription; /* NULL unless a publication; dropped when the subscriber leaves */
};

struct flow {
    struct list of_source; /* in handle->flows, or in source->flows when it has no handle (replies, released handles) */
    struct list of_target; /* in port->waiting or alias->waiting */
    port_t *source;
    struct handle *handle;
    port_t *target;        /* one of the two */
    struct alias *alias;
    struct owed *first, *last;
    struct owed *unsent;   /* to a proxy: those before it are on their way */
    struct list of_adjacent; /* to a proxy: in adjacent->ready or port->blocked while something is unsent */
    uint64_t bytes;
    uint64_t moved_ns;     /* when it last made progress */
    bool replies;          /* and nothing else; what was sent under a handle given back has none either */
    bool named;            /* messages to a port or an alias */
};

struct receiver {
    uint32_t port;         /* id; the port may be gone by now */
    struct subscription *subscription; /* valid while the port is and the message has not ended */
    uint16_t number;       /* a publication: the receiver's own number for the topic */
    bool begun;            /* its beginning is there: whatever ends the message, its receiver hears of it */
    bool out;              /* dropped or aborted: gets no more of it */
};

struct message {           /* a message in fragments that has begun */
    struct list of_source;
    struct layer8_record first;
    uint32_t next, right;  /* next fragment expected; right: of a request or reply, or NO_RIGHT */
    uint16_t right_generation;
    uint32_t count, capacity;
    uint32_t owed;         /* copies in flows that point here */
    uint16_t reason;       /* when it is refused: why */
    bool refused, ended;
    struct receiver *receivers;
};

enum right_state { RIGHT_FREE = 0, RIGHT_OPEN, RIGHT_ANSWERED };

#define NO_RIGHT UINT32_MAX

struct right {
    struct list of_caller, of_callee;
    port_t *caller, *callee;
    uint64_t correlation, sequence;
    uint32_t next;         /* chain of the hash, or of the free list */
    uint16_t generation, slot, handle_generation;
    uint8_t state;
};

struct half {              /* a message that stood half at its receiver when a Vnet died: does it go on? */
    struct list in_switch, of_port;
    struct layer8_half key;
    port_t *to;            /* who has it; NULL: somebody at `asker`, which waits for the answer to `tag`: */
    struct adjacent *asker;
    uint64_t tag;
    uint8_t uuid[16];
    struct parcel *parcel; /* the source is on another host, whose Vnet was asked */
};

struct due {               /* a notice about a request, or an abort, that found no room: never lost */
    struct list of_port;
    struct layer8_record record;
};

enum port_state { PORT_NEW = 0, PORT_UP = 1, PORT_CLOSING = 2, PORT_DEAD = 3 };

struct layer8_switch_port {
    /* the mapping: set by layer8_switch_port_new, never changed */
    uint8_t *base, *transmit, *receive, *hold;
    struct layer8_control *control;
    _Atomic uint8_t *slot_bytes;
    _Atomic uint64_t *missed;
    _Atomic uint32_t *unsaid;
    struct layer8_state_page *state_page;
    uint64_t bytes, transmit_capacity, receive_capacity, hold_capacity;
    uint8_t uuid[16];
    int doorbell;
    int chime, chime_epoll; /* an asyncio Vnic's: in place of its semaphores; -1 without */

    uint32_t id, principal;
    _Atomic uint32_t state;
    uint32_t reason;

    /* positions: private, and the last values published or seen */
    uint64_t transmit_head, transmit_tail, transmit_published, transmit_limit;
    uint64_t receive_tail, receive_published, receive_head, unread;
    uint64_t hold_head, hold_tail, hold_live, hold_published;
    int64_t deficit;

    struct found *found;   /* what an earlier Vnet held, as the segment has it, until the port is added */
    struct held **adopted; /* the same, by sequence: it moves before the transmit ring does */
    uint32_t adopted_count, adopted_next;
    uint64_t adopted_until; /* records of the transmit ring before this are retries */
    uint64_t adopted_highest; /* the highest sequence that was held */
    uint64_t adopted_tail; /* of the receive ring: what stands before it was written by an earlier Vnet */
    bool is_adopted, resumed, mirrored; /* mirrored: its Vnic is on another host, and has these pages twice */
    bool unsettled;        /* what the earlier Vnet may have moved of it has not been repeated yet */
    bool told;             /* its Vnic has said which messages it goes on sending: */
    struct layer8_half *going;
    uint32_t going_count;
    struct list halves;    /* what stood half at it: see halves.c */

    struct list active, dirty, doomed, closing;
    struct list released;  /* its hold ring's head has moved and is not published */
    bool stalled;          /* its hold ring is full: not visited until something is released */
    bool congested;        /* over half full and asked to say when it is drained */
    bool drain_due;        /* a doorbell came while congested */
    bool purged;

    struct adjacent *adjacent; /* of a proxy: the Vnet it lives at; else NULL. The following are for proxies */
    struct list of_adjacent;
    struct list blocked;   /* flows to it that wait for answers */
    struct list arrivals;  /* what came from it and waits for the control plane */
    uint64_t way_bytes;    /* sent to it and unanswered */
    uint64_t owed_bytes;   /* owed to it in all */
    bool asked;
    port_t *of_uuid;       /* chain of the hash */

    struct list deferred;  /* commands that wait behind a handle given back: see command.c */
    struct gate gate;
    struct handle *handles[HANDLE_CHUNKS];
    struct list flows;     /* without a handle */
    struct list waiting;   /* flows of others that wait for this port */
    struct list memberships, subscriptions;
    struct list held, timed, messages, due;
    struct list as_caller, as_callee;
    uint32_t outstanding, due_count, message_count;
    uint64_t close_ns, wait_ns, lost_notices;

    /* read by the control thread at any time */
    _Atomic uint64_t in_messages, in_bytes, out_messages, out_bytes;
    _Atomic uint64_t undeliverable, missed_count, refused, notices_lost, retries;
    _Atomic uint64_t fill_hold;
    _Atomic uint32_t handle_count, outstanding_count, xoff;
};

struct command {
    uint32_t kind, port, a, b, c, d;
    uint64_t token;
    void *pointer;
    uint8_t uuid[16];
};

struct deferred {          /* a command for a port that waits behind a handle given back, or is that */
    struct list of_port;
    struct command command;
    uint64_t until;        /* where the transmit ring stood */
    bool released;         /* it gives a handle back: waits until there */
};

#define COMMAND_RING 4096u

struct layer8_switch {
    layer8_switch_config config;
    int epoll, command_fd, event_fd;
    port_t **ports;
    struct alias **aliases;
    struct topic **topics;
    struct right *rights;
    uint32_t *right_buckets;
    uint32_t rights_made, rights_free, rights_mask, right_seed, max_rights;
    uint32_t port_count, active_count;
    struct list active, dirty, doomed, closing, opening, released, said;
    struct pool owed_pool, held_pool, flow_pool, message_pool, due_pool;
    struct adjacent **adjacents; /* by the number of their link */
    port_t **by_uuid;      /* hash of all ports */
    uint32_t uuid_mask, stranger_count;
    struct list busy;      /* adjacent Vnets with something to take or to send */
    struct list late;      /* and with outcomes that wait for company */
    struct list halves;    /* of all ports */
    struct pool arrival_pool, sent_pool, parcel_pool;
    struct arriving *arriving; /* while a record of a proxy is forwarded */
    uint64_t linked_ns;    /* when something last came or went over a link */
    uint64_t now_ns, tick_ns, spent; /* spent: bytes copied, for the quota of the port visited */
    uint64_t timed;        /* held records, flows or ports with a deadline: the clock is read while it is not 0 */
    bool stop, quiescing, frozen;
    uint8_t *at;           /* while layer8_forward runs: the record's header in its segment, for noting decisions */
    struct held *held_now; /* and the held record it is, at adoption */
    uint64_t quiesce_token;

    /* commands in, events out: single producer, single consumer each */
    struct command *commands;
    layer8_event *events;
    uint32_t event_mask;
    _Alignas(128) _Atomic uint64_t command_tail;
    _Alignas(128) _Atomic uint64_t command_head;
    _Alignas(128) _Atomic uint64_t event_tail;
    _Alignas(128) _Atomic uint64_t event_head;
    uint64_t commands_open;    /* control thread: given and not yet seen done */

    _Atomic uint64_t visits, records, wakeups, sleeps, violations, held_records, held_bytes, outstanding;
};

/* Counters have one writer: a plain add, made visible to readers. */
#define COUNT(counter, n) layer8_store_relaxed(&(counter), layer8_load_relaxed(&(counter)) + (n))

static inline bool port_alive(const port_t *port) { return port != NULL && layer8_load_relaxed(&port->state) == PORT_UP; }

static inline port_t *port_by_id(layer8_switch *sw, uint32_t id) {
    uint32_t index = id & 0xffffu;
    port_t *port = index < sw->config.max_ports ? sw->ports[index] : NULL;
    return port != NULL && port->id == id ? port : NULL;
}

static inline struct handle *handle_at(port_t *port, uint32_t slot) {
    struct handle *chunk = port->handles[slot / HANDLES_PER_CHUNK];
    return chunk == NULL ? NULL : &chunk[slot % HANDLES_PER_CHUNK];
}

/* ---- deliver.c: into a receive ring ---- */

enum put { PUT_DONE, PUT_NO_ROOM, PUT_DEAD, PUT_TOO_MANY };
enum put_limit { PUT_HALF, PUT_RECORD, PUT_NOTICE }; /* how full the ring may get: half, seven eighths, wholly */

enum put layer8_put(layer8_switch *sw, port_t *to, const struct layer8_record *record, const uint8_t *body,
                    enum put_limit limit);
void layer8_flush(layer8_switch *sw); /* publishes tails and wakes receivers, once a visit */
uint64_t layer8_fill(layer8_switch *sw, port_t *port); /* read anew; counts what the library holds unread */
void layer8_violation(layer8_switch *sw, port_t *port);
void layer8_stamp(struct layer8_record *delivered, const struct layer8_record *record, const port_t *source);
/* Reports that a record will not be delivered; a request's report is never lost. `to`: uuid or NULL. */
void layer8_report(layer8_switch *sw, port_t *source, const struct layer8_record *record, uint16_t reason,
                   const uint8_t *to);
/* It gets no more of the message; where it has the beginning, it is told. */
void layer8_abort_at(layer8_switch *sw, const port_t *source, const struct message *message, struct receiver *receiver);
void layer8_put_abort(layer8_switch *sw, port_t *to, const struct layer8_record *record); /* never lost; `to` is of this host */
void layer8_flush_notices(layer8_switch *sw, port_t *port);

/* ---- gate.c: Xoff and Xon ---- */

void layer8_gate_init(struct gate *gate);
void layer8_handle_mark(struct handle *handle); /* works the byte out anew, writes it, wakes its owner on Xon */
void layer8_gate_close(layer8_switch *sw, struct gate *gate);
void layer8_gate_open(layer8_switch *sw, struct gate *gate);
bool layer8_gates_step(layer8_switch *sw); /* lets some waiting senders go; true: more to do */
void layer8_congest(layer8_switch *sw, port_t *port); /* a proxy's congestion is its link's: see departures.c */
/* Serves the flows of a list in turn; true when all of them were emptied. */
bool layer8_serve_waiting(layer8_switch *sw, struct list *waiting);
void layer8_congest_mark(layer8_switch *sw, port_t *port);
void layer8_congest_clear(layer8_switch *sw, port_t *port);
void layer8_relieve(layer8_switch *sw, port_t *port);
void layer8_wake_sender(port_t *port);
void layer8_marked(port_t *port); /* a mark or a count of its pages has changed, and nobody else is told */
void layer8_post(port_t *port, struct layer8_wakeup *wakeup); /* one token for its Vnic */

/* ---- hold.c: the hold ring ---- */

#define HOLD_KEPT_BACK (2 * (uint64_t)LAYER8_RECORD_MAX) /* for moving one record, with a pad */

bool layer8_hold_room(layer8_switch *sw, port_t *port, uint64_t length);
struct held *layer8_hold_add(layer8_switch *sw, port_t *port, const struct layer8_record *record, const uint8_t *body);
const uint8_t *layer8_held_body(const port_t *port, const struct held *held);
void layer8_held_time(layer8_switch *sw, port_t *port, struct held *held); /* starts its ttl */
void layer8_held_release(layer8_switch *sw, port_t *port, struct held *held); /* one copy is no longer owed */
/* Notes that it is refused: its flow passes over it when its turn comes, and a later Vnet does not try again. */
void layer8_held_refuse(const port_t *port, struct held *held, uint16_t reason);
void layer8_held_tick(layer8_switch *sw, port_t *port);                       /* what has outlived its ttl goes back */

/* Says of a record that it will not be delivered: to its sender, or to the Vnet it came from. */
void layer8_held_give_back(layer8_switch *sw, port_t *port, struct held *held, uint16_t reason, const uint8_t *to);

/* ---- flow.c: copies owed ---- */

struct flow *layer8_flow_find(struct list *flows, const port_t *target, const struct alias *alias);
struct flow *layer8_flow_of_replies(port_t *source, const port_t *target);
struct flow *layer8_flow_to(const port_t *source, port_t *target); /* under whatever handle: requests and replies are not meant */
struct flow *layer8_flow_beside(layer8_switch *sw, port_t *source, port_t *target);
struct flow *layer8_flow_open(layer8_switch *sw, port_t *source, struct handle *handle, port_t *target,
                              struct alias *alias);
bool layer8_flow_owe(layer8_switch *sw, struct flow *flow, struct held *held, struct message *message,
                     struct subscription *subscription);
void layer8_flow_refuse(layer8_switch *sw, struct flow *flow, uint16_t reason); /* all its copies, then the flow */
bool layer8_owed_again(const struct owed *owed);
void layer8_owed_refuse(layer8_switch *sw, struct owed *owed, uint16_t reason); /* one copy; the flow may be freed */
void layer8_owed_done(layer8_switch *sw, struct owed *owed);                    /* the same, and nobody is told */
void layer8_flow_forget(layer8_switch *sw, struct flow *flow); /* all of it: its source will send it again */
/* Drops what belongs to the message, or to the subscription; frees the flow when nothing is left in it. */
void layer8_flow_drop(layer8_switch *sw, struct flow *flow, const struct message *message,
                      const struct subscription *subscription);
enum served { SERVED_ALL, SERVED_SOME, SERVED_NO_ROOM };
enum served layer8_flow_serve(layer8_switch *sw, struct flow *flow, uint32_t records); /* ALL: the flow is freed */
void layer8_flow_tick(layer8_switch *sw, struct flow *flow);

/* ---- forward.c: what a record means ---- */

enum forward { FORWARD_DONE, FORWARD_STALLED, FORWARD_VIOLATION };

bool layer8_is_reply(uint8_t kind);
bool layer8_allowed(const struct handle *handle, const struct layer8_record *record);
enum forward layer8_forward(layer8_switch *sw, port_t *port, const struct layer8_record *record, const uint8_t *body);
port_t *layer8_choose(layer8_switch *sw, struct alias *alias);
/* Puts a checked unicast or request into one port, making the right to reply. */
enum put layer8_put_unicast(layer8_switch *sw, port_t *source, port_t *to, const struct layer8_record *record,
                            const uint8_t *body, uint64_t deadline_ns, struct message *message);
enum put layer8_put_reply(layer8_switch *sw, port_t *source, port_t *to, const struct layer8_record *record,
                          const uint8_t *body);
/* The held record this is, at adoption, or a new one; with one copy that is the caller's. NULL: no room. */
struct held *layer8_take_or_make_held(layer8_switch *sw, port_t *port, const struct layer8_record *record,
                                      const uint8_t *body);

/* ---- publication.c ---- */

enum forward layer8_forward_publication(layer8_switch *sw, port_t *port, struct handle *handle,
                                        const struct layer8_record *record, const uint8_t *body,
                                        struct message *message);
void layer8_miss(struct subscription *subscription, uint32_t count);
void layer8_said(layer8_switch *sw); /* what records say of publications that were missed is published */
enum put layer8_put_publication(layer8_switch *sw, port_t *source, struct subscription *subscription,
                                const struct layer8_record *record, const uint8_t *body, enum put_limit limit);

/* ---- admit.c ---- */

void layer8_port_init(port_t *port); /* its lists */

/* ---- adopt.c ---- */

bool layer8_adopt(port_t *port); /* reads the segment; false: what stands there cannot be. Any thread */
bool layer8_adopted(layer8_switch *sw, port_t *port); /* when the port is added; false: out of memory */
bool layer8_well_formed(const struct layer8_record *record, uint64_t there, uint64_t to_end, uint64_t message_max);
void layer8_resume(layer8_switch *sw, port_t *port);
void layer8_start(layer8_switch *sw);
bool layer8_poll_adopted(layer8_switch *sw, port_t *port); /* true: all of it has moved */
/* Notes in a record's header, in the segment, what is about to be done with it, so that a later Vnet does the same. */
void layer8_note(uint8_t *at, uint16_t reason, const uint8_t *uuid);

/* ---- halves.c ---- */

/* Before RESUME: the messages that this port's Vnic goes on sending, and those that stand half at it. */
void layer8_halves_told(layer8_switch *sw, port_t *port, const struct layer8_half *told, uint32_t going, uint32_t halves);
void layer8_going_end(port_t *port, const struct layer8_record *record); /* settled, and it is one of port->messages now */
void layer8_halves_unread(layer8_switch *sw, port_t *port); /* the same of what stands unread in its ring, at RESUME */
void layer8_settle(layer8_switch *sw, port_t *port); /* all that is found of it at adoption has been repeated */
void layer8_halves_of(layer8_switch *sw, port_t *source); /* answers what was asked about this source */
void layer8_halves_drop(port_t *port); /* nobody asks any more */
void layer8_half_free(struct half *half);

/* ---- messages.c ---- */

struct message *layer8_message_find(port_t *port, const struct layer8_record *record);
struct message *layer8_message_begin(layer8_switch *sw, port_t *port, const struct layer8_record *record);
bool layer8_message_add(struct message *message, const port_t *to, struct subscription *subscription);
struct receiver *layer8_receiver_of(const struct message *message, const struct subscription *subscription);
void layer8_message_begun(struct message *message, const struct layer8_record *record,
                          const struct subscription *subscription); /* the record is there; NULL: no publication */
/* Nobody gets more of it: its receivers are told, and the right to reply that its beginning made is taken back. */
void layer8_message_refuse(layer8_switch *sw, port_t *port, struct message *message);
void layer8_message_abort(layer8_switch *sw, port_t *port, struct message *message); /* refuses and ends it */
void layer8_message_end(layer8_switch *sw, port_t *port, struct message *message);
void layer8_message_reopen(port_t *port, struct message *message); /* it ended with copies owed that are forgotten */
void layer8_message_unowe(layer8_switch *sw, struct message *message);
/* The replies in fragments that have begun under a right, before it ends: whoever asked gets no more of them. */
void layer8_replies_abort(layer8_switch *sw, const struct right *right);

/* ---- rights.c ---- */

struct right *layer8_right_make(layer8_switch *sw, port_t *caller, port_t *callee, const struct layer8_record *record,
                                uint32_t *index);
struct right *layer8_right_of_reply(layer8_switch *sw, const port_t *callee, const struct layer8_record *record);
bool layer8_right_stands(const layer8_switch *sw, const struct message *message); /* false: none, or ended */
struct right *layer8_right_of_call(layer8_switch *sw, const port_t *caller, uint64_t correlation, uint32_t *index);
void layer8_right_end(layer8_switch *sw, struct right *right);
void layer8_right_fail(layer8_switch *sw, struct right *right, uint16_t reason); /* ends it; its caller is told */
void layer8_rights_fail(layer8_switch *sw, port_t *port, uint16_t reason, bool answered_too);
void layer8_rights_cancel(layer8_switch *sw, port_t *port);
void layer8_right_revoke(layer8_switch *sw, struct right *right);

/* ---- close.c ---- */

void layer8_port_begin_close(layer8_switch *sw, port_t *port, uint32_t reason, uint64_t wait_ns);
void layer8_port_try_reap(layer8_switch *sw, port_t *port);
void layer8_join_alias(layer8_switch *sw, struct membership *membership); /* alias->members has room */
void layer8_leave_alias(layer8_switch *sw, struct membership *membership);
void layer8_unsubscribe(layer8_switch *sw, struct subscription *subscription);
void layer8_handle_clear(layer8_switch *sw, struct handle *handle, uint8_t byte);

/* ---- command.c ---- */

void layer8_commands_run(layer8_switch *sw);
void layer8_commands_free(layer8_switch *sw);
/* Runs those commands for a port that waited and need not any more; `all`: there is nothing left to wait for. */
void layer8_commands_deferred(layer8_switch *sw, port_t *port, bool all);
void layer8_emit_event(layer8_switch *sw, layer8_event event);
void layer8_emit(layer8_switch *sw, uint32_t kind, uint32_t port, uint64_t token, int64_t value, port_t *pointer);

/* ---- switch.c ---- */

void layer8_activate(layer8_switch *sw, port_t *port);
uint32_t layer8_uuid_bucket(const layer8_switch *sw, const uint8_t *uuid);
void layer8_port_enter(layer8_switch *sw, port_t *port); /* into the table of ports and the hash of uuids */
void layer8_port_forget(layer8_switch *sw, port_t *port);
uint64_t layer8_now_ns(void);

#endif
