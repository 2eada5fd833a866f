/* What a model family is, as data: the rest of the program walks this description and never asks
 * which model it is. Adding a family is one file with one `struct architecture`, and its line in
 * architecture.c's list.
 *
 * A decoder layer of every family here has four SITES, the distinct input tensors of its linears:
 *
 *   attention_input   after the first norm,  read by q, k, v (or one fused q-k-v)
 *   attention_output  attention's result,    read by the output projection
 *   mlp_input         after the second norm, read by gate, up (or the one up projection)
 *   mlp_hidden        after the activation,  read by the down projection
 *
 * Linears that read one site share its activation policy and scale. A site's equalization scale is
 * folded into what produces it: a norm, or the rows of the linear before it; where a function
 * stands between (GELU), it stays a vector that the activations are divided by at run time. */
#ifndef FPTQ_PIPELINE_ARCHITECTURE_H
#define FPTQ_PIPELINE_ARCHITECTURE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "io/model_source.h"
#include "io/status.h"
#include "kernels/elementwise.h"
#include "kernels/rotation.h"

enum site {
    SITE_ATTENTION_INPUT,
    SITE_ATTENTION_OUTPUT,
    SITE_MLP_INPUT,
    SITE_MLP_HIDDEN,
    SITE_COUNT
};
enum { SITE_NONE = -1 };

/* "attention_input", "attention_output", "mlp_input", "mlp_hidden" */
const char *site_name(enum site site);

/* Sizes that tensors' shapes are made of. */
enum dimension {
    DIMENSION_HIDDEN,       /* residual stream */
    DIMENSION_INTERMEDIATE, /* inside the MLP */
    DIMENSION_QUERY,        /* heads * head_dim */
    DIMENSION_KEY_VALUE,    /* kv_heads * head_dim */
    DIMENSION_FUSED,        /* query + 2 * key_value: q, k and v in one */
};

/* What a linear does in the layer. */
enum linear_role {
    ROLE_QUERY,
    ROLE_KEY,
    ROLE_VALUE,
    ROLE_QUERY_KEY_VALUE, /* all three; rows are [head][q, k, v][head_dim], heads = kv_heads */
    ROLE_OUTPUT,
    ROLE_GATE,
    ROLE_UP, /* the only one before the activation where there is no gate */
    ROLE_DOWN,
    ROLE_COUNT
};

struct linear_rule {
    enum linear_role role;
    const char *name; /* within the layer: "self_attn.q_proj"; ".weight", ".bias" are appended */
    enum dimension out, in;
    enum site reads; /* the site that is its input */
    int row_fold;    /* the site whose scale divides its rows (and bias), or SITE_NONE; of a fused
                        q-k-v, the v rows */
};

enum norm_kind { NORM_RMS, NORM_LAYER }; /* NORM_LAYER has a bias */
enum { NORM_COUNT = 2 };                 /* before attention, before the MLP */

struct norm_rule {
    const char *name; /* within the layer */
    enum site feeds;  /* the site it produces, whose scale divides its weight and bias */
};

/* How a token knows its place: rotated queries and keys, or slopes added to the scores (ALiBi,
 * Press, Smith and Lewis 2022). */
enum position_kind { POSITION_ROTARY, POSITION_ALIBI };

/* The MLP between its products: silu(gate) * up, or gelu(up) in the tanh form. */
enum activation_kind { ACTIVATION_SILU_GATE, ACTIVATION_GELU_TANH };

/* Sizes and constants of one model, from its config. */
struct model_shape {
    char model_type[32];
    int layers, heads, kv_heads, head_dim;
    int64_t hidden, intermediate, vocabulary, max_positions;
    int64_t window; /* sliding attention window, 0: none */
    float norm_epsilon, rope_theta;
    struct rope_scaling rope_scaling;
    bool tied_head;
};

struct architecture {
    const char *const *model_types; /* config.json's "model_type", NULL-ended */
    const char *optional_prefix;    /* names begin with it, but files may leave it out; or NULL */
    const char *layer_prefix;       /* "model.layers.%d." */
    const char *embedding;          /* names; ".weight", ".bias" are appended */
    const char *embedding_norm;     /* or NULL */
    const char *final_norm, *head;
    enum norm_kind norm_kind; /* of all norms */
    enum position_kind position;
    enum activation_kind activation;
    struct norm_rule norms[NORM_COUNT];
    const struct linear_rule *linears; /* in the layer's order of computation */
    int linear_count;
    /* Read and check config.json (or its like made from GGUF). */
    enum status (*read_config)(const json_t *config, const char *origin, struct model_shape *shape,
                               struct error *error);
};

enum { LINEARS_MAX = 8 };

/* The family of config's "model_type"; STATUS_INPUT naming the known ones otherwise. */
enum status architecture_find(const json_t *config, const char *origin,
                              const struct architecture **architecture, struct error *error);

/* A model on disk with its description: what every stage of the program starts from. */
struct model {
    struct model_source *source;
    const struct architecture *architecture;
    struct model_shape shape;
    bool bare_names; /* the file leaves the architecture's optional prefix out */
    /* What pipeline/weights.h reads are the tensors of the model with its residual stream rotated;
     * NULL: as the file has them. */
    const struct rotation *rotation;
};

/* Open, read the config, check that every tensor is there with the right shape. */
enum status model_open(const char *path, struct model *model, struct error *error);
void model_close(struct model *model);

int64_t model_dimension(const struct model_shape *shape, enum dimension dimension);
/* Channels of a site. */
int64_t model_site_channels(const struct model *model, enum site site);
/* The most that any site has. */
int64_t model_widest_site(const struct model *model);
/* Offset of a site's channels in a layer's array of all sites' channels, and their total. */
int64_t model_site_offset(const struct model *model, enum site site);
int64_t model_layer_channels(const struct model *model);
/* Columns of a role's output: of its linear, or of the part of a fused one; 0 where there is none.
 */
int64_t model_role_columns(const struct model *model, enum linear_role role);
/* The channel of site rule->row_fold that row `row` produces, or -1 when it produces none of it (q
 * and k rows of a fused q-k-v). With grouped-query attention, the first of the channels that it
 * serves. */
int64_t model_row_channel(const struct model *model, const struct linear_rule *rule, int64_t row);
/* Weights of a layer's linear, by its place in the architecture's list; of all together. */
int64_t model_linear_weights(const struct model *model, int index);
int64_t model_layer_weights(const struct model *model);
/* "model.layers.3." + name + suffix */
void model_layer_name(const struct model *model, int layer, const char *name, const char *suffix,
                      char *text, size_t size);
/* Tensor `name` + `suffix` outside the layers, or of a layer; NULL when it is not there (an
 * optional bias). Names are the architecture's, also where the file leaves its optional prefix out.
 */
const struct tensor *model_tensor(const struct model *model, const char *name, const char *suffix);
const struct tensor *model_layer_tensor(const struct model *model, int layer, const char *name,
                                        const char *suffix);
/* The norm that produces `site`, or NULL; the linear whose rows produce it, or NULL. A site with
 * neither keeps its scale as a run-time vector. */
const struct norm_rule *architecture_site_norm(const struct architecture *architecture,
                                               enum site site);
const struct linear_rule *architecture_site_producer(const struct architecture *architecture,
                                                     enum site site);

/* Whether the residual stream can be rotated: what reads it does so through norms that a rotation
 * passes unchanged (it keeps lengths, but not means). */
bool architecture_can_rotate(const struct architecture *architecture);

/* For read_config: an integer in [least, most], a positive float. */
enum status config_integer(const json_t *config, const char *origin, const char *key, int64_t least,
                           int64_t most, int64_t *value, struct error *error);
enum status config_number(const json_t *config, const char *origin, const char *key, double *value,
                          struct error *error);
/* The sizes, under the keys that decoders of Hugging Face have in common: hidden_size,
 * num_attention_heads ... and the norms' epsilon under `epsilon_key`. */
enum status config_decoder(const json_t *config, const char *origin, const char *epsilon_key,
                           struct model_shape *shape, struct error *error);
/* rope_scaling (before transformers 5) or rope_parameters: theta, and how frequencies are scaled.
 */
enum status config_rope(const json_t *config, const char *origin, struct model_shape *shape,
                        struct error *error);

extern const struct architecture architecture_bloom, architecture_llama, architecture_starcoder2;

#endif
