/* tokenizer.ggml.* -> tokenizer.json, written as text straight away: the vocabularies are large. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/gguf_model.h"
#include "io/gguf_vocabulary.h"
#include "io/text_buffer.h"

struct maker {
    const struct gguf *gguf;
    struct gguf_vocabulary vocabulary;
    struct text_buffer out;
    bool out_of_memory;
    struct error *error;
};

/* --- text --- */

static void put_bytes(struct maker *m, const char *bytes, size_t length) {
    m->out_of_memory |= !text_buffer_append(&m->out, bytes, length);
}

static void put(struct maker *m, const char *string) {
    put_bytes(m, string, strlen(string));
}

static void put_number(struct maker *m, int64_t number) {
    char digits[24];
    snprintf(digits, sizeof digits, "%lld", (long long)number);
    put(m, digits);
}

/* A token's text as a JSON string. */
static void put_token(struct maker *m, const struct gguf_token *token) {
    put(m, "\"");
    size_t begin = 0;
    for (size_t i = 0; i < token->length; i++) {
        const unsigned char byte = (unsigned char)token->text[i];
        if (byte >= 0x20 && byte != '"' && byte != '\\')
            continue;
        char escape[8];
        snprintf(escape, sizeof escape, byte < 0x20 ? "\\u%04x" : "\\%c", byte);
        put_bytes(m, token->text + begin, i - begin);
        put(m, escape);
        begin = i + 1;
    }
    put_bytes(m, token->text + begin, token->length - begin);
    put(m, "\"");
}

/* --- what the keys say --- */

static const struct gguf_key *find(const struct maker *m, const char *name) {
    char full[100];
    snprintf(full, sizeof full, "tokenizer.ggml.%s", name);
    return gguf_find_key(m->gguf, full);
}

static bool find_flag(const struct maker *m, const char *name, bool otherwise) {
    int64_t value = otherwise;
    gguf_integer(find(m, name), 0, &value);
    return value != 0;
}

static enum status fail(const struct maker *m, const char *what) {
    return error_set(m->error, STATUS_INPUT, "%s: tokenizer.ggml: %s", m->gguf->file.path, what);
}

/* The token that a key names by its id; NULL when the key is missing or no id. */
static const struct gguf_token *find_token_of(const struct maker *m, const char *key) {
    int64_t id;
    if (!gguf_integer(find(m, key), 0, &id) || id < 0 || id >= m->vocabulary.count ||
        m->vocabulary.tokens[id].type == GGUF_TOKEN_UNUSED)
        return NULL;
    return &m->vocabulary.tokens[id];
}

/* --- the file's parts --- */

static void put_added_tokens(struct maker *m) {
    put(m, "\"added_tokens\":[");
    bool first = true;
    for (int64_t i = 0; i < m->vocabulary.count; i++) {
        const struct gguf_token *token = &m->vocabulary.tokens[i];
        if (token->type != GGUF_TOKEN_CONTROL && token->type != GGUF_TOKEN_USER_DEFINED &&
            token->type != GGUF_TOKEN_UNKNOWN)
            continue;
        put(m, first ? "{\"id\":" : ",{\"id\":");
        put_number(m, i);
        put(m, ",\"content\":");
        put_token(m, token);
        put(m, ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
               "\"normalized\":false,\"special\":");
        put(m, token->type == GGUF_TOKEN_USER_DEFINED ? "false}" : "true}");
        first = false;
    }
    put(m, "],");
}

static void put_template_token(struct maker *m, const struct gguf_token *token, const char *type) {
    put(m, "{\"SpecialToken\":{\"id\":");
    put_token(m, token);
    put(m, ",\"type_id\":");
    put(m, type);
    put(m, "}}");
}

/* Sequence A is of type 0, sequence B of type 1, each between its tokens. */
static void put_template_sequence(struct maker *m, const struct gguf_token *bos,
                                  const struct gguf_token *eos, const char *name,
                                  const char *type) {
    if (bos) {
        put_template_token(m, bos, type);
        put(m, ",");
    }
    put(m, "{\"Sequence\":{\"id\":\"");
    put(m, name);
    put(m, "\",\"type_id\":");
    put(m, type);
    put(m, "}}");
    if (eos) {
        put(m, ",");
        put_template_token(m, eos, type);
    }
}

static void put_template_ids(struct maker *m, const struct gguf_token *token) {
    put_token(m, token);
    put(m, ":{\"id\":");
    put_token(m, token);
    put(m, ",\"ids\":[");
    put_number(m, token->id);
    put(m, "],\"tokens\":[");
    put_token(m, token);
    put(m, "]}");
}

/* A template with the tokens that go around a text, or `otherwise` when there are none. */
static enum status put_post_processor(struct maker *m, bool add_bos, const char *otherwise) {
    const struct gguf_token *bos = NULL, *eos = NULL;
    if (find_flag(m, "add_bos_token", add_bos) && !(bos = find_token_of(m, "bos_token_id")))
        return fail(m, "add_bos_token without a bos_token_id");
    if (find_flag(m, "add_eos_token", false) && !(eos = find_token_of(m, "eos_token_id")))
        return fail(m, "add_eos_token without an eos_token_id");
    put(m, "\"post_processor\":");
    if (!bos && !eos) {
        put(m, otherwise);
        put(m, ",");
        return STATUS_OK;
    }
    put(m, "{\"type\":\"TemplateProcessing\",\"single\":[");
    put_template_sequence(m, bos, eos, "A", "0");
    put(m, "],\"pair\":[");
    put_template_sequence(m, bos, eos, "A", "0");
    put(m, ",");
    put_template_sequence(m, bos, eos, "B", "1");
    put(m, "],\"special_tokens\":{");
    if (bos)
        put_template_ids(m, bos);
    if (bos && eos && bos != eos)
        put(m, ",");
    if (eos && bos != eos)
        put_template_ids(m, eos);
    put(m, "}},");
    return STATUS_OK;
}

static void put_vocabulary_and_merges(struct maker *m) {
    const struct gguf_vocabulary *v = &m->vocabulary;
    put(m, "\"vocab\":{");
    bool first = true;
    for (int64_t i = 0; i < v->count; i++) {
        if (v->tokens[i].type == GGUF_TOKEN_UNUSED)
            continue;
        if (!first)
            put(m, ",");
        put_token(m, &v->tokens[i]);
        put(m, ":");
        put_number(m, i);
        first = false;
    }
    put(m, "},\"merges\":[");
    for (int64_t i = 0; i < v->merge_count; i++) {
        put(m, i ? ",[" : "[");
        put_token(m, v->merges[i].left);
        put(m, ",");
        put_token(m, v->merges[i].right);
        put(m, "]");
    }
    put(m, "]}}");
}

/* --- byte-level BPE --- */

#define BYTE_LEVEL(use_regex)                                                                      \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_"              \
    "regex\":" use_regex "}"
#define SPLIT(pattern)                                                                             \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"        \
    "\"" pattern "\"},\"behavior\":\"Isolated\",\"invert\":false}," BYTE_LEVEL("false") "]}"
#define WORDS_AND(digits)                                                                          \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" digits                 \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

/* What tokenizer.ggml.pre says, as the JSON of the model's own tokenizer.json. */
struct byte_level {
    const char *pre;
    const char *normalizer;
    const char *pre_tokenizer;
    bool ignore_merges; /* a word that is a token is taken whole */
    bool add_bos;       /* where the file does not say */
};
static const char gpt2_split[] = BYTE_LEVEL("true");
static const char llama3_split[] = SPLIT(WORDS_AND("\\\\p{N}{1,3}"));
static const char qwen2_split[] = SPLIT(WORDS_AND("\\\\p{N}"));
static const char digits_split[] = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\","
                                   "\"individual_digits\":true}," BYTE_LEVEL("true") "]}";
static const char bloom_split[] = SPLIT(" ?[^(\\\\s|[.,!?…。，、।۔،])]+");
static const char nfc[] = "{\"type\":\"NFC\"}";

static const struct byte_level byte_levels[] = {
    {"default", "null", gpt2_split, false, false},
    {"gpt-2", "null", gpt2_split, false, false},
    {"llama-bpe", "null", llama3_split, true, true},
    {"llama3", "null", llama3_split, true, true},
    {"llama-v3", "null", llama3_split, true, true},
    {"qwen2", nfc, qwen2_split, false, false},
    {"deepseek-r1-qwen", nfc, qwen2_split, false, false},
    {"smollm", "null", digits_split, false, false},
    {"bloom", "null", bloom_split, false, false},
};

static enum status put_byte_level(struct maker *m) {
    const struct gguf_key *pre = find(m, "pre");
    const struct byte_level *kind = NULL;
    for (size_t i = 0; i < sizeof byte_levels / sizeof byte_levels[0]; i++)
        if (gguf_string_is(pre, byte_levels[i].pre))
            kind = &byte_levels[i];
    if (!kind)
        return fail(m, "pre, the pre-tokenizer, is missing or none of default, gpt-2, llama-bpe, "
                       "qwen2, deepseek-r1-qwen, smollm and bloom; use the Hugging Face folder");
    if (!find(m, "merges"))
        return fail(m, "no merges");
    put(m, "\"normalizer\":");
    put(m, kind->normalizer);
    put(m, ",\"pre_tokenizer\":");
    put(m, kind->pre_tokenizer);
    put(m, ",");
    const enum status status = put_post_processor(m, kind->add_bos, BYTE_LEVEL("false"));
    if (status != STATUS_OK)
        return status;
    put(m, "\"decoder\":" BYTE_LEVEL("true"));
    put(m, ",\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
           "\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":\"\",\"fuse_unk\":false,"
           "\"byte_fallback\":false,\"ignore_merges\":");
    put(m, kind->ignore_merges ? "true," : "false,");
    put_vocabulary_and_merges(m);
    return STATUS_OK;
}

/* --- SentencePiece BPE --- */

#define REPLACE "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"▁\"}"

static enum status put_sentencepiece(struct maker *m) {
    const struct gguf_token *unknown = find_token_of(m, "unknown_token_id");
    for (int64_t i = 0; i < m->vocabulary.count && !unknown; i++)
        if (m->vocabulary.tokens[i].type == GGUF_TOKEN_UNKNOWN)
            unknown = &m->vocabulary.tokens[i];
    put(m, "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[");
    if (find_flag(m, "add_space_prefix", true))
        put(m, "{\"type\":\"Prepend\",\"prepend\":\"▁\"},");
    put(m, REPLACE "]},\"pre_tokenizer\":null,");
    const enum status status = put_post_processor(m, true, "null");
    if (status != STATUS_OK)
        return status;
    put(m, "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"
           "{\"String\":\"▁\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
           "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
           "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":");
    if (unknown)
        put_token(m, unknown);
    else
        put(m, "null");
    put(m, ",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
           "\"fuse_unk\":true,\"byte_fallback\":true,\"ignore_merges\":false,");
    put_vocabulary_and_merges(m);
    return STATUS_OK;
}

enum status gguf_tokenizer_json(const struct gguf *gguf, char **text, size_t *length,
                                struct error *error) {
    *text = NULL;
    *length = 0;
    struct maker m = {.gguf = gguf, .error = error};
    const bool byte_level = gguf_string_is(find(&m, "model"), "gpt2");
    enum status status = STATUS_OK;
    if (!byte_level && !gguf_string_is(find(&m, "model"), "llama"))
        status = fail(&m, "model, the kind of tokenizer, is missing or neither gpt2 nor llama");
    if (status == STATUS_OK)
        status = gguf_vocabulary_read(gguf, &m.vocabulary, error);
    if (status == STATUS_OK) {
        put(&m, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,");
        put_added_tokens(&m);
        status = byte_level ? put_byte_level(&m) : put_sentencepiece(&m);
    }
    put_bytes(&m, "", 1); /* the NUL */
    if (status == STATUS_OK && m.out_of_memory)
        status = error_set(error, STATUS_FAILED, "%s: out of memory", gguf->file.path);
    gguf_vocabulary_free(&m.vocabulary);
    if (status == STATUS_OK) {
        *text = m.out.data;
        *length = m.out.length - 1;
    } else {
        text_buffer_free(&m.out);
    }
    return status;
}
