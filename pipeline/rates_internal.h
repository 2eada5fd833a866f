/* What the parts of the measurement share. */
#ifndef FPTQ_PIPELINE_RATES_INTERNAL_H
#define FPTQ_PIPELINE_RATES_INTERNAL_H

#include <stdbool.h>

#include "kernels/matmul.h"
#include "pipeline/rates.h"
#include "pipeline/timing.h"

struct rates_bench {
    const struct mesh *mesh;
    const struct model *model;
    const struct config *config;
    struct compute compute;
    double expected_flops;           /* of products, of all threads: for how much to measure */
    enum number_type type;           /* of weights as they are multiplied */
    enum matmul_precision precision; /* of products */
    int64_t tokens, context;         /* of a chunk, of a sequence */
    int64_t widest;                  /* columns that any buffer of activations needs */
    float *source, *input, *output;  /* (tokens, widest) */
    float *maxima;                   /* (widest) */
    struct matmul_packed packed;
    unsigned char *weights; /* as many as a stage has, or enough to be out of the caches */
    size_t weight_bytes;
    void *cache; /* of keys and values, one layer's */
    float *slopes;
};

/* Numbers as weights are, from -1 to 1 but mostly small; `count` of type bench->type. */
void rates_fill_weights(const struct rates_bench *bench);

/* Whether to measure once more: repetitions go on until the threads have had `seconds` of processor
 * time each, not by the clock, so that there are as many of them on a machine that others use too,
 * and some of them undisturbed. */
bool rates_repeat(const struct rates_bench *bench, const struct timing_mark *begin, double seconds);

/* Each returns the rate of this rank. */
double rates_products(struct rates_bench *bench);    /* flop/s */
double rates_attention(struct rates_bench *bench);   /* flop/s */
double rates_elementwise(struct rates_bench *bench); /* bytes/s */

/* Bytes/s of loading weights of layer mesh->rank % layers; their decoded form where they are
 * decoded, else what is mapped. */
enum status rates_load(const struct rates_bench *bench, double *rate, struct error *error);
/* Weights/s of quantization by all threads, and of writing (0: nothing could be written). */
enum status rates_quantize(const struct rates_bench *bench, double *quantize, double *write,
                           struct error *error);
/* Collective. Bytes/s and seconds of a message between ranks 2 n and 2 n + 1; 0 for a rank without
 * such a neighbour. */
void rates_link(const struct rates_bench *bench, double *bytes, double *seconds);

#endif
