#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "io/checkpoint_internal.h"

enum { SUM_DIGITS = 64, PATH_OFFSET = SUM_DIGITS + 2 };
static const char attributes_suffix[] = "@attributes";

enum status checkpoint_manifest_add(struct checkpoint_manifest *manifest, const char *path,
                                    const char *suffix, const char *sum, struct error *error) {
    if (manifest->count == manifest->capacity) {
        const size_t capacity = manifest->capacity ? 2 * manifest->capacity : 64;
        struct checkpoint_manifest_line *larger =
            realloc(manifest->lines, capacity * sizeof *larger);
        if (!larger)
            return error_set(error, STATUS_FAILED, "out of memory for the manifest");
        manifest->lines = larger;
        manifest->capacity = capacity;
    }
    struct checkpoint_manifest_line line = {.path = checkpoint_text("%s%s", path, suffix)};
    if (!line.path)
        return error_set(error, STATUS_FAILED, "out of memory for the manifest");
    memcpy(line.sum, sum, sizeof line.sum);
    manifest->lines[manifest->count++] = line;
    return STATUS_OK;
}

/* Where the path leads through a link to a part, the part is opened for reading alone: HDF5 would
 * write to it otherwise. */
static hid_t open_for_reading(hid_t file, const char *path) {
    const hid_t access = H5Pcreate(H5P_LINK_ACCESS);
    const hid_t object = H5Pset_elink_acc_flags(access, H5F_ACC_RDONLY) < 0
                             ? H5I_INVALID_HID
                             : H5Oopen(file, path, access);
    H5Pclose(access);
    return object;
}

enum status checkpoint_manifest_add_attributes(struct checkpoint_manifest *manifest, hid_t file,
                                               const char *path, struct error *error) {
    const hid_t object = open_for_reading(file, path);
    if (object < 0)
        return error_set(error, STATUS_FAILED, "%s: cannot be opened", path);
    char sum[65];
    bool any = false;
    struct error reason;
    enum status status = checkpoint_attributes_digest(object, sum, &any, &reason);
    if (status != STATUS_OK)
        error_set(error, status, "%s: %s", path, reason.message);
    else if (any)
        status = checkpoint_manifest_add(manifest, path, attributes_suffix, sum, error);
    H5Oclose(object);
    return status;
}

static int compare_lines(const void *left, const void *right) {
    const struct checkpoint_manifest_line *a = left, *b = right;
    return strcmp(a->path, b->path);
}

void checkpoint_manifest_sort(struct checkpoint_manifest *manifest) {
    if (manifest->count > 0)
        qsort(manifest->lines, manifest->count, sizeof *manifest->lines, compare_lines);
}

/* The first line that is not before path + suffix. */
static size_t lower_bound(const struct checkpoint_manifest *manifest, const char *path,
                          const char *suffix) {
    const size_t length = strlen(path);
    size_t low = 0, high = manifest->count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        int order = strncmp(manifest->lines[middle].path, path, length);
        if (order == 0)
            order = strcmp(manifest->lines[middle].path + length, suffix);
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

ptrdiff_t checkpoint_manifest_find(const struct checkpoint_manifest *manifest, const char *path,
                                   const char *suffix) {
    const size_t length = strlen(path), index = lower_bound(manifest, path, suffix);
    const bool found = index < manifest->count &&
                       strncmp(manifest->lines[index].path, path, length) == 0 &&
                       strcmp(manifest->lines[index].path + length, suffix) == 0;
    return found ? (ptrdiff_t)index : -1;
}

bool checkpoint_manifest_has_below(const struct checkpoint_manifest *manifest, const char *group) {
    const size_t length = strlen(group), index = lower_bound(manifest, group, "/");
    return index < manifest->count && strncmp(manifest->lines[index].path, group, length) == 0 &&
           manifest->lines[index].path[length] == '/';
}

bool checkpoint_manifest_is_attributes(const struct checkpoint_manifest_line *line) {
    const size_t length = strlen(line->path), suffix = sizeof attributes_suffix - 1;
    return length > suffix && strcmp(line->path + length - suffix, attributes_suffix) == 0;
}

/* The lines as the file has them: of one width, padded with NUL. */
static char *join_lines(const struct checkpoint_manifest *manifest, size_t width) {
    char *text = calloc(manifest->count, width);
    for (size_t i = 0; text && i < manifest->count; i++) {
        char *line = text + i * width;
        memcpy(line, manifest->lines[i].sum, SUM_DIGITS);
        memset(line + SUM_DIGITS, ' ', 2);
        memcpy(line + PATH_OFFSET, manifest->lines[i].path, strlen(manifest->lines[i].path));
    }
    return text;
}

enum status checkpoint_manifest_write(struct checkpoint_manifest *manifest, hid_t file,
                                      const char *file_name, struct error *error) {
    checkpoint_manifest_sort(manifest);
    size_t width = 0;
    for (size_t i = 0; i < manifest->count; i++) {
        const size_t length = PATH_OFFSET + strlen(manifest->lines[i].path) + 1;
        width = length > width ? length : width;
    }
    struct checkpoint_shape shape;
    const int64_t count = (int64_t)manifest->count;
    enum status status = checkpoint_shape_set(&shape, CHECKPOINT_TEXT, 1, &count, width, false,
                                              CHECKPOINT_NONE, "/manifest", error);
    if (status != STATUS_OK)
        return status;
    char *text = join_lines(manifest, width);
    if (!text)
        return error_set(error, STATUS_FAILED, "%s: out of memory for the manifest", file_name);
    const hid_t dataset = checkpoint_shape_create_dataset(&shape, file, "/manifest");
    const hid_t type = dataset < 0 ? dataset : H5Dget_type(dataset);
    if (dataset < 0 || H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) < 0)
        status = checkpoint_hdf5_error(error, STATUS_FAILED, file_name, "write", "/manifest");
    H5Tclose(type);
    if (dataset >= 0 && H5Dclose(dataset) < 0 && status == STATUS_OK)
        status = checkpoint_hdf5_error(error, STATUS_FAILED, file_name, "write", "/manifest");
    free(text);
    return status;
}

/* Cut one line of `width` bytes into sum and path; false when it is not of this form. */
static bool parse_line(const char *text, size_t width, char sum[65], char *path) {
    if (width <= PATH_OFFSET || text[SUM_DIGITS] != ' ' || text[SUM_DIGITS + 1] != ' ' ||
        text[PATH_OFFSET] != '/')
        return false;
    for (size_t i = 0; i < SUM_DIGITS; i++)
        if (!isxdigit((unsigned char)text[i]))
            return false;
    memcpy(sum, text, SUM_DIGITS);
    sum[SUM_DIGITS] = '\0';
    const size_t length = strnlen(text + PATH_OFFSET, width - PATH_OFFSET);
    memcpy(path, text + PATH_OFFSET, length);
    path[length] = '\0';
    return true;
}

struct text_sink {
    char *text; /* room for all */
    size_t bytes;
};

static void sink_text(void *context, const void *data, size_t bytes) {
    struct text_sink *sink = context;
    memcpy(sink->text + sink->bytes, data, bytes);
    sink->bytes += bytes;
}

static enum status parse_lines(struct checkpoint_manifest *manifest, hid_t dataset,
                               const struct checkpoint_shape *shape, struct error *error) {
    const size_t width = shape->text_bytes;
    enum status status = checkpoint_dataset_check_storage(dataset, shape, error);
    if (status != STATUS_OK)
        return status;
    struct text_sink sink = {malloc(checkpoint_shape_bytes(shape)), 0};
    if (!sink.text)
        return error_set(error, STATUS_FAILED, "out of memory");
    status = checkpoint_dataset_stream(dataset, shape, sink_text, &sink, error);
    for (int64_t i = 0; i < shape->rows && status == STATUS_OK; i++) {
        char sum[65], path[CHECKPOINT_MAX_PATH + 32];
        if (!parse_line(sink.text + (size_t)i * width, width, sum, path))
            status = error_set(error, STATUS_INPUT, "line %lld is not \"<sha256>  <path>\"",
                               (long long)i + 1);
        else
            status = checkpoint_manifest_add(manifest, path, "", sum, error);
    }
    free(sink.text);
    return status;
}

enum status checkpoint_manifest_read(struct checkpoint_manifest *manifest, hid_t file,
                                     const char *file_name, struct error *error) {
    *manifest = (struct checkpoint_manifest){NULL, 0, 0};
    const hid_t dataset = H5Dopen2(file, "/manifest", H5P_DEFAULT);
    if (dataset < 0)
        return error_set(error, STATUS_INPUT,
                         "%s: no /manifest: not a checkpoint of this program, or damaged",
                         file_name);
    struct checkpoint_shape shape;
    struct error reason;
    enum status status = checkpoint_shape_read(&shape, dataset, &reason);
    if (status == STATUS_OK && (shape.type != CHECKPOINT_TEXT || shape.rank != 1 ||
                                shape.text_bytes > PATH_OFFSET + CHECKPOINT_MAX_PATH + 16))
        status = error_set(&reason, STATUS_INPUT, "it is no list of lines");
    if (status == STATUS_OK)
        status = parse_lines(manifest, dataset, &shape, &reason);
    H5Dclose(dataset);
    if (status != STATUS_OK) {
        checkpoint_manifest_free(manifest);
        return error_set(error, status, "%s: /manifest is damaged: %.800s", file_name,
                         reason.message);
    }
    checkpoint_manifest_sort(manifest);
    return STATUS_OK;
}

void checkpoint_manifest_free(struct checkpoint_manifest *manifest) {
    for (size_t i = 0; i < manifest->count; i++)
        free(manifest->lines[i].path);
    free(manifest->lines);
    *manifest = (struct checkpoint_manifest){NULL, 0, 0};
}
