/* list.h - circular lists whose nodes stand in what they list: head and node are the same thing. A node is in one list at
 * most; taken out, or never put in, it is not linked. */
#ifndef LAYER8_SWITCH_LIST_H
#define LAYER8_SWITCH_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *prev, *next;
};

#define OWNER(type, member, pointer) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))
#define FOR_EACH(at, all) for (struct list *at = (all)->next; at != (all); at = at->next)
#define FOR_EACH_SAFE(at, all) \
    for (struct list *at = (all)->next, *at##_next = at->next; at != (all); at = at##_next, at##_next = at->next)

static inline void list_init(struct list *list) { list->prev = list->next = list; }
static inline bool list_empty(const struct list *list) { return list->next == list; }
static inline bool list_linked(const struct list *at) { return at->next != NULL && at->next != at; }
static inline void list_append(struct list *list, struct list *at) {
    at->prev = list->prev;
    at->next = list;
    list->prev->next = at;
    list->prev = at;
}
static inline void list_remove(struct list *at) { /* safe twice */
    if (at->next != NULL) {
        at->prev->next = at->next;
        at->next->prev = at->prev;
    }
    list_init(at);
}
static inline void list_splice(struct list *into, struct list *from) { /* appends all of `from`, empties it */
    if (!list_empty(from)) {
        from->next->prev = into->prev;
        into->prev->next = from->next;
        from->prev->next = into;
        into->prev = from->prev;
        list_init(from);
    }
}

#endif
