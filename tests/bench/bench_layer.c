/* A layer of LLaMA-7B's shape in calibration: a sequence of 2048 tokens in chunks of 256, bf16
 * weights from memory, maxima taken while packing. Prints the rate of the dense products alone, of
 * the whole layer, their ratio, and where the time goes.
 *
 * Operations counted: 2 M N K for a dense product; attention 4 head_dim for each head and each pair
 * of a query and a key that it sees (the causal half, both products). Norms and the like count
 * none.
 *
 * bench_layer [PATH [THREADS...]]: each part's least time of ROUNDS rounds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "tests/bench/measure.h"
#include "tests/random.h"

enum { CHANNELS = 4096, HIDDEN = 11008, HEADS = 32, HEAD_DIM = 128, CONTEXT = 2048, CHUNK = 256 };
enum { LAYERS = 2, ROUNDS = 3 };

enum part { DENSE, PACK, ATTENTION, APPEND, ROPE, NORM, SILU, ADD, PARTS };
static const char *const part_names[PARTS] = {
    "dense products", "packing and maxima", "attention",   "cache append", "rope",
    "norms",          "silu multiply",      "residual add"};

struct layer {
    uint16_t *q, *k, *v, *o, *gate, *up, *down;
};

struct bench {
    struct compute compute;
    struct layer layers[LAYERS];
    struct attention_shape shape;
    void *cache;
    float *norm, *table, *residual, *x, *qkv, *attended, *gate, *up, *maxima;
    struct matmul_packed packed;
    double seconds[PARTS], mark;
};

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (memory == NULL) {
        fprintf(stderr, "bench_layer: no memory\n");
        exit(1);
    }
    memset(memory, 0, bytes);
    return memory;
}

static float *random_floats(struct random *random, size_t count) {
    float *x = allocate(count * sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = random_normal(random);
    return x;
}

/* Uniform in +-sqrt(3 / columns): outputs as large as inputs. */
static uint16_t *random_weights(struct random *random, size_t rows, size_t columns) {
    uint16_t *w = allocate(rows * columns * sizeof *w);
    const float scale = 2.0f * sqrtf(3.0f / (float)columns);
    for (size_t i = 0; i < rows * columns; i++)
        w[i] = number_to_bf16(scale * ((float)random_uniform(random) - 0.5f));
    return w;
}

/* The time since the last mark is that of the part. */
static void mark(struct bench *bench, enum part part) {
    const double t = measure_seconds();
    bench->seconds[part] += t - bench->mark;
    bench->mark = t;
}

static void pack(struct bench *bench, const float *x, int64_t columns) {
    matmul_pack(&bench->compute, &bench->packed, x, CHUNK, columns, columns, MATMUL_BF16,
                bench->maxima);
    mark(bench, PACK);
}

static void multiply(struct bench *bench, float *y, int64_t stride, const uint16_t *w,
                     int64_t rows) {
    const struct matmul_weight weight = {.data = w,
                                         .type = NUMBER_BF16,
                                         .rows = rows,
                                         .columns = bench->packed.columns,
                                         .stride = bench->packed.columns};
    matmul_run(&bench->compute, y, stride, &bench->packed, &weight);
    mark(bench, DENSE);
}

static void run_attention(struct bench *bench, const struct layer *layer, int64_t position) {
    const struct compute *compute = &bench->compute;
    float *q = bench->qkv, *k = q + CHANNELS, *v = k + CHANNELS;
    const int64_t stride = 3 * CHANNELS;
    norm_rms(compute, bench->x, bench->residual, bench->norm, CHUNK, CHANNELS, 1e-5f);
    mark(bench, NORM);
    pack(bench, bench->x, CHANNELS);
    multiply(bench, q, stride, layer->q, CHANNELS);
    multiply(bench, k, stride, layer->k, CHANNELS);
    multiply(bench, v, stride, layer->v, CHANNELS);
    rope_apply(compute, q, stride, CHUNK, 2 * HEADS, HEAD_DIM, bench->table, position);
    mark(bench, ROPE);
    attention_append(compute, bench->cache, &bench->shape, position, CHUNK, k, v, stride);
    mark(bench, APPEND);
    attention_run(compute, bench->attended, q, stride, bench->cache, &bench->shape, position,
                  CHUNK);
    mark(bench, ATTENTION);
    pack(bench, bench->attended, CHANNELS);
    multiply(bench, bench->x, CHANNELS, layer->o, CHANNELS);
    elementwise_add(compute, bench->residual, bench->x, (int64_t)CHUNK * CHANNELS);
    mark(bench, ADD);
}

static void run_feed_forward(struct bench *bench, const struct layer *layer) {
    const struct compute *compute = &bench->compute;
    norm_rms(compute, bench->x, bench->residual, bench->norm, CHUNK, CHANNELS, 1e-5f);
    mark(bench, NORM);
    pack(bench, bench->x, CHANNELS);
    multiply(bench, bench->gate, HIDDEN, layer->gate, HIDDEN);
    multiply(bench, bench->up, HIDDEN, layer->up, HIDDEN);
    activation_silu_multiply(compute, bench->gate, HIDDEN, bench->up, HIDDEN, CHUNK, HIDDEN);
    mark(bench, SILU);
    pack(bench, bench->gate, HIDDEN);
    multiply(bench, bench->x, CHANNELS, layer->down, CHANNELS);
    elementwise_add(compute, bench->residual, bench->x, (int64_t)CHUNK * CHANNELS);
    mark(bench, ADD);
}

static struct bench bench_create(enum kernel_path path) {
    struct random random = random_start();
    struct bench bench = {
        .shape = {.heads = HEADS,
                  .kv_heads = HEADS,
                  .head_dim = HEAD_DIM,
                  .context = CONTEXT,
                  .scale = 1.0f / sqrtf(HEAD_DIM),
                  .precision = MATMUL_BF16},
        .norm = random_floats(&random, CHANNELS),
        .table = allocate(CONTEXT * HEAD_DIM * sizeof(float)),
        .residual = random_floats(&random, CHUNK * CHANNELS),
        .x = allocate(CHUNK * CHANNELS * sizeof(float)),
        .qkv = allocate(3 * CHUNK * CHANNELS * sizeof(float)),
        .attended = allocate(CHUNK * CHANNELS * sizeof(float)),
        .gate = allocate(CHUNK * HIDDEN * sizeof(float)),
        .up = allocate(CHUNK * HIDDEN * sizeof(float)),
        .maxima = allocate(HIDDEN * sizeof(float)),
    };
    bench.compute.path = path;
    bench.cache = allocate(attention_cache_bytes(&bench.shape));
    bench.packed.data =
        allocate(matmul_packed_bytes(bench.compute.path, MATMUL_BF16, CHUNK, HIDDEN));
    rope_table_fill(bench.table, CONTEXT, HEAD_DIM, 10000.0f,
                    &(struct rope_scaling){.kind = ROPE_PLAIN});
    for (int i = 0; i < LAYERS; i++)
        bench.layers[i] = (struct layer){
            .q = random_weights(&random, CHANNELS, CHANNELS),
            .k = random_weights(&random, CHANNELS, CHANNELS),
            .v = random_weights(&random, CHANNELS, CHANNELS),
            .o = random_weights(&random, CHANNELS, CHANNELS),
            .gate = random_weights(&random, HIDDEN, CHANNELS),
            .up = random_weights(&random, HIDDEN, CHANNELS),
            .down = random_weights(&random, CHANNELS, HIDDEN),
        };
    return bench;
}

static void measure(struct bench *bench, int threads) {
    size_t scratch = matmul_scratch_bytes();
    const size_t attention_scratch = attention_scratch_bytes(&bench->shape, CHUNK);
    scratch = attention_scratch > scratch ? attention_scratch : scratch;
    bench->compute.team = team_create(threads, scratch);
    double least[PARTS];
    for (int round = 0; round < ROUNDS; round++) {
        memset(bench->seconds, 0, sizeof bench->seconds);
        for (int64_t position = 0; position < CONTEXT; position += CHUNK) {
            for (int i = 0; i < LAYERS; i++) {
                bench->mark = measure_seconds();
                run_attention(bench, &bench->layers[i], position);
                run_feed_forward(bench, &bench->layers[i]);
            }
        }
        for (int part = 0; part < PARTS; part++)
            if (round == 0 || bench->seconds[part] < least[part])
                least[part] = bench->seconds[part];
    }
    team_destroy(bench->compute.team);

    const double dense = 2.0 * LAYERS * CONTEXT * CHANNELS * (4.0 * CHANNELS + 3.0 * HIDDEN);
    const double pairs = 0.5 * CONTEXT * (CONTEXT + 1.0);
    const double attention = 4.0 * LAYERS * pairs * HEADS * HEAD_DIM;
    double total = 0.0;
    for (int part = 0; part < PARTS; part++)
        total += least[part];
    const double dense_rate = dense / least[DENSE] * 1e-9;
    const double whole_rate = (dense + attention) / total * 1e-9;
    printf("%s, %d thread%s: dense products %.0f GFLOP/s, whole layer %.0f GFLOP/s, ratio %.3f\n",
           kernel_path_name(bench->compute.path), threads, threads > 1 ? "s" : "", dense_rate,
           whole_rate, whole_rate / dense_rate);
    const int chunks = LAYERS * CONTEXT / CHUNK;
    for (int part = 0; part < PARTS; part++)
        printf("  %-20s %8.2f ms a chunk  %5.2f %%\n", part_names[part], least[part] * 1e3 / chunks,
               100.0 * least[part] / total);
    printf("  attention alone %.0f GFLOP/s\n", attention / least[ATTENTION] * 1e-9);
}

int main(int argc, char **argv) {
    struct bench bench = bench_create(measure_path(argc, argv, "[PATH [THREADS...]]"));
    for (int i = 2; i < argc || i == 2; i++)
        measure(&bench, (int)measure_number(argc, argv, i, 1));
    return 0;
}
