/* Loading the steps before and after the model: normalizer, pre_tokenizer, post_processor. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "io/tokenizer_internal.h"
#include "io/utf8.h"

/* Real files have three or four; each splitter takes a frame of the stack per piece. */
enum { STEP_LIMIT = 32, NESTING_LIMIT = 8 };

static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static enum status unsupported_type(const struct tokenizer *tokenizer, const char *where,
                                    const json_t *json, struct error *error) {
    const json_t *type = json_object_get(json, "type");
    if (!json_is_object(json) || !json_is_string(type))
        return error_set(error, STATUS_INPUT, "%s: %s has no type", tokenizer->origin, where);
    return error_set(error, STATUS_INPUT, "%s: %s: type \"%s\" is not supported", tokenizer->origin,
                     where, json_string_value(type));
}

static bool has_type(const json_t *json, const char *type) {
    const json_t *found = json_object_get(json, "type");
    return json_is_string(found) && strcmp(json_string_value(found), type) == 0;
}

static enum status copy_string(const struct tokenizer *tokenizer, const char *text, size_t length,
                               char **copy, struct error *error) {
    *copy = malloc(length + 1);
    if (!*copy)
        return load_out_of_memory(tokenizer, error);
    memcpy(*copy, text, length);
    (*copy)[length] = 0;
    return STATUS_OK;
}

enum status load_pattern(const struct tokenizer *tokenizer, const json_t *json, const char *where,
                         struct regex **regex, bool *literal, struct error *error) {
    const json_t *pattern = json_object_get(json, "pattern");
    const json_t *text = json_object_get(pattern, "String");
    *literal = text != NULL;
    if (!text)
        text = json_object_get(pattern, "Regex");
    if (json_object_size(pattern) != 1 || !json_is_string(text) || json_string_length(text) == 0)
        return error_set(
            error, STATUS_INPUT,
            "%s: %s: pattern is neither {\"String\": ...} nor {\"Regex\": ...}, not empty",
            tokenizer->origin, where);
    return regex_create(json_string_value(text), json_string_length(text), *literal,
                        tokenizer->origin, where, regex, error);
}

static enum status add_normalizer(struct tokenizer *tokenizer, const json_t *json,
                                  const char *where, struct error *error) {
    static const char *const prepend_keys[] = {"type", "prepend", NULL};
    static const char *const replace_keys[] = {"type", "pattern", "content", NULL};
    static const char *const nfc_keys[] = {"type", NULL};
    if (tokenizer->normalizer_count == STEP_LIMIT)
        return error_set(error, STATUS_INPUT, "%s: normalizer has more than %d steps",
                         tokenizer->origin, STEP_LIMIT);
    struct normalizer *normalizer = &tokenizer->normalizers[tokenizer->normalizer_count];
    const char *content = "";
    enum status status;
    if (has_type(json, "Prepend")) {
        normalizer->kind = NORMALIZE_PREPEND;
        status = load_check_keys(tokenizer, json, where, prepend_keys, error);
        if (status == STATUS_OK)
            status = load_string(tokenizer, json, where, "prepend", &content,
                                 &normalizer->content_length, error);
    } else if (has_type(json, "Replace")) {
        bool literal = false;
        normalizer->kind = NORMALIZE_REPLACE;
        status = load_check_keys(tokenizer, json, where, replace_keys, error);
        if (status == STATUS_OK)
            status = load_string(tokenizer, json, where, "content", &content,
                                 &normalizer->content_length, error);
        if (status == STATUS_OK)
            status = load_pattern(tokenizer, json, where, &normalizer->regex, &literal, error);
        if (status == STATUS_OK && !literal && memchr(content, '$', normalizer->content_length))
            status =
                error_set(error, STATUS_INPUT, "%s: %s: content with $ (a group) is not supported",
                          tokenizer->origin, where);
    } else if (has_type(json, "NFC")) {
        normalizer->kind = NORMALIZE_NFC;
        status = load_check_keys(tokenizer, json, where, nfc_keys, error);
    } else {
        return unsupported_type(tokenizer, where, json, error);
    }
    if (status == STATUS_OK)
        status = copy_string(tokenizer, content, normalizer->content_length, &normalizer->content,
                             error);
    tokenizer->normalizer_count++; /* also after a fault: destroy frees what is there */
    return status;
}

typedef enum status (*add_function)(struct tokenizer *tokenizer, const json_t *json,
                                    const char *where, struct error *error);

/* Add json, or each member of a Sequence (which holds them under `list_key`). */
static enum status add_all(struct tokenizer *tokenizer, const json_t *json, const char *where,
                           const char *list_key, int depth, add_function add, struct error *error) {
    if (!has_type(json, "Sequence"))
        return add(tokenizer, json, where, error);
    const char *const keys[] = {"type", list_key, NULL};
    const json_t *list = json_object_get(json, list_key), *member;
    enum status status = load_check_keys(tokenizer, json, where, keys, error);
    if (status == STATUS_OK && !json_is_array(list))
        status = error_set(error, STATUS_INPUT, "%s: %s.%s is not an array", tokenizer->origin,
                           where, list_key);
    if (status == STATUS_OK && depth == NESTING_LIMIT)
        status = error_set(error, STATUS_INPUT, "%s: %s: Sequences within Sequences, %d deep",
                           tokenizer->origin, where, NESTING_LIMIT);
    size_t index;
    json_array_foreach(list, index, member) {
        char inner[300];
        snprintf(inner, sizeof inner, "%s.%s[%zu]", where, list_key, index);
        if (status == STATUS_OK)
            status = add_all(tokenizer, member, inner, list_key, depth + 1, add, error);
    }
    return status;
}

enum status load_normalizer(struct tokenizer *tokenizer, const json_t *json, struct error *error) {
    if (!json || json_is_null(json))
        return STATUS_OK;
    tokenizer->normalizers = calloc(STEP_LIMIT, sizeof *tokenizer->normalizers);
    if (!tokenizer->normalizers)
        return load_out_of_memory(tokenizer, error);
    return add_all(tokenizer, json, "normalizer", "normalizers", 0, add_normalizer, error);
}

static enum status new_splitter(struct tokenizer *tokenizer, enum splitter_kind kind,
                                struct splitter **splitter, struct error *error) {
    *splitter = NULL;
    if (tokenizer->splitter_count == STEP_LIMIT)
        return error_set(error, STATUS_INPUT, "%s: pre_tokenizer has more than %d steps",
                         tokenizer->origin, STEP_LIMIT);
    *splitter = &tokenizer->splitters[tokenizer->splitter_count++];
    (*splitter)->kind = kind;
    return STATUS_OK;
}

static enum status add_pattern(struct tokenizer *tokenizer, const char *pattern, size_t length,
                               bool literal, enum split_behavior behavior, const char *where,
                               struct error *error) {
    struct splitter *splitter;
    enum status status = new_splitter(tokenizer, SPLIT_PATTERN, &splitter, error);
    if (status != STATUS_OK)
        return status;
    splitter->behavior = behavior;
    return regex_create(pattern, length, literal, tokenizer->origin, where, &splitter->regex,
                        error);
}

static enum status add_split(struct tokenizer *tokenizer, const json_t *json, const char *where,
                             struct error *error) {
    static const char *const keys[] = {"type", "pattern", "behavior", "invert", NULL};
    static const char *const behaviors[] = {"Removed", "Isolated", "MergedWithPrevious",
                                            "MergedWithNext", "Contiguous"};
    struct splitter *splitter;
    const char *name;
    size_t length;
    bool literal;
    enum status status = load_check_keys(tokenizer, json, where, keys, error);
    if (status == STATUS_OK)
        status = load_string(tokenizer, json, where, "behavior", &name, &length, error);
    if (status == STATUS_OK)
        status = new_splitter(tokenizer, SPLIT_PATTERN, &splitter, error);
    if (status == STATUS_OK)
        status = load_boolean(tokenizer, json, where, "invert", false, &splitter->invert, error);
    if (status == STATUS_OK)
        status = load_pattern(tokenizer, json, where, &splitter->regex, &literal, error);
    for (size_t i = 0; status == STATUS_OK && i < 5; i++)
        if (strcmp(name, behaviors[i]) == 0) {
            splitter->behavior = (enum split_behavior)i;
            return STATUS_OK;
        }
    if (status != STATUS_OK)
        return status;
    return error_set(error, STATUS_INPUT, "%s: %s: behavior \"%s\" is not supported",
                     tokenizer->origin, where, name);
}

static enum status add_byte_level(struct tokenizer *tokenizer, const json_t *json,
                                  const char *where, struct error *error) {
    static const char *const keys[] = {"type", "add_prefix_space", "trim_offsets", "use_regex",
                                       NULL};
    bool prefix, use_regex;
    struct splitter *splitter;
    enum status status = load_check_keys(tokenizer, json, where, keys, error);
    if (status == STATUS_OK)
        status = load_boolean(tokenizer, json, where, "add_prefix_space", true, &prefix, error);
    if (status == STATUS_OK)
        status = load_boolean(tokenizer, json, where, "use_regex", true, &use_regex, error);
    if (status == STATUS_OK && prefix)
        status = new_splitter(tokenizer, SPLIT_PREFIX_SPACE, &splitter, error);
    if (status == STATUS_OK && use_regex)
        status = add_pattern(tokenizer, gpt2_pattern, sizeof gpt2_pattern - 1, false,
                             SPLIT_ISOLATED, where, error);
    return status == STATUS_OK ? new_splitter(tokenizer, SPLIT_BYTES, &splitter, error) : status;
}

static enum status add_digits(struct tokenizer *tokenizer, const json_t *json, const char *where,
                              struct error *error) {
    static const char *const keys[] = {"type", "individual_digits", NULL};
    bool individual;
    enum status status = load_check_keys(tokenizer, json, where, keys, error);
    if (status == STATUS_OK)
        status =
            load_boolean(tokenizer, json, where, "individual_digits", false, &individual, error);
    if (status != STATUS_OK)
        return status;
    return add_pattern(tokenizer, "\\p{N}", 5, false,
                       individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, where, error);
}

/* prepend_scheme, or add_prefix_space in older files. */
static enum status read_prepend_scheme(const struct tokenizer *tokenizer, const json_t *json,
                                       const char *where, enum prepend_scheme *scheme,
                                       struct error *error) {
    static const char *const names[] = {"always", "first", "never"};
    const json_t *name = json_object_get(json, "prepend_scheme");
    bool add_prefix_space;
    enum status status =
        load_boolean(tokenizer, json, where, "add_prefix_space", true, &add_prefix_space, error);
    if (status != STATUS_OK)
        return status;
    *scheme = add_prefix_space ? PREPEND_ALWAYS : PREPEND_NEVER;
    if (!name)
        return STATUS_OK;
    for (size_t i = 0; i < 3; i++)
        if (json_is_string(name) && strcmp(json_string_value(name), names[i]) == 0) {
            if (!add_prefix_space && i != PREPEND_NEVER)
                break;
            *scheme = (enum prepend_scheme)i;
            return STATUS_OK;
        }
    return error_set(error, STATUS_INPUT, "%s: %s: prepend_scheme is not understood",
                     tokenizer->origin, where);
}

/* "first" asks where a piece lay in the text as it came: known where nothing has moved. */
static bool may_prepend_first(const struct tokenizer *tokenizer) {
    bool may = tokenizer->splitter_count == 1;
    for (size_t i = 0; i < tokenizer->normalizer_count; i++)
        may = may && tokenizer->normalizers[i].kind == NORMALIZE_NFC;
    return may;
}

static enum status add_metaspace(struct tokenizer *tokenizer, const json_t *json, const char *where,
                                 struct error *error) {
    static const char *const keys[] = {
        "type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep", NULL};
    struct splitter *splitter;
    const char *replacement;
    size_t length;
    bool split;
    enum status status = load_check_keys(tokenizer, json, where, keys, error);
    if (status == STATUS_OK)
        status = load_string(tokenizer, json, where, "replacement", &replacement, &length, error);
    if (status == STATUS_OK && (length == 0 || utf8_character(replacement, length) != length))
        status = error_set(error, STATUS_INPUT, "%s: %s: replacement is not one character",
                           tokenizer->origin, where);
    if (status == STATUS_OK)
        status = load_boolean(tokenizer, json, where, "split", true, &split, error);
    if (status == STATUS_OK)
        status = new_splitter(tokenizer, SPLIT_METASPACE, &splitter, error);
    if (status == STATUS_OK)
        status = read_prepend_scheme(tokenizer, json, where, &splitter->prepend, error);
    if (status == STATUS_OK && splitter->prepend == PREPEND_FIRST && !may_prepend_first(tokenizer))
        status =
            error_set(error, STATUS_INPUT,
                      "%s: %s: prepend_scheme \"first\" is supported for the first step only, and "
                      "not after a Prepend or Replace normalizer",
                      tokenizer->origin, where);
    if (status == STATUS_OK) {
        status = copy_string(tokenizer, replacement, length, &splitter->replacement, error);
        splitter->replacement_length = length;
    }
    if (status == STATUS_OK && split)
        status =
            add_pattern(tokenizer, replacement, length, true, SPLIT_MERGED_WITH_NEXT, where, error);
    return status;
}

static enum status add_pre_tokenizer(struct tokenizer *tokenizer, const json_t *json,
                                     const char *where, struct error *error) {
    static const struct {
        const char *type;
        add_function add;
    } kinds[] = {{"Split", add_split},
                 {"ByteLevel", add_byte_level},
                 {"Digits", add_digits},
                 {"Metaspace", add_metaspace}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (has_type(json, kinds[i].type))
            return kinds[i].add(tokenizer, json, where, error);
    return unsupported_type(tokenizer, where, json, error);
}

enum status load_pre_tokenizer(struct tokenizer *tokenizer, const json_t *json,
                               struct error *error) {
    if (!json || json_is_null(json))
        return STATUS_OK;
    tokenizer->splitters = calloc(STEP_LIMIT, sizeof *tokenizer->splitters);
    if (!tokenizer->splitters)
        return load_out_of_memory(tokenizer, error);
    return add_all(tokenizer, json, "pre_tokenizer", "pretokenizers", 0, add_pre_tokenizer, error);
}
