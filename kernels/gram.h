/* The Gram matrix of a site's activations, H_raw = sum over tokens of x^T x, in fixed point.
 *
 * Tokens come in blocks: the positions GRAM_BLOCK b .. GRAM_BLOCK (b + 1) - 1 of a sequence. A
 * block is kept channel by channel, in bf16 (MATMUL_BF16) or f32; its product goes through
 * kernels/matmul (f32 accumulation, in an order that the path alone fixes), is multiplied by
 * 2^exponent, rounded to integers and added to sums of 64 bits: so the sum over blocks is exact and
 * has no order. */
#ifndef FPTQ_KERNELS_GRAM_H
#define FPTQ_KERNELS_GRAM_H

#include <stdbool.h>

#include "kernels/matmul.h"

enum { GRAM_BLOCK = 1024 };

size_t gram_block_bytes(enum matmul_precision precision, int64_t channels);
/* Put x f32 (tokens, channels) in the block (channels, GRAM_BLOCK) from place `begin` on. */
void gram_put(const struct compute *compute, void *block, enum matmul_precision precision,
              const float *x, int64_t begin, int64_t tokens, int64_t channels);

/* Bytes that gram_add needs for itself, beside the team's scratch, matmul_scratch_bytes(). */
size_t gram_work_bytes(const struct compute *compute, enum matmul_precision precision);
/* sums (packed upper triangle of channels x channels, by rows, kernels/gptq.h) += the block's first
 * `tokens` places. work: 64-byte aligned. False where a sum of squares is 2^50 units or more in a
 * block, or 2^61 in all, or is not a number: the sums are then of no use. */
bool gram_add(const struct compute *compute, int64_t *sums, const void *block,
              enum matmul_precision precision, int64_t tokens, int64_t channels, int exponent,
              void *work);

#endif
