/* GGUF's block types to f32. A block is 32 or 256 elements of a row with their scales; f16 scales
 * are widened exactly, and products and sums are single f32 operations in the order of the `gguf`
 * package's reference, so the values equal it to the bit (a NaN is a NaN).
 *
 * Layouts, in bytes, little endian. Nibbles: byte j holds element j in its low four bits and
 * element j + 16 (32-element blocks) or j + 32 (256-element blocks) in its high four.
 *
 * | type | bytes | layout                                                | value                |
 * | Q4_0 |    18 | d f16, 16 bytes of nibbles                            | d (q - 8)            |
 * | Q4_1 |    20 | d f16, m f16, nibbles                                 | d q + m              |
 * | Q5_0 |    22 | d f16, 32 fifth bits (bit j: element j), nibbles      | d (q - 16)           |
 * | Q5_1 |    24 | d f16, m f16, 32 fifth bits, nibbles                  | d q + m              |
 * | Q8_0 |    34 | d f16, 32 int8                                        | q d                  |
 * | Q4_K |   144 | d f16, m f16, 12 bytes of scales, 4 x 32 bytes of     | (d s_g) q - (m t_g), |
 * |      |       | nibbles                                               | g = group of 32      |
 * | Q5_K |   176 | the same with 32 bytes of fifth bits before the       | the same             |
 * |      |       | nibbles: bit g of byte j is element 32 g + j          |                      |
 * | Q6_K |   210 | 128 bytes of nibbles, 64 bytes of high pairs,         | (d s_g) (q - 32),    |
 * |      |       | 16 int8 scales, d f16                                 | g = group of 16      |
 *
 * The 12 bytes of scales b hold eight 6-bit s and t: for g < 4, s = b[g] & 63, t = b[g + 4] & 63;
 * for g >= 4, s = (b[g + 4] & 15) | (b[g - 4] >> 6) << 4, t = (b[g + 4] >> 4) | (b[g] >> 6) << 4.
 * Q6_K's halves of 128 elements each own 64 nibble bytes and 32 pair bytes: element 32 k + j of a
 * half (k < 4, j < 32) takes nibble k / 2 of byte 32 (k % 2) + j and pair k of byte j. */
#ifndef FPTQ_IO_GGUF_BLOCKS_H
#define FPTQ_IO_GGUF_BLOCKS_H

#include <string.h>

#include "io/tensor.h"

/* The f32 value of an f16 number, exactly, without a branch and without an f32 subnormal on the
 * way. */
static inline float half_to_float(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t rest = (uint32_t)(half & 0x7fff)
                          << 13; /* 5 exponent bits above the f32 mantissa */
    const uint32_t exponent = rest & 0x0f800000;
    /* A subnormal half h is h 2^-24: put below the leading one of 2^-14, which is then taken away.
     */
    const uint32_t lifted = rest + 0x38800000;
    float small;
    memcpy(&small, &lifted, sizeof small);
    small -= 0x1p-14f;
    uint32_t bits;
    memcpy(&bits, &small, sizeof bits);
    const uint32_t is_small = -(uint32_t)(exponent == 0);
    const uint32_t is_special = -(uint32_t)(exponent == 0x0f800000); /* infinite or NaN */
    const uint32_t normal = rest + 0x38000000 + (is_special & 0x38000000);
    bits = sign | (bits & is_small) | (normal & ~is_small);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* `count` whole blocks of a block type; `values` has room for count x tensor_type_block(type). */
void gguf_blocks_to_f32(enum tensor_type type, const unsigned char *blocks, int64_t count,
                        float *values);

#endif
