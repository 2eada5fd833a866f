/* Ranges of int4 weights by the error of the output: for each row and group, the factor on its
 * range (kernels/quantize.h, `shrink`) that makes
 *
 *   sum over the sample of (sum over k of the group of (w_k - w'_k) x_k)^2 = e^T H_g e,
 *   H_g = sum x_g x_g^T
 *
 * least, w' being the quantized weight: clipping a few large weights serves the others, but costs
 * much where their channel's activations are large, which w alone does not show. (The search of
 * AWQ, arXiv 2306.00978, with e^T H e for the product with the sample itself.) Errors of other
 * groups are left out of it.
 *
 * Factors: 1 - i / 20, i = 0 .. 10; the first of least error. H_g and H_g e are f32 products
 * (kernels/matmul.h, MATMUL_F32), their dot products 16 lanes and a tree: the same bits on every
 * path. */
#ifndef FPTQ_KERNELS_CLIP_OUTPUT_H
#define FPTQ_KERNELS_CLIP_OUTPUT_H

#include <stdbool.h>

#include "kernels/quantize.h"
#include "kernels/team.h"

enum { CLIP_OUTPUT_STEPS = 11 };

/* What stands for the sample. Groups larger than the sample has rows keep these rows themselves:
 * e^T H e is then the sum of the squares of X e. */
struct clip_output_sample {
    int64_t columns, group_size, rows; /* of the sample; group_size: never 0 */
    bool squares;                      /* groups hold rows of x, not products */
    float *groups;                     /* of each group, (height, width of the group) */
    int64_t height;                    /* group_size, or rows with `squares` */
};

/* From x f32 (rows, columns), row m at x + m * columns, as the weights' products meet it: divided
 * by the scale that the weights are multiplied by. false where memory runs out. */
bool clip_output_prepare(const struct compute *compute, const float *x, int64_t rows,
                         int64_t columns, int64_t group_size, struct clip_output_sample *sample);
void clip_output_release(struct clip_output_sample *sample);

/* Search for rows row_begin .. row_end - 1 of source (whose `shrink` is not looked at) on the
 * calling thread. shrink f32 (rows here, groups). workspace: clip_output_workspace() bytes,
 * 64-byte aligned. Returns -1, or the first row that cannot be quantized. */
int64_t clip_output_search(enum kernel_path path, const struct quantize_format *format,
                           const struct quantize_source *source, int64_t row_begin, int64_t row_end,
                           const struct clip_output_sample *sample, float *shrink, void *workspace);
size_t clip_output_workspace(enum kernel_path path, const struct clip_output_sample *sample);

#endif
