#include "tests/fuzz/small_model.h"

#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"
#include "tests/model_files.h"

static const char config[] =
    "{\"model_type\": \"llama\", \"num_hidden_layers\": 1, \"hidden_size\": 8, "
    "\"intermediate_size\": 10, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, "
    "\"vocab_size\": 6, \"max_position_embeddings\": 16, \"rms_norm_eps\": 1e-5, "
    "\"tie_word_embeddings\": true}";

#define LAYER "model.layers.0."
static const struct {
    const char *name;
    int rows, columns; /* rows 0: a vector */
} tensors[] = {
    {"model.embed_tokens", 6, 8},
    {LAYER "input_layernorm", 0, 8},
    {LAYER "self_attn.q_proj", 8, 8},
    {LAYER "self_attn.k_proj", 4, 8},
    {LAYER "self_attn.v_proj", 4, 8},
    {LAYER "self_attn.o_proj", 8, 8},
    {LAYER "mlp.gate_proj", 10, 8},
    {LAYER "mlp.up_proj", 10, 8},
    {LAYER "mlp.down_proj", 8, 10},
    {LAYER "post_attention_layernorm", 0, 8},
    {"model.norm", 0, 8},
};

static void write_model(void) {
    static const unsigned char zeros[2048];
    char header[4096] = "{", shape[32];
    size_t length = 1, at = 0;
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        const int rows = tensors[i].rows, columns = tensors[i].columns;
        const size_t end = at + 2 * (size_t)(rows ? rows * columns : columns);
        if (rows)
            snprintf(shape, sizeof shape, "%d,%d", rows, columns);
        else
            snprintf(shape, sizeof shape, "%d", columns);
        length += (size_t)snprintf(header + length, sizeof header - length,
                                   "%s\"%s.weight\":{\"dtype\":\"BF16\",\"shape\":[%s],"
                                   "\"data_offsets\":[%zu,%zu]}",
                                   i ? "," : "", tensors[i].name, shape, at, end);
        at = end;
    }
    snprintf(header + length, sizeof header - length, "}");
    struct bytes file = safetensors_make(header, zeros, at);
    mkdir(fuzz_path("model"), 0700);
    fuzz_file("model/config.json", config, sizeof config - 1);
    fuzz_file("model/model.safetensors", file.data, file.size);
    bytes_free(&file);
}

const struct model *fuzz_small_model(void) {
    static struct model model;
    struct error error = {0};
    if (!model.source) {
        write_model();
        fuzz_require(model_open(fuzz_path("model"), &model, &error) == STATUS_OK, error.message);
    }
    return &model;
}
