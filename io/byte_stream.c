#include "io/byte_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>
#include <zstd_errors.h>

enum { INPUT_BYTES = 1 << 17, WINDOW_LOG = 27 };

struct byte_stream {
    char *path;
    int descriptor;
    ZSTD_DCtx *decoder; /* NULL for a plain file */
    ZSTD_inBuffer input;
    bool in_frame; /* a frame has begun and not ended */
    bool more;     /* the decoder holds more than the last buffer took */
    char bytes[INPUT_BYTES];
};

enum status byte_stream_open(const char *path, bool zstd, struct byte_stream **result,
                             struct error *error) {
    *result = NULL;
    struct byte_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return error_set(error, STATUS_FAILED, "%s: out of memory", path);
    stream->descriptor = -1;
    stream->input.src = stream->bytes;
    stream->path = strdup(path);
    if (zstd)
        stream->decoder = ZSTD_createDCtx();
    if (!stream->path || (zstd && !stream->decoder)) {
        byte_stream_close(stream);
        return error_set(error, STATUS_FAILED, "%s: out of memory", path);
    }
    if (zstd)
        ZSTD_DCtx_setParameter(stream->decoder, ZSTD_d_windowLogMax, WINDOW_LOG);
    stream->descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (stream->descriptor < 0) {
        enum status status =
            error_set(error, STATUS_INPUT, "%s: cannot open: %s", path, strerror(errno));
        byte_stream_close(stream);
        return status;
    }
    posix_fadvise(stream->descriptor, 0, 0, POSIX_FADV_SEQUENTIAL);
    *result = stream;
    return STATUS_OK;
}

static enum status fault(const struct byte_stream *stream, enum status status, int64_t line,
                         const char *what, const char *reason, struct error *error) {
    char where[40] = "";
    if (line > 0)
        snprintf(where, sizeof where, "line %lld: ", (long long)line);
    return error_set(error, status, "%s: %s%s%s", stream->path, where, what, reason);
}

static enum status read_file(struct byte_stream *stream, char *buffer, size_t capacity,
                             int64_t line, size_t *count, struct error *error) {
    ssize_t got;
    do
        got = read(stream->descriptor, buffer, capacity);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return fault(stream, STATUS_FAILED, line, "cannot read: ", strerror(errno), error);
    *count = (size_t)got;
    return STATUS_OK;
}

enum status byte_stream_read(struct byte_stream *stream, char *buffer, size_t capacity,
                             int64_t line, size_t *count, struct error *error) {
    *count = 0;
    if (!stream->decoder)
        return read_file(stream, buffer, capacity, line, count, error);
    ZSTD_outBuffer output = {.dst = buffer, .size = capacity};
    while (output.pos == 0) {
        if (stream->input.pos == stream->input.size && !stream->more) {
            enum status status = read_file(stream, stream->bytes, sizeof stream->bytes, line,
                                           &stream->input.size, error);
            if (status != STATUS_OK)
                return status;
            stream->input.pos = 0;
            if (stream->input.size == 0)
                return stream->in_frame
                           ? fault(stream, STATUS_INPUT, line,
                                   "the zstd data ends too early: the file is truncated", "", error)
                           : STATUS_OK;
        }
        size_t result = ZSTD_decompressStream(stream->decoder, &output, &stream->input);
        if (ZSTD_getErrorCode(result) == ZSTD_error_frameParameter_windowTooLarge)
            return fault(stream, STATUS_INPUT, line, "the zstd data needs a window above 128 MiB: ",
                         "compress it again without --long", error);
        if (ZSTD_isError(result))
            return fault(stream, STATUS_INPUT, line, "bad zstd data: ", ZSTD_getErrorName(result),
                         error);
        stream->in_frame = result != 0;
        stream->more = stream->in_frame && output.pos == output.size;
    }
    *count = output.pos;
    return STATUS_OK;
}

void byte_stream_close(struct byte_stream *stream) {
    if (!stream)
        return;
    if (stream->descriptor >= 0)
        close(stream->descriptor);
    ZSTD_freeDCtx(stream->decoder);
    free(stream->path);
    free(stream);
}
