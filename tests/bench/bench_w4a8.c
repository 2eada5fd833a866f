/* The integer products against oneDNN's s8 x s8 -> s32 and against the peak of the path's own
 * instruction; one token against the speed at which memory is read.
 *
 * Weights come from memory: each call takes the next of enough matrices to exceed the last-level
 * cache. The contenders take turns, call by call, and each figure is the best of its calls, in
 * GOP/s (a multiplication and an addition are two). `ours` counts quantizing the activations, `run`
 * does not. oneDNN gets X as int8 already; `packed` also W in the layout that it likes best. All
 * matrices, its own too, lie in large pages. Usage: bench_w4a8 [PATH [THREADS...]] */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <dnnl.h>
#include <omp.h>

#include "kernels/memory.h"
#include "kernels/w4a8.h"
#include "tests/bench/measure.h"

enum { MATRICES = 8, CALLS = 10 };

struct shape {
    int64_t m, k, n;
};

static void *allocate(size_t bytes) {
    void *memory = memory_allocate(bytes);
    if (memory == NULL) {
        fprintf(stderr, "bench_w4a8: out of memory\n");
        exit(3);
    }
    return memory;
}

static void fill(uint8_t *bytes, size_t count) {
    uint32_t state = 1;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(state >> 24);
    }
}

static double lesser(double a, double b) {
    return a < b ? a : b;
}

/* How many matrices of so many bytes exceed the last-level cache twice. */
static int matrix_count(size_t bytes) {
    const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    const size_t wanted = 2 * (size_t)(cache > 0 ? cache : 32 << 20) / bytes + 2;
    return wanted < MATRICES ? (int)wanted : MATRICES;
}

/* ---- Ours ---- */

struct ours {
    struct w4a8_weight weight;
    void *matrices[MATRICES];
    int count;
    struct w4a8_input input;
    double seconds, run_seconds;
};

static struct ours ours_create(enum kernel_path path, const struct shape *shape, int bits,
                               int64_t group_size, bool symmetric) {
    struct ours ours = {.weight = {.rows = shape->n,
                                   .columns = shape->k,
                                   .group_size = group_size,
                                   .bits = bits,
                                   .symmetric = symmetric,
                                   .path = path},
                        .seconds = 1e9,
                        .run_seconds = 1e9};
    const int64_t groups = w4a8_group_count(shape->k, group_size);
    const size_t bytes = w4a8_weight_bytes(&ours.weight);
    const size_t row_bytes = (size_t)(shape->k * bits / 8);
    uint8_t *values = malloc(row_bytes);
    float *scales = malloc((size_t)groups * sizeof *scales);
    int8_t *zero_points = malloc((size_t)groups);
    fill(values, row_bytes);
    for (int64_t i = 0; i < groups; i++) {
        scales[i] = 0.01f;
        zero_points[i] = (int8_t)(i % 16 - 8);
    }
    ours.count = matrix_count(bytes);
    for (int i = 0; i < ours.count; i++) {
        ours.matrices[i] = ours.weight.data = allocate(bytes);
        if (i > 0)
            memcpy(ours.matrices[i], ours.matrices[0], bytes);
        else
            for (int64_t row = 0; row < shape->n; row++)
                w4a8_weight_pack(&ours.weight, row, row + 1, values, scales, zero_points);
    }
    ours.input.data = allocate(w4a8_input_bytes(path, shape->m, shape->k, group_size));
    free(values);
    free(scales);
    free(zero_points);
    return ours;
}

static void ours_call(struct ours *ours, const struct compute *compute, const float *x, float *y,
                      int64_t m, int call) {
    const struct w4a8_quantization how = {.scale = 0.01f};
    const int64_t k = ours->weight.columns;
    ours->weight.data = ours->matrices[call % ours->count];
    const double begin = measure_seconds();
    w4a8_quantize(compute, &ours->input, x, m, k, k, ours->weight.group_size, &how);
    const double quantized = measure_seconds();
    w4a8_run(compute, y, ours->weight.rows, &ours->input, &ours->weight, NULL);
    const double end = measure_seconds();
    ours->seconds = lesser(ours->seconds, end - begin);
    ours->run_seconds = lesser(ours->run_seconds, end - quantized);
}

static void ours_free(struct ours *ours) {
    for (int i = 0; i < ours->count; i++)
        free(ours->matrices[i]);
    free(ours->input.data);
}

/* ---- oneDNN ---- */

static void check(dnnl_status_t status, const char *what) {
    if (status != dnnl_success) {
        fprintf(stderr, "bench_w4a8: oneDNN: %s failed (%d)\n", what, (int)status);
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
    dnnl_memory_t w[MATRICES];
    double seconds;
};

static dnnl_memory_t memory_create(const struct onednn *one, int argument) {
    const dnnl_memory_desc_t *layout =
        dnnl_primitive_desc_query_md(one->description, dnnl_query_exec_arg_md, argument);
    const size_t bytes = dnnl_memory_desc_get_size(layout);
    void *values = allocate(bytes);
    dnnl_memory_t memory;
    check(dnnl_memory_create(&memory, layout, one->engine, values), "memory");
    if (argument != DNNL_ARG_DST)
        fill(values, bytes);
    return memory;
}

static void memory_destroy(dnnl_memory_t memory) {
    void *values;
    check(dnnl_memory_get_data_handle(memory, &values), "handle");
    dnnl_memory_destroy(memory);
    free(values);
}

static struct onednn onednn_create(const struct shape *shape, bool packed) {
    struct onednn one = {.seconds = 1e9};
    dnnl_memory_desc_t x, w, y;
    dnnl_matmul_desc_t matmul;
    const dnnl_dims_t x_dims = {shape->m, shape->k}, w_dims = {shape->k, shape->n},
                      y_dims = {shape->m, shape->n};
    check(dnnl_engine_create(&one.engine, dnnl_cpu, 0), "engine");
    check(dnnl_stream_create(&one.stream, one.engine, dnnl_stream_default_flags), "stream");
    check(dnnl_memory_desc_init_by_tag(&x, 2, x_dims, dnnl_s8, dnnl_ab), "layout");
    check(dnnl_memory_desc_init_by_tag(&w, 2, w_dims, dnnl_s8,
                                       packed ? dnnl_format_tag_any : dnnl_ba),
          "layout");
    check(dnnl_memory_desc_init_by_tag(&y, 2, y_dims, dnnl_s32, dnnl_ab), "layout");
    check(dnnl_matmul_desc_init(&matmul, &x, &w, NULL, &y), "matmul");
    check(dnnl_primitive_desc_create(&one.description, &matmul, NULL, one.engine, NULL),
          "description");
    check(dnnl_primitive_create(&one.primitive, one.description), "primitive");
    one.x = memory_create(&one, DNNL_ARG_SRC);
    one.y = memory_create(&one, DNNL_ARG_DST);
    one.count = matrix_count((size_t)(shape->n * shape->k));
    for (int i = 0; i < one.count; i++)
        one.w[i] = memory_create(&one, DNNL_ARG_WEIGHTS);
    return one;
}

static void onednn_call(struct onednn *one, int call) {
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, one->x},
                                         {DNNL_ARG_WEIGHTS, one->w[call % one->count]},
                                         {DNNL_ARG_DST, one->y}};
    const double begin = measure_seconds();
    check(dnnl_primitive_execute(one->primitive, one->stream, 3, arguments), "execution");
    dnnl_stream_wait(one->stream);
    one->seconds = lesser(one->seconds, measure_seconds() - begin);
}

static void onednn_free(struct onednn *one) {
    for (int i = 0; i < one->count; i++)
        memory_destroy(one->w[i]);
    memory_destroy(one->x);
    memory_destroy(one->y);
    dnnl_primitive_destroy(one->primitive);
    dnnl_primitive_desc_destroy(one->description);
    dnnl_stream_destroy(one->stream);
    dnnl_engine_destroy(one->engine);
}

/* ---- Many tokens ---- */

struct kind {
    const char *name;
    int bits;
    int64_t group_size;
    bool symmetric;
};

static const struct kind kinds[] = {{"w4 128 zero points", 4, 128, false},
                                    {"w4 128 symmetric", 4, 128, true},
                                    {"w4 64 zero points", 4, 64, false},
                                    {"w8 row", 8, 0, true}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void bench_shape(const struct compute *compute, int threads, const struct shape *shape) {
    struct ours ours[KINDS];
    const double operations = 2e-9 * (double)shape->m * (double)shape->n * (double)shape->k;
    float *x = allocate((size_t)(shape->m * shape->k) * sizeof *x);
    float *y = allocate((size_t)(shape->m * shape->n) * sizeof *y);
    for (int64_t i = 0; i < shape->m * shape->k; i++)
        x[i] = (float)(i * 7919 % 2001 - 1000) * 1e-3f;
    for (int i = 0; i < KINDS; i++)
        ours[i] = ours_create(compute->path, shape, kinds[i].bits, kinds[i].group_size,
                              kinds[i].symmetric);
    struct onednn plain = onednn_create(shape, false), packed = onednn_create(shape, true);
    double peak = 0;
    for (int call = 0; call < CALLS; call++) {
        const double found = 1e-9 * threads * measure_peak(compute->path, INSTRUCTION_INT8_DOT);
        peak = found > peak ? found : peak;
        for (int i = 0; i < KINDS; i++)
            ours_call(&ours[i], compute, x, y, shape->m, call);
        onednn_call(&plain, call);
        onednn_call(&packed, call);
    }
    const double best = operations / lesser(plain.seconds, packed.seconds);
    printf("%lld x %lld x %lld, threads %d: peak %.0f, oneDNN plain %.0f, packed %.0f GOP/s\n",
           (long long)shape->m, (long long)shape->n, (long long)shape->k, threads, peak,
           operations / plain.seconds, operations / packed.seconds);
    for (int i = 0; i < KINDS; i++) {
        const double rate = operations / ours[i].seconds;
        printf("  %-18s run %6.0f  ours %6.0f   %.2f of oneDNN's better   %.2f of the peak\n",
               kinds[i].name, operations / ours[i].run_seconds, rate, rate / best,
               peak > 0 ? rate / peak : 0);
        ours_free(&ours[i]);
    }
    printf("  zero points / symmetric %.2f, group 64 / 128 %.2f\n",
           ours[1].seconds / ours[0].seconds, ours[0].seconds / ours[2].seconds);
    fflush(stdout);
    onednn_free(&plain);
    onednn_free(&packed);
    free(x);
    free(y);
}

/* ---- One token ---- */

typedef uint64_t line __attribute__((vector_size(64)));

struct reading {
    const line *data;
    int64_t piece; /* lines of a thread, a multiple of 4 */
    int streams;   /* 1 or 4 */
    line found[64];
};

__attribute__((target_clones("default", "avx2", "avx512f"))) static void
read_task(void *context, int64_t begin, int64_t end, int thread) {
    struct reading *reading = context;
    const line *data = reading->data + begin * reading->piece;
    const int64_t lines = (end - begin) * reading->piece, part = lines / 4;
    line sums[4] = {{0}};
    if (reading->streams == 1)
        for (int64_t i = 0; i < lines; i += 4)
            for (int j = 0; j < 4; j++)
                sums[j] |= data[i + j];
    else
        for (int64_t i = 0; i < part; i++)
            for (int j = 0; j < 4; j++)
                sums[j] |= data[j * part + i];
    reading->found[thread % 64] |= sums[0] | sums[1] | sums[2] | sums[3];
}

static double read_seconds(struct team *team, const void *data, size_t bytes, int streams) {
    struct reading reading = {
        .data = data, .piece = (int64_t)(bytes / 64) / team_size(team) & ~3, .streams = streams};
    const double begin = measure_seconds();
    team_for(team, team_size(team), 1, read_task, &reading);
    const double seconds = measure_seconds() - begin;
    volatile uint64_t used = reading.found[0][0];
    (void)used;
    return seconds;
}

static void bench_one_token(const struct compute *compute, int threads) {
    const struct shape shape = {1, 4096, 11008};
    float *x = calloc((size_t)shape.k, sizeof *x), *y = calloc((size_t)shape.n, sizeof *y);
    for (int i = 0; i < KINDS; i++) {
        struct ours ours = ours_create(compute->path, &shape, kinds[i].bits, kinds[i].group_size,
                                       kinds[i].symmetric);
        const size_t bytes = w4a8_weight_bytes(&ours.weight);
        double read = 1e9;
        for (int call = 0; call < 4 * CALLS; call++) {
            ours_call(&ours, compute, x, y, 1, 2 * call);
            const void *other = ours.matrices[(2 * call + 1) % ours.count];
            read = lesser(read, read_seconds(compute->team, other, bytes, call % 2 ? 4 : 1));
        }
        printf("one token, threads %d, %-18s %5.1f GB/s, memory %5.1f GB/s: %.2f\n", threads,
               kinds[i].name, 1e-9 * (double)bytes / ours.seconds, 1e-9 * (double)bytes / read,
               read / ours.seconds);
        fflush(stdout);
        ours_free(&ours);
    }
    free(x);
    free(y);
}

static void bench(enum kernel_path path, int threads) {
    static const struct shape shapes[] = {
        {256, 4096, 4096}, {256, 4096, 11008}, {256, 11008, 4096}, {2048, 11008, 4096}};
    const struct compute compute = {.path = path,
                                    .team = team_create(threads, w4a8_scratch_bytes())};
    omp_set_num_threads(threads);
    bench_one_token(&compute, threads);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        bench_shape(&compute, threads, &shapes[i]);
    team_destroy(compute.team);
}

int main(int argc, char **argv) {
    measure_let_openmp_sleep(argv);
    const enum kernel_path path = measure_path(argc, argv, "[PATH [THREADS...]]");
    printf("%s; rows of X x rows of W x K\n", kernel_path_name(path));
    for (int i = 2; i < argc || i == 2; i++)
        bench(path, (int)measure_number(argc, argv, i, 1));
    return 0;
}
