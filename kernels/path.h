/* Instruction paths: which instructions the kernels use.
 *
 * Best first: amx, avx512-bf16, avx512, avx2, portable. A machine that has one has all that are
 * worse. Ranks agree on the worst of their bests (a minimum), so unlike machines in one job give
 * the same bytes. Products in f32 give the same bits on portable, avx2 and avx512 (one chain of
 * fused multiply-adds in ascending k); amx and avx512-bf16 use avx512 for them. */
#ifndef FPTQ_KERNELS_PATH_H
#define FPTQ_KERNELS_PATH_H

#include <stdbool.h>

enum kernel_path { PATH_PORTABLE, PATH_AVX2, PATH_AVX512, PATH_AVX512_BF16, PATH_AMX, PATH_COUNT };

/* "portable", "avx2", "avx512", "avx512-bf16", "amx" */
const char *kernel_path_name(enum kernel_path path);
/* Find a path by name; false when there is none of that name. */
bool kernel_path_parse(const char *name, enum kernel_path *path);
/* Whether this processor (and, for amx, the operating system) can run the path. Asks them each time
 * (which is slow in a virtual machine): for the start of a program. For amx it asks the system for
 * the permission to use tiles, which the process then has, with all its threads. */
bool kernel_path_supported(enum kernel_path path);
/* The path this processor is to use. A fixed rule, never a timing: amx where there is AMX with
 * bf16; avx512-bf16 on processors that run vdpbf16ps at twice the rate of f32 (AMD's; Intel's run
 * it at half of it, so they take avx512); else the best that is supported. */
enum kernel_path kernel_path_best(void);

#endif
