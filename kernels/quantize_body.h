/* One row of quantize_row.h, on `lanes`: 16 floats, and the few operations on them that
 * quantize_PATH.c gives before it includes this.
 *
 * A row goes in blocks of up to 16 groups, small enough for the first-level cache: one pass folds,
 * keeps and measures the weights; the grids of all 16 groups are computed at once, a group in each
 * lane; a second pass rounds and packs. A group is cut into units of 32 columns, padded with zeros,
 * which change no extreme and no sum: even columns in one vector, odd ones in another, so that the
 * two nibbles of a byte lie in the same lane. Each number thus has its place in every sum whatever
 * the path, and the bits are the same on all. */
#include <math.h>

enum {
    LANES = 16,
    UNIT = QUANTIZE_UNIT,
    GROUPS = LANES,
    CHUNK_UNITS = 4,
    CHUNK = CHUNK_UNITS * UNIT,
    PREFETCH = 8192, /* bytes */
};

/* Added to a small number, it leaves the nearest integer (half to even) in the low bits. */
static const float rounder = 0x1.8p23f;

static inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

struct extremes {
    lanes least[GROUPS], most[GROUPS]; /* of each group, with 0 */
};

/* 32 numbers from `source`, of which `count` are there. */
static inline struct pair load_unit(const void *source, enum number_type type, int64_t begin,
                                    int64_t count) {
    const unsigned char *bytes = (const unsigned char *)source + (size_t)begin * number_size(type);
    unsigned char padded[UNIT * sizeof(float)];
    if (count < UNIT) {
        memset(padded, 0, sizeof padded);
        memcpy(padded, bytes, (size_t)count * number_size(type));
        bytes = padded;
    }
    return type == NUMBER_BF16  ? pair_load_bf16(bytes)
           : type == NUMBER_F16 ? pair_load_f16(bytes)
                                : pair_load_f32(bytes);
}

/* The second pass reads nothing from memory: what follows is asked for before it. */
static inline void prefetch_unit(const void *source, enum number_type type, int64_t begin) {
    const unsigned char *ahead =
        (const unsigned char *)source + (size_t)begin * number_size(type) + PREFETCH;
    for (size_t byte = 0; byte < UNIT * number_size(type); byte += 64)
        __builtin_prefetch(ahead + byte);
}

enum folds { FOLDS_NONE, FOLDS_ROWS, FOLDS_ROWS_AND_COLUMNS };

/* First pass over one group, columns begin .. begin + count - 1. `type` and `folds` are constants
 * at each call, so that each gets a loop of its own. */
static inline __attribute__((always_inline)) struct pair
measure_group(const struct quantize_row *row, enum number_type type, enum folds folds,
              int64_t begin, int64_t count, float *folded, lanes *least, lanes *most,
              struct pair squares) {
    const lanes factor = lanes_set(row->row_multiplier);
    lanes lo = lanes_set(0), hi = lanes_set(0);
    for (int64_t at = 0; at < count; at += UNIT, folded += UNIT) {
        struct pair w = load_unit(row->data, type, begin + at, count - at);
        prefetch_unit(row->data, type, begin + at);
        if (folds != FOLDS_NONE) {
            w.even = lanes_multiply(w.even, factor);
            w.odd = lanes_multiply(w.odd, factor);
        }
        if (folds == FOLDS_ROWS_AND_COLUMNS) {
            const struct pair multiplier =
                load_unit(row->column_multiplier, NUMBER_F32, begin + at, count - at);
            w.even = lanes_multiply(w.even, multiplier.even);
            w.odd = lanes_multiply(w.odd, multiplier.odd);
        }
        lanes_store(folded, w.even);
        lanes_store(folded + LANES, w.odd);
        lo = lanes_min(w.odd, lanes_min(w.even, lo));
        hi = lanes_max(w.odd, lanes_max(w.even, hi));
        squares.even = lanes_multiply_add(w.even, w.even, squares.even);
        squares.odd = lanes_multiply_add(w.odd, w.odd, squares.odd);
    }
    *least = lo;
    *most = hi;
    return squares;
}

static inline __attribute__((always_inline)) struct pair
measure_groups(const struct quantize_row *row, enum number_type type, enum folds folds,
               int64_t begin, int64_t end, int64_t padded, struct extremes *extremes,
               struct pair squares) {
    float *folded = row->folded;
    for (int64_t g = 0; begin < end; g++, begin += row->group_size, folded += padded)
        squares = measure_group(row, type, folds, begin, smaller(end - begin, row->group_size),
                                folded, &extremes->least[g], &extremes->most[g], squares);
    return squares;
}

static struct pair measure_block(const struct quantize_row *row, int64_t begin, int64_t end,
                                 int64_t padded, struct extremes *extremes, struct pair squares) {
#define MEASURE(type)                                                                              \
    (row->column_multiplier ? measure_groups(row, type, FOLDS_ROWS_AND_COLUMNS, begin, end,        \
                                             padded, extremes, squares)                            \
     : row->row_multiplier != 1                                                                    \
         ? measure_groups(row, type, FOLDS_ROWS, begin, end, padded, extremes, squares)            \
         : measure_groups(row, type, FOLDS_NONE, begin, end, padded, extremes, squares))
    switch (row->type) {
    case NUMBER_BF16:
        return MEASURE(NUMBER_BF16);
    case NUMBER_F16:
        return MEASURE(NUMBER_F16);
    default:
        return MEASURE(NUMBER_F32);
    }
#undef MEASURE
}

/* The grids of 16 groups. offset: rounder + 8 + zero point, so that w / scale + offset has the
 * level + 8 in its low bits. */
struct grids {
    float scale[GROUPS], inverse[GROUPS], offset[GROUPS];
};

/* Returns the scales. */
static inline lanes make_grids(struct grids *grids, const struct quantize_format *format,
                               const struct extremes *extremes, int8_t zero_points[GROUPS]) {
    const lanes lo = lanes_least(extremes->least), hi = lanes_most(extremes->most);
    const bool half = format->scale_type == NUMBER_F16;
    const lanes least_scale = lanes_set(half ? 0x1p-24f : 0x1p-126f);
    const bool seven = format->range == QUANTIZE_AMAX_7;
    lanes range = lanes_subtract(hi, lo), steps = lanes_set(15);
    if (format->symmetric) {
        range = lanes_max(hi, lanes_subtract(lanes_set(0), lo));
        steps = lanes_set(seven ? 7.0f : 7.5f);
    }
    lanes scale = lanes_divide(range, steps);
    if (half)
        scale = lanes_round_up_f16(scale);
    scale = lanes_where_zero(range, lanes_set(1), lanes_max(scale, least_scale));
    lanes zero_point = lanes_set(rounder);
    if (!format->symmetric)
        zero_point = lanes_where_zero(
            range, zero_point, lanes_subtract(lanes_set(rounder - 8), lanes_divide(lo, scale)));
    lanes_store(grids->scale, scale);
    lanes_store(grids->inverse, lanes_divide(lanes_set(1), scale));
    lanes_store(grids->offset, lanes_add(zero_point, lanes_set(8)));
    lanes_store_low_bytes(zero_points, zero_point);
    return scale;
}

/* Where the second pass stands: the next unit is unit `unit` of group `group` of the block. */
struct position {
    const float *folded;
    int64_t group, unit, group_units;
};

static inline lanes round_lanes(lanes w, lanes scale, lanes inverse, lanes offset, lanes *errors) {
    const lanes level = lanes_multiply_add(w, inverse, offset);
    const lanes error = lanes_subtract_product(w, lanes_subtract(level, offset), scale);
    *errors = lanes_multiply_add(error, error, *errors);
    return level;
}

/* Levels and errors of `units` <= 4 units, to packed (64 bytes). */
static inline __attribute__((always_inline)) struct pair round_chunk(struct position *at,
                                                                     const struct grids *grids,
                                                                     int64_t units, uint8_t *packed,
                                                                     struct pair errors) {
    lanes levels[2 * CHUNK_UNITS];
#pragma GCC unroll 4
    for (int i = 0; i < CHUNK_UNITS; i++) {
        levels[2 * i] = levels[2 * i + 1] = lanes_set(rounder);
        if (i >= units)
            continue;
        const lanes scale = lanes_set(grids->scale[at->group]);
        const lanes inverse = lanes_set(grids->inverse[at->group]);
        const lanes offset = lanes_set(grids->offset[at->group]);
        levels[2 * i] = round_lanes(lanes_load(at->folded), scale, inverse, offset, &errors.even);
        levels[2 * i + 1] =
            round_lanes(lanes_load(at->folded + LANES), scale, inverse, offset, &errors.odd);
        const bool group_ends = ++at->unit == at->group_units;
        at->folded += UNIT;
        at->group += group_ends;
        at->unit = group_ends ? 0 : at->unit;
    }
    lanes_store_levels(packed, levels);
    return errors;
}

/* `count` nibbles of source to packed, from its first nibble or (odd) its second. */
static void append_nibbles(uint8_t *packed, bool odd, const uint8_t *source, int64_t count) {
    if (odd) {
        packed[0] = (uint8_t)((packed[0] & 0xf0) | source[0] >> 4);
        for (int64_t i = 1; i <= count / 2; i++)
            packed[i] = (uint8_t)(source[i - 1] << 4 | (2 * i < count ? source[i] >> 4 : 0));
    } else {
        memcpy(packed, source, (size_t)count / 2);
        if (count % 2)
            packed[count / 2] = source[count / 2] & 0xf0;
    }
}

/* Second pass over columns begin .. end - 1, which lie without gaps at at->folded. */
static struct pair round_columns(const struct quantize_row *row, int64_t begin, int64_t end,
                                 struct position *at, const struct grids *grids,
                                 struct pair errors) {
    const bool odd = (begin + row->odd) % 2;
    uint8_t *packed = row->packed + (begin + row->odd) / 2;
    uint8_t aside[CHUNK / 2];
    for (; end - begin >= CHUNK; begin += CHUNK, packed += CHUNK / 2) {
        errors = round_chunk(at, grids, CHUNK_UNITS, odd ? aside : packed, errors);
        if (odd)
            append_nibbles(packed, odd, aside, CHUNK);
    }
    if (begin < end) {
        errors = round_chunk(at, grids, (end - begin + UNIT - 1) / UNIT, aside, errors);
        append_nibbles(packed, odd, aside, end - begin);
    }
    return errors;
}

static struct pair round_block(const struct quantize_row *row, int64_t begin, int64_t end,
                               int64_t padded, const struct grids *grids, struct pair errors) {
    struct position at = {.folded = row->folded, .group_units = padded / UNIT};
    /* Where groups are whole units, the block has no gaps. */
    const int64_t step = padded == row->group_size ? end - begin : row->group_size;
    for (; begin < end; begin += step)
        errors = round_columns(row, begin, smaller(begin + step, end), &at, grids, errors);
    return errors;
}

static double sum_of_pair(struct pair pair) {
    float values[2 * LANES];
    double sum = 0;
    lanes_store(values, pair.even);
    lanes_store(values + LANES, pair.odd);
    for (int i = 0; i < 2 * LANES; i++)
        sum += (double)values[i];
    return sum;
}

static bool quantize_row(struct quantize_row *row) {
    const int64_t padded = (row->group_size + UNIT - 1) / UNIT * UNIT;
    const int64_t fitting = smaller(QUANTIZE_BLOCK / padded, GROUPS);
    const int64_t groups = fitting > 0 ? fitting : 1, block = groups * row->group_size;
    const lanes zeros = lanes_set(0);
    struct pair errors = {zeros, zeros}, squares = {zeros, zeros};
    struct extremes extremes;
    for (int g = 0; g < GROUPS; g++)
        extremes.least[g] = extremes.most[g] = zeros;
    lanes largest = zeros;
    for (int64_t begin = 0, group = 0; begin < row->columns; begin += block, group += groups) {
        const int64_t end = smaller(begin + block, row->columns);
        const int64_t here = (end - begin + row->group_size - 1) / row->group_size;
        struct grids grids;
        int8_t zero_points[GROUPS];
        squares = measure_block(row, begin, end, padded, &extremes, squares);
        largest = lanes_max(largest, make_grids(&grids, row->format, &extremes, zero_points));
        errors = round_block(row, begin, end, padded, &grids, errors);
        memcpy(row->scales + group, grids.scale, (size_t)here * sizeof *row->scales);
        if (row->zero_points)
            memcpy(row->zero_points + group, zero_points, (size_t)here);
    }
    row->sums[0] = sum_of_pair(errors);
    row->sums[1] = sum_of_pair(squares);
    /* A weight that is not finite makes its square, and so the sum, not finite. */
    float scales[LANES];
    lanes_store(scales, largest);
    bool fits = isfinite(row->sums[1]);
    for (int g = 0; g < GROUPS; g++)
        fits &= isfinite(scales[g]) != 0;
    return fits;
}

#define QUANTIZE_FUNCTIONS                                                                         \
    { .row = quantize_row }
