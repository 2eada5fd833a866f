#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/checkpoint_internal.h"
#include "io/hdf5_zstd_filter.h"

/* Files are closed here, or given up: HDF5 has nothing to do at exit, and would crash there over a
 * file that it could not write. (Refused, without harm, from the second call on.) */
enum status checkpoint_hdf5_prepare(struct error *error) {
    H5dont_atexit();
    if (H5open() < 0 || H5Eset_auto2(H5E_DEFAULT, NULL, NULL) < 0 ||
        H5Zregister(hdf5_zstd_filter()) < 0)
        return error_set(error, STATUS_FAILED, "HDF5 cannot be initialised");
    return STATUS_OK;
}

/* The first record walking upward is the innermost one: the fault itself. */
static herr_t innermost_error(unsigned index, const H5E_error2_t *record, void *context) {
    if (index == 0 && record->desc)
        snprintf(context, 300, "%s", record->desc);
    return 0;
}

enum status checkpoint_hdf5_error(struct error *error, enum status status, const char *file,
                                  const char *action, const char *object) {
    char reason[300] = "no reason given by HDF5";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost_error, reason);
    const char *number_text = strstr(reason, "errno = ");
    const int number = number_text ? atoi(number_text + strlen("errno = ")) : 0;
    if (number != 0)
        snprintf(reason, sizeof reason, "%s%s", strerror(number),
                 number == ENOSPC || number == EDQUOT ? " (the disk is full)" : "");
    return error_set(error, status, "%s: cannot %s%s%s: %s", file, action, *object ? " " : "",
                     object, reason);
}

/* No file locks: a file has one writer, under a temporary name, and many network file systems have
 * none. Everything closes with the file, so that no path of failure leaves it open. */
static hid_t file_access(void) {
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access >= 0 && (H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0 ||
                        H5Pset_file_locking(access, false, true) < 0)) {
        H5Pclose(access);
        return H5I_INVALID_HID;
    }
    return access;
}

enum status checkpoint_file_create(const char *path, hid_t *file, struct error *error) {
    *file = H5I_INVALID_HID;
    if (unlink(path) != 0 && errno != ENOENT)
        return error_set(error, STATUS_FAILED, "%s: cannot remove what a stopped run left: %s",
                         path, strerror(errno));
    const hid_t access = file_access();
    const hid_t creation = H5Pcreate(H5P_FILE_CREATE);
    enum status status = STATUS_OK;
    if (access < 0 || creation < 0 || H5Pset_obj_track_times(creation, false) < 0)
        status = checkpoint_hdf5_error(error, STATUS_FAILED, path, "be created", "");
    if (status == STATUS_OK) {
        *file = H5Fcreate(path, H5F_ACC_EXCL, creation, access);
        if (*file < 0)
            status = checkpoint_hdf5_error(error, STATUS_FAILED, path, "create the file", "");
    }
    H5Pclose(creation);
    H5Pclose(access);
    return status;
}

enum status checkpoint_file_open(const char *path, hid_t *file, struct error *error) {
    *file = H5I_INVALID_HID;
    struct stat information;
    if (stat(path, &information) != 0)
        return error_set(error, STATUS_INPUT, "%s: %s", path, strerror(errno));
    if (!S_ISREG(information.st_mode))
        return error_set(error, STATUS_INPUT, "%s: not a file", path);
    if (H5Fis_hdf5(path) <= 0)
        return error_set(error, STATUS_INPUT, "%s: not an HDF5 file (or cut off at its start)",
                         path);
    const hid_t access = file_access();
    *file = access < 0 ? H5I_INVALID_HID : H5Fopen(path, H5F_ACC_RDONLY, access);
    const enum status status =
        *file >= 0 ? STATUS_OK
                   : checkpoint_hdf5_error(error, STATUS_INPUT, path, "open the file", "");
    H5Pclose(access);
    return status;
}

enum status checkpoint_file_sync(const char *path, struct error *error) {
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    const bool synced = descriptor >= 0 && fsync(descriptor) == 0;
    const int number = errno;
    if (descriptor >= 0)
        close(descriptor);
    if (!synced)
        return error_set(error, STATUS_FAILED, "%s: cannot write to the disk: %s", path,
                         strerror(number));
    return STATUS_OK;
}

enum status checkpoint_file_commit(const char *temporary, const char *final, struct error *error) {
    enum status status = checkpoint_file_sync(temporary, error);
    if (status != STATUS_OK)
        return status;
    if (rename(temporary, final) != 0)
        return error_set(error, STATUS_FAILED, "%s: cannot rename to %s: %s", temporary, final,
                         strerror(errno));
    const char *slash = strrchr(final, '/');
    char *folder = slash == final ? checkpoint_text("/")
                   : slash        ? checkpoint_text("%.*s", (int)(slash - final), final)
                                  : checkpoint_text(".");
    if (!folder)
        return error_set(error, STATUS_FAILED, "%s: out of memory", final);
    status = checkpoint_file_sync(folder, error);
    if (status != STATUS_OK)
        unlink(final); /* nothing that may be lost stays under the final name */
    free(folder);
    return status;
}

/* HDF5 frees the file even where closing fails, but keeps its number: closing that again crashes.
 */
bool checkpoint_file_close(hid_t *file) {
    const bool closed = H5Fclose(*file) >= 0;
    *file = H5I_INVALID_HID;
    return closed;
}

/* Closing writes what HDF5 still holds, which fails on a full disk and would leave the file open:
 * the room that the file itself gives up serves it. */
void checkpoint_file_discard(hid_t file, const char *path) {
    if (file >= 0) {
        const int truncated = truncate(path, 0);
        (void)truncated; /* if it fails there is no more to be done */
        H5Fclose(file);
    }
    if (path)
        unlink(path);
}

char *checkpoint_text(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text;
    if (vasprintf(&text, format, arguments) < 0)
        text = NULL;
    va_end(arguments);
    return text;
}

char *checkpoint_parts_folder(const char *output) {
    const size_t length = strlen(output);
    const bool has_ending = length > 3 && strcmp(output + length - 3, ".h5") == 0;
    return checkpoint_text("%.*s.parts", (int)(has_ending ? length - 3 : length), output);
}

char *checkpoint_part_path(const char *output, const char *part) {
    char *folder = checkpoint_parts_folder(output);
    char *path = folder ? checkpoint_text("%s/%s.h5", folder, part) : NULL;
    free(folder);
    return path;
}

bool checkpoint_path_is_run(const char *path) {
    return strncmp(path, "/run", 4) == 0 && (path[4] == '\0' || path[4] == '/');
}
