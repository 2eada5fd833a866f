/* Byte-pair encoding of one word: the merge of lowest rank first, the leftmost on ties.
 *
 * Symbols are a linked list in an array; candidates (pairs that can merge) wait in a binary heap. A
 * merge makes at most two new candidates, so a word of n symbols takes O(n log n). Candidates that
 * an earlier merge has overtaken are recognised when they come up. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/tokenizer_internal.h"
#include "io/utf8.h"

static enum status out_of_memory(struct error *error) {
    return error_set(error, STATUS_FAILED, "out of memory in the tokenizer");
}

/* Room for one more element of `size` bytes. */
static void *reserve(void *array, size_t count, size_t *capacity, size_t size) {
    if (count < *capacity)
        return array;
    size_t larger = *capacity ? *capacity * 2 : 256;
    void *grown = realloc(array, larger * size);
    if (grown)
        *capacity = larger;
    return grown;
}

static bool before(const struct bpe_candidate *a, const struct bpe_candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

static bool heap_push(struct bpe *bpe, struct bpe_candidate candidate) {
    struct bpe_candidate *heap =
        reserve(bpe->heap, bpe->heap_count, &bpe->heap_capacity, sizeof *bpe->heap);
    if (!heap)
        return false;
    bpe->heap = heap;
    size_t at = bpe->heap_count++;
    for (; at > 0 && before(&candidate, &heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = candidate;
    return true;
}

static struct bpe_candidate heap_pop(struct bpe *bpe) {
    struct bpe_candidate *heap = bpe->heap, top = heap[0], last = heap[--bpe->heap_count];
    size_t count = bpe->heap_count, at = 0;
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &last))
            break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

static bool add_symbol(struct bpe *bpe, int32_t id) {
    struct bpe_symbol *symbols =
        reserve(bpe->symbols, bpe->symbol_count, &bpe->symbol_capacity, sizeof *bpe->symbols);
    if (!symbols)
        return false;
    bpe->symbols = symbols;
    int32_t position = (int32_t)bpe->symbol_count++;
    symbols[position] =
        (struct bpe_symbol){.id = id, .previous = position - 1, .next = position + 1};
    return true;
}

/* All bytes of a character as <0xHH>; false where the vocabulary does not have all. */
static bool has_byte_ids(const struct bpe *bpe, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (bpe->byte_ids[(unsigned char)text[i]] < 0)
            return false;
    return true;
}

static int32_t character_id(const struct bpe *bpe, const char *text, size_t length) {
    const unsigned char *bytes = (const unsigned char *)text;
    if (length == 1)
        return bpe->direct[bytes[0]];
    if (length == 2)
        return bpe->direct[(bytes[0] & 0x1f) << 6 | (bytes[1] & 0x3f)];
    return vocabulary_find(&bpe->vocabulary, text, length);
}

/* The word's first symbols: one a character, or its bytes, or the unknown token. The unknown token
 * waits until the next known character (fused with others when fuse_unk says so), as in the
 * library: bytes of a fallback do not make it come out. */
static enum status first_symbols(struct bpe *bpe, const char *text, size_t length,
                                 struct error *error) {
    bool waiting = false, good = true;
    bpe->symbol_count = 0;
    for (size_t at = 0, count; good && at < length; at += count) {
        count = utf8_character(text + at, length - at);
        int32_t id = character_id(bpe, text + at, count);
        if (id >= 0) {
            good = (!waiting || add_symbol(bpe, bpe->unknown_id)) && add_symbol(bpe, id);
            waiting = false;
        } else if (bpe->byte_fallback && has_byte_ids(bpe, text + at, count)) {
            for (size_t i = 0; good && i < count; i++)
                good = add_symbol(bpe, bpe->byte_ids[(unsigned char)text[at + i]]);
        } else if (bpe->unknown) {
            if (bpe->unknown_id < 0)
                return error_set(
                    error, STATUS_INPUT,
                    "the tokenizer's unk_token \"%s\" is needed, but is not in its vocabulary",
                    bpe->unknown);
            good = !waiting || bpe->fuse_unknown || add_symbol(bpe, bpe->unknown_id);
            waiting = true;
        } /* else the library drops it */
    }
    if (waiting)
        good = good && add_symbol(bpe, bpe->unknown_id);
    if (!good)
        return out_of_memory(error);
    if (bpe->symbol_count)
        bpe->symbols[bpe->symbol_count - 1].next = -1;
    return STATUS_OK;
}

static bool add_candidate(struct bpe *bpe, int32_t position) {
    const struct bpe_symbol *left = &bpe->symbols[position];
    const struct merge *merge =
        merge_table_find(&bpe->merges, left->id, bpe->symbols[left->next].id);
    return !merge ||
           heap_push(bpe, (struct bpe_candidate){
                              .rank = merge->rank, .position = position, .merged = merge->merged});
}

static bool merge_all(struct bpe *bpe) {
    bpe->heap_count = 0;
    for (size_t i = 0; i + 1 < bpe->symbol_count; i++)
        if (!add_candidate(bpe, (int32_t)i))
            return false;
    while (bpe->heap_count) {
        struct bpe_candidate top = heap_pop(bpe);
        struct bpe_symbol *left = &bpe->symbols[top.position];
        if (left->id < 0 || left->next < 0)
            continue;
        struct bpe_symbol *right = &bpe->symbols[left->next];
        const struct merge *merge = merge_table_find(&bpe->merges, left->id, right->id);
        if (!merge || merge->merged != top.merged)
            continue;
        left->id = top.merged;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0)
            bpe->symbols[left->next].previous = top.position;
        if (left->previous >= 0 && !add_candidate(bpe, left->previous))
            return false;
        if (left->next >= 0 && !add_candidate(bpe, top.position))
            return false;
    }
    return true;
}

enum status bpe_encode(struct bpe *bpe, const char *text, size_t length, struct token_list *list,
                       struct error *error) {
    if (length > INT32_MAX / 2)
        return error_set(error, STATUS_INPUT, "a text of %zu bytes is too long for the tokenizer",
                         length);
    if (bpe->ignore_merges) {
        int32_t id = vocabulary_find(&bpe->vocabulary, text, length);
        if (id >= 0)
            return token_list_append(list, id, error);
    }
    enum status status = first_symbols(bpe, text, length, error);
    if (status != STATUS_OK)
        return status;
    if (!merge_all(bpe))
        return out_of_memory(error);
    for (size_t i = 0; i < bpe->symbol_count && status == STATUS_OK; i++)
        if (bpe->symbols[i].id >= 0)
            status = token_list_append(list, bpe->symbols[i].id, error);
    return status;
}

void bpe_prepare(struct bpe *bpe) {
    for (int i = 0; i < BPE_DIRECT; i++) {
        const char two[2] = {(char)(0xc0 | i >> 6), (char)(0x80 | (i & 0x3f))};
        const char one = (char)i;
        bpe->direct[i] = i < 0x80 ? vocabulary_find(&bpe->vocabulary, &one, 1)
                                  : vocabulary_find(&bpe->vocabulary, two, 2);
    }
    for (unsigned i = 0; i < 256; i++) {
        char content[8];
        snprintf(content, sizeof content, "<0x%02X>", i);
        bpe->byte_ids[i] = vocabulary_find(&bpe->vocabulary, content, strlen(content));
    }
    bpe->unknown_id =
        bpe->unknown ? vocabulary_find(&bpe->vocabulary, bpe->unknown, strlen(bpe->unknown)) : -1;
}

void bpe_free(struct bpe *bpe) {
    vocabulary_free(&bpe->vocabulary);
    merge_table_free(&bpe->merges);
    free(bpe->unknown);
    free(bpe->symbols);
    free(bpe->heap);
    *bpe = (struct bpe){0};
}
