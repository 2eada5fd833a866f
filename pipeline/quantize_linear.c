#include "pipeline/quantize_linear.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "kernels/quantize_int8.h"
#include "pipeline/weights.h"

enum status quantized_linear_create(const struct model *model, const struct linear_rule *rule,
                                    const struct quantize_format *format,
                                    struct quantized_linear *linear, struct error *error) {
    const int64_t rows = model_dimension(&model->shape, rule->out);
    const int64_t columns = model_dimension(&model->shape, rule->in);
    const enum checkpoint_type type = format->bits == 8 ? CHECKPOINT_INT8 : CHECKPOINT_INT4;
    const int64_t chunk_rows = checkpoint_chunk_rows(type, rows, columns);
    const int64_t groups = quantize_group_count(format, columns);
    *linear = (struct quantized_linear){
        .type = type,
        .rows = rows,
        .columns = columns,
        .groups = groups,
        .chunk_rows = chunk_rows,
        .chunks = (rows + chunk_rows - 1) / chunk_rows,
        .chunk_bytes = (size_t)(chunk_rows * columns * format->bits + 7) / 8,
    };
    linear->packed = malloc((size_t)linear->chunks * linear->chunk_bytes);
    linear->scales = malloc((size_t)(rows * groups) * sizeof(float));
    linear->errors = malloc(2 * (size_t)rows * sizeof(double));
    if (!format->symmetric)
        linear->zero_points = malloc((size_t)(rows * groups));
    if (linear->packed && linear->scales && linear->errors &&
        (format->symmetric || linear->zero_points))
        return STATUS_OK;
    quantized_linear_free(linear);
    return error_set(error, STATUS_FAILED, "no memory to quantize %s", rule->name);
}

void quantized_linear_free(struct quantized_linear *linear) {
    free(linear->packed);
    free(linear->scales);
    free(linear->zero_points);
    free(linear->errors);
    *linear = (struct quantized_linear){0};
}

struct chunk_task {
    const struct compute *compute;
    struct weights_source source;
    const struct quantize_format *format;
    const float *column_multiplier, *row_multiplier, *shrink;
    struct quantized_linear *linear;
    _Atomic int64_t bad_row; /* the first row with a weight that is not finite, or INT64_MAX */
    _Atomic bool out_of_memory;
};

static void note_bad_row(struct chunk_task *task, int64_t row) {
    int64_t known = atomic_load(&task->bad_row);
    while (row < known && !atomic_compare_exchange_weak(&task->bad_row, &known, row))
        ;
}

static void quantize_chunk(struct chunk_task *task, int64_t chunk, float *rows_buffer,
                           void *scratch) {
    struct quantized_linear *linear = task->linear;
    const int64_t begin = chunk * linear->chunk_rows;
    const int64_t end =
        begin + linear->chunk_rows < linear->rows ? begin + linear->chunk_rows : linear->rows;
    const struct weights_rows rows = weights_read_rows(&task->source, begin, end, rows_buffer);
    const int64_t first = begin * linear->groups;
    const struct quantize_source source = {
        .data = rows.data,
        .type = rows.type,
        .columns = linear->columns,
        .stride = rows.stride,
        .column_multiplier = task->column_multiplier,
        .row_multiplier = task->row_multiplier ? task->row_multiplier + begin : NULL,
        .shrink = task->shrink ? task->shrink + first : NULL,
    };
    uint8_t *packed = linear->packed + (size_t)chunk * linear->chunk_bytes;
    double *errors = linear->errors + begin, *squares = errors + linear->rows;
    const int64_t bad =
        linear->type == CHECKPOINT_INT8
            ? quantize_rows_int8(&source, task->format->scale_type, 0, end - begin,
                                 (int8_t *)packed, linear->scales + first, errors, squares, scratch)
            : quantize_rows_int4(task->compute->path, task->format, &source, 0, end - begin, packed,
                                 linear->scales + first,
                                 linear->zero_points ? linear->zero_points + first : NULL, errors,
                                 squares, scratch);
    if (bad >= 0)
        note_bad_row(task, begin + bad);
}

static void quantize_chunks(void *context, int64_t begin, int64_t end, int thread) {
    struct chunk_task *task = context;
    const struct quantized_linear *linear = task->linear;
    (void)thread;
    void *scratch = aligned_alloc(64, (quantize_scratch_bytes(linear->columns) + 63) & ~(size_t)63);
    float *rows_buffer =
        weights_are_mapped(&task->source)
            ? NULL
            : malloc((size_t)(linear->chunk_rows * linear->columns) * sizeof(float));
    if (!scratch || (!rows_buffer && !weights_are_mapped(&task->source)))
        atomic_store(&task->out_of_memory, true);
    else
        for (int64_t chunk = begin; chunk < end; chunk++)
            quantize_chunk(task, chunk, rows_buffer, scratch);
    free(rows_buffer);
    free(scratch);
}

enum status quantized_linear_compute(const struct model *model, const struct compute *compute,
                                     int layer, int index, const struct fold_layer *fold,
                                     const struct quantize_format *format, const float *shrink,
                                     struct quantized_linear *linear, struct error *error) {
    const struct linear_rule *rule = &model->architecture->linears[index];
    struct chunk_task task = {
        .compute = compute,
        .format = format,
        .column_multiplier = fold_column_multiplier(fold, rule),
        .row_multiplier = fold->row_multipliers[index],
        .shrink = shrink,
        .linear = linear,
        .bad_row = INT64_MAX,
    };
    const enum status status = weights_open(model, compute->team, layer, rule, &task.source, error);
    if (!status)
        team_for(compute->team, linear->chunks, 1, quantize_chunks, &task);
    weights_close(&task.source);
    if (status)
        return status;
    if (task.out_of_memory)
        return error_set(error, STATUS_FAILED, "no memory to quantize layer %d, %s", layer,
                         rule->name);
    char cause[400];
    if (task.bad_row != INT64_MAX) {
        if (weights_find_nonfinite(model, layer, cause, sizeof cause))
            return error_set(error, STATUS_INPUT, "%s", cause);
        return error_set(
            error, STATUS_INPUT, "%s: layer %d, %s: row %lld overflows when its scale is folded in",
            model_source_path(model->source), layer, rule->name, (long long)task.bad_row);
    }
    return STATUS_OK;
}

/* A message's count is an int: long arrays travel in slices. */
enum { TAG_QUANTIZED = 2, SLICE = 1 << 28 };

static bool transfer(struct mesh *mesh, int replica, bool send, void *data, size_t bytes) {
    for (size_t done = 0; done < bytes; done += SLICE) {
        const int count = (int)(bytes - done < SLICE ? bytes - done : SLICE);
        unsigned char *at = (unsigned char *)data + done;
        MPI_Request request;
        if (send)
            MPI_Isend(at, count, MPI_BYTE, replica, TAG_QUANTIZED, mesh->stage_peers, &request);
        else
            MPI_Irecv(at, count, MPI_BYTE, replica, TAG_QUANTIZED, mesh->stage_peers, &request);
        if (!mesh_wait(mesh, &request))
            return false;
    }
    return true;
}

static bool transfer_linear(struct mesh *mesh, int replica, bool send,
                            struct quantized_linear *linear) {
    const size_t groups = (size_t)(linear->rows * linear->groups);
    return transfer(mesh, replica, send, linear->packed,
                    (size_t)linear->chunks * linear->chunk_bytes) &&
           transfer(mesh, replica, send, linear->scales, groups * sizeof(float)) &&
           (!linear->zero_points || transfer(mesh, replica, send, linear->zero_points, groups)) &&
           transfer(mesh, replica, send, &linear->damping, sizeof linear->damping) &&
           transfer(mesh, replica, send, linear->errors, 2 * (size_t)linear->rows * sizeof(double));
}

bool quantized_linear_send(struct mesh *mesh, int replica, struct quantized_linear *linear) {
    return transfer_linear(mesh, replica, true, linear);
}

bool quantized_linear_receive(struct mesh *mesh, int replica, struct quantized_linear *linear) {
    return transfer_linear(mesh, replica, false, linear);
}
