/* A GGUF file: opened as a model, its config and names made, the first row of every tensor read,
 * the tokenizer made and tried. */
#include <stdlib.h>

#include "io/gguf_model.h"
#include "io/model_source.h"
#include "io/tokenizer.h"
#include "tests/fuzz/fuzz.h"

static void read_tensors(const struct model_source *source) {
    for (int64_t i = 0; i < model_source_tensor_count(source); i++) {
        const struct tensor *tensor = model_source_tensor(source, i);
        float *values = malloc((size_t)tensor_columns(tensor) * sizeof *values);
        fuzz_require(values != NULL, "memory for a row");
        const int64_t rows = tensor->rank > 1 ? tensor->shape[0] : tensor_columns(tensor);
        const int64_t row = model_source_file_row(source, tensor, rows - 1);
        fuzz_require(row >= 0 && row < rows, "a row of the file");
        tensor_read_f32(tensor, tensor->rank > 1 ? row : 0, tensor->rank > 1 ? row + 1 : 1, values);
        free(values);
    }
}

static void try_tokenizer(const struct model_source *source) {
    static const char text[] = "Hello, w\xc3\xb6rld 123 <s></s>\n\n  it's";
    char *json;
    size_t length;
    struct error error;
    struct tokenizer *tokenizer;
    if (model_source_tokenizer_json(source, &json, &length, &error) != STATUS_OK)
        return;
    if (tokenizer_create(json, length, "t", &tokenizer, &error) == STATUS_OK) {
        struct token_list list = {0};
        tokenizer_encode(tokenizer, text, sizeof text - 1, 1, &list, &error);
        token_list_free(&list);
        tokenizer_destroy(tokenizer);
    }
    free(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *path = fuzz_file("model.gguf", data, size);
    struct model_source *source;
    struct error error;
    char sum[65];
    fuzz_memory_begin();
    if (model_source_open(path, &source, &error) == STATUS_OK) {
        read_tensors(source);
        try_tokenizer(source);
        model_source_fingerprint(source, sum, &error);
        model_source_close(source);
    }
    fuzz_memory_end(400000 + 400 * size);
    return 0;
}
