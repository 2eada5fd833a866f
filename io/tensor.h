/* A tensor as it lies in a model's file, and reading its rows. */
#ifndef FPTQ_IO_TENSOR_H
#define FPTQ_IO_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/status.h"

/* Element types. The block types (Q*) are GGUF's: 32 or 256 elements share scales. */
enum tensor_type {
    TENSOR_F32,
    TENSOR_F16,
    TENSOR_BF16,
    TENSOR_Q4_0,
    TENSOR_Q4_1,
    TENSOR_Q5_0,
    TENSOR_Q5_1,
    TENSOR_Q8_0,
    TENSOR_Q4_K,
    TENSOR_Q5_K,
    TENSOR_Q6_K,
    TENSOR_TYPE_COUNT
};

struct tensor {
    const char *name; /* as in the file */
    const char *file; /* path of the file, for messages */
    enum tensor_type type;
    int rank;                  /* 1 .. 4 */
    int64_t shape[4];          /* outermost first: a linear is [out, in] */
    const unsigned char *data; /* mapped, little endian, row-major */
    size_t bytes;
};

/* Elements in a block (1, 32 or 256) and its bytes. */
int64_t tensor_type_block(enum tensor_type type);
size_t tensor_type_bytes(enum tensor_type type);
bool tensor_type_is_block(enum tensor_type type);

/* Bytes of a tensor of this shape (rank 1 .. 4): false when a dimension is below 1, the innermost
 * one is no multiple of the block, or the elements cannot be counted in 64 bits. */
bool tensor_shape_bytes(enum tensor_type type, int rank, const int64_t *shape, size_t *bytes);

/* Rows are the outermost dimension (a vector is one row); columns the product of the others. */
int64_t tensor_rows(const struct tensor *tensor);
int64_t tensor_columns(const struct tensor *tensor);

/* Read rows row_begin .. row_end - 1 as f32 into `destination` (rows, columns). Exact for every
 * type: block types give the values of the `gguf` package's dequantization to the bit. Safe to call
 * from several threads at once. */
void tensor_read_f32(const struct tensor *tensor, int64_t row_begin, int64_t row_end,
                     float *destination);

/* A tensor of a file that is not offered, and why: its type ("I64", "IQ4_XS"), "no elements" or
 * "more than 4 dimensions". */
struct tensor_unread {
    const char *name;
    const char *reason;
};

/* Tell the system that the mapped pages of the tensor, or of some of its rows, are not needed for
 * now, so that they do not count as this process's memory; they come back when they are read. */
void tensor_release(const struct tensor *tensor);
void tensor_release_rows(const struct tensor *tensor, int64_t row_begin, int64_t row_end);
/* Tell it that they will be needed: it reads them into its cache, where they are not this process's
 * memory yet. */
void tensor_prefetch(const struct tensor *tensor);

#endif
