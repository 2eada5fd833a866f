#include "kernels/rows_body.h"

const struct row_functions rows_portable = ROW_FUNCTIONS;
