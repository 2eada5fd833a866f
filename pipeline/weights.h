/* Weights from the model's files in the form the kernels take: where they are mapped if possible,
 * else decoded. Everything that reads a linear's rows comes through here, so that the permuted rows
 * of GGUF files, block formats and unaligned tensors are dealt with in one place. */
#ifndef FPTQ_PIPELINE_WEIGHTS_H
#define FPTQ_PIPELINE_WEIGHTS_H

#include "kernels/matmul.h"
#include "pipeline/architecture.h"
#include "pipeline/config.h"

/* The type a tensor is computed in: its own for f32 (bf16 with PRECISION_BF16), f16 and bf16; bf16
 * for block formats, or f32 with PRECISION_F32. */
enum number_type weights_number_type(const struct tensor *tensor, enum run_precision precision);

/* A matrix for products. weight->data is the mapped file, or *owned (free() it; NULL when mapped),
 * which the team decodes in parallel. */
enum status weights_load_tensor(const struct model *model, struct team *team,
                                const struct tensor *tensor, enum run_precision precision,
                                struct matmul_weight *weight, void **owned, struct error *error);
/* Bytes of the copy that weights_load_tensor makes; 0: the mapped file serves. */
size_t weights_decoded_bytes(const struct model *model, const struct tensor *tensor,
                             enum run_precision precision);
/* Decode into `destination`, of so many bytes. */
enum status weights_decode(const struct model *model, struct team *team,
                           const struct tensor *tensor, enum run_precision precision,
                           void *destination, struct error *error);
/* The weight of a layer's linear. */
enum status weights_load(const struct model *model, struct team *team, int layer,
                         const struct linear_rule *rule, enum run_precision precision,
                         struct matmul_weight *weight, void **owned, struct error *error);
/* Let the system read a layer's linears from their file ahead of their use. */
void weights_prefetch_layer(const struct model *model, int layer);
/* A vector (bias, norm) as f32, malloc'ed; *vector is NULL where `tensor` is. */
enum status weights_load_vector(const struct model *model, const struct tensor *tensor,
                                float **vector, struct error *error);

/* Rows of a matrix, exact, for one thread. */
struct weights_rows {
    const void *data;
    enum number_type type;
    int64_t stride; /* elements */
};

/* Rows row_begin .. row_end - 1: in the mapped file where that is possible, else decoded to f32
 * into `buffer` (rows, columns), which may be NULL only when weights_are_mapped(). */
struct weights_rows weights_read_rows(const struct model *model, const struct tensor *tensor,
                                      int64_t row_begin, int64_t row_end, float *buffer);
bool weights_are_mapped(const struct model *model, const struct tensor *tensor);

/* Look for a NaN or an infinity in the weights of a layer; true, and its place in text (tensor,
 * row, column), when there is one. For the message of a fault, not for the way there. */
bool weights_find_nonfinite(const struct model *model, int layer, char *text, size_t size);

#endif
