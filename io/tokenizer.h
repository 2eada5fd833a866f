/* Text to token ids, as the `tokenizers` library does it, from the text of a tokenizer.json.
 *
 * Two families: SentencePiece-style BPE with byte fallback (LLaMA, LLaMA-2, Mistral), and
 * byte-level BPE after a split pattern (GPT-2, BLOOM, Llama-3, Qwen2, SmolLM2). n log n in the
 * length of a word, also when a whole document is one word. A part of tokenizer.json that is not
 * understood is an error that names it, never ignored. Understood are:
 * - model: BPE with vocab, merges ("a b" or ["a", "b"]), unk_token, fuse_unk, byte_fallback,
 *   ignore_merges
 * - added_tokens: special, single_word, lstrip, rstrip, normalized
 * - normalizer: Sequence, Prepend, Replace (String, Regex), NFC
 * - pre_tokenizer: Sequence, Split (String, Regex, every behavior, invert), ByteLevel, Digits,
 *   Metaspace
 * - post_processor: Sequence, TemplateProcessing, ByteLevel
 * truncation, padding and decoder have no say in the ids of a text and are passed over.
 *
 * The ids are those of `tokenizers` 0.23.3 (tests/compare_tokenizers.py), but for characters newer
 * than the Unicode of the libraries at hand: PCRE2's (14 in 10.42) decides which are letters or
 * numbers, utf8proc's decides NFC. Patterns are Oniguruma's; tokenizer_regex_translate.c says
 * which. */
#ifndef FPTQ_IO_TOKENIZER_H
#define FPTQ_IO_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "io/status.h"

/* Holds scratch memory: one thread at a time. */
struct tokenizer;

struct token_list {
    int32_t *ids; /* malloc'ed, grows */
    size_t count, capacity;
};

/* json: `length` bytes; origin: the name to use in messages. */
enum status tokenizer_create(const char *json, size_t length, const char *origin,
                             struct tokenizer **tokenizer, struct error *error);
void tokenizer_destroy(struct tokenizer *tokenizer);
/* Largest id + 1. */
int64_t tokenizer_size(const struct tokenizer *tokenizer);
/* Id of a token's exact content, or -1. */
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *content);
/* The id that the post-processor puts in front of a text (BOS), or -1. */
int32_t tokenizer_bos(const struct tokenizer *tokenizer);
/* The end-of-text id: that of the first of </s>, <|endoftext|>, <|im_end|>, <|end_of_text|> that is
 * there, or -1. */
int32_t tokenizer_eos(const struct tokenizer *tokenizer);

/* Append the ids of text (UTF-8, `length` bytes; a bad byte is replaced by U+FFFD) to `list`.
 * Special tokens written in the text are recognised, as the library does. add_special: let the
 * post-processor add its tokens (BOS). */
enum status tokenizer_encode(struct tokenizer *tokenizer, const char *text, size_t length,
                             int add_special, struct token_list *list, struct error *error);
enum status token_list_append(struct token_list *list, int32_t id, struct error *error);
void token_list_free(struct token_list *list);

#endif
