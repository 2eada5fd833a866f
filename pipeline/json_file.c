#include "pipeline/json_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static enum status write_file(const json_t *root, const char *file, unsigned digits,
                              struct error *error) {
    FILE *out = fopen(file, "w");
    if (!out)
        return error_set(error, STATUS_FAILED, "%s: %m", file);
    const int written =
        json_dumpf(root, out, JSON_SORT_KEYS | JSON_INDENT(2) | JSON_REAL_PRECISION(digits));
    const int ended = fputc('\n', out);
    if (fclose(out) != 0 || written != 0 || ended == EOF)
        return error_set(error, STATUS_FAILED, "%s: cannot be written: %m", file);
    return STATUS_OK;
}

enum status json_file_write(const json_t *root, const char *file, unsigned digits,
                            struct error *error) {
    struct stat found;
    if (stat(file, &found) == 0 && !S_ISREG(found.st_mode)) /* a terminal, a pipe */
        return write_file(root, file, digits, error);
    char *temporary = NULL;
    if (asprintf(&temporary, "%s.tmp", file) < 0)
        return error_set(error, STATUS_FAILED, "%s: out of memory", file);
    enum status status = write_file(root, temporary, digits, error);
    if (status == STATUS_OK && rename(temporary, file) != 0)
        status = error_set(error, STATUS_FAILED, "%s: %m", file);
    if (status != STATUS_OK)
        unlink(temporary);
    free(temporary);
    return status;
}
