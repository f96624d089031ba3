/* core.cdef.h - the C core as Python sees it. cffi reads this; core.csrc.c includes the same declarations.
 *
 * Two halves that never meet in one object: `layer8_port_*` is a Vnic's side of its segment, `layer8_switch_*` is
 * the Vnet's. Results are 0 or positive, or a negative status. Nothing here raises, logs or takes a name. */

#define LAYER8_OK 0
#define LAYER8_FULL -1      /* no room in the transmit ring now */
#define LAYER8_XOFF -2      /* the destination takes no more now */
#define LAYER8_GONE -3      /* the destination is gone, or nobody has the alias */
#define LAYER8_REVOKED -4   /* the handle is no longer granted */
#define LAYER8_TOO_LARGE -5
#define LAYER8_CORRUPT -6   /* the other side wrote what cannot be */
#define LAYER8_INVALID -7   /* a wrong argument */
#define LAYER8_CLOSED -8
#define LAYER8_SYSTEM -9    /* errno says more */
#define LAYER8_INTERRUPTED -10
#define LAYER8_AWAY -11        /* no Vnet is there now */

#define LAYER8_UNICAST 1
#define LAYER8_PUBLISH 2
#define LAYER8_REQUEST 3
#define LAYER8_REPLY 4
#define LAYER8_FAILED_REPLY 5
#define LAYER8_CANCEL 6
#define LAYER8_ABORT 7
#define LAYER8_NOTICE 8

#define LAYER8_FIRST 1
#define LAYER8_LAST 2
#define LAYER8_RETRY 4
#define LAYER8_SEALED 8
#define LAYER8_HEADERS 16
#define LAYER8_RELIABLE 32
#define LAYER8_ENTRY_MISSED 64  /* table entry only: the publication's `missed` is not 0 */
#define LAYER8_ENTRY_LARGE 128  /* table entry only: `offset` is the number of an assembled message */

#define LAYER8_SLOTS 4096
#define LAYER8_TOPICS 1024
#define LAYER8_FRAGMENT_BYTES 65536
#define LAYER8_HEADERS_MAX 4096
#define LAYER8_HALF_BYTES 32
#define LAYER8_GOING_MAX 255    /* messages in fragments that one port has begun and not ended */
#define LAYER8_HALVES_MAX 1024  /* and those that are being received */

#define LAYER8_NO_SOURCE 4294967295

/* ------------------------------------------------------------------ a Vnic's side */

typedef struct layer8_port layer8_port;

/* One message on its way out, kept by the caller until `layer8_push` has returned 0 or it was aborted.
 * `handle` is slot | generation << 16. For a reply `right`/`right_generation` come from the request. */
typedef struct {
    uint32_t handle;
    uint8_t kind;
    uint8_t flags;
    uint16_t headers_length;
    const uint8_t *headers;
    const uint8_t *payload;
    uint64_t length;
    uint64_t correlation;
    uint32_t ttl;
    uint32_t right;
    uint16_t right_generation;
    uint16_t reason;
    uint32_t fragment;     /* progress: the next fragment to write; 0 before the first call */
    uint32_t fragments;
    int64_t sequence;      /* of the first record, set by the first call that wrote one */
} layer8_outgoing;

/* What a batch table holds per message: struct.iter_unpack("<IIBBHIQ"). The whole record header stands in the
 * batch buffer 64 bytes before `offset`, and its header map in front of that; for an ENTRY_LARGE see
 * layer8_port_large. */
typedef struct {
    uint32_t offset;    /* of the payload in the batch buffer */
    uint32_t length;    /* of the payload */
    uint8_t kind;
    uint8_t flags;
    uint16_t topic;
    uint32_t source;    /* small number of the (uuid, principal) pair: layer8_port_source; LAYER8_NO_SOURCE for a
                         * notice, and when there are more senders than numbers: read the record header */
    uint64_t sequence;
} layer8_entry;

typedef struct {
    uint64_t sent_messages, sent_bytes, received_messages, received_bytes;
    uint64_t sent_records, received_records;
    uint64_t late_wakeups;       /* waits that expired and found work: must stay 0 */
    uint64_t waits, doorbells;
    uint64_t duplicates_dropped, fragments_discarded, messages_aborted;
    uint64_t transmit_fill, receive_fill, hold_fill;   /* bytes now */
    uint64_t transmit_capacity, receive_capacity, hold_capacity;
    uint64_t assembling_bytes;
} layer8_port_stats;

/* A sealed memfd with three empty rings: a descriptor, or -errno. ring_bytes: receive ring, a power of two. */
int layer8_segment_create(uint64_t ring_bytes, const uint8_t *uuid);

/* Maps the Vnic's side. `assembly_bytes` bounds all messages being assembled together. NULL: *status says why.
 * The descriptors stay the caller's and may be closed afterwards, the doorbell's is duplicated. */
layer8_port *layer8_port_open(int segment_fd, uint64_t max_message_bytes, uint64_t assembly_bytes, int *status);
int layer8_port_set_doorbell(layer8_port *port, int eventfd);
void layer8_port_close(layer8_port *port);         /* unmaps; no other call may be under way */
void layer8_port_shut(layer8_port *port, int status); /* from now on every send and wait returns `status` */
void layer8_port_reopen(layer8_port *port);           /* ends `shut`, unless it was closed */
/* Drops messages in fragments that will not go on: the old ones of one source (16 bytes) or, with NULL, the requests and
 * replies of all. The thread that receives. Returns how many. */
uint32_t layer8_port_forget_begun(layer8_port *port, const uint8_t *source);
/* What the Vnet that adopts this port must know, after layer8_port_shut: fills `table` with up to `max` entries of
 * LAYER8_HALF_BYTES each, returns how many. The messages in fragments that this port goes on sending, and those of others
 * that stand half here, which are *old* from then on (the thread that receives). */
uint32_t layer8_port_going(layer8_port *port, uint8_t *table, uint32_t max);
uint32_t layer8_port_halves(layer8_port *port, uint8_t *table, uint32_t max);
void layer8_port_wake(layer8_port *port);          /* wakes everybody who waits on this port, in this process */

/* Sending. Thread-safe; never blocks. Returns the sequence (>= 1) or a negative status.
 * For whole messages up to LAYER8_FRAGMENT_BYTES. */
int64_t layer8_send(layer8_port *port, uint32_t handle, const uint8_t *payload, uint64_t length);
int64_t layer8_publish(layer8_port *port, uint32_t handle, const uint8_t *payload, uint64_t length, int reliable);
int64_t layer8_request(layer8_port *port, uint32_t handle, const uint8_t *payload, uint64_t length,
                       uint64_t correlation, uint32_t ttl_ms);
int64_t layer8_reply(layer8_port *port, uint32_t right, uint16_t right_generation, uint64_t correlation,
                     const uint8_t *payload, uint64_t length);
/* Any message, any size: writes what fits. 0 when all of it stands in the ring, LAYER8_FULL or LAYER8_XOFF when
 * the caller should wait and call again, another status when it is over. An outgoing belongs to one thread. */
int layer8_push(layer8_port *port, layer8_outgoing *message);
/* When it is given up: ends what was begun with an abort record. Safe at any time; after a status other than FULL and
 * XOFF it was done already. */
void layer8_push_abort(layer8_port *port, layer8_outgoing *message);
int layer8_slot_state(layer8_port *port, uint32_t slot);
/* Until there is room for the next record of a message with `bytes` left and the slot (or -1) is not marked: 1 yes, 0
 * the time has passed, or a status; as layer8_wait_arrived. One thread at a time. */
int layer8_wait_room(layer8_port *port, int64_t slot, uint64_t bytes, int64_t timeout_ns, int64_t spin_ns);

/* An entry of kind ABORT speaks of a message in fragments that was discarded because all being assembled reached
 * `assembly_bytes`: its header is that of the first fragment, `reason` its kind. */
/* Receiving. One thread at a time. Copies complete messages into the batch buffer; returns how many.
 * `unread`: bytes of earlier batches the application has not read yet. The memory of the batch before this one,
 * and its large messages, are reused. A batch counts as fill until the next call here, to layer8_set_unread (any
 * thread) or to layer8_wait_arrived. */
int layer8_receive(layer8_port *port, uint32_t max_messages, uint64_t unread);
void layer8_set_unread(layer8_port *port, uint64_t unread);
const uint8_t *layer8_port_batch(layer8_port *port, uint64_t *size);
const layer8_entry *layer8_port_table(layer8_port *port);
/* The `number`-th assembled message of this batch: header map and payload, contiguous; its record header, made of the
 * last fragment's with `length` of the whole, `headers` and `sequence` of the first. */
const uint8_t *layer8_port_large(layer8_port *port, uint32_t number, uint64_t *length, const uint8_t **record);
uint32_t layer8_port_source(layer8_port *port, uint32_t source, uint8_t *uuid); /* fills uuid, returns principal */
/* Until something has arrived: 1 yes, 0 the time has passed, or a status; LAYER8_INTERRUPTED after a signal or
 * layer8_port_wake: look around and call again. Waits 200 ms at most: callers keep their own deadline. What came before
 * layer8_port_shut is still announced and received. One thread at a time, the one that receives. */
int layer8_wait_arrived(layer8_port *port, int64_t timeout_ns, int64_t spin_ns);
/* For a Vnic that sleeps elsewhere (its Vnet has given it a chime): asks for a token and looks. 0: a token will come; else
 * as the waits, and a spare token may come. Room: of any slot; announce, then look with layer8_room. */
int layer8_arm_arrived(layer8_port *port);
int layer8_arm_room(layer8_port *port);
int layer8_room(layer8_port *port, int64_t slot, uint64_t bytes); /* looks as layer8_wait_room does */
uint64_t layer8_missed(layer8_port *port, uint32_t topic);
void layer8_port_read_stats(layer8_port *port, layer8_port_stats *stats);

/* After the Vnet died: the records that it may or may not have moved. Fills `table` with up to `max` headers of
 * transmit and hold ring from `from` on, returns how many. */
int layer8_port_stranded(layer8_port *port, uint32_t from, uint8_t *table, uint32_t max);
/* A fresh port drops the doubles of what the same Vnic took through an earlier one, which nobody reads any more. */
int layer8_port_inherit(layer8_port *port, layer8_port *earlier);

/* ------------------------------------------------------------------ a segment that exists twice (mirror.c) */

typedef struct layer8_mirror layer8_mirror;

#define LAYER8_MIRROR_RING 16          /* types of the frames that are handled in C; Python has those below */
#define LAYER8_MIRROR_HEAD 17
#define LAYER8_MIRROR_PAGES 18
#define LAYER8_MIRROR_FRAME_MAX 131072 /* bytes of a frame behind its length */
#define LAYER8_MIRROR_COLLECT_MIN 98304 /* room for all that one call must say, and any record */

#define LAYER8_MIRROR_MORE 0           /* no whole frame is left */
#define LAYER8_MIRROR_OTHER 1          /* a whole frame of another type is next */

/* Where one end stands. `received`: up to where it has what the other sends. `sent`, `head`, `tail`: of the ring it sends
 * from; the other has something between head and tail. `used`: the segment has had a port. */
typedef struct {
    uint8_t uuid[16];
    uint64_t ring_bytes, received, sent, head, tail;
    uint32_t used;
} layer8_mirror_place;

/* Makes an empty segment of a file of our own: 0 or -errno. */
int layer8_mirror_make(int fd, uint64_t ring_bytes, const uint8_t *uuid);
/* Maps a segment. `at_vnet` 0: plays the Vnet towards a Vnic's segment, 1: plays the Vnic towards a port of the switch. The
 * descriptor stays the caller's. NULL: *status says why. */
layer8_mirror *layer8_mirror_open(int segment_fd, int at_vnet, int *status);
void layer8_mirror_close(layer8_mirror *mirror);
void layer8_mirror_about(layer8_mirror *mirror, layer8_mirror_place *place);
/* What is written to wake who has this segment: the port's doorbell, or a chime; -1: its semaphores. Stays the caller's. */
void layer8_mirror_set_bell(layer8_mirror *mirror, int bell);
/* A connection begins: the other end has `received`, and all else is told anew. `fresh` 1: its pages are empty. 0, or
 * LAYER8_CORRUPT: that cannot be. */
int layer8_mirror_resume(layer8_mirror *mirror, uint64_t received, int fresh);
/* Fills the buffer with whole frames: bytes, 0 when there is nothing to say, or LAYER8_CORRUPT. `idle` 1: also what nobody
 * waits for (see SOON). */
int64_t layer8_mirror_collect(layer8_mirror *mirror, uint8_t *buffer, uint64_t size, int idle);
/* Takes whole frames. MORE, OTHER, or LAYER8_CORRUPT; *consumed: bytes of those that were taken. */
int layer8_mirror_feed(layer8_mirror *mirror, const uint8_t *bytes, uint64_t length, uint64_t *consumed);
/* Asks to be woken, by the descriptor that the other side of the segment rings. WORK: there is work already, do not sleep.
 * SOON: sleep, but not for long: something that nobody waits for is to be told then. Else 0. */
#define LAYER8_MIRROR_WORK 1
#define LAYER8_MIRROR_SOON 2
int layer8_mirror_arm(layer8_mirror *mirror);

/* ------------------------------------------------------------------ the Vnet's side */

typedef struct layer8_switch layer8_switch;
typedef struct layer8_switch_port layer8_switch_port;
typedef struct layer8_link layer8_link;

#define LAYER8_TARGET_PORT 1
#define LAYER8_TARGET_ALIAS 2
#define LAYER8_TARGET_TOPIC 3
#define LAYER8_TARGET_REFUSED 4   /* GRANT on a proxy: what comes under the handle goes back as revoked */

#define LAYER8_ALLOW_SEND 1
#define LAYER8_ALLOW_REQUEST 2

/* Commands. `port` is index | generation << 16; `a` ... `d` as said. Each is answered by one event LAYER8_EVENT_DONE
 * with its token and a status in `value`. */
#define LAYER8_COMMAND_ADD_PORT 1      /* pointer: from layer8_switch_port_new. a: number of its principal, b: 1: it
                                          stands still until RESUME (an adopted port, until its renewals are complete) */
#define LAYER8_COMMAND_REMOVE_PORT 2   /* a: reason, b: ms that held records may still wait. DONE at once, GONE at the end */
#define LAYER8_COMMAND_GRANT 3         /* a: handle, b: target kind, c: target (port, alias or topic), d: what for:
                                          a sum of LAYER8_ALLOW_*, 0 for everything */
#define LAYER8_COMMAND_REVOKE 4        /* a: handle, b: slot state to leave (gone, revoked or open) */
#define LAYER8_COMMAND_JOIN_ALIAS 5    /* a: alias */
#define LAYER8_COMMAND_LEAVE_ALIAS 6   /* a: alias */
#define LAYER8_COMMAND_SUBSCRIBE 7     /* a: topic, b: the subscriber's topic number, c: 1: renewed, its count of missed stays */
#define LAYER8_COMMAND_UNSUBSCRIBE 8   /* a: topic, b: the subscriber's topic number */
#define LAYER8_COMMAND_QUIESCE 9       /* DONE when all transmit and hold rings are empty */
#define LAYER8_COMMAND_STOP 10         /* layer8_switch_run returns */
#define LAYER8_COMMAND_RESUME 11       /* the port's renewals are complete. pointer, unless NULL: a entries of LAYER8_HALF_BYTES,
                                          messages that its Vnic goes on sending, and b that stand half there: of those
                                          the ones that do not go on are aborted */
#define LAYER8_COMMAND_START 12        /* ends `frozen`: records move from now on */
/* Links. A *link* is a number: a session with an adjacent Vnet, with or without a connection. A *proxy* is a port that
 * stands for a Vnic there, or for that Vnet itself as a subscriber; REMOVE_PORT, GRANT, REVOKE, JOIN_ALIAS, LEAVE_ALIAS,
 * SUBSCRIBE (b: the far Vnet's topic number, under 65536; said again, it is changed) and UNSUBSCRIBE take one. A GRANT
 * replaces what its slot had. */
#define LAYER8_COMMAND_ADD_LINK 13     /* value: its number */
#define LAYER8_COMMAND_LINK_UP 14      /* a: link, pointer: the queues of its connection, b: 1: another epoch than before */
#define LAYER8_COMMAND_LINK_DOWN 15    /* a: link. From DONE on the queues are the caller's again */
#define LAYER8_COMMAND_REMOVE_LINK 16  /* a: link, b: reason. GONE for each of its proxies; the queues as with LINK_DOWN */
#define LAYER8_COMMAND_ADD_REMOTE 17   /* pointer: from layer8_switch_remote_new. a: number of its principal, b: link */
#define LAYER8_COMMAND_REFUSE_SOURCE 18 /* a: link, pointer: 16 bytes, a uuid: what came from it goes back as revoked */

#define LAYER8_EVENT_DONE 1
#define LAYER8_EVENT_GONE 2            /* a port is reaped; its layer8_switch_port may be freed */
#define LAYER8_EVENT_VIOLATION 3       /* value: enum layer8_violation; GONE follows */
#define LAYER8_EVENT_RESOLVE 4         /* may `source`, over `link`, send that? It waits until ADD_REMOTE (when `port` is 0)
                                          and a GRANT of the slot and generation, or REFUSE_SOURCE */
#define LAYER8_EVENT_LINK_VIOLATION 5  /* nothing more is taken from this connection of `link` */

typedef struct {
    uint32_t kind;
    uint32_t port;
    uint64_t token;
    int64_t value;
    layer8_switch_port *pointer;       /* with GONE */
    uint32_t link;                     /* the rest with RESOLVE, the first with LINK_VIOLATION */
    uint16_t slot, generation;
    uint32_t topic;                    /* destination_kind topic: its number here */
    uint8_t record_kind, destination_kind;
    uint8_t source[16];
    uint8_t destination[16];           /* else the Vnic (alias: the member that was chosen) */
} layer8_event;

typedef struct {
    uint32_t max_ports;                /* at most 65535 */
    uint32_t max_aliases, max_topics;
    uint32_t max_rights;               /* outstanding requests in all */
    uint32_t max_rights_per_port;      /* of one caller */
    uint32_t visit_records, visit_bytes;
    uint32_t spin_us;                  /* 0: never */
    uint32_t frozen;                   /* 1: no record moves until START */
    uint64_t max_message_bytes;
} layer8_switch_config;

typedef struct {
    uint64_t in_messages, in_bytes;      /* taken from this Vnic */
    uint64_t out_messages, out_bytes;    /* delivered to this Vnic */
    uint64_t undeliverable, missed, refused, notices_lost, retries;
    uint64_t receive_fill, hold_fill, transmit_fill;
    uint64_t receive_capacity, hold_capacity, transmit_capacity;
    uint32_t handles, outstanding, xoff, state;   /* xoff: 1 while its senders are held; state: 1 up, 2 closing */
} layer8_port_counters;

typedef struct {
    uint64_t visits, records, wakeups, sleeps, violations, held_records, held_bytes;
    uint32_t outstanding, reserved;
} layer8_switch_counters;

layer8_switch *layer8_switch_new(const layer8_switch_config *config);  /* NULL: out of memory or descriptors */
void layer8_switch_free(layer8_switch *sw);                            /* after run has returned */
int layer8_switch_run(layer8_switch *sw);                              /* the switch thread; returns after STOP */
int layer8_switch_event_fd(layer8_switch *sw);                         /* readable while events wait */
/* One thread gives commands and takes events. 0, or LAYER8_FULL. */
int layer8_switch_command(layer8_switch *sw, uint32_t kind, uint64_t token, uint32_t port, uint32_t a, uint32_t b,
                          uint32_t c, uint32_t d, void *pointer);
int layer8_switch_events(layer8_switch *sw, layer8_event *events, uint32_t max);
/* Checks type, seals and sizes, maps, makes the doorbell. Any thread. NULL: *status says why. `adopt` 0: the rings must
 * be empty; 1: the segment served an earlier Vnet, its positions are taken over after checking them. LAYER8_OWN_FILE may
 * be added: it is a file that nobody else can shorten, and has no seals. */
#define LAYER8_OWN_FILE 2
layer8_switch_port *layer8_switch_port_new(int segment_fd, const uint8_t *uuid, uint64_t epoch, int adopt, int *status);
int layer8_switch_port_doorbell(layer8_switch_port *port);             /* a descriptor, owned by the port */
/* Before ADD_PORT: from now on the Vnic is woken by a descriptor, which becomes readable with each token, and not by its
 * semaphores. Owned by the port, to be passed to the Vnic; or LAYER8_SYSTEM. */
int layer8_switch_port_chime(layer8_switch_port *port);
uint64_t layer8_switch_port_bytes(layer8_switch_port *port);
layer8_switch_port *layer8_switch_remote_new(const uint8_t *uuid);     /* a proxy; NULL: out of memory */
void layer8_switch_port_free(layer8_switch_port *port);                /* after GONE, or when never added */
/* Any thread, while the port is not freed. */
void layer8_switch_port_read(layer8_switch_port *port, layer8_port_counters *counters);
void layer8_switch_read(layer8_switch *sw, layer8_switch_counters *counters);

/* The two queues of one connection, `queue_bytes` each (512 KiB to 64 MiB). Its link thread collects and feeds, the switch
 * does the rest between LINK_UP and LINK_DOWN; what is fed earlier waits. Freed when neither uses it. */
typedef struct {
    uint64_t offset;
    uint32_t length;
} layer8_control_frame;

typedef struct {
    uint64_t records_out, bytes_out, batches_out;
    uint64_t records_in, bytes_in, batches_in;
    uint64_t out_fill, in_fill, capacity;
} layer8_link_counters;

layer8_link *layer8_link_new(uint64_t queue_bytes);                    /* NULL: out of memory or descriptors */
void layer8_link_free(layer8_link *link);
/* Readable after a `collect` that found nothing, when there is something; after a `feed` that did not consume a whole
 * frame, when there is room. */
int layer8_link_event_fd(layer8_link *link);
/* Fills the buffer with whole frames to be sent: how many bytes. `size` at least 132096 + 4. */
uint64_t layer8_link_collect(layer8_link *link, uint8_t *buffer, uint64_t size);
/* Takes received bytes: control frames are returned (how many, at most `max`), data frames go to the switch. What was not
 * consumed is an unfinished frame, or found no room, or came after `max`. LAYER8_CORRUPT: what cannot be; close. */
int layer8_link_feed(layer8_link *link, const uint8_t *bytes, uint64_t length, layer8_control_frame *controls,
                     uint32_t max, uint64_t *consumed);
void layer8_link_read(layer8_link *link, layer8_link_counters *counters); /* any thread */

int layer8_layout_version(void);
int layer8_segment_layout(int fd); /* the version of its layout, which may be another one; 0: it is no sealed segment */
uint64_t layer8_segment_bytes(uint64_t ring_bytes); /* of a segment with a receive ring of this size */
