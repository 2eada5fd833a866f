/* FPTQ's three-way choice and its equalization scale (arXiv 2308.15987, equation 5 and section 3.3). */
#ifndef FPTQ_KERNELS_EQUALIZE_H
#define FPTQ_KERNELS_EQUALIZE_H

#include <stdint.h>

enum input_policy { POLICY_STATIC, POLICY_EQUALIZED, POLICY_DYNAMIC };
enum equalization { EQUALIZE_LOG2, EQUALIZE_LOG1P };

const char *input_policy_name(enum input_policy policy); /* "static", "equalized", "dynamic" */

/* v <= v0: static; v0 < v < v1: equalized; v >= v1: dynamic. */
enum input_policy equalize_choose_policy(float v, float v0, float v1);

/* scale[j] = m_j / log2(2 + m_j), or m_j / log(1 + c m_j); 1 for a dead channel (m_j < 1e-5). */
void equalize_scale(float *scale, const float *maxima, int64_t channels,
                    enum equalization equalization, float c);
/* max_j m_j / scale_j (scale NULL: of m_j): the range after equalization. */
float equalize_range(const float *maxima, const float *scale, int64_t channels);
/* Grouped-query attention: query heads that share a KV head share a scale. maxima (heads * head_dim) ->
 * shared (same shape): the maximum over the heads of each KV head's group. shared may be maxima. */
void equalize_share_maxima(float *shared, const float *maxima, int heads, int kv_heads,
                           int head_dim);

#endif
