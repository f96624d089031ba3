/* pool.h - fixed-size nodes, taken from slabs: malloc only when a slab is used up. */
#ifndef LAYER8_SWITCH_POOL_H
#define LAYER8_SWITCH_POOL_H

#include <stddef.h>

struct pool {
    size_t size;
    void *free;
    void *slabs;
};

void *layer8_pool_take(struct pool *pool); /* zeroed, or NULL */
void layer8_pool_give(struct pool *pool, void *node);
void layer8_pool_close(struct pool *pool);

#endif
