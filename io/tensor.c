#include "io/tensor.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/gguf_blocks.h"

static const struct {
    int block, bytes; /* elements of a block, its bytes */
} types[TENSOR_TYPE_COUNT] = {
    [TENSOR_F32] = {1, 4},      [TENSOR_F16] = {1, 2},      [TENSOR_BF16] = {1, 2},
    [TENSOR_Q4_0] = {32, 18},   [TENSOR_Q4_1] = {32, 20},   [TENSOR_Q5_0] = {32, 22},
    [TENSOR_Q5_1] = {32, 24},   [TENSOR_Q8_0] = {32, 34},   [TENSOR_Q4_K] = {256, 144},
    [TENSOR_Q5_K] = {256, 176}, [TENSOR_Q6_K] = {256, 210},
};

int64_t tensor_type_block(enum tensor_type type) {
    return types[type].block;
}

size_t tensor_type_bytes(enum tensor_type type) {
    return (size_t)types[type].bytes;
}

bool tensor_type_is_block(enum tensor_type type) {
    return types[type].block > 1;
}

bool tensor_shape_bytes(enum tensor_type type, int rank, const int64_t *shape, size_t *bytes) {
    if (shape[rank - 1] % types[type].block)
        return false;
    size_t product = (size_t)types[type].bytes;
    for (int i = 0; i < rank; i++) {
        const int64_t blocks = i == rank - 1 ? shape[i] / types[type].block : shape[i];
        if (shape[i] < 1 || __builtin_mul_overflow(product, (size_t)blocks, &product))
            return false;
    }
    *bytes = product;
    return product <= INT64_MAX / 4;
}

int64_t tensor_rows(const struct tensor *tensor) {
    return tensor->rank > 1 ? tensor->shape[0] : 1;
}

int64_t tensor_columns(const struct tensor *tensor) {
    int64_t columns = 1;
    for (int i = tensor->rank > 1; i < tensor->rank; i++)
        columns *= tensor->shape[i];
    return columns;
}

/* Elements may lie at any byte: a safetensors header has any length. */
static uint16_t read_u16(const unsigned char *bytes) {
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static float bf16_to_float(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Runs of a constant length, which become vectors, and the rest. */
enum { RUN = 16 };

static void widen_f16(const unsigned char *restrict source, int64_t count,
                      float *restrict destination) {
    int64_t i = 0;
    for (; i + RUN <= count; i += RUN)
        for (int j = 0; j < RUN; j++)
            destination[i + j] = half_to_float(read_u16(source + 2 * (i + j)));
    for (; i < count; i++)
        destination[i] = half_to_float(read_u16(source + 2 * i));
}

static void widen_bf16(const unsigned char *restrict source, int64_t count,
                       float *restrict destination) {
    int64_t i = 0;
    for (; i + RUN <= count; i += RUN)
        for (int j = 0; j < RUN; j++)
            destination[i + j] = bf16_to_float(read_u16(source + 2 * (i + j)));
    for (; i < count; i++)
        destination[i] = bf16_to_float(read_u16(source + 2 * i));
}

void tensor_read_f32(const struct tensor *tensor, int64_t row_begin, int64_t row_end,
                     float *destination) {
    const int64_t columns = tensor_columns(tensor), count = (row_end - row_begin) * columns;
    const int64_t block = tensor_type_block(tensor->type);
    const size_t row_bytes = (size_t)(columns / block) * tensor_type_bytes(tensor->type);
    const unsigned char *source = tensor->data + (size_t)row_begin * row_bytes;
    switch (tensor->type) {
    case TENSOR_F32:
        memcpy(destination, source, (size_t)count * sizeof *destination);
        return;
    case TENSOR_F16:
        widen_f16(source, count, destination);
        return;
    case TENSOR_BF16:
        widen_bf16(source, count, destination);
        return;
    default:
        gguf_blocks_to_f32(tensor->type, source, count / block, destination);
    }
}

/* All pages that hold some of the bytes: what a neighbour has in them is read again from the file.
 */
static void advise(const struct tensor *tensor, size_t offset, size_t bytes, int advice) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = (uintptr_t)tensor->data + offset;
    const uintptr_t begin = first & ~(page - 1), end = (first + bytes + page - 1) & ~(page - 1);
    if (bytes)
        madvise((void *)begin, end - begin, advice);
}

void tensor_release(const struct tensor *tensor) {
    advise(tensor, 0, tensor->bytes, MADV_DONTNEED);
}

void tensor_release_rows(const struct tensor *tensor, int64_t row_begin, int64_t row_end) {
    const size_t row_bytes = tensor->bytes / (size_t)tensor_rows(tensor);
    advise(tensor, (size_t)row_begin * row_bytes, (size_t)(row_end - row_begin) * row_bytes,
           MADV_DONTNEED);
}

void tensor_prefetch(const struct tensor *tensor) {
    advise(tensor, 0, tensor->bytes, MADV_WILLNEED);
}
