#include "kernels/rows_body.h"

const struct row_functions rows_avx512 = ROW_FUNCTIONS;
