/* Weights from the model's files in the form the kernels take: where they are mapped if possible,
 * else decoded. Everything that reads a linear's rows comes through here, so that the permuted rows
 * of GGUF files, block formats, unaligned tensors and rotation are dealt with in one place.
 *
 * With model->rotation, Q, what is read belongs to a model of the same function whose residual
 * stream is x Q where the file's is x: embedding E Q, linears that write to the stream Q^T W (bias
 * b Q), those that read it W diag(norm) Q, as does the head, and norms of weight 1. */
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
/* The weight of a layer's linear; rotated ones are f32, whatever the precision. */
enum status weights_load(const struct model *model, struct team *team, int layer,
                         const struct linear_rule *rule, enum run_precision precision,
                         struct matmul_weight *weight, void **owned, struct error *error);
/* The head's matrix (vocabulary, hidden), in the same way. */
enum status weights_load_head(const struct model *model, struct team *team,
                              enum run_precision precision, struct matmul_weight *weight,
                              void **owned, struct error *error);
/* The tensor that it is made of: the embedding where the two are tied. */
const struct tensor *weights_head_tensor(const struct model *model);
/* Let the system read a layer's linears from their file ahead of their use. */
void weights_prefetch_layer(const struct model *model, int layer);
/* The bias of a layer's linear as f32, malloc'ed; *bias is NULL where there is none. */
enum status weights_load_bias(const struct model *model, int layer, const struct linear_rule *rule,
                              float **bias, struct error *error);
/* A norm's weight or bias as f32, malloc'ed; *vector is NULL where `tensor` is. */
enum status weights_load_norm(const struct model *model, const struct tensor *tensor,
                              float **vector, struct error *error);

/* What rotation makes of rows of the embedding or the head. */
struct weights_rotation {
    const struct rotation *rotation; /* NULL: nothing */
    float *multiplier;               /* (hidden) of the columns, before; or NULL */
};
/* The head's, or the embedding's. weights_rotation_free is due. */
enum status weights_rotation_make(const struct model *model, bool head,
                                  struct weights_rotation *change, struct error *error);
void weights_rotation_free(struct weights_rotation *change);
/* rows f32 (count, hidden), in place. */
void weights_rotate_rows(const struct weights_rotation *change, float *rows, int64_t count);

/* Rows of a matrix, exact, for one thread. */
struct weights_rows {
    const void *data;
    enum number_type type;
    int64_t stride; /* elements */
};

/* The weight of a layer's linear, open for reading by rows. */
struct weights_source {
    const struct model *model;
    const struct tensor *tensor;
    float *rotated; /* (out, in), all of it; NULL: rows are as the file has them */
};
/* STATUS_FAILED only when memory runs out; weights_close is due in any case. */
enum status weights_open(const struct model *model, struct team *team, int layer,
                         const struct linear_rule *rule, struct weights_source *source,
                         struct error *error);
void weights_close(struct weights_source *source);
/* Rows row_begin .. row_end - 1: where they are in memory if that is possible, else decoded to f32
 * into `buffer` (rows, columns), which may be NULL only when weights_are_mapped(). */
struct weights_rows weights_read_rows(const struct weights_source *source, int64_t row_begin,
                                      int64_t row_end, float *buffer);
bool weights_are_mapped(const struct weights_source *source);

/* Look for a NaN or an infinity in the weights of a layer; true, and its place in text (tensor,
 * row, column), when there is one. For the message of a fault, not for the way there. */
bool weights_find_nonfinite(const struct model *model, int layer, char *text, size_t size);

#endif
