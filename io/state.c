#include "io/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/checkpoint_internal.h"

static const char magic[] = "fptq-state 1\n";
enum { MAGIC = sizeof magic - 1, SUM = 64, HEAD = MAGIC + SUM + 1 };

static char *record_path(const char *output, const char *record, const char *ending) {
    char *folder = checkpoint_parts_folder(output);
    char *path = folder ? checkpoint_text("%s/%s.state%s", folder, record, ending) : NULL;
    free(folder);
    return path;
}

/* Two runs with one state would spoil it. */
enum status state_begin(const char *output, int *lock, struct error *error) {
    *lock = -1;
    char *folder = checkpoint_parts_folder(output);
    enum status status = STATUS_OK;
    if (!folder)
        status = error_set(error, STATUS_FAILED, "%s: out of memory", output);
    else if (mkdir(folder, 0777) && errno != EEXIST)
        status = error_set(error, STATUS_INPUT, "%s: cannot make the folder of its state, %s: %s",
                           output, folder, strerror(errno));
    else
        *lock = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    if (*lock < 0 || flock(*lock, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
        return status;
    close(*lock);
    *lock = -1;
    return error_set(error, STATUS_INPUT, "%s: another run is writing it", output);
}

static bool write_all(int file, const void *data, size_t bytes) {
    const char *at = data;
    while (bytes > 0) {
        const ssize_t written = write(file, at, bytes);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            errno = written < 0 ? errno : ENOSPC;
            return false;
        }
        at += written;
        bytes -= (size_t)written;
    }
    return true;
}

/* Write and sync the temporary file; false with errno where that fails. */
static bool write_temporary(const char *path, const char owner[65],
                            const struct state_piece *pieces, int count) {
    char sum[SUM + 1];
    struct digest *digest = digest_create();
    if (!digest) {
        errno = ENOMEM;
        return false;
    }
    digest_update(digest, magic, MAGIC);
    digest_update(digest, owner, SUM);
    digest_update(digest, "\n", 1);
    for (int i = 0; i < count; i++)
        digest_update(digest, pieces[i].data, pieces[i].bytes);
    digest_finish(digest, sum);
    const int file = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
    if (file < 0)
        return false;
    bool written =
        write_all(file, magic, MAGIC) && write_all(file, owner, SUM) && write_all(file, "\n", 1);
    for (int i = 0; written && i < count; i++)
        written = write_all(file, pieces[i].data, pieces[i].bytes);
    written = written && write_all(file, sum, SUM) && fsync(file) == 0;
    const int number = errno;
    const bool closed = close(file) == 0;
    if (!written)
        errno = number;
    return written && closed;
}

/* The rename reaches the disk with the folder; where a file system cannot sync a folder, later. */
static void sync_folder(const char *output) {
    char *folder = checkpoint_parts_folder(output);
    const int file = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (file >= 0) {
        fsync(file);
        close(file);
    }
    free(folder);
}

enum status state_write_pieces(const char *output, const char *record, const char owner[65],
                               const struct state_piece *pieces, int count, struct error *error) {
    char *temporary = record_path(output, record, ".tmp");
    char *final = record_path(output, record, "");
    enum status status = STATUS_OK;
    if (!temporary || !final) {
        status = error_set(error, STATUS_FAILED, "%s: out of memory", output);
    } else if (!write_temporary(temporary, owner, pieces, count) || rename(temporary, final) != 0) {
        status = error_set(error, STATUS_FAILED, "%s: the state cannot be saved: %s%s", temporary,
                           strerror(errno),
                           errno == ENOSPC || errno == EDQUOT ? " (the disk is full)" : "");
        unlink(temporary);
    } else {
        sync_folder(output);
    }
    free(temporary);
    free(final);
    return status;
}

enum status state_write(const char *output, const char *record, const char owner[65],
                        const void *data, size_t bytes, struct error *error) {
    const struct state_piece piece = {data, bytes};
    return state_write_pieces(output, record, owner, &piece, 1, error);
}

/* The whole file; NULL with errno where that fails. */
static unsigned char *read_whole(const char *path, size_t *bytes) {
    struct stat found;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return NULL;
    unsigned char *content = NULL;
    size_t done = 0;
    if (fstat(file, &found) == 0 && S_ISREG(found.st_mode))
        content = malloc((size_t)found.st_size + 1);
    while (content && done < (size_t)found.st_size) {
        const ssize_t got = read(file, content + done, (size_t)found.st_size - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            free(content);
            content = NULL;
        }
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    const int number = errno;
    close(file);
    errno = number;
    *bytes = done;
    return content;
}

/* What is wrong with a record's bytes, or NULL. */
static const char *fault_of(const unsigned char *content, size_t bytes, const char owner[65]) {
    char sum[SUM + 1];
    if (bytes < HEAD + SUM || memcmp(content, magic, MAGIC) != 0)
        return "is damaged or no state of this version";
    digest_bytes(content, bytes - SUM, sum);
    if (memcmp(content + bytes - SUM, sum, SUM) != 0)
        return "is damaged: its checksum is wrong";
    return memcmp(content + MAGIC, owner, SUM) != 0 ? "belongs to another run" : NULL;
}

enum status state_read(const char *output, const char *record, const char owner[65], void **data,
                       size_t *bytes, struct error *error) {
    *data = NULL;
    *bytes = 0;
    char *path = record_path(output, record, "");
    if (!path)
        return error_set(error, STATUS_FAILED, "%s: out of memory", output);
    size_t length = 0;
    errno = 0;
    unsigned char *content = read_whole(path, &length);
    enum status status = STATUS_OK;
    const char *fault = content ? fault_of(content, length, owner) : NULL;
    if (!content && errno != ENOENT)
        status = error_set(error, STATUS_INPUT, "%s: cannot be read: %s", path, strerror(errno));
    else if (fault)
        status = error_set(error, STATUS_INPUT, "%s: %s", path, fault);
    free(path);
    if (!content || status) {
        free(content);
        return status;
    }
    *bytes = length - HEAD - SUM;
    memmove(content, content + HEAD, *bytes);
    *data = content;
    return STATUS_OK;
}

static int compare_names(const void *left, const void *right) {
    return strcmp(left, right);
}

/* The record's name when `file` is a record's, with the prefix; its length, or 0. */
static size_t record_length(const char *file, const char *prefix, const char *ending) {
    const size_t length = strlen(file), tail = strlen(ending);
    if (length <= tail || length - tail >= STATE_NAME || strcmp(file + length - tail, ending) != 0)
        return 0;
    return strncmp(file, prefix, strlen(prefix)) == 0 ? length - tail : 0;
}

enum status state_list(const char *output, const char *prefix, char (**names)[STATE_NAME],
                       int *count, struct error *error) {
    *names = NULL;
    *count = 0;
    char *path = checkpoint_parts_folder(output);
    DIR *folder = path ? opendir(path) : NULL;
    enum status status = STATUS_OK;
    if (!folder)
        status = error_set(error, STATUS_INPUT, "%s: %s", path ? path : output, strerror(errno));
    int capacity = 0;
    for (const struct dirent *entry; !status && (entry = readdir(folder));) {
        const size_t length = record_length(entry->d_name, prefix, ".state");
        if (length == 0)
            continue;
        if (*count == capacity) {
            capacity = 2 * capacity + 16;
            char(*larger)[STATE_NAME] = realloc(*names, (size_t)capacity * sizeof *larger);
            if (!larger) {
                status = error_set(error, STATUS_FAILED, "%s: out of memory", path);
                break;
            }
            *names = larger;
        }
        memcpy((*names)[*count], entry->d_name, length);
        (*names)[(*count)++][length] = '\0';
    }
    if (folder)
        closedir(folder);
    free(path);
    if (status) {
        free(*names);
        *names = NULL;
        *count = 0;
    } else if (*count > 0) {
        qsort(*names, (size_t)*count, sizeof **names, compare_names);
    }
    return status;
}

void state_remove(const char *output, const char *record) {
    char *path = record_path(output, record, "");
    if (path)
        unlink(path);
    free(path);
}

void state_clear(const char *output) {
    char *path = checkpoint_parts_folder(output);
    DIR *folder = path ? opendir(path) : NULL;
    for (const struct dirent *entry; folder && (entry = readdir(folder));)
        if (record_length(entry->d_name, "", ".state") ||
            record_length(entry->d_name, "", ".state.tmp"))
            unlinkat(dirfd(folder), entry->d_name, 0);
    if (folder)
        closedir(folder);
    free(path);
}

void state_remove_all(const char *output) {
    state_clear(output);
    char *path = checkpoint_parts_folder(output);
    if (path)
        rmdir(path);
    free(path);
}
