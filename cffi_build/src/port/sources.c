/* sources.c - small numbers for senders, and the highest sequence taken from each of their handles.
 *
 * A (uuid, principal) keeps its number as long as the port lives, since Python holds on to it; so the table only grows,
 * up to LAYER8_SOURCES. What was taken is remembered in sets of eight. The table doubles when a set is full, up to 4 MiB:
 * so tens of thousands of handles are remembered, and of more than that one long unused is forgotten for a new one. */
#include "port.h"

#include <stdlib.h>
#include <sys/random.h>

#define FIRST_CAPACITY 64u
#define WAYS 8u
#define FIRST_SETS 512u
#define MOST_SETS 32768u

static uint64_t mix(uint64_t value) { /* the finalizer of splitmix64 */
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

static uint64_t hash(const struct layer8_sources *table, const uint8_t *uuid, uint32_t principal) {
    uint64_t half[2];
    memcpy(half, uuid, sizeof half);
    return mix(mix(half[0] ^ table->seed) ^ half[1] ^ ((uint64_t)principal << 17));
}

static bool same(const struct layer8_source *source, const uint8_t *uuid, uint32_t principal) {
    return source->principal == principal && memcmp(source->uuid, uuid, sizeof source->uuid) == 0;
}

static bool grow(struct layer8_sources *table, uint32_t capacity) {
    uint32_t *slots = calloc((size_t)capacity * 2, sizeof *slots);
    if (slots == NULL) {
        return false;
    }
    struct layer8_source *sources = realloc(table->sources, capacity * sizeof *sources);
    if (sources == NULL) {
        free(slots);
        return false;
    }
    free(table->slots);
    table->sources = sources;
    table->slots = slots;
    table->capacity = capacity;
    table->slot_mask = capacity * 2 - 1;
    for (uint32_t number = 0; number < table->count; number++) {
        uint32_t slot = (uint32_t)hash(table, sources[number].uuid, sources[number].principal) & table->slot_mask;
        while (slots[slot] != 0) {
            slot = (slot + 1) & table->slot_mask;
        }
        slots[slot] = number + 1;
    }
    return true;
}

bool layer8_sources_open(struct layer8_sources *table) {
    if (getrandom(&table->seed, sizeof table->seed, GRND_NONBLOCK) != (ssize_t)sizeof table->seed) {
        table->seed = (uint64_t)(uintptr_t)table; /* only makes collisions hard to arrange */
    }
    table->sets = FIRST_SETS;
    table->taken = calloc((size_t)WAYS * table->sets, sizeof *table->taken);
    table->last_taken = table->taken;
    return table->taken != NULL && grow(table, FIRST_CAPACITY);
}

void layer8_sources_close(struct layer8_sources *table) {
    free(table->sources);
    free(table->slots);
    free(table->taken);
}

uint32_t layer8_source_number(struct layer8_sources *table, const struct layer8_record *record) {
    if (table->last < table->count && same(&table->sources[table->last], record->source, record->principal)) {
        return table->last;
    }
    if (table->count == table->capacity && table->capacity < LAYER8_SOURCES) {
        (void)grow(table, table->capacity * 2);
    }
    uint32_t slot = (uint32_t)hash(table, record->source, record->principal) & table->slot_mask;
    while (table->slots[slot] != 0) {
        uint32_t number = table->slots[slot] - 1;
        if (same(&table->sources[number], record->source, record->principal)) {
            table->last = number;
            return number;
        }
        slot = (slot + 1) & table->slot_mask;
    }
    if (table->count == table->capacity) {
        return LAYER8_NO_SOURCE;
    }
    struct layer8_source *source = &table->sources[table->count];
    memcpy(source->uuid, record->source, sizeof source->uuid);
    source->principal = record->principal;
    table->slots[slot] = ++table->count;
    table->last = table->count - 1;
    return table->last;
}

static struct layer8_taken *set_of(const struct layer8_sources *table, uint64_t key) {
    return table->taken + (mix(key ^ table->seed) & (table->sets - 1)) * WAYS;
}

/* Twice as many sets: what was in one is in one of two, which it does not fill more than before. */
static bool grow_taken(struct layer8_sources *table) {
    struct layer8_taken *before = table->taken;
    const uint32_t count = table->sets * WAYS;
    struct layer8_taken *grown =
        table->sets < MOST_SETS ? calloc((size_t)count * 2, sizeof *grown) : NULL;
    if (grown == NULL) {
        return false;
    }
    table->taken = grown;
    table->sets *= 2;
    for (uint32_t n = 0; n < count; n++) {
        if (before[n].key != 0) {
            struct layer8_taken *set = set_of(table, before[n].key);
            while (set->key != 0) {
                set++;
            }
            *set = before[n];
        }
    }
    free(before);
    return true;
}

/* The entry of this key, or a free one; NULL when its set is full of others. */
static struct layer8_taken *look_up(const struct layer8_sources *table, uint64_t key) {
    struct layer8_taken *set = set_of(table, key);
    for (uint32_t way = 0; way < WAYS; way++) {
        if (set[way].key == key || set[way].key == 0) {
            return &set[way];
        }
    }
    return NULL;
}

bool layer8_sources_inherit(struct layer8_sources *table, const struct layer8_sources *from) {
    const size_t size = (size_t)from->sets * WAYS * sizeof *from->taken;
    struct layer8_taken *taken = table->count == 0 ? malloc(size) : NULL;
    if (taken == NULL) {
        return false;
    }
    memcpy(taken, from->taken, size);
    free(table->taken);
    table->taken = table->last_taken = taken;
    table->last_memo = 0;
    table->sets = from->sets;
    table->seed = from->seed; /* the keys were made with it */
    return true;
}

bool layer8_source_take(struct layer8_sources *table, uint32_t source, const struct layer8_record *record) {
#ifdef LAYER8_WITHOUT_ADOPTION
    if (table != NULL) {
        return true;
    }
#endif
    /* By uuid: a principal's number is another one after a Vnet's death. The memo saves the hash. */
    const uint64_t memo = ((uint64_t)(source + 1) << 32) | ((uint64_t)record->generation << 16) | record->slot;
    struct layer8_taken *taken = table->last_taken;
    if (table->last_memo != memo || taken->key == 0 || source == LAYER8_NO_SOURCE) {
        const uint64_t key =
            hash(table, record->source, ((uint32_t)record->generation << 16) | record->slot) | 1u; /* 0: free */
        while ((taken = look_up(table, key)) == NULL && grow_taken(table)) {
        }
        if (taken == NULL) {
            taken = &set_of(table, key)[table->turn++ % WAYS];
        }
        if (taken->key != key) {
            *taken = (struct layer8_taken){.key = key};
        }
        table->last_taken = taken;
        table->last_memo = memo;
    }
    if ((record->flags & LAYER8_RETRY) != 0 && record->sequence <= taken->sequence) {
        return false;
    }
    if (record->sequence > taken->sequence) {
        taken->sequence = record->sequence;
    }
    return true;
}
