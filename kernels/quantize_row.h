/* Internal: one row, compiled once for each path (quantize_body.h in quantize_PATH.c). */
#ifndef FPTQ_KERNELS_QUANTIZE_ROW_H
#define FPTQ_KERNELS_QUANTIZE_ROW_H

#include "kernels/quantize.h"

/* Columns in a unit; columns in a block of groups, unless one group alone is larger. */
enum { QUANTIZE_UNIT = 32, QUANTIZE_BLOCK = 2048 };

struct quantize_row {
    const void *data; /* (columns), `type` */
    enum number_type type;
    int64_t columns, group_size;
    const float *column_multiplier; /* (columns), or NULL */
    const float *split_multiplier;  /* the same, a unit's even columns before its odd ones; NULL
                                       where groups are no whole units */
    float row_multiplier;           /* 1 where there is none */
    const float *shrink;            /* (groups), or NULL */
    const struct quantize_format *format;
    float *folded;       /* scratch: a block of groups, each padded to whole units */
    float *scales;       /* out (groups) */
    int8_t *zero_points; /* out (groups), or NULL */
    uint8_t *packed;     /* out: (columns) nibbles from byte 0 */
    bool odd;            /* the row starts in the low nibble of byte 0; the high one is kept */
    double sums[2];      /* out: squared error, squared weight */
};

struct quantize_functions {
    /* false where a weight is not finite or a scale does not fit */
    bool (*row)(struct quantize_row *row);
};

extern const struct quantize_functions quantize_portable, quantize_avx2, quantize_avx512;

#endif
