/* One line of a .jsonl file. */
#ifndef FPTQ_IO_CORPUS_RECORD_H
#define FPTQ_IO_CORPUS_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "io/status.h"
#include "io/text_buffer.h"

/* Check that line (valid UTF-8) is one JSON object (RFC 8259) and copy its "text" into `text`.
 * Where "text" comes twice the last counts. Nothing else is kept, so the memory is that of the
 * text. */
enum status corpus_record_read(const char *line, size_t length, const char *file, int64_t number,
                               struct text_buffer *text, struct error *error);

#endif
