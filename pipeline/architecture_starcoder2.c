/* StarCoder2 (Lozhkov et al. 2024): LayerNorm, rotary positions, grouped-query attention, biases,
 * an MLP of one GELU between two linears, the head tied to the embedding. The scale of mlp_hidden
 * cannot pass through GELU: it stays a run-time vector. */
#include <string.h>

#include "pipeline/architecture.h"

static const struct linear_rule starcoder2_linears[] = {
    {ROLE_QUERY, "self_attn.q_proj", DIMENSION_QUERY, DIMENSION_HIDDEN, SITE_ATTENTION_INPUT,
     SITE_NONE},
    {ROLE_KEY, "self_attn.k_proj", DIMENSION_KEY_VALUE, DIMENSION_HIDDEN, SITE_ATTENTION_INPUT,
     SITE_NONE},
    {ROLE_VALUE, "self_attn.v_proj", DIMENSION_KEY_VALUE, DIMENSION_HIDDEN, SITE_ATTENTION_INPUT,
     SITE_ATTENTION_OUTPUT},
    {ROLE_OUTPUT, "self_attn.o_proj", DIMENSION_HIDDEN, DIMENSION_QUERY, SITE_ATTENTION_OUTPUT,
     SITE_NONE},
    {ROLE_UP, "mlp.c_fc", DIMENSION_INTERMEDIATE, DIMENSION_HIDDEN, SITE_MLP_INPUT, SITE_NONE},
    {ROLE_DOWN, "mlp.c_proj", DIMENSION_HIDDEN, DIMENSION_INTERMEDIATE, SITE_MLP_HIDDEN, SITE_NONE},
};

static enum status read_config(const json_t *config, const char *origin, struct model_shape *shape,
                               struct error *error) {
    const enum status status = config_decoder(config, origin, "norm_epsilon", shape, error);
    if (status)
        return status;
    const char *activation = json_string_value(json_object_get(config, "hidden_act"));
    if (activation && strcmp(activation, "gelu_pytorch_tanh"))
        return error_set(error, STATUS_INPUT,
                         "%s: hidden_act \"%s\" is not supported (gelu_pytorch_tanh is)", origin,
                         activation);
    shape->tied_head = !json_is_false(json_object_get(config, "tie_word_embeddings"));
    if (json_is_integer(json_object_get(config, "sliding_window"))) {
        const enum status window =
            config_integer(config, origin, "sliding_window", 1, INT32_MAX, &shape->window, error);
        if (window)
            return window;
    }
    return config_rope(config, origin, shape, error);
}

static const char *const starcoder2_model_types[] = {"starcoder2", NULL};

const struct architecture architecture_starcoder2 = {
    .model_types = starcoder2_model_types,
    .layer_prefix = "model.layers.%d.",
    .embedding = "model.embed_tokens",
    .final_norm = "model.norm",
    .head = "lm_head",
    .norm_kind = NORM_LAYER,
    .position = POSITION_ROTARY,
    .activation = ACTIVATION_GELU_TANH,
    .norms = {{"input_layernorm", SITE_ATTENTION_INPUT},
              {"post_attention_layernorm", SITE_MLP_INPUT}},
    .linears = starcoder2_linears,
    .linear_count = sizeof starcoder2_linears / sizeof starcoder2_linears[0],
    .read_config = read_config,
};
