/* Added tokens (special or not) written in a text: the leftmost, and there the longest. */
#include <stdlib.h>
#include <string.h>

#include "io/tokenizer_internal.h"

static int32_t add_node(struct added_trie *trie, unsigned char byte) {
    if (trie->node_count == trie->node_capacity) {
        size_t capacity = trie->node_capacity ? trie->node_capacity * 2 : 256;
        struct added_node *nodes =
            capacity > INT32_MAX ? NULL : realloc(trie->nodes, capacity * sizeof *nodes);
        if (!nodes)
            return -1;
        trie->nodes = nodes;
        trie->node_capacity = capacity;
    }
    trie->nodes[trie->node_count] =
        (struct added_node){.child = -1, .sibling = -1, .token = -1, .byte = byte};
    return (int32_t)trie->node_count++;
}

static int32_t find_child(const struct added_trie *trie, int32_t node, unsigned char byte) {
    if (node == 0)
        return trie->first[byte];
    int32_t child = trie->nodes[node].child;
    while (child >= 0 && trie->nodes[child].byte != byte)
        child = trie->nodes[child].sibling;
    return child;
}

bool added_trie_add(struct added_trie *trie, const char *content, size_t length, int32_t token) {
    if (trie->node_count == 0) {
        memset(trie->first, -1, sizeof trie->first);
        if (add_node(trie, 0) < 0)
            return false;
    }
    int32_t node = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)content[i];
        int32_t child = find_child(trie, node, byte);
        if (child < 0) {
            child = add_node(trie, byte);
            if (child < 0)
                return false;
            trie->nodes[child].sibling = trie->nodes[node].child;
            trie->nodes[node].child = child;
            if (node == 0)
                trie->first[byte] = child;
        }
        node = child;
    }
    if (trie->nodes[node].token < 0)
        trie->nodes[node].token = token;
    return true;
}

void added_trie_free(struct added_trie *trie) {
    free(trie->nodes);
    *trie = (struct added_trie){0};
}

/* The longest token that starts at `begin`, or -1. */
static int32_t match_at(const struct added_trie *trie, const char *text, size_t length,
                        size_t begin, size_t *end) {
    int32_t node = 0, token = -1;
    for (size_t at = begin; at < length; at++) {
        node = find_child(trie, node, (unsigned char)text[at]);
        if (node < 0)
            break;
        if (trie->nodes[node].token >= 0) {
            token = trie->nodes[node].token;
            *end = at + 1;
        }
    }
    return token;
}

/* The start of the character that ends at `end`. */
static size_t character_before(const char *text, size_t end) {
    do
        end--;
    while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80);
    return end;
}

/* White_Space of Unicode: bytes of the one at the start of text, or 0. */
static size_t white_space(const char *text, size_t length) {
    static const char *const spaces[] = {"\t",           "\n",           "\v",
                                         "\f",           "\r",           " ",
                                         "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80",
                                         "\xe2\x80\x80", "\xe2\x80\x81", "\xe2\x80\x82",
                                         "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85",
                                         "\xe2\x80\x86", "\xe2\x80\x87", "\xe2\x80\x88",
                                         "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
                                         "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f",
                                         "\xe3\x80\x80"};
    for (size_t i = 0; i < sizeof spaces / sizeof spaces[0]; i++) {
        size_t count = strlen(spaces[i]);
        if (count <= length && memcmp(text, spaces[i], count) == 0)
            return count;
    }
    return 0;
}

/* A single_word token must not touch a word's character. */
static enum status stands_alone(const struct tokenizer *tokenizer, const char *text, size_t length,
                                size_t begin, size_t end, bool *alone, struct error *error) {
    bool word = false;
    size_t match_begin, match_end;
    enum status status = STATUS_OK;
    *alone = false;
    if (begin > 0) {
        size_t from = character_before(text, begin);
        status = regex_find(tokenizer->word_at_start, text + from, begin - from, 0, &word,
                            &match_begin, &match_end, error);
        if (status != STATUS_OK || word)
            return status;
    }
    if (end < length)
        status = regex_find(tokenizer->word_at_start, text + end, length - end, 0, &word,
                            &match_begin, &match_end, error);
    *alone = status == STATUS_OK && !word;
    return status;
}

/* The library's order of steps, kept also where it lets segments overlap: single_word passes over a
 * match, lstrip goes back no further than the last end, rstrip does not move where the search goes
 * on (so a token of white space may be found within what was taken; with lstrip nothing is left of
 * it, and it is dropped). */
enum status added_scan(const struct tokenizer *tokenizer, const struct added_trie *trie,
                       const char *text, size_t length, added_segment_function function,
                       void *context, struct error *error) {
    size_t done = 0, at = 0;
    enum status status = STATUS_OK;
    while (trie->node_count && at < length) {
        size_t end = at;
        if (trie->first[(unsigned char)text[at]] < 0) {
            at++;
            continue;
        }
        int32_t index = match_at(trie, text, length, at, &end);
        if (index < 0) {
            at++;
            continue;
        }
        const struct added_token *token = &tokenizer->added[index];
        size_t begin = at;
        at = end;
        if (token->single_word) {
            bool alone;
            status = stands_alone(tokenizer, text, length, begin, end, &alone, error);
            if (status != STATUS_OK)
                return status;
            if (!alone)
                continue;
        }
        if (token->lstrip) {
            size_t before = begin;
            while (before > 0 && white_space(text + character_before(text, before),
                                             before - character_before(text, before)))
                before = character_before(text, before);
            begin = before > done ? before : done;
        }
        if (token->rstrip)
            for (size_t count; end < length && (count = white_space(text + end, length - end));)
                end += count;
        if (begin >= end)
            continue;
        if (done < begin)
            status = function(context, &(struct added_segment){done, begin, -1});
        if (status == STATUS_OK)
            status = function(context, &(struct added_segment){begin, end, index});
        if (status != STATUS_OK)
            return status;
        done = end;
    }
    return done < length ? function(context, &(struct added_segment){done, length, -1}) : STATUS_OK;
}
