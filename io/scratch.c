#include "io/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Without a name from the start, or, where the file system cannot do that, from right after. */
static int open_unnamed(const char *folder) {
    const int file = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return file;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/.fptq-scratch-XXXXXX", folder);
    const int named = mkostemp(path, O_CLOEXEC);
    if (named >= 0)
        unlink(path);
    return named;
}

static enum status fail(const struct scratch *scratch, const char *what, int cause,
                        struct error *error) {
    return error_set(error, STATUS_FAILED, "%s: a scratch file %s: %s", scratch->folder, what,
                     cause ? strerror(cause) : "it is cut short");
}

static enum status create_file(const char *folder, size_t bytes, struct scratch *scratch,
                               struct error *error) {
    scratch->folder = strdup(folder);
    if (!scratch->folder)
        return error_set(error, STATUS_FAILED, "%s: no memory for a scratch file", folder);
    scratch->file = open_unnamed(folder);
    if (scratch->file < 0)
        return fail(scratch, "cannot be made", errno, error);
    if (bytes && fallocate(scratch->file, 0, 0, (off_t)bytes) && errno != EOPNOTSUPP) {
        char what[100];
        snprintf(what, sizeof what, "of %zu bytes cannot be made", bytes);
        return fail(scratch, what, errno, error);
    }
    return STATUS_OK;
}

enum status scratch_create(const char *folder, size_t bytes, struct scratch *scratch,
                           struct error *error) {
    *scratch = (struct scratch){.file = -1};
    if (folder) {
        const enum status status = create_file(folder, bytes, scratch, error);
        if (status)
            scratch_close(scratch);
        return status;
    }
    scratch->memory = malloc(bytes ? bytes : 1);
    return scratch->memory
               ? STATUS_OK
               : error_set(error, STATUS_FAILED, "no memory for %zu bytes of a wave", bytes);
}

enum status scratch_write(const struct scratch *scratch, size_t at, const void *data, size_t bytes,
                          struct error *error) {
    if (scratch->memory) {
        memcpy(scratch->memory + at, data, bytes);
        return STATUS_OK;
    }
    for (size_t done = 0; done < bytes;) {
        const ssize_t count = pwrite(scratch->file, (const unsigned char *)data + done,
                                     bytes - done, (off_t)(at + done));
        if (count < 0 && errno != EINTR)
            return fail(scratch, "cannot be written", errno, error);
        done += count > 0 ? (size_t)count : 0;
    }
    return STATUS_OK;
}

enum status scratch_read(const struct scratch *scratch, size_t at, void *data, size_t bytes,
                         struct error *error) {
    if (scratch->memory) {
        memcpy(data, scratch->memory + at, bytes);
        return STATUS_OK;
    }
    for (size_t done = 0; done < bytes;) {
        const ssize_t count =
            pread(scratch->file, (unsigned char *)data + done, bytes - done, (off_t)(at + done));
        if (count == 0 || (count < 0 && errno != EINTR))
            return fail(scratch, "cannot be read", count ? errno : 0, error);
        done += count > 0 ? (size_t)count : 0;
    }
    return STATUS_OK;
}

void scratch_close(struct scratch *scratch) {
    free(scratch->memory);
    if (scratch->folder && scratch->file >= 0)
        close(scratch->file);
    free(scratch->folder);
    *scratch = (struct scratch){.file = -1};
}
