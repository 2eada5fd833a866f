/* A .safetensors file: its header is checked, then every tensor's first and last row is read. */
#include <stdlib.h>

#include "io/safetensors.h"
#include "tests/fuzz/fuzz.h"

static void read_row(const struct tensor *tensor, int64_t row) {
    float *values = malloc((size_t)tensor_columns(tensor) * sizeof *values);
    fuzz_require(values != NULL, "memory for a row");
    tensor_read_f32(tensor, row, row + 1, values);
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *path = fuzz_file("model.safetensors", data, size);
    struct safetensors file;
    struct error error;
    fuzz_memory_begin();
    if (safetensors_open(path, &file, &error) == STATUS_OK) {
        for (int64_t i = 0; i < file.count; i++) {
            read_row(&file.tensors[i], 0);
            read_row(&file.tensors[i], tensor_rows(&file.tensors[i]) - 1);
        }
        safetensors_close(&file);
    }
    fuzz_memory_end(16384 + 200 * size);
    return 0;
}
