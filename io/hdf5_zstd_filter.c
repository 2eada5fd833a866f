#include "io/hdf5_zstd_filter.h"

#include <hdf5.h>
#include <stdint.h>
#include <stdlib.h>
#include <zstd.h>

enum { FILTER_ID = 32015, DEFAULT_LEVEL = 3 };
/* A zstd block of 3 + 1 bytes makes at most 128 KiB; HDF5's chunks are below 4 GiB. */
static const uint64_t LARGEST_RATIO = 128 * 1024 / 4, LARGEST_CHUNK = UINT32_MAX;

/* A frame without its size (written by a stream) is decompressed into a buffer that grows. */
static size_t decompress_unsized(const void *source, size_t source_bytes, void **result,
                                 size_t capacity, size_t limit) {
    ZSTD_DStream *stream = ZSTD_createDStream();
    ZSTD_inBuffer input = {source, source_bytes, 0};
    ZSTD_outBuffer output = {malloc(capacity), capacity, 0};
    size_t left = stream && output.dst ? 1 : 0;
    size_t size = 0;
    while (left && !ZSTD_isError(left)) {
        const size_t before = input.pos + output.pos;
        left = ZSTD_decompressStream(stream, &output, &input);
        if (left == 0) {
            size = output.pos;
        } else if (output.pos == output.size && output.size < limit) {
            output.size = output.size < limit / 2 ? 2 * output.size : limit;
            void *larger = realloc(output.dst, output.size);
            if (!larger)
                break;
            output.dst = larger;
        } else if (input.pos + output.pos == before) {
            break; /* truncated */
        }
    }
    ZSTD_freeDStream(stream);
    if (size > 0)
        *result = output.dst;
    else
        free(output.dst);
    return size;
}

/* Sizes are bounded by the stored bytes, so that a damaged file cannot ask for any memory it likes.
 */
static size_t decompress(const void *source, size_t source_bytes, void **result) {
    const uint64_t bound = (uint64_t)source_bytes * LARGEST_RATIO;
    const size_t limit = (size_t)(bound < LARGEST_CHUNK ? bound : LARGEST_CHUNK);
    const unsigned long long content = ZSTD_getFrameContentSize(source, source_bytes);
    if (content == ZSTD_CONTENTSIZE_UNKNOWN)
        return decompress_unsized(source, source_bytes, result, 4 * source_bytes, limit);
    if (content == ZSTD_CONTENTSIZE_ERROR || content == 0 || content > limit)
        return 0;
    void *data = malloc((size_t)content);
    if (!data)
        return 0;
    const size_t size = ZSTD_decompress(data, (size_t)content, source, source_bytes);
    if (ZSTD_isError(size)) {
        free(data);
        return 0;
    }
    *result = data;
    return size;
}

static size_t compress(const void *source, size_t source_bytes, int level, void **result) {
    const size_t capacity = ZSTD_compressBound(source_bytes);
    void *data = malloc(capacity);
    if (!data)
        return 0;
    const size_t size = ZSTD_compress(data, capacity, source, source_bytes, level);
    if (ZSTD_isError(size)) {
        free(data);
        return 0;
    }
    *result = data;
    return size;
}

/* HDF5's convention: the bytes now in *buffer, or 0 for an error with *buffer left as it was. The
 * one parameter is the level. */
static size_t filter(unsigned flags, size_t parameter_count, const unsigned *parameters,
                     size_t bytes, size_t *buffer_bytes, void **buffer) {
    void *result = NULL;
    size_t size;
    if (flags & H5Z_FLAG_REVERSE) {
        size = decompress(*buffer, bytes, &result);
    } else {
        int level = parameter_count > 0 ? (int)parameters[0] : DEFAULT_LEVEL;
        if (level > ZSTD_maxCLevel())
            level = ZSTD_maxCLevel();
        size = compress(*buffer, bytes, level, &result);
    }
    if (size == 0)
        return 0;
    free(*buffer);
    *buffer = result;
    *buffer_bytes = size;
    return size;
}

static const H5Z_class2_t filter_class = {
    .version = H5Z_CLASS_T_VERS,
    .id = FILTER_ID,
    .encoder_present = 1,
    .decoder_present = 1,
    .name = "Zstandard compression",
    .filter = filter,
};

const void *hdf5_zstd_filter(void) {
    return &filter_class;
}
