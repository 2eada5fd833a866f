#include "io/text_buffer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

bool text_buffer_reserve(struct text_buffer *buffer, size_t length) {
    if (length <= buffer->capacity - buffer->length)
        return true;
    if (length > SIZE_MAX / 4 - buffer->length)
        return false;
    size_t capacity = buffer->capacity < 64 ? 64 : buffer->capacity;
    while (capacity - buffer->length < length)
        capacity += capacity / 2;
    char *data = realloc(buffer->data, capacity);
    if (!data)
        return false;
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

bool text_buffer_append(struct text_buffer *buffer, const char *data, size_t length) {
    if (length == 0)
        return true;
    if (!text_buffer_reserve(buffer, length))
        return false;
    memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
    return true;
}

void text_buffer_free(struct text_buffer *buffer) {
    free(buffer->data);
    *buffer = (struct text_buffer){0};
}
