#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/number.h"
#include "tests/amx_emulator.h"
#include "tests/random.h"

/* The same program runs on real tiles where there are some: then it tests what the emulator says of
 * them. */

struct configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* sum (rows, columns) in tmm0, a (rows, depth) in tmm3, b (depth, columns) in tmm7; elements of 4
 * bytes. */
struct tiles {
    int rows, columns, depth;
    uint8_t sum[16 * 64], a[16 * 64], b[16 * 64], result[16 * 64];
};

static void configure(const struct tiles *t) {
    const struct configuration configuration = {
        .palette = 1,
        .row_bytes = {[0] = (uint16_t)(4 * t->columns),
                      [3] = (uint16_t)(4 * t->depth),
                      [7] = (uint16_t)(4 * t->columns)},
        .rows = {[0] = (uint8_t)t->rows, [3] = (uint8_t)t->rows, [7] = (uint8_t)t->depth},
    };
    struct configuration back;
    memset(&back, 0xff, sizeof back);
    __asm__ volatile("ldtilecfg %1\n\tsttilecfg %0" : "=m"(back) : "m"(configuration));
    assert_memory_equal(&configuration, &back, sizeof back);
}

/* Rows are 64 bytes apart in memory; each access has another form of address. */
static void load(const struct tiles *t) {
    __asm__ volatile("mov %0, %%r12\n\tmov $64, %%r9\n\ttileloadd (%%r12,%%r9,1), %%tmm0"
                     :
                     : "r"(t->sum)
                     : "r12", "r9", "memory");
    __asm__ volatile("tileloaddt1 0x40(%0,%1,2), %%tmm3"
                     :
                     : "r"(t->a - 0x40), "r"((int64_t)32)
                     : "memory");
    __asm__ volatile("mov %0, %%r13\n\ttileloadd -0x1000(%%r13,%1,8), %%tmm7"
                     :
                     : "r"(t->b + 0x1000), "r"((int64_t)8)
                     : "r13", "memory");
}

static void store(struct tiles *t) {
    memset(t->result, 0x55, sizeof t->result);
    __asm__ volatile("tilestored %%tmm0, (%0,%1,4)"
                     :
                     : "r"(t->result), "r"((int64_t)16)
                     : "memory");
}

static struct tiles tiles_random(struct random *random) {
    struct tiles t = {.rows = (int)random_integer(random, 1, 16),
                      .columns = (int)random_integer(random, 1, 16),
                      .depth = (int)random_integer(random, 1, 16)};
    for (size_t i = 0; i < sizeof t.a; i++) {
        t.sum[i] = (uint8_t)random_bits(random);
        t.a[i] = (uint8_t)random_bits(random);
        t.b[i] = (uint8_t)random_bits(random);
    }
    return t;
}

static void fill_bf16(struct random *random, uint8_t *bytes) {
    for (int i = 0; i < 16 * 32; i++) {
        const uint16_t bits = number_to_bf16(random_normal(random));
        memcpy(bytes + 2 * i, &bits, sizeof bits);
    }
}

static int32_t integer_at(const uint8_t *bytes, int row, int column) {
    int32_t value;
    memcpy(&value, bytes + row * 64 + column * 4, sizeof value);
    return value;
}

/* Bytes of the result beyond the tile are as they were. */
static void check_outside(const struct tiles *t) {
    for (int row = 0; row < 16; row++)
        for (int byte = 0; byte < 64; byte++)
            if (row >= t->rows || byte >= 4 * t->columns)
                assert_int_equal(t->result[row * 64 + byte], 0x55);
}

static void check_int8(const struct tiles *t, bool a_signed, bool b_signed) {
    for (int row = 0; row < t->rows; row++) {
        for (int column = 0; column < t->columns; column++) {
            int64_t sum = integer_at(t->sum, row, column);
            for (int k = 0; k < 4 * t->depth; k++) {
                const uint8_t a = t->a[row * 64 + k], b = t->b[k / 4 * 64 + 4 * column + k % 4];
                sum += (a_signed ? (int8_t)a : a) * (b_signed ? (int8_t)b : b);
            }
            assert_int_equal((int32_t)sum, integer_at(t->result, row, column));
        }
    }
    check_outside(t);
}

static void integers_are_exact(void **state) {
    (void)state;
    if (!amx_emulator_install())
        skip();
    struct random random = random_start();
    for (int round = 0; round < 50; round++) {
        struct tiles t = tiles_random(&random);
        configure(&t);
        load(&t);
        __asm__ volatile("tdpbssd %%tmm7, %%tmm3, %%tmm0" : :);
        store(&t);
        check_int8(&t, true, true);
        load(&t);
        __asm__ volatile("tdpbsud %%tmm7, %%tmm3, %%tmm0" : :);
        store(&t);
        check_int8(&t, true, false);
        load(&t);
        __asm__ volatile("tdpbusd %%tmm7, %%tmm3, %%tmm0" : :);
        store(&t);
        check_int8(&t, false, true);
        load(&t);
        __asm__ volatile("tdpbuud %%tmm7, %%tmm3, %%tmm0" : :);
        store(&t);
        check_int8(&t, false, false);
        __asm__ volatile("tilerelease");
    }
}

/* Even and odd products of a dot each in a chain of fused multiply-adds, then added to the sum. */
static void bf16_has_the_documented_order(void **state) {
    (void)state;
    if (!amx_emulator_install())
        skip();
    struct random random = random_start();
    for (int round = 0; round < 50; round++) {
        struct tiles t = tiles_random(&random);
        fill_bf16(&random, t.a);
        fill_bf16(&random, t.b);
        for (int i = 0; i < 16 * 16; i++) {
            const float value = random_normal(&random);
            memcpy(t.sum + 4 * i, &value, sizeof value);
        }
        configure(&t);
        load(&t);
        __asm__ volatile("tdpbf16ps %%tmm7, %%tmm3, %%tmm0" : :);
        store(&t);
        for (int row = 0; row < t.rows; row++) {
            for (int column = 0; column < t.columns; column++) {
                float part[2] = {0.0f, 0.0f}, sum, found;
                for (int k = 0; k < 2 * t.depth; k++) {
                    uint16_t a, b;
                    memcpy(&a, t.a + row * 64 + 2 * k, sizeof a);
                    memcpy(&b, t.b + k / 2 * 64 + 4 * column + k % 2 * 2, sizeof b);
                    part[k % 2] = fmaf(number_from_bf16(a), number_from_bf16(b), part[k % 2]);
                }
                memcpy(&sum, t.sum + row * 64 + 4 * column, sizeof sum);
                memcpy(&found, t.result + row * 64 + 4 * column, sizeof found);
                assert_true(found == sum + (part[0] + part[1]));
            }
        }
        check_outside(&t);
        __asm__ volatile("tilerelease");
    }
}

static void a_tile_is_zeroed(void **state) {
    (void)state;
    if (!amx_emulator_install())
        skip();
    struct random random = random_start();
    struct tiles t = tiles_random(&random);
    configure(&t);
    load(&t);
    __asm__ volatile("tilezero %%tmm0" : :);
    store(&t);
    for (int row = 0; row < t.rows; row++)
        for (int column = 0; column < t.columns; column++)
            assert_int_equal(integer_at(t.result, row, column), 0);
    check_outside(&t);
    __asm__ volatile("tilerelease");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_are_exact),
        cmocka_unit_test(bf16_has_the_documented_order),
        cmocka_unit_test(a_tile_is_zeroed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
