/* remote.h - other hosts, as the switch sees them. An *adjacent* Vnet is the far end of a link; a *proxy* stands for a
 * Vnic that lives there: a port without a segment.
 *
 *   adjacent ── link       the queues of its present connection; NULL while there is none
 *            ── proxies    and itself, as a subscriber of topics
 *            ── ready      flows with copies to send ──▶ sent: on their way, by tag ──▶ answered by an outcome
 *            ── parcels    what is said once and must arrive: gone, abort, cancel, a request that failed
 *            ── answers    outcomes for what came from there
 *            ── strangers  sources that have no proxy yet, and what came from them
 *
 * A copy owed to a proxy stays in its sender's hold ring until its outcome comes. A cut makes all of them unsent again;
 * the far switch drops what it held of them, so that order stays, and receivers drop what they had (RETRY). */
#ifndef LAYER8_SWITCH_REMOTE_H
#define LAYER8_SWITCH_REMOTE_H

#include "internal.h"
#include "layer8/wire.h"
#include "queue.h"

#define LAYER8_LINKS 1024u
#define STRANGERS 1024u /* of all links */

struct sent {              /* a tag: the copy, or the parcel, until its outcome comes */
    struct sent *next;     /* chain of the hash */
    uint64_t tag;
    struct owed *owed;     /* NULL: dropped meanwhile, or a parcel */
    struct parcel *parcel;
    uint32_t port;         /* the proxy whose window it takes */
    uint32_t span;
};

struct parcel {
    struct list of_adjacent;
    struct sent *sent;
    struct half *half;     /* a question: its outcome is the answer */
    bool gone;             /* a GONE frame, else a record without a body */
    struct layer8_frame_record frame;
};

struct arrival {           /* a record from a link that could not be finished at once */
    struct held held;      /* the body is in private memory */
    struct list queue;     /* while it waits for the control plane */
    uint8_t *body;
    uint64_t tag;
    uint32_t counted;      /* whose window it takes: see adjacent->unanswered */
    uint16_t outcome;
    uint8_t destination_kind;
    uint8_t destination[16];
};

struct arriving {          /* the record from a link that is being forwarded */
    uint64_t tag;
    uint32_t counted;
    uint16_t outcome;
    uint8_t destination_kind;
    const uint8_t *destination;
    bool told;             /* the control plane has just spoken about it */
    bool kept;             /* an arrival was made of it: its outcome comes later */
};

struct stranger {
    struct list of_adjacent;
    struct list arrivals;
    uint8_t uuid[16];
};

struct adjacent {
    uint32_t number;
    bool broken;           /* a violation: nothing more is taken from this connection */
    bool ever_up;
    layer8_link *link;
    struct list busy;
    struct list proxies, ready, strangers;
    struct list parcels;   /* unsent ones behind those that are on their way */
    uint32_t parcels_unsent;
    struct sent **sent;    /* hash by tag */
    uint32_t sent_count, sent_mask;
    uint64_t next_tag;
    struct layer8_outcome *answers;
    uint32_t answer_count, answer_capacity;
    uint64_t answer_bytes; /* of records, that these answer */
    uint32_t asked;        /* its questions that wait for an answer: halves.c */
    uint64_t late_ns;      /* when they go alone, while `late` is linked */
    struct list late;
    uint64_t *unanswered;  /* bytes kept here, by index of the local port; the last is for topics */
};

/* ---- link.c: the session, its connections and its rounds ---- */

int layer8_add_link(layer8_switch *sw);
int layer8_link_up(layer8_switch *sw, uint32_t number, layer8_link *link, bool another_epoch);
int layer8_link_down(layer8_switch *sw, uint32_t number);
int layer8_remove_link(layer8_switch *sw, uint32_t number, uint16_t reason);
struct adjacent *layer8_adjacent(layer8_switch *sw, uint32_t number);
void layer8_adjacent_busy(layer8_switch *sw, struct adjacent *adjacent);
void layer8_adjacents_step(layer8_switch *sw); /* takes what came, sends what waits; once a round */
void layer8_take_link_token(layer8_switch *sw, uint32_t number);
void layer8_adjacent_free(layer8_switch *sw, struct adjacent *adjacent);
void layer8_adjacent_violation(layer8_switch *sw, struct adjacent *adjacent);

/* ---- departures.c: copies that go to other hosts ---- */

void layer8_remote_owe(layer8_switch *sw, struct owed *owed);     /* a copy was added to a flow to a proxy */
void layer8_remote_unowe(layer8_switch *sw, struct owed *owed);   /* a copy is about to leave one */
void layer8_proxy_weigh(layer8_switch *sw, port_t *port); /* congested: its link is down, or too much is owed to it */
void layer8_flow_ready(layer8_switch *sw, struct flow *flow);
bool layer8_departures_turn(layer8_switch *sw, struct adjacent *adjacent, struct flow *flow); /* false: the queue is full */

/* ---- parcels.c: what is said once ---- */

void layer8_remote_abort(layer8_switch *sw, port_t *to, const struct layer8_record *abort, uint16_t topic_number);
void layer8_remote_cancel(layer8_switch *sw, port_t *callee, const port_t *caller, const struct layer8_record *cancel);
void layer8_remote_fail(layer8_switch *sw, port_t *caller, const struct layer8_record *request, uint16_t reason,
                        const uint8_t *callee);
void layer8_remote_gone(layer8_switch *sw, const port_t *port); /* a port of this host is reaped */
void layer8_remote_ask(layer8_switch *sw, port_t *source, struct half *half); /* does it go on? `half` is told the answer */
bool layer8_parcels_send(layer8_switch *sw, struct adjacent *adjacent); /* false: the queue is full */

/* ---- halves.c, of links ---- */

/* The far Vnet is another one: whatever of its Vnics has begun here is asked about. */
void layer8_halves_begun(layer8_switch *sw, port_t *source);
bool layer8_halves_asked(layer8_switch *sw, struct adjacent *adjacent, const struct layer8_frame_record *frame);
void layer8_half_answered(layer8_switch *sw, struct half *half, bool is_over);
void layer8_halves_cut(layer8_switch *sw, const struct adjacent *adjacent); /* they will be asked again */

/* ---- outcomes.c: tags, and what ends them ---- */

struct sent *layer8_tag_new(layer8_switch *sw, struct adjacent *adjacent); /* NULL: out of memory */
void layer8_tags_forget(layer8_switch *sw, struct adjacent *adjacent); /* nothing is on its way any more */
void layer8_answer(layer8_switch *sw, struct adjacent *adjacent, uint64_t tag, uint64_t span, uint16_t reason);
bool layer8_outcomes_wait(layer8_switch *sw, struct adjacent *adjacent); /* true: for a record that goes the same way */
bool layer8_outcomes_send(struct adjacent *adjacent); /* false: the queue is full */
bool layer8_outcomes_take(layer8_switch *sw, struct adjacent *adjacent, const struct layer8_frame_head *head);

/* ---- remote.c: proxies, and what comes from them ---- */

int layer8_add_remote(layer8_switch *sw, uint32_t id, port_t *port, uint32_t principal, uint32_t number);
int layer8_refuse_source(layer8_switch *sw, uint32_t number, const uint8_t *uuid);
bool layer8_arrive(layer8_switch *sw, struct adjacent *adjacent, const struct layer8_frame_record *frame,
                   const uint8_t *body);
void layer8_arrive_gone(layer8_switch *sw, struct adjacent *adjacent, const struct layer8_frame_gone *frame);
void layer8_remote_granted(layer8_switch *sw, port_t *port, bool refused); /* goes on with what waited */
void layer8_arrivals_forget(layer8_switch *sw, struct adjacent *adjacent); /* they will come again */
void layer8_arrivals_end(layer8_switch *sw, port_t *port);                 /* of a proxy that ends */
struct held *layer8_arrival_keep(layer8_switch *sw, port_t *port, const struct layer8_record *record,
                                 const uint8_t *body);
const uint8_t *layer8_arrival_body(const struct held *held);
void layer8_arrival_answer(layer8_switch *sw, port_t *port, struct held *held); /* it is dead: its body goes */
void layer8_arrival_done(layer8_switch *sw, port_t *port, struct held *held);
void layer8_arrival_outcome(struct held *held, uint16_t reason);

#endif
