#include "kernels/quantize_body.h"

const struct quantize_functions quantize_portable = QUANTIZE_FUNCTIONS;
