#include <emmintrin.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "io/checkpoint_internal.h"

/* Buffers grow to the largest chunk asked for. */
struct buffer {
    void *data;
    size_t capacity;
};

struct checkpoint_compressor {
    enum checkpoint_compression compression;
    ZSTD_CCtx *context;
    struct buffer plain;  /* N-Bit's bytes, or a padded edge chunk */
    struct buffer stored; /* compressed */
};

static bool buffer_reserve(struct buffer *buffer, size_t bytes) {
    if (buffer->data && buffer->capacity >= bytes)
        return true;
    free(buffer->data);
    buffer->data = malloc(bytes);
    buffer->capacity = buffer->data ? bytes : 0;
    return buffer->data != NULL;
}

enum status checkpoint_compressor_create(enum checkpoint_compression compression,
                                         struct checkpoint_compressor **result,
                                         struct error *error) {
    *result = NULL;
    struct checkpoint_compressor *compressor = calloc(1, sizeof *compressor);
    if (!compressor)
        return error_set(error, STATUS_FAILED, "out of memory for compression");
    compressor->compression = compression;
    compressor->context = ZSTD_createCCtx();
    if (!compressor->context) {
        free(compressor);
        return error_set(error, STATUS_FAILED, "out of memory for compression");
    }
    *result = compressor;
    return STATUS_OK;
}

void checkpoint_compressor_destroy(struct checkpoint_compressor *compressor) {
    if (!compressor)
        return;
    ZSTD_freeCCtx(compressor->context);
    free(compressor->plain.data);
    free(compressor->stored.data);
    free(compressor);
}

static enum status no_memory(struct error *error, size_t bytes) {
    return error_set(error, STATUS_FAILED, "out of memory for a chunk of %zu bytes", bytes);
}

enum status checkpoint_chunk_encode(struct checkpoint_compressor *compressor,
                                    const struct checkpoint_shape *shape, int64_t rows,
                                    const void *data, const void **stored, size_t *stored_bytes,
                                    struct error *error) {
    const size_t chunk_bytes = checkpoint_shape_chunk_bytes(shape);
    const size_t data_bytes = checkpoint_shape_packed_bytes(shape, rows);
    if (data_bytes != chunk_bytes) { /* an edge, or N-Bit's spare byte */
        if (!buffer_reserve(&compressor->plain, chunk_bytes))
            return no_memory(error, chunk_bytes);
        unsigned char *plain = compressor->plain.data;
        memcpy(plain, data, data_bytes);
        memset(plain + data_bytes, 0, chunk_bytes - data_bytes);
        data = plain;
    }
    *stored = data;
    *stored_bytes = chunk_bytes;
    if (compressor->compression == CHECKPOINT_NONE)
        return STATUS_OK;
    const size_t capacity = ZSTD_compressBound(chunk_bytes);
    if (!buffer_reserve(&compressor->stored, capacity))
        return no_memory(error, capacity);
    *stored = compressor->stored.data;
    *stored_bytes = ZSTD_compressCCtx(compressor->context, compressor->stored.data, capacity, data,
                                      chunk_bytes, CHECKPOINT_ZSTD_LEVEL);
    if (ZSTD_isError(*stored_bytes))
        return error_set(error, STATUS_FAILED, "zstd: %s", ZSTD_getErrorName(*stored_bytes));
    return STATUS_OK;
}

enum status checkpoint_chunk_compress(struct checkpoint_compressor *compressor,
                                      enum checkpoint_type type, int64_t rows, int64_t columns,
                                      int64_t row_begin, const void *data, const void **stored,
                                      size_t *stored_bytes, struct error *error) {
    struct checkpoint_shape shape;
    const int64_t dimensions[2] = {rows, columns};
    const enum status status = checkpoint_shape_set(&shape, type, 2, dimensions, 0, true,
                                                    compressor->compression, "a chunk", error);
    if (status != STATUS_OK)
        return status;
    const int64_t left = rows - row_begin;
    return checkpoint_chunk_encode(compressor, &shape,
                                   left < shape.chunk_rows ? left : shape.chunk_rows, data, stored,
                                   stored_bytes, error);
}

void checkpoint_nibbles_pack(uint8_t *packed, const int8_t *values, size_t count) {
    for (size_t i = 0; i + 1 < count; i += 2)
        packed[i / 2] = (uint8_t)((values[i] & 15) << 4 | (values[i + 1] & 15));
    if (count % 2)
        packed[count / 2] = (uint8_t)((values[count - 1] & 15) << 4);
}

static int8_t nibble_value(unsigned nibble) {
    return (int8_t)(((nibble & 15) ^ 8) - 8);
}

void checkpoint_nibbles_unpack(int8_t *values, const uint8_t *packed, size_t count) {
    const __m128i low = _mm_set1_epi8(15), sign = _mm_set1_epi8(8);
    size_t i = 0;
    for (; i + 32 <= count; i += 32) { /* SSE2, which every x86-64 has */
        const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(packed + i / 2));
        const __m128i even = _mm_and_si128(_mm_srli_epi16(bytes, 4), low);
        const __m128i odd = _mm_and_si128(bytes, low);
        const __m128i first = _mm_unpacklo_epi8(even, odd), second = _mm_unpackhi_epi8(even, odd);
        __m128i *output = (__m128i *)(void *)(values + i);
        _mm_storeu_si128(output, _mm_sub_epi8(_mm_xor_si128(first, sign), sign));
        _mm_storeu_si128(output + 1, _mm_sub_epi8(_mm_xor_si128(second, sign), sign));
    }
    for (; i < count; i++)
        values[i] = nibble_value(i % 2 ? packed[i / 2] : (unsigned)packed[i / 2] >> 4);
}

void checkpoint_nibbles_digest(struct digest *digest, const uint8_t *packed, size_t count) {
    int8_t values[16384];
    for (size_t i = 0; i < count; i += sizeof values) {
        const size_t piece = count - i < sizeof values ? count - i : sizeof values;
        checkpoint_nibbles_unpack(values, packed + i / 2, piece);
        digest_update(digest, values, piece);
    }
}

typedef void sink_function(void *context, const void *data, size_t bytes);

/* One stored chunk -> its bytes before compression, in plain. */
static enum status chunk_decode(const struct checkpoint_shape *shape, int64_t row,
                                const void *stored, size_t stored_bytes, void *plain,
                                struct error *error) {
    const size_t chunk_bytes = checkpoint_shape_chunk_bytes(shape);
    size_t size = stored_bytes;
    if (shape->compression == CHECKPOINT_ZSTD)
        size = ZSTD_decompress(plain, chunk_bytes, stored, stored_bytes);
    else if (stored_bytes == chunk_bytes)
        memcpy(plain, stored, stored_bytes);
    if (size != chunk_bytes)
        return error_set(error, STATUS_INPUT, "the chunk at row %lld is damaged", (long long)row);
    return STATUS_OK;
}

/* The chunk's bytes as the file's index counts them, which is how many H5Dread_chunk() reads. For
 * chunks without filters H5Dget_chunk_storage_size() gives the size that they should have instead;
 * the other function would do for all, but walks the index from its start. */
static bool chunk_stored_size(hid_t dataset, const struct checkpoint_shape *shape,
                              const hsize_t *offset, hsize_t *bytes) {
    unsigned skipped_filters;
    haddr_t address;
    const bool filtered = shape->type == CHECKPOINT_INT4 || shape->compression != CHECKPOINT_NONE;
    return (filtered ? H5Dget_chunk_storage_size(dataset, offset, bytes)
                     : H5Dget_chunk_info_by_coord(dataset, offset, &skipped_filters, &address,
                                                  bytes)) >= 0;
}

/* The stored bytes of the chunk at a row, in *stored (grown as needed). A chunk that was never
 * written would read as zeros without an error: here it is one. */
static enum status chunk_fetch(hid_t dataset, const struct checkpoint_shape *shape, int64_t row,
                               struct buffer *stored, size_t *stored_bytes, struct error *error) {
    hsize_t offset[CHECKPOINT_MAX_RANK] = {(hsize_t)row};
    hsize_t bytes = 0;
    const size_t bound = ZSTD_compressBound(checkpoint_shape_chunk_bytes(shape));
    if (!chunk_stored_size(dataset, shape, offset, &bytes) || bytes == 0)
        return error_set(error, STATUS_INPUT, "the chunk at row %lld is missing", (long long)row);
    if (bytes > bound)
        return error_set(error, STATUS_INPUT, "the chunk at row %lld is damaged", (long long)row);
    if (!buffer_reserve(stored, (size_t)bytes))
        return no_memory(error, (size_t)bytes);
    uint32_t skipped_filters = 0;
    if (H5Dread_chunk(dataset, H5P_DEFAULT, offset, &skipped_filters, stored->data) < 0)
        return error_set(error, STATUS_INPUT, "the chunk at row %lld cannot be read",
                         (long long)row);
    if (skipped_filters != 0)
        return error_set(error, STATUS_INPUT, "the chunk at row %lld is damaged", (long long)row);
    *stored_bytes = (size_t)bytes;
    return STATUS_OK;
}

static void sink_packed(const uint8_t *packed, size_t count, sink_function *sink, void *context) {
    int8_t values[16384];
    for (size_t i = 0; i < count; i += sizeof values) {
        const size_t piece = count - i < sizeof values ? count - i : sizeof values;
        checkpoint_nibbles_unpack(values, packed + i / 2, piece);
        sink(context, values, piece);
    }
}

enum status checkpoint_dataset_chunks(hid_t dataset, const struct checkpoint_shape *shape,
                                      checkpoint_rows_function *take, void *context,
                                      struct error *error) {
    struct buffer stored = {NULL, 0}, plain = {NULL, 0};
    size_t stored_bytes = 0;
    enum status status = STATUS_OK;
    if (!buffer_reserve(&plain, checkpoint_shape_chunk_bytes(shape)))
        status = no_memory(error, checkpoint_shape_chunk_bytes(shape));
    for (int64_t row = 0; row < shape->rows && status == STATUS_OK; row += shape->chunk_rows) {
        const int64_t left = shape->rows - row;
        const int64_t rows = left < shape->chunk_rows ? left : shape->chunk_rows;
        status = chunk_fetch(dataset, shape, row, &stored, &stored_bytes, error);
        if (status == STATUS_OK)
            status = chunk_decode(shape, row, stored.data, stored_bytes, plain.data, error);
        if (status == STATUS_OK)
            take(context, row, rows, plain.data);
    }
    free(stored.data);
    free(plain.data);
    return status;
}

/* Chunks as they come, handed on in memory order. */
struct chunk_sink {
    const struct checkpoint_shape *shape;
    sink_function *sink;
    void *context;
};

static void sink_chunk(void *context, int64_t row, int64_t rows, const void *data) {
    const struct chunk_sink *chunk = context;
    (void)row;
    if (chunk->shape->type == CHECKPOINT_INT4)
        sink_packed(data, (size_t)rows * (size_t)chunk->shape->columns, chunk->sink,
                    chunk->context);
    else
        chunk->sink(chunk->context, data, checkpoint_shape_packed_bytes(chunk->shape, rows));
}

static enum status stream_chunks(hid_t dataset, const struct checkpoint_shape *shape,
                                 sink_function *sink, void *context, struct error *error) {
    struct chunk_sink chunk = {shape, sink, context};
    return checkpoint_dataset_chunks(dataset, shape, sink_chunk, &chunk, error);
}

/* The bytes are where the file ends at the latest. */
static bool has_bytes(hid_t dataset, size_t bytes) {
    hsize_t file_bytes = 0;
    const hid_t file = H5Iget_file_id(dataset);
    const bool known = file >= 0 && H5Fget_filesize(file, &file_bytes) >= 0;
    H5Fclose(file);
    return known && bytes <= file_bytes && H5Dget_storage_size(dataset) == bytes;
}

static bool has_chunks(hid_t dataset, hsize_t count) {
    hsize_t stored = 0;
    const hid_t space = H5Dget_space(dataset);
    const bool known = H5Dget_num_chunks(dataset, space, &stored) >= 0;
    H5Sclose(space);
    return known && stored == count;
}

enum status checkpoint_dataset_check_storage(hid_t dataset, const struct checkpoint_shape *shape,
                                             struct error *error) {
    if (shape->chunk_rows == 0)
        return has_bytes(dataset, checkpoint_shape_bytes(shape))
                   ? STATUS_OK
                   : error_set(error, STATUS_INPUT, "its data is missing");
    const int64_t chunks = (shape->rows - 1) / shape->chunk_rows + 1;
    return has_chunks(dataset, (hsize_t)chunks)
               ? STATUS_OK
               : error_set(error, STATUS_INPUT, "some of its chunks are missing");
}

static enum status stream_contiguous(hid_t dataset, const struct checkpoint_shape *shape,
                                     sink_function *sink, void *context, struct error *error) {
    const size_t bytes = checkpoint_shape_bytes(shape);
    const enum status status = checkpoint_dataset_check_storage(dataset, shape, error);
    if (status != STATUS_OK)
        return status;
    void *data = malloc(bytes);
    if (!data)
        return no_memory(error, bytes);
    const hid_t type = H5Dget_type(dataset);
    const herr_t result = H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    H5Tclose(type);
    if (result >= 0)
        sink(context, data, bytes);
    free(data);
    return result >= 0 ? STATUS_OK : error_set(error, STATUS_INPUT, "its data cannot be read");
}

enum status checkpoint_dataset_stream(hid_t dataset, const struct checkpoint_shape *shape,
                                      sink_function *sink, void *context, struct error *error) {
    return shape->chunk_rows > 0 ? stream_chunks(dataset, shape, sink, context, error)
                                 : stream_contiguous(dataset, shape, sink, context, error);
}

static void sink_digest(void *context, const void *data, size_t bytes) {
    digest_update(context, data, bytes);
}

enum status checkpoint_dataset_digest(hid_t dataset, const struct checkpoint_shape *shape,
                                      char sum[65], struct error *error) {
    struct digest *digest = digest_create();
    if (!digest)
        return error_set(error, STATUS_FAILED, "out of memory");
    const enum status status =
        checkpoint_dataset_stream(dataset, shape, sink_digest, digest, error);
    digest_finish(digest, sum);
    return status;
}

static enum status copy_chunks(hid_t source, hid_t destination,
                               const struct checkpoint_shape *shape, const char *file_name,
                               const char *path, struct error *error) {
    struct buffer stored = {NULL, 0};
    size_t stored_bytes = 0;
    enum status status = STATUS_OK;
    for (int64_t row = 0; row < shape->rows && status == STATUS_OK; row += shape->chunk_rows) {
        const hsize_t offset[CHECKPOINT_MAX_RANK] = {(hsize_t)row};
        struct error reason;
        status = chunk_fetch(source, shape, row, &stored, &stored_bytes, &reason);
        if (status != STATUS_OK)
            error_set(error, status, "%s: cannot copy %s: %s", file_name, path, reason.message);
        else if (H5Dwrite_chunk(destination, H5P_DEFAULT, 0, offset, stored_bytes, stored.data) < 0)
            status = checkpoint_hdf5_error(error, STATUS_FAILED, file_name, "write", path);
    }
    free(stored.data);
    return status;
}

struct write_sink {
    hid_t dataset;
    const char *file_name, *path;
    enum status status;
    struct error *error;
};

static void sink_write(void *context, const void *data, size_t bytes) {
    (void)bytes; /* contiguous data comes in one piece */
    struct write_sink *sink = context;
    const hid_t type = H5Dget_type(sink->dataset);
    if (H5Dwrite(sink->dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        sink->status =
            checkpoint_hdf5_error(sink->error, STATUS_FAILED, sink->file_name, "write", sink->path);
    H5Tclose(type);
}

static enum status copy_contiguous(hid_t source, hid_t destination,
                                   const struct checkpoint_shape *shape, const char *file_name,
                                   const char *path, struct error *error) {
    struct write_sink sink = {destination, file_name, path, STATUS_OK, error};
    struct error reason;
    const enum status status = stream_contiguous(source, shape, sink_write, &sink, &reason);
    if (status != STATUS_OK)
        return error_set(error, status, "%s: cannot copy %s: %s", file_name, path, reason.message);
    return sink.status;
}

enum status checkpoint_dataset_copy(hid_t source, const struct checkpoint_shape *shape, hid_t file,
                                    const char *file_name, const char *path, struct error *error) {
    const hid_t destination = checkpoint_shape_create_dataset(shape, file, path);
    if (destination < 0)
        return checkpoint_hdf5_error(error, STATUS_FAILED, file_name, "make", path);
    enum status status = shape->chunk_rows > 0
                             ? copy_chunks(source, destination, shape, file_name, path, error)
                             : copy_contiguous(source, destination, shape, file_name, path, error);
    if (H5Dclose(destination) < 0 && status == STATUS_OK)
        status = checkpoint_hdf5_error(error, STATUS_FAILED, file_name, "write", path);
    return status;
}
