#include "kernels/attention.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/rows.h"

/* A unit of work is one key/value head and a block of tokens: the queries of all heads that share
 * the key/value head are stacked, row = token * group + head of the group, about ROWS of them.
 * Strides are no powers of two, for the caches' sake. */
enum { ROWS = 128, KEY_BLOCK = 512, SCORE_STRIDE = KEY_BLOCK + 16, VALUE_STRIDE = KEY_BLOCK + 32 };

static int64_t minimum(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t maximum(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t group_size(const struct attention_shape *shape) {
    return shape->heads / shape->kv_heads;
}

/* Tokens of a unit when a call has `tokens`. */
static int64_t tokens_of_unit(const struct attention_shape *shape, int64_t tokens) {
    return maximum(1, minimum(tokens, ROWS / group_size(shape)));
}

static enum number_type cache_type(const struct attention_shape *shape) {
    return shape->precision == MATMUL_BF16 ? NUMBER_BF16 : NUMBER_F32;
}

/* The cache: keys [kv_heads][blocks * KEY_BLOCK][head_dim], then values, each block transposed,
 * [kv_heads][blocks][head_dim][VALUE_STRIDE]. */
static int64_t block_count(const struct attention_shape *shape) {
    return (shape->context + KEY_BLOCK - 1) / KEY_BLOCK;
}

static int64_t key_offset(const struct attention_shape *shape, int kv_head, int64_t position) {
    return (kv_head * block_count(shape) * KEY_BLOCK + position) * shape->head_dim;
}

static int64_t value_offset(const struct attention_shape *shape, int kv_head, int64_t position) {
    const int64_t block = kv_head * block_count(shape) + position / KEY_BLOCK;
    return key_offset(shape, shape->kv_heads, 0) + block * shape->head_dim * VALUE_STRIDE +
           position % KEY_BLOCK;
}

size_t attention_cache_bytes(const struct attention_shape *shape) {
    return (size_t)value_offset(shape, shape->kv_heads, 0) * number_size(cache_type(shape));
}

/* A thread's scratch, all parts aligned to 64 bytes. */
struct scratch {
    void *matmul;
    float *queries; /* (rows, head_dim) */
    void *packed_queries, *packed_weights;
    float *scores;           /* (rows, SCORE_STRIDE) */
    float *product, *sum;    /* (rows, head_dim) */
    struct softmax *softmax; /* (rows) */
    size_t bytes;
};

static void *take(char *base, size_t *used, size_t bytes) {
    char *part = base == NULL ? NULL : base + *used;
    *used += (bytes + 63) / 64 * 64;
    return part;
}

/* For any path and precision, so that a team serves them all. */
static size_t packed_bytes(int64_t rows, int64_t columns) {
    size_t largest = 0;
    for (int path = 0; path < PATH_COUNT; path++) {
        for (int precision = 0; precision <= MATMUL_F32; precision++) {
            const size_t bytes = matmul_packed_bytes(
                (enum kernel_path)path, (enum matmul_precision)precision, rows, columns);
            largest = bytes > largest ? bytes : largest;
        }
    }
    return largest;
}

static struct scratch scratch_layout(const struct attention_shape *shape, int64_t tokens,
                                     void *base) {
    const int64_t rows = tokens_of_unit(shape, tokens) * group_size(shape);
    const size_t row_floats = (size_t)rows * sizeof(float);
    const size_t head_floats = row_floats * (size_t)shape->head_dim;
    struct scratch s = {0};
    s.matmul = take(base, &s.bytes, matmul_scratch_bytes());
    s.queries = take(base, &s.bytes, head_floats);
    s.packed_queries = take(base, &s.bytes, packed_bytes(rows, shape->head_dim));
    s.packed_weights = take(base, &s.bytes, packed_bytes(rows, KEY_BLOCK));
    s.scores = take(base, &s.bytes, row_floats * SCORE_STRIDE);
    s.product = take(base, &s.bytes, head_floats);
    s.sum = take(base, &s.bytes, head_floats);
    s.softmax = take(base, &s.bytes, (size_t)rows * sizeof *s.softmax);
    return s;
}

size_t attention_scratch_bytes(const struct attention_shape *shape, int64_t max_tokens) {
    return scratch_layout(shape, max_tokens, NULL).bytes;
}

struct append {
    const struct row_functions *functions;
    const struct attention_shape *shape;
    struct team *team;
    void *cache;
    int64_t position, tokens;
    const float *keys, *values;
    int64_t stride;
};

static void append_bf16(const struct append *append, int kv_head, uint16_t *row) {
    const struct attention_shape *shape = append->shape;
    uint16_t *cache = append->cache;
    for (int64_t t = 0; t < append->tokens; t++) {
        const int64_t position = append->position + t;
        const int64_t from = t * append->stride + (int64_t)kv_head * shape->head_dim;
        append->functions->narrow_bf16(cache + key_offset(shape, kv_head, position),
                                       append->keys + from, shape->head_dim);
        append->functions->narrow_bf16(row, append->values + from, shape->head_dim);
        uint16_t *column = cache + value_offset(shape, kv_head, position);
        for (int d = 0; d < shape->head_dim; d++)
            column[d * VALUE_STRIDE] = row[d];
    }
}

static void append_f32(const struct append *append, int kv_head) {
    const struct attention_shape *shape = append->shape;
    float *cache = append->cache;
    for (int64_t t = 0; t < append->tokens; t++) {
        const int64_t position = append->position + t;
        const int64_t from = t * append->stride + (int64_t)kv_head * shape->head_dim;
        memcpy(cache + key_offset(shape, kv_head, position), append->keys + from,
               (size_t)shape->head_dim * sizeof(float));
        float *column = cache + value_offset(shape, kv_head, position);
        for (int d = 0; d < shape->head_dim; d++)
            column[d * VALUE_STRIDE] = append->values[from + d];
    }
}

static void append_task(void *context, int64_t begin, int64_t end, int thread) {
    const struct append *append = context;
    for (int kv_head = (int)begin; kv_head < (int)end; kv_head++) {
        if (append->shape->precision == MATMUL_BF16)
            append_bf16(append, kv_head, team_scratch(append->team, thread));
        else
            append_f32(append, kv_head);
    }
}

void attention_append(const struct compute *compute, void *cache,
                      const struct attention_shape *shape, int64_t position, int64_t tokens,
                      const float *keys, const float *values, int64_t stride) {
    assert(position + tokens <= shape->context);
    struct append append = {rows_of_path(compute->path),
                            shape,
                            compute->team,
                            cache,
                            position,
                            tokens,
                            keys,
                            values,
                            stride};
    team_for(compute->team, shape->kv_heads, 1, append_task, &append);
}

struct attention {
    const struct row_functions *functions;
    const struct attention_shape *shape;
    const struct compute *compute;
    float *output;
    const float *queries;
    int64_t query_stride;
    const void *cache;
    int64_t position, tokens;
};

/* The tokens [begin, end) of one key/value head. */
struct unit {
    int kv_head;
    int64_t begin, end, rows;
    struct matmul_packed queries;
    struct scratch scratch;
};

/* The first position that the token at `position` sees. */
static int64_t first_seen(const struct attention_shape *shape, int64_t position) {
    return shape->window > 0 ? maximum(0, position - shape->window + 1) : 0;
}

static void load_queries(const struct attention *attention, struct unit *unit) {
    const struct attention_shape *shape = attention->shape;
    const int64_t group = group_size(shape), width = group * shape->head_dim;
    const float *queries =
        attention->queries + unit->begin * attention->query_stride + unit->kv_head * width;
    int64_t stride = attention->query_stride;
    if (group > 1) {
        for (int64_t t = 0; t < unit->end - unit->begin; t++)
            memcpy(unit->scratch.queries + t * width, queries + t * attention->query_stride,
                   (size_t)width * sizeof(float));
        queries = unit->scratch.queries;
        stride = shape->head_dim;
    }
    unit->queries.data = unit->scratch.packed_queries;
    matmul_pack_serial(attention->compute->path, &unit->queries, queries, unit->rows,
                       shape->head_dim, stride, shape->precision, NULL);
}

/* One row of scores of the keys key_begin .. key_begin + count - 1 becomes weights relative to the
 * largest score so far, 0 where the token does not see; the row's running numbers follow. */
static void weigh_row(const struct attention *attention, const struct unit *unit, int64_t row,
                      int64_t key_begin, int64_t count) {
    const struct attention_shape *shape = attention->shape;
    const struct scratch *s = &unit->scratch;
    const int64_t group = group_size(shape);
    const int64_t position = attention->position + unit->begin + row / group;
    const int64_t first = maximum(first_seen(shape, position) - key_begin, 0);
    const int64_t end = minimum(position + 1 - key_begin, count);
    float *scores = s->scores + row * SCORE_STRIDE;
    if (first >= end) {
        memset(scores, 0, (size_t)count * sizeof(float));
        s->softmax[row].factor = 1.0f;
        return;
    }
    const float slope = shape->alibi_slopes == NULL
                            ? 0.0f
                            : shape->alibi_slopes[unit->kv_head * group + row % group];
    attention->functions->softmax(&s->softmax[row], scores + first, end - first, shape->scale,
                                  slope, key_begin + first);
    memset(scores, 0, (size_t)first * sizeof(float));
    memset(scores + end, 0, (size_t)(count - end) * sizeof(float));
}

static void attend_block(const struct attention *attention, const struct unit *unit,
                         int64_t block) {
    const struct attention_shape *shape = attention->shape;
    const struct scratch *s = &unit->scratch;
    const int64_t key_begin = block * KEY_BLOCK;
    const int64_t count = minimum(KEY_BLOCK, attention->position + unit->end - key_begin);
    const size_t size = number_size(cache_type(shape));
    const char *cache = attention->cache;
    const struct matmul_weight keys = {
        .data = cache + (size_t)key_offset(shape, unit->kv_head, key_begin) * size,
        .type = cache_type(shape),
        .rows = count,
        .columns = shape->head_dim,
        .stride = shape->head_dim};
    const struct matmul_weight values = {
        .data = cache + (size_t)value_offset(shape, unit->kv_head, key_begin) * size,
        .type = cache_type(shape),
        .rows = shape->head_dim,
        .columns = count,
        .stride = VALUE_STRIDE};
    struct matmul_packed weights = {.data = s->packed_weights};

    matmul_run_serial(s->scores, SCORE_STRIDE, &unit->queries, &keys, s->matmul);
    for (int64_t row = 0; row < unit->rows; row++)
        weigh_row(attention, unit, row, key_begin, count);
    matmul_pack_serial(attention->compute->path, &weights, s->scores, unit->rows, count,
                       SCORE_STRIDE, shape->precision, NULL);
    matmul_run_serial(s->product, shape->head_dim, &weights, &values, s->matmul);
    for (int64_t row = 0; row < unit->rows; row++)
        attention->functions->scale_add(s->sum + row * shape->head_dim, s->softmax[row].factor,
                                        s->product + row * shape->head_dim, shape->head_dim);
}

static void store_output(const struct attention *attention, const struct unit *unit) {
    const struct attention_shape *shape = attention->shape;
    const int64_t group = group_size(shape), channels = (int64_t)shape->heads * shape->head_dim;
    for (int64_t row = 0; row < unit->rows; row++) {
        const int64_t head = unit->kv_head * group + row % group;
        attention->functions->divide(attention->output + (unit->begin + row / group) * channels +
                                         head * shape->head_dim,
                                     unit->scratch.sum + row * shape->head_dim,
                                     unit->scratch.softmax[row].total, shape->head_dim);
    }
}

/* Units are numbered so that a key/value head's blocks of tokens follow one another: its cache
 * stays near the processor. */
static void attention_task(void *context, int64_t begin, int64_t end, int thread) {
    const struct attention *attention = context;
    const struct attention_shape *shape = attention->shape;
    const int64_t step = tokens_of_unit(shape, attention->tokens);
    const int64_t blocks = (attention->tokens + step - 1) / step;
    void *scratch = team_scratch(attention->compute->team, thread);
    assert(scratch != NULL);
    for (int64_t item = begin; item < end; item++) {
        struct unit unit = {.kv_head = (int)(item / blocks), .begin = item % blocks * step};
        unit.end = minimum(unit.begin + step, attention->tokens);
        unit.rows = (unit.end - unit.begin) * group_size(shape);
        unit.scratch = scratch_layout(shape, attention->tokens, scratch);
        memset(unit.scratch.sum, 0, (size_t)(unit.rows * shape->head_dim) * sizeof(float));
        for (int64_t row = 0; row < unit.rows; row++)
            unit.scratch.softmax[row] = (struct softmax){.largest = -INFINITY};
        load_queries(attention, &unit);
        const int64_t first = first_seen(shape, attention->position + unit.begin);
        const int64_t last = attention->position + unit.end - 1;
        for (int64_t block = first / KEY_BLOCK; block <= last / KEY_BLOCK; block++)
            attend_block(attention, &unit, block);
        store_output(attention, &unit);
    }
}

void attention_run(const struct compute *compute, float *output, const float *queries,
                   int64_t query_stride, const void *cache, const struct attention_shape *shape,
                   int64_t position, int64_t tokens) {
    assert(shape->heads % shape->kv_heads == 0);
    assert(position + tokens <= shape->context);
    assert(team_scratch_bytes(compute->team) >= attention_scratch_bytes(shape, tokens));
    struct attention attention = {rows_of_path(compute->path),
                                  shape,
                                  compute,
                                  output,
                                  queries,
                                  query_stride,
                                  cache,
                                  position,
                                  tokens};
    const int64_t step = tokens_of_unit(shape, tokens);
    team_for(compute->team, shape->kv_heads * ((tokens + step - 1) / step), 1, attention_task,
             &attention);
}
