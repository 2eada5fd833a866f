/* The dense product Y (M, N) = X (M, K) . W^T, W (N, K) as it lies in the model's file.
 *
 * Order of accumulation: every output element is one chain in ascending k whose order depends on
 * the path alone: not on M, not on which rows of W a call or a thread has, not on the thread count.
 *
 * Precision. MATMUL_F32: X stays f32, W is widened exactly, one chain of f32 fused multiply-adds;
 * the same bits on portable, avx2 and avx512 (which amx and avx512-bf16 use for it). MATMUL_BF16: X
 * is rounded to bf16 (half to even) when it is packed. bf16 W is used as it is; f16 W is never
 * rounded: an f16 number is exactly the sum of two bf16 numbers, so the bf16 paths make two
 * products of it, and the others widen it. f32 W needs MATMUL_F32. */
#ifndef FPTQ_KERNELS_MATMUL_H
#define FPTQ_KERNELS_MATMUL_H

#include <stdint.h>

#include "kernels/number.h"
#include "kernels/team.h"

enum matmul_precision { MATMUL_BF16, MATMUL_F32 };

/* W (rows N, columns K), row-major; row r starts at data + r * stride elements.
 * 4-bit levels (W4A16): nibbles as kernels/quantize.h packs them, w = (q - z) * scale in f32, with
 * MATMUL_BF16 rounded to bf16 half to even; `type` means nothing then. */
struct matmul_weight {
    const void *data;
    enum number_type type;
    int64_t rows, columns, stride;
    const float *scales;       /* (N, groups) of 4-bit levels; NULL: W is of `type` */
    const int8_t *zero_points; /* (N, groups), or NULL: symmetric */
    int64_t group_size;        /* 0: the whole row */
};

/* X in the layout that the path's kernel wants; the memory is the caller's. One packing serves all
 * the linears that read a site. */
struct matmul_packed {
    void *data; /* 64-byte aligned, matmul_packed_bytes() long */
    int64_t rows, columns;
    enum matmul_precision precision;
    enum kernel_path path;
};

/* Bytes of packed X for (rows M, columns K). */
size_t matmul_packed_bytes(enum kernel_path path, enum matmul_precision precision, int64_t rows,
                           int64_t columns);
/* Scratch that each thread of the team must have for matmul_run, and a caller of the serial calls.
 */
size_t matmul_scratch_bytes(void);

/* Pack x f32 (M, K), row m at x + m * stride. packed->data is set by the caller, the other fields
 * are set here. Where `maxima` is not NULL: maxima[k] = max(maxima[k], max over m of |x[m, k]|),
 * taken from x before rounding; a NaN in x makes maxima[k] NaN (or infinity for infinity), and it
 * stays so. */
void matmul_pack(const struct compute *compute, struct matmul_packed *packed, const float *x,
                 int64_t rows, int64_t columns, int64_t stride, enum matmul_precision precision,
                 float *maxima);

/* y f32 (M, N), row m at y + m * y_stride, = packed X . W^T (overwritten, not added). */
void matmul_run(const struct compute *compute, float *y, int64_t y_stride,
                const struct matmul_packed *packed, const struct matmul_weight *weight);

/* The same on the calling thread alone, for use inside a team's task (attention). `scratch`:
 * 64-byte aligned, matmul_scratch_bytes(). Same bits as the calls above. */
void matmul_pack_serial(enum kernel_path path, struct matmul_packed *packed, const float *x,
                        int64_t rows, int64_t columns, int64_t stride,
                        enum matmul_precision precision, float *maxima);
void matmul_run_serial(float *y, int64_t y_stride, const struct matmul_packed *packed,
                       const struct matmul_weight *weight, void *scratch);

#endif
