#include <immintrin.h>

typedef __m512d lanes;
enum { LANES = 8, VECTORS = 4 };

static inline lanes lanes_set(double value) {
    return _mm512_set1_pd(value);
}
static inline lanes lanes_load(const double *source) {
    return _mm512_loadu_pd(source);
}
static inline void lanes_store(double *destination, lanes a) {
    _mm512_storeu_pd(destination, a);
}
static inline lanes lanes_subtract_product(lanes a, lanes b, lanes c) {
    return _mm512_fnmadd_pd(b, c, a);
}

#include "kernels/cholesky_body.h"

const struct cholesky_functions cholesky_avx512 = CHOLESKY_FUNCTIONS;
