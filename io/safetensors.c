#include "io/safetensors.h"

#include <stdlib.h>
#include <string.h>

enum { LONGEST_HEADER = 100000000 }; /* the limit of the reference implementation */

/* The types of the format; `type` is TENSOR_TYPE_COUNT for those that are not read. */
static const struct {
    const char *name;
    int bytes;
    enum tensor_type type;
} dtypes[] = {
    {"F32", 4, TENSOR_F32},
    {"F16", 2, TENSOR_F16},
    {"BF16", 2, TENSOR_BF16},
    {"F64", 8, TENSOR_TYPE_COUNT},
    {"I64", 8, TENSOR_TYPE_COUNT},
    {"I32", 4, TENSOR_TYPE_COUNT},
    {"I16", 2, TENSOR_TYPE_COUNT},
    {"I8", 1, TENSOR_TYPE_COUNT},
    {"U64", 8, TENSOR_TYPE_COUNT},
    {"U32", 4, TENSOR_TYPE_COUNT},
    {"U16", 2, TENSOR_TYPE_COUNT},
    {"U8", 1, TENSOR_TYPE_COUNT},
    {"BOOL", 1, TENSOR_TYPE_COUNT},
    {"F8_E4M3", 1, TENSOR_TYPE_COUNT},
    {"F8_E5M2", 1, TENSOR_TYPE_COUNT},
    {"F8_E8M0", 1, TENSOR_TYPE_COUNT},
    {"C64", 8, TENSOR_TYPE_COUNT},
};
enum { DTYPE_COUNT = sizeof dtypes / sizeof dtypes[0] };

/* What the header says of one tensor. */
struct entry {
    const char *name;
    int dtype;
    size_t rank;
    json_t *shape;
    size_t begin, end;
};

static bool get_size(const json_t *value, size_t *size) {
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *size = (size_t)json_integer_value(value);
    return true;
}

static enum status fault(const struct safetensors *s, const char *name, struct error *error,
                         const char *what) {
    return error_set(error, STATUS_INPUT, "%s: tensor %.200s: %s", s->file.path, name, what);
}

/* Bytes that the shape asks for; false beyond 64 bits or when it is not a list of sizes. */
static bool shape_bytes(const json_t *shape, int element_bytes, size_t *bytes) {
    *bytes = (size_t)element_bytes;
    bool fits = true, empty = false;
    for (size_t i = 0; i < json_array_size(shape); i++) {
        size_t size;
        if (!get_size(json_array_get(shape, i), &size))
            return false;
        empty |= size == 0;
        fits = fits && (size == 0 || !__builtin_mul_overflow(*bytes, size, bytes));
    }
    if (empty)
        *bytes = 0;
    return fits || empty;
}

static enum status read_entry(const struct safetensors *s, const char *name, const json_t *value,
                              struct entry *entry, struct error *error) {
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    json_t *shape = json_object_get(value, "shape");
    const json_t *offsets = json_object_get(value, "data_offsets");
    if (!dtype || !json_is_array(shape) || json_array_size(offsets) != 2)
        return fault(s, name, error,
                     "expected {\"dtype\", \"shape\", \"data_offsets\": [begin, end]}");
    *entry = (struct entry){.name = name, .rank = json_array_size(shape), .shape = shape};
    while (entry->dtype < DTYPE_COUNT && strcmp(dtype, dtypes[entry->dtype].name))
        entry->dtype++;
    if (entry->dtype == DTYPE_COUNT)
        return error_set(error, STATUS_INPUT, "%s: tensor %.200s: dtype %.40s is not known",
                         s->file.path, name, dtype);
    const size_t data_bytes = s->file.size - s->data_begin;
    if (!get_size(json_array_get(offsets, 0), &entry->begin) ||
        !get_size(json_array_get(offsets, 1), &entry->end) || entry->begin > entry->end)
        return fault(s, name, error, "data_offsets are not a range");
    if (entry->end > data_bytes)
        return error_set(error, STATUS_INPUT,
                         "%s: tensor %.200s ends at byte %zu of the data, the file has %zu of them "
                         "(cut short?)",
                         s->file.path, name, entry->end, data_bytes);
    size_t bytes;
    if (!shape_bytes(shape, dtypes[entry->dtype].bytes, &bytes))
        return fault(s, name, error, "the shape is not a list of sizes");
    if (bytes != entry->end - entry->begin)
        return error_set(
            error, STATUS_INPUT,
            "%s: tensor %.200s: its shape and dtype %s make %zu bytes, data_offsets %zu",
            s->file.path, name, dtype, bytes, entry->end - entry->begin);
    return STATUS_OK;
}

static int by_begin(const void *left, const void *right) {
    const struct entry *a = left, *b = right;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end)
        return a->end < b->end ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* In the order of their data, each tensor begins where the one before ends. */
static enum status check_cover(const struct safetensors *s, struct entry *entries, size_t count,
                               struct error *error) {
    qsort(entries, count, sizeof *entries, by_begin);
    size_t end = 0;
    for (size_t i = 0; i < count; i++) {
        if (entries[i].begin != end)
            return error_set(error, STATUS_INPUT,
                             "%s: tensor %.200s begins at byte %zu of the data, but the one before "
                             "ends at %zu",
                             s->file.path, entries[i].name, entries[i].begin, end);
        end = entries[i].end;
    }
    if (end != s->file.size - s->data_begin)
        return error_set(error, STATUS_INPUT,
                         "%s: the tensors take %zu bytes of data, the file has %zu", s->file.path,
                         end, s->file.size - s->data_begin);
    return STATUS_OK;
}

/* Why a tensor is not offered, or NULL. */
static const char *unread_reason(const struct entry *entry) {
    if (dtypes[entry->dtype].type == TENSOR_TYPE_COUNT)
        return dtypes[entry->dtype].name;
    if (entry->rank > 4)
        return "more than 4 dimensions";
    return entry->begin == entry->end ? "no elements" : NULL;
}

static void add_tensor(struct safetensors *s, const struct entry *entry) {
    const char *reason = unread_reason(entry);
    if (reason) {
        s->unread[s->unread_count++] = (struct tensor_unread){entry->name, reason};
        return;
    }
    struct tensor *tensor = &s->tensors[s->count++];
    *tensor = (struct tensor){
        .name = entry->name,
        .file = s->file.path,
        .type = dtypes[entry->dtype].type,
        .rank = entry->rank ? (int)entry->rank : 1, /* a scalar is a vector of one */
        .shape = {1},
        .data = s->file.data + s->data_begin + entry->begin,
        .bytes = entry->end - entry->begin,
    };
    for (size_t i = 0; i < entry->rank; i++)
        tensor->shape[i] = json_integer_value(json_array_get(entry->shape, i));
}

static enum status read_entries(struct safetensors *s, struct entry *entries, struct error *error) {
    size_t count = 0;
    const char *name;
    json_t *value;
    json_object_foreach(s->header, name, value) {
        if (!strcmp(name, "__metadata__"))
            continue;
        const enum status status = read_entry(s, name, value, &entries[count++], error);
        if (status != STATUS_OK)
            return status;
    }
    const enum status status = check_cover(s, entries, count, error);
    if (status != STATUS_OK)
        return status;
    for (size_t i = 0; i < count; i++)
        add_tensor(s, &entries[i]);
    return STATUS_OK;
}

static enum status read_header(struct safetensors *s, struct error *error) {
    const struct mapped_file *file = &s->file;
    uint64_t length = 0;
    if (file->size < 8)
        return error_set(error, STATUS_INPUT, "%s: %zu bytes are no safetensors file", file->path,
                         file->size);
    memcpy(&length, file->data, sizeof length);
    if (length > LONGEST_HEADER || length > file->size - 8)
        return error_set(error, STATUS_INPUT,
                         "%s: the header's length %llu is beyond the file's %zu bytes or beyond "
                         "100 MB (cut short, or no safetensors file)",
                         file->path, (unsigned long long)length, file->size);
    s->data_begin = 8 + (size_t)length;
    json_error_t fault;
    s->header = json_loadb((const char *)file->data + 8, length, JSON_REJECT_DUPLICATES, &fault);
    if (!s->header)
        return error_set(error, STATUS_INPUT, "%s: header: %s at byte %d", file->path, fault.text,
                         fault.position);
    if (!json_is_object(s->header))
        return error_set(error, STATUS_INPUT, "%s: header: not a JSON object", file->path);
    const size_t size = json_object_size(s->header);
    struct entry *entries = calloc(size + 1, sizeof *entries);
    s->tensors = calloc(size + 1, sizeof *s->tensors);
    s->unread = calloc(size + 1, sizeof *s->unread);
    const enum status status =
        entries && s->tensors && s->unread
            ? read_entries(s, entries, error)
            : error_set(error, STATUS_FAILED, "%s: out of memory", file->path);
    free(entries);
    return status;
}

enum status safetensors_open(const char *path, struct safetensors *safetensors,
                             struct error *error) {
    *safetensors = (struct safetensors){0};
    enum status status = mapped_file_open(path, &safetensors->file, error);
    if (status == STATUS_OK)
        status = read_header(safetensors, error);
    if (status != STATUS_OK)
        safetensors_close(safetensors);
    return status;
}

void safetensors_close(struct safetensors *safetensors) {
    free(safetensors->tensors);
    free(safetensors->unread);
    json_decref(safetensors->header);
    mapped_file_close(&safetensors->file);
    *safetensors = (struct safetensors){0};
}
