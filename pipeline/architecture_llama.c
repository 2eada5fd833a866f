/* The LLaMA family: LLaMA 1-3, Mistral, Qwen2, SmolLM. RMSNorm, rotary positions, grouped-query
 * attention, SiLU-gated MLP; biases where the file has them (Qwen2's q, k, v). */
#include <string.h>

#include "pipeline/architecture.h"

static const struct linear_rule llama_linears[] = {
    {ROLE_QUERY, "self_attn.q_proj", DIMENSION_QUERY, DIMENSION_HIDDEN, SITE_ATTENTION_INPUT,
     SITE_NONE},
    {ROLE_KEY, "self_attn.k_proj", DIMENSION_KEY_VALUE, DIMENSION_HIDDEN, SITE_ATTENTION_INPUT,
     SITE_NONE},
    {ROLE_VALUE, "self_attn.v_proj", DIMENSION_KEY_VALUE, DIMENSION_HIDDEN, SITE_ATTENTION_INPUT,
     SITE_ATTENTION_OUTPUT},
    {ROLE_OUTPUT, "self_attn.o_proj", DIMENSION_HIDDEN, DIMENSION_QUERY, SITE_ATTENTION_OUTPUT,
     SITE_NONE},
    {ROLE_GATE, "mlp.gate_proj", DIMENSION_INTERMEDIATE, DIMENSION_HIDDEN, SITE_MLP_INPUT,
     SITE_NONE},
    {ROLE_UP, "mlp.up_proj", DIMENSION_INTERMEDIATE, DIMENSION_HIDDEN, SITE_MLP_INPUT,
     SITE_MLP_HIDDEN},
    {ROLE_DOWN, "mlp.down_proj", DIMENSION_HIDDEN, DIMENSION_INTERMEDIATE, SITE_MLP_HIDDEN,
     SITE_NONE},
};

/* rope_scaling (before transformers 5) or rope_parameters: theta, and how frequencies are scaled.
 */
static enum status read_rope(const json_t *config, const char *origin, struct model_shape *shape,
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

/* What this family can express and we do not compute is refused, never ignored. */
static enum status check_variants(const json_t *config, const char *origin, struct error *error) {
    const char *activation = json_string_value(json_object_get(config, "hidden_act"));
    if (activation && strcmp(activation, "silu"))
        return error_set(error, STATUS_INPUT, "%s: hidden_act \"%s\" is not supported (silu is)",
                         origin, activation);
    const json_t *partial = json_object_get(config, "partial_rotary_factor");
    if (json_is_number(partial) && json_number_value(partial) != 1.0)
        return error_set(error, STATUS_INPUT, "%s: partial_rotary_factor %g is not supported",
                         origin, json_number_value(partial));
    return STATUS_OK;
}

/* Qwen2: how many of the layers have a sliding window: those that layer_types says, or the upper
 * ones from max_window_layers on. */
static int64_t count_window_layers(const json_t *config, int64_t layers) {
    const json_t *types = json_object_get(config, "layer_types");
    const json_t *first = json_object_get(config, "max_window_layers");
    const int64_t without = json_is_integer(first) ? json_integer_value(first) : 28;
    if (!json_is_true(json_object_get(config, "use_sliding_window")))
        return 0;
    if (!json_is_array(types))
        return without >= layers ? 0 : layers - without;
    int64_t count = 0;
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        count += type && !strcmp(type, "sliding_attention");
    }
    return count;
}

static enum status read_window(const json_t *config, const char *origin, int64_t layers,
                               struct model_shape *shape, struct error *error) {
    const json_t *window = json_object_get(config, "sliding_window");
    shape->window = !window && !strcmp(shape->model_type, "mistral") ? 4096 : 0;
    if (!json_is_integer(window))
        return STATUS_OK;
    if (!strcmp(shape->model_type, "qwen2")) {
        const int64_t count = count_window_layers(config, layers);
        if (count == 0)
            return STATUS_OK;
        if (count != layers)
            return error_set(error, STATUS_INPUT,
                             "%s: a sliding window in %lld of %lld layers is not supported (in all "
                             "or none is)",
                             origin, (long long)count, (long long)layers);
    }
    return config_integer(config, origin, "sliding_window", 1, INT32_MAX, &shape->window, error);
}

static enum status read_config(const json_t *config, const char *origin, struct model_shape *shape,
                               struct error *error) {
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
        (status = config_number(config, origin, "rms_norm_eps", &epsilon, error)))
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
    shape->tied_head = json_is_true(json_object_get(config, "tie_word_embeddings"));
    if ((status = check_variants(config, origin, error)) ||
        (status = read_window(config, origin, layers, shape, error)))
        return status;
    return read_rope(config, origin, shape, error);
}

static const char *const llama_model_types[] = {"llama", "mistral", "qwen2", NULL};

const struct architecture architecture_llama = {
    .model_types = llama_model_types,
    .layer_prefix = "model.layers.%d.",
    .embedding = "model.embed_tokens",
    .final_norm = "model.norm",
    .head = "lm_head",
    .norm_kind = NORM_RMS,
    .position = POSITION_ROTARY,
    .activation = ACTIVATION_SILU_GATE,
    .norms = {{"input_layernorm", SITE_ATTENTION_INPUT},
              {"post_attention_layernorm", SITE_MLP_INPUT}},
    .linears = llama_linears,
    .linear_count = sizeof llama_linears / sizeof llama_linears[0],
    .read_config = read_config,
};
