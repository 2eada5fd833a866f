/* BLOOM (Scao et al. 2022): LayerNorm, also after the embedding, ALiBi positions, q, k and v in one
 * linear, biases everywhere, an MLP of one GELU between two linears, the head tied to the
 * embedding. The scale of mlp_hidden cannot pass through GELU: it stays a run-time vector. */
#include "pipeline/architecture.h"

static const struct linear_rule bloom_linears[] = {
    {ROLE_QUERY_KEY_VALUE, "self_attention.query_key_value", DIMENSION_FUSED, DIMENSION_HIDDEN,
     SITE_ATTENTION_INPUT, SITE_ATTENTION_OUTPUT},
    {ROLE_OUTPUT, "self_attention.dense", DIMENSION_HIDDEN, DIMENSION_QUERY, SITE_ATTENTION_OUTPUT,
     SITE_NONE},
    {ROLE_UP, "mlp.dense_h_to_4h", DIMENSION_INTERMEDIATE, DIMENSION_HIDDEN, SITE_MLP_INPUT,
     SITE_NONE},
    {ROLE_DOWN, "mlp.dense_4h_to_h", DIMENSION_HIDDEN, DIMENSION_INTERMEDIATE, SITE_MLP_HIDDEN,
     SITE_NONE},
};

/* The first of two keys that is there: the model's first releases used other ones. */
static const char *key_of(const json_t *config, const char *first, const char *second) {
    return json_object_get(config, first) ? first : second;
}

static enum status read_config(const json_t *config, const char *origin, struct model_shape *shape,
                               struct error *error) {
    int64_t layers, heads;
    double epsilon = 1e-5;
    enum status status;
    if ((status = config_integer(config, origin, key_of(config, "n_layer", "num_hidden_layers"), 1,
                                 100000, &layers, error)) ||
        (status = config_integer(config, origin, key_of(config, "n_embed", "hidden_size"), 1,
                                 1 << 20, &shape->hidden, error)) ||
        (status = config_integer(config, origin, key_of(config, "n_head", "num_attention_heads"), 1,
                                 1 << 16, &heads, error)) ||
        (status =
             config_integer(config, origin, "vocab_size", 1, 1 << 28, &shape->vocabulary, error)))
        return status;
    if (shape->hidden % heads)
        return error_set(error, STATUS_INPUT, "%s: hidden size %lld is no multiple of %lld heads",
                         origin, (long long)shape->hidden, (long long)heads);
    if (json_object_get(config, "layer_norm_epsilon") &&
        (status = config_number(config, origin, "layer_norm_epsilon", &epsilon, error)))
        return status;
    if (json_is_true(json_object_get(config, "apply_residual_connection_post_layernorm")))
        return error_set(error, STATUS_INPUT,
                         "%s: apply_residual_connection_post_layernorm is not supported", origin);
    /* ALiBi has no limit; this is the length that the models were trained with. */
    shape->max_positions = 2048;
    if (json_is_integer(json_object_get(config, "seq_length")) &&
        (status = config_integer(config, origin, "seq_length", 1, INT32_MAX, &shape->max_positions,
                                 error)))
        return status;
    shape->intermediate = 4 * shape->hidden;
    shape->layers = (int)layers;
    shape->heads = shape->kv_heads = (int)heads;
    shape->head_dim = (int)(shape->hidden / heads);
    shape->norm_epsilon = (float)epsilon;
    shape->tied_head = !json_is_false(json_object_get(config, "tie_word_embeddings"));
    return STATUS_OK;
}

static const char *const bloom_model_types[] = {"bloom", NULL};

const struct architecture architecture_bloom = {
    .model_types = bloom_model_types,
    .optional_prefix = "transformer.",
    .layer_prefix = "transformer.h.%d.",
    .embedding = "transformer.word_embeddings",
    .embedding_norm = "transformer.word_embeddings_layernorm",
    .final_norm = "transformer.ln_f",
    .head = "lm_head",
    .norm_kind = NORM_LAYER,
    .position = POSITION_ALIBI,
    .activation = ACTIVATION_GELU_TANH,
    .norms = {{"input_layernorm", SITE_ATTENTION_INPUT},
              {"post_attention_layernorm", SITE_MLP_INPUT}},
    .linears = bloom_linears,
    .linear_count = sizeof bloom_linears / sizeof bloom_linears[0],
    .read_config = read_config,
};
