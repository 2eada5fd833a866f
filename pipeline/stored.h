/* How tensors that stay 16-bit are stored, and where: Hugging Face's names with '/' for '.'. */
#ifndef FPTQ_PIPELINE_STORED_H
#define FPTQ_PIPELINE_STORED_H

#include "io/checkpoint.h"
#include "kernels/number.h"
#include "pipeline/architecture.h"
#include "pipeline/weights.h"

/* bf16 tensors are stored as bf16; all others as f16, unless a value is beyond its range (65504):
 * then as bf16. values f32 (count) are what will be stored. */
enum number_type stored_type(const struct tensor *tensor, const float *values, int64_t count);
enum { STORED_OUTSIDE = -1 };
/* "/model/layers/3/self_attn/q_proj" + suffix; or, STORED_OUTSIDE the layers, "/model/norm" +
 * suffix
 */
void stored_path(const struct model *model, int layer, const char *name, const char *suffix,
                 char path[200]);
/* Write f32 values as a dataset of the type given. */
enum status stored_write_floats(struct checkpoint_part *part, const char *path,
                                enum number_type type, int rank, const int64_t *dimensions,
                                const float *values, struct error *error);
/* Write a whole matrix (embedding, head) by blocks of rows. A rotated one is f16, whatever it was,
 * unless a value is beyond its range. STATUS_INPUT where a number is not finite. */
enum status stored_write_matrix(struct checkpoint_part *part, const struct tensor *tensor,
                                const char *path, const struct weights_rotation *change,
                                struct error *error);
/* Write a vector (final norm), as it was made of `tensor`; the same. */
enum status stored_write_vector(struct checkpoint_part *part, const struct tensor *tensor,
                                const char *path, const float *vector, struct error *error);

#endif
