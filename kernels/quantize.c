#include "kernels/quantize.h"

#include <xmmintrin.h>

#include "kernels/quantize_row.h"

static const struct quantize_functions *functions_of(enum kernel_path path) {
    static const struct quantize_functions *const table[PATH_COUNT] = {
        [PATH_PORTABLE] = &quantize_portable, [PATH_AVX2] = &quantize_avx2,
        [PATH_AVX512] = &quantize_avx512,     [PATH_AVX512_BF16] = &quantize_avx512,
        [PATH_AMX] = &quantize_avx512,
    };
    return table[path];
}

int64_t quantize_group_count(const struct quantize_format *format, int64_t columns) {
    const int64_t size = format->group_size ? format->group_size : columns;
    return (columns + size - 1) / size;
}

static int64_t whole_units(int64_t columns) {
    return (columns + QUANTIZE_UNIT - 1) / QUANTIZE_UNIT * QUANTIZE_UNIT;
}

/* Scratch: the split column multiplier, then a block of folded weights, each group of them padded
 * to whole units. */
size_t quantize_scratch_bytes(int64_t columns) {
    const int64_t padded = whole_units(columns);
    return (size_t)(padded + (padded > QUANTIZE_BLOCK ? padded : QUANTIZE_BLOCK)) * sizeof(float);
}

/* Whole units alone: the rest of a row takes the multiplier as it is. */
static void split_units(float *split, const float *multiplier, int64_t columns) {
    for (int64_t c = 0; c + QUANTIZE_UNIT <= columns; c += QUANTIZE_UNIT)
        for (int64_t i = 0; i < QUANTIZE_UNIT / 2; i++) {
            split[c + i] = multiplier[c + 2 * i];
            split[c + QUANTIZE_UNIT / 2 + i] = multiplier[c + 2 * i + 1];
        }
}

int64_t quantize_rows_int4(enum kernel_path path, const struct quantize_format *format,
                           const struct quantize_source *source, int64_t row_begin, int64_t row_end,
                           uint8_t *packed, float *scales, int8_t *zero_points,
                           double *squared_error, double *squared_weight, void *scratch) {
    const struct quantize_functions *functions = functions_of(path);
    const int64_t columns = source->columns;
    const int64_t groups = quantize_group_count(format, columns);
    const int64_t group_size = format->group_size ? format->group_size : columns;
    float *folded = (float *)scratch + whole_units(columns), *split = NULL;
    if (source->column_multiplier && group_size % QUANTIZE_UNIT == 0) {
        split = scratch;
        split_units(split, source->column_multiplier, columns);
    }
    bool odd = false; /* with an odd number of columns every other row starts inside a byte */
    for (int64_t r = row_begin; r < row_end; r++) {
        const int64_t at = r - row_begin;
        struct quantize_row row = {
            .data = (const unsigned char *)source->data +
                    (size_t)(r * source->stride) * number_size(source->type),
            .type = source->type,
            .columns = columns,
            .group_size = group_size,
            .column_multiplier = source->column_multiplier,
            .split_multiplier = split,
            .row_multiplier = source->row_multiplier ? source->row_multiplier[r] : 1.0f,
            .shrink = source->shrink ? source->shrink + r * groups : NULL,
            .format = format,
            .folded = folded,
            .scales = scales + at * groups,
            .zero_points = zero_points ? zero_points + at * groups : NULL,
            .packed = packed,
            .odd = odd,
        };
        if (!functions->row(&row))
            return r;
        packed += (columns + odd) / 2;
        odd = (columns + odd) % 2;
        if (squared_error)
            squared_error[at] = row.sums[0];
        if (squared_weight)
            squared_weight[at] = row.sums[1];
    }
    _mm_sfence(); /* nibbles that went past the caches come before what the caller writes next */
    return -1;
}

void quantize_fold_row(const struct quantize_source *source, int64_t r, float *w) {
    const int64_t columns = source->columns;
    number_widen(w,
                 (const unsigned char *)source->data +
                     (size_t)(r * source->stride) * number_size(source->type),
                 source->type, (size_t)columns);
    if (source->row_multiplier) {
        const float factor = source->row_multiplier[r];
#pragma omp simd
        for (int64_t c = 0; c < columns; c++)
            w[c] *= factor;
    }
    if (source->column_multiplier) {
        const float *factors = source->column_multiplier;
#pragma omp simd
        for (int64_t c = 0; c < columns; c++)
            w[c] *= factors[c];
    }
}

struct quantize_grid quantize_grid(const struct quantize_format *format, float lo, float hi) {
    const bool half = format->scale_type == NUMBER_F16;
    const float least = half ? 0x1p-24f : 0x1p-126f;
    const float magnitude = hi > -lo ? hi : -lo;
    const float range = format->symmetric ? magnitude : hi - lo;
    const float steps = !format->symmetric ? 15.0f : format->range == QUANTIZE_AMAX_7 ? 7.0f : 7.5f;
    if (range == 0)
        return (struct quantize_grid){1, 0};
    const float exact = range / steps;
    const float rounded = half ? number_up_to_f16(exact) : exact;
    struct quantize_grid grid = {rounded > least ? rounded : least, 0};
    /* Adding it rounds to an integer, half to even. */
    const float rounder = 0x1.8p23f;
    if (!format->symmetric)
        grid.zero_point = (rounder - 8 - lo / grid.scale) - rounder;
    return grid;
}

void quantize_pack_nibbles(uint8_t *packed, const int8_t *values, int64_t count) {
    for (int64_t i = 0; i < count / 2; i++)
        packed[i] = (uint8_t)((values[2 * i] & 0x0f) << 4 | (values[2 * i + 1] & 0x0f));
    if (count % 2)
        packed[count / 2] = (uint8_t)((values[count - 1] & 0x0f) << 4);
}

void quantize_unpack_nibbles(int8_t *values, const uint8_t *packed, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        const int nibble = i % 2 ? packed[i / 2] & 0x0f : packed[i / 2] >> 4;
        values[i] = (int8_t)((nibble ^ 8) - 8);
    }
}
