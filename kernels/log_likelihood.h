/* The log-probability that logits give to a target token, from blocks of the vocabulary in
 * ascending order, with a running maximum and sum (online softmax, Milakov and Gimelshein 2018).
 * Sums run in an order that the blocks alone decide: the same bits on every path and for any number
 * of threads.
 */
#ifndef FPTQ_KERNELS_LOG_LIKELIHOOD_H
#define FPTQ_KERNELS_LOG_LIKELIHOOD_H

#include "kernels/rows.h"
#include "kernels/team.h"

/* Of one token: what the blocks so far say. */
struct log_likelihood {
    struct softmax softmax;
    float target_logit, top_logit;
    int32_t target, top; /* top: the first token that has the largest logit; NaN is never one */
};

/* Before the first block. */
void log_likelihood_start(struct log_likelihood *state, int32_t target);
/* Take up logits f32 (T, count; row stride `stride`) of the tokens first .. first + count - 1; they
 * are overwritten. state: (T). */
void log_likelihood_add(const struct compute *compute, struct log_likelihood *state, float *logits,
                        int64_t stride, int64_t tokens, int64_t first, int64_t count);
/* log p(target), after the last block; NaN where a logit was NaN. */
double log_likelihood_value(const struct log_likelihood *state);

#endif
