#include "tests/bench/measure.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double read_clock(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

enum kernel_path measure_path(int argc, char **argv, const char *usage) {
    enum kernel_path path = kernel_path_best();
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        printf("%s %s\n", argv[0], usage);
        exit(0);
    }
    if (argc > 1 && (!kernel_path_parse(argv[1], &path) || !kernel_path_supported(path))) {
        fprintf(stderr, "%s: this machine has no path %s; %s\n", argv[0], argv[1], usage);
        exit(2);
    }
    return path;
}

void measure_let_openmp_sleep(char **argv) {
    if (getenv("OMP_WAIT_POLICY") == NULL && setenv("OMP_WAIT_POLICY", "passive", 0) == 0)
        execv("/proc/self/exe", argv); /* OpenMP has read it before main */
}

int64_t measure_number(int argc, char **argv, int index, int64_t otherwise) {
    if (argc <= index)
        return otherwise;
    char *end;
    const long long number = strtoll(argv[index], &end, 10);
    if (number < 1 || *end != '\0') {
        fprintf(stderr, "%s: %s is not a number from 1 on\n", argv[0], argv[index]);
        exit(2);
    }
    return number;
}

double measure_seconds(void) {
    return read_clock(CLOCK_MONOTONIC);
}

double measure_thread_seconds(void) {
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

/* All registers zero, then `rounds` times one instruction for each of independent chains: more of
 * them than the latency times the rate of any processor so far. (.irp is the assembler's own loop.)
 */
#define FEW "0,1,2,3,4,5,6,7,8,9,10,11"
#define MORE "16,17,18,19,20,21,22,23,24,25,26,27"
#define RUN(clear, chains, instruction, ...)                                                       \
    __asm__ volatile("vzeroall\n\t" clear "\n1:\n\t.irp i," chains "\n\t" instruction              \
                     "\\i\n\t.endr\n\tdec %0\n\tjnz 1b\n\tvzeroupper"                              \
                     : "+r"(rounds)                                                                \
                     :                                                                             \
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",       \
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13" __VA_ARGS__)
#define RUN_256(name) RUN("", FEW, name " %%ymm12, %%ymm13, %%ymm", )
#define RUN_512(name)                                                                              \
    RUN(".irp i," MORE "\n\tvpxord %%zmm\\i, %%zmm\\i, %%zmm\\i\n\t.endr", FEW "," MORE,           \
        name " %%zmm12, %%zmm13, %%zmm", , "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21",   \
        "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27")

static void run_fma_256(int64_t rounds) {
    RUN_256("vfmadd231ps");
}

/* Products and the additions that they need. */
static void run_int8_256(int64_t rounds) {
    RUN("", FEW, "vpmaddubsw %%ymm12, %%ymm13, %%ymm14\n\tvpaddw %%ymm14, %%ymm\\i, %%ymm", ,
        "xmm14");
}

__attribute__((target("avx512f"))) static void run_fma_512(int64_t rounds) {
    RUN_512("vfmadd231ps");
}

__attribute__((target("avx512f"))) static void run_bf16_512(int64_t rounds) {
    RUN_512("vdpbf16ps");
}

__attribute__((target("avx512f"))) static void run_int8_512(int64_t rounds) {
    RUN_512("vpdpbusd");
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
        return path >= PATH_AVX512 ? (struct loop){run_fma_512, 24 * 16 * 2}
               : path == PATH_AVX2 ? (struct loop){run_fma_256, 12 * 8 * 2}
                                   : none;
    case INSTRUCTION_BF16_DOT:
        return path == PATH_AMX           ? (struct loop){run_bf16_tiles, 4 * 16 * 16 * 32 * 2}
               : path == PATH_AVX512_BF16 ? (struct loop){run_bf16_512, 24 * 32 * 2}
                                          : none;
    case INSTRUCTION_INT8_DOT:
        return path == PATH_AMX           ? (struct loop){run_int8_tiles, 4 * 16 * 16 * 64 * 2}
               : path == PATH_AVX512_BF16 ? (struct loop){run_int8_512, 24 * 64 * 2}
               : path == PATH_AVX2        ? (struct loop){run_int8_256, 12 * 32 * 2}
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
        const double begin = measure_thread_seconds();
        loop.run(rounds);
        const double taken = measure_thread_seconds() - begin;
        best = taken < best ? taken : best;
    }
    return loop.operations * (double)rounds / best;
}
