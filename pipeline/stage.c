#include "pipeline/stage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/weights.h"

/* 64-byte aligned, size rounded up; NULL only when memory runs out. */
static void *allocate(size_t bytes) {
    return aligned_alloc(64, (bytes + 64) & ~(size_t)63);
}

/* A norm's weight and bias; both may be NULL. */
static enum status load_norm(const struct model *model, const struct tensor *weight,
                             const struct tensor *bias, struct stage_norm *norm,
                             struct error *error) {
    const enum status status = weights_load_vector(model, weight, &norm->weight, error);
    if (status || model->architecture->norm_kind == NORM_RMS)
        return status;
    return weights_load_vector(model, bias, &norm->bias, error);
}

enum status stage_norm_load(const struct model *model, const char *name, struct stage_norm *norm,
                            struct error *error) {
    return load_norm(model, model_tensor(model, name, ".weight"),
                     model_tensor(model, name, ".bias"), norm, error);
}

void stage_norm_free(struct stage_norm *norm) {
    free(norm->weight);
    free(norm->bias);
}

void stage_norm_apply(const struct model *model, const struct compute *compute,
                      const struct stage_norm *norm, float *output, const float *input,
                      int64_t tokens) {
    const struct model_shape *shape = &model->shape;
    if (model->architecture->norm_kind == NORM_RMS)
        norm_rms(compute, output, input, norm->weight, tokens, shape->hidden, shape->norm_epsilon);
    else
        norm_layer(compute, output, input, norm->weight, norm->bias, tokens, shape->hidden,
                   shape->norm_epsilon);
}

static enum status load_layer(struct stage *stage, int layer, struct error *error) {
    const struct model *model = stage->model;
    struct stage_layer *loaded = &stage->layers[layer - stage->held_begin];
    enum status status;
    for (int i = 0; i < model->architecture->linear_count; i++) {
        const struct linear_rule *rule = &model->architecture->linears[i];
        struct stage_linear *linear = &loaded->linears[i];
        status = weights_load(model, stage->compute->team, layer, rule, stage->precision,
                              &linear->weight, &linear->owned, error);
        if (!status)
            status = weights_load_vector(
                model, model_layer_tensor(model, layer, rule->name, ".bias"), &linear->bias, error);
        if (status)
            return status;
        stage->bytes_weights += (size_t)linear->weight.rows * (size_t)linear->weight.columns *
                                number_size(linear->weight.type);
    }
    for (int i = 0; i < NORM_COUNT; i++) {
        const char *name = model->architecture->norms[i].name;
        if ((status = load_norm(model, model_layer_tensor(model, layer, name, ".weight"),
                                model_layer_tensor(model, layer, name, ".bias"), &loaded->norms[i],
                                error)))
            return status;
    }
    return STATUS_OK;
}

/* All of a held layer but its cache; mapped pages count as ours no more. */
static void release_layer(struct stage *stage, int layer) {
    const struct model *model = stage->model;
    struct stage_layer *loaded = &stage->layers[layer - stage->held_begin];
    for (int i = 0; i < model->architecture->linear_count; i++) {
        free(loaded->linears[i].owned);
        free(loaded->linears[i].bias);
        tensor_release(
            model_layer_tensor(model, layer, model->architecture->linears[i].name, ".weight"));
    }
    for (int i = 0; i < NORM_COUNT; i++)
        stage_norm_free(&loaded->norms[i]);
    for (int i = 0; i < SITE_COUNT; i++)
        free(loaded->divisors[i]);
    *loaded = (struct stage_layer){.cache = loaded->cache};
}

static void release_layers(struct stage *stage) {
    for (int layer = stage->held_begin; stage->layers && layer < stage->held_end; layer++)
        release_layer(stage, layer);
    stage->held_begin = stage->held_end = stage->layer_begin;
    stage->bytes_weights = 0;
}

enum status stage_hold(struct stage *stage, int begin, int end, struct error *error) {
    release_layers(stage);
    stage->held_begin = begin;
    stage->held_end = end;
    enum status status = STATUS_OK;
    for (int layer = begin; !status && layer < end; layer++)
        status = load_layer(stage, layer, error);
    return status;
}

void stage_prefetch(const struct stage *stage, int begin, int end) {
    const struct model *model = stage->model;
    for (int layer = begin; layer < end; layer++)
        for (int i = 0; i < model->architecture->linear_count; i++)
            tensor_prefetch(
                model_layer_tensor(model, layer, model->architecture->linears[i].name, ".weight"));
}

static enum status allocate_caches(struct stage *stage, struct error *error) {
    const size_t bytes = attention_cache_bytes(&stage->attention);
    for (int i = 0; i < stage->room; i++) {
        stage->layers[i].cache = allocate(bytes);
        if (!stage->layers[i].cache)
            return error_set(error, STATUS_FAILED,
                             "no memory for the keys and values of %d layers (%zu bytes each)",
                             stage->room, bytes);
        memset(stage->layers[i].cache, 0, bytes);
        stage->bytes_cache += bytes;
    }
    return STATUS_OK;
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
            (size_t)(tokens * model_role_columns(model, (enum linear_role)role)) * sizeof(float);
        stage->projected[role] = allocate(bytes);
        stage->bytes_buffers += bytes;
        complete &= stage->projected[role] != NULL;
    }
    stage->normed = allocate((size_t)(tokens * model->shape.hidden) * sizeof(float));
    stage->attended = allocate((size_t)(tokens * query) * sizeof(float));
    stage->packed.data = allocate(packed_bytes);
    stage->bytes_buffers +=
        (size_t)(tokens * (model->shape.hidden + query)) * sizeof(float) + packed_bytes;
    if (!complete || !stage->normed || !stage->attended || !stage->packed.data)
        return error_set(error, STATUS_FAILED,
                         "no memory for the work space of a stage (%zu bytes)",
                         stage->bytes_buffers);
    return STATUS_OK;
}

/* ALiBi's slopes: 2^(-8 i / n), i = 1 .. n, for the largest power of two n in heads; the other
 * heads take every second slope of 2 n heads. Roots and products only: no libm's version shows. */
static void fill_alibi_slopes(float *slopes, int heads) {
    double base = 1.0 / 256, half_base;
    int power = 1;
    for (; power * 2 <= heads; power *= 2)
        base = sqrt(base);
    half_base = sqrt(base);
    double slope = 1, half_slope = half_base;
    for (int head = 0; head < power; head++)
        slopes[head] = (float)(slope *= base);
    for (int head = power; head < heads; head++, half_slope *= base)
        slopes[head] = (float)half_slope;
}

/* The table of rotary angles, or the slopes. */
static enum status make_positions(struct stage *stage, struct error *error) {
    const struct model_shape *shape = &stage->model->shape;
    if (stage->model->architecture->position == POSITION_ALIBI) {
        stage->alibi_slopes = allocate((size_t)shape->heads * sizeof(float));
        if (!stage->alibi_slopes)
            return error_set(error, STATUS_FAILED, "no memory for %d slopes", shape->heads);
        fill_alibi_slopes(stage->alibi_slopes, shape->heads);
        stage->attention.alibi_slopes = stage->alibi_slopes;
        return STATUS_OK;
    }
    const size_t bytes = (size_t)stage->context * (size_t)shape->head_dim * sizeof(float);
    stage->bytes_buffers += bytes;
    stage->rope_table = allocate(bytes);
    if (!stage->rope_table)
        return error_set(error, STATUS_FAILED, "no memory for rotary angles (%zu bytes)", bytes);
    rope_table_fill(stage->rope_table, stage->context, shape->head_dim, shape->rope_theta,
                    &shape->rope_scaling);
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

enum status stage_open(const struct model *model, const struct compute *compute, int layer_begin,
                       int layer_end, int room, int64_t chunk_tokens, int64_t context,
                       enum run_precision precision, struct stage *stage, struct error *error) {
    *stage = (struct stage){
        .model = model,
        .compute = compute,
        .precision = precision,
        .layer_begin = layer_begin,
        .layer_end = layer_end,
        .held_begin = layer_begin,
        .held_end = layer_begin,
        .room = room,
        .chunk_tokens = chunk_tokens,
        .context = context,
    };
    if (layer_begin == layer_end)
        return STATUS_OK;
    const enum number_type type = weights_number_type(
        model_layer_tensor(model, layer_begin, model->architecture->linears[0].name, ".weight"),
        precision);
    stage->attention = attention_shape_of(model, context, site_precision(precision, type));
    stage->layers = calloc((size_t)room, sizeof *stage->layers);
    enum status status = stage->layers ? allocate_caches(stage, error)
                                       : error_set(error, STATUS_FAILED, "no memory for a stage");
    if (!status && layer_begin == 0 && model->architecture->embedding_norm)
        status = stage_norm_load(model, model->architecture->embedding_norm, &stage->embedding_norm,
                                 error);
    if (!status)
        status = allocate_buffers(stage, error);
    if (!status)
        status = make_positions(stage, error);
    if (status)
        stage_free(stage);
    return status;
}

enum status stage_load(const struct model *model, const struct compute *compute, int layer_begin,
                       int layer_end, int64_t chunk_tokens, int64_t context,
                       enum run_precision precision, struct stage *stage, struct error *error) {
    enum status status = stage_open(model, compute, layer_begin, layer_end, layer_end - layer_begin,
                                    chunk_tokens, context, precision, stage, error);
    if (status)
        return status;
    status = stage_hold(stage, layer_begin, layer_end, error);
    if (status)
        stage_free(stage);
    return status;
}

void stage_free(struct stage *stage) {
    release_layers(stage);
    for (int i = 0; stage->layers && i < stage->room; i++)
        free(stage->layers[i].cache);
    free(stage->layers);
    stage_norm_free(&stage->embedding_norm);
    for (int role = 0; role < ROLE_COUNT; role++)
        free(stage->projected[role]);
    free(stage->normed);
    free(stage->attended);
    free(stage->packed.data);
    free(stage->rope_table);
    free(stage->alibi_slopes);
    memset(stage, 0, sizeof *stage);
}

/* One pass through one layer: what its parts share. */
struct pass {
    struct stage *stage;
    const struct stage_layer *layer;
    int layer_index; /* in the model */
    const struct stage_observer *observer;
    float *maxima; /* (model_layer_channels), or NULL */
    const struct stage_hook *hook;
    int64_t position, tokens;
};

/* x (T, C) /= divisor (C) */
static void divide_columns(float *x, const float *divisor, int64_t tokens, int64_t channels) {
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < channels; i++)
            x[t * channels + i] /= divisor[i];
}

/* All linears that read `site`: X (T, in) is packed once (the maxima taken on the way), then each
 * product (T, out) goes to its role's buffer. */
static void read_site(const struct pass *pass, enum site site, float *x) {
    struct stage *stage = pass->stage;
    const struct model *model = stage->model;
    const int64_t channels = model_site_channels(model, site);
    float *maxima = pass->maxima ? pass->maxima + model_site_offset(model, site) : NULL;
    bool packed = false;
    if (pass->layer->divisors[site])
        divide_columns(x, pass->layer->divisors[site], pass->tokens, channels);
    if (pass->observer && pass->observer->site)
        pass->observer->site(pass->observer->context, pass->layer_index, site, x, pass->position,
                             pass->tokens);
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
    stage_norm_apply(pass->stage->model, pass->stage->compute, &pass->layer->norms[norm],
                     pass->stage->normed, hidden, pass->tokens);
}

/* Tokens [begin, end) of a fused product (T, heads, 3, head_dim) to queries, keys and values. */
static void split_tokens(void *context, int64_t begin, int64_t end, int thread) {
    const struct stage *stage = context;
    const int heads = stage->model->shape.heads;
    const int64_t width = stage->model->shape.head_dim;
    (void)thread;
    for (int64_t i = begin * heads; i < end * heads; i++)
        for (int part = 0; part < 3; part++)
            memcpy(stage->projected[ROLE_QUERY + part] + i * width,
                   stage->projected[ROLE_QUERY_KEY_VALUE] + (3 * i + part) * width,
                   (size_t)width * sizeof(float));
}

static void rotate(const struct pass *pass, enum linear_role role, int heads) {
    const struct stage *stage = pass->stage;
    const int head_dim = stage->model->shape.head_dim;
    rope_apply(stage->compute, stage->projected[role], (int64_t)heads * head_dim, pass->tokens,
               heads, head_dim, stage->rope_table, pass->position);
}

static void attend(const struct pass *pass) {
    struct stage *stage = pass->stage;
    const struct model_shape *shape = &stage->model->shape;
    const int64_t query = model_dimension(shape, DIMENSION_QUERY);
    const int64_t key_value = model_dimension(shape, DIMENSION_KEY_VALUE);
    if (model_role_columns(stage->model, ROLE_QUERY_KEY_VALUE))
        team_for(stage->compute->team, pass->tokens, 16, split_tokens, stage);
    if (stage->rope_table) {
        rotate(pass, ROLE_QUERY, shape->heads);
        rotate(pass, ROLE_KEY, shape->kv_heads);
    }
    attention_append(stage->compute, pass->layer->cache, &stage->attention, pass->position,
                     pass->tokens, stage->projected[ROLE_KEY], stage->projected[ROLE_VALUE],
                     key_value);
    attention_run(stage->compute, stage->attended, stage->projected[ROLE_QUERY], query,
                  pass->layer->cache, &stage->attention, pass->position, pass->tokens);
    if (pass->hook)
        pass->hook->call(pass->hook->context);
}

/* Between the MLP's products; the buffer with the result (T, intermediate). */
static float *activate(const struct pass *pass) {
    struct stage *stage = pass->stage;
    const int64_t width = stage->model->shape.intermediate;
    float *gate = stage->projected[ROLE_GATE], *up = stage->projected[ROLE_UP];
    if (stage->model->architecture->activation == ACTIVATION_GELU_TANH) {
        activation_gelu_tanh(stage->compute, up, pass->tokens, width);
        return up;
    }
    activation_silu_multiply(stage->compute, gate, width, up, width, pass->tokens, width);
    return gate;
}

void stage_forward(struct stage *stage, float *hidden, int64_t position, int64_t tokens,
                   const struct stage_observer *observer, const struct stage_hook *hook) {
    const struct model *model = stage->model;
    float *maxima = observer ? observer->maxima : NULL;
    const int64_t count = tokens * model->shape.hidden;
    for (int layer = stage->held_begin; layer < stage->held_end; layer++) {
        const struct pass pass = {
            .stage = stage,
            .layer = &stage->layers[layer - stage->held_begin],
            .layer_index = layer,
            .observer = observer,
            .maxima =
                maxima ? maxima + (layer - stage->layer_begin) * model_layer_channels(model) : NULL,
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
        read_site(&pass, SITE_MLP_HIDDEN, activate(&pass));
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
    struct stage_layer *loaded = &stage->layers[layer - stage->held_begin];
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
        linear->weight = (struct matmul_weight){.data = folded,
                                                .type = NUMBER_F32,
                                                .rows = rows,
                                                .columns = columns,
                                                .stride = columns};
        if (linear->bias)
            fold_bias(fold, i, rows, linear->bias);
    }
    for (int i = 0; i < NORM_COUNT; i++) {
        fold_norm(fold, &architecture->norms[i], loaded->norms[i].weight);
        if (loaded->norms[i].bias)
            fold_norm(fold, &architecture->norms[i], loaded->norms[i].bias);
    }
    for (int i = 0; i < SITE_COUNT; i++) {
        const struct fold_site *site = &fold->sites[i];
        if (!site->scale || site->folded)
            continue;
        const size_t bytes = (size_t)site->channels * sizeof(float);
        free(loaded->divisors[i]);
        loaded->divisors[i] = malloc(bytes);
        if (!loaded->divisors[i])
            return error_set(error, STATUS_FAILED, "no memory to fold layer %d", layer);
        memcpy(loaded->divisors[i], site->scale, bytes);
    }
    return STATUS_OK;
}

enum status stage_embed(const struct stage *stage, const int32_t *ids, int64_t tokens,
                        float *hidden, struct error *error) {
    const struct model *model = stage->model;
    const struct tensor *embedding = model_tensor(model, model->architecture->embedding, ".weight");
    for (int64_t t = 0; t < tokens; t++) {
        if (ids[t] < 0 || ids[t] >= model->shape.vocabulary)
            return error_set(error, STATUS_INPUT, "%s: token %d is outside the vocabulary of %lld",
                             model_source_path(model->source), ids[t],
                             (long long)model->shape.vocabulary);
        tensor_read_f32(embedding, ids[t], ids[t] + 1, hidden + t * model->shape.hidden);
    }
    tensor_release(embedding); /* of a large vocabulary, few rows are used again soon */
    if (stage->embedding_norm.weight)
        stage_norm_apply(model, stage->compute, &stage->embedding_norm, hidden, hidden, tokens);
    return STATUS_OK;
}

enum status stage_logits(const struct model *model, const struct compute *compute,
                         enum run_precision precision, const float *hidden, int64_t tokens,
                         float *logits, struct error *error) {
    const struct model_shape *shape = &model->shape;
    const struct architecture *architecture = model->architecture;
    const struct tensor *tensor = model_tensor(
        model, shape->tied_head ? architecture->embedding : architecture->head, ".weight");
    struct matmul_weight weight;
    struct stage_norm norm = {0};
    void *owned = NULL;
    enum status status =
        weights_load_tensor(model, compute->team, tensor, precision, &weight, &owned, error);
    if (status)
        return status;
    struct matmul_packed packed = {0};
    const enum matmul_precision product = site_precision(precision, weight.type);
    packed.data = allocate(matmul_packed_bytes(compute->path, product, tokens, shape->hidden));
    float *normed = allocate((size_t)(tokens * shape->hidden) * sizeof(float));
    status = packed.data && normed ? stage_norm_load(model, architecture->final_norm, &norm, error)
                                   : error_set(error, STATUS_FAILED, "no memory for logits");
    if (!status) {
        stage_norm_apply(model, compute, &norm, normed, hidden, tokens);
        matmul_pack(compute, &packed, normed, tokens, shape->hidden, shape->hidden, product, NULL);
        matmul_run(compute, logits, shape->vocabulary, &packed, &weight);
    }
    free(packed.data);
    free(normed);
    stage_norm_free(&norm);
    free(owned);
    return status;
}
