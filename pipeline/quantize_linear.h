/* One linear's weights as integers, in the chunks of its dataset. */
#ifndef FPTQ_PIPELINE_QUANTIZE_LINEAR_H
#define FPTQ_PIPELINE_QUANTIZE_LINEAR_H

#include "io/checkpoint.h"
#include "kernels/quantize.h"
#include "pipeline/fold.h"
#include "pipeline/mesh.h"

struct quantized_linear {
    enum checkpoint_type type; /* of the weights: CHECKPOINT_INT4 or CHECKPOINT_INT8 */
    int64_t rows, columns, groups, chunk_rows, chunks;
    size_t chunk_bytes;  /* of a whole chunk: packed nibbles, or int8 */
    uint8_t *packed;     /* (chunks, chunk_bytes) */
    float *scales;       /* (rows, groups) */
    int8_t *zero_points; /* (rows, groups), or NULL when symmetric */
    double damping;      /* of GPTQ; 0: none */
    double *errors;      /* (2, rows): squared error, then squared weight */
};

/* Memory for a linear of the model; contents undefined. */
enum status quantized_linear_create(const struct model *model, const struct linear_rule *rule,
                                    const struct quantize_format *format,
                                    struct quantized_linear *linear, struct error *error);
void quantized_linear_free(struct quantized_linear *linear);
/* Quantize the folded weight of a layer's linear, chunks in parallel. shrink: (rows, groups), see
 * pipeline/clip_ranges.h, or NULL. STATUS_INPUT where a weight is not finite. */
enum status quantized_linear_compute(const struct model *model, const struct compute *compute,
                                     int layer, int index, const struct fold_layer *fold,
                                     const struct quantize_format *format, const float *shrink,
                                     struct quantized_linear *linear, struct error *error);
/* Between replicas of a stage; false when another rank raised a fault. */
bool quantized_linear_send(struct mesh *mesh, int replica, struct quantized_linear *linear);
bool quantized_linear_receive(struct mesh *mesh, int replica, struct quantized_linear *linear);

#endif
