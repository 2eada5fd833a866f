#include "pipeline/stage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/weights.h"

/* 64-byte aligned, size rounded up; NULL only when memory runs out. */
static void *allocate(size_t bytes) {
    return aligned_alloc(64, (bytes + 64) & ~(size_t)63);
}

static enum status load_layer(struct stage *stage, int layer, enum run_precision precision,
                              struct error *error) {
    const struct model *model = stage->model;
    struct stage_layer *loaded = &stage->layers[layer - stage->layer_begin];
    enum status status;
    for (int i = 0; i < model->architecture->linear_count; i++) {
        const struct linear_rule *rule = &model->architecture->linears[i];
        struct stage_linear *linear = &loaded->linears[i];
        status = weights_load(model, stage->compute->team, layer, rule, precision, &linear->weight,
                              &linear->owned, error);
        if (!status)
            status = weights_load_vector(model, layer, rule->name, ".bias", &linear->bias, error);
        if (status)
            return status;
        stage->bytes_weights += (size_t)linear->weight.rows * (size_t)linear->weight.columns *
                                number_size(linear->weight.type);
    }
    for (int i = 0; i < NORM_COUNT; i++)
        if ((status = weights_load_vector(model, layer, model->architecture->norms[i].name,
                                          ".weight", &loaded->norms[i], error)))
            return status;
    const size_t cache_bytes = attention_cache_bytes(&stage->attention);
    loaded->cache = allocate(cache_bytes);
    if (!loaded->cache)
        return error_set(error, STATUS_FAILED,
                         "no memory for the keys and values of layer %d (%zu bytes)", layer,
                         cache_bytes);
    memset(loaded->cache, 0, cache_bytes);
    stage->bytes_cache += cache_bytes;
    return STATUS_OK;
}

/* Columns of the output buffer of a role. */
static int64_t role_columns(const struct model *model, enum linear_role role) {
    for (int i = 0; i < model->architecture->linear_count; i++)
        if (model->architecture->linears[i].role == role)
            return model_dimension(&model->shape, model->architecture->linears[i].out);
    return 0;
}

/* Products run in f32 when the configuration says so, and where the weights are f32. */
static enum matmul_precision site_precision(enum run_precision precision, enum number_type type) {
    return precision == PRECISION_F32 || type == NUMBER_F32 ? MATMUL_F32 : MATMUL_BF16;
}

static enum status allocate_buffers(struct stage *stage, struct error *error) {
    const struct model *model = stage->model;
    const int64_t tokens = stage->chunk_tokens;
    int64_t widest = 0;
    for (int site = 0; site < SITE_COUNT; site++) {
        const int64_t channels = model_site_channels(model, (enum site)site);
        widest = channels > widest ? channels : widest;
    }
    const size_t packed_bytes =
        matmul_packed_bytes(stage->compute->path, MATMUL_F32, tokens, widest);
    const int64_t query = model_dimension(&model->shape, DIMENSION_QUERY);
    bool complete = true;
    for (int role = 0; role < ROLE_COUNT; role++) {
        const size_t bytes =
            (size_t)(tokens * role_columns(model, (enum linear_role)role)) * sizeof(float);
        stage->projected[role] = allocate(bytes);
        stage->bytes_buffers += bytes;
        complete &= stage->projected[role] != NULL;
    }
    stage->normed = allocate((size_t)(tokens * model->shape.hidden) * sizeof(float));
    stage->attended = allocate((size_t)(tokens * query) * sizeof(float));
    stage->packed.data = allocate(packed_bytes);
    stage->rope_table =
        allocate((size_t)stage->context * (size_t)model->shape.head_dim * sizeof(float));
    stage->bytes_buffers += (size_t)(tokens * (model->shape.hidden + query)) * sizeof(float) +
                            packed_bytes +
                            (size_t)stage->context * (size_t)model->shape.head_dim * sizeof(float);
    if (!complete || !stage->normed || !stage->attended || !stage->packed.data ||
        !stage->rope_table)
        return error_set(error, STATUS_FAILED,
                         "no memory for the work space of a stage (%zu bytes)",
                         stage->bytes_buffers);
    rope_table_fill(stage->rope_table, stage->context, model->shape.head_dim,
                    model->shape.rope_theta, &model->shape.rope_scaling);
    return STATUS_OK;
}

static struct attention_shape attention_shape_of(const struct model *model, int64_t context,
                                                 enum matmul_precision precision) {
    const struct model_shape *shape = &model->shape;
    return (struct attention_shape){
        .heads = shape->heads,
        .kv_heads = shape->kv_heads,
        .head_dim = shape->head_dim,
        .context = context,
        .window = shape->window,
        .scale = 1.0f / sqrtf((float)shape->head_dim),
        .precision = precision,
    };
}

size_t stage_scratch_bytes(const struct model *model, int64_t chunk_tokens, int64_t context) {
    const struct attention_shape shape = attention_shape_of(model, context, MATMUL_F32);
    const size_t attention = attention_scratch_bytes(&shape, chunk_tokens);
    const size_t matmul = matmul_scratch_bytes();
    return attention > matmul ? attention : matmul;
}

enum status stage_load(const struct model *model, const struct compute *compute, int layer_begin,
                       int layer_end, int64_t chunk_tokens, int64_t context,
                       enum run_precision precision, struct stage *stage, struct error *error) {
    memset(stage, 0, sizeof *stage);
    stage->model = model;
    stage->compute = compute;
    stage->layer_begin = layer_begin;
    stage->layer_end = layer_end;
    stage->chunk_tokens = chunk_tokens;
    stage->context = context;
    const int layers = layer_end - layer_begin;
    if (!layers)
        return STATUS_OK;
    const enum number_type type = weights_number_type(
        model_layer_tensor(model, layer_begin, model->architecture->linears[0].name, ".weight"),
        precision);
    stage->attention = attention_shape_of(model, context, site_precision(precision, type));
    stage->layers = calloc((size_t)layers, sizeof *stage->layers);
    enum status status =
        stage->layers ? STATUS_OK : error_set(error, STATUS_FAILED, "no memory for a stage");
    for (int layer = layer_begin; !status && layer < layer_end; layer++)
        status = load_layer(stage, layer, precision, error);
    if (!status)
        status = allocate_buffers(stage, error);
    if (status)
        stage_free(stage);
    return status;
}

void stage_free(struct stage *stage) {
    for (int layer = 0; stage->layers && layer < stage->layer_end - stage->layer_begin; layer++) {
        struct stage_layer *loaded = &stage->layers[layer];
        for (int i = 0; i < LINEARS_MAX; i++) {
            free(loaded->linears[i].owned);
            free(loaded->linears[i].bias);
        }
        for (int i = 0; i < NORM_COUNT; i++)
            free(loaded->norms[i]);
        free(loaded->cache);
    }
    free(stage->layers);
    for (int role = 0; role < ROLE_COUNT; role++)
        free(stage->projected[role]);
    free(stage->normed);
    free(stage->attended);
    free(stage->packed.data);
    free(stage->rope_table);
    memset(stage, 0, sizeof *stage);
}

/* One pass through one layer: what its parts share. */
struct pass {
    struct stage *stage;
    const struct stage_layer *layer;
    float *maxima; /* (model_layer_channels), or NULL */
    const struct stage_hook *hook;
    int64_t position, tokens;
};

/* All linears that read `site`: X (T, in) is packed once (the maxima taken on the way), then each
 * product (T, out) goes to its role's buffer. */
static void read_site(const struct pass *pass, enum site site, const float *x) {
    struct stage *stage = pass->stage;
    const struct model *model = stage->model;
    const int64_t channels = model_site_channels(model, site);
    float *maxima = pass->maxima ? pass->maxima + model_site_offset(model, site) : NULL;
    bool packed = false;
    for (int i = 0; i < model->architecture->linear_count; i++) {
        const struct linear_rule *rule = &model->architecture->linears[i];
        const struct stage_linear *linear = &pass->layer->linears[i];
        if (rule->reads != site)
            continue;
        const enum matmul_precision precision =
            stage->attention.precision == MATMUL_F32 || linear->weight.type == NUMBER_F32
                ? MATMUL_F32
                : MATMUL_BF16;
        if (!packed || stage->packed.precision != precision)
            matmul_pack(stage->compute, &stage->packed, x, pass->tokens, channels, channels,
                        precision, packed ? NULL : maxima);
        packed = true;
        float *y = stage->projected[rule->role];
        matmul_run(stage->compute, y, linear->weight.rows, &stage->packed, &linear->weight);
        if (linear->bias)
            elementwise_add_bias(stage->compute, y, linear->weight.rows, linear->bias, pass->tokens,
                                 linear->weight.rows);
        if (pass->hook)
            pass->hook->call(pass->hook->context);
    }
}

static void normalize(const struct pass *pass, int norm, const float *hidden) {
    const struct model_shape *shape = &pass->stage->model->shape;
    norm_rms(pass->stage->compute, pass->stage->normed, hidden, pass->layer->norms[norm],
             pass->tokens, shape->hidden, shape->norm_epsilon);
}

static void attend(const struct pass *pass) {
    struct stage *stage = pass->stage;
    const struct model_shape *shape = &stage->model->shape;
    const int64_t query = model_dimension(shape, DIMENSION_QUERY);
    const int64_t key_value = model_dimension(shape, DIMENSION_KEY_VALUE);
    rope_apply(stage->compute, stage->projected[ROLE_QUERY], query, pass->tokens, shape->heads,
               shape->head_dim, stage->rope_table, pass->position);
    rope_apply(stage->compute, stage->projected[ROLE_KEY], key_value, pass->tokens, shape->kv_heads,
               shape->head_dim, stage->rope_table, pass->position);
    attention_append(stage->compute, pass->layer->cache, &stage->attention, pass->position,
                     pass->tokens, stage->projected[ROLE_KEY], stage->projected[ROLE_VALUE],
                     key_value);
    attention_run(stage->compute, stage->attended, stage->projected[ROLE_QUERY], query,
                  pass->layer->cache, &stage->attention, pass->position, pass->tokens);
    if (pass->hook)
        pass->hook->call(pass->hook->context);
}

void stage_forward(struct stage *stage, float *hidden, int64_t position, int64_t tokens,
                   float *maxima, const struct stage_hook *hook) {
    const struct model *model = stage->model;
    const struct model_shape *shape = &model->shape;
    const int64_t count = tokens * shape->hidden;
    for (int layer = 0; layer < stage->layer_end - stage->layer_begin; layer++) {
        const struct pass pass = {
            .stage = stage,
            .layer = &stage->layers[layer],
            .maxima = maxima ? maxima + layer * model_layer_channels(model) : NULL,
            .hook = hook,
            .position = position,
            .tokens = tokens,
        };
        normalize(&pass, 0, hidden);
        read_site(&pass, SITE_ATTENTION_INPUT, stage->normed);
        attend(&pass);
        read_site(&pass, SITE_ATTENTION_OUTPUT, stage->attended);
        elementwise_add(stage->compute, hidden, stage->projected[ROLE_OUTPUT], count);
        normalize(&pass, 1, hidden);
        read_site(&pass, SITE_MLP_INPUT, stage->normed);
        activation_silu_multiply(stage->compute, stage->projected[ROLE_GATE], shape->intermediate,
                                 stage->projected[ROLE_UP], shape->intermediate, tokens,
                                 shape->intermediate);
        read_site(&pass, SITE_MLP_HIDDEN, stage->projected[ROLE_GATE]);
        elementwise_add(stage->compute, hidden, stage->projected[ROLE_DOWN], count);
    }
}

static void fold_rows(float *weights, int64_t rows, int64_t columns, const float *row,
                      const float *column) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            weights[r * columns + c] =
                weights[r * columns + c] * (row ? row[r] : 1.0f) * (column ? column[c] : 1.0f);
}

enum status stage_fold_layer(struct stage *stage, int layer, const struct fold_layer *fold,
                             struct error *error) {
    const struct architecture *architecture = stage->model->architecture;
    struct stage_layer *loaded = &stage->layers[layer - stage->layer_begin];
    for (int i = 0; i < architecture->linear_count; i++) {
        struct stage_linear *linear = &loaded->linears[i];
        const int64_t rows = linear->weight.rows, columns = linear->weight.columns;
        float *folded = allocate((size_t)(rows * columns) * sizeof *folded);
        if (!folded)
            return error_set(error, STATUS_FAILED, "no memory to fold layer %d", layer);
        number_widen(folded, linear->weight.data, linear->weight.type, (size_t)(rows * columns));
        fold_rows(folded, rows, columns, fold->row_multipliers[i],
                  fold_column_multiplier(fold, &architecture->linears[i]));
        free(linear->owned);
        linear->owned = folded;
        linear->weight = (struct matmul_weight){folded, NUMBER_F32, rows, columns, columns};
        if (linear->bias)
            fold_bias(fold, i, rows, linear->bias);
    }
    for (int i = 0; i < NORM_COUNT; i++)
        fold_norm(fold, &architecture->norms[i], loaded->norms[i]);
    return STATUS_OK;
}

enum status stage_embed(const struct model *model, const int32_t *ids, int64_t tokens,
                        float *hidden, struct error *error) {
    const struct tensor *embedding =
        model_source_find(model->source, model->architecture->embedding);
    for (int64_t t = 0; t < tokens; t++) {
        if (ids[t] < 0 || ids[t] >= model->shape.vocabulary)
            return error_set(error, STATUS_INPUT, "%s: token %d is outside the vocabulary of %lld",
                             model_source_path(model->source), ids[t],
                             (long long)model->shape.vocabulary);
        tensor_read_f32(embedding, ids[t], ids[t] + 1, hidden + t * model->shape.hidden);
    }
    return STATUS_OK;
}

enum status stage_logits(const struct model *model, const struct compute *compute,
                         enum run_precision precision, const float *hidden, int64_t tokens,
                         float *logits, struct error *error) {
    const struct model_shape *shape = &model->shape;
    const struct architecture *architecture = model->architecture;
    const struct tensor *tensor = model_source_find(model->source, architecture->head);
    if (!tensor)
        tensor = model_source_find(model->source, architecture->embedding);
    struct matmul_weight weight;
    void *owned = NULL;
    float *norm = NULL;
    enum status status =
        weights_load_tensor(model, compute->team, tensor, precision, &weight, &owned, error);
    if (status)
        return status;
    struct matmul_packed packed = {0};
    const enum matmul_precision product = site_precision(precision, weight.type);
    packed.data = allocate(matmul_packed_bytes(compute->path, product, tokens, shape->hidden));
    float *normed = allocate((size_t)(tokens * shape->hidden) * sizeof(float));
    const struct tensor *norm_tensor = model_source_find(model->source, architecture->final_norm);
    norm = allocate((size_t)shape->hidden * sizeof(float));
    if (packed.data && normed && norm) {
        tensor_read_f32(norm_tensor, 0, 1, norm);
        norm_rms(compute, normed, hidden, norm, tokens, shape->hidden, shape->norm_epsilon);
        matmul_pack(compute, &packed, normed, tokens, shape->hidden, shape->hidden, product, NULL);
        matmul_run(compute, logits, shape->vocabulary, &packed, &weight);
    } else {
        status = error_set(error, STATUS_FAILED, "no memory for logits");
    }
    free(packed.data);
    free(normed);
    free(norm);
    free(owned);
    return status;
}
