#include "pipeline/stored.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static enum checkpoint_type checkpoint_type_of(enum number_type type) {
    return type == NUMBER_F32   ? CHECKPOINT_F32
           : type == NUMBER_F16 ? CHECKPOINT_F16
                                : CHECKPOINT_BF16;
}

static bool fits_f16(const float *values, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (fabsf(values[i]) > 65504.0f)
            return false;
    return true;
}

enum number_type stored_type(const struct tensor *tensor, const float *values, int64_t count) {
    return tensor->type == TENSOR_BF16 || !fits_f16(values, count) ? NUMBER_BF16 : NUMBER_F16;
}

/* A NaN outside the layers meets no calibrated range: it is caught where it would be stored. */
static enum status check_finite(const struct tensor *tensor, const float *values, int64_t row_begin,
                                int64_t count, struct error *error) {
    const int64_t columns = tensor_columns(tensor);
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return error_set(error, STATUS_INPUT, "%s: tensor %s has %s in row %lld, column %lld",
                             tensor->file, tensor->name, isnan(values[i]) ? "NaN" : "an infinity",
                             (long long)(row_begin + i / columns), (long long)(i % columns));
    return STATUS_OK;
}

static void dots_to_slashes(char *text) {
    for (; *text; text++)
        if (*text == '.')
            *text = '/';
}

void stored_path(const struct model *model, int layer, const char *name, const char *suffix,
                 char path[200]) {
    char full[160];
    if (layer != STORED_OUTSIDE)
        model_layer_name(model, layer, name, "", full, sizeof full);
    snprintf(path, 200, "/%s%s", layer != STORED_OUTSIDE ? full : name, suffix);
    dots_to_slashes(path);
}

enum status stored_write_floats(struct checkpoint_part *part, const char *path,
                                enum number_type type, int rank, const int64_t *dimensions,
                                const float *values, struct error *error) {
    int64_t count = 1;
    for (int i = 0; i < rank; i++)
        count *= dimensions[i];
    if (type == NUMBER_F32)
        return checkpoint_part_write(part, path, CHECKPOINT_F32, rank, dimensions, values, error);
    uint16_t *narrow = malloc((size_t)count * sizeof *narrow);
    if (!narrow)
        return error_set(error, STATUS_FAILED, "no memory to write %s", path);
    number_narrow(narrow, values, type, (size_t)count);
    const enum status status = checkpoint_part_write(part, path, checkpoint_type_of(type), rank,
                                                     dimensions, narrow, error);
    free(narrow);
    return status;
}

/* A matrix on its way into the checkpoint. */
struct matrix {
    const struct tensor *tensor;
    const struct weights_rotation *change;
    int64_t block;    /* rows at once */
    float *buffer;    /* (block, columns) */
    uint16_t *narrow; /* the same */
};

/* Rows row .. end - 1, to the buffer; a number in them that is not finite is refused. */
static enum status read_block(const struct matrix *matrix, int64_t row, int64_t end,
                              struct error *error) {
    const int64_t count = (end - row) * tensor_columns(matrix->tensor);
    tensor_read_f32(matrix->tensor, row, end, matrix->buffer);
    tensor_release_rows(matrix->tensor, row, end);
    const enum status status = check_finite(matrix->tensor, matrix->buffer, row, count, error);
    weights_rotate_rows(matrix->change, matrix->buffer, end - row);
    return status;
}

/* Whether a matrix fits f16 is known only after all of it was seen: one pass to look, one to write.
 */
static enum number_type matrix_type(const struct matrix *matrix) {
    const struct tensor *tensor = matrix->tensor;
    const int64_t rows = tensor_rows(tensor), columns = tensor_columns(tensor);
    if (!matrix->change->rotation && (tensor->type == TENSOR_BF16 || tensor->type == TENSOR_F16))
        return tensor->type == TENSOR_BF16 ? NUMBER_BF16 : NUMBER_F16;
    for (int64_t row = 0; row < rows; row += matrix->block) {
        const int64_t end = row + matrix->block < rows ? row + matrix->block : rows;
        read_block(matrix, row, end, NULL);
        if (!fits_f16(matrix->buffer, (end - row) * columns))
            return NUMBER_BF16;
    }
    return NUMBER_F16;
}

static enum status write_matrix(struct checkpoint_part *part, const struct matrix *matrix,
                                const char *path, struct error *error) {
    const int64_t rows = tensor_rows(matrix->tensor), columns = tensor_columns(matrix->tensor);
    const enum number_type type = matrix_type(matrix);
    enum status status =
        checkpoint_part_begin_rows(part, path, checkpoint_type_of(type), rows, columns, error);
    for (int64_t row = 0; !status && row < rows; row += matrix->block) {
        const int64_t end = row + matrix->block < rows ? row + matrix->block : rows;
        status = read_block(matrix, row, end, error);
        if (status)
            break;
        number_narrow(matrix->narrow, matrix->buffer, type, (size_t)((end - row) * columns));
        status = checkpoint_part_write_rows(part, row, end - row, matrix->narrow, error);
    }
    return status ? status : checkpoint_part_end_rows(part, error);
}

enum status stored_write_matrix(struct checkpoint_part *part, const struct tensor *tensor,
                                const char *path, const struct weights_rotation *change,
                                struct error *error) {
    const int64_t rows = tensor_rows(tensor), columns = tensor_columns(tensor);
    const int64_t block = checkpoint_chunk_rows(CHECKPOINT_F16, rows, columns);
    const struct matrix matrix = {
        .tensor = tensor,
        .change = change,
        .block = block,
        .buffer = malloc((size_t)(block * columns) * sizeof *matrix.buffer),
        .narrow = malloc((size_t)(block * columns) * sizeof *matrix.narrow),
    };
    const enum status status = matrix.buffer && matrix.narrow
                                   ? write_matrix(part, &matrix, path, error)
                                   : error_set(error, STATUS_FAILED, "no memory to write %s", path);
    tensor_release(tensor);
    free(matrix.buffer);
    free(matrix.narrow);
    return status;
}

enum status stored_write_vector(struct checkpoint_part *part, const struct tensor *tensor,
                                const char *path, const float *vector, struct error *error) {
    const int64_t count = tensor_columns(tensor);
    const enum status status = check_finite(tensor, vector, 0, count, error);
    return status ? status
                  : stored_write_floats(part, path, stored_type(tensor, vector, count), 1, &count,
                                        vector, error);
}
