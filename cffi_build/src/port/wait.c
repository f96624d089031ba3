/* wait.c - waits for data and for room: announce, look again, sleep (wakeup.h has the handshake).
 *
 * A wait is a slice, 200 ms at most; callers keep their own deadline and call again. A sleep that expired although
 * there was work is a lost wake-up: it is counted, and the count must stay 0. */
#include "port.h"

#include <errno.h>

typedef int look_function(struct layer8_port *port, int64_t slot, uint64_t bytes);

struct wait {
    struct layer8_port *port;
    struct layer8_wakeup *wakeup;
    _Atomic bool *poked;
    look_function *look;
    int64_t slot;
    uint64_t bytes;
};

static int64_t now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int look_arrived(struct layer8_port *port, int64_t slot, uint64_t bytes) {
    (void)slot;
    (void)bytes;
    int arrived = layer8_arrived(port); /* before the status: what came earlier is still read */
    return arrived != 0 ? arrived : layer8_load_seq(&port->shut);
}

static int look_room(struct layer8_port *port, int64_t slot, uint64_t bytes) {
    int status = layer8_load_seq(&port->shut);
    if (status != LAYER8_OK) {
        return status;
    }
    bool metered = false;
    if (slot >= 0) {
        switch (layer8_load_seq(&port->flags[slot])) {
        case LAYER8_SLOT_OPEN:
            break;
        case LAYER8_SLOT_METERED:
            metered = true;
            break;
        case LAYER8_SLOT_XOFF:
            return 0;
        case LAYER8_SLOT_REVOKED:
            return LAYER8_REVOKED;
        default:
            return LAYER8_GONE;
        }
    }
    (void)pthread_mutex_lock(&port->lock);
    int room = LAYER8_CORRUPT;
    if (layer8_transmit_refresh(port)) {
        room = layer8_transmit_fits(port, bytes, port->open_messages + 1) && (!metered || layer8_burst_fits(port));
    }
    (void)pthread_mutex_unlock(&port->lock);
    return room;
}

/* Looks for work, and for a poke from another thread of this process. */
static int look(const struct wait *wait) {
    int found = wait->look(wait->port, wait->slot, wait->bytes);
    if (found == 0 && layer8_load_seq(wait->poked) && layer8_exchange_seq(wait->poked, false)) {
        return LAYER8_INTERRUPTED;
    }
    return found;
}

/* True when a token came within `limit_ns`; a signal does not end it. */
static bool take_token(struct layer8_wakeup *wakeup, int64_t limit_ns) {
    int64_t deadline = now_ns() + limit_ns;
    int64_t left = limit_ns;
    do {
        if (layer8_semaphore_wait(wakeup, left) == 1) {
            return true;
        }
        left = deadline - now_ns();
    } while (left > 0);
    return false;
}

/* Ends an announcement: takes it back or, when a waker was faster, takes the token it owes. A waker that died in
 * between owes it for ever, so this too has a limit; a token that comes later costs one look. */
static void settle(struct layer8_wakeup *wakeup) {
    if (!layer8_wakeup_retract(wakeup)) {
        (void)take_token(wakeup, LAYER8_SLICE_NS);
    }
}

static int spin(const struct wait *wait, int64_t until) {
    int found;
    do {
        for (int n = 0; n < 32; n++) {
            found = look(wait);
            if (found != 0) {
                return found;
            }
            pause_briefly();
        }
    } while (now_ns() < until);
    return 0;
}

/* The time has passed and the announcement stands. */
static int expire(const struct wait *wait) {
    int found = look(wait);
    /* A waker may stand between publishing and claiming: it gets the time to finish before the wake-up counts as lost. */
    if (found == 1) {
        if (take_token(wait->wakeup, LAYER8_SLICE_NS)) {
            return found;
        }
        (void)layer8_add_relaxed(&wait->port->late_wakeups, 1);
    }
    settle(wait->wakeup);
    return found;
}

static int wait_for(const struct wait *wait, int64_t timeout_ns, int64_t spin_ns) {
    int found = look(wait);
    if (found != 0 || timeout_ns <= 0) {
        return found;
    }
    int64_t now = now_ns();
    const int64_t deadline = now + (timeout_ns < LAYER8_SLICE_NS ? timeout_ns : LAYER8_SLICE_NS);
    if (spin_ns > 0) {
        found = spin(wait, spin_ns < deadline - now ? now + spin_ns : deadline);
        if (found != 0) {
            return found;
        }
    }
    (void)layer8_add_relaxed(&wait->port->waits, 1);
    for (;;) {
        layer8_wakeup_announce(wait->wakeup);
        KILL_POINT(26);
        found = look(wait);
        if (found != 0) {
            settle(wait->wakeup);
            return found;
        }
        now = now_ns();
        int token = layer8_semaphore_wait(wait->wakeup, deadline - now);
        if (token == -EINTR) {
            settle(wait->wakeup);
            return LAYER8_INTERRUPTED;
        }
        now = now_ns();
        if (token == 0 && now >= deadline) {
            return expire(wait);
        }
        if (token == 0) { /* the futex returned early */
            settle(wait->wakeup);
        }
        found = look(wait);
        if (found != 0 || now >= deadline) {
            return found;
        }
    }
}

int layer8_wait_arrived(layer8_port *port, int64_t timeout_ns, int64_t spin_ns) {
    if (layer8_load_relaxed(&port->elsewhere)) {
        return LAYER8_CLOSED;
    }
    layer8_release_given(port); /* whoever sleeps holds nothing */
    struct wait wait = {.port = port,
                        .wakeup = &port->control->arrived,
                        .poked = &port->poked_arrived,
                        .look = look_arrived,
                        .slot = -1};
    return wait_for(&wait, timeout_ns, spin_ns);
}

int layer8_wait_room(layer8_port *port, int64_t slot, uint64_t bytes, int64_t timeout_ns, int64_t spin_ns) {
    if (layer8_load_relaxed(&port->elsewhere)) {
        return LAYER8_CLOSED;
    }
    if (slot >= (int64_t)LAYER8_SLOTS) {
        return LAYER8_INVALID;
    }
    struct wait wait = {.port = port,
                        .wakeup = &port->control->room,
                        .poked = &port->poked_room,
                        .look = look_room,
                        .slot = slot,
                        .bytes = bytes < LAYER8_FRAGMENT_BYTES ? bytes : LAYER8_FRAGMENT_BYTES};
    return wait_for(&wait, timeout_ns, spin_ns);
}

/* ---- for a Vnic that sleeps in a loop of its own: a spare token costs it one look ---- */

int layer8_arm_arrived(layer8_port *port) {
    if (layer8_load_relaxed(&port->elsewhere)) {
        return LAYER8_CLOSED;
    }
    layer8_release_given(port);
    layer8_wakeup_announce(&port->control->arrived);
    int found = look_arrived(port, -1, 0);
    if (found != 0) {
        (void)layer8_wakeup_retract(&port->control->arrived);
        return found;
    }
    (void)layer8_add_relaxed(&port->waits, 1);
    return 0;
}

int layer8_arm_room(layer8_port *port) {
    if (layer8_load_relaxed(&port->elsewhere)) {
        return LAYER8_CLOSED;
    }
    layer8_wakeup_announce(&port->control->room);
    return layer8_load_seq(&port->shut);
}

int layer8_room(layer8_port *port, int64_t slot, uint64_t bytes) {
    if (layer8_load_relaxed(&port->elsewhere)) {
        return LAYER8_CLOSED;
    }
    if (slot >= (int64_t)LAYER8_SLOTS) {
        return LAYER8_INVALID;
    }
    return look_room(port, slot, bytes < LAYER8_FRAGMENT_BYTES ? bytes : LAYER8_FRAGMENT_BYTES);
}
