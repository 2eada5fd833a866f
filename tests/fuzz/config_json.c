/* A model's config.json: the family is found and its sizes are read. */
#include <stdlib.h>

#include "pipeline/architecture.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_memory_begin();
    json_t *config = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    const struct architecture *architecture;
    struct model_shape shape = {.model_type = "llama"};
    struct error error;
    if (json_is_object(config) &&
        architecture_find(config, "config.json", &architecture, &error) == STATUS_OK &&
        architecture->read_config(config, "config.json", &shape, &error) == STATUS_OK) {
        fuzz_require(shape.layers > 0 && shape.heads > 0 && shape.kv_heads > 0 &&
                         shape.heads % shape.kv_heads == 0 && shape.head_dim > 0 &&
                         shape.hidden > 0 && shape.intermediate > 0 && shape.vocabulary > 0,
                     "sizes that are accepted are positive");
        for (int dimension = 0; dimension <= DIMENSION_KEY_VALUE; dimension++)
            fuzz_require(model_dimension(&shape, (enum dimension)dimension) > 0, "a dimension");
    }
    json_decref(config);
    fuzz_memory_end(65536 + 200 * size);
    return 0;
}
