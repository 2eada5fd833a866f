/* exp, log, log2, pow, sin and cos of our own, so that the version of a libm shows in no result.
 *
 * Inline, of IEEE operations in a fixed order (every fused multiply-add is written as one): the
 * same bits on every path. math_exp is for f32 rows and free of branches, so that loops over it
 * vectorise. The others serve tables and single values: double inside, relative error below 1e-13,
 * so that the result rounded to f32 is within one unit in the last place. */
#ifndef FPTQ_KERNELS_MATH_FUNCTIONS_H
#define FPTQ_KERNELS_MATH_FUNCTIONS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float math_float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t math_bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* exp(x), error below 1 unit in the last place; x < -86 (results under 2^-124) gives 0, so that no
 * denormal number slows a product; NaN gives NaN.
 *
 * x = n ln 2 + r, |r| <= ln 2 / 2; exp(x) = 2^(n-1) (2 exp(r)), where n - 1 keeps the power of two
 * in range up to the largest result. The polynomial is the minimax one of degree 6 in relative
 * error (3e-9) with its first two coefficients fixed to 1. */
static inline float math_exp(float x) {
    const float round_to_integer = 0x1.8p23f;
    const float bounded = x > 89.0f ? 89.0f : x;
    const float shifted = fmaf(bounded, 0x1.715476p0f, round_to_integer);
    const float n = shifted - round_to_integer;
    const float r = fmaf(n, -0x1.7f7d1cp-20f, fmaf(n, -0x1.62e4p-1f, bounded));
    float p = 0x1.6a23cep-9f;
    p = fmaf(p, r, 0x1.123a1ap-6f);
    p = fmaf(p, r, 0x1.5558f2p-4f);
    p = fmaf(p, r, 0x1.555492p-2f);
    p = fmaf(p, r, 0x1.fffffcp-1f);
    p = fmaf(p, r, 2.0f);
    p = fmaf(p, r, 2.0f);
    const float power = math_float_of_bits((math_bits_of_float(shifted) + 126u) << 23);
    return x < -86.0f ? 0.0f : p * power;
}

/* log2(e), ln 2 and pi / 2 in double; ln 2 and pi / 2 also cut in a head of 33 bits, whose product
 * with an integer below 2^20 is exact, and a tail. */
#define MATH_LOG2_E 0x1.71547652b82fep0
#define MATH_LN_2 0x1.62e42fefa39efp-1
#define MATH_LN_2_HEAD 0x1.62e42fee00000p-1
#define MATH_LN_2_TAIL 0x1.a39ef35793c76p-33
#define MATH_2_OVER_PI 0x1.45f306dc9c883p-1
#define MATH_PI_2 0x1.921fb54442d18p0
#define MATH_PI_2_HEAD 0x1.921fb54400000p0
#define MATH_PI_2_TAIL 0x1.0b4611a626331p-34

/* The natural logarithm. 0 gives -infinity, a negative number or NaN gives NaN. Denormal x: as 0.
 * x = 2^e m, m in [sqrt(1/2), sqrt(2)); log m = 2 artanh s, s = (m - 1) / (m + 1), |s| < 0.172. */
static inline double math_log(double x) {
    if (!(x >= 0x1p-1022))
        return x >= 0 ? -INFINITY : NAN;
    if (x == INFINITY)
        return x;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint64_t sqrt_half = 0x3fe6a09e667f3bcdu;
    const int64_t e = (int64_t)(bits - sqrt_half) >> 52;
    bits -= (uint64_t)e << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    const double s = (m - 1) / (m + 1), s2 = s * s;
    double sum = 1.0 / 19;
    for (int odd = 17; odd >= 3; odd -= 2)
        sum = sum * s2 + 1.0 / odd;
    return (double)e * MATH_LN_2 + (2 * s + 2 * s * s2 * sum);
}

static inline double math_log2(double x) {
    return math_log(x) * MATH_LOG2_E;
}

/* base^exponent for base > 0 and results within 2^-1022 .. 2^1023: exp(exponent log base), the
 * exponential from its series of degree 13 on |r| <= ln 2 / 2. */
static inline double math_pow(double base, double exponent) {
    const double x = exponent * math_log(base);
    const double n = rint(x * MATH_LOG2_E);
    const double r = (x - n * MATH_LN_2_HEAD) - n * MATH_LN_2_TAIL;
    double sum = 1;
    for (int k = 13; k >= 1; --k)
        sum = sum * r / k + 1;
    return ldexp(sum, (int)n);
}

/* sin(x + quarter_turns * pi / 2) for |x| <= 1e6. r = x - n pi / 2, |r| <= pi / 4, then the series
 * of sin or cos to degree 15 or 16. */
static inline double math_sin_turned(double x, int quarter_turns) {
    const double n = rint(x * MATH_2_OVER_PI);
    const double r = (x - n * MATH_PI_2_HEAD) - n * MATH_PI_2_TAIL, r2 = r * r;
    const int64_t quadrant = (int64_t)n + quarter_turns;
    const int cosine = (int)(quadrant & 1);
    double sum = 1;
    for (int k = cosine ? 16 : 15; k >= 2; k -= 2)
        sum = 1 - sum * r2 / (k * (k - 1));
    sum = cosine ? sum : r * sum;
    return quadrant & 2 ? -sum : sum;
}

static inline double math_sin(double x) {
    return math_sin_turned(x, 0);
}

static inline double math_cos(double x) {
    return math_sin_turned(x, 1);
}

#endif
