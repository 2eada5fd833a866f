/* Does a checkpoint say what the model's tensors are?
 *
 *   tool_check_values MODEL CHECKPOINT [ALPHA | clipped]
 *
 * For every quantized linear of a LLaMA- or BLOOM-family model: its weights, with the equalization
 * scales that the checkpoint holds folded in by the formulas alone (columns times the linear's own;
 * rows of v_proj, up_proj, and the v rows of query_key_value, divided by that of the linear that
 * reads them), against (q - z) * s: within half a step everywhere, and 1e-5 of the weight for
 * rounding. Biases, and norms divided by the scale of what reads them: within the rounding of
 * their type. `folded` says which scales were folded. What is outside the layers is as in the
 * model. With ALPHA, the scale of what a norm feeds is SmoothQuant's (arXiv 2211.10438), m^ALPHA /
 * max|W|^(1 - ALPHA) of the checkpoint's m and the model's W, to 1e-6, and other inputs have none.
 * With "clipped", weights may lie anywhere beyond the last level that they have, and some do.
 * Prints the largest distance in steps. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/checkpoint_read.h"
#include "io/gguf_blocks.h"
#include "io/model_source.h"

struct linear {
    const char *name, *consumer; /* the linear that reads its output channel by channel, or NULL */
    bool fused;                  /* rows [head][q, k, v][head_dim]: v alone is what it reads */
    bool keeps_scale;            /* its own scale has no place to be folded into */
    int norm;                    /* which norm, from 1, it reads; 0: none */
};

struct family {
    const char *model_type; /* of config.json; NULL: of all others */
    const char *layers, *optional_prefix;
    struct linear linears[8];
    struct {
        const char *name, *reader;
    } norms[2];
    const char *outer[6]; /* stored unchanged, where the model has them */
};

static const struct family families[] = {
    {
        .model_type = "bloom",
        .layers = "transformer.h.",
        .optional_prefix = "transformer.",
        .linears = {{.name = "self_attention.query_key_value",
                     .consumer = "self_attention.dense",
                     .fused = true,
                     .norm = 1},
                    {.name = "self_attention.dense"},
                    {.name = "mlp.dense_h_to_4h", .norm = 2},
                    {.name = "mlp.dense_4h_to_h", .keeps_scale = true}},
        .norms = {{"input_layernorm", "self_attention.query_key_value"},
                  {"post_attention_layernorm", "mlp.dense_h_to_4h"}},
        .outer = {"transformer.word_embeddings.weight",
                  "transformer.word_embeddings_layernorm.weight",
                  "transformer.word_embeddings_layernorm.bias", "transformer.ln_f.weight",
                  "transformer.ln_f.bias"},
    },
    {
        .model_type = "starcoder2",
        .layers = "model.layers.",
        .optional_prefix = "",
        .linears = {{.name = "self_attn.q_proj", .norm = 1},
                    {.name = "self_attn.k_proj", .norm = 1},
                    {.name = "self_attn.v_proj", .consumer = "self_attn.o_proj", .norm = 1},
                    {.name = "self_attn.o_proj"},
                    {.name = "mlp.c_fc", .norm = 2},
                    {.name = "mlp.c_proj", .keeps_scale = true}},
        .norms = {{"input_layernorm", "self_attn.q_proj"},
                  {"post_attention_layernorm", "mlp.c_fc"}},
        .outer = {"model.embed_tokens.weight", "model.norm.weight", "model.norm.bias"},
    },
    {
        .layers = "model.layers.",
        .optional_prefix = "",
        .linears = {{.name = "self_attn.q_proj", .norm = 1},
                    {.name = "self_attn.k_proj", .norm = 1},
                    {.name = "self_attn.v_proj", .consumer = "self_attn.o_proj", .norm = 1},
                    {.name = "self_attn.o_proj"},
                    {.name = "mlp.gate_proj", .norm = 2},
                    {.name = "mlp.up_proj", .consumer = "mlp.down_proj", .norm = 2},
                    {.name = "mlp.down_proj"}},
        .norms = {{"input_layernorm", "self_attn.q_proj"},
                  {"post_attention_layernorm", "mlp.up_proj"}},
        .outer = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"},
    }};

struct values {
    float *data;
    int64_t count;
};

static const struct family *family;
static struct model_source *source;
static struct checkpoint *checkpoint;
static int64_t head_dim;
static bool clipped;
static struct error error;

static void fail(const char *what) {
    fprintf(stderr, "tool_check_values: %s: %s\n", what, error.message);
    exit(1);
}

/* A tensor by its Hugging Face name, which the file may have without its prefix. */
static const struct tensor *find(const char *name) {
    const struct tensor *tensor = model_source_find(source, name);
    return tensor ? tensor : model_source_find(source, name + strlen(family->optional_prefix));
}

/* "/" + name with '/' for '.', which the checkpoint calls it */
static void path_of(const char *name, char path[300]) {
    snprintf(path, 300, "/%s", name);
    for (char *dot; (dot = strchr(path, '.'));)
        *dot = '/';
}

/* Dataset `name` of a module, of any type, as f32; count 0 when it is not there. */
static struct values read_values(const char *module, const char *name) {
    char path[300], full[280];
    struct checkpoint_dataset dataset;
    snprintf(full, sizeof full, "%s.%s", module, name);
    path_of(full, path);
    if (checkpoint_describe(checkpoint, path, &dataset, &error))
        return (struct values){NULL, 0};
    struct values values = {NULL, 1};
    for (int i = 0; i < dataset.rank; i++)
        values.count *= dataset.dimensions[i];
    void *raw = malloc(dataset.bytes + 1);
    values.data = malloc((size_t)values.count * sizeof(float));
    if (!raw || !values.data || checkpoint_read(checkpoint, path, raw, &error))
        fail(path);
    for (int64_t i = 0; i < values.count; i++) {
        uint16_t half;
        switch (dataset.type) {
        case CHECKPOINT_F32:
            memcpy(&values.data[i], (const char *)raw + 4 * i, 4);
            break;
        case CHECKPOINT_F16:
            memcpy(&half, (const char *)raw + 2 * i, 2);
            values.data[i] = half_to_float(half);
            break;
        case CHECKPOINT_BF16:
            values.data[i] = 0;
            memcpy((char *)&values.data[i] + 2, (const char *)raw + 2 * i, 2);
            break;
        default:
            values.data[i] = (float)((const int8_t *)raw)[i];
        }
    }
    free(raw);
    return values;
}

/* What divides a row of this linear: the equalization of the linear that reads its output, where
 * that output is not mixed on the way. Query heads of a group share the channel of one KV head. */
static float row_divisor(const struct linear *linear, const struct values *consumer, int64_t row,
                         int64_t rows) {
    if (!consumer->count)
        return 1;
    if (linear->fused) {
        const int64_t head = row / (3 * head_dim), part = row / head_dim % 3;
        return part == 2 ? consumer->data[head * head_dim + row % head_dim] : 1;
    }
    const int64_t group = consumer->count / rows;
    return consumer->data[group == 1 ? row : row / head_dim * group * head_dim + row % head_dim];
}

/* A vector as the model has it, in Hugging Face's order. */
static struct values model_vector(const char *name) {
    const struct tensor *tensor = find(name);
    if (!tensor)
        return (struct values){NULL, 0};
    const int64_t count = tensor_columns(tensor);
    struct values values = {malloc((size_t)count * sizeof(float)), count};
    float *in_file = malloc((size_t)count * sizeof(float));
    tensor_read_f32(tensor, 0, 1, in_file);
    for (int64_t i = 0; i < count; i++)
        values.data[i] = in_file[model_source_file_row(source, tensor, i)];
    free(in_file);
    return values;
}

/* stored is expected / divisor, rounded to 8 bits of mantissa or more. */
static void check_vector(const char *name, const struct values *stored,
                         const struct values *expected, const float *divisors) {
    if (stored->count != expected->count)
        fail(name);
    for (int64_t i = 0; i < stored->count; i++) {
        const double value = (double)expected->data[i] / (divisors ? divisors[i] : 1);
        if (!(fabs(stored->data[i] - value) <= fabs(value) / 256 + 1e-7)) {
            fprintf(stderr, "tool_check_values: %s: element %lld is %g, expected %g\n", name,
                    (long long)i, (double)stored->data[i], value);
            exit(1);
        }
    }
}

static void check_bias(const char *module, const struct linear *linear,
                       const struct values *consumer) {
    char name[256];
    snprintf(name, sizeof name, "%s.bias", module);
    struct values stored = read_values(module, "bias"), expected = model_vector(name);
    float *divisors = malloc((size_t)(expected.count + 1) * sizeof *divisors);
    for (int64_t i = 0; i < expected.count; i++)
        divisors[i] = row_divisor(linear, consumer, i, expected.count);
    check_vector(name, &stored, &expected, divisors);
    free(stored.data);
    free(expected.data);
    free(divisors);
}

/* Every equalized linear's scale is folded, but where there is no place for it. */
static int64_t check_folded(const char *module, const struct linear *linear, bool equalized) {
    char path[300];
    int64_t folded, size;
    path_of(module, path);
    if (checkpoint_attribute_integer(checkpoint, path, "group_size", &size, &error) ||
        checkpoint_attribute_integer(checkpoint, path, "folded", &folded, &error))
        fail(module);
    if (folded != (equalized && !linear->keeps_scale)) {
        fprintf(stderr, "tool_check_values: %s: folded is %lld\n", module, (long long)folded);
        exit(1);
    }
    return size;
}

static double check_linear(const char *prefix, const struct linear *linear) {
    char module[200], name[256], reader[200];
    snprintf(module, sizeof module, "%s%s", prefix, linear->name);
    snprintf(name, sizeof name, "%s.weight", module);
    snprintf(reader, sizeof reader, "%s%s", prefix, linear->consumer ? linear->consumer : "");
    const struct tensor *tensor = find(name);
    if (!tensor)
        fail(name);
    const int64_t rows = tensor_rows(tensor), columns = tensor_columns(tensor);
    struct values q = read_values(module, "weight"), s = read_values(module, "weight_scale");
    struct values z = read_values(module, "weight_zero_point");
    struct values column = read_values(module, "equalization");
    struct values consumer =
        linear->consumer ? read_values(reader, "equalization") : (struct values){NULL, 0};
    int64_t size = check_folded(module, linear, column.count > 0);
    if (q.count != rows * columns)
        fail(module);
    size = size ? size : columns;
    const int64_t groups = (columns + size - 1) / size;
    float *w = malloc((size_t)columns * sizeof *w);
    double worst = 0;
    int64_t beyond = 0;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t from = model_source_file_row(source, tensor, r);
        tensor_read_f32(tensor, from, from + 1, w);
        for (int64_t c = 0; c < columns; c++) {
            const double folded = (double)w[c] * (column.count ? column.data[c] : 1) /
                                  row_divisor(linear, &consumer, r, rows);
            const int64_t g = r * groups + c / size;
            const double step = s.data[g];
            const double back = (q.data[r * columns + c] - (z.count ? z.data[g] : 0)) * step;
            const double distance = fmax(fabs(folded - back) - 1e-5 * fabs(folded), 0) / step;
            if (clipped && distance > 0.5 && q.data[r * columns + c] == (folded > back ? 7 : -8))
                beyond++;
            else
                worst = distance > worst ? distance : worst;
        }
    }
    if (clipped && (beyond == 0 || beyond > rows * columns / 10))
        fail(module);
    check_bias(module, linear, &consumer);
    free(w);
    free(q.data);
    free(s.data);
    free(z.data);
    free(column.data);
    free(consumer.data);
    return worst;
}

/* A norm's weight and bias, divided by the scale of what reads it. */
static void check_norm(const char *prefix, const char *norm, const char *reader) {
    static const char *const suffixes[] = {"weight", "bias"};
    char module[200], name[256], reading[200];
    snprintf(module, sizeof module, "%s%s", prefix, norm);
    snprintf(reading, sizeof reading, "%s%s", prefix, reader);
    struct values scale = read_values(reading, "equalization");
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.%s", module, suffixes[i]);
        struct values stored = read_values(module, suffixes[i]), expected = model_vector(name);
        check_vector(name, &stored, &expected, scale.count ? scale.data : NULL);
        free(stored.data);
        free(expected.data);
    }
    free(scale.data);
}

/* max|W_rc| over the linears that read norm `norm` (from 1) and their rows r; to be freed. */
static double *largest_weights(const char *prefix, int norm, int64_t columns) {
    double *largest = calloc((size_t)columns, sizeof *largest);
    float *w = malloc((size_t)columns * sizeof *w);
    char name[256];
    for (const struct linear *linear = family->linears; linear->name; linear++) {
        if (linear->norm != norm)
            continue;
        snprintf(name, sizeof name, "%s%s.weight", prefix, linear->name);
        const struct tensor *tensor = find(name);
        for (int64_t r = 0; r < tensor_rows(tensor); r++) {
            tensor_read_f32(tensor, r, r + 1, w);
            for (int64_t c = 0; c < columns; c++)
                largest[c] = fmax(largest[c], fabs((double)w[c]));
        }
    }
    free(w);
    return largest;
}

static void check_smooth(const char *prefix, const struct linear *linear, double alpha) {
    char module[200];
    snprintf(module, sizeof module, "%s%s", prefix, linear->name);
    struct values scale = read_values(module, "equalization");
    struct values m = read_values(module, "input_absmax");
    if ((scale.count > 0) != (linear->norm > 0))
        fail(module);
    if (linear->norm) {
        double *largest = largest_weights(prefix, linear->norm, m.count);
        for (int64_t c = 0; c < m.count; c++) {
            const bool dead = m.data[c] < 1e-5 || largest[c] < 1e-5;
            const double expected =
                dead ? 1 : pow((double)m.data[c], alpha) / pow(largest[c], 1 - alpha);
            if (!(fabs(scale.data[c] - expected) <= 1e-6 * expected))
                fail(module);
        }
        free(largest);
    }
    free(scale.data);
    free(m.data);
}

/* A tensor outside the layers; a tied head is not stored. */
static void check_outer(const char *name, bool tied) {
    const struct tensor *tensor = find(name);
    if (!tensor || (tied && !strcmp(name, "lm_head.weight")))
        return;
    char module[200];
    snprintf(module, sizeof module, "%s", name);
    char *last = strrchr(module, '.');
    *last = '\0';
    struct values stored = read_values(module, last + 1);
    struct values expected = {NULL, tensor_rows(tensor) * tensor_columns(tensor)};
    expected.data = malloc((size_t)expected.count * sizeof(float));
    tensor_read_f32(tensor, 0, tensor_rows(tensor), expected.data);
    check_vector(name, &stored, &expected, NULL);
    free(stored.data);
    free(expected.data);
}

static int64_t either(const json_t *config, const char *first, const char *second) {
    const json_t *value = json_object_get(config, first);
    return json_integer_value(value ? value : json_object_get(config, second));
}

int main(int count, char **arguments) {
    if (count != 3 && count != 4) {
        fprintf(stderr, "usage: tool_check_values MODEL CHECKPOINT [ALPHA | clipped]\n");
        return 2;
    }
    clipped = count == 4 && strcmp(arguments[3], "clipped") == 0;
    if (model_source_open(arguments[1], &source, &error) ||
        checkpoint_open(arguments[2], &checkpoint, &error))
        fail("open");
    const json_t *config = model_source_config(source);
    const char *model_type = json_string_value(json_object_get(config, "model_type"));
    for (family = families; family->model_type; family++)
        if (model_type && !strcmp(model_type, family->model_type))
            break;
    const int64_t layers = either(config, "num_hidden_layers", "n_layer");
    head_dim = json_integer_value(json_object_get(config, "head_dim"));
    if (!head_dim)
        head_dim = either(config, "hidden_size", "n_embed") /
                   either(config, "num_attention_heads", "n_head");
    double worst = 0;
    int linears = 0;
    for (int64_t layer = 0; layer < layers; layer++) {
        char prefix[100];
        snprintf(prefix, sizeof prefix, "%s%lld.", family->layers, (long long)layer);
        for (const struct linear *linear = family->linears; linear->name; linear++, linears++) {
            worst = fmax(worst, check_linear(prefix, linear));
            if (count == 4 && !clipped)
                check_smooth(prefix, linear, strtod(arguments[3], NULL));
        }
        for (int i = 0; i < 2; i++)
            check_norm(prefix, family->norms[i].name, family->norms[i].reader);
    }
    for (const char *const *name = family->outer; *name; name++)
        check_outer(*name, json_is_true(json_object_get(config, "tie_word_embeddings")));
    printf("%d linears, largest distance %.6f steps\n", linears, worst);
    checkpoint_close(checkpoint);
    model_source_close(source);
    return worst <= 0.5 ? 0 : 1;
}
