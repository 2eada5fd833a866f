/* Normalizers: Prepend, Replace, NFC. */
#include <stdlib.h>
#include <utf8proc.h>

#include "io/tokenizer_internal.h"

/* Replacements could multiply the text without end. */
static const size_t longest_text = (size_t)1 << 30;

static enum status append(struct text_buffer *buffer, const char *text, size_t length,
                          struct error *error) {
    if (length > longest_text - buffer->length)
        return error_set(error, STATUS_INPUT,
                         "the tokenizer's normalizer makes more than 1 GiB of one text");
    if (!text_buffer_append(buffer, text, length))
        return error_set(error, STATUS_FAILED, "out of memory in the tokenizer");
    return STATUS_OK;
}

static enum status replace(const struct normalizer *normalizer, const char *text, size_t length,
                           struct text_buffer *output, struct error *error) {
    size_t copied = 0, from = 0;
    enum status status = STATUS_OK;
    while (from <= length) {
        bool found;
        size_t begin, end;
        status = regex_find(normalizer->regex, text, length, from, &found, &begin, &end, error);
        if (status != STATUS_OK || !found)
            break;
        if (end == begin)
            return error_set(error, STATUS_INPUT,
                             "a Replace pattern of the tokenizer matches nothing at all");
        status = append(output, text + copied, begin - copied, error);
        if (status == STATUS_OK)
            status = append(output, normalizer->content, normalizer->content_length, error);
        if (status != STATUS_OK)
            break;
        copied = from = end;
    }
    return status == STATUS_OK ? append(output, text + copied, length - copied, error) : status;
}

static bool is_ascii(const char *text, size_t length) {
    unsigned char all = 0;
    for (size_t i = 0; i < length; i++)
        all |= (unsigned char)text[i];
    return all < 0x80;
}

static enum status compose(const char *text, size_t length, struct text_buffer *output,
                           struct error *error) {
    if (is_ascii(text, length))
        return append(output, text, length, error);
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t count = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length,
                                          &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (count < 0)
        return error_set(error, STATUS_FAILED, "NFC normalization failed: %s",
                         utf8proc_errmsg(count));
    enum status status = append(output, (const char *)composed, (size_t)count, error);
    free(composed);
    return status;
}

enum status normalize(const struct normalizer *normalizers, size_t count,
                      struct text_buffer scratch[2], const char *text, size_t length,
                      const char **result, size_t *result_length, struct error *error) {
    for (size_t i = 0; i < count && length > 0; i++) {
        const struct normalizer *normalizer = &normalizers[i];
        struct text_buffer *output = &scratch[i % 2];
        output->length = 0;
        enum status status = STATUS_OK;
        switch (normalizer->kind) {
        case NORMALIZE_PREPEND:
            status = append(output, normalizer->content, normalizer->content_length, error);
            if (status == STATUS_OK)
                status = append(output, text, length, error);
            break;
        case NORMALIZE_REPLACE:
            status = replace(normalizer, text, length, output, error);
            break;
        case NORMALIZE_NFC:
            status = compose(text, length, output, error);
            break;
        }
        if (status != STATUS_OK)
            return status;
        text = output->data;
        length = output->length;
    }
    *result = text;
    *result_length = length;
    return STATUS_OK;
}
