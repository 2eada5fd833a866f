/* Bytes that grow. */
#ifndef FPTQ_IO_TEXT_BUFFER_H
#define FPTQ_IO_TEXT_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

struct text_buffer {
    char *data; /* NULL or malloc'ed; not NUL ended */
    size_t length, capacity;
};

/* Append `length` bytes; false when memory runs out (the buffer is as before). */
bool text_buffer_append(struct text_buffer *buffer, const char *data, size_t length);
/* Make room for `length` more bytes. */
bool text_buffer_reserve(struct text_buffer *buffer, size_t length);
void text_buffer_free(struct text_buffer *buffer);

#endif
