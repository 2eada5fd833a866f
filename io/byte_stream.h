/* The bytes of a file, or what a zstd file holds, from front to back. */
#ifndef FPTQ_IO_BYTE_STREAM_H
#define FPTQ_IO_BYTE_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/status.h"

struct byte_stream;

/* zstd: any number of frames one after the other, skippable ones among them, windows up to 128 MiB
 * (what `zstd` itself accepts without --long). */
enum status byte_stream_open(const char *path, bool zstd, struct byte_stream **stream,
                             struct error *error);
/* Read up to `capacity` bytes; *count is 0 at the end only. `line`: which one is being read, for
 * messages (0: none). A file that ends within a frame is an error. */
enum status byte_stream_read(struct byte_stream *stream, char *buffer, size_t capacity,
                             int64_t line, size_t *count, struct error *error);
void byte_stream_close(struct byte_stream *stream);

#endif
