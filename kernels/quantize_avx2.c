#include "kernels/quantize_body.h"

const struct quantize_functions quantize_avx2 = QUANTIZE_FUNCTIONS;
