/* What the fuzz targets share: the input as a file, and the promise that the memory which an input
 * makes us take is bounded by its size. */
#ifndef FPTQ_TESTS_FUZZ_FUZZ_H
#define FPTQ_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The bytes as a file of that name in a folder of this process's own (in $TMPDIR; removed at a
 * normal exit). The path is valid until the next call. */
const char *fuzz_file(const char *name, const void *data, size_t size);
/* The path of a file in that folder. */
const char *fuzz_path(const char *name);

/* From begin to end no more than `bound` bytes may be allocated at a time beyond those at begin;
 * otherwise end() says so and aborts, which the fuzzer counts as a crash. */
void fuzz_memory_begin(void);
void fuzz_memory_end(size_t bound);

/* `condition` holds, or the fuzzer counts a crash. */
void fuzz_require(int condition, const char *what);

#endif
