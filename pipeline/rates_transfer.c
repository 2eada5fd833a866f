/* Rates of what enters and leaves a rank: weights from the model's files, integers into the
 * checkpoint, messages. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/checkpoint.h"
#include "kernels/memory.h"
#include "kernels/quantize_int8.h"
#include "pipeline/rates_internal.h"
#include "pipeline/weights.h"

/* ---- Loading ---- */

/* Touch a tensor's pages as the first product does, at most READ_BYTES of them. */
static size_t read_mapped(const struct tensor *tensor) {
    enum { READ_BYTES = 64 << 20, LINE = 64 };
    const size_t bytes = tensor->bytes < READ_BYTES ? tensor->bytes : READ_BYTES;
    const volatile unsigned char *data = tensor->data;
    unsigned sum = 0;
    for (size_t i = 0; i < bytes; i += LINE)
        sum += data[i];
    (void)sum;
    return bytes;
}

static enum status read_decoded(const struct rates_bench *bench, const struct tensor *tensor,
                                size_t bytes, double *seconds, struct error *error) {
    void *decoded = memory_allocate(bytes);
    if (!decoded)
        return error_set(error, STATUS_FAILED, "no memory to decode %s", tensor->name);
    memset(decoded, 0, bytes); /* its pages are there */
    const double begin = timing_now();
    const enum status status = weights_decode(bench->model, bench->compute.team, tensor,
                                              bench->config->run.precision, decoded, error);
    *seconds += timing_now() - begin;
    free(decoded);
    return status;
}

enum status rates_load(const struct rates_bench *bench, double *rate, struct error *error) {
    const struct model *model = bench->model;
    const int layer = bench->mesh->rank % model->shape.layers;
    double seconds = 0, bytes = 0;
    enum status status = STATUS_OK;
    for (int i = 0; !status && i < model->architecture->linear_count && seconds < 0.3; i++) {
        const struct tensor *tensor =
            model_layer_tensor(model, layer, model->architecture->linears[i].name, ".weight");
        const size_t decoded = weights_decoded_bytes(model, tensor, bench->config->run.precision);
        if (decoded) {
            status = read_decoded(bench, tensor, decoded, &seconds, error);
            bytes += (double)decoded;
            continue;
        }
        const double begin = timing_now();
        bytes += (double)read_mapped(tensor);
        seconds += timing_now() - begin;
        tensor_release(tensor);
    }
    *rate = bytes / seconds;
    return status;
}

/* ---- Quantizing and writing ---- */

/* A piece of a linear, in the chunks of its dataset. */
struct piece {
    const struct rates_bench *bench;
    struct quantize_format format;
    enum checkpoint_type type;
    int64_t rows, columns, groups, chunk_rows;
    uint8_t *packed;
    float *scales;
    int8_t *zero_points;
    double *errors;         /* (2, rows) */
    unsigned char *scratch; /* (threads, scratch_bytes) */
    size_t scratch_bytes;
};

static size_t packed_bytes(const struct piece *piece, int64_t rows) {
    return piece->type == CHECKPOINT_INT8 ? (size_t)(rows * piece->columns)
                                          : (size_t)(rows * piece->columns + 1) / 2;
}

/* Rows of the chunk that begins at `row`. */
static int64_t rows_at(const struct piece *piece, int64_t row) {
    return row + piece->chunk_rows < piece->rows ? piece->chunk_rows : piece->rows - row;
}

static void quantize_chunks(void *context, int64_t begin, int64_t end, int thread) {
    const struct piece *piece = context;
    const struct rates_bench *bench = piece->bench;
    void *scratch = piece->scratch + (size_t)thread * piece->scratch_bytes;
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const int64_t row = chunk * piece->chunk_rows, rows = rows_at(piece, row);
        const int64_t group = row * piece->groups;
        const struct quantize_source source = {
            .data = bench->weights + (size_t)(row * piece->columns) * number_size(bench->type),
            .type = bench->type,
            .columns = piece->columns,
            .stride = piece->columns,
        };
        uint8_t *packed = piece->packed + packed_bytes(piece, row);
        if (piece->type == CHECKPOINT_INT8)
            quantize_rows_int8(&source, piece->format.scale_type, 0, rows, (int8_t *)packed,
                               piece->scales + group, piece->errors + row,
                               piece->errors + piece->rows + row, scratch);
        else
            quantize_rows_int4(bench->compute.path, &piece->format, &source, 0, rows, packed,
                               piece->scales + group,
                               piece->zero_points ? piece->zero_points + group : NULL,
                               piece->errors + row, piece->errors + piece->rows + row, scratch);
    }
}

/* As many rows of the widest linear as the pool has weights for, 16 million at most. */
static enum status piece_create(const struct rates_bench *bench, struct piece *piece,
                                struct error *error) {
    const int64_t most = 16 << 20;
    const int64_t have = (int64_t)(bench->weight_bytes / number_size(bench->type));
    const struct model *model = bench->model;
    const int threads = team_size(bench->compute.team);
    piece->bench = bench;
    piece->format = config_weight_format(bench->config);
    piece->type = piece->format.bits == 8 ? CHECKPOINT_INT8 : CHECKPOINT_INT4;
    piece->columns = model_site_channels(model, SITE_MLP_HIDDEN);
    piece->groups = quantize_group_count(&piece->format, piece->columns);
    piece->rows = (have < most ? have : most) / piece->columns;
    piece->chunk_rows = checkpoint_chunk_rows(piece->type, piece->rows, piece->columns);
    const size_t groups = (size_t)(piece->rows * piece->groups);
    piece->scratch_bytes = (quantize_scratch_bytes(piece->columns) + 63) & ~(size_t)63;
    piece->packed = memory_allocate(packed_bytes(piece, piece->rows) + 64);
    piece->scales = malloc((groups + 1) * sizeof *piece->scales);
    piece->errors = malloc((2 * (size_t)piece->rows + 1) * sizeof *piece->errors);
    piece->scratch = memory_allocate((size_t)threads * piece->scratch_bytes);
    if (!piece->format.symmetric)
        piece->zero_points = malloc(groups + 1);
    return piece->packed && piece->scales && piece->errors && piece->scratch &&
                   (piece->format.symmetric || piece->zero_points)
               ? STATUS_OK
               : error_set(error, STATUS_FAILED, "no memory to measure quantization");
}

static void piece_free(struct piece *piece) {
    free(piece->packed);
    free(piece->scales);
    free(piece->zero_points);
    free(piece->errors);
    free(piece->scratch);
}

/* A part of a checkpoint with the piece's weights in it. */
static enum status write_part(const struct piece *piece, const char *output) {
    struct error error;
    struct checkpoint_part *part = NULL;
    enum status status = checkpoint_part_create(
        output, "measure", piece->bench->config->output.compression, &part, &error);
    if (status)
        return status;
    status = checkpoint_part_begin_rows(part, "/weight", piece->type, piece->rows, piece->columns,
                                        &error);
    for (int64_t row = 0; !status && row < piece->rows; row += piece->chunk_rows)
        status = checkpoint_part_write_rows(part, row, rows_at(piece, row),
                                            piece->packed + packed_bytes(piece, row), &error);
    if (!status)
        status = checkpoint_part_end_rows(part, &error);
    if (!status)
        return checkpoint_part_finish(part, &error);
    checkpoint_part_abandon(part);
    return status;
}

/* In a folder of its own beside the checkpoint. A folder that cannot be written in is no fault: the
 * plan may be made on another machine. */
static double write_rate(const struct piece *piece) {
    const char *checkpoint = piece->bench->config->output.checkpoint;
    const char *slash = strrchr(checkpoint, '/');
    char folder[PATH_MAX], path[PATH_MAX + 40];
    snprintf(folder, sizeof folder, "%.*s.fptq-measure-XXXXXX",
             slash ? (int)(slash - checkpoint + 1) : 0, checkpoint);
    if (!mkdtemp(folder))
        return 0;
    snprintf(path, sizeof path, "%s/x.h5", folder);
    const double begin = timing_now();
    const enum status status = write_part(piece, path);
    const double seconds = timing_now() - begin;
    snprintf(path, sizeof path, "%s/x.parts/measure.h5", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/x.parts", folder);
    rmdir(path);
    rmdir(folder);
    return status ? 0 : (double)(piece->rows * piece->columns) / seconds;
}

enum status rates_quantize(const struct rates_bench *bench, double *quantize, double *write,
                           struct error *error) {
    struct piece piece = {0};
    const enum status status = piece_create(bench, &piece, error);
    const int64_t chunks = status ? 0 : (piece.rows + piece.chunk_rows - 1) / piece.chunk_rows;
    double best = 0;
    const struct timing_mark begin = timing_mark();
    for (int repeat = 0; !status && (repeat < 2 || rates_repeat(bench, &begin, 0.2)); repeat++) {
        const double since = timing_now();
        team_for(bench->compute.team, chunks, 1, quantize_chunks, &piece);
        const double seconds = timing_now() - since;
        best = best == 0 || seconds < best ? seconds : best;
    }
    if (!status) {
        *quantize = (double)(piece.rows * piece.columns) / best;
        *write = write_rate(&piece);
    }
    piece_free(&piece);
    return status;
}

/* ---- Messages ---- */

/* Seconds of a message one way, the best of some; the ranks of a pair take turns. */
static double one_way(int other, bool first, float *data, int count, int repeats) {
    double best = 0;
    for (int i = 0; i < repeats; i++) {
        const double begin = MPI_Wtime();
        if (first)
            MPI_Send(data, count, MPI_FLOAT, other, 0, MPI_COMM_WORLD);
        MPI_Recv(data, count, MPI_FLOAT, other, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (!first)
            MPI_Send(data, count, MPI_FLOAT, other, 0, MPI_COMM_WORLD);
        const double seconds = (MPI_Wtime() - begin) / 2;
        best = i == 0 || seconds < best ? seconds : best;
    }
    return best;
}

void rates_link(const struct rates_bench *bench, double *bytes, double *seconds) {
    const int rank = bench->mesh->rank, other = rank ^ 1;
    const int64_t count = bench->tokens * bench->model->shape.hidden;
    *bytes = *seconds = 0;
    MPI_Barrier(MPI_COMM_WORLD);
    if (other >= bench->mesh->size)
        return;
    *seconds = one_way(other, rank < other, bench->output, 1, 200);
    const double whole = one_way(other, rank < other, bench->output, (int)count, 50);
    *bytes = 4.0 * (double)count / (whole > *seconds ? whole - *seconds : whole);
}
