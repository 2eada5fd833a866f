/* A tokenizer from tokenizer.json, and the way of a text through it: tokens written in the text,
 * the normalizers, tokens again, pre-tokenizers, BPE, the post-processor. */
#include "io/tokenizer.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "io/tokenizer_internal.h"
#include "io/utf8.h"

/* Every part of the file. truncation and padding are the caller's business and decoder is for the
 * way back: these three have no say in the ids. */
static enum status load(struct tokenizer *tokenizer, const json_t *json, struct error *error) {
    static const char *const keys[] = {
        "version",       "truncation",     "padding", "added_tokens", "normalizer",
        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    enum status status = load_check_keys(tokenizer, json, "tokenizer.json", keys, error);
    const json_t *version = json_object_get(json, "version");
    if (status == STATUS_OK && version &&
        (!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0))
        status = error_set(error, STATUS_INPUT, "%s: version is not \"1.0\"", tokenizer->origin);
    if (status == STATUS_OK)
        status = load_model(tokenizer, json_object_get(json, "model"), error);
    if (status == STATUS_OK)
        status = load_normalizer(tokenizer, json_object_get(json, "normalizer"), error);
    if (status == STATUS_OK)
        status = load_pre_tokenizer(tokenizer, json_object_get(json, "pre_tokenizer"), error);
    if (status == STATUS_OK)
        status = load_added_tokens(tokenizer, json_object_get(json, "added_tokens"), error);
    if (status == STATUS_OK)
        status = load_post_processor(tokenizer, json_object_get(json, "post_processor"), error);
    return status;
}

enum status tokenizer_create(const char *json, size_t length, const char *origin,
                             struct tokenizer **result, struct error *error) {
    *result = NULL;
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer || !(tokenizer->origin = strdup(origin))) {
        free(tokenizer);
        return error_set(error, STATUS_FAILED, "%s: out of memory", origin);
    }
    json_error_t fault;
    json_t *root = json_loadb(json, length, JSON_ALLOW_NUL, &fault);
    enum status status = root ? load(tokenizer, root, error)
                              : error_set(error, STATUS_INPUT, "%s: line %d: not JSON: %s", origin,
                                          fault.line, fault.text);
    json_decref(root);
    if (status != STATUS_OK) {
        tokenizer_destroy(tokenizer);
        return status;
    }
    *result = tokenizer;
    return STATUS_OK;
}

void tokenizer_destroy(struct tokenizer *tokenizer) {
    if (!tokenizer)
        return;
    for (size_t i = 0; i < tokenizer->normalizer_count; i++) {
        regex_destroy(tokenizer->normalizers[i].regex);
        free(tokenizer->normalizers[i].content);
    }
    for (size_t i = 0; i < tokenizer->splitter_count; i++) {
        regex_destroy(tokenizer->splitters[i].regex);
        free(tokenizer->splitters[i].replacement);
        text_buffer_free(&tokenizer->splitters[i].scratch);
    }
    for (size_t i = 0; i < tokenizer->added_count; i++)
        free(tokenizer->added[i].content);
    free(tokenizer->normalizers);
    free(tokenizer->splitters);
    free(tokenizer->added);
    added_trie_free(&tokenizer->plain);
    added_trie_free(&tokenizer->normalized);
    regex_destroy(tokenizer->word_at_start);
    bpe_free(&tokenizer->bpe);
    free(tokenizer->prefix.ids);
    free(tokenizer->suffix.ids);
    text_buffer_free(&tokenizer->valid);
    text_buffer_free(&tokenizer->normal[0]);
    text_buffer_free(&tokenizer->normal[1]);
    free(tokenizer->origin);
    free(tokenizer);
}

int64_t tokenizer_size(const struct tokenizer *tokenizer) {
    return tokenizer->size;
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *content) {
    size_t length = strlen(content);
    for (size_t i = 0; i < tokenizer->added_count; i++)
        if (tokenizer->added[i].length == length &&
            memcmp(tokenizer->added[i].content, content, length) == 0)
            return tokenizer->added[i].id;
    return vocabulary_find(&tokenizer->bpe.vocabulary, content, length);
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer) {
    return tokenizer->prefix.count ? tokenizer->prefix.ids[0] : -1;
}

int32_t tokenizer_eos(const struct tokenizer *tokenizer) {
    static const char *const names[] = {"</s>", "<|endoftext|>", "<|im_end|>", "<|end_of_text|>"};
    int32_t id = -1;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && id < 0; i++)
        id = tokenizer_find(tokenizer, names[i]);
    return id;
}

enum status token_list_append(struct token_list *list, int32_t id, struct error *error) {
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 256;
        int32_t *ids = realloc(list->ids, capacity * sizeof *ids);
        if (!ids)
            return error_set(error, STATUS_FAILED, "out of memory for tokens");
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->count++] = id;
    return STATUS_OK;
}

void token_list_free(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

struct encoding {
    struct tokenizer *tokenizer;
    struct token_list *list;
    const char *text; /* that the segments are of */
    bool at_start;
    struct error *error;
};

static enum status encode_normalized_segment(void *context, const struct added_segment *segment) {
    const struct encoding *encoding = context;
    if (segment->token >= 0)
        return token_list_append(encoding->list, encoding->tokenizer->added[segment->token].id,
                                 encoding->error);
    return split_and_encode(
        encoding->tokenizer, encoding->text + segment->begin, segment->end - segment->begin,
        encoding->at_start && segment->begin == 0, encoding->list, encoding->error);
}

static enum status encode_segment(void *context, const struct added_segment *segment) {
    const struct encoding *outer = context;
    if (segment->token >= 0)
        return encode_normalized_segment(context, segment);
    struct tokenizer *tokenizer = outer->tokenizer;
    struct encoding inner = *outer;
    inner.at_start = segment->begin == 0;
    size_t length;
    enum status status =
        normalize(tokenizer->normalizers, tokenizer->normalizer_count, tokenizer->normal,
                  outer->text + segment->begin, segment->end - segment->begin, &inner.text, &length,
                  outer->error);
    if (status != STATUS_OK)
        return status;
    return added_scan(tokenizer, &tokenizer->normalized, inner.text, length,
                      encode_normalized_segment, &inner, outer->error);
}

/* Point *text at a copy with U+FFFD in place of every bad byte; leave it alone when there is none.
 */
static enum status make_valid(struct text_buffer *buffer, const char **text, size_t *length,
                              struct error *error) {
    size_t good = utf8_valid_prefix(*text, *length);
    if (good == *length)
        return STATUS_OK;
    buffer->length = 0;
    for (size_t at = 0; at < *length; at += good + 1) {
        good = utf8_valid_prefix(*text + at, *length - at);
        if (!text_buffer_append(buffer, *text + at, good) ||
            (at + good < *length && !text_buffer_append(buffer, "\xef\xbf\xbd", 3)))
            return error_set(error, STATUS_FAILED, "out of memory in the tokenizer");
    }
    *text = buffer->data;
    *length = buffer->length;
    return STATUS_OK;
}

static enum status append_all(struct token_list *list, const struct id_list *ids,
                              struct error *error) {
    enum status status = STATUS_OK;
    for (size_t i = 0; i < ids->count && status == STATUS_OK; i++)
        status = token_list_append(list, ids->ids[i], error);
    return status;
}

enum status tokenizer_encode(struct tokenizer *tokenizer, const char *text, size_t length,
                             int add_special, struct token_list *list, struct error *error) {
    size_t count_before = list->count;
    enum status status = make_valid(&tokenizer->valid, &text, &length, error);
    struct encoding encoding = {.tokenizer = tokenizer, .list = list, .text = text, .error = error};
    if (status == STATUS_OK && add_special)
        status = append_all(list, &tokenizer->prefix, error);
    if (status == STATUS_OK)
        status = added_scan(tokenizer, &tokenizer->plain, text, length, encode_segment, &encoding,
                            error);
    if (status == STATUS_OK && add_special)
        status = append_all(list, &tokenizer->suffix, error);
    if (status != STATUS_OK)
        list->count = count_before;
    return status;
}
