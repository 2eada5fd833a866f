/* Time, and the rate of a path's own instruction on one core: what a kernel can reach at most. */
#ifndef FPTQ_TESTS_BENCH_MEASURE_H
#define FPTQ_TESTS_BENCH_MEASURE_H

#include <stdint.h>

#include "kernels/path.h"

/* The instructions whose rate is measured. */
enum instruction {
    INSTRUCTION_F32_FMA,  /* the widest vector that the path has */
    INSTRUCTION_BF16_DOT, /* vdpbf16ps, tdpbf16ps */
    INSTRUCTION_INT8_DOT, /* vpdpbusd, tdpbssd */
};

/* Every bench is called as "bench_NAME [PATH [NUMBER...]]". The first argument, a path that this
 * machine has; the best one if there is none. Anything else ends the program: --help with `usage`,
 * what follows the program's name, the rest with one line and status 2. */
enum kernel_path measure_path(int argc, char **argv, const char *usage);
/* For benches that compare with a library of OpenMP's: its threads, which would spin for a while
 * after their work, sleep instead. First of all in main; starts the program anew where need be. */
void measure_let_openmp_sleep(char **argv);
/* Argument `index` from 2 on, a number from 1 on; `otherwise` if there is none. */
int64_t measure_number(int argc, char **argv, int index, int64_t otherwise);

double measure_seconds(void);
/* The calling thread's own processor time. */
double measure_thread_seconds(void);
/* Operations (multiply and add are two) a second of `instruction` on `path`, registers only, on the
 * calling thread; 0 when the path has no such instruction. Takes about 20 ms. */
double measure_peak(enum kernel_path path, enum instruction instruction);

#endif
