/* The patterns of tokenizer.json, which are Oniguruma's, run by PCRE2. */
#ifndef FPTQ_IO_TOKENIZER_REGEX_H
#define FPTQ_IO_TOKENIZER_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "io/status.h"

struct regex;

/* pattern is UTF-8. literal: it stands for itself. origin and key name the place for messages. A
 * construct that the two libraries read differently is translated; one that is not known is an
 * error. */
enum status regex_create(const char *pattern, size_t length, bool literal, const char *origin,
                         const char *key, struct regex **regex, struct error *error);
void regex_destroy(struct regex *regex);
/* The first match at or after `from` in text (valid UTF-8; `length` bytes). The text before `from`
 * is seen by look-behinds. */
enum status regex_find(struct regex *regex, const char *text, size_t length, size_t from,
                       bool *found, size_t *begin, size_t *end, struct error *error);

/* Oniguruma's pattern in PCRE2's words, malloc'ed and NUL ended. */
enum status regex_translate(const char *pattern, size_t length, const char *origin, const char *key,
                            char **translated, size_t *translated_length, struct error *error);

#endif
