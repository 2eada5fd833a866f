#include "io/gguf_vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "io/utf8.h"

enum { LONGEST_TOKEN = 1000 }; /* bytes; bounds the search for merges */

static enum status fail(const struct gguf *gguf, struct error *error, const char *what) {
    return error_set(error, STATUS_INPUT, "%s: tokenizer.ggml: %s", gguf->file.path, what);
}

static enum status fail_token(const struct gguf *gguf, struct error *error, int64_t id,
                              const char *what) {
    return error_set(error, STATUS_INPUT, "%s: tokenizer.ggml.tokens: token %lld %s",
                     gguf->file.path, (long long)id, what);
}

static enum status out_of_memory(const struct gguf *gguf, struct error *error) {
    return error_set(error, STATUS_FAILED, "%s: out of memory", gguf->file.path);
}

/* --- tokens --- */

static int compare_text(const char *left, size_t left_length, const char *right,
                        size_t right_length) {
    const int order = memcmp(left, right, left_length < right_length ? left_length : right_length);
    return order ? order : (left_length > right_length) - (left_length < right_length);
}

static int tokens_by_text(const void *left, const void *right) {
    const struct gguf_token *a = *(struct gguf_token *const *)left;
    const struct gguf_token *b = *(struct gguf_token *const *)right;
    return compare_text(a->text, a->length, b->text, b->length);
}

static const struct gguf_token *find_token(const struct gguf_vocabulary *v, const char *text,
                                           size_t length) {
    int64_t begin = 0, end = v->sorted_count;
    while (begin < end) {
        const int64_t middle = begin + (end - begin) / 2;
        const struct gguf_token *token = v->sorted[middle];
        const int order = compare_text(text, length, token->text, token->length);
        if (order == 0)
            return token;
        if (order < 0)
            end = middle;
        else
            begin = middle + 1;
    }
    return NULL;
}

static enum status read_tokens(const struct gguf *gguf, struct gguf_vocabulary *v,
                               struct error *error) {
    const struct gguf_key *tokens = gguf_find_key(gguf, "tokenizer.ggml.tokens");
    const struct gguf_key *types = gguf_find_key(gguf, "tokenizer.ggml.token_type");
    const struct gguf_key *scores = gguf_find_key(gguf, "tokenizer.ggml.scores");
    if (!tokens || !tokens->array || tokens->type != GGUF_STRING || !tokens->count)
        return fail(gguf, error, "no list of tokens: the file brings no tokenizer");
    if (tokens->count > INT32_MAX || (types && types->count != tokens->count) ||
        (scores && scores->count != tokens->count))
        return fail(gguf, error, "tokens, token_type and scores differ in length");
    v->tokens = calloc(tokens->count, sizeof *v->tokens);
    v->sorted = calloc(tokens->count, sizeof *v->sorted);
    if (!v->tokens || !v->sorted)
        return out_of_memory(gguf, error);
    const unsigned char *cursor = tokens->data;
    for (v->count = 0; v->count < (int64_t)tokens->count; v->count++) {
        const struct gguf_string string = gguf_next_string(&cursor);
        int64_t type = GGUF_TOKEN_NORMAL;
        double score = 0;
        if ((types && !gguf_integer(types, (uint64_t)v->count, &type)) ||
            (scores && !gguf_float(scores, (uint64_t)v->count, &score)) ||
            type < GGUF_TOKEN_NORMAL || type > GGUF_TOKEN_BYTE || score != score)
            return fail_token(gguf, error, v->count,
                              "has no known type, or a score that is no number");
        if (string.length > LONGEST_TOKEN)
            return fail_token(gguf, error, v->count, "is longer than 1000 bytes");
        if (utf8_valid_prefix(string.text, string.length) != string.length)
            return fail_token(gguf, error, v->count, "is not UTF-8");
        struct gguf_token *token = &v->tokens[v->count];
        *token = (struct gguf_token){string.text, string.length, (int32_t)v->count,
                                     (enum gguf_token_type)type, (float)score};
        if (type != GGUF_TOKEN_UNUSED)
            v->sorted[v->sorted_count++] = token;
    }
    qsort(v->sorted, (size_t)v->sorted_count, sizeof *v->sorted, tokens_by_text);
    for (int64_t i = 1; i < v->sorted_count; i++)
        if (!tokens_by_text(&v->sorted[i - 1], &v->sorted[i]))
            return fail_token(gguf, error, v->sorted[i]->id, "has the text of another one");
    return STATUS_OK;
}

/* --- merges --- */

/* "LEFT RIGHT", the best first. */
static enum status read_merges(const struct gguf *gguf, const struct gguf_key *key,
                               struct gguf_vocabulary *v, struct error *error) {
    if (!key->array || key->type != GGUF_STRING)
        return fail(gguf, error, "merges is no list of strings");
    v->merges = calloc(key->count + 1, sizeof *v->merges);
    if (!v->merges)
        return out_of_memory(gguf, error);
    const unsigned char *cursor = key->data;
    for (v->merge_count = 0; v->merge_count < (int64_t)key->count; v->merge_count++) {
        const struct gguf_string text = gguf_next_string(&cursor);
        const char *space = memchr(text.text, ' ', text.length);
        const size_t left = space ? (size_t)(space - text.text) : 0;
        const size_t right = space ? text.length - left - 1 : 0;
        struct gguf_merge *merge = &v->merges[v->merge_count];
        char whole[2 * LONGEST_TOKEN];
        bool known = left && right && left + right <= LONGEST_TOKEN;
        if (known) {
            memcpy(whole, text.text, left);
            memcpy(whole + left, space + 1, right);
            merge->left = find_token(v, whole, left);
            merge->right = find_token(v, whole + left, right);
            known = merge->left && merge->right && find_token(v, whole, left + right);
        }
        if (!known)
            return error_set(
                error, STATUS_INPUT,
                "%s: tokenizer.ggml.merges: merge %lld \"%.*s\" is not two tokens that "
                "make a third",
                gguf->file.path, (long long)v->merge_count,
                (int)(text.length < 100 ? text.length : 100), text.text);
    }
    return STATUS_OK;
}

/* A merge made from the scores, with what it is sorted by. */
struct candidate {
    struct gguf_merge merge;
    float score;                   /* of the token that it makes */
    int left_points, right_points; /* lengths in characters */
    int64_t order;                 /* in which it was found */
};

struct candidates {
    struct candidate *list;
    size_t count, capacity;
};

static int count_points(const char *text, size_t length) {
    int points = 0;
    for (size_t i = 0; i < length; i++)
        points += ((unsigned char)text[i] & 0xc0) != 0x80;
    return points;
}

static int by_score(const void *left, const void *right) {
    const struct candidate *a = left, *b = right;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    if (a->left_points != b->left_points)
        return b->left_points - a->left_points;
    if (a->right_points != b->right_points)
        return b->right_points - a->right_points;
    return (a->order > b->order) - (a->order < b->order);
}

static int by_ids(const void *left, const void *right) {
    const struct gguf_merge *a = &((const struct candidate *)left)->merge;
    const struct gguf_merge *b = &((const struct candidate *)right)->merge;
    if (a->left->id != b->left->id)
        return a->left->id < b->left->id ? -1 : 1;
    return (a->right->id > b->right->id) - (a->right->id < b->right->id);
}

static bool add_candidate(struct candidates *candidates, const struct candidate *candidate) {
    if (candidates->count == candidates->capacity) {
        const size_t capacity = 2 * candidates->capacity + 1024;
        struct candidate *larger = realloc(candidates->list, capacity * sizeof *larger);
        if (!larger)
            return false;
        candidates->list = larger;
        candidates->capacity = capacity;
    }
    candidates->list[candidates->count++] = *candidate;
    return true;
}

/* Every way to make `token` of two others. */
static bool add_splits(const struct gguf_vocabulary *v, struct candidates *candidates,
                       const struct gguf_token *token) {
    const size_t first = candidates->count;
    for (size_t i = 1; i < token->length; i++) {
        if (((unsigned char)token->text[i] & 0xc0) == 0x80)
            continue; /* inside a character */
        const struct gguf_token *left = find_token(v, token->text, i);
        const struct gguf_token *right =
            left ? find_token(v, token->text + i, token->length - i) : NULL;
        if (!right || left->type != GGUF_TOKEN_NORMAL || right->type != GGUF_TOKEN_NORMAL)
            continue;
        const struct candidate candidate = {.merge = {left, right},
                                            .score = token->score,
                                            .left_points = count_points(left->text, left->length),
                                            .right_points =
                                                count_points(right->text, right->length)};
        if (!add_candidate(candidates, &candidate))
            return false;
    }
    if (candidates->count > first)
        qsort(candidates->list + first, candidates->count - first, sizeof *candidates->list,
              by_ids);
    return true;
}

static enum status make_merges(const struct gguf *gguf, struct gguf_vocabulary *v,
                               struct error *error) {
    if (!gguf_find_key(gguf, "tokenizer.ggml.scores"))
        return fail(gguf, error, "neither merges nor scores");
    struct candidates candidates = {0};
    bool room = true;
    for (int64_t i = 0; i < v->count && room; i++)
        if (v->tokens[i].type == GGUF_TOKEN_NORMAL)
            room = add_splits(v, &candidates, &v->tokens[i]);
    v->merges = room ? calloc(candidates.count + 1, sizeof *v->merges) : NULL;
    if (!v->merges) {
        free(candidates.list);
        return out_of_memory(gguf, error);
    }
    for (size_t i = 0; i < candidates.count; i++)
        candidates.list[i].order = (int64_t)i;
    if (candidates.count)
        qsort(candidates.list, candidates.count, sizeof *candidates.list, by_score);
    for (size_t i = 0; i < candidates.count; i++)
        v->merges[i] = candidates.list[i].merge;
    v->merge_count = (int64_t)candidates.count;
    free(candidates.list);
    return STATUS_OK;
}

enum status gguf_vocabulary_read(const struct gguf *gguf, struct gguf_vocabulary *vocabulary,
                                 struct error *error) {
    *vocabulary = (struct gguf_vocabulary){0};
    const struct gguf_key *merges = gguf_find_key(gguf, "tokenizer.ggml.merges");
    enum status status = read_tokens(gguf, vocabulary, error);
    if (status == STATUS_OK)
        status = merges ? read_merges(gguf, merges, vocabulary, error)
                        : make_merges(gguf, vocabulary, error);
    if (status != STATUS_OK)
        gguf_vocabulary_free(vocabulary);
    return status;
}

void gguf_vocabulary_free(struct gguf_vocabulary *vocabulary) {
    free(vocabulary->tokens);
    free(vocabulary->sorted);
    free(vocabulary->merges);
    *vocabulary = (struct gguf_vocabulary){0};
}
