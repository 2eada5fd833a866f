/* tokenizer.ggml.* -> tokenizer.json, written as text straight away: the vocabularies are large. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "io/gguf_model.h"

/* tokenizer.ggml.token_type */
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };
enum { LONGEST_PIECE = 1000 }; /* bytes of a token; bounds the search for merges */

struct token {
    const char *text;
    size_t length;
    int32_t id;
    int32_t type;
    float score;
};

struct text {
    char *bytes;
    size_t length, capacity;
    bool failed; /* out of memory */
};

struct maker {
    const struct gguf *gguf;
    struct token *tokens;  /* by id */
    struct token **sorted; /* by text, UNUSED ones left out */
    int64_t count, sorted_count;
    struct text out;
    struct error *error;
};

/* --- text --- */

static void put_bytes(struct text *text, const char *bytes, size_t length) {
    if (text->failed)
        return;
    if (length + 1 > text->capacity - text->length) {
        const size_t capacity = 2 * (text->capacity + length + 1);
        char *larger = realloc(text->bytes, capacity);
        if (!larger) {
            text->failed = true;
            return;
        }
        text->bytes = larger;
        text->capacity = capacity;
    }
    memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
    text->bytes[text->length] = '\0';
}

static void put(struct text *text, const char *string) {
    put_bytes(text, string, strlen(string));
}

static void put_number(struct text *text, int64_t number) {
    char digits[24];
    snprintf(digits, sizeof digits, "%lld", (long long)number);
    put(text, digits);
}

/* A JSON string; `string` is UTF-8. */
static void put_string(struct text *text, const char *string, size_t length) {
    put(text, "\"");
    size_t begin = 0;
    for (size_t i = 0; i < length; i++) {
        const unsigned char byte = (unsigned char)string[i];
        if (byte >= 0x20 && byte != '"' && byte != '\\')
            continue;
        char escape[8];
        snprintf(escape, sizeof escape, byte < 0x20 ? "\\u%04x" : "\\%c", byte);
        put_bytes(text, string + begin, i - begin);
        put(text, escape);
        begin = i + 1;
    }
    put_bytes(text, string + begin, length - begin);
    put(text, "\"");
}

/* --- tokens --- */

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

static enum status fail_token(const struct maker *m, const struct token *token, const char *what) {
    return error_set(m->error, STATUS_INPUT, "%s: tokenizer.ggml.tokens: token %d %s",
                     m->gguf->file.path, token->id, what);
}

static bool is_utf8(const char *text, size_t length) {
    for (size_t i = 0; i < length;) {
        utf8proc_int32_t point;
        const utf8proc_ssize_t bytes = utf8proc_iterate((const utf8proc_uint8_t *)text + i,
                                                        (utf8proc_ssize_t)(length - i), &point);
        if (bytes < 1)
            return false;
        i += (size_t)bytes;
    }
    return true;
}

static int compare_text(const char *left, size_t left_length, const char *right,
                        size_t right_length) {
    const int order = memcmp(left, right, left_length < right_length ? left_length : right_length);
    return order ? order : (left_length > right_length) - (left_length < right_length);
}

static int tokens_by_text(const void *left, const void *right) {
    const struct token *a = *(struct token *const *)left, *b = *(struct token *const *)right;
    return compare_text(a->text, a->length, b->text, b->length);
}

static const struct token *find_token(const struct maker *m, const char *text, size_t length) {
    int64_t begin = 0, end = m->sorted_count;
    while (begin < end) {
        const int64_t middle = begin + (end - begin) / 2;
        const struct token *token = m->sorted[middle];
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

static enum status read_tokens(struct maker *m) {
    const struct gguf_key *tokens = find(m, "tokens"), *types = find(m, "token_type");
    const struct gguf_key *scores = find(m, "scores");
    if (!tokens || !tokens->array || tokens->type != GGUF_STRING || !tokens->count)
        return fail(m, "no list of tokens: the file brings no tokenizer");
    if (tokens->count > INT32_MAX || (types && types->count != tokens->count) ||
        (scores && scores->count != tokens->count))
        return fail(m, "tokens, token_type and scores differ in length");
    m->tokens = calloc(tokens->count, sizeof *m->tokens);
    m->sorted = calloc(tokens->count, sizeof *m->sorted);
    if (!m->tokens || !m->sorted)
        return error_set(m->error, STATUS_FAILED, "%s: out of memory", m->gguf->file.path);
    const unsigned char *cursor = tokens->data;
    for (m->count = 0; m->count < (int64_t)tokens->count; m->count++) {
        struct token *token = &m->tokens[m->count];
        const struct gguf_string string = gguf_next_string(&cursor);
        int64_t type = NORMAL;
        double score = 0;
        if ((types && !gguf_integer(types, (uint64_t)m->count, &type)) ||
            (scores && !gguf_float(scores, (uint64_t)m->count, &score)) || type < 0 || type > BYTE)
            return fail(m, "token_type or scores are not numbers of the kind expected");
        *token = (struct token){.text = string.text,
                                .length = string.length,
                                .id = (int32_t)m->count,
                                .type = (int32_t)type,
                                .score = (float)score};
        if (token->length > LONGEST_PIECE)
            return fail_token(m, token, "is longer than 1000 bytes");
        if (!is_utf8(token->text, token->length))
            return fail_token(m, token, "is not UTF-8");
        if (type != UNUSED)
            m->sorted[m->sorted_count++] = token;
    }
    qsort(m->sorted, (size_t)m->sorted_count, sizeof *m->sorted, tokens_by_text);
    for (int64_t i = 1; i < m->sorted_count; i++)
        if (!tokens_by_text(&m->sorted[i - 1], &m->sorted[i]))
            return fail_token(m, m->sorted[i], "has the text of another one");
    return STATUS_OK;
}

/* The token that a key names by its id; NULL when the key is missing or no id. */
static const struct token *find_token_of(const struct maker *m, const char *key) {
    int64_t id;
    if (!gguf_integer(find(m, key), 0, &id) || id < 0 || id >= m->count ||
        m->tokens[id].type == UNUSED)
        return NULL;
    return &m->tokens[id];
}

/* --- merges --- */

struct merge {
    const struct token *left, *right;
    float score;                   /* of the piece they make */
    int left_points, right_points; /* lengths in characters */
    int64_t order;                 /* in which they were found */
};

struct merges {
    struct merge *list;
    size_t count, capacity;
};

static int count_points(const char *text, size_t length) {
    int points = 0;
    for (size_t i = 0; i < length; i++)
        points += ((unsigned char)text[i] & 0xc0) != 0x80;
    return points;
}

/* transformers' order for merges made from scores: the best piece first, then the longer left part,
 * then the longer right part, then as found. */
static int merges_by_score(const void *left, const void *right) {
    const struct merge *a = left, *b = right;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    if (a->left_points != b->left_points)
        return b->left_points - a->left_points;
    if (a->right_points != b->right_points)
        return b->right_points - a->right_points;
    return (a->order > b->order) - (a->order < b->order);
}

static int merges_by_parts(const void *left, const void *right) {
    const struct merge *a = left, *b = right;
    if (a->left->id != b->left->id)
        return a->left->id < b->left->id ? -1 : 1;
    return (a->right->id > b->right->id) - (a->right->id < b->right->id);
}

/* Every way to make `piece` of two other pieces, in the order of their ids. */
static bool add_splits(const struct maker *m, struct merges *merges, const struct token *piece) {
    const size_t first = merges->count;
    for (size_t i = 1; i < piece->length; i++) {
        if (((unsigned char)piece->text[i] & 0xc0) == 0x80)
            continue; /* inside a character */
        const struct token *left = find_token(m, piece->text, i);
        const struct token *right = find_token(m, piece->text + i, piece->length - i);
        if (!left || !right || left->type != NORMAL || right->type != NORMAL)
            continue;
        if (merges->count == merges->capacity) {
            const size_t capacity = 2 * merges->capacity + 1024;
            struct merge *larger = realloc(merges->list, capacity * sizeof *larger);
            if (!larger)
                return false;
            merges->list = larger;
            merges->capacity = capacity;
        }
        merges->list[merges->count++] =
            (struct merge){.left = left,
                           .right = right,
                           .score = piece->score,
                           .left_points = count_points(left->text, left->length),
                           .right_points = count_points(right->text, right->length)};
    }
    if (merges->count > first)
        qsort(merges->list + first, merges->count - first, sizeof *merges->list, merges_by_parts);
    return true;
}

static void put_merge(struct maker *m, const char *left, size_t left_length, const char *right,
                      size_t right_length, bool first) {
    put(&m->out, first ? "[" : ",[");
    put_string(&m->out, left, left_length);
    put(&m->out, ",");
    put_string(&m->out, right, right_length);
    put(&m->out, "]");
}

static enum status put_merges_from_scores(struct maker *m) {
    struct merges merges = {0};
    enum status status = STATUS_OK;
    if (!find(m, "scores"))
        status = fail(m, "neither scores nor merges");
    for (int64_t i = 0; i < m->count && status == STATUS_OK; i++) {
        if (m->tokens[i].type != NORMAL)
            continue;
        if (m->tokens[i].score != m->tokens[i].score)
            status = fail_token(m, &m->tokens[i], "has a score that is not a number");
        else if (!add_splits(m, &merges, &m->tokens[i]))
            status = error_set(m->error, STATUS_FAILED, "%s: out of memory", m->gguf->file.path);
    }
    for (size_t i = 0; i < merges.count; i++)
        merges.list[i].order = (int64_t)i;
    if (merges.count)
        qsort(merges.list, merges.count, sizeof *merges.list, merges_by_score);
    for (size_t i = 0; i < merges.count && status == STATUS_OK; i++)
        put_merge(m, merges.list[i].left->text, merges.list[i].left->length,
                  merges.list[i].right->text, merges.list[i].right->length, i == 0);
    free(merges.list);
    return status;
}

/* tokenizer.ggml.merges: "LEFT RIGHT", the best first. Both parts and what they make are tokens. */
static enum status put_listed_merges(struct maker *m, const struct gguf_key *merges) {
    if (!merges->array || merges->type != GGUF_STRING)
        return fail(m, "merges is no list of strings");
    const unsigned char *cursor = merges->data;
    for (uint64_t i = 0; i < merges->count; i++) {
        const struct gguf_string merge = gguf_next_string(&cursor);
        /* A part may begin with a space in no known file; the first space after byte 0 divides. */
        const char *space = merge.length > 2 ? memchr(merge.text + 1, ' ', merge.length - 2) : NULL;
        char whole[2 * LONGEST_PIECE];
        const size_t left = space ? (size_t)(space - merge.text) : 0;
        const size_t right = space ? merge.length - left - 1 : 0;
        bool known = space && left + right < sizeof whole;
        if (known) {
            memcpy(whole, merge.text, left);
            memcpy(whole + left, space + 1, right);
            known = find_token(m, whole, left) && find_token(m, whole + left, right) &&
                    find_token(m, whole, left + right);
        }
        if (!known)
            return error_set(
                m->error, STATUS_INPUT,
                "%s: tokenizer.ggml.merges: merge %llu \"%.*s\" is not two tokens that "
                "make a third",
                m->gguf->file.path, (unsigned long long)i,
                (int)(merge.length < 100 ? merge.length : 100), merge.text);
        put_merge(m, whole, left, whole + left, right, i == 0);
    }
    return STATUS_OK;
}

/* --- the file's parts --- */

static void put_added_tokens(struct maker *m) {
    put(&m->out, "\"added_tokens\":[");
    bool first = true;
    for (int64_t i = 0; i < m->count; i++) {
        const struct token *token = &m->tokens[i];
        if (token->type != CONTROL && token->type != USER_DEFINED && token->type != UNKNOWN)
            continue;
        put(&m->out, first ? "{\"id\":" : ",{\"id\":");
        put_number(&m->out, i);
        put(&m->out, ",\"content\":");
        put_string(&m->out, token->text, token->length);
        put(&m->out, ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                     "\"normalized\":false,\"special\":");
        put(&m->out, token->type == USER_DEFINED ? "false}" : "true}");
        first = false;
    }
    put(&m->out, "],");
}

static void put_template_token(struct maker *m, const struct token *token, const char *type) {
    put(&m->out, "{\"SpecialToken\":{\"id\":");
    put_string(&m->out, token->text, token->length);
    put(&m->out, ",\"type_id\":");
    put(&m->out, type);
    put(&m->out, "}}");
}

/* Sequence A is of type 0, sequence B of type 1, each between its tokens. */
static void put_template_sequence(struct maker *m, const struct token *bos, const struct token *eos,
                                  const char *name, const char *type) {
    if (bos) {
        put_template_token(m, bos, type);
        put(&m->out, ",");
    }
    put(&m->out, "{\"Sequence\":{\"id\":\"");
    put(&m->out, name);
    put(&m->out, "\",\"type_id\":");
    put(&m->out, type);
    put(&m->out, "}}");
    if (eos) {
        put(&m->out, ",");
        put_template_token(m, eos, type);
    }
}

static void put_template_ids(struct maker *m, const struct token *token) {
    put_string(&m->out, token->text, token->length);
    put(&m->out, ":{\"id\":");
    put_string(&m->out, token->text, token->length);
    put(&m->out, ",\"ids\":[");
    put_number(&m->out, token->id);
    put(&m->out, "],\"tokens\":[");
    put_string(&m->out, token->text, token->length);
    put(&m->out, "]}");
}

/* A template with the tokens that go around a text, or `otherwise` when there are none. */
static enum status put_post_processor(struct maker *m, bool add_bos, const char *otherwise) {
    const struct token *bos = NULL, *eos = NULL;
    if (find_flag(m, "add_bos_token", add_bos) && !(bos = find_token_of(m, "bos_token_id")))
        return fail(m, "add_bos_token without a bos_token_id");
    if (find_flag(m, "add_eos_token", false) && !(eos = find_token_of(m, "eos_token_id")))
        return fail(m, "add_eos_token without an eos_token_id");
    put(&m->out, "\"post_processor\":");
    if (!bos && !eos) {
        put(&m->out, otherwise);
        put(&m->out, ",");
        return STATUS_OK;
    }
    put(&m->out, "{\"type\":\"TemplateProcessing\",\"single\":[");
    put_template_sequence(m, bos, eos, "A", "0");
    put(&m->out, "],\"pair\":[");
    put_template_sequence(m, bos, eos, "A", "0");
    put(&m->out, ",");
    put_template_sequence(m, bos, eos, "B", "1");
    put(&m->out, "],\"special_tokens\":{");
    if (bos)
        put_template_ids(m, bos);
    if (bos && eos && bos != eos)
        put(&m->out, ",");
    if (eos && bos != eos)
        put_template_ids(m, eos);
    put(&m->out, "}},");
    return STATUS_OK;
}

static enum status put_vocabulary_and_merges(struct maker *m) {
    put(&m->out, "\"vocab\":{");
    bool first = true;
    for (int64_t i = 0; i < m->count; i++) {
        const struct token *token = &m->tokens[i];
        if (token->type == UNUSED)
            continue;
        if (!first)
            put(&m->out, ",");
        put_string(&m->out, token->text, token->length);
        put(&m->out, ":");
        put_number(&m->out, i);
        first = false;
    }
    put(&m->out, "},\"merges\":[");
    const struct gguf_key *merges = find(m, "merges");
    const enum status status = merges ? put_listed_merges(m, merges) : put_merges_from_scores(m);
    put(&m->out, "]}}");
    return status;
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
    put(&m->out, "\"normalizer\":");
    put(&m->out, kind->normalizer);
    put(&m->out, ",\"pre_tokenizer\":");
    put(&m->out, kind->pre_tokenizer);
    put(&m->out, ",");
    const enum status status = put_post_processor(m, kind->add_bos, BYTE_LEVEL("false"));
    if (status != STATUS_OK)
        return status;
    put(&m->out, "\"decoder\":" BYTE_LEVEL(
                     "true") ",\"model\":{\"type\":\"BPE\",\"dropout\":null,"
                             "\"unk_token\":null,\"continuing_subword_prefix\":\"\",\"end_of_word_"
                             "suffix\":\"\","
                             "\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":");
    put(&m->out, kind->ignore_merges ? "true," : "false,");
    return put_vocabulary_and_merges(m);
}

/* --- SentencePiece BPE --- */

#define REPLACE "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"▁\"}"

static enum status put_sentencepiece(struct maker *m) {
    const struct token *unknown = find_token_of(m, "unknown_token_id");
    for (int64_t i = 0; i < m->count && !unknown; i++)
        if (m->tokens[i].type == UNKNOWN)
            unknown = &m->tokens[i];
    put(&m->out, "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[");
    if (find_flag(m, "add_space_prefix", true))
        put(&m->out, "{\"type\":\"Prepend\",\"prepend\":\"▁\"},");
    put(&m->out, REPLACE "]},\"pre_tokenizer\":null,");
    const enum status status = put_post_processor(m, true, "null");
    if (status != STATUS_OK)
        return status;
    put(&m->out,
        "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"
        "{\"String\":\"▁\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
        "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
        "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":");
    if (unknown)
        put_string(&m->out, unknown->text, unknown->length);
    else
        put(&m->out, "null");
    put(&m->out, ",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
                 "\"fuse_unk\":true,\"byte_fallback\":true,\"ignore_merges\":false,");
    return put_vocabulary_and_merges(m);
}

enum status gguf_tokenizer_json(const struct gguf *gguf, char **text, size_t *length,
                                struct error *error) {
    *text = NULL;
    *length = 0;
    struct maker m = {.gguf = gguf, .error = error};
    const bool byte_level = gguf_string_is(find(&m, "model"), "gpt2");
    enum status status = STATUS_OK;
    if (!byte_level && !gguf_string_is(find(&m, "model"), "llama"))
        status =
            fail(&m, "model is missing or neither gpt2 nor llama: another kind of tokenizer, or "
                     "none");
    if (status == STATUS_OK)
        status = read_tokens(&m);
    if (status == STATUS_OK) {
        put(&m.out, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,");
        put_added_tokens(&m);
        status = byte_level ? put_byte_level(&m) : put_sentencepiece(&m);
    }
    if (status == STATUS_OK && m.out.failed)
        status = error_set(error, STATUS_FAILED, "%s: out of memory", gguf->file.path);
    free(m.tokens);
    free(m.sorted);
    if (status == STATUS_OK) {
        *text = m.out.bytes;
        *length = m.out.length;
    } else {
        free(m.out.bytes);
    }
    return status;
}
