#include "pipeline/head.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/divergence.h"
#include "kernels/memory.h"
#include "pipeline/quantized_model.h"
#include "pipeline/stored.h"
#include "pipeline/timing.h"
#include "pipeline/weights.h"

/* Rows of the vocabulary that are multiplied at once. Part of the order of sums. */
enum { BLOCK = 4096 };

static void *allocate(size_t bytes) {
    return memory_allocate(bytes);
}

static enum matmul_precision product_precision(enum run_precision precision,
                                               enum number_type type) {
    return precision == PRECISION_F32 || type == NUMBER_F32 ? MATMUL_F32 : MATMUL_BF16;
}

/* The checkpoint's matrix and norm. A rotated model's head is no more tied to the embedding. */
static enum status load_quantized(struct head *head, const struct quantized_model *quantized,
                                  enum run_precision precision, struct error *error) {
    const struct model_shape *shape = &head->model->shape;
    const struct architecture *architecture = head->model->architecture;
    const char *name = shape->tied_head && !quantized_model_has_head(quantized)
                           ? architecture->embedding
                           : architecture->head;
    enum number_type type = weights_number_type(weights_head_tensor(head->model), precision);
    enum status status = quantized_model_matrix(quantized, name, shape->vocabulary, shape->hidden,
                                                false, &type, &head->owned, error);
    head->weight = (struct matmul_weight){.data = head->owned,
                                          .type = type,
                                          .rows = shape->vocabulary,
                                          .columns = shape->hidden,
                                          .stride = shape->hidden};
    if (!status)
        status = quantized_model_vector(quantized, STORED_OUTSIDE, architecture->final_norm,
                                        ".weight", shape->hidden, true, &head->norm.weight, error);
    if (!status && architecture->norm_kind == NORM_LAYER)
        status = quantized_model_vector(quantized, STORED_OUTSIDE, architecture->final_norm,
                                        ".bias", shape->hidden, true, &head->norm.bias, error);
    return status;
}

static enum status load_own(struct head *head, enum run_precision precision, struct error *error) {
    const struct model *model = head->model;
    const enum status status = weights_load_head(model, head->compute->team, precision,
                                                 &head->weight, &head->owned, error);
    return status ? status
                  : stage_norm_load(model, model->architecture->final_norm, &head->norm, error);
}

enum status head_load(const struct model *model, const struct quantized_model *quantized,
                      const struct compute *compute, enum run_precision precision, int64_t tokens,
                      struct head *head, struct error *error) {
    const size_t hidden = (size_t)model->shape.hidden, rows = (size_t)tokens;
    *head = (struct head){.model = model, .compute = compute};
    enum status status = quantized ? load_quantized(head, quantized, precision, error)
                                   : load_own(head, precision, error);
    if (status) {
        head_free(head);
        return status;
    }
    head->precision = product_precision(precision, head->weight.type);
    head->normed = allocate(rows * hidden * sizeof(float));
    head->logits = allocate(rows * BLOCK * sizeof(float));
    head->packed.data =
        allocate(matmul_packed_bytes(compute->path, head->precision, tokens, model->shape.hidden));
    head->scores = allocate(rows * sizeof *head->scores);
    head->difference = allocate(rows * BLOCK * sizeof(float));
    head->sums = allocate(rows * sizeof(float));
    if (head->normed && head->logits && head->packed.data && head->scores && head->difference &&
        head->sums)
        return STATUS_OK;
    head_free(head);
    return error_set(error, STATUS_FAILED, "no memory for the head's work space");
}

void head_free(struct head *head) {
    free(head->owned);
    stage_norm_free(&head->norm);
    free(head->normed);
    free(head->logits);
    free(head->packed.data);
    free(head->scores);
    free(head->difference);
    free(head->sums);
    *head = (struct head){0};
}

int64_t head_bytes(const struct model *model, enum run_precision precision, int64_t tokens) {
    const struct model_shape *shape = &model->shape;
    const enum number_type type = weights_number_type(weights_head_tensor(model), precision);
    return shape->vocabulary * shape->hidden * (int64_t)number_size(type) +
           tokens * 4 * (2 * shape->hidden + 2 * BLOCK);
}

/* The norm; what every block multiplies. */
static void begin(struct head *head, const float *hidden, const int32_t *targets, int64_t tokens) {
    const struct model_shape *shape = &head->model->shape;
    stage_norm_apply(head->model, head->compute, &head->norm, head->normed, hidden, tokens);
    matmul_pack(head->compute, &head->packed, head->normed, tokens, shape->hidden, shape->hidden,
                head->precision, NULL);
    for (int64_t t = 0; t < tokens; t++)
        log_likelihood_start(&head->scores[t], targets[t]);
}

/* Rows of the block that begins at `first`. */
static int64_t block_rows(const struct head *head, int64_t first) {
    const int64_t left = head->model->shape.vocabulary - first;
    return left < BLOCK ? left : BLOCK;
}

/* head->logits of a block, row stride block_rows(). */
static void multiply(struct head *head, int64_t first) {
    struct matmul_weight block = head->weight;
    block.data =
        (const char *)block.data + (size_t)(first * block.stride) * number_size(block.type);
    block.rows = block_rows(head, first);
    matmul_run(head->compute, head->logits, block.rows, &head->packed, &block);
}

static void score(struct head *head, int64_t tokens, int64_t first) {
    const int64_t count = block_rows(head, first);
    log_likelihood_add(head->compute, head->scores, head->logits, count, tokens, first, count);
}

void head_score(struct head *head, const float *hidden, const int32_t *targets, int64_t tokens) {
    begin(head, hidden, targets, tokens);
    for (int64_t first = 0; first < head->model->shape.vocabulary; first += BLOCK) {
        multiply(head, first);
        score(head, tokens, first);
    }
}

/* Add the time since *since, and set it to now. */
static void add_time(double *seconds, double *since) {
    const double now = timing_now();
    *seconds += now - *since;
    *since = now;
}

void head_score_both(struct head *head, struct head *other, const float *hidden,
                     const float *other_hidden, const int32_t *targets, int64_t tokens,
                     double *divergences, double *seconds, double *other_seconds) {
    double since = timing_now(), between = 0;
    begin(head, hidden, targets, tokens);
    add_time(seconds, &since);
    begin(other, other_hidden, targets, tokens);
    add_time(other_seconds, &since);
    memset(head->sums, 0, (size_t)tokens * sizeof *head->sums);
    for (int64_t first = 0; first < head->model->shape.vocabulary; first += BLOCK) {
        const int64_t count = block_rows(head, first);
        multiply(head, first);
        add_time(seconds, &since);
        multiply(other, first);
        add_time(other_seconds, &since);
        divergence_subtract(head->compute, head->difference, head->logits, other->logits, count,
                            tokens, count);
        add_time(&between, &since);
        score(other, tokens, first);
        add_time(other_seconds, &since);
        score(head, tokens, first);
        add_time(seconds, &since);
        divergence_add(head->compute, head->sums, head->scores, head->logits, head->difference,
                       count, tokens, count);
        add_time(&between, &since);
    }
    for (int64_t t = 0; t < tokens; t++)
        divergences[t] = divergence_value(head->sums[t], &head->scores[t], &other->scores[t]);
}
