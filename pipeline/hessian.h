/* The Hessians that GPTQ rounds by: of every site of a stage's layers, the sum over the calibration
 * tokens of x^T x, x the activations as calibration sees them (no equalization: a scale of the
 * channels is divided out later, kernels/gptq.h).
 *
 * One pass of the full-precision model serves all layers, so that stages and replicas work in
 * parallel: the layers before are not quantized when a layer's Hessian is taken, as in GPTQ's own
 * "true sequential" order they would be.
 *
 * Sums are in fixed point (kernels/gram.h) over blocks of GRAM_BLOCK positions of a window,
 * whatever the chunks: so replicas, ranks and interrupted runs may add them in any order. The unit
 * is 2^-20 for up to 2^18 tokens in all, twice as much for twice the tokens: a channel's mean
 * square may reach 2^23. What is added is a set of blocks, known for each layer; a block is added
 * once. */
#ifndef FPTQ_PIPELINE_HESSIAN_H
#define FPTQ_PIPELINE_HESSIAN_H

#include "kernels/gram.h"
#include "pipeline/architecture.h"
#include "pipeline/config.h"

struct hessian_head {
    int32_t layer, exponent;
    int64_t samples, window_blocks;
};

/* A layer's: `record` is what a state keeps, in one piece: the head, the set, the sums. */
struct hessian_layer {
    unsigned char *record; /* NULL: not wanted, the layer is finished */
    uint8_t *set;          /* bit window * window_blocks + block: in the sums here */
    int64_t *sums;         /* of the sites in turn, packed upper triangles */
    uint8_t *elsewhere;    /* the same bits: in another replica's sums from an earlier run */
    unsigned char *blocks; /* of the sites in turn, being filled; NULL until the first token */
};

struct hessians {
    const struct model *model;
    const struct compute *compute;
    enum matmul_precision precision;
    int layer_begin, layer_end;
    int64_t samples, sequence_length, window_blocks;
    int exponent; /* the unit is 2^-exponent */
    struct hessian_layer *layers;
    void *work;
    bool no_memory, too_large; /* faults; a sum is, where: */
    int large_layer;
    enum site large_site;
    double save_seconds, next_save; /* pipeline/hessian_state.h */
};

/* Bytes that `layers` layers need during calibration. */
int64_t hessians_bytes(const struct model *model, const struct config *config, int layers);
/* Bytes of a layer's record on the disk, but for what does not grow with the model. */
int64_t hessians_layer_record_bytes(const struct model *model);

/* Sums of zeros for layers [layer_begin, layer_end). STATUS_FAILED when memory runs out. */
enum status hessians_create(struct hessians *hessians, const struct model *model,
                            const struct compute *compute, const struct config *config,
                            int layer_begin, int layer_end, struct error *error);
/* One that is all zero is let be. */
void hessians_free(struct hessians *hessians);
/* A layer's are needed no more. */
void hessians_drop(struct hessians *hessians, int layer);
size_t hessians_set_bytes(const struct hessians *hessians);
size_t hessians_record_bytes(const struct hessians *hessians);

/* A site's x f32 (tokens, channels), positions position .. position + tokens - 1 of a window; a
 * window's positions come in ascending order, and each layer's sites in theirs. */
void hessians_take(struct hessians *hessians, int layer, enum site site, int64_t window,
                   const float *x, int64_t position, int64_t tokens);
/* STATUS_FAILED where a sum has become too large. */
enum status hessians_check(const struct hessians *hessians, struct error *error);
/* All tokens were taken: memory for more is given back. */
void hessians_end(struct hessians *hessians);

/* Packed upper triangle of a site; all sites of a layer follow each other. */
int64_t *hessians_sums(const struct hessians *hessians, int layer, enum site site);
/* How many there are in a layer. */
int64_t hessians_sum_count(const struct hessians *hessians);
/* Whether the sums over `replicas` of a layer's like this one stay far from an overflow; else
 * hessians_check has a fault. */
bool hessians_fit(struct hessians *hessians, int layer, int replicas);

#endif
