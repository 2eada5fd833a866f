/* How the input of linears is quantized; FPTQ's three-way choice and its equalization scale (arXiv
 * 2308.15987, equation 5 and section 3.3), and SmoothQuant's. */
#ifndef FPTQ_KERNELS_EQUALIZE_H
#define FPTQ_KERNELS_EQUALIZE_H

#include <stdbool.h>
#include <stdint.h>

/* static: one scale for all tokens; dynamic: one for each token. Equalized: channels are divided by
 * an equalization scale first. none: activations stay in floating point. (Weights may have taken a
 * scale in with `none` too: whether there is one is told by the scale itself.) */
enum input_policy {
    POLICY_STATIC,
    POLICY_EQUALIZED,
    POLICY_DYNAMIC,
    POLICY_EQUALIZED_DYNAMIC,
    POLICY_NONE,
    POLICY_COUNT
};
/* Those that quantize, in the order of their cost when the model runs. */
enum { TREATMENT_COUNT = POLICY_NONE };
enum equalization { EQUALIZE_LOG2, EQUALIZE_LOG1P };

/* "static", "equalized", "dynamic", "equalized-dynamic", "none" */
const char *input_policy_name(enum input_policy policy);
/* Whether one scale serves all tokens: static and equalized. */
bool input_policy_is_static(enum input_policy policy);
/* Whether the policy asks for an equalization scale: equalized and equalized-dynamic. */
bool input_policy_equalizes(enum input_policy policy);

/* v <= v0: static; v0 < v < v1: equalized; v >= v1: dynamic. */
enum input_policy equalize_choose_policy(float v, float v0, float v1);

/* scale[j] = m_j / log2(2 + m_j), or m_j / log(1 + c m_j); 1 for a dead channel (m_j < 1e-5). */
void equalize_scale(float *scale, const float *maxima, int64_t channels,
                    enum equalization equalization, float c);
/* SmoothQuant's scale (arXiv 2211.10438, equation 4): m_j^alpha / w_j^(1 - alpha), w_j the largest
 * |weight| of the channel in all linears that read it; 1 where m_j or w_j is below 1e-5, or w_j is
 * not finite. Of our own exp and log, so the same bits everywhere. */
void equalize_smooth_scale(float *scale, const float *maxima, const float *weight_maxima,
                           int64_t channels, float alpha);
/* max_j m_j / scale_j (scale NULL: of m_j): the range after equalization. */
float equalize_range(const float *maxima, const float *scale, int64_t channels);
/* Grouped-query attention: query heads that share a KV head share a scale. maxima (heads *
 * head_dim) -> shared (same shape): the maximum over the heads of each KV head's group. shared may
 * be maxima. */
void equalize_share_maxima(float *shared, const float *maxima, int heads, int kv_heads,
                           int head_dim);

#endif
