/* The head: final norm and the product with the vocabulary, scored without keeping the logits. */
#ifndef FPTQ_PIPELINE_HEAD_H
#define FPTQ_PIPELINE_HEAD_H

#include "kernels/log_likelihood.h"
#include "pipeline/stage.h"

struct head {
    const struct model *model;
    const struct compute *compute;
    struct matmul_weight weight; /* (vocabulary, hidden): the mapped file, or `owned` */
    void *owned;
    struct stage_norm norm;
    float *normed;               /* (T, hidden) */
    float *logits;               /* (T, a block of the vocabulary) */
    struct matmul_packed packed; /* of normed */
    enum matmul_precision precision;
    struct log_likelihood *scores; /* (T) */
    float *difference, *sums;      /* (T, a block of the vocabulary), (T): for head_score_both */
};

/* The model's, or with `quantized` (else NULL) its checkpoint's; in the model's number type either
 * way. For up to `tokens` tokens at once. */
enum status head_load(const struct model *model, const struct quantized_model *quantized,
                      const struct compute *compute, enum run_precision precision, int64_t tokens,
                      struct head *head, struct error *error);
void head_free(struct head *head);
/* Bytes of the head's weights and work space. */
int64_t head_bytes(const struct model *model, enum run_precision precision, int64_t tokens);

/* What the last layer's hidden f32 (T, hidden) says of the tokens that follow: head->scores, where
 * score t has the target targets[t]. */
void head_score(struct head *head, const float *hidden, const int32_t *targets, int64_t tokens);

/* Two models on the same tokens, `other` beside head: the scores of both, and divergences (T): KL
 * of other from head. *seconds, *other_seconds: grow by the time that each one's products and
 * scores take. */
void head_score_both(struct head *head, struct head *other, const float *hidden,
                     const float *other_hidden, const int32_t *targets, int64_t tokens,
                     double *divergences, double *seconds, double *other_seconds);

#endif
