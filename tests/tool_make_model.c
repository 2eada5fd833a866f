/* Writes a random model of the LLaMA family, or BLOOM's, as a Hugging Face folder, whole or with
 * one thing wrong, for tests:
 *
 *   tool_make_model FOLDER [key=value ...]
 *
 * Sizes: layers hidden intermediate heads kv_heads head_dim vocabulary positions seed (integers).
 * type=f32|f16|bf16; bias=1: q, k and v have biases (model_type qwen2); tied=1: no lm_head.
 * sparse=1: the weights are a hole in the file, so that the largest models take no space.
 * model_type=bloom: BLOOM of `layers`, `hidden`, `heads`, `vocabulary`; other names with LLaMA's
 * tensors. Faults: nan=TENSOR, inf=TENSOR (one element), missing=TENSOR, transposed=TENSOR (shape
 * reversed). */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/number.h"

enum { BLOCK = 65536 }; /* numbers written at once */

struct request {
    long layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary, positions, seed;
    long bias, tied, sparse;
    enum number_type type;
    const char *nan, *inf, *missing, *transposed, *model_type;
};

/* The folder is made in two rounds over its tensors: one writes the header, the other the numbers.
 */
struct file {
    FILE *header, *data; /* one of them; the other is NULL */
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

static void write_header(struct file *file, const char *name, long rows, long columns) {
    static const char *const types[] = {"F32", "F16", "BF16"};
    const struct request *request = file->request;
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
}

/* Numbers [begin, begin + count) of a tensor of `total`. */
static void write_block(struct file *file, const char *name, size_t begin, size_t count,
                        size_t total, float center, float spread) {
    static float values[BLOCK];
    static uint16_t narrow[BLOCK];
    const struct request *request = file->request;
    for (size_t i = 0; i < count; i++)
        values[i] = center + spread * random_number(&file->random);
    const bool has_middle = total / 2 >= begin && total / 2 < begin + count;
    if (has_middle && request->nan && !strcmp(name, request->nan))
        values[total / 2 - begin] = NAN;
    if (has_middle && request->inf && !strcmp(name, request->inf))
        values[total / 2 - begin] = INFINITY;
    for (size_t i = 0; request->type != NUMBER_F32 && i < count; i++)
        narrow[i] =
            request->type == NUMBER_F16 ? number_to_f16(values[i]) : number_to_bf16(values[i]);
    const void *bytes = request->type == NUMBER_F32 ? (const void *)values : narrow;
    fwrite(bytes, number_size(request->type), count, file->data);
}

/* Values center + spread * (-1, 1). */
static void write_tensor(struct file *file, const char *name, long rows, long columns, float center,
                         float spread) {
    const size_t total = (size_t)((rows ? rows : 1) * columns);
    if (file->request->missing && !strcmp(name, file->request->missing))
        return;
    if (file->header)
        write_header(file, name, rows, columns);
    for (size_t begin = 0; file->data && begin < total; begin += BLOCK)
        write_block(file, name, begin, total - begin < BLOCK ? total - begin : BLOCK, total, center,
                    spread);
}

/* `prefix` is "model.layers.%ld." or "h.%ld.". */
static void write_linear(struct file *file, const char *prefix, long layer, const char *name,
                         long out, long in, long bias) {
    char full[200];
    const int length = snprintf(full, sizeof full, prefix, layer);
    snprintf(full + length, sizeof full - (size_t)length, "%s.weight", name);
    write_tensor(file, full, out, in, 0, 1.7f / sqrtf((float)in));
    snprintf(full + length, sizeof full - (size_t)length, "%s.bias", name);
    if (bias)
        write_tensor(file, full, 0, out, 0, 0.3f);
}

/* `name` may be empty, and `prefix` the whole name. */
static void write_norm(struct file *file, const char *prefix, long layer, const char *name,
                       long bias) {
    char full[200];
    const int length = snprintf(full, sizeof full, prefix, layer);
    snprintf(full + length, sizeof full - (size_t)length, "%s.weight", name);
    write_tensor(file, full, 0, file->request->hidden, 1, 0.5f);
    snprintf(full + length, sizeof full - (size_t)length, "%s.bias", name);
    if (bias)
        write_tensor(file, full, 0, file->request->hidden, 0, 0.3f);
}

static void write_llama(struct file *file) {
    static const char prefix[] = "model.layers.%ld.";
    const struct request *r = file->request;
    const long query = r->heads * r->head_dim, key_value = r->kv_heads * r->head_dim;
    write_tensor(file, "model.embed_tokens.weight", r->vocabulary, r->hidden, 0, 1);
    for (long layer = 0; layer < r->layers; layer++) {
        write_norm(file, prefix, layer, "input_layernorm", 0);
        write_norm(file, prefix, layer, "post_attention_layernorm", 0);
        write_linear(file, prefix, layer, "self_attn.q_proj", query, r->hidden, r->bias);
        write_linear(file, prefix, layer, "self_attn.k_proj", key_value, r->hidden, r->bias);
        write_linear(file, prefix, layer, "self_attn.v_proj", key_value, r->hidden, r->bias);
        write_linear(file, prefix, layer, "self_attn.o_proj", r->hidden, query, 0);
        write_linear(file, prefix, layer, "mlp.gate_proj", r->intermediate, r->hidden, 0);
        write_linear(file, prefix, layer, "mlp.up_proj", r->intermediate, r->hidden, 0);
        write_linear(file, prefix, layer, "mlp.down_proj", r->hidden, r->intermediate, 0);
    }
    write_norm(file, "model.norm", 0, "", 0);
    if (!r->tied)
        write_tensor(file, "lm_head.weight", r->vocabulary, r->hidden, 0, 0.2f);
}

/* With the names of the published files, which have no "transformer." */
static void write_bloom(struct file *file) {
    static const char prefix[] = "h.%ld.";
    const struct request *r = file->request;
    write_tensor(file, "word_embeddings.weight", r->vocabulary, r->hidden, 0, 1);
    write_norm(file, "word_embeddings_layernorm", 0, "", 1);
    for (long layer = 0; layer < r->layers; layer++) {
        write_norm(file, prefix, layer, "input_layernorm", 1);
        write_linear(file, prefix, layer, "self_attention.query_key_value", 3 * r->hidden,
                     r->hidden, 1);
        write_linear(file, prefix, layer, "self_attention.dense", r->hidden, r->hidden, 1);
        write_norm(file, prefix, layer, "post_attention_layernorm", 1);
        write_linear(file, prefix, layer, "mlp.dense_h_to_4h", 4 * r->hidden, r->hidden, 1);
        write_linear(file, prefix, layer, "mlp.dense_4h_to_h", r->hidden, 4 * r->hidden, 1);
    }
    write_norm(file, "ln_f", 0, "", 1);
}

static bool is_bloom(const struct request *request) {
    return !strcmp(request->model_type, "bloom");
}

static void write_tensors(struct file *file) {
    if (is_bloom(file->request))
        write_bloom(file);
    else
        write_llama(file);
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
    if (is_bloom(request))
        fprintf(file,
                "{\"model_type\":\"bloom\",\"n_embed\":%ld,\"n_layer\":%ld,\"n_head\":%ld,"
                "\"vocab_size\":%ld,\"seq_length\":%ld,\"layer_norm_epsilon\":1e-5}\n",
                request->hidden, request->layers, request->heads, request->vocabulary,
                request->positions);
    else
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

static int write_model(const char *folder, const struct request *request) {
    mkdir(folder, 0777);
    write_config(folder, request);
    char *header = NULL;
    size_t header_bytes;
    struct file file = {.header = open_memstream(&header, &header_bytes), .request = request};
    if (!file.header)
        return 1;
    fputc('{', file.header);
    write_tensors(&file);
    fputc('}', file.header);
    while (ftell(file.header) % 8)
        fputc(' ', file.header);
    fclose(file.header);
    const uint64_t length = header_bytes;
    FILE *model = open_in(folder, "model.safetensors", "wb");
    fwrite(&length, sizeof length, 1, model);
    fwrite(header, 1, header_bytes, model);
    free(header);
    if (request->sparse) {
        if (fflush(model) || ftruncate(fileno(model), (off_t)(8 + length + file.offset)))
            return 1;
    } else {
        file = (struct file){.data = model, .random = (uint64_t)request->seed, .request = request};
        write_tensors(&file);
    }
    return ferror(model) | fclose(model) ? 1 : 0;
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
