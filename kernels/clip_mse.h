/* Ranges of int4 weights by the error of the weights alone: for each row and group, the factor on
 * its range (kernels/quantize.h, `shrink`) that makes the sum of |w - (q - z) s|^2.4 least. The
 * search of GPTQ's code (Frantar et al., arXiv 2210.17323): factors 1 - i / 100, i = 0 .. 79, the
 * first of least error.
 *
 * In f32: x = w (1 / s), u = |x - (clamp(rint(x + z), least level, 7) - z)|, the sum of u^2.4 in 16
 * chains and a tree, times s^2.4 in units of the
 * first step's s. u^2.4 is (y r^2)^2 with y = u^2 and r = y^(-1/5) after two steps
 * of Newton's iteration (relative error below 2e-4). No fused multiply-add: the same bits on every
 * path. */
#ifndef FPTQ_KERNELS_CLIP_MSE_H
#define FPTQ_KERNELS_CLIP_MSE_H

#include "kernels/quantize.h"

enum { CLIP_MSE_STEPS = 80 };

/* Search for rows row_begin .. row_end - 1 of source (whose `shrink` is not looked at) on the
 * calling thread. shrink f32 (rows here, groups). scratch: clip_mse_scratch_bytes(), 64-byte
 * aligned. A group with a weight that is not finite gets 1: quantizing it is what reports it. */
void clip_mse_search(enum kernel_path path, const struct quantize_format *format,
                     const struct quantize_source *source, int64_t row_begin, int64_t row_end,
                     float *shrink, float *scratch);
size_t clip_mse_scratch_bytes(int64_t columns);

#endif
