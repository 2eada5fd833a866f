/* The bytes of a checkpoint's file, for `verify`: whatever HDF5 makes of them in its child process,
 * the parent comes to an answer. */
#include "io/checkpoint.h"
#include "tests/fuzz/fuzz.h"

static void count_fault(void *context, const char *dataset, const char *what) {
    fuzz_require(*dataset == '/' && *what, "a fault has a place and words");
    ++*(int64_t *)context;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *path = fuzz_file("c.h5", data, size);
    struct error error;
    int64_t faults = 0, checked, bad;
    fuzz_memory_begin();
    const enum status status =
        checkpoint_verify(path, count_fault, &faults, &checked, &bad, &error);
    fuzz_memory_end(1 << 20);
    fuzz_require(status == STATUS_OK || status == STATUS_INPUT, error.message);
    fuzz_require(bad == faults, "every fault is told");
    return 0;
}
