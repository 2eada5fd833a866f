/* One lane: fma() is the processor's instruction where it has one, and exact where it has none. */
#include <math.h>

typedef double lanes;
enum { LANES = 1, VECTORS = 2 };

static inline lanes lanes_set(double value) {
    return value;
}
static inline lanes lanes_load(const double *source) {
    return *source;
}
static inline void lanes_store(double *destination, lanes a) {
    *destination = a;
}
static inline lanes lanes_subtract_product(lanes a, lanes b, lanes c) {
    return fma(-b, c, a);
}

#include "kernels/cholesky_body.h"

const struct cholesky_functions cholesky_portable = CHOLESKY_FUNCTIONS;
