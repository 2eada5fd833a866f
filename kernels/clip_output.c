#include "kernels/clip_output.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/matmul.h"

enum { LANES = 16 };

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- The sample ---- */

static int64_t group_count(const struct clip_output_sample *sample) {
    return (sample->columns + sample->group_size - 1) / sample->group_size;
}

static int64_t group_width(const struct clip_output_sample *sample, int64_t group) {
    return smaller(sample->group_size, sample->columns - group * sample->group_size);
}

static int64_t group_height(const struct clip_output_sample *sample, int64_t group) {
    return sample->squares ? sample->rows : group_width(sample, group);
}

static float *group_at(const struct clip_output_sample *sample, int64_t group) {
    return sample->groups + group * sample->height * sample->group_size;
}

/* Each group's rows of x, for themselves. */
static void copy_groups(const struct clip_output_sample *sample, const float *x) {
    for (int64_t g = 0; g < group_count(sample); g++) {
        const int64_t width = group_width(sample, g);
        for (int64_t row = 0; row < sample->rows; row++)
            memcpy(group_at(sample, g) + row * width,
                   x + row * sample->columns + g * sample->group_size,
                   (size_t)width * sizeof(float));
    }
}

/* (rows, columns) -> (columns, rows) */
static void transpose(float *turned, const float *x, int64_t rows, int64_t columns) {
    enum { BLOCK = 16 };
    for (int64_t c = 0; c < columns; c += BLOCK)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t i = c; i < smaller(c + BLOCK, columns); i++)
                turned[i * rows + row] = x[row * columns + i];
}

/* H_g = (x_g)^T x_g, from x turned, (columns, rows). */
static void multiply_groups(const struct compute *compute, const struct clip_output_sample *sample,
                            const float *turned, void *packed) {
    for (int64_t g = 0; g < group_count(sample); g++) {
        const int64_t width = group_width(sample, g);
        const float *rows = turned + g * sample->group_size * sample->rows;
        struct matmul_packed x = {.data = packed};
        const struct matmul_weight weight = {.data = rows,
                                             .type = NUMBER_F32,
                                             .rows = width,
                                             .columns = sample->rows,
                                             .stride = sample->rows};
        matmul_pack(compute, &x, rows, width, sample->rows, sample->rows, MATMUL_F32, NULL);
        matmul_run(compute, group_at(sample, g), width, &x, &weight);
    }
}

bool clip_output_prepare(const struct compute *compute, const float *x, int64_t rows,
                         int64_t columns, int64_t group_size, struct clip_output_sample *sample) {
    const int64_t size = smaller(group_size ? group_size : columns, columns);
    *sample = (struct clip_output_sample){
        .columns = columns,
        .group_size = size,
        .rows = rows,
        .squares = size > rows,
        .height = smaller(size, rows),
    };
    sample->groups =
        malloc((size_t)(group_count(sample) * sample->height * size) * sizeof *sample->groups);
    if (sample->squares) {
        if (sample->groups)
            copy_groups(sample, x);
        return sample->groups != NULL;
    }
    const size_t packed_bytes = matmul_packed_bytes(compute->path, MATMUL_F32, size, rows);
    float *turned = malloc((size_t)(rows * columns) * sizeof *turned);
    void *packed = aligned_alloc(64, (packed_bytes + 63) & ~(size_t)63);
    const bool complete = sample->groups && turned && packed;
    if (complete) {
        transpose(turned, x, rows, columns);
        multiply_groups(compute, sample, turned, packed);
    }
    free(turned);
    free(packed);
    if (!complete)
        clip_output_release(sample);
    return complete;
}

void clip_output_release(struct clip_output_sample *sample) {
    free(sample->groups);
    sample->groups = NULL;
}

/* ---- The search ---- */

/* A band: the rows that are searched at once, with all their candidates. */
struct band {
    int64_t rows, columns, groups;
    float *weights;  /* (rows, columns) folded */
    float *errors;   /* (CLIP_OUTPUT_STEPS, rows, columns) w - w' */
    float *shrink;   /* (rows, groups) of a candidate */
    float *scales;   /* (rows, groups) */
    float *least;    /* (rows, groups) error of the best candidate so far */
    float *products; /* (CLIP_OUTPUT_STEPS * rows, height) */
    int8_t *zero_points;
    uint8_t *nibbles;
    void *packed, *matmul_scratch, *quantize_scratch;
};

static int64_t band_rows(int64_t columns) {
    const int64_t rows = 65536 / columns;
    return rows < 1 ? 1 : smaller(rows, 16);
}

/* The next `bytes` of memory; with memory NULL, *used grows alone. */
static void *carve(void *memory, size_t *used, size_t bytes) {
    void *at = memory ? (unsigned char *)memory + *used : NULL;
    *used += (bytes + 63) & ~(size_t)63;
    return at;
}

static struct band lay_out(enum kernel_path path, const struct clip_output_sample *sample,
                           void *memory, size_t *used) {
    const int64_t columns = sample->columns, groups = group_count(sample);
    const int64_t rows = band_rows(columns), candidates = rows * CLIP_OUTPUT_STEPS;
    const size_t weights = (size_t)(rows * columns), scales = (size_t)(rows * groups);
    *used = 0;
    return (struct band){
        .rows = rows,
        .columns = columns,
        .groups = groups,
        .weights = carve(memory, used, weights * sizeof(float)),
        .errors = carve(memory, used, weights * CLIP_OUTPUT_STEPS * sizeof(float)),
        .shrink = carve(memory, used, scales * sizeof(float)),
        .scales = carve(memory, used, scales * sizeof(float)),
        .least = carve(memory, used, scales * sizeof(float)),
        .products = carve(memory, used, (size_t)(candidates * sample->height) * sizeof(float)),
        .zero_points = carve(memory, used, scales),
        .nibbles = carve(memory, used, weights / 2 + 1),
        .packed = carve(memory, used,
                        matmul_packed_bytes(path, MATMUL_F32, candidates, sample->group_size)),
        .matmul_scratch = carve(memory, used, matmul_scratch_bytes()),
        .quantize_scratch = carve(memory, used, quantize_scratch_bytes(columns)),
    };
}

size_t clip_output_workspace(enum kernel_path path, const struct clip_output_sample *sample) {
    size_t used;
    lay_out(path, sample, NULL, &used);
    return used;
}

static float factor_of(int step) {
    return 1.0f - (float)step / 20.0f;
}

/* Row `row` of source as the kernel folds it: in f32, first the row's factor. */
static void fold_row(const struct quantize_source *source, int64_t row, float *weights) {
    const unsigned char *data = source->data;
    number_widen(weights, data + (size_t)(row * source->stride) * number_size(source->type),
                 source->type, (size_t)source->columns);
    for (int64_t c = 0; source->row_multiplier && c < source->columns; c++)
        weights[c] *= source->row_multiplier[row];
    for (int64_t c = 0; source->column_multiplier && c < source->columns; c++)
        weights[c] *= source->column_multiplier[c];
}

/* errors (count) = weights - (q - z) s, of a group whose nibbles begin at nibble `at`. */
static void subtract_group(const float *weights, const uint8_t *nibbles, int64_t at, int64_t count,
                           int zero, float scale, float *errors) {
    int64_t c = 0;
    if (at % 2 == 0) {
        const uint8_t *bytes = nibbles + at / 2;
#pragma omp simd
        for (int64_t i = 0; i < count / 2; i++) {
            const int byte = bytes[i];
            errors[2 * i] = weights[2 * i] - (float)((byte >> 4 ^ 8) - zero) * scale;
            errors[2 * i + 1] = weights[2 * i + 1] - (float)(((byte & 15) ^ 8) - zero) * scale;
        }
        c = count / 2 * 2;
    }
    for (; c < count; c++) {
        const int nibble = nibbles[(at + c) / 2] >> ((at + c) % 2 ? 0 : 4) & 15;
        errors[c] = weights[c] - (float)((nibble ^ 8) - zero) * scale;
    }
}

/* The same of one row, whose nibbles begin at nibble `begin`. */
static void subtract_levels(const struct band *band, const struct clip_output_sample *sample,
                            int64_t row, int64_t begin, bool symmetric, float *errors) {
    const float *weights = band->weights + row * band->columns;
    for (int64_t g = 0; g < band->groups; g++) {
        const float scale = band->scales[row * band->groups + g];
        const int zero = symmetric ? 0 : band->zero_points[row * band->groups + g];
        const int64_t first = g * sample->group_size;
        subtract_group(weights + first, band->nibbles, begin + first, group_width(sample, g),
                       zero + 8, scale, errors + first);
    }
}

/* The errors of all candidates; -1, or the first row that cannot be quantized. */
static int64_t try_candidates(const struct band *band, const struct clip_output_sample *sample,
                              enum kernel_path path, const struct quantize_format *format,
                              int64_t rows) {
    struct quantize_source folded = {
        .data = band->weights,
        .type = NUMBER_F32,
        .columns = band->columns,
        .stride = band->columns,
        .shrink = band->shrink,
    };
    for (int step = 0; step < CLIP_OUTPUT_STEPS; step++) {
        for (int64_t i = 0; i < rows * band->groups; i++)
            band->shrink[i] = factor_of(step);
        const int64_t bad = quantize_rows_int4(
            path, format, &folded, 0, rows, band->nibbles, band->scales,
            format->symmetric ? NULL : band->zero_points, NULL, NULL, band->quantize_scratch);
        if (bad >= 0)
            return bad;
        for (int64_t row = 0; row < rows; row++)
            subtract_levels(band, sample, row, row * band->columns, format->symmetric,
                            band->errors + (step * rows + row) * band->columns);
    }
    return -1;
}

static float dot(const float *a, const float *b, int64_t count) {
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += a[i + lane] * b[i + lane];
    for (int lane = 0; i + lane < count; lane++)
        lanes[lane] += a[i + lane] * b[i + lane];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++)
            lanes[lane] += lanes[lane + half];
    return lanes[0];
}

/* The best candidate of each row for one group. */
static void choose(const struct band *band, const struct clip_output_sample *sample,
                   enum kernel_path path, int64_t group, int64_t rows, float *shrink) {
    const int64_t width = group_width(sample, group), height = group_height(sample, group);
    const float *errors = band->errors + group * sample->group_size;
    struct matmul_packed packed = {.data = band->packed};
    const struct matmul_weight weight = {.data = group_at(sample, group),
                                         .type = NUMBER_F32,
                                         .rows = height,
                                         .columns = width,
                                         .stride = width};
    matmul_pack_serial(path, &packed, errors, CLIP_OUTPUT_STEPS * rows, width, band->columns,
                       MATMUL_F32, NULL);
    matmul_run_serial(band->products, height, &packed, &weight, band->matmul_scratch);
    for (int step = 0; step < CLIP_OUTPUT_STEPS; step++)
        for (int64_t row = 0; row < rows; row++) {
            const int64_t candidate = step * rows + row;
            const float *product = band->products + candidate * height;
            const float error = dot(
                product, sample->squares ? product : errors + candidate * band->columns, height);
            float *least = &band->least[row * band->groups + group];
            if (step == 0 || error < *least) {
                *least = error;
                shrink[row * band->groups + group] = factor_of(step);
            }
        }
}

int64_t clip_output_search(enum kernel_path path, const struct quantize_format *format,
                           const struct quantize_source *source, int64_t row_begin, int64_t row_end,
                           const struct clip_output_sample *sample, float *shrink,
                           void *workspace) {
    size_t used;
    assert(workspace != NULL);
    const struct band band = lay_out(path, sample, workspace, &used);
    for (int64_t begin = row_begin; begin < row_end; begin += band.rows) {
        const int64_t rows = smaller(band.rows, row_end - begin);
        for (int64_t row = 0; row < rows; row++)
            fold_row(source, begin + row, band.weights + row * band.columns);
        const int64_t bad = try_candidates(&band, sample, path, format, rows);
        if (bad >= 0)
            return begin + bad;
        for (int64_t g = 0; g < band.groups; g++)
            choose(&band, sample, path, g, rows, shrink + (begin - row_begin) * band.groups);
    }
    return -1;
}
