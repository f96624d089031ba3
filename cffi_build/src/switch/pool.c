/* pool.c - fixed-size nodes of what the switch makes many of: no allocation on the hot path. */
#include "pool.h"

#include <stdlib.h>
#include <string.h>

#define SLAB_NODES 128u

void *layer8_pool_take(struct pool *pool) {
    if (pool->free == NULL) {
        size_t size = (pool->size + 15u) & ~(size_t)15u;
        char *slab = malloc(sizeof(void *) * 2 + SLAB_NODES * size);
        if (slab == NULL) {
            return NULL;
        }
        memcpy(slab, &pool->slabs, sizeof(void *));
        pool->slabs = slab;
        for (unsigned n = 0; n < SLAB_NODES; n++) {
            layer8_pool_give(pool, slab + sizeof(void *) * 2 + n * size);
        }
    }
    void *node = pool->free;
    memcpy(&pool->free, node, sizeof(void *));
    memset(node, 0, pool->size);
    return node;
}

void layer8_pool_give(struct pool *pool, void *node) {
    memcpy(node, &pool->free, sizeof(void *));
    pool->free = node;
}

void layer8_pool_close(struct pool *pool) {
    while (pool->slabs != NULL) {
        void *slab = pool->slabs;
        memcpy(&pool->slabs, slab, sizeof(void *));
        free(slab);
    }
    pool->free = NULL;
}
