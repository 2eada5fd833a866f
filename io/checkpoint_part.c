#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/checkpoint_internal.h"

/* Smaller datasets written whole are contiguous: they are not worth a chunk index. */
static const size_t SMALLEST_CHUNKED_BYTES = 64 * 1024;

struct checkpoint_part {
    char *final, *temporary;
    hid_t file;
    enum checkpoint_compression compression;
    struct checkpoint_compressor *compressor;
    struct checkpoint_manifest manifest;   /* of datasets */
    struct checkpoint_manifest attributed; /* objects that have attributes; sums unused */
    bool failed;                           /* a write failed: the part cannot be finished */
    /* The dataset that is being written by rows; negative: none. */
    hid_t dataset;
    struct checkpoint_shape shape;
    char *path;
    int64_t next_row;
    struct digest *digest;
};

static enum status part_hdf5_error(struct checkpoint_part *part, const char *action,
                                   const char *object, struct error *error) {
    part->failed = true;
    return checkpoint_hdf5_error(error, STATUS_FAILED, part->temporary, action, object);
}

static enum status part_error(struct checkpoint_part *part, const char *object, const char *what,
                              struct error *error) {
    part->failed = true;
    return error_set(error, STATUS_FAILED, "%s: %s: %s", part->temporary, object, what);
}

static void close_rows(struct checkpoint_part *part) {
    char sum[65];
    if (part->dataset >= 0)
        H5Dclose(part->dataset);
    if (part->digest)
        digest_finish(part->digest, sum);
    free(part->path);
    part->dataset = H5I_INVALID_HID;
    part->digest = NULL;
    part->path = NULL;
}

static void part_free(struct checkpoint_part *part) {
    close_rows(part);
    checkpoint_compressor_destroy(part->compressor);
    checkpoint_manifest_free(&part->manifest);
    checkpoint_manifest_free(&part->attributed);
    free(part->final);
    free(part->temporary);
    free(part);
}

void checkpoint_part_abandon(struct checkpoint_part *part) {
    if (!part)
        return;
    close_rows(part);
    checkpoint_file_discard(part->file, part->temporary);
    part_free(part);
}

/* What is at the head of every file of the format. */
static enum status write_format(struct checkpoint_part *part, struct error *error) {
    const enum status status =
        checkpoint_part_attribute_text(part, "/", "format", CHECKPOINT_FORMAT, error);
    return status != STATUS_OK ? status
                               : checkpoint_part_attribute_integer(part, "/", "format_version",
                                                                   CHECKPOINT_VERSION, error);
}

static enum status make_folder(const char *output, struct error *error) {
    char *folder = checkpoint_parts_folder(output);
    if (!folder)
        return error_set(error, STATUS_FAILED, "%s: out of memory", output);
    enum status status = STATUS_OK;
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        status = error_set(error, STATUS_FAILED, "%s: cannot make the folder: %s", folder,
                           strerror(errno));
    free(folder);
    return status;
}

enum status checkpoint_part_create(const char *output, const char *part,
                                   enum checkpoint_compression compression,
                                   struct checkpoint_part **result, struct error *error) {
    *result = NULL;
    enum status status = checkpoint_hdf5_prepare(error);
    if (status == STATUS_OK)
        status = make_folder(output, error);
    if (status != STATUS_OK)
        return status;
    struct checkpoint_part *new_part = calloc(1, sizeof *new_part);
    if (!new_part)
        return error_set(error, STATUS_FAILED, "%s: out of memory", output);
    new_part->file = new_part->dataset = H5I_INVALID_HID;
    new_part->compression = compression;
    new_part->final = checkpoint_part_path(output, part);
    new_part->temporary = new_part->final ? checkpoint_text("%s.tmp", new_part->final) : NULL;
    status = new_part->temporary ? STATUS_OK
                                 : error_set(error, STATUS_FAILED, "%s: out of memory", output);
    if (status == STATUS_OK)
        status = checkpoint_compressor_create(compression, &new_part->compressor, error);
    if (status == STATUS_OK)
        status = checkpoint_file_create(new_part->temporary, &new_part->file, error);
    if (status == STATUS_OK)
        status = write_format(new_part, error);
    if (status != STATUS_OK) {
        checkpoint_part_abandon(new_part);
        return status;
    }
    *result = new_part;
    return STATUS_OK;
}

/* Refuse what would not fit the manifest, and a dataset inside another's rows. */
static enum status check_path(struct checkpoint_part *part, const char *path, struct error *error) {
    if (path[0] != '/' || strlen(path) > CHECKPOINT_MAX_PATH)
        return part_error(part, path, "not an absolute path of sensible length", error);
    if (part->dataset >= 0)
        return part_error(part, path, "another dataset is still being written", error);
    return STATUS_OK;
}

static enum status open_dataset(struct checkpoint_part *part, const char *path,
                                const struct checkpoint_shape *shape, struct error *error) {
    const hid_t dataset = checkpoint_shape_create_dataset(shape, part->file, path);
    if (dataset < 0)
        return part_hdf5_error(part, "make", path, error);
    part->dataset = dataset;
    part->shape = *shape;
    part->next_row = 0;
    part->path = strdup(path);
    part->digest = digest_create();
    if (part->path && part->digest)
        return STATUS_OK;
    close_rows(part);
    return part_error(part, path, "out of memory", error);
}

static enum status add_to_manifest(struct checkpoint_part *part, const char *path,
                                   const char sum[65], struct error *error) {
    if (checkpoint_path_is_run(path))
        return STATUS_OK;
    const enum status status = checkpoint_manifest_add(&part->manifest, path, "", sum, error);
    part->failed = part->failed || status != STATUS_OK;
    return status;
}

static enum status close_dataset(struct checkpoint_part *part, struct error *error) {
    char sum[65];
    digest_finish(part->digest, sum);
    part->digest = NULL;
    enum status status = STATUS_OK;
    if (H5Dclose(part->dataset) < 0)
        status = part_hdf5_error(part, "write", part->path, error);
    part->dataset = H5I_INVALID_HID;
    if (status == STATUS_OK)
        status = add_to_manifest(part, part->path, sum, error);
    close_rows(part);
    return status;
}

static enum status write_contiguous(struct checkpoint_part *part, const void *data,
                                    struct error *error) {
    const hid_t type = H5Dget_type(part->dataset);
    enum status status = STATUS_OK;
    if (H5Dwrite(part->dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        status = part_hdf5_error(part, "write", part->path, error);
    H5Tclose(type);
    if (status == STATUS_OK)
        digest_update(part->digest, data, checkpoint_shape_bytes(&part->shape));
    return status;
}

static enum status write_chunk(struct checkpoint_part *part, const void *stored,
                               size_t stored_bytes, struct error *error) {
    const hsize_t offset[CHECKPOINT_MAX_RANK] = {(hsize_t)part->next_row};
    if (H5Dwrite_chunk(part->dataset, H5P_DEFAULT, 0, offset, stored_bytes, stored) < 0)
        return part_hdf5_error(part, "write", part->path, error);
    part->next_row += part->shape.chunk_rows;
    return STATUS_OK;
}

static void digest_rows(struct checkpoint_part *part, int64_t rows, const void *data) {
    if (part->shape.type == CHECKPOINT_INT4)
        checkpoint_nibbles_digest(part->digest, data, (size_t)rows * (size_t)part->shape.columns);
    else
        digest_update(part->digest, data, checkpoint_shape_packed_bytes(&part->shape, rows));
}

static int64_t rows_of_next_chunk(const struct checkpoint_part *part) {
    const int64_t left = part->shape.rows - part->next_row;
    return left < part->shape.chunk_rows ? left : part->shape.chunk_rows;
}

static enum status write_rows(struct checkpoint_part *part, int64_t rows, const void *data,
                              struct error *error) {
    const unsigned char *bytes = data;
    for (int64_t row = 0; row < rows;) {
        const int64_t chunk_rows = rows_of_next_chunk(part);
        const void *stored;
        size_t stored_bytes;
        enum status status = checkpoint_chunk_encode(part->compressor, &part->shape, chunk_rows,
                                                     bytes, &stored, &stored_bytes, error);
        part->failed = part->failed || status != STATUS_OK;
        if (status == STATUS_OK)
            status = write_chunk(part, stored, stored_bytes, error);
        if (status != STATUS_OK)
            return status;
        digest_rows(part, chunk_rows, bytes);
        bytes += checkpoint_shape_packed_bytes(&part->shape, chunk_rows);
        row += chunk_rows;
    }
    return STATUS_OK;
}

enum status checkpoint_part_begin_rows(struct checkpoint_part *part, const char *path,
                                       enum checkpoint_type type, int64_t rows, int64_t columns,
                                       struct error *error) {
    struct checkpoint_shape shape;
    const int64_t dimensions[2] = {rows, columns};
    enum status status = check_path(part, path, error);
    if (status == STATUS_OK)
        status = checkpoint_shape_set(&shape, type, 2, dimensions, 0, true, part->compression, path,
                                      error);
    part->failed = part->failed || status != STATUS_OK;
    return status == STATUS_OK ? open_dataset(part, path, &shape, error) : status;
}

/* Rows in order, whole chunks. */
static enum status check_rows(struct checkpoint_part *part, int64_t row_begin, int64_t rows,
                              struct error *error) {
    if (part->dataset < 0)
        return part_error(part, "rows", "no dataset is being written", error);
    const int64_t end = row_begin + rows;
    if (row_begin != part->next_row || rows <= 0 || end > part->shape.rows ||
        (end < part->shape.rows && rows % part->shape.chunk_rows != 0))
        return part_error(part, part->path, "rows out of order, or not whole chunks", error);
    return STATUS_OK;
}

enum status checkpoint_part_write_rows(struct checkpoint_part *part, int64_t row_begin,
                                       int64_t rows, const void *data, struct error *error) {
    const enum status status = check_rows(part, row_begin, rows, error);
    return status == STATUS_OK ? write_rows(part, rows, data, error) : status;
}

enum status checkpoint_part_write_compressed(struct checkpoint_part *part, int64_t row_begin,
                                             const void *data, const void *stored,
                                             size_t stored_bytes, struct error *error) {
    const int64_t rows = part->dataset < 0 ? 0 : rows_of_next_chunk(part);
    enum status status = check_rows(part, row_begin, rows, error);
    if (status == STATUS_OK)
        status = write_chunk(part, stored, stored_bytes, error);
    if (status == STATUS_OK)
        digest_rows(part, rows, data);
    return status;
}

enum status checkpoint_part_end_rows(struct checkpoint_part *part, struct error *error) {
    if (part->dataset < 0)
        return part_error(part, "rows", "no dataset is being written", error);
    if (part->next_row < part->shape.rows)
        return part_error(part, part->path, "rows are missing", error);
    return close_dataset(part, error);
}

/* 4-bit integers that come one an int8: packed chunk by chunk. */
static enum status write_unpacked(struct checkpoint_part *part, const int8_t *values,
                                  struct error *error) {
    const size_t columns = (size_t)part->shape.columns;
    uint8_t *packed = malloc(checkpoint_shape_chunk_bytes(&part->shape));
    if (!packed)
        return part_error(part, part->path, "out of memory", error);
    enum status status = STATUS_OK;
    while (part->next_row < part->shape.rows && status == STATUS_OK) {
        const int64_t rows = rows_of_next_chunk(part);
        const int8_t *chunk = values + (size_t)part->next_row * columns;
        const size_t count = (size_t)rows * columns;
        for (size_t i = 0; i < count && status == STATUS_OK; i++)
            if (chunk[i] < -8 || chunk[i] > 7)
                status = part_error(part, part->path, "a value is not in -8..7", error);
        if (status != STATUS_OK)
            break;
        checkpoint_nibbles_pack(packed, chunk, count);
        status = write_rows(part, rows, packed, error);
    }
    free(packed);
    return status;
}

static enum status write_whole(struct checkpoint_part *part, const void *data,
                               struct error *error) {
    if (part->shape.type == CHECKPOINT_INT4)
        return write_unpacked(part, data, error);
    if (part->shape.chunk_rows > 0)
        return write_rows(part, part->shape.rows, data, error);
    return write_contiguous(part, data, error);
}

static enum status write_dataset(struct checkpoint_part *part, const char *path,
                                 const struct checkpoint_shape *shape, const void *data,
                                 struct error *error) {
    enum status status = open_dataset(part, path, shape, error);
    if (status != STATUS_OK)
        return status;
    status = write_whole(part, data, error);
    if (status == STATUS_OK)
        return close_dataset(part, error);
    close_rows(part);
    return status;
}

enum status checkpoint_part_write(struct checkpoint_part *part, const char *path,
                                  enum checkpoint_type type, int rank, const int64_t *dimensions,
                                  const void *data, struct error *error) {
    struct checkpoint_shape shape;
    enum status status = check_path(part, path, error);
    if (status == STATUS_OK)
        status = checkpoint_shape_set(&shape, type, rank, dimensions, 0, false, part->compression,
                                      path, error);
    if (status == STATUS_OK && part->compression == CHECKPOINT_ZSTD &&
        checkpoint_shape_bytes(&shape) >= SMALLEST_CHUNKED_BYTES)
        status = checkpoint_shape_set(&shape, type, rank, dimensions, 0, true, part->compression,
                                      path, error);
    part->failed = part->failed || status != STATUS_OK;
    return status == STATUS_OK ? write_dataset(part, path, &shape, data, error) : status;
}

/* HDF5 has no string of length 0: an empty text is one NUL. */
enum status checkpoint_part_write_text(struct checkpoint_part *part, const char *path,
                                       const char *text, size_t length, struct error *error) {
    struct checkpoint_shape shape;
    enum status status = check_path(part, path, error);
    if (status == STATUS_OK)
        status = checkpoint_shape_set(&shape, CHECKPOINT_TEXT, 0, NULL, length ? length : 1, false,
                                      CHECKPOINT_NONE, path, error);
    part->failed = part->failed || status != STATUS_OK;
    return status == STATUS_OK ? write_dataset(part, path, &shape, length ? text : "", error)
                               : status;
}

static enum status write_attribute(struct checkpoint_part *part, const char *path, const char *name,
                                   const struct checkpoint_attribute *attribute,
                                   struct error *error) {
    enum status status = check_path(part, path, error);
    if (status != STATUS_OK)
        return status;
    const hid_t object = checkpoint_object_open(part->file, path);
    if (object < 0 || !checkpoint_attribute_write(object, name, attribute))
        return part_hdf5_error(part, "write an attribute of", path, error);
    H5Oclose(object);
    if (checkpoint_path_is_run(path))
        return STATUS_OK;
    const char no_sum[65] = "";
    status = checkpoint_manifest_add(&part->attributed, path, "", no_sum, error);
    part->failed = part->failed || status != STATUS_OK;
    return status;
}

enum status checkpoint_part_attribute_text(struct checkpoint_part *part, const char *path,
                                           const char *name, const char *text,
                                           struct error *error) {
    char *copy = strdup(text);
    if (!copy)
        return part_error(part, path, "out of memory", error);
    const struct checkpoint_attribute attribute = {.kind = ATTRIBUTE_TEXT, .text = copy};
    const enum status status = write_attribute(part, path, name, &attribute, error);
    free(copy);
    return status;
}

enum status checkpoint_part_attribute_integer(struct checkpoint_part *part, const char *path,
                                              const char *name, int64_t value,
                                              struct error *error) {
    const struct checkpoint_attribute attribute = {.kind = ATTRIBUTE_INTEGER, .integer = value};
    return write_attribute(part, path, name, &attribute, error);
}

enum status checkpoint_part_attribute_float(struct checkpoint_part *part, const char *path,
                                            const char *name, float value, struct error *error) {
    const struct checkpoint_attribute attribute = {.kind = ATTRIBUTE_FLOAT, .number = value};
    return write_attribute(part, path, name, &attribute, error);
}

/* One line an object that has attributes, however many. */
static enum status add_attribute_lines(struct checkpoint_part *part, struct error *error) {
    struct checkpoint_manifest *attributed = &part->attributed;
    checkpoint_manifest_sort(attributed);
    enum status status = STATUS_OK;
    for (size_t i = 0; i < attributed->count && status == STATUS_OK; i++)
        if (i == 0 || strcmp(attributed->lines[i].path, attributed->lines[i - 1].path) != 0)
            status = checkpoint_manifest_add_attributes(&part->manifest, part->file,
                                                        attributed->lines[i].path, error);
    return status;
}

static enum status finish(struct checkpoint_part *part, struct error *error) {
    if (part->failed)
        return part_error(part, "the part", "cannot be finished after a failed write", error);
    if (part->dataset >= 0)
        return part_error(part, part->path, "is not written to its end", error);
    enum status status = add_attribute_lines(part, error);
    if (status == STATUS_OK)
        status = checkpoint_manifest_write(&part->manifest, part->file, part->temporary, error);
    if (status == STATUS_OK && H5Fflush(part->file, H5F_SCOPE_GLOBAL) < 0)
        status = part_hdf5_error(part, "write", "", error);
    return status;
}

enum status checkpoint_part_finish(struct checkpoint_part *part, struct error *error) {
    enum status status = finish(part, error);
    if (status == STATUS_OK && !checkpoint_file_close(&part->file))
        status = part_hdf5_error(part, "close", "", error);
    if (status == STATUS_OK)
        status = checkpoint_file_commit(part->temporary, part->final, error);
    if (status != STATUS_OK)
        checkpoint_file_discard(part->file, part->temporary);
    part_free(part);
    return status;
}

bool checkpoint_part_exists(const char *output, const char *part) {
    char *path = checkpoint_part_path(output, part);
    hid_t file = H5I_INVALID_HID;
    struct checkpoint_manifest manifest = {NULL, 0, 0};
    struct error error;
    const bool exists = path && checkpoint_hdf5_prepare(&error) == STATUS_OK &&
                        checkpoint_file_open(path, &file, &error) == STATUS_OK &&
                        checkpoint_manifest_read(&manifest, file, path, &error) == STATUS_OK;
    checkpoint_manifest_free(&manifest);
    if (file >= 0)
        H5Fclose(file);
    free(path);
    return exists;
}
