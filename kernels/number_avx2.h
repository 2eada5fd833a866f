/* Inside kernels/number: the 16-bit formats with AVX2 and F16C. */
#ifndef FPTQ_KERNELS_NUMBER_AVX2_H
#define FPTQ_KERNELS_NUMBER_AVX2_H

#include "kernels/number.h"

void number_widen_avx2(float *destination, const uint16_t *source, enum number_type type,
                       size_t count);
void number_narrow_avx2(uint16_t *destination, const float *source, enum number_type type,
                        size_t count);

#endif
