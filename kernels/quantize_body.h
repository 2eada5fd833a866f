/* One row of quantize_row.h, on `lanes`: 16 floats, and the few operations on them that
 * quantize_PATH.c gives before it includes this.
 *
 * A row goes in blocks of groups, small enough for the first-level cache: one pass folds, keeps and
 * measures the weights; then the grids are computed, 16 groups at once, one in each lane; a second
 * pass rounds and packs. A group is cut into units of 32 columns, padded with zeros,
 * which change no extreme and no sum: even columns in one vector, odd ones in another, so that the
 * two nibbles of a byte lie in the same lane. Each number thus has its place in every sum whatever
 * the path, and the bits are the same on all. */
#include <math.h>

enum {
    LANES = 16,
    UNIT = QUANTIZE_UNIT,
    GROUPS = 4 * LANES,
    CHUNK_UNITS = 4,
    CHUNK = CHUNK_UNITS * UNIT,
    PREFETCH = 3072, /* columns */
};

/* Added to a small number, it leaves the nearest integer (half to even) in the low bits. */
static const float rounder = 0x1.8p23f;

static inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* 32 numbers from number `begin` of source. */
static inline struct pair load_whole(const void *source, enum number_type type, int64_t begin) {
    const unsigned char *bytes = (const unsigned char *)source + (size_t)begin * number_size(type);
    return type == NUMBER_BF16  ? pair_load_bf16(bytes)
           : type == NUMBER_F16 ? pair_load_f16(bytes)
                                : pair_load_f32(bytes);
}

/* `count` < 32 numbers, then zeros. */
static inline struct pair load_part(const void *source, enum number_type type, int64_t begin,
                                    int64_t count) {
    unsigned char padded[UNIT * sizeof(float)] = {0};
    memcpy(padded, (const unsigned char *)source + (size_t)begin * number_size(type),
           (size_t)count * number_size(type));
    return load_whole(padded, type, 0);
}

/* The second pass reads nothing from memory: what follows is asked for before it. */
static inline void prefetch_unit(const void *source, enum number_type type, int64_t begin) {
    const uintptr_t ahead = (uintptr_t)source + (size_t)(begin + PREFETCH) * number_size(type);
    for (size_t byte = 0; byte < UNIT * number_size(type); byte += 64)
        __builtin_prefetch((const void *)(ahead + byte));
}

/* Least and greatest so far, with 0, and squares, lane by lane. */
struct measures {
    lanes least, most;
    struct pair squares;
};

enum folds { FOLDS_NONE, FOLDS_ROWS, FOLDS_ROWS_AND_COLUMNS };

/* One unit of the first pass: fold, keep, measure. */
static inline __attribute__((always_inline)) void
measure_unit(struct measures *measures, struct pair w, enum folds folds, lanes row_factor,
             struct pair column_factors, float *folded) {
    if (folds != FOLDS_NONE) {
        w.even = lanes_multiply(w.even, row_factor);
        w.odd = lanes_multiply(w.odd, row_factor);
    }
    if (folds == FOLDS_ROWS_AND_COLUMNS) {
        w.even = lanes_multiply(w.even, column_factors.even);
        w.odd = lanes_multiply(w.odd, column_factors.odd);
    }
    lanes_store(folded, w.even);
    lanes_store(folded + LANES, w.odd);
    measures->least = lanes_min(w.odd, lanes_min(w.even, measures->least));
    measures->most = lanes_max(w.odd, lanes_max(w.even, measures->most));
    measures->squares.even = lanes_multiply_add(w.even, w.even, measures->squares.even);
    measures->squares.odd = lanes_multiply_add(w.odd, w.odd, measures->squares.odd);
}

/* Least and greatest of each group of a block. */
struct extremes {
    lanes least[GROUPS], most[GROUPS];
};

/* First pass over columns begin .. end - 1, in groups of group_size, each padded to `padded`.
 * `type` and `folds` are constants at each call, so that each gets a loop of its own. Squares are
 * added to the row's. */
static inline __attribute__((always_inline)) struct pair
measure_groups(const struct quantize_row *row, enum number_type type, enum folds folds,
               int64_t begin, int64_t end, int64_t padded, struct extremes *extremes,
               struct pair squares) {
    const void *data = row->data;
    const float *multiplier = row->column_multiplier, *split = row->split_multiplier;
    const int64_t group_size = row->group_size;
    const lanes row_factor = lanes_set(row->row_multiplier);
    struct pair factors = {row_factor, row_factor};
    float *folded = row->folded;
    for (int64_t g = 0; begin < end; g++, begin += group_size, folded += padded) {
        const int64_t count = smaller(end - begin, group_size);
        struct measures measures = {lanes_set(0), lanes_set(0), squares};
        int64_t at = 0;
        for (; at + UNIT <= count; at += UNIT) {
            const struct pair w = load_whole(data, type, begin + at);
            prefetch_unit(data, type, begin + at);
            if (folds == FOLDS_ROWS_AND_COLUMNS)
                factors = split ? (struct pair){lanes_load(split + begin + at),
                                                lanes_load(split + begin + at + LANES)}
                                : load_whole(multiplier, NUMBER_F32, begin + at);
            measure_unit(&measures, w, folds, row_factor, factors, folded + at);
        }
        if (at < count) {
            const struct pair w = load_part(data, type, begin + at, count - at);
            if (folds == FOLDS_ROWS_AND_COLUMNS)
                factors = load_part(multiplier, NUMBER_F32, begin + at, count - at);
            measure_unit(&measures, w, folds, row_factor, factors, folded + at);
        }
        extremes->least[g] = measures.least;
        extremes->most[g] = measures.most;
        squares = measures.squares;
    }
    return squares;
}

static struct pair measure_block(const struct quantize_row *row, int64_t begin, int64_t end,
                                 int64_t padded, struct extremes *extremes, struct pair squares) {
    const enum folds folds = row->column_multiplier     ? FOLDS_ROWS_AND_COLUMNS
                             : row->row_multiplier != 1 ? FOLDS_ROWS
                                                        : FOLDS_NONE;
#define MEASURE_FOLDS(type, folds)                                                                 \
    measure_groups(row, type, folds, begin, end, padded, extremes, squares)
#define MEASURE(type)                                                                              \
    (folds == FOLDS_ROWS_AND_COLUMNS ? MEASURE_FOLDS(type, FOLDS_ROWS_AND_COLUMNS)                 \
     : folds == FOLDS_ROWS           ? MEASURE_FOLDS(type, FOLDS_ROWS)                             \
                                     : MEASURE_FOLDS(type, FOLDS_NONE))
    switch (row->type) {
    case NUMBER_BF16:
        return MEASURE(NUMBER_BF16);
    case NUMBER_F16:
        return MEASURE(NUMBER_F16);
    default:
        return MEASURE(NUMBER_F32);
    }
#undef MEASURE
#undef MEASURE_FOLDS
}

/* The grids of a block. offset: rounder + 8 + zero point, so that w / scale + offset has the
 * level + 8 in its low bits. */
struct grids {
    float scale[GROUPS], inverse[GROUPS], offset[GROUPS];
};

/* The grids of groups first .. first + 15, whose ranges are multiplied by shrink (16), or NULL;
 * returns their scales. */
static inline lanes make_grids(struct grids *grids, const struct quantize_format *format,
                               const struct extremes *extremes, int64_t first, const float *shrink,
                               int8_t zero_points[GROUPS]) {
    lanes lo = lanes_least(extremes->least + first);
    lanes hi = lanes_most(extremes->most + first);
    if (shrink) {
        lo = lanes_multiply(lo, lanes_load(shrink));
        hi = lanes_multiply(hi, lanes_load(shrink));
    }
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
    lanes_store(grids->scale + first, scale);
    lanes_store(grids->inverse + first, lanes_divide(lanes_set(1), scale));
    lanes_store(grids->offset + first, lanes_add(zero_point, lanes_set(8)));
    lanes_store_low_bytes(zero_points + first, zero_point);
    return scale;
}

/* Where the second pass stands: the next unit is unit `unit` of group `group` of the block. */
struct position {
    const float *folded;
    int64_t group, unit, group_units;
    bool clips; /* ranges are shrunk: levels are clamped before errors are taken */
    lanes least_level;
};

static inline lanes round_lanes(lanes w, lanes scale, lanes inverse, lanes offset,
                                const lanes *least_level, lanes *errors) {
    lanes level = lanes_multiply_add(w, inverse, offset);
    if (least_level)
        level = lanes_min(lanes_max(level, *least_level), lanes_set(rounder + 15));
    const lanes error = lanes_subtract_product(w, lanes_subtract(level, offset), scale);
    *errors = lanes_multiply_add(error, error, *errors);
    return level;
}

/* Levels and errors of `units` <= 4 units, to packed (64 bytes). alike: of one group. clips: at's.
 */
static inline __attribute__((always_inline)) struct pair
round_chunk(struct position *at, const struct grids *grids, int64_t units, bool alike, bool clips,
            uint8_t *packed, struct pair errors) {
    lanes levels[2 * CHUNK_UNITS];
    const float *folded = at->folded;
    const lanes *least = clips ? &at->least_level : NULL;
    int64_t group = at->group, unit = at->unit;
    lanes scale = lanes_set(grids->scale[group]);
    lanes inverse = lanes_set(grids->inverse[group]);
    lanes offset = lanes_set(grids->offset[group]);
#pragma GCC unroll 4
    for (int i = 0; i < CHUNK_UNITS; i++, folded += UNIT) {
        levels[2 * i] = levels[2 * i + 1] = lanes_set(rounder);
        if (i >= units)
            continue;
        if (i > 0 && !alike) {
            const bool group_ends = ++unit == at->group_units;
            group += group_ends;
            unit = group_ends ? 0 : unit;
            scale = lanes_set(grids->scale[group]);
            inverse = lanes_set(grids->inverse[group]);
            offset = lanes_set(grids->offset[group]);
        }
        levels[2 * i] =
            round_lanes(lanes_load(folded), scale, inverse, offset, least, &errors.even);
        levels[2 * i + 1] =
            round_lanes(lanes_load(folded + LANES), scale, inverse, offset, least, &errors.odd);
    }
    unit += alike ? units : 1;
    at->group = group + (unit == at->group_units);
    at->unit = unit == at->group_units ? 0 : unit;
    at->folded += units * UNIT;
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
        uint8_t *to = odd ? aside : packed;
        if (at->clips)
            errors = round_chunk(at, grids, CHUNK_UNITS, false, true, to, errors);
        else
            errors = at->group_units % CHUNK_UNITS == 0
                         ? round_chunk(at, grids, CHUNK_UNITS, true, false, to, errors)
                         : round_chunk(at, grids, CHUNK_UNITS, false, false, to, errors);
        if (odd)
            append_nibbles(packed, odd, aside, CHUNK);
    }
    if (begin < end) {
        errors = round_chunk(at, grids, (end - begin + UNIT - 1) / UNIT, false, at->clips, aside,
                             errors);
        append_nibbles(packed, odd, aside, end - begin);
    }
    return errors;
}

static struct pair round_block(const struct quantize_row *row, int64_t begin, int64_t end,
                               int64_t padded, const struct grids *grids, struct pair errors) {
    struct position at = {
        .folded = row->folded,
        .group_units = padded / UNIT,
        .clips = row->shrink != NULL,
        .least_level =
            lanes_set(row->format->symmetric && row->format->range == QUANTIZE_AMAX_7 ? rounder + 1
                                                                                      : rounder)};
    /* Where groups are whole units, the block has no gaps. */
    const int64_t step = padded == row->group_size ? end - begin : row->group_size;
    for (; begin < end; begin += step)
        errors = round_columns(row, begin, smaller(begin + step, end), &at, grids, errors);
    return errors;
}

static double sum_of_pair(struct pair pair) {
    float values[2 * LANES];
    double sums[4] = {0};
    lanes_store(values, pair.even);
    lanes_store(values + LANES, pair.odd);
    for (int i = 0; i < 2 * LANES; i += 4)
        for (int j = 0; j < 4; j++)
            sums[j] += (double)values[i + j];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

static bool quantize_row(struct quantize_row *row) {
    const int64_t padded = (row->group_size + UNIT - 1) / UNIT * UNIT;
    const int64_t fitting = smaller(QUANTIZE_BLOCK / padded, GROUPS);
    const int64_t groups = fitting > 0 ? fitting : 1, block = groups * row->group_size;
    const lanes zeros = lanes_set(0);
    struct pair errors = {zeros, zeros}, squares = {zeros, zeros};
    struct extremes extremes;
    lanes largest = zeros;
    for (int64_t begin = 0, group = 0; begin < row->columns; begin += block, group += groups) {
        const int64_t end = smaller(begin + block, row->columns);
        const int64_t here = (end - begin + row->group_size - 1) / row->group_size;
        struct grids grids;
        int8_t zero_points[GROUPS];
        float shrink[GROUPS] = {0};
        if (row->shrink)
            memcpy(shrink, row->shrink + group, (size_t)here * sizeof *shrink);
        squares = measure_block(row, begin, end, padded, &extremes, squares);
        for (int64_t g = here; g % LANES != 0; g++)
            extremes.least[g] = extremes.most[g] = zeros;
        for (int64_t g = 0; g < here; g += LANES)
            largest = lanes_max(largest, make_grids(&grids, row->format, &extremes, g,
                                                    row->shrink ? shrink + g : NULL, zero_points));
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
    for (int g = 0; g < LANES; g++)
        fits &= isfinite(scales[g]) != 0;
    return fits;
}

#define QUANTIZE_FUNCTIONS                                                                         \
    { .row = quantize_row }
