/* Do a checkpoint's integers say what the model's weights are?
 *
 *   tool_check_values MODEL CHECKPOINT
 *
 * For every quantized linear of a LLaMA-family model: its weights, with the equalization scales
 * that the checkpoint holds folded in by the formulas alone (columns times the linear's own; rows
 * of v_proj and up_proj divided by that of o_proj and down_proj), against (q - z) * s: within half
 * a step everywhere, and 1e-5 of the weight for rounding. Prints the largest distance in steps. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/checkpoint_read.h"
#include "io/gguf_blocks.h"
#include "io/model_source.h"

struct values {
    float *data;
    int64_t count;
};

static struct checkpoint *checkpoint;
static struct error error;

static void fail(const char *what) {
    fprintf(stderr, "tool_check_values: %s: %s\n", what, error.message);
    exit(1);
}

/* A dataset of any type as f32; count 0 when it is not there. */
static struct values read_values(const char *group, const char *name) {
    char path[300];
    struct checkpoint_dataset dataset;
    snprintf(path, sizeof path, "%s/%s", group, name);
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
        default:
            values.data[i] = (float)((const int8_t *)raw)[i];
        }
    }
    free(raw);
    return values;
}

/* The scale that divides the rows of this linear: the equalization of the linear that reads its
 * output, where that output is not mixed on the way. Query heads of a group share the channel of
 * one KV head. */
static float row_divisor(const struct values *consumer, int64_t row, int64_t rows,
                         int64_t head_dim) {
    if (!consumer->count)
        return 1;
    const int64_t group = consumer->count / rows;
    return consumer->data[group == 1 ? row : row / head_dim * group * head_dim + row % head_dim];
}

static double check_linear(const struct model_source *source, const struct tensor *tensor,
                           const char *group, const char *consumer_group, int64_t head_dim) {
    const int64_t rows = tensor_rows(tensor), columns = tensor_columns(tensor);
    struct values q = read_values(group, "weight"), s = read_values(group, "weight_scale");
    struct values z = read_values(group, "weight_zero_point");
    struct values column = read_values(group, "equalization");
    struct values consumer =
        consumer_group ? read_values(consumer_group, "equalization") : (struct values){NULL, 0};
    int64_t size = 0;
    if (q.count != rows * columns ||
        checkpoint_attribute_integer(checkpoint, group, "group_size", &size, &error))
        fail(group);
    size = size ? size : columns;
    const int64_t groups = (columns + size - 1) / size;
    float *w = malloc((size_t)columns * sizeof *w);
    double worst = 0;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t from = model_source_file_row(source, tensor, r);
        tensor_read_f32(tensor, from, from + 1, w);
        for (int64_t c = 0; c < columns; c++) {
            const double folded = (double)w[c] * (column.count ? column.data[c] : 1) /
                                  row_divisor(&consumer, r, rows, head_dim);
            const int64_t g = r * groups + c / size;
            const double step = s.data[g];
            const double back = (q.data[r * columns + c] - (z.count ? z.data[g] : 0)) * step;
            const double distance = fmax(fabs(folded - back) - 1e-5 * fabs(folded), 0) / step;
            worst = distance > worst ? distance : worst;
        }
    }
    free(w);
    free(q.data);
    free(s.data);
    free(z.data);
    free(column.data);
    free(consumer.data);
    return worst;
}

int main(int count, char **arguments) {
    static const struct {
        const char *name, *consumer;
    } linears[] = {{"self_attn/q_proj", NULL},
                   {"self_attn/k_proj", NULL},
                   {"self_attn/v_proj", "self_attn/o_proj"},
                   {"self_attn/o_proj", NULL},
                   {"mlp/gate_proj", NULL},
                   {"mlp/up_proj", "mlp/down_proj"},
                   {"mlp/down_proj", NULL}};
    struct model_source *source;
    if (count != 3) {
        fprintf(stderr, "usage: tool_check_values MODEL CHECKPOINT\n");
        return 2;
    }
    if (model_source_open(arguments[1], &source, &error) ||
        checkpoint_open(arguments[2], &checkpoint, &error))
        fail("open");
    const json_t *config = model_source_config(source);
    const int64_t heads = json_integer_value(json_object_get(config, "num_attention_heads"));
    int64_t head_dim = json_integer_value(json_object_get(config, "head_dim"));
    if (!head_dim)
        head_dim = json_integer_value(json_object_get(config, "hidden_size")) / heads;
    const int64_t layers = json_integer_value(json_object_get(config, "num_hidden_layers"));
    double worst = 0;
    for (int64_t layer = 0; layer < layers; layer++)
        for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
            char group[200], consumer[200], name[256];
            snprintf(group, sizeof group, "/model/layers/%lld/%s", (long long)layer,
                     linears[i].name);
            snprintf(consumer, sizeof consumer, "/model/layers/%lld/%s", (long long)layer,
                     linears[i].consumer ? linears[i].consumer : "");
            snprintf(name, sizeof name, "%s.weight", group + 1);
            for (char *slash = name; (slash = strchr(slash, '/'));)
                *slash = '.';
            const struct tensor *tensor = model_source_find(source, name);
            if (!tensor)
                fail(name);
            worst = fmax(worst, check_linear(source, tensor, group,
                                             linears[i].consumer ? consumer : NULL, head_dim));
        }
    printf("%lld linears, largest distance %.6f steps\n", (long long)layers * 7, worst);
    checkpoint_close(checkpoint);
    model_source_close(source);
    return worst <= 0.5 ? 0 : 1;
}
