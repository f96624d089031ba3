/* atomic.h - the memory orders of the project, spelled once.
 *
 * Positions are published with release and read with acquire. Whatever takes part in a wake-up handshake (a waiter's
 * flag, and the position looked at after it) is sequentially consistent on both sides; there is no stand-alone fence
 * anywhere, since ThreadSanitizer cannot see one. */
#ifndef LAYER8_ATOMIC_H
#define LAYER8_ATOMIC_H

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#define layer8_load_relaxed(p) atomic_load_explicit((p), memory_order_relaxed)
#define layer8_load_acquire(p) atomic_load_explicit((p), memory_order_acquire)
#define layer8_load_seq(p) atomic_load_explicit((p), memory_order_seq_cst)
#define layer8_store_relaxed(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)
#define layer8_store_release(p, v) atomic_store_explicit((p), (v), memory_order_release)
#define layer8_store_seq(p, v) atomic_store_explicit((p), (v), memory_order_seq_cst)
#define layer8_exchange_seq(p, v) atomic_exchange_explicit((p), (v), memory_order_seq_cst)
#define layer8_add_relaxed(p, v) atomic_fetch_add_explicit((p), (v), memory_order_relaxed)

/* Copies out of memory that the other side may be writing. What was copied is not read from there again: the barrier
 * keeps the compiler from doing so, after the copy was checked. */
static inline void layer8_copy_out(void *to, const void *from, size_t length) {
    memcpy(to, from, length);
    atomic_signal_fence(memory_order_acq_rel);
}

#endif
