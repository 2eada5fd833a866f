/* Loading the model (BPE) and the added tokens of tokenizer.json. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "io/tokenizer_internal.h"

enum status load_out_of_memory(const struct tokenizer *tokenizer, struct error *error) {
    return error_set(error, STATUS_FAILED, "%s: out of memory", tokenizer->origin);
}

enum status load_check_keys(const struct tokenizer *tokenizer, const json_t *json,
                            const char *where, const char *const *keys, struct error *error) {
    if (!json_is_object(json))
        return error_set(error, STATUS_INPUT, "%s: %s is not an object", tokenizer->origin, where);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)json, key, value) {
        bool known = false;
        for (size_t i = 0; keys[i] && !known; i++)
            known = strcmp(keys[i], key) == 0;
        if (!known)
            return error_set(error, STATUS_INPUT, "%s: %s has a key that is not supported: \"%s\"",
                             tokenizer->origin, where, key);
    }
    return STATUS_OK;
}

enum status load_boolean(const struct tokenizer *tokenizer, const json_t *json, const char *where,
                         const char *key, bool otherwise, bool *value, struct error *error) {
    const json_t *found = json_object_get(json, key);
    *value = otherwise;
    if (!found || json_is_null(found))
        return STATUS_OK;
    if (!json_is_boolean(found))
        return error_set(error, STATUS_INPUT, "%s: %s: %s is neither true nor false",
                         tokenizer->origin, where, key);
    *value = json_is_true(found);
    return STATUS_OK;
}

enum status load_string(const struct tokenizer *tokenizer, const json_t *json, const char *where,
                        const char *key, const char **text, size_t *length, struct error *error) {
    const json_t *found = json_object_get(json, key);
    if (!json_is_string(found))
        return error_set(error, STATUS_INPUT, "%s: %s: %s is not a string", tokenizer->origin,
                         where, key);
    *text = json_string_value(found);
    *length = json_string_length(found);
    return STATUS_OK;
}

/* An id: 0 .. 2^31 - 2. */
static enum status read_id(const struct tokenizer *tokenizer, const json_t *json, const char *where,
                           const char *what, int32_t *id, struct error *error) {
    json_int_t value = json_is_integer(json) ? json_integer_value(json) : -1;
    *id = 0;
    if (value < 0 || value >= INT32_MAX)
        return error_set(error, STATUS_INPUT,
                         "%s: %s: the id of \"%s\" is no number from 0 to 2^31 - 2",
                         tokenizer->origin, where, what);
    *id = (int32_t)value;
    return STATUS_OK;
}

static void note_id(struct tokenizer *tokenizer, int32_t id) {
    if (id >= tokenizer->size)
        tokenizer->size = (int64_t)id + 1;
}

static enum status load_vocabulary(struct tokenizer *tokenizer, const json_t *json,
                                   struct error *error) {
    if (!json_is_object(json) || json_object_size(json) == 0)
        return error_set(error, STATUS_INPUT, "%s: model.vocab is not an object with tokens",
                         tokenizer->origin);
    const char *content;
    json_t *value;
    json_object_foreach((json_t *)json, content, value) {
        int32_t id;
        enum status status = read_id(tokenizer, value, "model.vocab", content, &id, error);
        if (status != STATUS_OK)
            return status;
        if (!vocabulary_set(&tokenizer->bpe.vocabulary, content, strlen(content), id))
            return load_out_of_memory(tokenizer, error);
        note_id(tokenizer, id);
    }
    return STATUS_OK;
}

/* The two sides of a merge: "a b", or ["a", "b"]. */
static bool merge_sides(const json_t *merge, const char **left, size_t *left_length,
                        const char **right, size_t *right_length) {
    if (json_is_string(merge)) {
        *left = json_string_value(merge);
        size_t length = json_string_length(merge);
        const char *space = memchr(*left, ' ', length);
        if (!space)
            return false;
        *left_length = (size_t)(space - *left);
        *right = space + 1;
        *right_length = length - *left_length - 1;
        return !memchr(*right, ' ', *right_length);
    }
    const json_t *first = json_array_get(merge, 0), *second = json_array_get(merge, 1);
    if (json_array_size(merge) != 2 || !json_is_string(first) || !json_is_string(second))
        return false;
    *left = json_string_value(first);
    *left_length = json_string_length(first);
    *right = json_string_value(second);
    *right_length = json_string_length(second);
    return true;
}

static enum status load_merges(struct tokenizer *tokenizer, const json_t *json,
                               struct error *error) {
    struct bpe *bpe = &tokenizer->bpe;
    if (!json_is_array(json))
        return error_set(error, STATUS_INPUT, "%s: model.merges is not an array",
                         tokenizer->origin);
    struct text_buffer both = {0};
    size_t index;
    const json_t *merge;
    int32_t rank = 0;
    enum status status = STATUS_OK;
    json_array_foreach(json, index, merge) {
        const char *left, *right;
        size_t left_length, right_length;
        if (json_is_string(merge) && strncmp(json_string_value(merge), "#version", 8) == 0)
            continue; /* the first line of a merges.txt */
        if (!merge_sides(merge, &left, &left_length, &right, &right_length)) {
            status = error_set(error, STATUS_INPUT,
                               "%s: model.merges[%zu] is neither \"a b\" nor [\"a\", \"b\"]",
                               tokenizer->origin, index);
            break;
        }
        both.length = 0;
        bool good = text_buffer_append(&both, left, left_length) &&
                    text_buffer_append(&both, right, right_length);
        struct merge entry = {.left = vocabulary_find(&bpe->vocabulary, left, left_length),
                              .right = vocabulary_find(&bpe->vocabulary, right, right_length),
                              .rank = rank++};
        entry.merged = good ? vocabulary_find(&bpe->vocabulary, both.data, both.length) : -1;
        if (good && (entry.left < 0 || entry.right < 0 || entry.merged < 0)) {
            status =
                error_set(error, STATUS_INPUT,
                          "%s: model.merges[%zu] (\"%.*s\" and \"%.*s\") is not made of tokens of "
                          "model.vocab",
                          tokenizer->origin, index, (int)(left_length < 100 ? left_length : 100),
                          left, (int)(right_length < 100 ? right_length : 100), right);
            break;
        }
        if (!good || !merge_table_set(&bpe->merges, entry)) {
            status = load_out_of_memory(tokenizer, error);
            break;
        }
    }
    text_buffer_free(&both);
    return status;
}

/* Options of BPE that change ids and are not supported must be off. */
static enum status check_absent(const struct tokenizer *tokenizer, const json_t *model,
                                struct error *error) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout && !json_is_null(dropout) &&
        !(json_is_number(dropout) && json_number_value(dropout) <= 0))
        return error_set(error, STATUS_INPUT, "%s: model.dropout is not supported",
                         tokenizer->origin);
    for (size_t i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(model, affixes[i]);
        if (affix && !json_is_null(affix) &&
            !(json_is_string(affix) && json_string_length(affix) == 0))
            return error_set(error, STATUS_INPUT, "%s: model.%s is not supported",
                             tokenizer->origin, affixes[i]);
    }
    return STATUS_OK;
}

enum status load_model(struct tokenizer *tokenizer, const json_t *model, struct error *error) {
    static const char *const keys[] = {"type",
                                       "dropout",
                                       "unk_token",
                                       "continuing_subword_prefix",
                                       "end_of_word_suffix",
                                       "fuse_unk",
                                       "byte_fallback",
                                       "ignore_merges",
                                       "vocab",
                                       "merges",
                                       NULL};
    const json_t *type = json_object_get(model, "type");
    if (!json_is_object(model))
        return error_set(error, STATUS_INPUT, "%s: model is missing", tokenizer->origin);
    if (type && (!json_is_string(type) || strcmp(json_string_value(type), "BPE") != 0))
        return error_set(error, STATUS_INPUT, "%s: model.type is \"%s\"; only \"BPE\" is supported",
                         tokenizer->origin, json_is_string(type) ? json_string_value(type) : "?");
    struct bpe *bpe = &tokenizer->bpe;
    enum status status = load_check_keys(tokenizer, model, "model", keys, error);
    if (status == STATUS_OK)
        status = check_absent(tokenizer, model, error);
    if (status == STATUS_OK)
        status =
            load_boolean(tokenizer, model, "model", "fuse_unk", false, &bpe->fuse_unknown, error);
    if (status == STATUS_OK)
        status = load_boolean(tokenizer, model, "model", "byte_fallback", false,
                              &bpe->byte_fallback, error);
    if (status == STATUS_OK)
        status = load_boolean(tokenizer, model, "model", "ignore_merges", false,
                              &bpe->ignore_merges, error);
    const json_t *unknown = json_object_get(model, "unk_token");
    if (status == STATUS_OK && unknown && !json_is_null(unknown)) {
        if (!json_is_string(unknown))
            return error_set(error, STATUS_INPUT, "%s: model.unk_token is not a string",
                             tokenizer->origin);
        bpe->unknown = strdup(json_string_value(unknown));
        if (!bpe->unknown)
            return load_out_of_memory(tokenizer, error);
    }
    if (status == STATUS_OK)
        status = load_vocabulary(tokenizer, json_object_get(model, "vocab"), error);
    if (status == STATUS_OK)
        status = load_merges(tokenizer, json_object_get(model, "merges"), error);
    if (status == STATUS_OK)
        bpe_prepare(bpe);
    return status;
}

static enum status load_added_token(struct tokenizer *tokenizer, const json_t *json,
                                    const char *where, struct added_token *token,
                                    struct error *error) {
    static const char *const keys[] = {"id",     "content",    "single_word", "lstrip",
                                       "rstrip", "normalized", "special",     NULL};
    const char *content;
    bool special;
    enum status status = load_check_keys(tokenizer, json, where, keys, error);
    if (status == STATUS_OK)
        status = load_string(tokenizer, json, where, "content", &content, &token->length, error);
    if (status == STATUS_OK)
        status = read_id(tokenizer, json_object_get(json, "id"), where, content, &token->id, error);
    if (status == STATUS_OK)
        status = load_boolean(tokenizer, json, where, "special", false, &special, error);
    if (status == STATUS_OK)
        status =
            load_boolean(tokenizer, json, where, "single_word", false, &token->single_word, error);
    if (status == STATUS_OK)
        status = load_boolean(tokenizer, json, where, "lstrip", false, &token->lstrip, error);
    if (status == STATUS_OK)
        status = load_boolean(tokenizer, json, where, "rstrip", false, &token->rstrip, error);
    if (status == STATUS_OK)
        status =
            load_boolean(tokenizer, json, where, "normalized", !special, &token->normalized, error);
    if (status != STATUS_OK)
        return status;
    int32_t known = vocabulary_find(&tokenizer->bpe.vocabulary, content, token->length);
    if (known >= 0 && known != token->id)
        return error_set(error, STATUS_INPUT,
                         "%s: %s (\"%s\") has id %d, but model.vocab gives it %d",
                         tokenizer->origin, where, content, (int)token->id, (int)known);
    token->content = malloc(token->length + 1);
    if (!token->content)
        return load_out_of_memory(tokenizer, error);
    memcpy(token->content, content, token->length + 1);
    note_id(tokenizer, token->id);
    return STATUS_OK;
}

/* Put a token into the trie that finds it. */
static enum status enter_added_token(struct tokenizer *tokenizer, int32_t index,
                                     struct error *error) {
    const struct added_token *token = &tokenizer->added[index];
    const char *content = token->content;
    size_t length = token->length;
    if (length == 0)
        return STATUS_OK; /* the library passes over it */
    if (token->normalized) {
        enum status status =
            normalize(tokenizer->normalizers, tokenizer->normalizer_count, tokenizer->normal,
                      content, length, &content, &length, error);
        if (status != STATUS_OK)
            return status;
    }
    if (length == 0)
        return error_set(error, STATUS_INPUT,
                         "%s: added_tokens[%d]: nothing is left of it after the normalizer",
                         tokenizer->origin, (int)index);
    if (!added_trie_add(token->normalized ? &tokenizer->normalized : &tokenizer->plain, content,
                        length, index))
        return load_out_of_memory(tokenizer, error);
    return STATUS_OK;
}

enum status load_added_tokens(struct tokenizer *tokenizer, const json_t *tokens,
                              struct error *error) {
    /* \w of UTS 18, which is not Oniguruma's */
    static const char word[] = "\\A[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";
    size_t count = json_array_size(tokens);
    if (tokens && !json_is_null(tokens) && !json_is_array(tokens))
        return error_set(error, STATUS_INPUT, "%s: added_tokens is not an array",
                         tokenizer->origin);
    if (count == 0)
        return STATUS_OK;
    tokenizer->added = calloc(count, sizeof *tokenizer->added);
    if (!tokenizer->added)
        return load_out_of_memory(tokenizer, error);
    bool single_word = false;
    enum status status = STATUS_OK;
    for (size_t i = 0; i < count && status == STATUS_OK; i++) {
        char where[48];
        snprintf(where, sizeof where, "added_tokens[%zu]", i);
        struct added_token *token = &tokenizer->added[tokenizer->added_count++];
        status = load_added_token(tokenizer, json_array_get(tokens, i), where, token, error);
        single_word = single_word || token->single_word;
        if (status == STATUS_OK)
            status = enter_added_token(tokenizer, (int32_t)i, error);
    }
    if (status == STATUS_OK && single_word)
        status = regex_create(word, sizeof word - 1, false, tokenizer->origin, "added_tokens",
                              &tokenizer->word_at_start, error);
    return status;
}
