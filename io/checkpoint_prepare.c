#include "io/checkpoint_prepare.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "io/checkpoint_internal.h"

static bool ends_with(const char *text, const char *ending) {
    const size_t length = strlen(text), tail = strlen(ending);
    return length > tail && !strcmp(text + length - tail, ending);
}

static void parts_folder(const char *output, char path[PATH_MAX]) {
    snprintf(path, PATH_MAX, "%.*s.parts", (int)strlen(output) - 3, output);
}

/* Try it out: permissions alone do not tell (read-only mounts, quotas, root). */
static enum status check_writable(const char *output, const char *parts, struct error *error) {
    if (mkdir(parts, 0777) && errno != EEXIST)
        return error_set(error, STATUS_INPUT, "%s: cannot make the folder of its parts, %s: %s",
                         output, parts, strerror(errno));
    char trial[PATH_MAX];
    snprintf(trial, sizeof trial, "%s.tmp", output);
    const int file = open(trial, O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
    if (file < 0)
        return error_set(error, STATUS_INPUT, "%s: cannot be written: %s", output, strerror(errno));
    close(file);
    unlink(trial);
    return STATUS_OK;
}

/* Whether NAME.h5 is a master whose datasets lie in the parts. */
static bool is_sharded(const char *output) {
    hid_t file;
    struct stat there;
    if (stat(output, &there) || checkpoint_file_open(output, &file, NULL))
        return false;
    H5L_info_t link;
    const bool external = H5Lget_info(file, "/config_json", &link, H5P_DEFAULT) >= 0 &&
                          link.type == H5L_TYPE_EXTERNAL;
    H5Fclose(file);
    return external;
}

/* Room on the disk for `bytes` more, less what the parts there take already. */
static enum status check_room(const char *output, const char *parts, int64_t bytes,
                              struct error *error) {
    struct statvfs disk;
    if (statvfs(parts, &disk) != 0)
        return STATUS_OK; /* cannot be told; the writes will */
    const double mebibyte = 1048576.0;
    const double free_bytes = (double)disk.f_bavail * (double)disk.f_frsize;
    const double needed = (double)(bytes - checkpoint_parts_bytes(output));
    if (needed <= free_bytes)
        return STATUS_OK;
    return error_set(error, STATUS_INPUT,
                     "%s: the disk is too full: about %.1f MiB are needed at most, %.1f MiB are "
                     "free (the run's state, parts, merged file; layout = \"sharded\" does without "
                     "the last)",
                     output, needed / mebibyte, free_bytes / mebibyte);
}

enum status checkpoint_prepare(const char *output, int64_t bytes, struct error *error) {
    struct stat there;
    if (!ends_with(output, ".h5"))
        return error_set(error, STATUS_INPUT,
                         "output.checkpoint is \"%s\", expected a name that ends in .h5", output);
    if (!stat(output, &there) && S_ISDIR(there.st_mode))
        return error_set(error, STATUS_INPUT, "%s: cannot be written: it is a folder", output);
    if (strlen(output) + 64 > PATH_MAX)
        return error_set(error, STATUS_INPUT, "output.checkpoint is too long a path");
    char parts[PATH_MAX];
    parts_folder(output, parts);
    enum status status = checkpoint_hdf5_prepare(error);
    if (!status)
        status = check_writable(output, parts, error);
    return status ? status : check_room(output, parts, bytes, error);
}

enum status checkpoint_clear(const char *output, bool temporary_only, int *removed,
                             struct error *error) {
    char parts[PATH_MAX];
    parts_folder(output, parts);
    *removed = 0;
    DIR *folder = opendir(parts);
    if (!folder)
        return error_set(error, STATUS_INPUT, "%s: %s", parts, strerror(errno));
    if (!temporary_only && is_sharded(output))
        unlink(output);
    for (const struct dirent *entry; (entry = readdir(folder));) {
        const char *name = entry->d_name;
        const bool temporary = ends_with(name, ".h5.tmp") || ends_with(name, ".state.tmp");
        const bool whole = ends_with(name, ".h5") || ends_with(name, ".state");
        if (temporary || (whole && !temporary_only))
            *removed += unlinkat(dirfd(folder), name, 0) == 0;
    }
    closedir(folder);
    return STATUS_OK;
}

int64_t checkpoint_parts_bytes(const char *output) {
    char parts[PATH_MAX], path[PATH_MAX + 512];
    int64_t bytes = 0;
    parts_folder(output, parts);
    DIR *folder = opendir(parts);
    if (!folder)
        return 0;
    for (const struct dirent *entry; (entry = readdir(folder));) {
        struct stat file;
        snprintf(path, sizeof path, "%s/%s", parts, entry->d_name);
        if (!stat(path, &file) && S_ISREG(file.st_mode))
            bytes += (int64_t)file.st_size;
    }
    closedir(folder);
    return bytes;
}
