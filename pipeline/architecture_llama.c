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
    enum status status;
    if ((status = config_decoder(config, origin, "rms_norm_eps", shape, error)))
        return status;
    shape->tied_head = json_is_true(json_object_get(config, "tie_word_embeddings"));
    if ((status = check_variants(config, origin, error)) ||
        (status = read_window(config, origin, shape->layers, shape, error)))
        return status;
    return config_rope(config, origin, shape, error);
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
