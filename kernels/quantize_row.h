/* Internal: one row, compiled once for each path (quantize_body.h in quantize_PATH.c). */
#ifndef FPTQ_KERNELS_QUANTIZE_ROW_H
#define FPTQ_KERNELS_QUANTIZE_ROW_H

#include "kernels/quantize.h"

struct quantize_row {
    const void *data; /* (columns), `type` */
    enum number_type type;
    int64_t columns, group_size;
    const float *column_multiplier; /* (columns), or NULL */
    float row_multiplier;           /* 1 where there is none */
    const struct quantize_format *format;
    float *scales;       /* (groups) */
    int8_t *zero_points; /* (groups), or NULL */
    double sums[2];      /* out: squared error, squared weight */
    float *folded;       /* scratch (columns) */
    int8_t *levels;      /* out (columns): q */
};

struct quantize_functions {
    /* false where a weight is not finite or a scale does not fit */
    bool (*row)(struct quantize_row *row);
    void (*pack)(uint8_t *packed, const int8_t *values, int64_t count);
};

extern const struct quantize_functions quantize_portable, quantize_avx2, quantize_avx512;

#endif
