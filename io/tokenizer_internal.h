/* What the files of the tokenizer share. */
#ifndef FPTQ_IO_TOKENIZER_INTERNAL_H
#define FPTQ_IO_TOKENIZER_INTERNAL_H

#include <jansson.h>
#include <stdbool.h>

#include "io/text_buffer.h"
#include "io/tokenizer.h"
#include "io/tokenizer_regex.h"

/* Content -> id (open addressing). */
struct vocabulary_slot {
    size_t offset; /* of the content in `contents` */
    size_t length;
    int32_t id; /* -1: empty */
};
struct vocabulary {
    struct text_buffer contents;
    struct vocabulary_slot *slots;
    size_t slot_count, count; /* slot_count: 0 or a power of 2, more than count */
};
/* Set the id of a content, new or known; false when memory runs out. */
bool vocabulary_set(struct vocabulary *vocabulary, const char *content, size_t length, int32_t id);
int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *content, size_t length);
void vocabulary_free(struct vocabulary *vocabulary);

/* (left, right) -> rank and the id of both together (open addressing). */
struct merge {
    int32_t left, right; /* left -1: empty */
    int32_t rank, merged;
};
struct merge_table {
    struct merge *slots;
    size_t slot_count, count;
};
bool merge_table_set(struct merge_table *table, struct merge merge);
const struct merge *merge_table_find(const struct merge_table *table, int32_t left, int32_t right);
void merge_table_free(struct merge_table *table);

/* A symbol of a word while it is merged: a doubly linked list in an array. */
struct bpe_symbol {
    int32_t id; /* -1: merged into the one before */
    int32_t previous, next;
};
struct bpe_candidate {
    int32_t rank, position, merged;
};
enum {
    BPE_DIRECT = 0x800
}; /* characters below have their id in a table (all of byte-level BPE's) */
struct bpe {
    struct vocabulary vocabulary;
    struct merge_table merges;
    int32_t direct[BPE_DIRECT];
    int32_t byte_ids[256]; /* <0xHH>, or -1 */
    char *unknown;         /* unk_token, or NULL */
    int32_t unknown_id;    /* -1 where the vocabulary does not have it */
    bool byte_fallback, fuse_unknown, ignore_merges;
    struct bpe_symbol *symbols; /* scratch */
    size_t symbol_count, symbol_capacity;
    struct bpe_candidate *heap;
    size_t heap_count, heap_capacity;
};
/* Fill the tables that follow from the vocabulary. */
void bpe_prepare(struct bpe *bpe);
/* Append the ids of one word. */
enum status bpe_encode(struct bpe *bpe, const char *text, size_t length, struct token_list *list,
                       struct error *error);
void bpe_free(struct bpe *bpe);

enum normalizer_kind { NORMALIZE_PREPEND, NORMALIZE_REPLACE, NORMALIZE_NFC };
struct normalizer {
    enum normalizer_kind kind;
    struct regex *regex; /* of REPLACE */
    char *content;       /* of PREPEND and REPLACE */
    size_t content_length;
};
/* Apply all to text. *result points to text itself, or into one of the two scratch buffers. */
enum status normalize(const struct normalizer *normalizers, size_t count,
                      struct text_buffer scratch[2], const char *text, size_t length,
                      const char **result, size_t *result_length, struct error *error);

/* The library's pre-tokenizers are made of four: ByteLevel = [prefix ' '] [split] bytes, Metaspace
 * = replace ' ' and prefix, split; Digits and Split = split. */
enum splitter_kind { SPLIT_PATTERN, SPLIT_PREFIX_SPACE, SPLIT_BYTES, SPLIT_METASPACE };
enum split_behavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS
};
enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };
struct splitter {
    enum splitter_kind kind;
    struct regex *regex; /* of PATTERN */
    enum split_behavior behavior;
    bool invert;
    char *replacement; /* of METASPACE */
    size_t replacement_length;
    enum prepend_scheme prepend;
    struct text_buffer scratch;
};

/* Tokens written in the text: a trie over their contents. */
struct added_token {
    char *content;
    size_t length;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized;
};
struct added_node {
    int32_t child, sibling; /* -1: none */
    int32_t token;          /* index into the tokens, or -1 */
    unsigned char byte;
};
struct added_trie {
    struct added_node *nodes; /* none, or the root first */
    size_t node_count, node_capacity;
    int32_t first[256]; /* the root's children by byte */
};
bool added_trie_add(struct added_trie *trie, const char *content, size_t length, int32_t token);
void added_trie_free(struct added_trie *trie);
/* What the text is made of: begin .. end is a token (its index) or text between tokens (token -1).
 */
struct added_segment {
    size_t begin, end;
    int32_t token;
};
typedef enum status (*added_segment_function)(void *context, const struct added_segment *segment);

struct id_list {
    int32_t *ids;
    size_t count;
};

struct tokenizer {
    char *origin;
    struct bpe bpe;
    struct normalizer *normalizers;
    size_t normalizer_count;
    struct splitter *splitters;
    size_t splitter_count;
    struct added_token *added;
    size_t added_count;
    struct added_trie plain, normalized; /* searched before and after normalization */
    struct regex *word_at_start;         /* for single_word; NULL where no token asks for it */
    struct id_list prefix, suffix;       /* the post-processor's */
    bool has_template;
    int64_t size;
    struct text_buffer valid; /* scratch */
    struct text_buffer normal[2];
};

enum status added_scan(const struct tokenizer *tokenizer, const struct added_trie *trie,
                       const char *text, size_t length, added_segment_function function,
                       void *context, struct error *error);
/* Cut a text into words and append the ids of each. at_start: it begins where the whole text
 * begins. */
enum status split_and_encode(struct tokenizer *tokenizer, const char *text, size_t length,
                             bool at_start, struct token_list *list, struct error *error);

/* Loading (tokenizer_load*.c): each takes its part of tokenizer.json. */
enum status load_model(struct tokenizer *tokenizer, const json_t *model, struct error *error);
enum status load_added_tokens(struct tokenizer *tokenizer, const json_t *tokens,
                              struct error *error);
enum status load_normalizer(struct tokenizer *tokenizer, const json_t *json, struct error *error);
enum status load_pre_tokenizer(struct tokenizer *tokenizer, const json_t *json,
                               struct error *error);
enum status load_post_processor(struct tokenizer *tokenizer, const json_t *json,
                                struct error *error);

/* Reading JSON with messages that name the key. `where` is the object's place ("model"). */
/* An error unless json is an object with no keys but those in `keys` (NULL ended). */
enum status load_check_keys(const struct tokenizer *tokenizer, const json_t *json,
                            const char *where, const char *const *keys, struct error *error);
/* A truth value; absent or null gives `otherwise`. */
enum status load_boolean(const struct tokenizer *tokenizer, const json_t *json, const char *where,
                         const char *key, bool otherwise, bool *value, struct error *error);
/* A string that must be there (borrowed). */
enum status load_string(const struct tokenizer *tokenizer, const json_t *json, const char *where,
                        const char *key, const char **text, size_t *length, struct error *error);
/* {"String": ...} or {"Regex": ...} */
enum status load_pattern(const struct tokenizer *tokenizer, const json_t *json, const char *where,
                         struct regex **regex, bool *literal, struct error *error);
enum status load_out_of_memory(const struct tokenizer *tokenizer, struct error *error);

#endif
