/* The vocabulary of a GGUF file: tokenizer.ggml.tokens, .token_type, .scores and .merges. */
#ifndef FPTQ_IO_GGUF_VOCABULARY_H
#define FPTQ_IO_GGUF_VOCABULARY_H

#include "io/gguf.h"

enum gguf_token_type {
    GGUF_TOKEN_NORMAL = 1,
    GGUF_TOKEN_UNKNOWN,
    GGUF_TOKEN_CONTROL,
    GGUF_TOKEN_USER_DEFINED,
    GGUF_TOKEN_UNUSED, /* fills the embedding's rows; no text makes it */
    GGUF_TOKEN_BYTE,
};

struct gguf_token {
    const char *text; /* UTF-8 in the file, at most 1000 bytes, not NUL-ended */
    size_t length;
    int32_t id;
    enum gguf_token_type type;
    float score;
};

/* Two tokens that make a third, the best first. */
struct gguf_merge {
    const struct gguf_token *left, *right;
};

struct gguf_vocabulary {
    struct gguf_token *tokens;  /* by id */
    struct gguf_token **sorted; /* by text; no two alike; without the UNUSED ones */
    int64_t count, sorted_count;
    struct gguf_merge *merges;
    int64_t merge_count;
};

/* Merges are the file's list, or else made from the scores, as transformers makes them: every way
 * to make a NORMAL token of two others, the best score first, then the longer left part, then the
 * longer right part (in characters), then the order of ids. STATUS_INPUT when neither is there. */
enum status gguf_vocabulary_read(const struct gguf *gguf, struct gguf_vocabulary *vocabulary,
                                 struct error *error);
void gguf_vocabulary_free(struct gguf_vocabulary *vocabulary);

#endif
