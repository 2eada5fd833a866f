#include "io/tensor.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "golden_gguf_blocks.h"
#include "io/digest.h"
#include "io/gguf_blocks.h"
#include "random.h"

enum { GOLDEN_COUNT = sizeof golden_blocks / sizeof golden_blocks[0] };

static void fill(struct random *random, unsigned char *bytes, size_t count) {
    for (size_t i = 0; i < count; i += 8) {
        const uint64_t word = random_bits(random);
        memcpy(bytes + i, &word, count - i < 8 ? count - i : 8);
    }
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return value != value ? 0x7fc00000 : bits;
}

static void every_half(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        const uint16_t half = (uint16_t)i;
        const int mantissa = half & 0x3ff, exponent = half >> 10 & 0x1f;
        const float sign = half & 0x8000 ? -1 : 1;
        const float value = exponent == 0    ? ldexpf((float)mantissa, -24)
                            : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                             : ldexpf((float)(mantissa + 1024), exponent - 25);
        assert_int_equal(bits_of(half_to_float(half)), bits_of(sign * value));
    }
}

/* All of the 16-bit values, at an odd address. */
static void every_element_of_16_bits(void **state) {
    (void)state;
    static unsigned char bytes[2 * 65536 + 1];
    static float values[65536];
    for (size_t i = 0; i < 65536; i++) {
        bytes[1 + 2 * i] = (unsigned char)i;
        bytes[2 + 2 * i] = (unsigned char)(i >> 8);
    }
    struct tensor tensor = {.type = TENSOR_F16, .rank = 2, .shape = {64, 1024}, .data = bytes + 1};
    tensor_read_f32(&tensor, 0, 64, values);
    for (uint32_t i = 0; i < 65536; i++)
        assert_int_equal(bits_of(values[i]), bits_of(half_to_float((uint16_t)i)));
    tensor.type = TENSOR_BF16;
    tensor_read_f32(&tensor, 0, 64, values);
    for (uint32_t i = 0; i < 65536; i++) {
        const uint32_t wide = i << 16;
        float value;
        memcpy(&value, &wide, sizeof value);
        assert_int_equal(bits_of(values[i]), bits_of(value));
    }
}

static void blocks_equal_the_reference(void **state) {
    (void)state;
    for (size_t g = 0; g < GOLDEN_COUNT; g++) {
        const enum tensor_type type = golden_blocks[g].type;
        const size_t bytes = (size_t)golden_blocks[g].blocks * tensor_type_bytes(type);
        const size_t elements = (size_t)(golden_blocks[g].blocks * tensor_type_block(type));
        unsigned char *blocks = malloc(bytes);
        float *values = malloc(elements * sizeof *values);
        struct random random = {.state = golden_blocks[g].seed};
        fill(&random, blocks, bytes);
        gguf_blocks_to_f32(type, blocks, golden_blocks[g].blocks, values);
        for (size_t i = 0; i < elements; i++) {
            const uint32_t bits = bits_of(values[i]);
            memcpy(&values[i], &bits, sizeof bits);
        }
        assert_memory_equal(values, golden_blocks[g].first, sizeof golden_blocks[g].first);
        char sum[65];
        digest_bytes(values, elements * sizeof *values, sum);
        assert_string_equal(sum, golden_blocks[g].sha256);
        free(blocks);
        free(values);
    }
}

/* One element of a block, from the table of gguf_blocks.h. */
static float half_at(const unsigned char *b) {
    return half_to_float((uint16_t)(b[0] | b[1] << 8));
}

static int nibble_of_32(const unsigned char *nibbles, int i) {
    return i < 16 ? nibbles[i] & 15 : nibbles[i - 16] >> 4;
}

static float plain_big_block(enum tensor_type type, const unsigned char *b, int i) {
    const int g = i / 32, j = i % 32;
    if (type == TENSOR_Q6_K) {
        const int half = i / 128, k = i % 128 / 32;
        const int byte = b[64 * half + 32 * (k % 2) + j];
        const int low = k < 2 ? byte & 15 : byte >> 4;
        const int high = b[128 + 32 * half + j] >> (2 * k) & 3;
        const float scale = half_at(b + 208) * (float)(int8_t)b[192 + i / 16];
        return scale * (float)((low | high << 4) - 32);
    }
    const unsigned char *s = b + 4;
    const int scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
    const int offset = g < 4 ? s[g + 4] & 63 : (s[g + 4] >> 4) | (s[g] >> 6) << 4;
    const unsigned char *nibbles = b + (type == TENSOR_Q4_K ? 16 : 48);
    const int byte = nibbles[32 * (g / 2) + j];
    int q = g % 2 ? byte >> 4 : byte & 15;
    if (type == TENSOR_Q5_K)
        q |= (b[16 + j] >> g & 1) << 4;
    const float d = half_at(b) * (float)scale, m = half_at(b + 2) * (float)offset;
    const float product = d * (float)q;
    return product - m;
}

static float plain_element(enum tensor_type type, const unsigned char *b, int i) {
    const float d = half_at(b);
    float product;
    switch (type) {
    case TENSOR_Q4_0:
        return d * (float)(nibble_of_32(b + 2, i) - 8);
    case TENSOR_Q4_1:
        product = d * (float)nibble_of_32(b + 4, i);
        return product + half_at(b + 2);
    case TENSOR_Q5_0:
        return d * (float)((nibble_of_32(b + 6, i) | (b[2 + i / 8] >> (i % 8) & 1) << 4) - 16);
    case TENSOR_Q5_1:
        product = d * (float)(nibble_of_32(b + 8, i) | (b[4 + i / 8] >> (i % 8) & 1) << 4);
        return product + half_at(b + 2);
    case TENSOR_Q8_0:
        return d * (float)((const int8_t *)b)[2 + i];
    default:
        return plain_big_block(type, b, i);
    }
}

static void blocks_equal_their_description(void **state) {
    struct random *random = *state;
    for (size_t g = 0; g < GOLDEN_COUNT; g++)
        for (int round = 0; round < 50; round++) {
            const enum tensor_type type = golden_blocks[g].type;
            unsigned char block[210];
            float values[256];
            fill(random, block, sizeof block);
            gguf_blocks_to_f32(type, block, 1, values);
            for (int i = 0; i < tensor_type_block(type); i++)
                assert_int_equal(bits_of(values[i]), bits_of(plain_element(type, block, i)));
        }
}

/* Any rows of any type are the same rows of the whole. */
static void rows_are_slices(void **state) {
    struct random *random = *state;
    for (int type = 0; type < TENSOR_TYPE_COUNT; type++) {
        struct tensor tensor = {.type = (enum tensor_type)type, .rank = 3, .shape = {7, 3, 512}};
        assert_true(tensor_shape_bytes(tensor.type, 3, tensor.shape, &tensor.bytes));
        unsigned char *data = malloc(tensor.bytes);
        fill(random, data, tensor.bytes);
        tensor.data = data;
        assert_int_equal(tensor_rows(&tensor), 7);
        assert_int_equal(tensor_columns(&tensor), 1536);
        float *whole = malloc(7 * 1536 * sizeof *whole), *part = malloc(7 * 1536 * sizeof *part);
        tensor_read_f32(&tensor, 0, 7, whole);
        for (int64_t begin = 0; begin < 7; begin++)
            for (int64_t end = begin; end <= 7; end++) {
                tensor_read_f32(&tensor, begin, end, part);
                assert_memory_equal(part, whole + begin * 1536,
                                    (size_t)(end - begin) * 1536 * sizeof *part);
            }
        free(data);
        free(whole);
        free(part);
    }
}

/* A vector is one row; lengths that are no multiple of a vector register. */
static void vectors(void **state) {
    struct random *random = *state;
    unsigned char data[200];
    fill(random, data, sizeof data);
    for (int64_t length = 1; length <= 50; length++) {
        float values[51];
        const struct tensor tensor = {
            .type = TENSOR_F16, .rank = 1, .shape = {length}, .data = data};
        values[length] = 1234;
        tensor_read_f32(&tensor, 0, 1, values);
        for (int64_t i = 0; i < length; i++)
            assert_int_equal(bits_of(values[i]), bits_of(half_at(data + 2 * i)));
        assert_true(values[length] == 1234);
    }
}

static void shapes(void **state) {
    (void)state;
    size_t bytes;
    assert_true(tensor_shape_bytes(TENSOR_F32, 2, (int64_t[]){3, 5}, &bytes));
    assert_int_equal(bytes, 60);
    assert_true(tensor_shape_bytes(TENSOR_Q6_K, 2, (int64_t[]){3, 512}, &bytes));
    assert_int_equal(bytes, 3 * 2 * 210);
    assert_false(tensor_shape_bytes(TENSOR_Q6_K, 2, (int64_t[]){256, 128}, &bytes));
    assert_false(tensor_shape_bytes(TENSOR_F32, 2, (int64_t[]){3, 0}, &bytes));
    assert_false(tensor_shape_bytes(TENSOR_F32, 2, (int64_t[]){-1, -1}, &bytes));
    assert_false(tensor_shape_bytes(TENSOR_F16, 3, (int64_t[]){1LL << 31, 1LL << 31, 4}, &bytes));
    assert_false(tensor_shape_bytes(TENSOR_F16, 2, (int64_t[]){INT64_MAX, 2}, &bytes));
    assert_false(tensor_shape_bytes(TENSOR_Q4_0, 2, (int64_t[]){1LL << 60, 32}, &bytes));
}

int main(void) {
    struct random random = random_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half),
        cmocka_unit_test(every_element_of_16_bits),
        cmocka_unit_test(blocks_equal_the_reference),
        cmocka_unit_test_prestate(blocks_equal_their_description, &random),
        cmocka_unit_test_prestate(rows_are_slices, &random),
        cmocka_unit_test_prestate(vectors, &random),
        cmocka_unit_test(shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
