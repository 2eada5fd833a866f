/* Loading post_processor: which ids go in front of a text and after it. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "io/tokenizer_internal.h"

enum { NESTING_LIMIT = 8 };

static enum status append_id(const struct tokenizer *tokenizer, struct id_list *list, int32_t id,
                             struct error *error) {
    int32_t *ids = realloc(list->ids, (list->count + 1) * sizeof *ids);
    if (!ids)
        return load_out_of_memory(tokenizer, error);
    ids[list->count++] = id;
    list->ids = ids;
    return STATUS_OK;
}

/* {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}} */
static enum status append_special(struct tokenizer *tokenizer, const json_t *specials,
                                  const json_t *name, struct id_list *list, struct error *error) {
    const json_t *ids = json_object_get(json_object_get(specials, json_string_value(name)), "ids");
    if (!json_is_array(ids))
        return error_set(error, STATUS_INPUT,
                         "%s: post_processor: special_tokens has no ids for \"%s\"",
                         tokenizer->origin, json_string_value(name));
    enum status status = STATUS_OK;
    for (size_t i = 0; i < json_array_size(ids) && status == STATUS_OK; i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= INT32_MAX)
            return error_set(error, STATUS_INPUT,
                             "%s: post_processor: special_tokens: bad id for \"%s\"",
                             tokenizer->origin, json_string_value(name));
        status = append_id(tokenizer, list, (int32_t)value, error);
    }
    return status;
}

/* "single" of a TemplateProcessing: special tokens around one {"Sequence": {"id": "A"}}. */
static enum status load_template(struct tokenizer *tokenizer, const json_t *json,
                                 struct error *error) {
    static const char *const keys[] = {"type", "single", "pair", "special_tokens", NULL};
    const json_t *single = json_object_get(json, "single");
    const json_t *specials = json_object_get(json, "special_tokens");
    enum status status = load_check_keys(tokenizer, json, "post_processor", keys, error);
    if (status == STATUS_OK && tokenizer->has_template)
        return error_set(error, STATUS_INPUT,
                         "%s: post_processor has more than one TemplateProcessing",
                         tokenizer->origin);
    tokenizer->has_template = true;
    bool seen = false;
    for (size_t i = 0; i < json_array_size(single) && status == STATUS_OK; i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *sequence = json_object_get(item, "Sequence");
        const json_t *special = json_object_get(item, "SpecialToken");
        const json_t *id = json_object_get(sequence ? sequence : special, "id");
        bool good = json_object_size(item) == 1 && json_is_string(id) &&
                    (special || (!seen && strcmp(json_string_value(id), "A") == 0));
        if (!good)
            return error_set(error, STATUS_INPUT,
                             "%s: post_processor: single[%zu] is not understood", tokenizer->origin,
                             i);
        if (sequence)
            seen = true;
        else
            status = append_special(tokenizer, specials, id,
                                    seen ? &tokenizer->suffix : &tokenizer->prefix, error);
    }
    if (status == STATUS_OK && !seen)
        return error_set(error, STATUS_INPUT, "%s: post_processor: single has no sequence A",
                         tokenizer->origin);
    return status;
}

static enum status load_processor(struct tokenizer *tokenizer, const json_t *json, int depth,
                                  struct error *error) {
    static const char *const byte_level_keys[] = {"type", "add_prefix_space", "trim_offsets",
                                                  "use_regex", NULL};
    static const char *const sequence_keys[] = {"type", "processors", NULL};
    const json_t *type = json_object_get(json, "type");
    const char *name = json_is_string(type) ? json_string_value(type) : "";
    if (strcmp(name, "TemplateProcessing") == 0)
        return load_template(tokenizer, json, error);
    if (strcmp(name, "ByteLevel") == 0) /* about offsets only */
        return load_check_keys(tokenizer, json, "post_processor", byte_level_keys, error);
    if (strcmp(name, "Sequence") != 0 || depth == NESTING_LIMIT)
        return error_set(error, STATUS_INPUT, "%s: post_processor: type \"%s\" is not supported",
                         tokenizer->origin, name);
    const json_t *processors = json_object_get(json, "processors"), *processor;
    enum status status = load_check_keys(tokenizer, json, "post_processor", sequence_keys, error);
    if (status == STATUS_OK && !json_is_array(processors))
        status = error_set(error, STATUS_INPUT, "%s: post_processor.processors is not an array",
                           tokenizer->origin);
    size_t index;
    json_array_foreach(processors, index, processor) {
        if (status == STATUS_OK)
            status = load_processor(tokenizer, processor, depth + 1, error);
    }
    return status;
}

enum status load_post_processor(struct tokenizer *tokenizer, const json_t *json,
                                struct error *error) {
    return !json || json_is_null(json) ? STATUS_OK : load_processor(tokenizer, json, 0, error);
}
