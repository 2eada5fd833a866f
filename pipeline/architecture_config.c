/* What families read from their config.json in the same words. */
#include <math.h>
#include <string.h>

#include "pipeline/architecture.h"

enum status config_integer(const json_t *config, const char *origin, const char *key, int64_t least,
                           int64_t most, int64_t *value, struct error *error) {
    const json_t *item = json_object_get(config, key);
    if (!json_is_integer(item))
        return error_set(error, STATUS_INPUT, "%s: \"%s\" is missing or no integer", origin, key);
    *value = json_integer_value(item);
    if (*value < least || *value > most)
        return error_set(error, STATUS_INPUT, "%s: \"%s\" is %lld, expected %lld to %lld", origin,
                         key, (long long)*value, (long long)least, (long long)most);
    return STATUS_OK;
}

enum status config_number(const json_t *config, const char *origin, const char *key, double *value,
                          struct error *error) {
    const json_t *item = json_object_get(config, key);
    if (!json_is_number(item))
        return error_set(error, STATUS_INPUT, "%s: \"%s\" is missing or no number", origin, key);
    *value = json_number_value(item);
    if (!(*value > 0) || !isfinite(*value))
        return error_set(error, STATUS_INPUT, "%s: \"%s\" is %g, expected a positive number",
                         origin, key, *value);
    return STATUS_OK;
}

enum status config_decoder(const json_t *config, const char *origin, const char *epsilon_key,
                           struct model_shape *shape, struct error *error) {
    int64_t layers, heads, kv_heads, head_dim;
    double epsilon = 1e-6;
    enum status status;
    if ((status = config_integer(config, origin, "num_hidden_layers", 1, 100000, &layers, error)) ||
        (status =
             config_integer(config, origin, "hidden_size", 1, 1 << 20, &shape->hidden, error)) ||
        (status = config_integer(config, origin, "intermediate_size", 1, 1 << 22,
                                 &shape->intermediate, error)) ||
        (status =
             config_integer(config, origin, "num_attention_heads", 1, 1 << 16, &heads, error)) ||
        (status =
             config_integer(config, origin, "vocab_size", 1, 1 << 28, &shape->vocabulary, error)) ||
        (status = config_number(config, origin, epsilon_key, &epsilon, error)))
        return status;
    kv_heads = heads;
    if (json_is_integer(json_object_get(config, "num_key_value_heads")) &&
        (status =
             config_integer(config, origin, "num_key_value_heads", 1, heads, &kv_heads, error)))
        return status;
    if (heads % kv_heads)
        return error_set(error, STATUS_INPUT,
                         "%s: num_attention_heads %lld is no multiple of num_key_value_heads %lld",
                         origin, (long long)heads, (long long)kv_heads);
    head_dim = shape->hidden / heads;
    if (json_is_integer(json_object_get(config, "head_dim"))) {
        if ((status = config_integer(config, origin, "head_dim", 2, 4096, &head_dim, error)))
            return status;
    } else if (shape->hidden % heads) {
        return error_set(error, STATUS_INPUT,
                         "%s: hidden_size %lld is no multiple of num_attention_heads %lld", origin,
                         (long long)shape->hidden, (long long)heads);
    }
    if (head_dim % 2)
        return error_set(error, STATUS_INPUT, "%s: head_dim %lld is odd", origin,
                         (long long)head_dim);
    shape->max_positions = 2048;
    if (json_object_get(config, "max_position_embeddings") &&
        (status = config_integer(config, origin, "max_position_embeddings", 1, INT32_MAX,
                                 &shape->max_positions, error)))
        return status;
    shape->layers = (int)layers;
    shape->heads = (int)heads;
    shape->kv_heads = (int)kv_heads;
    shape->head_dim = (int)head_dim;
    shape->norm_epsilon = (float)epsilon;
    return STATUS_OK;
}

enum status config_rope(const json_t *config, const char *origin, struct model_shape *shape,
                        struct error *error) {
    const json_t *scaling = json_object_get(config, "rope_parameters");
    if (!json_is_object(scaling))
        scaling = json_object_get(config, "rope_scaling");
    double theta = 10000.0;
    const json_t *holder = json_object_get(config, "rope_theta") ? config : scaling;
    if (json_object_get(holder, "rope_theta")) {
        const enum status status = config_number(holder, origin, "rope_theta", &theta, error);
        if (status)
            return status;
    }
    shape->rope_theta = (float)theta;
    shape->rope_scaling.kind = ROPE_PLAIN;
    if (!json_is_object(scaling))
        return STATUS_OK;
    const char *type = json_string_value(json_object_get(scaling, "rope_type"));
    if (!type)
        type = json_string_value(json_object_get(scaling, "type"));
    if (!type || !strcmp(type, "default"))
        return STATUS_OK;
    double factor, low, high, original;
    enum status status = config_number(scaling, origin, "factor", &factor, error);
    if (status)
        return status;
    shape->rope_scaling.factor = (float)factor;
    if (!strcmp(type, "linear")) {
        shape->rope_scaling.kind = ROPE_LINEAR;
        return STATUS_OK;
    }
    if (strcmp(type, "llama3"))
        return error_set(error, STATUS_INPUT,
                         "%s: rope scaling \"%s\" is not supported (default, linear, llama3 are)",
                         origin, type);
    if ((status = config_number(scaling, origin, "low_freq_factor", &low, error)) ||
        (status = config_number(scaling, origin, "high_freq_factor", &high, error)) ||
        (status =
             config_number(scaling, origin, "original_max_position_embeddings", &original, error)))
        return status;
    if (high <= low)
        return error_set(error, STATUS_INPUT, "%s: high_freq_factor must exceed low_freq_factor",
                         origin);
    shape->rope_scaling.kind = ROPE_LLAMA3;
    shape->rope_scaling.low_frequency_factor = (float)low;
    shape->rope_scaling.high_frequency_factor = (float)high;
    shape->rope_scaling.original_context = (float)original;
    return STATUS_OK;
}
