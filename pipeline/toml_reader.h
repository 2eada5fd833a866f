/* TOML behind a C interface (toml++ does the work): a text becomes a flat list of values. */
#ifndef FPTQ_PIPELINE_TOML_READER_H
#define FPTQ_PIPELINE_TOML_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum toml_kind {
    TOML_SECTION, /* the table itself: key is "" */
    TOML_STRING,
    TOML_INTEGER,
    TOML_FLOAT,
    TOML_BOOLEAN,
    TOML_STRING_LIST,
    TOML_OTHER, /* a date, a nested table, a list of something else */
};

struct toml_value {
    char *section; /* "" for a key before the first section */
    char *key;
    int line; /* 1-based */
    enum toml_kind kind;
    char *string;
    int64_t integer;
    double number; /* of an integer too */
    bool boolean;
    char **list;
    int list_count;
};

struct toml_list {
    struct toml_value *values; /* (count) in the order of their lines */
    int count;
};

/* Parse `text` (UTF-8, `length` bytes). On a fault *line is the fault's line and error's message
 * says what is wrong, without the place: STATUS_INPUT for a text that is not TOML or a string with
 * a NUL in it, STATUS_FAILED when memory runs out. */
enum status toml_read(const char *text, size_t length, struct toml_list *list, int *line,
                      struct error *error);
void toml_free(struct toml_list *list);

#ifdef __cplusplus
}
#endif

#endif
