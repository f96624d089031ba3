/* assembly.c - puts messages in fragments together, on the receiving side.
 *
 * A first fragment reserves room for the whole message, so what was begun can be finished; what finds no room, lacks
 * its beginning or does not follow the fragment before it is discarded. All fragments but the last are full, so the
 * place of each is its index. */
#include "port.h"

#include <stdlib.h>

#define SPARE_MAX (UINT64_C(16) << 20) /* a larger buffer is given back at once */

static bool same_message(const struct layer8_record *first, const struct layer8_record *record, uint8_t kind) {
    return first->kind == kind && first->correlation == record->correlation && first->slot == record->slot &&
           first->generation == record->generation && (kind != LAYER8_PUBLISH || first->topic == record->topic) &&
           memcmp(first->source, record->source, sizeof first->source) == 0;
}

static struct layer8_assembly *find(struct layer8_assemblies *assemblies, const struct layer8_record *record,
                                    uint8_t kind, uint32_t *index) {
    for (uint32_t at = assemblies->count; at-- > 0;) {
        if (same_message(&assemblies->open[at]->first, record, kind)) {
            *index = at;
            return assemblies->open[at];
        }
    }
    return NULL;
}

static uint8_t *take_buffer(struct layer8_assemblies *assemblies, uint64_t size, uint64_t *got) {
    if (assemblies->spare != NULL && assemblies->spare_size >= size) {
        uint8_t *bytes = assemblies->spare;
        *got = assemblies->spare_size;
        assemblies->spare = NULL;
        return bytes;
    }
    *got = size;
    return malloc(size);
}

static void give_buffer(struct layer8_assemblies *assemblies, uint8_t *bytes, uint64_t size) {
    if (size <= SPARE_MAX && (assemblies->spare == NULL || assemblies->spare_size < size)) {
        free(assemblies->spare);
        assemblies->spare = bytes;
        assemblies->spare_size = size;
    } else {
        free(bytes);
    }
}

static void drop(struct layer8_assemblies *assemblies, struct layer8_assembly *assembly) {
    const uint64_t reserved = (uint64_t)assembly->fragments * LAYER8_FRAGMENT_BYTES;
    layer8_store_relaxed(&assemblies->bytes, layer8_load_relaxed(&assemblies->bytes) - reserved);
    give_buffer(assemblies, assembly->bytes, assembly->size);
    free(assembly);
}

static void close_open(struct layer8_assemblies *assemblies, uint32_t index) {
    assemblies->open[index] = assemblies->open[--assemblies->count];
}

static struct layer8_assembly *begin(struct layer8_assemblies *assemblies, const struct layer8_record *record) {
    const uint64_t reserved = (uint64_t)record->fragments * LAYER8_FRAGMENT_BYTES;
    const uint64_t before = layer8_load_relaxed(&assemblies->bytes);
    if (assemblies->count == LAYER8_ASSEMBLIES || reserved - LAYER8_FRAGMENT_BYTES >= assemblies->message_max ||
        reserved > assemblies->bytes_max || before > assemblies->bytes_max - reserved) {
        return NULL;
    }
    struct layer8_assembly *assembly = calloc(1, sizeof *assembly);
    if (assembly == NULL) {
        return NULL;
    }
    assembly->bytes = take_buffer(assemblies, reserved, &assembly->size);
    if (assembly->bytes == NULL) {
        free(assembly);
        return NULL;
    }
    assembly->first = *record;
    assembly->fragments = record->fragments;
    layer8_store_relaxed(&assemblies->bytes, before + reserved);
    assemblies->open[assemblies->count++] = assembly;
    return assembly;
}

struct layer8_assembly *layer8_assembly_place(struct layer8_assemblies *assemblies, const struct layer8_record *record,
                                              uint8_t **place) {
    uint32_t index = 0;
    struct layer8_assembly *assembly = find(assemblies, record, record->kind, &index);
    const bool last = record->fragment + 1u == record->fragments;
    if (assembly != NULL && (record->fragment != assembly->next || record->fragments != assembly->fragments)) {
        close_open(assemblies, index);
        drop(assemblies, assembly);
        assembly = NULL;
    }
    if (!last && record->length != LAYER8_FRAGMENT_BYTES) {
        if (assembly != NULL) {
            close_open(assemblies, index);
            drop(assemblies, assembly);
        }
        return NULL;
    }
    if (assembly == NULL && record->fragment == 0) {
        assembly = begin(assemblies, record);
    }
    if (assembly != NULL) {
        *place = assembly->bytes + (uint64_t)record->fragment * LAYER8_FRAGMENT_BYTES;
    }
    return assembly;
}

enum layer8_assembled layer8_assembly_add(struct layer8_assemblies *assemblies, struct layer8_assembly *assembly,
                                          const struct layer8_record *record) {
    assembly->next++;
    if (assembly->next < assembly->fragments) {
        return LAYER8_GROWN;
    }
    uint32_t index = 0;
    (void)find(assemblies, record, record->kind, &index);
    close_open(assemblies, index);
    assembly->length = (uint64_t)record->fragment * LAYER8_FRAGMENT_BYTES + record->length;
    if (assembly->length > assemblies->message_max) {
        drop(assemblies, assembly);
        return LAYER8_DISCARDED;
    }
    /* The last fragment's header, which carries the right to reply; from the first what stands only there. */
    assembly->whole = *record;
    assembly->whole.length = (uint32_t)assembly->length;
    assembly->whole.headers = assembly->first.headers;
    assembly->whole.flags = (uint8_t)(record->flags | assembly->first.flags);
    assembly->whole.sequence = assembly->first.sequence;
    assemblies->done[assemblies->done_count++] = assembly;
    return LAYER8_COMPLETE;
}

bool layer8_assembly_abort(struct layer8_assemblies *assemblies, const struct layer8_record *record) {
    uint32_t index = 0;
    struct layer8_assembly *assembly = find(assemblies, record, (uint8_t)record->reason, &index);
    if (assembly == NULL) {
        return false;
    }
    close_open(assemblies, index);
    drop(assemblies, assembly);
    return true;
}

uint32_t layer8_assemblies_forget(struct layer8_assemblies *assemblies, const uint8_t *source) {
    uint32_t count = 0;
    for (uint32_t at = assemblies->count; at-- > 0;) {
        struct layer8_assembly *assembly = assemblies->open[at];
        if (source == NULL ? assembly->first.kind >= LAYER8_REQUEST
                           : assembly->old && memcmp(assembly->first.source, source, 16) == 0) {
            close_open(assemblies, at);
            drop(assemblies, assembly);
            count++;
        }
    }
    return count;
}

uint32_t layer8_assemblies_tell(struct layer8_assemblies *assemblies, struct layer8_half *table, uint32_t max) {
    uint32_t count = 0;
    for (uint32_t n = 0; n < assemblies->count && count < max; n++) {
        const struct layer8_record *first = &assemblies->open[n]->first;
        if (first->kind <= LAYER8_PUBLISH) {
            assemblies->open[n]->old = true;
            table[count++] = layer8_half_of(first);
        }
    }
    return count;
}

void layer8_assemblies_reuse(struct layer8_assemblies *assemblies) {
    while (assemblies->done_count > 0) {
        drop(assemblies, assemblies->done[--assemblies->done_count]);
    }
}

void layer8_assemblies_close(struct layer8_assemblies *assemblies) {
    layer8_assemblies_reuse(assemblies);
    while (assemblies->count > 0) {
        drop(assemblies, assemblies->open[--assemblies->count]);
    }
    free(assemblies->spare);
    assemblies->spare = NULL;
}
