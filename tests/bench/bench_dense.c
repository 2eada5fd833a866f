/* The dense product against oneDNN's and against the peak of the path's instruction.
 *
 * Weights come from memory: each call takes the next of enough matrices to exceed the last-level
 * cache. Figures are the best of several calls, in GFLOP/s, the contestants taking turns; with one
 * thread by its processor time, so that other programs do not show. `ours` counts packing X, `run`
 * does not; oneDNN gets X in its own type already, `packed` also W in the layout that it likes
 * best. Where it has no product of bf16 numbers (no AVX-512), it gets all as f32.
 * Usage: bench_dense [PATH [THREADS...]] */
#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/matmul.h"
#include "tests/bench/measure.h"

enum { MAX_MATRICES = 16, TURNS = 10 };

struct shape {
    int64_t m, k, n;
};

struct weights {
    int count;
    void *matrices[MAX_MATRICES];
};

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (memory == NULL) {
        fprintf(stderr, "bench_dense: out of memory\n");
        exit(3);
    }
    return memory;
}

static void fill(void *values, enum number_type type, int64_t count) {
    uint32_t state = 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        const float value = (float)(int32_t)state * 0x1p-31f;
        number_narrow((char *)values + (size_t)i * number_size(type), &value, type, 1);
    }
}

static struct weights weights_create(const struct shape *shape, enum number_type type) {
    const size_t bytes = (size_t)(shape->n * shape->k) * number_size(type);
    const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    const size_t wanted = 2 * (size_t)(cache > 0 ? cache : 32 << 20) / bytes + 2;
    struct weights weights = {.count = (int)(wanted < MAX_MATRICES ? wanted : MAX_MATRICES)};
    for (int i = 0; i < weights.count; i++) {
        weights.matrices[i] = allocate(bytes);
        if (i == 0)
            fill(weights.matrices[0], type, shape->n * shape->k);
        else
            memcpy(weights.matrices[i], weights.matrices[0], bytes);
    }
    return weights;
}

static void weights_free(struct weights *weights) {
    for (int i = 0; i < weights->count; i++)
        free(weights->matrices[i]);
}

static double gigaflops(const struct shape *shape, double seconds) {
    return 2e-9 * (double)shape->m * (double)shape->n * (double)shape->k / seconds;
}

/* One thread: its processor time; more: time. */
static double now(int threads) {
    return threads == 1 ? measure_thread_seconds() : measure_seconds();
}

/* Our side of a shape. */
struct ours {
    const struct compute *compute;
    const struct shape *shape;
    const struct weights *weights;
    enum number_type type;
    enum matmul_precision precision;
    float *x, *y, *maxima;
    struct matmul_packed packed;
};

static struct ours ours_create(const struct compute *compute, const struct shape *shape,
                               const struct weights *weights, enum number_type type,
                               enum matmul_precision precision) {
    struct ours ours = {.compute = compute,
                        .shape = shape,
                        .weights = weights,
                        .type = type,
                        .precision = precision};
    ours.x = allocate((size_t)(shape->m * shape->k) * sizeof(float));
    ours.y = allocate((size_t)(shape->m * shape->n) * sizeof(float));
    ours.maxima = allocate((size_t)shape->k * sizeof(float));
    ours.packed.data = allocate(matmul_packed_bytes(compute->path, precision, shape->m, shape->k));
    fill(ours.x, NUMBER_F32, shape->m * shape->k);
    memset(ours.maxima, 0, (size_t)shape->k * sizeof(float));
    return ours;
}

static void ours_free(struct ours *ours) {
    free(ours->packed.data);
    free(ours->maxima);
    free(ours->y);
    free(ours->x);
}

static void ours_pack(struct ours *ours) {
    matmul_pack(ours->compute, &ours->packed, ours->x, ours->shape->m, ours->shape->k,
                ours->shape->k, ours->precision, ours->maxima);
}

static void ours_run(struct ours *ours, int turn) {
    const struct matmul_weight w = {.data = ours->weights->matrices[turn % ours->weights->count],
                                    .type = ours->type,
                                    .rows = ours->shape->n,
                                    .columns = ours->shape->k,
                                    .stride = ours->shape->k};
    matmul_run(ours->compute, ours->y, ours->shape->n, &ours->packed, &w);
}

static void check(dnnl_status_t status, const char *what) {
    if (status != dnnl_success) {
        fprintf(stderr, "bench_dense: oneDNN: %s failed (%d)\n", what, (int)status);
        exit(3);
    }
}

struct onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_desc_t description;
    dnnl_primitive_t primitive;
    dnnl_memory_t x, y;
    int count;
    dnnl_memory_t w[MAX_MATRICES];
};

static dnnl_memory_t memory_create(struct onednn *one, int argument, void *data) {
    const dnnl_memory_desc_t *layout =
        dnnl_primitive_desc_query_md(one->description, dnnl_query_exec_arg_md, argument);
    dnnl_memory_t memory;
    check(dnnl_memory_create(&memory, layout, one->engine, data), "memory");
    return memory;
}

static void set_weights(struct onednn *one, const struct weights *weights,
                        const dnnl_memory_desc_t *plain, bool packed) {
    one->count = weights->count;
    for (int i = 0; i < one->count; i++) {
        one->w[i] = memory_create(one, DNNL_ARG_WEIGHTS,
                                  packed ? DNNL_MEMORY_ALLOCATE : weights->matrices[i]);
        if (!packed)
            continue;
        dnnl_memory_t source;
        dnnl_primitive_desc_t description;
        dnnl_primitive_t reorder;
        check(dnnl_memory_create(&source, plain, one->engine, weights->matrices[i]), "memory");
        check(dnnl_reorder_primitive_desc_create(
                  &description, plain, one->engine,
                  dnnl_primitive_desc_query_md(one->description, dnnl_query_weights_md, 0),
                  one->engine, NULL),
              "reorder description");
        check(dnnl_primitive_create(&reorder, description), "reorder");
        const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, source}, {DNNL_ARG_TO, one->w[i]}};
        check(dnnl_primitive_execute(reorder, one->stream, 2, arguments), "reordering");
        dnnl_stream_wait(one->stream);
        dnnl_primitive_destroy(reorder);
        dnnl_primitive_desc_destroy(description);
        dnnl_memory_destroy(source);
    }
}

/* NULL: oneDNN has none for these numbers here. */
static dnnl_primitive_desc_t describe(dnnl_engine_t engine, const dnnl_memory_desc_t *x,
                                      const dnnl_memory_desc_t *w, const dnnl_memory_desc_t *y) {
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_t description = NULL;
    check(dnnl_matmul_desc_init(&matmul, x, w, NULL, y), "matmul");
    const dnnl_status_t status =
        dnnl_primitive_desc_create(&description, &matmul, NULL, engine, NULL);
    check(status == dnnl_unimplemented ? dnnl_success : status, "description");
    return description;
}

static bool onednn_has_bf16(void) {
    const dnnl_dims_t dims = {256, 256};
    dnnl_engine_t engine;
    dnnl_memory_desc_t x, y;
    check(dnnl_engine_create(&engine, dnnl_cpu, 0), "engine");
    check(dnnl_memory_desc_init_by_tag(&x, 2, dims, dnnl_bf16, dnnl_ab), "layout");
    check(dnnl_memory_desc_init_by_tag(&y, 2, dims, dnnl_f32, dnnl_ab), "layout");
    dnnl_primitive_desc_t description = describe(engine, &x, &x, &y);
    dnnl_primitive_desc_destroy(description);
    dnnl_engine_destroy(engine);
    return description != NULL;
}

static struct onednn onednn_create(const struct shape *shape, const struct weights *weights,
                                   enum number_type type, bool packed) {
    struct onednn one = {0};
    dnnl_memory_desc_t x, plain, any, y;
    const dnnl_data_type_t data_type = type == NUMBER_F32 ? dnnl_f32 : dnnl_bf16;
    const dnnl_dims_t x_dims = {shape->m, shape->k}, w_dims = {shape->k, shape->n};
    const dnnl_dims_t y_dims = {shape->m, shape->n};
    check(dnnl_engine_create(&one.engine, dnnl_cpu, 0), "engine");
    check(dnnl_stream_create(&one.stream, one.engine, dnnl_stream_default_flags), "stream");
    check(dnnl_memory_desc_init_by_tag(&x, 2, x_dims, data_type, dnnl_ab), "layout");
    check(dnnl_memory_desc_init_by_tag(&plain, 2, w_dims, data_type, dnnl_ba), "layout");
    check(dnnl_memory_desc_init_by_tag(&any, 2, w_dims, data_type, dnnl_format_tag_any), "layout");
    check(dnnl_memory_desc_init_by_tag(&y, 2, y_dims, dnnl_f32, dnnl_ab), "layout");
    one.description = describe(one.engine, &x, packed ? &any : &plain, &y);
    check(dnnl_primitive_create(&one.primitive, one.description), "primitive");
    one.x = memory_create(&one, DNNL_ARG_SRC, DNNL_MEMORY_ALLOCATE);
    one.y = memory_create(&one, DNNL_ARG_DST, DNNL_MEMORY_ALLOCATE);
    void *values;
    check(dnnl_memory_get_data_handle(one.x, &values), "handle");
    fill(values, type, shape->m * shape->k);
    set_weights(&one, weights, &plain, packed);
    return one;
}

static void onednn_run(struct onednn *one, int turn) {
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, one->x},
                                         {DNNL_ARG_WEIGHTS, one->w[turn % one->count]},
                                         {DNNL_ARG_DST, one->y}};
    check(dnnl_primitive_execute(one->primitive, one->stream, 3, arguments), "execution");
    dnnl_stream_wait(one->stream);
}

static void onednn_free(struct onednn *one) {
    for (int i = 0; i < one->count; i++)
        dnnl_memory_destroy(one->w[i]);
    dnnl_memory_destroy(one->x);
    dnnl_memory_destroy(one->y);
    dnnl_primitive_destroy(one->primitive);
    dnnl_primitive_desc_destroy(one->description);
    dnnl_stream_destroy(one->stream);
    dnnl_engine_destroy(one->engine);
}

enum { PACK, RUN, PLAIN, PACKED, CONTESTANTS };

/* The least seconds of each contestant. */
static void measure(double best[CONTESTANTS], struct ours *ours, struct onednn *plain,
                    struct onednn *packed, int threads) {
    for (int i = 0; i < CONTESTANTS; i++)
        best[i] = 1e9;
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < CONTESTANTS; i++) {
            const double begin = now(threads);
            if (i == PACK)
                ours_pack(ours);
            else if (i == RUN)
                ours_run(ours, turn);
            else
                onednn_run(i == PLAIN ? plain : packed, turn);
            const double taken = now(threads) - begin;
            best[i] = taken < best[i] ? taken : best[i];
        }
    }
}

static void bench_shape(const struct compute *compute, const struct shape *shape,
                        enum matmul_precision precision) {
    const int threads = team_size(compute->team);
    const enum number_type type = precision == MATMUL_BF16 ? NUMBER_BF16 : NUMBER_F32;
    const enum instruction instruction =
        precision == MATMUL_BF16 && compute->path >= PATH_AVX512_BF16 ? INSTRUCTION_BF16_DOT
                                                                      : INSTRUCTION_F32_FMA;
    struct weights weights = weights_create(shape, type);
    struct ours ours = ours_create(compute, shape, &weights, type, precision);
    const bool widened = type == NUMBER_BF16 && !onednn_has_bf16();
    const enum number_type one_type = widened ? NUMBER_F32 : type;
    struct weights wide = widened ? weights_create(shape, one_type) : (struct weights){0};
    struct onednn plain = onednn_create(shape, widened ? &wide : &weights, one_type, false);
    struct onednn packed = onednn_create(shape, widened ? &wide : &weights, one_type, true);
    double seconds[CONTESTANTS];
    const double peak = 1e-9 * threads * measure_peak(compute->path, instruction);
    measure(seconds, &ours, &plain, &packed, threads);
    const double both = gigaflops(shape, seconds[PACK] + seconds[RUN]);
    const double plain_rate = gigaflops(shape, seconds[PLAIN]);
    const double packed_rate = gigaflops(shape, seconds[PACKED]);
    const double best = plain_rate > packed_rate ? plain_rate : packed_rate;
    printf("%-4s %7d  %4lld x %5lld x %5lld  %7.0f %7.0f %7.0f %7.0f %7.0f   %5.2f %5.2f\n",
           precision == MATMUL_BF16 ? "bf16" : "f32", threads, (long long)shape->m,
           (long long)shape->k, (long long)shape->n, peak, gigaflops(shape, seconds[RUN]), both,
           plain_rate, packed_rate, both / best, both / peak);
    fflush(stdout);
    onednn_free(&packed);
    onednn_free(&plain);
    ours_free(&ours);
    weights_free(&wide);
    weights_free(&weights);
}

static void bench(enum kernel_path path, int threads) {
    static const struct shape shapes[] = {
        {256, 4096, 4096}, {256, 4096, 11008}, {256, 11008, 4096}};
    const struct compute compute = {.path = path,
                                    .team = team_create(threads, matmul_scratch_bytes())};
    omp_set_num_threads(threads);
    for (int precision = 0; precision < 2; precision++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            bench_shape(&compute, &shapes[i], (enum matmul_precision)precision);
    team_destroy(compute.team);
}

int main(int argc, char **argv) {
    measure_let_openmp_sleep(argv);
    const enum kernel_path path = measure_path(argc, argv, "[PATH [THREADS...]]");
    printf("%s\n%-4s %7s  %4s x %5s x %5s  %7s %7s %7s %7s %7s   %5s %5s\n", kernel_path_name(path),
           "type", "threads", "M", "K", "N", "peak", "run", "ours", "plain", "packed", "/one",
           "/peak");
    for (int i = 2; i < argc || i == 2; i++)
        bench(path, (int)measure_number(argc, argv, i, 1));
    return 0;
}
