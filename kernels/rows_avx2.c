#include "kernels/rows_body.h"

const struct row_functions rows_avx2 = ROW_FUNCTIONS;
