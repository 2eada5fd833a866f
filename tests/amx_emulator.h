/* Tile instructions (Intel AMX) on processors that have none, so that every machine tests the very
 * instructions of the amx path's kernels: a handler of SIGILL decodes and carries them out, each
 * thread with its own tiles. Slow: about a microsecond and more each. */
#ifndef FPTQ_TESTS_AMX_EMULATOR_H
#define FPTQ_TESTS_AMX_EMULATOR_H

#include <stdbool.h>

/* Make the amx path runnable by this process: does nothing where the processor has AMX, else takes
 * over SIGILL. False when the path's other instructions (avx512-bf16) are missing too.
 * cmocka takes SIGILL at the start of each test: call this within the test. */
bool amx_emulator_install(void);

#endif
