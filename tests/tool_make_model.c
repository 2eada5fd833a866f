/* Writes a random LLaMA-family model as a Hugging Face folder, whole or with one thing wrong, for
 * tests:
 *
 *   tool_make_model FOLDER [key=value ...]
 *
 * Sizes: layers hidden intermediate heads kv_heads head_dim vocabulary positions seed (integers).
 * type=f32|f16|bf16; bias=1: q, k and v have biases (model_type qwen2); tied=1: no lm_head.
 * sparse=1: the weights are a hole in the file, so that the largest models take no space. Faults:
 * nan=TENSOR, inf=TENSOR (one element), missing=TENSOR, transposed=TENSOR (shape reversed),
 * model_type=NAME. */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/number.h"

struct request {
    long layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary, positions, seed;
    long bias, tied, sparse;
    enum number_type type;
    const char *nan, *inf, *missing, *transposed, *model_type;
};

struct file {
    FILE *header, *data;
    size_t offset;
    uint64_t random;
    const struct request *request;
};

/* splitmix64 (Steele, Lea and Flood 2014), as a number in (-1, 1). */
static float random_number(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)((double)(z >> 11) / 4503599627370496.0 - 1.0);
}

static void write_number(struct file *file, float value) {
    const enum number_type type = file->request->type;
    const uint16_t narrow = type == NUMBER_F16 ? number_to_f16(value) : number_to_bf16(value);
    if (type == NUMBER_F32)
        fwrite(&value, sizeof value, 1, file->data);
    else
        fwrite(&narrow, sizeof narrow, 1, file->data);
}

/* Values center + spread * (-1, 1). */
static void write_tensor(struct file *file, const char *name, long rows, long columns, float center,
                         float spread) {
    static const char *const types[] = {"F32", "F16", "BF16"};
    const struct request *request = file->request;
    if (request->missing && !strcmp(name, request->missing))
        return;
    const size_t count = (size_t)((rows ? rows : 1) * columns);
    const bool reverse = request->transposed && !strcmp(name, request->transposed);
    const size_t end = file->offset + count * number_size(request->type);
    fprintf(file->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", file->offset ? "," : "", name,
            types[request->type]);
    if (rows)
        fprintf(file->header, "%ld,", reverse ? columns : rows);
    fprintf(file->header, "%ld],\"data_offsets\":[%zu,%zu]}", reverse && rows ? rows : columns,
            file->offset, end);
    file->offset = end;
    const bool has_nan = request->nan && !strcmp(name, request->nan);
    const bool has_inf = request->inf && !strcmp(name, request->inf);
    for (size_t i = 0; !request->sparse && i < count; i++) {
        float value = center + spread * random_number(&file->random);
        if (i == count / 2 && has_nan)
            value = NAN;
        if (i == count / 2 && has_inf)
            value = INFINITY;
        write_number(file, value);
    }
}

static void write_linear(struct file *file, long layer, const char *name, long out, long in,
                         long bias) {
    char full[200];
    snprintf(full, sizeof full, "model.layers.%ld.%s.weight", layer, name);
    write_tensor(file, full, out, in, 0, 1.7f / sqrtf((float)in));
    snprintf(full, sizeof full, "model.layers.%ld.%s.bias", layer, name);
    if (bias)
        write_tensor(file, full, 0, out, 0, 0.3f);
}

static void write_layer(struct file *file, long layer) {
    const struct request *request = file->request;
    const long query = request->heads * request->head_dim;
    const long key_value = request->kv_heads * request->head_dim;
    char full[200];
    snprintf(full, sizeof full, "model.layers.%ld.input_layernorm.weight", layer);
    write_tensor(file, full, 0, request->hidden, 1, 0.5f);
    snprintf(full, sizeof full, "model.layers.%ld.post_attention_layernorm.weight", layer);
    write_tensor(file, full, 0, request->hidden, 1, 0.5f);
    write_linear(file, layer, "self_attn.q_proj", query, request->hidden, request->bias);
    write_linear(file, layer, "self_attn.k_proj", key_value, request->hidden, request->bias);
    write_linear(file, layer, "self_attn.v_proj", key_value, request->hidden, request->bias);
    write_linear(file, layer, "self_attn.o_proj", request->hidden, query, 0);
    write_linear(file, layer, "mlp.gate_proj", request->intermediate, request->hidden, 0);
    write_linear(file, layer, "mlp.up_proj", request->intermediate, request->hidden, 0);
    write_linear(file, layer, "mlp.down_proj", request->hidden, request->intermediate, 0);
}

static FILE *open_in(const char *folder, const char *name, const char *mode) {
    char path[1000];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, mode);
    if (!file) {
        fprintf(stderr, "tool_make_model: %s: %s\n", path, strerror(errno));
        exit(1);
    }
    return file;
}

static void write_config(const char *folder, const struct request *request) {
    FILE *file = open_in(folder, "config.json", "w");
    fprintf(file,
            "{\"model_type\":\"%s\",\"hidden_size\":%ld,\"intermediate_size\":%ld,"
            "\"num_hidden_layers\":%ld,\"num_attention_heads\":%ld,\"num_key_value_heads\":%ld,"
            "\"head_dim\":%ld,\"vocab_size\":%ld,\"max_position_embeddings\":%ld,"
            "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"hidden_act\":\"silu\","
            "\"tie_word_embeddings\":%s}\n",
            request->model_type, request->hidden, request->intermediate, request->layers,
            request->heads, request->kv_heads, request->head_dim, request->vocabulary,
            request->positions, request->tied ? "true" : "false");
    fclose(file);
}

static void append(FILE *to, FILE *from) {
    char buffer[65536];
    size_t bytes;
    rewind(from);
    while ((bytes = fread(buffer, 1, sizeof buffer, from)))
        fwrite(buffer, 1, bytes, to);
}

static int write_model(const char *folder, const struct request *request) {
    mkdir(folder, 0777);
    write_config(folder, request);
    struct file file = {.header = tmpfile(),
                        .data = open_in(folder, "model.data", "w+b"),
                        .random = (uint64_t)request->seed,
                        .request = request};
    if (!file.header)
        return 1;
    fputc('{', file.header);
    write_tensor(&file, "model.embed_tokens.weight", request->vocabulary, request->hidden, 0, 1);
    for (long layer = 0; layer < request->layers; layer++)
        write_layer(&file, layer);
    write_tensor(&file, "model.norm.weight", 0, request->hidden, 1, 0.5f);
    if (!request->tied)
        write_tensor(&file, "lm_head.weight", request->vocabulary, request->hidden, 0, 0.2f);
    fputc('}', file.header);
    while (ftell(file.header) % 8)
        fputc(' ', file.header);
    const uint64_t length = (uint64_t)ftell(file.header);
    FILE *model = open_in(folder, "model.safetensors", "wb");
    fwrite(&length, sizeof length, 1, model);
    append(model, file.header);
    append(model, file.data);
    if (request->sparse &&
        (fflush(model) || ftruncate(fileno(model), (off_t)(8 + length + file.offset))))
        return 1;
    fclose(file.header);
    fclose(file.data);
    char path[1000];
    snprintf(path, sizeof path, "%s/model.data", folder);
    remove(path);
    return fclose(model) ? 1 : 0;
}

static bool parse(struct request *request, const char *argument) {
    struct {
        const char *key;
        long *value;
    } integers[] = {{"layers", &request->layers},
                    {"hidden", &request->hidden},
                    {"intermediate", &request->intermediate},
                    {"heads", &request->heads},
                    {"kv_heads", &request->kv_heads},
                    {"head_dim", &request->head_dim},
                    {"vocabulary", &request->vocabulary},
                    {"positions", &request->positions},
                    {"seed", &request->seed},
                    {"bias", &request->bias},
                    {"tied", &request->tied},
                    {"sparse", &request->sparse}};
    struct {
        const char *key;
        const char **value;
    } texts[] = {{"nan", &request->nan},
                 {"inf", &request->inf},
                 {"missing", &request->missing},
                 {"transposed", &request->transposed},
                 {"model_type", &request->model_type}};
    const char *equals = strchr(argument, '=');
    if (!equals)
        return false;
    const size_t length = (size_t)(equals - argument);
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++)
        if (strlen(integers[i].key) == length && !strncmp(argument, integers[i].key, length)) {
            *integers[i].value = strtol(equals + 1, NULL, 10);
            return true;
        }
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (strlen(texts[i].key) == length && !strncmp(argument, texts[i].key, length)) {
            *texts[i].value = equals + 1;
            return true;
        }
    if (strncmp(argument, "type=", 5))
        return false;
    request->type = !strcmp(equals + 1, "f32")   ? NUMBER_F32
                    : !strcmp(equals + 1, "f16") ? NUMBER_F16
                                                 : NUMBER_BF16;
    return true;
}

int main(int count, char **arguments) {
    struct request request = {.layers = 2,
                              .hidden = 24,
                              .intermediate = 20,
                              .heads = 6,
                              .kv_heads = 2,
                              .head_dim = 8,
                              .vocabulary = 64,
                              .positions = 2048,
                              .seed = 1,
                              .type = NUMBER_BF16};
    bool valid = count >= 2;
    for (int i = 2; valid && i < count; i++)
        valid = parse(&request, arguments[i]);
    if (!valid) {
        fprintf(stderr, "usage: tool_make_model FOLDER [key=value ...]\n");
        return 2;
    }
    if (!request.model_type)
        request.model_type = request.bias ? "qwen2" : "llama";
    return write_model(arguments[1], &request);
}
