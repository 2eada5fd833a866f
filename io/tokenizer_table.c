/* The two hash tables of BPE: content -> id, and pair -> merge. */
#include <stdlib.h>
#include <string.h>

#include "io/tokenizer_internal.h"

static uint64_t mix(uint64_t value) {
    value = (value ^ (value >> 32)) * UINT64_C(0x9e3779b97f4a7c15);
    return value ^ (value >> 29);
}

static uint64_t hash_content(const char *content, size_t length) {
    uint64_t hash = length;
    for (; length >= 8; content += 8, length -= 8) {
        uint64_t eight;
        memcpy(&eight, content, 8);
        hash = mix(hash ^ eight);
    }
    uint64_t rest = 0;
    memcpy(&rest, content, length);
    return mix(hash ^ rest);
}

/* The slot of a content, or the empty one where it would be. */
static size_t find_slot(const struct vocabulary *vocabulary, const char *content, size_t length) {
    size_t mask = vocabulary->slot_count - 1, at = hash_content(content, length) & mask;
    for (;; at = (at + 1) & mask) {
        const struct vocabulary_slot *slot = &vocabulary->slots[at];
        if (slot->id < 0 || (slot->length == length &&
                             (length == 0 || memcmp(vocabulary->contents.data + slot->offset,
                                                    content, length) == 0)))
            return at;
    }
}

static bool grow_vocabulary(struct vocabulary *vocabulary) {
    struct vocabulary old = *vocabulary;
    size_t slot_count = old.slot_count ? old.slot_count * 2 : 1024;
    vocabulary->slots = malloc(slot_count * sizeof *vocabulary->slots);
    if (!vocabulary->slots) {
        vocabulary->slots = old.slots;
        return false;
    }
    vocabulary->slot_count = slot_count;
    for (size_t i = 0; i < slot_count; i++)
        vocabulary->slots[i] = (struct vocabulary_slot){.id = -1};
    for (size_t i = 0; i < old.slot_count; i++)
        if (old.slots[i].id >= 0)
            vocabulary->slots[find_slot(vocabulary, old.contents.data + old.slots[i].offset,
                                        old.slots[i].length)] = old.slots[i];
    free(old.slots);
    return true;
}

bool vocabulary_set(struct vocabulary *vocabulary, const char *content, size_t length, int32_t id) {
    if (vocabulary->count >= vocabulary->slot_count / 2 && !grow_vocabulary(vocabulary))
        return false;
    struct vocabulary_slot *slot = &vocabulary->slots[find_slot(vocabulary, content, length)];
    if (slot->id < 0) {
        size_t offset = vocabulary->contents.length;
        if (!text_buffer_append(&vocabulary->contents, content, length))
            return false;
        *slot = (struct vocabulary_slot){.offset = offset, .length = length};
        vocabulary->count++;
    }
    slot->id = id;
    return true;
}

int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *content, size_t length) {
    return vocabulary->count ? vocabulary->slots[find_slot(vocabulary, content, length)].id : -1;
}

void vocabulary_free(struct vocabulary *vocabulary) {
    text_buffer_free(&vocabulary->contents);
    free(vocabulary->slots);
    *vocabulary = (struct vocabulary){0};
}

static size_t merge_slot(const struct merge_table *table, int32_t left, int32_t right) {
    size_t mask = table->slot_count - 1;
    size_t at = mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right) & mask;
    while (table->slots[at].left >= 0 &&
           (table->slots[at].left != left || table->slots[at].right != right))
        at = (at + 1) & mask;
    return at;
}

static bool grow_merges(struct merge_table *table) {
    struct merge_table old = *table;
    size_t slot_count = old.slot_count ? old.slot_count * 2 : 1024;
    table->slots = malloc(slot_count * sizeof *table->slots);
    if (!table->slots) {
        table->slots = old.slots;
        return false;
    }
    table->slot_count = slot_count;
    for (size_t i = 0; i < slot_count; i++)
        table->slots[i] = (struct merge){.left = -1};
    for (size_t i = 0; i < old.slot_count; i++)
        if (old.slots[i].left >= 0)
            table->slots[merge_slot(table, old.slots[i].left, old.slots[i].right)] = old.slots[i];
    free(old.slots);
    return true;
}

/* A pair that comes twice has its last rank, as in the library. */
bool merge_table_set(struct merge_table *table, struct merge merge) {
    if (table->count >= table->slot_count / 2 && !grow_merges(table))
        return false;
    struct merge *slot = &table->slots[merge_slot(table, merge.left, merge.right)];
    table->count += slot->left < 0;
    *slot = merge;
    return true;
}

const struct merge *merge_table_find(const struct merge_table *table, int32_t left, int32_t right) {
    if (!table->count)
        return NULL;
    const struct merge *slot = &table->slots[merge_slot(table, left, right)];
    return slot->left >= 0 ? slot : NULL;
}

void merge_table_free(struct merge_table *table) {
    free(table->slots);
    *table = (struct merge_table){0};
}
