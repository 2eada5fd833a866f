/* A checkpoint beside the model that it was made of: opened, compared with the model, read. What
 * its datasets mean is in io/checkpoint.h. */
#ifndef FPTQ_PIPELINE_QUANTIZED_MODEL_H
#define FPTQ_PIPELINE_QUANTIZED_MODEL_H

#include "io/checkpoint_read.h"
#include "kernels/number.h"
#include "kernels/path.h"
#include "pipeline/architecture.h"
#include "pipeline/config.h"

struct quantized_model {
    const struct model *model;
    const char *path; /* of the checkpoint */
    struct checkpoint *file;
    char *method; /* "fptq", ... */
};

/* How a linear's activations are brought to int8. */
enum quantized_input {
    QUANTIZED_INPUT_NONE,  /* not at all */
    QUANTIZED_INPUT_FIXED, /* by one scale */
    QUANTIZED_INPUT_TOKEN, /* by a scale of each token */
};

/* What the checkpoint says of a linear. */
struct quantized_linear_kind {
    char group[200];                   /* its path */
    int64_t rows, columns, group_size; /* out, in; 0: the whole row */
    int bits;                          /* of a weight: 4 or 8 */
    bool symmetric;                    /* no zero points */
    enum quantized_input input;
    bool equalized, folded; /* whether there is a scale s, and what makes x divides by it already */
    bool bias;
};

/* Compare every dataset with its checksum: to be done before any other process opens the file,
 * since HDF5 may crash on a damaged one. STATUS_INPUT naming the first fault. */
enum status quantized_model_verify(const char *path, struct error *error);
/* path and model must outlive the result. STATUS_INPUT when it is no checkpoint, or one of another
 * kind of model. */
enum status quantized_model_open(const char *path, const struct model *model,
                                 struct quantized_model *quantized, struct error *error);
/* Look at the shapes of every layer; STATUS_INPUT naming what differs from the model. */
enum status quantized_model_check(const struct quantized_model *quantized, struct error *error);
void quantized_model_close(struct quantized_model *quantized);

/* The linear of a layer, its shapes compared with the model's. */
enum status quantized_model_linear(const struct quantized_model *quantized, int layer,
                                   const struct linear_rule *rule,
                                   struct quantized_linear_kind *kind, struct error *error);
/* `count` numbers of a dataset as f32, malloc'ed; of the shape [count], or with columns [count /
 * columns, columns], or a scalar where count is 0. */
enum status quantized_model_floats(const struct quantized_model *quantized, const char *path,
                                   int64_t count, int64_t columns, float **values,
                                   struct error *error);
/* The same of 4-bit integers [rows, columns]. */
enum status quantized_model_levels(const struct quantized_model *quantized, const char *path,
                                   int64_t rows, int64_t columns, int8_t **values,
                                   struct error *error);
/* A matrix (embedding, head) [rows, columns] as f16, bf16 or f32: of `type`, or as it is stored
 * where keep_type (*type is then set). Aligned to 64 bytes, free(). */
enum status quantized_model_matrix(const struct quantized_model *quantized, const char *name,
                                   int64_t rows, int64_t columns, bool keep_type,
                                   enum number_type *type, void **data, struct error *error);
/* Whether it has a head of its own: one that is tied to the embedding has not. */
bool quantized_model_has_head(const struct quantized_model *quantized);
/* A norm's or linear's vector [count] by the name of its group; *vector is NULL where there is
 * none and it is not required. layer: -1 outside the layers. */
enum status quantized_model_vector(const struct quantized_model *quantized, int layer,
                                   const char *name, const char *suffix, int64_t count,
                                   bool required, float **vector, struct error *error);

/* Bytes that one layer's linears take in memory, on a path and in a precision. */
int64_t quantized_model_layer_bytes(const struct quantized_model *quantized, enum kernel_path path,
                                    enum run_precision precision);

#endif
