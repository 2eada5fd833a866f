#include "pipeline/head.h"

#include <stdlib.h>
#include <string.h>

#include "pipeline/weights.h"

/* Rows of the vocabulary that are multiplied at once. Part of the order of sums. */
enum { BLOCK = 4096 };

static void *allocate(size_t bytes) {
    return aligned_alloc(64, (bytes + 64) & ~(size_t)63);
}

static const struct tensor *head_tensor(const struct model *model) {
    const struct architecture *architecture = model->architecture;
    const char *name = model->shape.tied_head ? architecture->embedding : architecture->head;
    return model_tensor(model, name, ".weight");
}

static enum matmul_precision product_precision(enum run_precision precision,
                                               enum number_type type) {
    return precision == PRECISION_F32 || type == NUMBER_F32 ? MATMUL_F32 : MATMUL_BF16;
}

enum status head_load(const struct model *model, const struct compute *compute,
                      enum run_precision precision, int64_t tokens, struct head *head,
                      struct error *error) {
    const size_t hidden = (size_t)model->shape.hidden, rows = (size_t)tokens;
    *head = (struct head){.model = model, .compute = compute};
    enum status status = weights_load_tensor(model, compute->team, head_tensor(model), precision,
                                             &head->weight, &head->owned, error);
    if (status)
        return status;
    head->precision = product_precision(precision, head->weight.type);
    head->normed = allocate(rows * hidden * sizeof(float));
    head->logits = allocate(rows * BLOCK * sizeof(float));
    head->packed.data =
        allocate(matmul_packed_bytes(compute->path, head->precision, tokens, model->shape.hidden));
    head->scores = allocate(rows * sizeof *head->scores);
    status = head->normed && head->logits && head->packed.data && head->scores
                 ? stage_norm_load(model, model->architecture->final_norm, &head->norm, error)
                 : error_set(error, STATUS_FAILED, "no memory for the head's work space");
    if (status)
        head_free(head);
    return status;
}

void head_free(struct head *head) {
    free(head->owned);
    stage_norm_free(&head->norm);
    free(head->normed);
    free(head->logits);
    free(head->packed.data);
    free(head->scores);
    *head = (struct head){0};
}

int64_t head_bytes(const struct model *model, enum run_precision precision, int64_t tokens) {
    const struct model_shape *shape = &model->shape;
    const enum number_type type = weights_number_type(head_tensor(model), precision);
    return shape->vocabulary * shape->hidden * (int64_t)number_size(type) +
           tokens * 4 * (2 * shape->hidden + BLOCK);
}

void head_score(struct head *head, const float *hidden, const int32_t *targets, int64_t tokens) {
    const struct model_shape *shape = &head->model->shape;
    stage_norm_apply(head->model, head->compute, &head->norm, head->normed, hidden, tokens);
    matmul_pack(head->compute, &head->packed, head->normed, tokens, shape->hidden, shape->hidden,
                head->precision, NULL);
    for (int64_t t = 0; t < tokens; t++)
        log_likelihood_start(&head->scores[t], targets[t]);
    for (int64_t first = 0; first < shape->vocabulary; first += BLOCK) {
        const int64_t left = shape->vocabulary - first, count = left < BLOCK ? left : BLOCK;
        struct matmul_weight block = head->weight;
        block.data =
            (const char *)block.data + (size_t)(first * block.stride) * number_size(block.type);
        block.rows = count;
        matmul_run(head->compute, head->logits, count, &head->packed, &block);
        log_likelihood_add(head->compute, head->scores, head->logits, count, tokens, first, count);
    }
}
