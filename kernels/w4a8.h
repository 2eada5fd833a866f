/* Integer products: int8 activations times int4 or int8 weights (FPTQ, arXiv 2308.15987: W4A8;
 * SmoothQuant, arXiv 2211.10438: W8A8).
 *
 * Y (M, N) from X (M, K) and weights (N, K) that share a scale s_w and a zero point z along a group
 * of group_size k (0: the whole row; the last group may be shorter):
 *
 *   y = 0; for the groups in ascending order: y = fma(s_w, float(sum x q - z sum x), y)
 *   y = y * s_x, then (where there is a bias) y = y + bias
 *
 * The bracket is exact in int32 (K up to 2^31 / (127 * 15), or 2^31 / (127 * 128) with 8 bits), the
 * rest is f32, each step rounded once, half to even: the same bits on every path, for any cut of M
 * and N and any number of threads. The fastest groups are multiples of 64; others are filled up
 * with zeros to a multiple of 8 (amx: 64). */
#ifndef FPTQ_KERNELS_W4A8_H
#define FPTQ_KERNELS_W4A8_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/team.h"

/* ---- Weights ---- */

/* Weights in the layout that the path's kernel wants. The caller sets every field. */
struct w4a8_weight {
    void *data;            /* 64-byte aligned, w4a8_weight_bytes() long */
    int64_t rows, columns; /* N, K, both at least 1 */
    int64_t group_size;    /* 0: the whole row */
    int bits;              /* 4: q in -8..7; 8: q in -128..127, symmetric */
    bool symmetric;        /* no zero points */
    enum kernel_path path;
};

/* Groups of a row. */
int64_t w4a8_group_count(int64_t columns, int64_t group_size);
/* Bytes that `data` needs; looks at the other fields alone. */
size_t w4a8_weight_bytes(const struct w4a8_weight *weight);

/* Bring rows row_begin .. row_end - 1 into the layout, on the calling thread. Every row must be
 * brought once; calls for different rows may run at once.
 * values: 4 bits: nibbles as kernels/quantize.h packs them (and a chunk of the checkpoint holds
 * them): element e = (r - row_begin) * columns + c in byte e / 2, even e in the HIGH nibble;
 * 8 bits: int8 (rows here, K). scales f32 (rows here, groups). zero_points int8 -8..7 (rows here,
 * groups): not read when symmetric. */
void w4a8_weight_pack(const struct w4a8_weight *weight, int64_t row_begin, int64_t row_end,
                      const void *values, const float *scales, const int8_t *zero_points);

/* ---- Activations ---- */

/* How x becomes int8: q = rint(x * multiplier[k] * (1 / s_x)), clamped to -127..127, each product
 * and the reciprocal rounded to f32, rint half to even. */
struct w4a8_quantization {
    const float *multiplier; /* (K): 1 / s of a run-time equalization; NULL: none */
    bool dynamic; /* s_x of a token = max over k of |x * multiplier[k]| / 127, at least 2^-126 */
    float scale;  /* else: s_x of every token, a normal number with a finite reciprocal */
};

/* Quantized X in the layout that the path's kernel wants, with each token's scale and each group's
 * sum. One serves all the linears that read a site and have this group size. The caller sets
 * `data`, the other fields are set by w4a8_quantize. */
struct w4a8_input {
    void *data;                        /* 64-byte aligned, w4a8_input_bytes() long */
    int64_t rows, columns, group_size; /* M, K */
    enum kernel_path path;
};

size_t w4a8_input_bytes(enum kernel_path path, int64_t rows, int64_t columns, int64_t group_size);

/* Quantize and pack x f32 (M, K), row m at x + m * stride. A NaN becomes 127 or -127 (dynamic: the
 * token's scale is then NaN, or infinite for an infinity, and so is its y). */
void w4a8_quantize(const struct compute *compute, struct w4a8_input *input, const float *x,
                   int64_t rows, int64_t columns, int64_t stride, int64_t group_size,
                   const struct w4a8_quantization *quantization);
/* The int8 numbers (M, K; row-major) and the scales (M) of a packed X, for tests and for looking.
 */
void w4a8_input_unpack(const struct w4a8_input *input, int8_t *values, float *scales);

/* ---- Product ---- */

/* Scratch that each thread of the team must have. */
size_t w4a8_scratch_bytes(void);

/* y f32 (M, N), row m at y + m * y_stride (overwritten). bias f32 (N), or NULL. Input and weight
 * agree in K, group size and path. */
void w4a8_run(const struct compute *compute, float *y, int64_t y_stride,
              const struct w4a8_input *input, const struct w4a8_weight *weight, const float *bias);

#endif
