/* What quantization costs, linear by linear, on the inputs that the model itself has.
 *
 * While a text passes through the model in full precision, each linear of the checkpoint is given
 * the same input, and its output is compared:
 *
 *   error = |Y_q - Y| / |X W^T|     over all tokens of the text; Y with the bias, X W^T without
 *
 * Both sides are brought to the model's own terms, so that folds do not count as errors. What the
 * checkpoint's linear reads is what the checkpoint would make of the same hidden state: behind a
 * norm, its own (folded) norm of it; behind a linear whose rows have the scale s folded in, x / s.
 * What its rows give is multiplied by the s that is folded into them. */
#ifndef FPTQ_PIPELINE_SENSITIVITY_H
#define FPTQ_PIPELINE_SENSITIVITY_H

#include "pipeline/mesh.h"
#include "pipeline/quantized_model.h"
#include "pipeline/stage.h"
#include "pipeline/stream.h"

/* Squares of one linear's differences and outputs. */
struct sensitivity_sums {
    double difference, whole;
};

struct sensitivity {
    const struct model *model;
    struct stage *full, *quantized; /* the same layers, held together */
    int64_t windows;                /* sequences of the text */
    /* (layers of the stage, windows, LINEARS_MAX): sums of each window for itself, so that they do
     * not depend on how the text is shared out */
    struct sensitivity_sums *sums;
    struct sensitivity_layer *layers; /* (layers of the stage) */
    float *inputs;                    /* (T, channels of the widest site) */
    struct sensitivity_sums *tokens;  /* (T) */
    const struct stream_chunk *chunk; /* that passes */
    double seconds;                   /* that went into it */
};

/* Room for the sums of `windows` windows; the scales of the stage's layers. full and quantized must
 * outlive it. STATUS_FAILED when memory runs out. */
enum status sensitivity_create(struct sensitivity *sensitivity, struct stage *full,
                               struct stage *quantized, int64_t windows, struct error *error);
void sensitivity_free(struct sensitivity *sensitivity);
/* Bytes of it for a number of layers. */
int64_t sensitivity_bytes(const struct model *model, int layers, int64_t windows,
                          int64_t chunk_tokens);
/* The observer of the stage in full precision for a chunk. */
struct stage_observer sensitivity_observe(struct sensitivity *sensitivity,
                                          const struct stream_chunk *chunk);
/* Collective: errors (layers of the model, LINEARS_MAX) on rank 0. */
enum status sensitivity_gather(const struct sensitivity *sensitivity, const struct mesh *mesh,
                               int layers, double *errors, struct error *error);

#endif
