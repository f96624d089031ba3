/* wakeup.h - one handshake for all four wake-ups, and a counting semaphore on a futex.
 *
 *   waiter                                   waker
 *     announce: wanted = 1                     publish the new position (seq_cst store)
 *     look again (seq_cst load)                claim: if wanted == 1 and exchange(wanted, 0) == 1
 *     nothing: take one token (sleep)            post one token
 *     work:    retract: exchange(wanted, 0)
 *              was 1: done
 *              was 0: a token is coming: take it
 *
 * So there is at most one token for each announcement, and none is left behind. The token is a count of the semaphore
 * here, or of an eventfd where the waiter sleeps in epoll. The futex is process-shared (no FUTEX_PRIVATE_FLAG) and its
 * time-out is relative and monotonic. */
#ifndef LAYER8_WAKEUP_H
#define LAYER8_WAKEUP_H

#include <errno.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "layer8/atomic.h"
#include "layer8/layout.h"

static inline void layer8_wakeup_announce(struct layer8_wakeup *w) { layer8_store_seq(&w->wanted, 1u); }

/* True: the announcement was taken back. False: a waker was faster and its token must be taken. */
static inline bool layer8_wakeup_retract(struct layer8_wakeup *w) { return layer8_exchange_seq(&w->wanted, 0u) == 1u; }

/* True: the caller owes the waiter one token. Call after a seq_cst store of what the waiter looks at. */
static inline bool layer8_wakeup_claim(struct layer8_wakeup *w) {
    return layer8_load_seq(&w->wanted) == 1u && layer8_exchange_seq(&w->wanted, 0u) == 1u;
}

static inline void layer8_semaphore_post(struct layer8_wakeup *w) {
    (void)atomic_fetch_add_explicit(&w->count, 1u, memory_order_seq_cst);
    (void)syscall(SYS_futex, &w->count, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static inline bool layer8_semaphore_try(struct layer8_wakeup *w) {
    uint32_t count = layer8_load_seq(&w->count);
    while (count > 0u) {
        if (atomic_compare_exchange_weak_explicit(&w->count, &count, count - 1u, memory_order_seq_cst,
                                                  memory_order_seq_cst)) {
            return true;
        }
    }
    return false;
}

/* Takes one token: 1, or 0 when `timeout_ns` (relative, monotonic) has passed, or -EINTR after a signal. A spurious
 * return of the futex shortens the wait; callers look again and keep their own deadline. */
static inline int layer8_semaphore_wait(struct layer8_wakeup *w, int64_t timeout_ns) {
    struct timespec limit = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    if (layer8_semaphore_try(w)) {
        return 1;
    }
    if (timeout_ns <= 0) {
        return 0;
    }
    if (syscall(SYS_futex, &w->count, FUTEX_WAIT, 0u, &limit, NULL, 0) != 0 && errno == EINTR) {
        return layer8_semaphore_try(w) ? 1 : -EINTR;
    }
    return layer8_semaphore_try(w) ? 1 : 0;
}

#endif
