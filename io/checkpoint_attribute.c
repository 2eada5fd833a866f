#include <stdlib.h>
#include <string.h>

#include "io/checkpoint_internal.h"

/* Text is a variable-length UTF-8 string, which h5py gives as str (a fixed-length one as bytes). */
static hid_t text_type(void) {
    const hid_t type = H5Tcopy(H5T_C_S1);
    if (H5Tset_size(type, H5T_VARIABLE) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0)
        return H5I_INVALID_HID;
    return type;
}

bool checkpoint_attribute_write(hid_t object, const char *name,
                                const struct checkpoint_attribute *attribute) {
    hid_t type = H5I_INVALID_HID;
    const void *value = NULL;
    switch (attribute->kind) {
    case ATTRIBUTE_TEXT:
        type = text_type();
        value = &attribute->text;
        break;
    case ATTRIBUTE_INTEGER:
        type = H5Tcopy(H5T_STD_I64LE);
        value = &attribute->integer;
        break;
    case ATTRIBUTE_FLOAT:
        type = H5Tcopy(H5T_IEEE_F32LE);
        value = &attribute->number;
        break;
    }
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t id = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    const bool written = id >= 0 && H5Awrite(id, type, value) >= 0;
    const hid_t errors = H5Eget_current_stack();
    const bool closed = id < 0 || H5Aclose(id) >= 0;
    H5Sclose(space);
    H5Tclose(type);
    H5Eset_current_stack(errors);
    return written && closed;
}

static enum status read_text(hid_t id, hid_t type, struct checkpoint_attribute *attribute,
                             struct error *error) {
    char *text = NULL;
    attribute->kind = ATTRIBUTE_TEXT;
    if (H5Tis_variable_str(type) <= 0 || H5Aread(id, type, &text) < 0)
        return error_set(error, STATUS_INPUT, "cannot be read");
    attribute->text = strdup(text ? text : "");
    H5free_memory(text);
    return attribute->text ? STATUS_OK : error_set(error, STATUS_FAILED, "out of memory");
}

static enum status read_value(hid_t id, hid_t type, struct checkpoint_attribute *attribute,
                              struct error *error) {
    herr_t result = -1;
    switch (H5Tget_class(type)) {
    case H5T_STRING:
        return read_text(id, type, attribute, error);
    case H5T_INTEGER:
        attribute->kind = ATTRIBUTE_INTEGER;
        result = H5Aread(id, H5T_NATIVE_INT64, &attribute->integer);
        break;
    case H5T_FLOAT:
        attribute->kind = ATTRIBUTE_FLOAT;
        result = H5Aread(id, H5T_NATIVE_FLOAT, &attribute->number);
        break;
    default:
        return error_set(error, STATUS_INPUT, "is of a type that is none of this format");
    }
    return result >= 0 ? STATUS_OK : error_set(error, STATUS_INPUT, "cannot be read");
}

enum status checkpoint_attribute_read(hid_t object, const char *name,
                                      struct checkpoint_attribute *attribute, struct error *error) {
    *attribute = (struct checkpoint_attribute){.kind = ATTRIBUTE_INTEGER};
    struct error reason = {.message = "cannot be read"};
    const hid_t id = H5Aopen(object, name, H5P_DEFAULT);
    const hid_t type = H5Aget_type(id);
    const hid_t space = H5Aget_space(id);
    enum status status = STATUS_INPUT;
    if (H5Sget_simple_extent_type(space) == H5S_SCALAR)
        status = read_value(id, type, attribute, &reason);
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(id);
    if (status != STATUS_OK)
        error_set(error, status, "attribute %s %s", name, reason.message);
    return status;
}

char *checkpoint_attribute_line(const char *name, const struct checkpoint_attribute *attribute) {
    switch (attribute->kind) {
    case ATTRIBUTE_TEXT:
        return checkpoint_text("%s=%s\n", name, attribute->text);
    case ATTRIBUTE_INTEGER:
        return checkpoint_text("%s=%lld\n", name, (long long)attribute->integer);
    default:
        return checkpoint_text("%s=%.9g\n", name, (double)attribute->number);
    }
}

static herr_t add_name(struct checkpoint_names *names, const char *name) {
    char **larger = realloc(names->names, (names->count + 1) * sizeof *larger);
    char *copy = larger ? strdup(name) : NULL;
    if (larger)
        names->names = larger;
    names->failed = !copy;
    if (!copy)
        return -1;
    names->names[names->count++] = copy;
    return 0;
}

static herr_t add_attribute_name(hid_t object, const char *name, const H5A_info_t *information,
                                 void *context) {
    (void)object;
    (void)information;
    return add_name(context, name);
}

static herr_t add_link_name(hid_t group, const char *name, const H5L_info_t *information,
                            void *context) {
    (void)group;
    (void)information;
    return add_name(context, name);
}

static int compare_names(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static enum status finish_names(struct checkpoint_names *names, herr_t result, const char *what,
                                struct error *error) {
    if (result >= 0) {
        if (names->count > 0)
            qsort(names->names, names->count, sizeof *names->names, compare_names);
        return STATUS_OK;
    }
    const bool no_memory = names->failed;
    checkpoint_names_free(names);
    return no_memory ? error_set(error, STATUS_FAILED, "out of memory")
                     : error_set(error, STATUS_INPUT, "its %s cannot be read", what);
}

enum status checkpoint_names_of_attributes(hid_t object, struct checkpoint_names *names,
                                           struct error *error) {
    *names = (struct checkpoint_names){NULL, 0, false};
    const herr_t result =
        H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, add_attribute_name, names);
    return finish_names(names, result, "attributes", error);
}

enum status checkpoint_names_of_links(hid_t group, struct checkpoint_names *names,
                                      struct error *error) {
    *names = (struct checkpoint_names){NULL, 0, false};
    const herr_t result =
        H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, add_link_name, names);
    return finish_names(names, result, "links", error);
}

void checkpoint_names_free(struct checkpoint_names *names) {
    for (size_t i = 0; i < names->count; i++)
        free(names->names[i]);
    free(names->names);
    *names = (struct checkpoint_names){NULL, 0, false};
}

/* text + line, in memory of its own; text is freed. */
static char *append_line(char *text, char *line) {
    char *joined = text && line ? checkpoint_text("%s%s", text, line) : NULL;
    free(text);
    free(line);
    return joined;
}

enum status checkpoint_attributes_text(hid_t object, char **text, struct error *error) {
    *text = NULL;
    struct checkpoint_names names;
    enum status status = checkpoint_names_of_attributes(object, &names, error);
    if (status != STATUS_OK)
        return status;
    char *lines = strdup("");
    for (size_t i = 0; i < names.count && status == STATUS_OK; i++) {
        struct checkpoint_attribute attribute;
        status = checkpoint_attribute_read(object, names.names[i], &attribute, error);
        if (status == STATUS_OK)
            lines = append_line(lines, checkpoint_attribute_line(names.names[i], &attribute));
        free(attribute.text);
    }
    if (status == STATUS_OK && !lines)
        status = error_set(error, STATUS_FAILED, "out of memory");
    checkpoint_names_free(&names);
    if (status == STATUS_OK)
        *text = lines;
    else
        free(lines);
    return status;
}

enum status checkpoint_attributes_digest(hid_t object, char sum[65], bool *any,
                                         struct error *error) {
    char *text;
    const enum status status = checkpoint_attributes_text(object, &text, error);
    if (status != STATUS_OK)
        return status;
    *any = *text != '\0';
    digest_bytes(text, strlen(text), sum);
    free(text);
    return STATUS_OK;
}
