/* The definitions of quantize_row.h, on `lanes`: 16 floats and the few operations that
 * quantize_PATH.c gives for them before it includes this. No fused multiply-add and a fixed place
 * for every sum and extreme (column c in lane c % 16), so the bits are the same on every path. */
#include <math.h>

enum { LANES = 16 };

/* Extremes of a group, with 0; squares of the row so far. */
struct measured {
    lanes least, most, squares;
};

static inline struct measured measure_lanes(struct measured found, lanes w) {
    return (struct measured){lanes_min(w, found.least), lanes_max(w, found.most),
                             lanes_add(found.squares, lanes_multiply(w, w))};
}

/* Round up to the stored type: a scale rounded down would leave the extreme weight beyond half a
 * step. */
static inline float stored_scale(float scale, enum number_type type) {
    if (type == NUMBER_F32)
        return scale;
    uint16_t bits = number_to_f16(scale);
    if (number_from_f16(bits) < scale)
        bits++;
    return number_from_f16(bits);
}

struct grid {
    float scale, zero_point, least, most;
};

static inline struct grid make_grid(const struct measured *found,
                                    const struct quantize_format *format) {
    const float lo = lanes_least(found->least), hi = lanes_most(found->most);
    const float amax = hi > -lo ? hi : -lo;
    const bool seven = format->symmetric && format->range == QUANTIZE_AMAX_7;
    const float scale = format->symmetric ? amax / (seven ? 7.0f : 7.5f) : (hi - lo) / 15.0f;
    struct grid grid = {.scale = scale > 0 ? stored_scale(scale, format->scale_type) : 1.0f,
                        .least = seven ? -7 : -8,
                        .most = 7};
    if (!format->symmetric && lo < hi)
        grid.zero_point = nearbyintf(-8.0f - lo / grid.scale);
    return grid;
}

/* A grid in every lane. */
struct grid_lanes {
    lanes scale, inverse, zero_point, least, most;
};

static inline lanes round_lanes(lanes w, const struct grid_lanes *grid, lanes *errors) {
    const lanes steps = lanes_round(lanes_multiply(w, grid->inverse));
    const lanes level =
        lanes_min(lanes_max(lanes_add(steps, grid->zero_point), grid->least), grid->most);
    const lanes error =
        lanes_subtract(w, lanes_multiply(lanes_subtract(level, grid->zero_point), grid->scale));
    *errors = lanes_add(*errors, lanes_multiply(error, error));
    return level;
}

/* First pass over whole blocks of 16: fold, keep, measure. `type` and `folds` are constants at each
 * call, so that each gets a loop of its own. */
static inline struct measured measure_whole(const struct quantize_row *row, enum number_type type,
                                            bool folds, int64_t begin, int64_t end,
                                            struct measured found) {
    const uint16_t *halves = row->data;
    const float *floats = row->data, *multiplier = row->column_multiplier;
    const lanes factor = lanes_set(row->row_multiplier);
    float *folded = row->folded;
    for (int64_t c = begin; c < end; c += LANES) {
        lanes w = type == NUMBER_BF16  ? lanes_load_bf16(halves + c)
                  : type == NUMBER_F16 ? lanes_load_f16(halves + c)
                                       : lanes_load(floats + c);
        w = lanes_multiply(w, factor);
        if (folds)
            w = lanes_multiply(w, lanes_load(multiplier + c));
        lanes_store(folded + c, w);
        found = measure_lanes(found, w);
    }
    return found;
}

/* Columns of one block of 16 that a group does not fill: copied to their lanes of a block of zeros,
 * which change no extreme and no sum. */
static inline struct measured measure_part(const struct quantize_row *row, int64_t begin,
                                           int64_t end, struct measured found) {
    float block[LANES] = {0};
    float *w = block + begin % LANES;
    number_widen(w, (const unsigned char *)row->data + (size_t)begin * number_size(row->type),
                 row->type, (size_t)(end - begin));
    for (int64_t i = 0; i < end - begin; i++) {
        w[i] *= row->row_multiplier;
        if (row->column_multiplier)
            w[i] *= row->column_multiplier[begin + i];
    }
    memcpy(row->folded + begin, w, (size_t)(end - begin) * sizeof *w);
    return measure_lanes(found, lanes_load(block));
}

static inline struct measured measure_blocks(const struct quantize_row *row, int64_t begin,
                                             int64_t end, struct measured found) {
    const bool folds = row->column_multiplier != NULL;
    switch (row->type) {
    case NUMBER_BF16:
        return folds ? measure_whole(row, NUMBER_BF16, true, begin, end, found)
                     : measure_whole(row, NUMBER_BF16, false, begin, end, found);
    case NUMBER_F16:
        return folds ? measure_whole(row, NUMBER_F16, true, begin, end, found)
                     : measure_whole(row, NUMBER_F16, false, begin, end, found);
    default:
        return folds ? measure_whole(row, NUMBER_F32, true, begin, end, found)
                     : measure_whole(row, NUMBER_F32, false, begin, end, found);
    }
}

/* A group's columns: a part of a block, whole blocks, a part of a block. */
struct extent {
    int64_t begin, whole_begin, whole_end, end;
};

static inline struct extent extent_of(int64_t begin, int64_t end) {
    struct extent extent = {begin, (begin + LANES - 1) / LANES * LANES, end / LANES * LANES, end};
    if (extent.whole_begin > extent.whole_end) /* all inside one block */
        extent.whole_begin = extent.whole_end = end;
    return extent;
}

static inline struct measured measure_group(const struct quantize_row *row,
                                            const struct extent *extent, lanes squares) {
    struct measured found = {lanes_set(0), lanes_set(0), squares};
    if (extent->begin < extent->whole_begin)
        found = measure_part(row, extent->begin, extent->whole_begin, found);
    found = measure_blocks(row, extent->whole_begin, extent->whole_end, found);
    if (extent->whole_end < extent->end)
        found = measure_part(row, extent->whole_end, extent->end, found);
    return found;
}

static inline lanes round_part(const struct quantize_row *row, int64_t begin, int64_t end,
                               const struct grid_lanes *grid, lanes errors) {
    float block[LANES] = {0};
    int8_t levels[LANES];
    const int64_t first = begin % LANES;
    memcpy(block + first, row->folded + begin, (size_t)(end - begin) * sizeof *block);
    lanes_store_int8(levels, round_lanes(lanes_load(block), grid, &errors));
    memcpy(row->levels + begin, levels + first, (size_t)(end - begin));
    return errors;
}

/* Second pass: levels, and the squared errors added to the row's. */
static inline lanes round_group(const struct quantize_row *row, const struct extent *extent,
                                const struct grid *group, lanes errors) {
    const struct grid_lanes grid = {lanes_set(group->scale), lanes_set(1.0f / group->scale),
                                    lanes_set(group->zero_point), lanes_set(group->least),
                                    lanes_set(group->most)};
    const float *folded = row->folded;
    int8_t *levels = row->levels;
    if (extent->begin < extent->whole_begin)
        errors = round_part(row, extent->begin, extent->whole_begin, &grid, errors);
    for (int64_t c = extent->whole_begin; c < extent->whole_end; c += LANES)
        lanes_store_int8(levels + c, round_lanes(lanes_load(folded + c), &grid, &errors));
    if (extent->whole_end < extent->end)
        errors = round_part(row, extent->whole_end, extent->end, &grid, errors);
    return errors;
}

static double sum_of_lanes(lanes a) {
    float values[LANES];
    double sum = 0;
    lanes_store(values, a);
    for (int lane = 0; lane < LANES; lane++)
        sum += (double)values[lane];
    return sum;
}

static bool quantize_row(struct quantize_row *row) {
    lanes errors = lanes_set(0), squares = lanes_set(0);
    bool fits = true;
    for (int64_t begin = 0, group = 0; begin < row->columns; begin += row->group_size, group++) {
        const int64_t left = row->columns - begin;
        const struct extent extent =
            extent_of(begin, begin + (left < row->group_size ? left : row->group_size));
        const struct measured found = measure_group(row, &extent, squares);
        const struct grid grid = make_grid(&found, row->format);
        squares = found.squares;
        errors = round_group(row, &extent, &grid, errors);
        fits &= isfinite(grid.scale) != 0;
        row->scales[group] = grid.scale;
        if (row->zero_points)
            row->zero_points[group] = (int8_t)grid.zero_point;
    }
    row->sums[0] = sum_of_lanes(errors);
    row->sums[1] = sum_of_lanes(squares);
    /* A weight that is not finite makes its square, and so the sum, not finite. */
    return fits && isfinite(row->sums[1]);
}

static void quantize_pack(uint8_t *packed, const int8_t *values, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count / 2; i++) {
        uint16_t pair;
        memcpy(&pair, values + 2 * i, sizeof pair);
        packed[i] = (uint8_t)(((pair & 0x0fu) << 4) | ((pair >> 8) & 0x0fu));
    }
    if (count % 2)
        packed[count / 2] = (uint8_t)((values[count - 1] & 0x0f) << 4);
}

#define QUANTIZE_FUNCTIONS                                                                         \
    { .row = quantize_row, .pack = quantize_pack }
