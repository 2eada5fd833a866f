#include "kernels/elementwise.h"

#include "kernels/rows.h"

/* Rows handed out at once, so that a piece is about 64 KiB. */
static int64_t rows_of_piece(int64_t channels) {
    const int64_t rows = 16384 / (channels > 0 ? channels : 1);
    return rows > 0 ? rows : 1;
}

struct norm {
    const struct row_functions *rows;
    float *output;
    const float *input, *weight, *bias;
    int64_t channels;
    float epsilon;
};

static void norm_rms_task(void *context, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const struct norm *norm = context;
    for (int64_t t = begin; t < end; t++)
        norm->rows->norm_rms(norm->output + t * norm->channels, norm->input + t * norm->channels,
                             norm->weight, norm->channels, norm->epsilon);
}

void norm_rms(const struct compute *compute, float *output, const float *input, const float *weight,
              int64_t tokens, int64_t channels, float epsilon) {
    struct norm norm = {
        rows_of_path(compute->path), output, input, weight, NULL, channels, epsilon};
    team_for(compute->team, tokens, rows_of_piece(channels), norm_rms_task, &norm);
}

static void norm_layer_task(void *context, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const struct norm *norm = context;
    for (int64_t t = begin; t < end; t++)
        norm->rows->norm_layer(norm->output + t * norm->channels, norm->input + t * norm->channels,
                               norm->weight, norm->bias, norm->channels, norm->epsilon);
}

void norm_layer(const struct compute *compute, float *output, const float *input,
                const float *weight, const float *bias, int64_t tokens, int64_t channels,
                float epsilon) {
    struct norm norm = {
        rows_of_path(compute->path), output, input, weight, bias, channels, epsilon};
    team_for(compute->team, tokens, rows_of_piece(channels), norm_layer_task, &norm);
}

struct rope {
    const struct row_functions *rows;
    float *x;
    int64_t stride;
    int heads, dimension;
    const float *table;
};

static void rope_task(void *context, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const struct rope *rope = context;
    for (int64_t t = begin; t < end; t++)
        for (int head = 0; head < rope->heads; head++)
            rope->rows->rotate(rope->x + t * rope->stride + (int64_t)head * rope->dimension,
                               rope->table + t * rope->dimension, rope->dimension / 2);
}

void rope_apply(const struct compute *compute, float *x, int64_t stride, int64_t tokens, int heads,
                int dimension, const float *table, int64_t position) {
    struct rope rope = {rows_of_path(compute->path), x, stride, heads, dimension,
                        table + position * dimension};
    team_for(compute->team, tokens, rows_of_piece((int64_t)heads * dimension), rope_task, &rope);
}

struct silu {
    const struct row_functions *rows;
    float *gate;
    int64_t gate_stride;
    const float *up;
    int64_t up_stride, channels;
};

static void silu_multiply_task(void *context, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const struct silu *silu = context;
    for (int64_t t = begin; t < end; t++)
        silu->rows->silu_multiply(silu->gate + t * silu->gate_stride,
                                  silu->up + t * silu->up_stride, silu->channels);
}

void activation_silu_multiply(const struct compute *compute, float *gate, int64_t gate_stride,
                              const float *up, int64_t up_stride, int64_t tokens,
                              int64_t channels) {
    struct silu silu = {rows_of_path(compute->path), gate, gate_stride, up, up_stride, channels};
    team_for(compute->team, tokens, rows_of_piece(channels), silu_multiply_task, &silu);
}

struct pair {
    const struct row_functions *rows;
    float *x;
    const float *y;
    int64_t stride, channels;
};

static void gelu_tanh_task(void *context, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const struct pair *pair = context;
    pair->rows->gelu_tanh(pair->x + begin * pair->channels, (end - begin) * pair->channels);
}

void activation_gelu_tanh(const struct compute *compute, float *x, int64_t tokens,
                          int64_t channels) {
    struct pair pair = {rows_of_path(compute->path), x, NULL, channels, channels};
    team_for(compute->team, tokens, rows_of_piece(channels), gelu_tanh_task, &pair);
}

static void add_task(void *context, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const struct pair *pair = context;
    pair->rows->add(pair->x + begin, pair->y + begin, end - begin);
}

void elementwise_add(const struct compute *compute, float *x, const float *y, int64_t count) {
    struct pair pair = {rows_of_path(compute->path), x, y, 0, 0};
    team_for(compute->team, count, rows_of_piece(1), add_task, &pair);
}

static void add_bias_task(void *context, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const struct pair *pair = context;
    for (int64_t t = begin; t < end; t++)
        pair->rows->add(pair->x + t * pair->stride, pair->y, pair->channels);
}

void elementwise_add_bias(const struct compute *compute, float *x, int64_t stride,
                          const float *bias, int64_t tokens, int64_t channels) {
    struct pair pair = {rows_of_path(compute->path), x, bias, stride, channels};
    team_for(compute->team, tokens, rows_of_piece(channels), add_bias_task, &pair);
}

struct rounding {
    const struct row_functions *rows;
    float *x;
    int64_t stride, parts, width;
};

static void round_task(void *context, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const struct rounding *rounding = context;
    for (int64_t t = begin; t < end; t++)
        for (int64_t part = 0; part < rounding->parts; part++)
            rounding->rows->round_int8(rounding->x + t * rounding->stride + part * rounding->width,
                                       rounding->width);
}

void elementwise_round_int8(const struct compute *compute, float *x, int64_t stride, int64_t tokens,
                            int64_t parts, int64_t width) {
    struct rounding rounding = {rows_of_path(compute->path), x, stride, parts, width};
    team_for(compute->team, tokens, rows_of_piece(parts * width), round_task, &rounding);
}
