/* A JSON file that appears whole or not at all. */
#ifndef FPTQ_PIPELINE_JSON_FILE_H
#define FPTQ_PIPELINE_JSON_FILE_H

#include <jansson.h>

#include "io/status.h"

/* Members sorted, numbers with `digits` digits. Under a temporary name first, but for what is no
 * regular file (a terminal, a pipe). */
enum status json_file_write(const json_t *root, const char *file, unsigned digits,
                            struct error *error);

#endif
