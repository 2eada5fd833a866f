#include "kernels/quantize_body.h"

const struct quantize_functions quantize_avx512 = QUANTIZE_FUNCTIONS;
