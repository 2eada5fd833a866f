/* UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef FPTQ_IO_UTF8_H
#define FPTQ_IO_UTF8_H

#include <stddef.h>

/* Bytes of the character at the start of text (1 .. 4), or 0 where it is not valid UTF-8.
 * length >= 1. */
size_t utf8_character(const char *text, size_t length);
/* How many bytes at the start of text are valid UTF-8; `length` when all are. */
size_t utf8_valid_prefix(const char *text, size_t length);

#endif
