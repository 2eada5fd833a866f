#define CLIP_MSE_ERRORS clip_mse_errors_avx2
#include "kernels/clip_mse_body.h"
