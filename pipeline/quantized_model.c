#include "pipeline/quantized_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/memory.h"
#include "kernels/w4a8.h"
#include "pipeline/stored.h"

enum { PATH_BYTES = 300 };

/* ---- The whole ---- */

/* The first fault of a verification. */
struct first_fault {
    char text[400];
};

static void note_fault(void *context, const char *dataset, const char *what) {
    struct first_fault *fault = context;
    if (!*fault->text)
        snprintf(fault->text, sizeof fault->text, "%s: %s", dataset, what);
}

enum status quantized_model_verify(const char *path, struct error *error) {
    struct first_fault first = {""};
    int64_t checked = 0, bad = 0;
    const enum status status = checkpoint_verify(path, note_fault, &first, &checked, &bad, error);
    if (status || !bad)
        return status;
    return error_set(error, STATUS_INPUT,
                     "%s: damaged: %s (%lld of %lld datasets are not as they were written)", path,
                     first.text, (long long)bad, (long long)checked);
}

static enum status check_model_type(const struct quantized_model *quantized, struct error *error) {
    char *type = NULL;
    const enum status status =
        checkpoint_attribute_text(quantized->file, "/", "model_type", &type, error);
    const char *expected = quantized->model->shape.model_type;
    const bool same = !status && strcmp(type, expected) == 0;
    if (!status && !same)
        error_set(error, STATUS_INPUT,
                  "%s: a checkpoint of another model: attribute model_type is \"%s\", but %s is "
                  "\"%s\"",
                  quantized->path, type, model_source_path(quantized->model->source), expected);
    free(type);
    return status ? status : same ? STATUS_OK : STATUS_INPUT;
}

enum status quantized_model_open(const char *path, const struct model *model,
                                 struct quantized_model *quantized, struct error *error) {
    *quantized = (struct quantized_model){.model = model, .path = path};
    enum status status = checkpoint_open(path, &quantized->file, error);
    if (!status)
        status =
            checkpoint_attribute_text(quantized->file, "/", "method", &quantized->method, error);
    if (!status)
        status = check_model_type(quantized, error);
    if (status)
        quantized_model_close(quantized);
    return status;
}

void quantized_model_close(struct quantized_model *quantized) {
    checkpoint_close(quantized->file);
    free(quantized->method);
    quantized->file = NULL;
    quantized->method = NULL;
}

enum status quantized_model_check(const struct quantized_model *quantized, struct error *error) {
    const struct model *model = quantized->model;
    const struct architecture *architecture = model->architecture;
    struct quantized_linear_kind kind;
    enum status status = STATUS_OK;
    for (int layer = 0; layer < model->shape.layers; layer++)
        for (int i = 0; i < architecture->linear_count; i++)
            if ((status = quantized_model_linear(quantized, layer, &architecture->linears[i], &kind,
                                                 error)))
                return status;
    char beyond[200];
    stored_path(model, model->shape.layers, architecture->linears[0].name, ".weight", beyond);
    if (checkpoint_has(quantized->file, beyond))
        return error_set(error, STATUS_INPUT,
                         "%s: a checkpoint of another model: it has %s, but %s has %d layers",
                         quantized->path, beyond, model_source_path(model->source),
                         model->shape.layers);
    return STATUS_OK;
}

/* ---- Datasets ---- */

static void shape_text(const int64_t *dimensions, int rank, char *text, size_t size) {
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "",
                                 (long long)dimensions[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
}

/* The dataset with the dimensions that it must have. */
static enum status describe(const struct quantized_model *quantized, const char *path, int rank,
                            const int64_t *dimensions, struct checkpoint_dataset *dataset,
                            struct error *error) {
    const enum status status = checkpoint_describe(quantized->file, path, dataset, error);
    if (status)
        return status;
    bool same = dataset->rank == rank;
    for (int i = 0; same && i < rank; i++)
        same = dataset->dimensions[i] == dimensions[i];
    if (same)
        return STATUS_OK;
    char found[120], expected[120];
    shape_text(dataset->dimensions, dataset->rank, found, sizeof found);
    shape_text(dimensions, rank, expected, sizeof expected);
    return error_set(
        error, STATUS_INPUT, "%s: a checkpoint of another model: %s is %s, but by %s it must be %s",
        quantized->path, path, found, model_source_path(quantized->model->source), expected);
}

static enum status wrong_type(const struct quantized_model *quantized, const char *path,
                              const char *expected, struct error *error) {
    return error_set(error, STATUS_INPUT, "%s: %s is not made of %s", quantized->path, path,
                     expected);
}

static bool is_float(enum checkpoint_type type, enum number_type *number) {
    *number = type == CHECKPOINT_F32   ? NUMBER_F32
              : type == CHECKPOINT_F16 ? NUMBER_F16
                                       : NUMBER_BF16;
    return type == CHECKPOINT_F32 || type == CHECKPOINT_F16 || type == CHECKPOINT_BF16;
}

static enum status no_memory(const struct quantized_model *quantized, const char *path,
                             size_t bytes, struct error *error) {
    return error_set(error, STATUS_FAILED, "%s: no memory for %s (%zu bytes)", quantized->path,
                     path, bytes);
}

/* All elements as they are stored, malloc'ed. */
static enum status read_stored(const struct quantized_model *quantized, const char *path,
                               size_t bytes, void **stored, struct error *error) {
    *stored = memory_allocate(bytes);
    if (!*stored)
        return no_memory(quantized, path, bytes, error);
    const enum status status = checkpoint_read(quantized->file, path, *stored, error);
    if (status) {
        free(*stored);
        *stored = NULL;
    }
    return status;
}

enum status quantized_model_floats(const struct quantized_model *quantized, const char *path,
                                   int64_t count, int64_t columns, float **values,
                                   struct error *error) {
    struct checkpoint_dataset dataset;
    const int64_t shape[] = {columns ? count / columns : count, columns};
    const int rank = !count ? 0 : columns ? 2 : 1;
    const size_t numbers = count ? (size_t)count : 1;
    enum number_type type;
    void *stored;
    *values = NULL;
    enum status status = describe(quantized, path, rank, shape, &dataset, error);
    if (!status && !is_float(dataset.type, &type))
        status = wrong_type(quantized, path, "floats", error);
    if (!status)
        status = read_stored(quantized, path, dataset.bytes, &stored, error);
    if (status)
        return status;
    *values = malloc(numbers * sizeof(float));
    if (*values)
        number_widen(*values, stored, type, numbers);
    else
        status = no_memory(quantized, path, numbers * sizeof(float), error);
    free(stored);
    return status;
}

enum status quantized_model_levels(const struct quantized_model *quantized, const char *path,
                                   int64_t rows, int64_t columns, int8_t **values,
                                   struct error *error) {
    struct checkpoint_dataset dataset;
    const int64_t shape[] = {rows, columns};
    void *stored = NULL;
    enum status status = describe(quantized, path, 2, shape, &dataset, error);
    if (!status && dataset.type != CHECKPOINT_INT4)
        status = wrong_type(quantized, path, "4-bit integers", error);
    if (!status)
        status = read_stored(quantized, path, dataset.bytes, &stored, error);
    *values = stored;
    return status;
}

/* Bring `count` numbers from one type to another, in blocks; `to` may be `from` where both types
 * have one size. */
static void convert(void *to, enum number_type to_type, const void *from,
                    enum number_type from_type, size_t count) {
    float block[1024];
    for (size_t i = 0; i < count; i += 1024) {
        const size_t piece = count - i < 1024 ? count - i : 1024;
        number_widen(block, (const char *)from + i * number_size(from_type), from_type, piece);
        number_narrow((char *)to + i * number_size(to_type), block, to_type, piece);
    }
}

enum status quantized_model_matrix(const struct quantized_model *quantized, const char *name,
                                   int64_t rows, int64_t columns, bool keep_type,
                                   enum number_type *type, void **data, struct error *error) {
    struct checkpoint_dataset dataset;
    const int64_t shape[] = {rows, columns};
    enum number_type stored_as;
    char path[PATH_BYTES];
    *data = NULL;
    stored_path(quantized->model, STORED_OUTSIDE, name, ".weight", path);
    enum status status = describe(quantized, path, 2, shape, &dataset, error);
    if (!status && !is_float(dataset.type, &stored_as))
        status = wrong_type(quantized, path, "floats", error);
    if (!status)
        status = read_stored(quantized, path, dataset.bytes, data, error);
    if (status || keep_type || *type == stored_as) {
        *type = status ? *type : stored_as;
        return status;
    }
    const size_t count = (size_t)(rows * columns), bytes = count * number_size(*type);
    if (bytes == dataset.bytes) { /* in its place: it may be the largest of all */
        convert(*data, *type, *data, stored_as, count);
        return STATUS_OK;
    }
    void *converted = memory_allocate(bytes);
    if (converted)
        convert(converted, *type, *data, stored_as, count);
    free(*data);
    *data = converted;
    return converted ? STATUS_OK : no_memory(quantized, path, bytes, error);
}

bool quantized_model_has_head(const struct quantized_model *quantized) {
    char path[PATH_BYTES];
    stored_path(quantized->model, STORED_OUTSIDE, quantized->model->architecture->head, ".weight",
                path);
    return checkpoint_has(quantized->file, path);
}

enum status quantized_model_vector(const struct quantized_model *quantized, int layer,
                                   const char *name, const char *suffix, int64_t count,
                                   bool required, float **vector, struct error *error) {
    char path[PATH_BYTES];
    stored_path(quantized->model, layer, name, suffix, path);
    *vector = NULL;
    if (!required && !checkpoint_has(quantized->file, path))
        return STATUS_OK;
    return quantized_model_floats(quantized, path, count, 0, vector, error);
}

/* ---- Linears ---- */

static enum status read_input(const struct quantized_model *quantized, const char *group,
                              enum quantized_input *input, struct error *error) {
    static const struct {
        const char *policy;
        enum quantized_input input;
    } known[] = {{"static", QUANTIZED_INPUT_FIXED},
                 {"equalized", QUANTIZED_INPUT_FIXED},
                 {"dynamic", QUANTIZED_INPUT_TOKEN},
                 {"equalized-dynamic", QUANTIZED_INPUT_TOKEN},
                 {"none", QUANTIZED_INPUT_NONE}};
    char *policy = NULL;
    enum status status =
        checkpoint_attribute_text(quantized->file, group, "input_policy", &policy, error);
    if (status)
        return status;
    size_t i = 0;
    while (i < sizeof known / sizeof known[0] && strcmp(known[i].policy, policy) != 0)
        i++;
    if (i < sizeof known / sizeof known[0])
        *input = known[i].input;
    else
        status = error_set(error, STATUS_INPUT, "%s: %s: this version knows no input_policy \"%s\"",
                           quantized->path, group, policy);
    free(policy);
    return status;
}

static enum status read_integers(const struct quantized_model *quantized,
                                 struct quantized_linear_kind *kind, struct error *error) {
    enum { BITS, GROUP_SIZE, SYMMETRIC, FOLDED, COUNT };
    enum { LARGEST_GROUP = 65536 }; /* as of quantization.group_size */
    static const char *const names[COUNT] = {"weight_bits", "group_size", "symmetric", "folded"};
    int64_t values[COUNT] = {0};
    enum status status = STATUS_OK;
    for (int i = 0; !status && i < COUNT; i++)
        status =
            checkpoint_attribute_integer(quantized->file, kind->group, names[i], &values[i], error);
    if (!status && values[BITS] != 4 && values[BITS] != 8)
        status = error_set(error, STATUS_INPUT, "%s: %s: weight_bits is %lld, not 4 or 8",
                           quantized->path, kind->group, (long long)values[BITS]);
    if (!status && (values[GROUP_SIZE] < 0 || values[GROUP_SIZE] > LARGEST_GROUP))
        status = error_set(error, STATUS_INPUT, "%s: %s: group_size is %lld", quantized->path,
                           kind->group, (long long)values[GROUP_SIZE]);
    if (!status && values[BITS] == 8 && (values[GROUP_SIZE] || !values[SYMMETRIC]))
        status = error_set(error, STATUS_INPUT,
                           "%s: %s: weight_bits is 8, which goes with group_size 0 and symmetric 1",
                           quantized->path, kind->group);
    kind->bits = (int)values[BITS];
    kind->group_size = values[GROUP_SIZE];
    kind->symmetric = values[SYMMETRIC] != 0;
    kind->folded = values[FOLDED] != 0;
    return status;
}

enum status quantized_model_linear(const struct quantized_model *quantized, int layer,
                                   const struct linear_rule *rule,
                                   struct quantized_linear_kind *kind, struct error *error) {
    const struct model *model = quantized->model;
    *kind = (struct quantized_linear_kind){.rows = model_dimension(&model->shape, rule->out),
                                           .columns = model_dimension(&model->shape, rule->in)};
    stored_path(model, layer, rule->name, "", kind->group);
    char path[PATH_BYTES];
    struct checkpoint_dataset dataset;
    snprintf(path, sizeof path, "%s/weight", kind->group);
    enum status status =
        describe(quantized, path, 2, (int64_t[]){kind->rows, kind->columns}, &dataset, error);
    if (!status)
        status = read_integers(quantized, kind, error);
    if (!status)
        status = read_input(quantized, kind->group, &kind->input, error);
    if (status)
        return status;
    if (dataset.type != (kind->bits == 4 ? CHECKPOINT_INT4 : CHECKPOINT_INT8))
        return wrong_type(quantized, path, kind->bits == 4 ? "4-bit integers" : "8-bit integers",
                          error);
    const int64_t groups[] = {kind->rows, w4a8_group_count(kind->columns, kind->group_size)};
    snprintf(path, sizeof path, "%s/weight_scale", kind->group);
    if ((status = describe(quantized, path, 2, groups, &dataset, error)))
        return status;
    snprintf(path, sizeof path, "%s/equalization", kind->group);
    kind->equalized = checkpoint_has(quantized->file, path);
    snprintf(path, sizeof path, "%s/bias", kind->group);
    kind->bias = checkpoint_has(quantized->file, path);
    if (!kind->bias && model_layer_tensor(model, layer, rule->name, ".bias"))
        return error_set(error, STATUS_INPUT,
                         "%s: a checkpoint of another model: there is no %s, but %s has one",
                         quantized->path, path, model_source_path(model->source));
    return STATUS_OK;
}

/* Of a linear that multiplies floats: 4-bit levels with their scales, or 8-bit ones as floats. */
static int64_t float_product_bytes(const struct quantized_linear_kind *kind,
                                   enum run_precision precision) {
    const int64_t count = kind->rows * kind->columns;
    if (kind->bits == 4)
        return count / 2 + kind->rows * w4a8_group_count(kind->columns, kind->group_size) *
                               (int64_t)(sizeof(float) + !kind->symmetric);
    return count * (precision == PRECISION_F32 ? 4 : 2);
}

int64_t quantized_model_layer_bytes(const struct quantized_model *quantized, enum kernel_path path,
                                    enum run_precision precision) {
    const struct architecture *architecture = quantized->model->architecture;
    int64_t bytes = 0;
    for (int i = 0; i < architecture->linear_count; i++) {
        struct quantized_linear_kind kind;
        if (quantized_model_linear(quantized, 0, &architecture->linears[i], &kind, NULL))
            continue;
        if (kind.input == QUANTIZED_INPUT_NONE) {
            bytes += float_product_bytes(&kind, precision);
            continue;
        }
        const struct w4a8_weight weight = {.rows = kind.rows,
                                           .columns = kind.columns,
                                           .group_size = kind.group_size,
                                           .bits = kind.bits,
                                           .symmetric = kind.symmetric,
                                           .path = path};
        bytes += (int64_t)w4a8_weight_bytes(&weight);
    }
    return bytes;
}
