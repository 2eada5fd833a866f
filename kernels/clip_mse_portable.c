#define CLIP_MSE_ERRORS clip_mse_errors_portable
#include "kernels/clip_mse_body.h"
