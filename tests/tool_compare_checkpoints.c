/* tool_compare_checkpoints A.h5 B.h5: whether two checkpoints hold the same: the manifest, every
 * dataset decoded (type, shape, elements), every object's attributes; not what is under /run.
 * Prints the first difference. Exit status 0: the same, 1: different, 2: one cannot be read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/checkpoint_read.h"

static int unreadable(const struct error *error) {
    fprintf(stderr, "%s\n", error->message);
    return 2;
}

static int differ(const char *path, const char *what) {
    printf("%s: %s\n", path, what);
    return 1;
}

static int compare_attributes(const struct checkpoint *const checkpoints[2], const char *line) {
    char object[1100], *lines[2] = {NULL, NULL};
    struct error error;
    snprintf(object, sizeof object, "%.*s", (int)(strrchr(line, '@') - line), line);
    for (int i = 0; i < 2; i++)
        if (checkpoint_attribute_lines(checkpoints[i], object, &lines[i], &error) != STATUS_OK) {
            free(lines[0]);
            return unreadable(&error);
        }
    const int result = strcmp(lines[0], lines[1]) ? differ(object, "attributes differ") : 0;
    free(lines[0]);
    free(lines[1]);
    return result;
}

static int compare_elements(const struct checkpoint *const checkpoints[2], const char *path,
                            size_t bytes) {
    struct error error;
    unsigned char *data[2] = {malloc(bytes), malloc(bytes)};
    int result = data[0] && data[1] ? 0 : 2;
    for (int i = 0; i < 2 && result == 0; i++)
        if (checkpoint_read(checkpoints[i], path, data[i], &error) != STATUS_OK)
            result = unreadable(&error);
    if (result == 0 && memcmp(data[0], data[1], bytes) != 0) {
        size_t at = 0;
        while (data[0][at] == data[1][at])
            at++;
        char what[100];
        snprintf(what, sizeof what, "elements differ, first in byte %zu of %zu", at, bytes);
        result = differ(path, what);
    }
    free(data[0]);
    free(data[1]);
    return result;
}

static int compare_dataset(const struct checkpoint *const checkpoints[2], const char *path) {
    struct error error;
    struct checkpoint_dataset dataset[2];
    for (int i = 0; i < 2; i++)
        if (checkpoint_describe(checkpoints[i], path, &dataset[i], &error) != STATUS_OK)
            return unreadable(&error);
    if (dataset[0].type != dataset[1].type || dataset[0].rank != dataset[1].rank ||
        memcmp(dataset[0].dimensions, dataset[1].dimensions, sizeof dataset[0].dimensions) != 0)
        return differ(path, "type or shape differ");
    return compare_elements(checkpoints, path, dataset[0].bytes);
}

/* The elements before the manifest's sum: they say more. */
static int compare_line(const struct checkpoint *const checkpoints[2], size_t index) {
    const char *path = checkpoint_line_path(checkpoints[0], index);
    const char *other = checkpoint_line_path(checkpoints[1], index);
    const int order = strcmp(path, other);
    if (order != 0)
        return differ(order < 0 ? path : other, "in one of the two only");
    const size_t length = strlen(path);
    const int result = length > 11 && strcmp(path + length - 11, "@attributes") == 0
                           ? compare_attributes(checkpoints, path)
                           : compare_dataset(checkpoints, path);
    if (result == 0 && strcmp(checkpoint_line_sum(checkpoints[0], index),
                              checkpoint_line_sum(checkpoints[1], index)) != 0)
        return differ(path, "checksums differ");
    return result;
}

static int compare(const struct checkpoint *const checkpoints[2]) {
    const size_t counts[2] = {checkpoint_line_count(checkpoints[0]),
                              checkpoint_line_count(checkpoints[1])};
    const size_t common = counts[0] < counts[1] ? counts[0] : counts[1];
    int result = 0;
    for (size_t i = 0; i < common && result == 0; i++)
        result = compare_line(checkpoints, i);
    if (result == 0 && counts[0] != counts[1])
        result = differ(checkpoint_line_path(checkpoints[counts[0] < counts[1]], common),
                        "in one of the two only");
    return result;
}

int main(int count, char **arguments) {
    struct checkpoint *checkpoints[2] = {NULL, NULL};
    struct error error;
    if (count != 3) {
        fprintf(stderr, "usage: %s A.h5 B.h5\n", arguments[0]);
        return 2;
    }
    int result = 0;
    for (int i = 0; i < 2 && result == 0; i++)
        if (checkpoint_open(arguments[i + 1], &checkpoints[i], &error) != STATUS_OK)
            result = unreadable(&error);
    if (result == 0)
        result = compare((const struct checkpoint *const[2]){checkpoints[0], checkpoints[1]});
    checkpoint_close(checkpoints[0]);
    checkpoint_close(checkpoints[1]);
    return result;
}
