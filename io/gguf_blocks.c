/* Loops have constant counts and no branches, so that the compiler turns them into vectors. */
#include "io/gguf_blocks.h"

enum { SMALL_BLOCK = 32, BIG_BLOCK = 256 };

static float read_half(const unsigned char *bytes) {
    return half_to_float((uint16_t)(bytes[0] | bytes[1] << 8));
}

/* values[j] = q d for 32 elements given as 16 bytes of nibbles, less `zero`. */
static void scale_nibbles(const unsigned char *restrict nibbles, int zero, float d,
                          float *restrict values) {
    for (int j = 0; j < 16; j++) {
        values[j] = d * (float)((nibbles[j] & 15) - zero);
        values[j + 16] = d * (float)((nibbles[j] >> 4) - zero);
    }
}

/* The fifth bits of Q5_0 and Q5_1 join their nibbles: q (32). */
static void join_fifth_bits(const unsigned char *restrict bits,
                            const unsigned char *restrict nibbles, int32_t *restrict q) {
    const uint32_t fifth = (uint32_t)bits[0] | (uint32_t)bits[1] << 8 | (uint32_t)bits[2] << 16 |
                           (uint32_t)bits[3] << 24;
    for (int j = 0; j < 16; j++) {
        q[j] = (nibbles[j] & 15) | (int32_t)(fifth >> j & 1) << 4;
        q[j + 16] = (nibbles[j] >> 4) | (int32_t)(fifth >> (j + 16) & 1) << 4;
    }
}

static void read_q4_0(const unsigned char *restrict block, float *restrict values) {
    scale_nibbles(block + 2, 8, read_half(block), values);
}

static void read_q4_1(const unsigned char *restrict block, float *restrict values) {
    const float m = read_half(block + 2);
    scale_nibbles(block + 4, 0, read_half(block), values);
    for (int j = 0; j < SMALL_BLOCK; j++)
        values[j] += m;
}

static void read_q5_0(const unsigned char *restrict block, float *restrict values) {
    const float d = read_half(block);
    int32_t q[SMALL_BLOCK];
    join_fifth_bits(block + 2, block + 6, q);
    for (int j = 0; j < SMALL_BLOCK; j++)
        values[j] = d * (float)(q[j] - 16);
}

static void read_q5_1(const unsigned char *restrict block, float *restrict values) {
    const float d = read_half(block), m = read_half(block + 2);
    int32_t q[SMALL_BLOCK];
    join_fifth_bits(block + 4, block + 8, q);
    for (int j = 0; j < SMALL_BLOCK; j++)
        values[j] = d * (float)q[j] + m;
}

static void read_q8_0(const unsigned char *restrict block, float *restrict values) {
    const float d = read_half(block);
    for (int j = 0; j < SMALL_BLOCK; j++)
        values[j] = (float)(int8_t)block[2 + j] * d;
}

/* The eight scales and offsets of Q4_K and Q5_K, times d and m. */
static void read_group_scales(const unsigned char *block, float scales[8], float offsets[8]) {
    const float d = read_half(block), m = read_half(block + 2);
    const unsigned char *b = block + 4;
    for (int g = 0; g < 4; g++) {
        scales[g] = d * (float)(b[g] & 63);
        offsets[g] = m * (float)(b[g + 4] & 63);
        scales[g + 4] = d * (float)((b[g + 8] & 15) | (b[g] >> 6) << 4);
        offsets[g + 4] = m * (float)((b[g + 8] >> 4) | (b[g + 4] >> 6) << 4);
    }
}

static void read_q4_k(const unsigned char *restrict block, float *restrict values) {
    float scales[8], offsets[8];
    read_group_scales(block, scales, offsets);
    for (int g = 0; g < 8; g += 2) {
        const unsigned char *restrict nibbles = block + 16 + 16 * g;
        const float low_scale = scales[g], low_offset = offsets[g];
        const float high_scale = scales[g + 1], high_offset = offsets[g + 1];
        float *restrict low = values + 32 * g;
        for (int j = 0; j < 32; j++) {
            low[j] = low_scale * (float)(nibbles[j] & 15) - low_offset;
            low[j + 32] = high_scale * (float)(nibbles[j] >> 4) - high_offset;
        }
    }
}

static void read_q5_k(const unsigned char *restrict block, float *restrict values) {
    float scales[8], offsets[8];
    read_group_scales(block, scales, offsets);
    const unsigned char *restrict fifth = block + 16;
    for (int g = 0; g < 8; g += 2) {
        const unsigned char *restrict nibbles = block + 48 + 16 * g;
        const float low_scale = scales[g], low_offset = offsets[g];
        const float high_scale = scales[g + 1], high_offset = offsets[g + 1];
        float *restrict low = values + 32 * g;
        for (int j = 0; j < 32; j++) {
            const int low_q = (nibbles[j] & 15) | (fifth[j] >> g & 1) << 4;
            const int high_q = (nibbles[j] >> 4) | (fifth[j] >> (g + 1) & 1) << 4;
            low[j] = low_scale * (float)low_q - low_offset;
            low[j + 32] = high_scale * (float)high_q - high_offset;
        }
    }
}

static void read_q6_k(const unsigned char *restrict block, float *restrict values) {
    const float d = read_half(block + 208);
    float scales[16];
    for (int g = 0; g < 16; g++)
        scales[g] = d * (float)(int8_t)block[192 + g];
    for (int half = 0; half < 2; half++) {
        for (int part = 0; part < 2; part++) { /* 16 elements of each of the four runs of 32 */
            const unsigned char *restrict low = block + 64 * half + 16 * part;
            const unsigned char *restrict high = block + 128 + 32 * half + 16 * part;
            const float *s = scales + 8 * half + part;
            const float s0 = s[0], s1 = s[2], s2 = s[4], s3 = s[6];
            float *restrict v = values + 128 * half + 16 * part;
            for (int j = 0; j < 16; j++) {
                v[j] = s0 * (float)(((low[j] & 15) | (high[j] & 3) << 4) - 32);
                v[j + 32] = s1 * (float)(((low[j + 32] & 15) | (high[j] >> 2 & 3) << 4) - 32);
                v[j + 64] = s2 * (float)(((low[j] >> 4) | (high[j] >> 4 & 3) << 4) - 32);
                v[j + 96] = s3 * (float)(((low[j + 32] >> 4) | (high[j] >> 6) << 4) - 32);
            }
        }
    }
}

static void (*const readers[TENSOR_TYPE_COUNT])(const unsigned char *restrict, float *restrict) = {
    [TENSOR_Q4_0] = read_q4_0, [TENSOR_Q4_1] = read_q4_1, [TENSOR_Q5_0] = read_q5_0,
    [TENSOR_Q5_1] = read_q5_1, [TENSOR_Q8_0] = read_q8_0, [TENSOR_Q4_K] = read_q4_k,
    [TENSOR_Q5_K] = read_q5_k, [TENSOR_Q6_K] = read_q6_k,
};

void gguf_blocks_to_f32(enum tensor_type type, const unsigned char *blocks, int64_t count,
                        float *values) {
    const size_t bytes = tensor_type_bytes(type);
    const int64_t elements = tensor_type_block(type);
    for (int64_t i = 0; i < count; i++)
        readers[type](blocks + (size_t)i * bytes, values + i * elements);
}
