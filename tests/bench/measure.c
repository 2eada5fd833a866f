#include "tests/bench/measure.h"

#include <stdint.h>
#include <time.h>

double measure_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Twelve independent chains: more than the latency times the rate of any processor so far. */
#define TWELVE_CHAINS(instruction, register)                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                      \
    instruction " %%" register "12, %%" register "13, %%" register "0\n\t" instruction                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                            \
                                                                   " %%" register "12, "                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                          \
                                                                                  "%%" register "13, %%" register "1\n\t" instruction                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                             \
                                                                                                                  " %%" register "12, %%" register "13, %%" register "2\n\t" instruction " %%" register "12, %%" register "13, %%" register "3\n\t" instruction " %%" register "12, %%" register "13, %%" register "4\n\t" instruction " %%" register "12, %%" register "13, %%" register "5\n\t" instruction " %%" register "12, %%" register "13, %%" register "6\n\t" instruction " %%" register "12, %%" register "13, %%" register "7\n\t" instruction                                                                                                       \
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                        " %%" register "12, %%" register "13, %%" register "8\n\t" instruction                                                    \
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                           " %%" register "12, %%" register "13, %%" register "9\n\t" instruction \
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                              " %%" register "12, %%" register "13, %%" register "10\n\t" instruction " %%" register "12, %%" register "13, %%" register "11\n\t"

#define VECTOR_CLOBBERS                                                                            \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm12", "xmm13", "cc"

/* All registers zero, then `rounds` times twelve instructions. */
#define RUN_VECTORS(instruction, register)                                                         \
    __asm__ volatile(                                                                              \
        "vzeroall\n1:\n\t" TWELVE_CHAINS(instruction, register) "dec %0\n\t"                       \
                                                                "jnz 1b\n\tvzeroupper"             \
        : "+r"(rounds)                                                                             \
        :                                                                                          \
        : VECTOR_CLOBBERS)

static void run_fma_256(int64_t rounds) {
    RUN_VECTORS("vfmadd231ps", "ymm");
}

static void run_fma_512(int64_t rounds) {
    RUN_VECTORS("vfmadd231ps", "zmm");
}

static void run_bf16_512(int64_t rounds) {
    RUN_VECTORS("vdpbf16ps", "zmm");
}

static void run_int8_512(int64_t rounds) {
    RUN_VECTORS("vpdpbusd", "zmm");
}

struct tile_configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

#define RUN_TILES(instruction)                                                                     \
    const struct tile_configuration configuration = {                                              \
        .palette = 1,                                                                              \
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},                                             \
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},                                                  \
    };                                                                                             \
    __asm__ volatile("ldtilecfg %1\n\ttilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\t"   \
                     "tilezero %%tmm3\n\ttilezero %%tmm4\n\ttilezero %%tmm5\n1:\n\t" instruction   \
                     " %%tmm4, %%tmm5, %%tmm0\n\t" instruction                                     \
                     " %%tmm4, %%tmm5, %%tmm1\n\t" instruction                                     \
                     " %%tmm4, %%tmm5, %%tmm2\n\t" instruction                                     \
                     " %%tmm4, %%tmm5, %%tmm3\n\tdec %0\n\tjnz 1b\n\ttilerelease"                  \
                     : "+r"(rounds)                                                                \
                     : "m"(configuration)                                                          \
                     : "cc")

static void run_bf16_tiles(int64_t rounds) {
    RUN_TILES("tdpbf16ps");
}

static void run_int8_tiles(int64_t rounds) {
    RUN_TILES("tdpbssd");
}

struct loop {
    void (*run)(int64_t rounds);
    double operations; /* of a round */
};

static struct loop find_loop(enum kernel_path path, enum instruction instruction) {
    const struct loop none = {0};
    switch (instruction) {
    case INSTRUCTION_F32_FMA:
        return path >= PATH_AVX512 ? (struct loop){run_fma_512, 12 * 16 * 2}
               : path == PATH_AVX2 ? (struct loop){run_fma_256, 12 * 8 * 2}
                                   : none;
    case INSTRUCTION_BF16_DOT:
        return path == PATH_AMX           ? (struct loop){run_bf16_tiles, 4 * 16 * 16 * 32 * 2}
               : path == PATH_AVX512_BF16 ? (struct loop){run_bf16_512, 12 * 32 * 2}
                                          : none;
    case INSTRUCTION_INT8_DOT:
        return path == PATH_AMX           ? (struct loop){run_int8_tiles, 4 * 16 * 16 * 64 * 2}
               : path == PATH_AVX512_BF16 ? (struct loop){run_int8_512, 12 * 64 * 2}
                                          : none;
    }
    return none;
}

double measure_peak(enum kernel_path path, enum instruction instruction) {
    const struct loop loop = find_loop(path, instruction);
    if (loop.run == NULL || !kernel_path_supported(path))
        return 0.0;
    const int64_t rounds = 100000;
    double best = 1e9;
    loop.run(rounds);
    for (int i = 0; i < 40; i++) {
        const double begin = measure_seconds();
        loop.run(rounds);
        const double taken = measure_seconds() - begin;
        best = taken < best ? taken : best;
    }
    return loop.operations * (double)rounds / best;
}
