/* KL(p || q) of the distributions over the vocabulary that two models' logits a and b stand for,
 * block by block beside kernels/log_likelihood.h:
 *   sum p_i (log p_i - log q_i) = sum p_i (a_i - b_i) - (log Z_p - log Z_q)
 * In f32 but for the last step, which is in double. Sums run in an order that the blocks alone
 * decide: the same bits on every path and for any number of threads. */
#ifndef FPTQ_KERNELS_DIVERGENCE_H
#define FPTQ_KERNELS_DIVERGENCE_H

#include "kernels/log_likelihood.h"

/* difference (T, count; row stride `stride`) = a - b, the logits of a block; before
 * log_likelihood_add() overwrites them. */
void divergence_subtract(const struct compute *compute, float *difference, const float *a,
                         const float *b, int64_t stride, int64_t tokens, int64_t count);
/* sums (T), 0 before the first block: take up a block, after log_likelihood_add() of a, which is
 * then exp(a - largest so far). p (T): what a's blocks say so far. */
void divergence_add(const struct compute *compute, float *sums, const struct log_likelihood *p,
                    const float *a, const float *difference, int64_t stride, int64_t tokens,
                    int64_t count);
/* After the last block. */
double divergence_value(float sum, const struct log_likelihood *p, const struct log_likelihood *q);

#endif
