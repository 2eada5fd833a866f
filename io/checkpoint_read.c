#include "io/checkpoint_read.h"

#include <stdlib.h>
#include <string.h>

#include "io/checkpoint_internal.h"

struct checkpoint {
    char *path;
    hid_t file;
    struct checkpoint_manifest manifest;
};

void checkpoint_close(struct checkpoint *checkpoint) {
    if (!checkpoint)
        return;
    if (checkpoint->file >= 0)
        H5Fclose(checkpoint->file);
    checkpoint_manifest_free(&checkpoint->manifest);
    free(checkpoint->path);
    free(checkpoint);
}

enum status checkpoint_open(const char *path, struct checkpoint **result, struct error *error) {
    *result = NULL;
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    if (!checkpoint || !(checkpoint->path = strdup(path))) {
        free(checkpoint);
        return error_set(error, STATUS_FAILED, "%s: out of memory", path);
    }
    checkpoint->file = H5I_INVALID_HID;
    enum status status = checkpoint_hdf5_prepare(error);
    if (status == STATUS_OK)
        status = checkpoint_file_open(path, &checkpoint->file, error);
    if (status == STATUS_OK)
        status = checkpoint_manifest_read(&checkpoint->manifest, checkpoint->file, path, error);
    if (status == STATUS_OK)
        *result = checkpoint;
    else
        checkpoint_close(checkpoint);
    return status;
}

size_t checkpoint_line_count(const struct checkpoint *checkpoint) {
    return checkpoint->manifest.count;
}

const char *checkpoint_line_path(const struct checkpoint *checkpoint, size_t index) {
    return checkpoint->manifest.lines[index].path;
}

const char *checkpoint_line_sum(const struct checkpoint *checkpoint, size_t index) {
    return checkpoint->manifest.lines[index].sum;
}

static enum status open_dataset(const struct checkpoint *checkpoint, const char *path,
                                hid_t *dataset, struct checkpoint_shape *shape,
                                struct error *error) {
    *dataset = H5Dopen2(checkpoint->file, path, H5P_DEFAULT);
    if (*dataset < 0)
        return error_set(error, STATUS_INPUT, "%s: no dataset %s", checkpoint->path, path);
    struct error reason;
    enum status status = checkpoint_shape_read(shape, *dataset, &reason);
    if (status == STATUS_OK)
        status = checkpoint_dataset_check_storage(*dataset, shape, &reason);
    if (status == STATUS_OK)
        return STATUS_OK;
    H5Dclose(*dataset);
    return error_set(error, status, "%s: %s: %s", checkpoint->path, path, reason.message);
}

enum status checkpoint_describe(const struct checkpoint *checkpoint, const char *path,
                                struct checkpoint_dataset *dataset, struct error *error) {
    hid_t id;
    struct checkpoint_shape shape;
    const enum status status = open_dataset(checkpoint, path, &id, &shape, error);
    if (status != STATUS_OK)
        return status;
    *dataset = (struct checkpoint_dataset){
        .type = shape.type, .rank = shape.rank, .bytes = checkpoint_shape_bytes(&shape)};
    memcpy(dataset->dimensions, shape.dimensions, sizeof dataset->dimensions);
    H5Dclose(id);
    return STATUS_OK;
}

static void sink_memory(void *context, const void *data, size_t bytes) {
    unsigned char **next = context;
    memcpy(*next, data, bytes);
    *next += bytes;
}

enum status checkpoint_read(const struct checkpoint *checkpoint, const char *path, void *data,
                            struct error *error) {
    hid_t id;
    struct checkpoint_shape shape;
    enum status status = open_dataset(checkpoint, path, &id, &shape, error);
    if (status != STATUS_OK)
        return status;
    struct error reason;
    unsigned char *next = data;
    status = checkpoint_dataset_stream(id, &shape, sink_memory, &next, &reason);
    if (status != STATUS_OK)
        error_set(error, status, "%s: %s: %s", checkpoint->path, path, reason.message);
    H5Dclose(id);
    return status;
}

/* What is not in chunks comes in one piece. */
static enum status read_rows(hid_t dataset, const struct checkpoint_shape *shape,
                             checkpoint_rows_function *take, void *context, struct error *error) {
    if (shape->chunk_rows > 0)
        return checkpoint_dataset_chunks(dataset, shape, take, context, error);
    unsigned char *data = malloc(checkpoint_shape_bytes(shape)), *next = data;
    if (!data)
        return error_set(error, STATUS_FAILED, "out of memory");
    const enum status status = checkpoint_dataset_stream(dataset, shape, sink_memory, &next, error);
    if (status == STATUS_OK)
        take(context, 0, shape->dimensions[0], data);
    free(data);
    return status;
}

enum status checkpoint_read_rows(const struct checkpoint *checkpoint, const char *path,
                                 checkpoint_rows_function *take, void *context,
                                 struct error *error) {
    hid_t id;
    struct checkpoint_shape shape;
    enum status status = open_dataset(checkpoint, path, &id, &shape, error);
    if (status != STATUS_OK)
        return status;
    struct error reason;
    status = shape.rank == 2 ? read_rows(id, &shape, take, context, &reason)
                             : error_set(&reason, STATUS_INPUT, "it is no matrix");
    if (status != STATUS_OK)
        error_set(error, status, "%s: %s: %s", checkpoint->path, path, reason.message);
    H5Dclose(id);
    return status;
}

bool checkpoint_has(const struct checkpoint *checkpoint, const char *path) {
    return checkpoint_manifest_find(&checkpoint->manifest, path, "") >= 0;
}

static enum status read_attribute(const struct checkpoint *checkpoint, const char *path,
                                  const char *name, int kind,
                                  struct checkpoint_attribute *attribute, struct error *error) {
    *attribute = (struct checkpoint_attribute){.text = NULL};
    const hid_t object = H5Oopen(checkpoint->file, path, H5P_DEFAULT);
    if (object < 0)
        return error_set(error, STATUS_INPUT, "%s: no object %s", checkpoint->path, path);
    struct error reason;
    enum status status = checkpoint_attribute_read(object, name, attribute, &reason);
    H5Oclose(object);
    if (status != STATUS_OK)
        return error_set(error, status, "%s: %s: %s", checkpoint->path, path, reason.message);
    if ((int)attribute->kind == kind)
        return STATUS_OK;
    free(attribute->text);
    attribute->text = NULL;
    return error_set(error, STATUS_INPUT, "%s: %s: attribute %s is of another kind",
                     checkpoint->path, path, name);
}

enum status checkpoint_attribute_text(const struct checkpoint *checkpoint, const char *path,
                                      const char *name, char **text, struct error *error) {
    struct checkpoint_attribute attribute;
    const enum status status =
        read_attribute(checkpoint, path, name, ATTRIBUTE_TEXT, &attribute, error);
    *text = attribute.text;
    return status;
}

enum status checkpoint_attribute_integer(const struct checkpoint *checkpoint, const char *path,
                                         const char *name, int64_t *value, struct error *error) {
    struct checkpoint_attribute attribute;
    const enum status status =
        read_attribute(checkpoint, path, name, ATTRIBUTE_INTEGER, &attribute, error);
    *value = attribute.integer;
    return status;
}

enum status checkpoint_attribute_float(const struct checkpoint *checkpoint, const char *path,
                                       const char *name, float *value, struct error *error) {
    struct checkpoint_attribute attribute;
    const enum status status =
        read_attribute(checkpoint, path, name, ATTRIBUTE_FLOAT, &attribute, error);
    *value = attribute.number;
    return status;
}

enum status checkpoint_attribute_lines(const struct checkpoint *checkpoint, const char *path,
                                       char **lines, struct error *error) {
    *lines = NULL;
    const hid_t object = H5Oopen(checkpoint->file, path, H5P_DEFAULT);
    if (object < 0)
        return error_set(error, STATUS_INPUT, "%s: no object %s", checkpoint->path, path);
    struct error reason;
    enum status status = checkpoint_attributes_text(object, lines, &reason);
    H5Oclose(object);
    if (status != STATUS_OK)
        error_set(error, status, "%s: %s: %s", checkpoint->path, path, reason.message);
    return status;
}
