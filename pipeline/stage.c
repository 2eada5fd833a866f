#include "pipeline/stage.h"

#include <string.h>

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

/* One pass through one layer: what its parts share. */
struct pass {
    struct stage *stage;
    const struct stage_layer *layer;
    void *cache; /* of its keys and values */
    bool int8_cache;
    int layer_index;     /* in the model */
    const float *hidden; /* (T, hidden) that a norm has read last */
    const struct stage_observer *observer;
    float *maxima; /* (model_layer_channels), or NULL */
    const struct stage_hook *hook;
    const struct stage_piece *pieces;
    int64_t piece_count;
    int64_t position, tokens; /* of the first piece; of all */
};

/* x (T, C) /= divisor (C) */
static void divide_columns(float *x, const float *divisor, int64_t tokens, int64_t channels) {
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < channels; i++)
            x[t * channels + i] /= divisor[i];
}

/* A site while its linears read it: x f32 (T, channels) is brought into each form that they take
 * once. */
struct reading {
    const struct pass *pass;
    enum site site;
    const float *x;
    int64_t channels;
    float *maxima;          /* (channels), or NULL */
    bool packed, quantized; /* as floats; as int8, with the group size of stage->input */
};

static void multiply_dense(struct reading *reading, const struct stage_linear *linear, float *y) {
    const struct pass *pass = reading->pass;
    struct stage *stage = pass->stage;
    const enum matmul_precision precision =
        stage->attention.precision == MATMUL_F32 ||
                (!linear->weight.scales && linear->weight.type == NUMBER_F32)
            ? MATMUL_F32
            : MATMUL_BF16;
    if (!reading->packed || stage->packed.precision != precision)
        matmul_pack(stage->compute, &stage->packed, reading->x, pass->tokens, reading->channels,
                    reading->channels, precision, reading->packed ? NULL : reading->maxima);
    reading->packed = true;
    matmul_run(stage->compute, y, linear->weight.rows, &stage->packed, &linear->weight);
    if (linear->bias)
        elementwise_add_bias(stage->compute, y, linear->weight.rows, linear->bias, pass->tokens,
                             linear->weight.rows);
}

static void multiply_integer(struct reading *reading, const struct stage_linear *linear, float *y) {
    const struct pass *pass = reading->pass;
    struct stage *stage = pass->stage;
    const struct w4a8_weight *weight = &linear->integer;
    if (!reading->quantized || stage->input.group_size != weight->group_size)
        w4a8_quantize(stage->compute, &stage->input, reading->x, pass->tokens, reading->channels,
                      reading->channels, weight->group_size, &pass->layer->inputs[reading->site]);
    reading->quantized = true;
    w4a8_run(stage->compute, y, weight->rows, &stage->input, weight, linear->bias);
}

/* Whether a site is observed as the rotated model has it, elsewhere than where it is read. */
static bool is_rotated(const struct stage *stage, enum site site) {
    return stage->rotation && architecture_site_norm(stage->model->architecture, site);
}

/* A norm's output as the rotated model has it. Packing takes the maxima; what it packs serves no
 * product. */
static void observe_rotated(const struct pass *pass, enum site site, const float *hidden) {
    const struct stage *stage = pass->stage;
    const struct model_shape *shape = &stage->model->shape;
    struct matmul_packed packed = stage->packed;
    float *x = stage->rotated;
    norm_rms(stage->compute, x, hidden, stage->ones, pass->tokens, shape->hidden,
             shape->norm_epsilon);
    rotation_apply_rows(stage->rotation, x, pass->tokens);
    if (pass->observer->site)
        pass->observer->site(pass->observer->context, pass->layer_index, site, x, pass->position,
                             pass->tokens);
    if (pass->maxima)
        matmul_pack(stage->compute, &packed, x, pass->tokens, shape->hidden, shape->hidden,
                    MATMUL_F32, pass->maxima + model_site_offset(stage->model, site));
}

/* All linears that read `site`: each product (T, out) goes to its role's buffer. */
static void read_site(const struct pass *pass, enum site site, float *x) {
    struct stage *stage = pass->stage;
    const struct model *model = stage->model;
    const bool observed = !is_rotated(stage, site);
    struct reading reading = {
        .pass = pass,
        .site = site,
        .x = x,
        .channels = model_site_channels(model, site),
        .maxima = pass->maxima && observed ? pass->maxima + model_site_offset(model, site) : NULL};
    if (pass->layer->divisors[site])
        divide_columns(x, pass->layer->divisors[site], pass->tokens, reading.channels);
    if (pass->observer && pass->observer->site && observed)
        pass->observer->site(pass->observer->context, pass->layer_index, site, x, pass->position,
                             pass->tokens);
    for (int i = 0; i < model->architecture->linear_count; i++) {
        const struct linear_rule *rule = &model->architecture->linears[i];
        const struct stage_linear *linear = &pass->layer->linears[i];
        if (rule->reads != site)
            continue;
        if (linear->integer.data)
            multiply_integer(&reading, linear, stage->projected[rule->role]);
        else
            multiply_dense(&reading, linear, stage->projected[rule->role]);
        if (pass->hook)
            pass->hook->call(pass->hook->context);
    }
    if (pass->observer && pass->observer->products)
        pass->observer->products(pass->observer->context, pass->layer_index, site, x, pass->hidden,
                                 pass->tokens);
}

void stage_read_site(struct stage *stage, int layer, enum site site, float *x, int64_t tokens) {
    const struct pass pass = {
        .stage = stage,
        .layer = &stage->layers[layer - stage->held_begin],
        .layer_index = layer,
        .tokens = tokens,
    };
    read_site(&pass, site, x);
}

static void normalize(const struct pass *pass, int norm, const float *hidden) {
    const enum site site = pass->stage->model->architecture->norms[norm].feeds;
    if (pass->observer && is_rotated(pass->stage, site))
        observe_rotated(pass, site, hidden);
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

/* Rows of a role's product (T, heads, head_dim) at the positions of a piece. */
static void rotate(const struct stage *stage, float *rows, int heads,
                   const struct stage_piece *piece) {
    const int head_dim = stage->model->shape.head_dim;
    rope_apply(stage->compute, rows, (int64_t)heads * head_dim, piece->tokens, heads, head_dim,
               stage->rope_table, piece->position);
}

/* The tokens of a piece, which begin at row `first`. */
static void attend_piece(const struct pass *pass, const struct stage_piece *piece, int64_t first) {
    struct stage *stage = pass->stage;
    const struct model_shape *shape = &stage->model->shape;
    const int64_t query = model_dimension(shape, DIMENSION_QUERY);
    const int64_t key_value = model_dimension(shape, DIMENSION_KEY_VALUE);
    float *queries = stage->projected[ROLE_QUERY] + first * query;
    float *keys = stage->projected[ROLE_KEY] + first * key_value;
    float *values = stage->projected[ROLE_VALUE] + first * key_value;
    if (stage->rope_table) {
        rotate(stage, queries, shape->heads, piece);
        rotate(stage, keys, shape->kv_heads, piece);
    }
    if (pass->int8_cache) {
        elementwise_round_int8(stage->compute, keys, key_value, piece->tokens, shape->kv_heads,
                               shape->head_dim);
        elementwise_round_int8(stage->compute, values, key_value, piece->tokens, shape->kv_heads,
                               shape->head_dim);
    }
    attention_append(stage->compute, pass->cache, &stage->attention, piece->position, piece->tokens,
                     keys, values, key_value);
    attention_run(stage->compute, stage->attended + first * query, queries, query, pass->cache,
                  &stage->attention, piece->position, piece->tokens);
}

/* Pieces one after the other: each has the cache to itself, and leaves it to the next. */
static void attend(const struct pass *pass) {
    struct stage *stage = pass->stage;
    if (model_role_columns(stage->model, ROLE_QUERY_KEY_VALUE))
        team_for(stage->compute->team, pass->tokens, 16, split_tokens, stage);
    for (int64_t i = 0, first = 0; i < pass->piece_count; first += pass->pieces[i++].tokens)
        attend_piece(pass, &pass->pieces[i], first);
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
    const struct stage_piece piece = {position, tokens};
    stage_forward_pieces(stage, hidden, &piece, 1, observer, hook);
}

void stage_forward_pieces(struct stage *stage, float *hidden, const struct stage_piece *pieces,
                          int64_t count, const struct stage_observer *observer,
                          const struct stage_hook *hook) {
    const struct model *model = stage->model;
    float *maxima = observer ? observer->maxima : NULL;
    int64_t tokens = 0;
    for (int64_t i = 0; i < count; i++)
        tokens += pieces[i].tokens;
    const int64_t numbers = tokens * model->shape.hidden;
    for (int layer = stage->held_begin; layer < stage->held_end; layer++) {
        const struct stage *from = stage->others && layer != stage->alone ? stage->others : stage;
        const struct pass pass = {
            .stage = stage,
            .layer = &from->layers[layer - stage->held_begin],
            .cache = stage->layers[layer - stage->held_begin].cache,
            .int8_cache = from->int8_cache,
            .layer_index = layer,
            .hidden = hidden,
            .observer = observer,
            .maxima =
                maxima ? maxima + (layer - stage->layer_begin) * model_layer_channels(model) : NULL,
            .hook = hook,
            .pieces = pieces,
            .piece_count = count,
            .position = pieces[0].position,
            .tokens = tokens,
        };
        normalize(&pass, 0, hidden);
        read_site(&pass, SITE_ATTENTION_INPUT, stage->normed);
        attend(&pass);
        read_site(&pass, SITE_ATTENTION_OUTPUT, stage->attended);
        elementwise_add(stage->compute, hidden, stage->projected[ROLE_OUTPUT], numbers);
        normalize(&pass, 1, hidden);
        read_site(&pass, SITE_MLP_INPUT, stage->normed);
        read_site(&pass, SITE_MLP_HIDDEN, activate(&pass));
        elementwise_add(stage->compute, hidden, stage->projected[ROLE_DOWN], numbers);
    }
}

enum status stage_embed(const struct stage *stage, const int32_t *ids, int64_t tokens,
                        float *hidden, struct error *error) {
    const struct model *model = stage->model;
    if (stage->others)
        return stage_embed(stage->others, ids, tokens, hidden, error);
    const struct tensor *embedding = model_tensor(model, model->architecture->embedding, ".weight");
    const int64_t width = model->shape.hidden;
    for (int64_t t = 0; t < tokens; t++) {
        if (ids[t] < 0 || ids[t] >= model->shape.vocabulary)
            return error_set(error, STATUS_INPUT, "%s: token %d is outside the vocabulary of %lld",
                             model_source_path(model->source), ids[t],
                             (long long)model->shape.vocabulary);
        float *row = hidden + t * width;
        if (stage->embedding.data)
            number_widen(row,
                         (const char *)stage->embedding.data +
                             (size_t)(ids[t] * width) * number_size(stage->embedding.type),
                         stage->embedding.type, (size_t)width);
        else
            tensor_read_f32(embedding, ids[t], ids[t] + 1, row);
    }
    tensor_release(embedding); /* of a large vocabulary, few rows are used again soon */
    if (model->rotation)
        rotation_apply_rows(model->rotation, hidden, tokens);
    if (stage->embedding_norm.weight)
        stage_norm_apply(model, stage->compute, &stage->embedding_norm, hidden, hidden, tokens);
    return STATUS_OK;
}
