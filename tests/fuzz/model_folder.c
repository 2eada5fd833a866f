/* model.safetensors.index.json in a folder that has a config and one shard: what it names stays in
 * the folder. */
#include <stdlib.h>
#include <string.h>

#include "io/model_source.h"
#include "tests/fuzz/fuzz.h"

static const char config[] = "{\"model_type\": \"llama\"}";
static const char header[] = "{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]},"
                             "\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[4,8]}}";

static void write_shard(void) {
    unsigned char shard[8 + sizeof header - 1 + 8] = {0};
    const uint64_t length = sizeof header - 1;
    memcpy(shard, &length, sizeof length);
    memcpy(shard + 8, header, sizeof header - 1);
    fuzz_file("config.json", config, sizeof config - 1);
    fuzz_file("shard-1.safetensors", shard, sizeof shard);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int written;
    if (!written++)
        write_shard();
    fuzz_file("model.safetensors.index.json", data, size);
    struct model_source *source;
    struct error error;
    fuzz_memory_begin();
    if (model_source_open(fuzz_path(""), &source, &error) == STATUS_OK) {
        for (int64_t i = 0; i < model_source_tensor_count(source); i++)
            fuzz_require(strncmp(model_source_tensor(source, i)->file, fuzz_path(""),
                                 strlen(fuzz_path(""))) == 0,
                         "a tensor's file is in the folder");
        model_source_close(source);
    }
    fuzz_memory_end(65536 + 400 * size);
    return 0;
}
