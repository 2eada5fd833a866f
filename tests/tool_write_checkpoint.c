/* tool_write_checkpoint OUTPUT.h5 none|zstd single|sharded [SHIFT]: a small checkpoint of known
 * content for the tests that look at it with other tools. /w: int4 [2500, 501], element e is (e +
 * SHIFT) % 16 - 8 (two chunks, the second an edge); /b: bf16 [64], element i is 1.5 * 2^(i - 32).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/checkpoint.h"

enum { ROWS = 2500, COLUMNS = 501, VALUES = 64 };

static enum status write_weights(struct checkpoint_part *part, int shift, struct error *error) {
    int8_t *values = malloc(ROWS * COLUMNS);
    if (!values)
        return error_set(error, STATUS_FAILED, "out of memory");
    for (int i = 0; i < ROWS * COLUMNS; i++)
        values[i] = (int8_t)((i + shift) % 16 - 8);
    const enum status status = checkpoint_part_write(
        part, "/w", CHECKPOINT_INT4, 2, (const int64_t[]){ROWS, COLUMNS}, values, error);
    free(values);
    return status;
}

static enum status write_floats(struct checkpoint_part *part, struct error *error) {
    uint16_t values[VALUES];
    for (int i = 0; i < VALUES; i++)
        values[i] = (uint16_t)((127 + i - 32) << 7 | 0x40);
    const enum status status = checkpoint_part_write(part, "/b", CHECKPOINT_BF16, 1,
                                                     (const int64_t[]){VALUES}, values, error);
    return status != STATUS_OK
               ? status
               : checkpoint_part_attribute_text(part, "/b", "policy", "static", error);
}

static enum status write_checkpoint(const char *output, enum checkpoint_compression compression,
                                    enum checkpoint_layout layout, int shift, struct error *error) {
    const char *const names[2] = {"weights", "floats"};
    enum status status = STATUS_OK;
    for (int i = 0; i < 2 && status == STATUS_OK; i++) {
        struct checkpoint_part *part;
        status = checkpoint_part_create(output, names[i], compression, &part, error);
        if (status != STATUS_OK)
            break;
        status = i == 0 ? write_weights(part, shift, error) : write_floats(part, error);
        if (status == STATUS_OK)
            status = checkpoint_part_finish(part, error);
        else
            checkpoint_part_abandon(part);
    }
    return status == STATUS_OK ? checkpoint_assemble(output, names, 2, layout, NULL, error)
                               : status;
}

int main(int count, char **arguments) {
    if (count < 4) {
        fprintf(stderr, "usage: %s OUTPUT.h5 none|zstd single|sharded [SHIFT]\n", arguments[0]);
        return 2;
    }
    struct error error;
    const enum status status = write_checkpoint(
        arguments[1], strcmp(arguments[2], "zstd") == 0 ? CHECKPOINT_ZSTD : CHECKPOINT_NONE,
        strcmp(arguments[3], "sharded") == 0 ? CHECKPOINT_SHARDED : CHECKPOINT_SINGLE,
        count > 4 ? atoi(arguments[4]) : 0, &error);
    if (status != STATUS_OK)
        fprintf(stderr, "%s\n", error.message);
    return (int)status;
}
