#include <immintrin.h>

typedef __m256d lanes;
enum { LANES = 4, VECTORS = 2 };

static inline lanes lanes_set(double value) {
    return _mm256_set1_pd(value);
}
static inline lanes lanes_load(const double *source) {
    return _mm256_loadu_pd(source);
}
static inline void lanes_store(double *destination, lanes a) {
    _mm256_storeu_pd(destination, a);
}
static inline lanes lanes_subtract_product(lanes a, lanes b, lanes c) {
    return _mm256_fnmadd_pd(b, c, a);
}

#include "kernels/cholesky_body.h"

const struct cholesky_functions cholesky_avx2 = CHOLESKY_FUNCTIONS;
