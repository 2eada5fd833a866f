#include "pipeline/stage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/memory.h"
#include "pipeline/slice.h"
#include "pipeline/stage_quantized.h"
#include "pipeline/weights.h"

/* 64-byte aligned, size rounded up; NULL only when memory runs out. */
static void *allocate(size_t bytes) {
    return memory_allocate(bytes);
}

/* A norm's weight and bias; both may be NULL. */
static enum status load_norm(const struct model *model, const struct tensor *weight,
                             const struct tensor *bias, struct stage_norm *norm,
                             struct error *error) {
    const enum status status = weights_load_norm(model, weight, &norm->weight, error);
    if (status || model->architecture->norm_kind == NORM_RMS)
        return status;
    return weights_load_norm(model, bias, &norm->bias, error);
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

static size_t share_bytes(const struct model *model, int layer, int linear,
                          enum run_precision precision) {
    const struct tensor *tensor =
        model_layer_tensor(model, layer, model->architecture->linears[linear].name, ".weight");
    return (weights_decoded_bytes(model, tensor, precision) + 63) & ~(size_t)63;
}

size_t stage_share_bytes(const struct model *model, int begin, int end,
                         enum run_precision precision) {
    size_t bytes = 0;
    for (int layer = begin; layer < end; layer++)
        for (int i = 0; i < model->architecture->linear_count; i++)
            bytes += share_bytes(model, layer, i, precision);
    return bytes;
}

/* The weight in shared memory; the members decode the linears in turn. */
static enum status load_shared(struct stage *stage, int layer, int index,
                               struct matmul_weight *weight, struct error *error) {
    const struct model *model = stage->model;
    const struct tensor *tensor =
        model_layer_tensor(model, layer, model->architecture->linears[index].name, ".weight");
    const int turn = layer * model->architecture->linear_count + index;
    size_t offset = stage_share_bytes(model, stage->held_begin, layer, stage->precision);
    for (int i = 0; i < index; i++)
        offset += share_bytes(model, layer, i, stage->precision);
    *weight = (struct matmul_weight){.data = stage->share.data + offset,
                                     .type = weights_number_type(tensor, stage->precision),
                                     .rows = tensor_rows(tensor),
                                     .columns = tensor_columns(tensor),
                                     .stride = tensor_columns(tensor)};
    return turn % stage->share.members == stage->share.member
               ? weights_decode(model, stage->compute->team, tensor, stage->precision,
                                stage->share.data + offset, error)
               : STATUS_OK;
}

static enum status load_weight(struct stage *stage, int layer, int index,
                               struct stage_linear *linear, struct error *error) {
    if (stage->share.data && share_bytes(stage->model, layer, index, stage->precision))
        return load_shared(stage, layer, index, &linear->weight, error);
    return weights_load(stage->model, stage->compute->team, layer,
                        &stage->model->architecture->linears[index], stage->precision,
                        &linear->weight, &linear->owned, error);
}

static enum status load_layer(struct stage *stage, int layer, struct error *error) {
    const struct model *model = stage->model;
    struct stage_layer *loaded = &stage->layers[layer - stage->held_begin];
    enum status status;
    for (int i = 0; i < model->architecture->linear_count; i++) {
        const struct linear_rule *rule = &model->architecture->linears[i];
        struct stage_linear *linear = &loaded->linears[i];
        status = load_weight(stage, layer, i, linear, error);
        if (!status)
            status = weights_load_bias(model, layer, rule, &linear->bias, error);
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
        free(loaded->linears[i].scales);
        free(loaded->linears[i].zero_points);
        free(loaded->linears[i].bias);
        tensor_release(
            model_layer_tensor(model, layer, model->architecture->linears[i].name, ".weight"));
    }
    for (int i = 0; i < NORM_COUNT; i++)
        stage_norm_free(&loaded->norms[i]);
    for (int i = 0; i < SITE_COUNT; i++) {
        free(loaded->divisors[i]);
        free(loaded->multipliers[i]);
    }
    *loaded = (struct stage_layer){.cache = loaded->cache};
}

/* The mapped pages of a layer's linears that were decoded. */
static void release_decoded(const struct model *model, int layer, enum run_precision precision) {
    for (int i = 0; i < model->architecture->linear_count; i++)
        if (share_bytes(model, layer, i, precision))
            tensor_release(
                model_layer_tensor(model, layer, model->architecture->linears[i].name, ".weight"));
}

static void release_layers(struct stage *stage) {
    for (int layer = stage->held_begin; stage->layers && layer < stage->held_end; layer++)
        release_layer(stage, layer);
    stage->held_begin = stage->held_end = stage->layer_begin;
    stage->bytes_weights = 0;
}

/* Room for the quantized activations of the widest site that is held. */
static enum status reserve_quantized(struct stage *stage, struct error *error) {
    size_t most = 0;
    for (int layer = 0; layer < stage->held_end - stage->held_begin; layer++)
        for (int i = 0; i < stage->model->architecture->linear_count; i++) {
            const struct w4a8_weight *weight = &stage->layers[layer].linears[i].integer;
            const size_t bytes = weight->data
                                     ? w4a8_input_bytes(stage->compute->path, stage->chunk_tokens,
                                                        weight->columns, weight->group_size)
                                     : 0;
            most = bytes > most ? bytes : most;
        }
    if (!most)
        return STATUS_OK;
    free(stage->input.data);
    stage->input.data = allocate(most);
    return stage->input.data ? STATUS_OK
                             : error_set(error, STATUS_FAILED,
                                         "no memory for quantized activations (%zu bytes)", most);
}

enum status stage_hold(struct stage *stage, int begin, int end, struct error *error) {
    release_layers(stage);
    for (int layer = begin; !stage->quantized && layer < end; layer++)
        weights_prefetch_layer(stage->model, layer);
    stage->held_begin = begin;
    stage->held_end = end;
    enum status status = STATUS_OK;
    for (int layer = begin; !status && layer < end; layer++)
        status = stage->quantized ? stage_load_quantized_layer(stage, layer, error)
                                  : load_layer(stage, layer, error);
    /* Reading one tensor has mapped pages of its neighbours again, which were given back before. */
    for (int layer = begin; !status && !stage->quantized && layer < end; layer++)
        release_decoded(stage->model, layer, stage->precision);
    return status ? status : reserve_quantized(stage, error);
}

enum status stage_enter_pass(struct stage *stage, int passes, int pass, struct error *error) {
    const int layers = stage->layer_end - stage->layer_begin;
    const int begin = stage->layer_begin + slice_begin(layers, passes, pass);
    const int end = stage->layer_begin + slice_begin(layers, passes, pass + 1);
    const enum status status = stage_hold(stage, begin, end, error);
    const int ahead = pass + 1 == passes || stage->quantized
                          ? end
                          : stage->layer_begin + slice_begin(layers, passes, pass + 2);
    for (int layer = end; !status && layer < ahead; layer++)
        weights_prefetch_layer(stage->model, layer);
    return status;
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
    const int64_t widest = model_widest_site(model);
    /* Of few channels bf16 takes more, whose pairs are filled up. */
    const size_t f32_bytes = matmul_packed_bytes(stage->compute->path, MATMUL_F32, tokens, widest);
    const size_t bf16_bytes =
        matmul_packed_bytes(stage->compute->path, MATMUL_BF16, tokens, widest);
    const size_t packed_bytes = f32_bytes > bf16_bytes ? f32_bytes : bf16_bytes;
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
    size_t most = attention_scratch_bytes(&shape, chunk_tokens);
    const size_t others[] = {matmul_scratch_bytes(), w4a8_scratch_bytes()};
    for (int i = 0; i < 2; i++)
        most = others[i] > most ? others[i] : most;
    return most;
}

enum status stage_open(const struct model *model, const struct quantized_model *quantized,
                       const struct compute *compute, int layer_begin, int layer_end, int room,
                       int64_t chunk_tokens, int64_t context, enum run_precision precision,
                       struct stage *stage, struct error *error) {
    *stage = (struct stage){
        .model = model,
        .quantized = quantized,
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
    if (!status && layer_begin == 0 && quantized)
        status = stage_load_quantized_embedding(stage, error);
    else if (!status && layer_begin == 0 && model->architecture->embedding_norm)
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

enum status stage_observe_rotated(struct stage *stage, const struct rotation *rotation,
                                  struct error *error) {
    const int64_t width = stage->model->shape.hidden;
    if (!rotation || stage->layer_begin == stage->layer_end)
        return STATUS_OK;
    stage->rotation = rotation;
    stage->rotated = allocate((size_t)(stage->chunk_tokens * width) * sizeof(float));
    stage->ones = allocate((size_t)width * sizeof(float));
    if (!stage->rotated || !stage->ones)
        return error_set(error, STATUS_FAILED, "no memory for rotated activations");
    for (int64_t i = 0; i < width; i++)
        stage->ones[i] = 1.0f;
    stage->bytes_buffers += (size_t)(stage->chunk_tokens * width) * sizeof(float);
    return STATUS_OK;
}

enum status stage_load(const struct model *model, const struct quantized_model *quantized,
                       const struct compute *compute, int layer_begin, int layer_end,
                       int64_t chunk_tokens, int64_t context, enum run_precision precision,
                       struct stage *stage, struct error *error) {
    enum status status =
        stage_open(model, quantized, compute, layer_begin, layer_end, layer_end - layer_begin,
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
    free(stage->embedding.data);
    stage_norm_free(&stage->embedding_norm);
    for (int role = 0; role < ROLE_COUNT; role++)
        free(stage->projected[role]);
    free(stage->normed);
    free(stage->attended);
    free(stage->packed.data);
    free(stage->input.data);
    free(stage->rotated);
    free(stage->ones);
    free(stage->rope_table);
    free(stage->alibi_slopes);
    memset(stage, 0, sizeof *stage);
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

enum status stage_logits(const struct model *model, const struct compute *compute,
                         enum run_precision precision, const float *hidden, int64_t tokens,
                         float *logits, struct error *error) {
    const struct model_shape *shape = &model->shape;
    const struct architecture *architecture = model->architecture;
    struct matmul_weight weight;
    struct stage_norm norm = {0};
    void *owned = NULL;
    enum status status = weights_load_head(model, compute->team, precision, &weight, &owned, error);
    if (status) {
        free(owned);
        return status;
    }
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
