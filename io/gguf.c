#include "io/gguf.h"

#include <stdlib.h>
#include <string.h>

enum { DEEPEST_ARRAY = 4, SMALLEST_KEY = 13, SMALLEST_TENSOR = 32 };

/* Bytes of a value by its type; strings and arrays have none of their own. */
static const size_t value_bytes[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

/* Element types by number. TENSOR_TYPE_COUNT: not read. */
static const struct {
    const char *name;
    enum tensor_type type;
} element_types[] = {
    [0] = {"F32", TENSOR_F32},
    [1] = {"F16", TENSOR_F16},
    [2] = {"Q4_0", TENSOR_Q4_0},
    [3] = {"Q4_1", TENSOR_Q4_1},
    [6] = {"Q5_0", TENSOR_Q5_0},
    [7] = {"Q5_1", TENSOR_Q5_1},
    [8] = {"Q8_0", TENSOR_Q8_0},
    [9] = {"Q8_1", TENSOR_TYPE_COUNT},
    [10] = {"Q2_K", TENSOR_TYPE_COUNT},
    [11] = {"Q3_K", TENSOR_TYPE_COUNT},
    [12] = {"Q4_K", TENSOR_Q4_K},
    [13] = {"Q5_K", TENSOR_Q5_K},
    [14] = {"Q6_K", TENSOR_Q6_K},
    [15] = {"Q8_K", TENSOR_TYPE_COUNT},
    [16] = {"IQ2_XXS", TENSOR_TYPE_COUNT},
    [17] = {"IQ2_XS", TENSOR_TYPE_COUNT},
    [18] = {"IQ3_XXS", TENSOR_TYPE_COUNT},
    [19] = {"IQ1_S", TENSOR_TYPE_COUNT},
    [20] = {"IQ4_NL", TENSOR_TYPE_COUNT},
    [21] = {"IQ3_S", TENSOR_TYPE_COUNT},
    [22] = {"IQ2_S", TENSOR_TYPE_COUNT},
    [23] = {"IQ4_XS", TENSOR_TYPE_COUNT},
    [24] = {"I8", TENSOR_TYPE_COUNT},
    [25] = {"I16", TENSOR_TYPE_COUNT},
    [26] = {"I32", TENSOR_TYPE_COUNT},
    [27] = {"I64", TENSOR_TYPE_COUNT},
    [28] = {"F64", TENSOR_TYPE_COUNT},
    [29] = {"IQ1_M", TENSOR_TYPE_COUNT},
    [30] = {"BF16", TENSOR_BF16},
    [34] = {"TQ1_0", TENSOR_TYPE_COUNT},
    [35] = {"TQ2_0", TENSOR_TYPE_COUNT},
    [39] = {"MXFP4", TENSOR_TYPE_COUNT},
};
enum { ELEMENT_TYPE_COUNT = sizeof element_types / sizeof element_types[0] };

/* A place in the file while its header is walked. */
struct walk {
    struct gguf *gguf;
    size_t position;
    struct error *error;
};

static enum status cut_short(struct walk *walk, const char *what) {
    return error_set(walk->error, STATUS_INPUT,
                     "%s: %s at byte %zu runs beyond the file's %zu bytes", walk->gguf->file.path,
                     what, walk->position, walk->gguf->file.size);
}

static size_t bytes_left(const struct walk *walk) {
    return walk->gguf->file.size - walk->position;
}

static bool take(struct walk *walk, void *value, size_t bytes) {
    if (bytes > bytes_left(walk))
        return false;
    memcpy(value, walk->gguf->file.data + walk->position, bytes);
    walk->position += bytes;
    return true;
}

static bool skip_string(struct walk *walk) {
    uint64_t length;
    if (!take(walk, &length, sizeof length) || length > bytes_left(walk))
        return false;
    walk->position += length;
    return true;
}

/* A string as a NUL-ended name, which gguf->names owns. */
static enum status take_name(struct walk *walk, const char *what, const char **name) {
    const size_t begin = walk->position;
    if (!skip_string(walk))
        return cut_short(walk, what);
    const char *text = (const char *)walk->gguf->file.data + begin + 8;
    const size_t length = walk->position - begin - 8;
    if (memchr(text, '\0', length))
        return error_set(walk->error, STATUS_INPUT, "%s: %s at byte %zu holds a NUL",
                         walk->gguf->file.path, what, begin);
    char *copy = strndup(text, length);
    if (!copy)
        return error_set(walk->error, STATUS_FAILED, "%s: out of memory", walk->gguf->file.path);
    walk->gguf->names[walk->gguf->name_count++] = copy;
    *name = copy;
    return STATUS_OK;
}

/* Pass `count` values of a type. False where they run beyond the file or are of no known type. */
static bool skip_values(struct walk *walk, uint32_t type, uint64_t count, int depth) {
    if (type >= GGUF_TYPE_COUNT || depth > DEEPEST_ARRAY)
        return false;
    if (value_bytes[type]) {
        if (count > bytes_left(walk) / value_bytes[type])
            return false;
        walk->position += count * value_bytes[type];
        return true;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint32_t element_type;
        uint64_t elements;
        if (type == GGUF_STRING ? !skip_string(walk)
                                : !take(walk, &element_type, sizeof element_type) ||
                                      !take(walk, &elements, sizeof elements) ||
                                      !skip_values(walk, element_type, elements, depth + 1))
            return false;
    }
    return true;
}

static enum status take_key(struct walk *walk, struct gguf_key *key) {
    const enum status status = take_name(walk, "a key's name", &key->name);
    if (status != STATUS_OK)
        return status;
    uint32_t type = GGUF_TYPE_COUNT;
    bool good = take(walk, &type, sizeof type);
    key->array = good && type == GGUF_ARRAY;
    key->count = 1;
    if (key->array)
        good = take(walk, &type, sizeof type) && take(walk, &key->count, sizeof key->count);
    if (good) {
        key->type = type < GGUF_TYPE_COUNT ? (enum gguf_type)type : GGUF_TYPE_COUNT;
        key->data = walk->gguf->file.data + walk->position;
        good = skip_values(walk, type, key->count, key->array);
    }
    if (!good)
        return error_set(
            walk->error, STATUS_INPUT,
            "%s: the value of key %.200s (type %u) runs beyond the file's %zu bytes, or "
            "is of no known type",
            walk->gguf->file.path, key->name, type, walk->gguf->file.size);
    return STATUS_OK;
}

/* What the file says of one tensor. */
struct entry {
    const char *name;
    uint32_t type;
    int rank;
    int64_t shape[4]; /* outermost first */
    uint64_t offset;
    size_t bytes; /* 0 when the type is not read */
};

static bool type_is_read(uint32_t type) {
    return type < ELEMENT_TYPE_COUNT && element_types[type].name &&
           element_types[type].type != TENSOR_TYPE_COUNT;
}

static enum status take_tensor(struct walk *walk, struct entry *entry) {
    const enum status status = take_name(walk, "a tensor's name", &entry->name);
    if (status != STATUS_OK)
        return status;
    const char *path = walk->gguf->file.path;
    uint32_t rank;
    if (!take(walk, &rank, sizeof rank))
        return cut_short(walk, "a tensor's entry");
    if (rank < 1 || rank > 4)
        return error_set(walk->error, STATUS_INPUT,
                         "%s: tensor %.200s has %u dimensions, not 1 to 4", path, entry->name,
                         rank);
    entry->rank = (int)rank;
    for (int i = entry->rank - 1; i >= 0; i--) {
        uint64_t size;
        if (!take(walk, &size, sizeof size))
            return cut_short(walk, "a tensor's entry");
        entry->shape[i] = size <= INT64_MAX ? (int64_t)size : -1;
    }
    if (!take(walk, &entry->type, sizeof entry->type) ||
        !take(walk, &entry->offset, sizeof entry->offset))
        return cut_short(walk, "a tensor's entry");
    if (type_is_read(entry->type) && !tensor_shape_bytes(element_types[entry->type].type,
                                                         entry->rank, entry->shape, &entry->bytes))
        return error_set(
            walk->error, STATUS_INPUT,
            "%s: tensor %.200s: its shape is impossible, or no whole number of %s blocks", path,
            entry->name, element_types[entry->type].name);
    return STATUS_OK;
}

static int keys_by_name(const void *left, const void *right) {
    return strcmp(((const struct gguf_key *)left)->name, ((const struct gguf_key *)right)->name);
}

static int entries_by_name(const void *left, const void *right) {
    return strcmp(((const struct entry *)left)->name, ((const struct entry *)right)->name);
}

static int entries_by_offset(const void *left, const void *right) {
    const struct entry *a = left, *b = right;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return strcmp(a->name, b->name);
}

static enum status take_keys(struct walk *walk, uint64_t count) {
    struct gguf *gguf = walk->gguf;
    for (gguf->key_count = 0; (uint64_t)gguf->key_count < count; gguf->key_count++) {
        const enum status status = take_key(walk, &gguf->keys[gguf->key_count]);
        if (status != STATUS_OK)
            return status;
    }
    qsort(gguf->keys, count, sizeof *gguf->keys, keys_by_name);
    for (uint64_t i = 1; i < count; i++)
        if (!strcmp(gguf->keys[i - 1].name, gguf->keys[i].name))
            return error_set(walk->error, STATUS_INPUT, "%s: key %.200s occurs twice",
                             gguf->file.path, gguf->keys[i].name);
    return STATUS_OK;
}

static enum status take_tensors(struct walk *walk, struct entry *entries, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        const enum status status = take_tensor(walk, &entries[i]);
        if (status != STATUS_OK)
            return status;
    }
    qsort(entries, count, sizeof *entries, entries_by_name);
    for (uint64_t i = 1; i < count; i++)
        if (!strcmp(entries[i - 1].name, entries[i].name))
            return error_set(walk->error, STATUS_INPUT, "%s: tensor %.200s occurs twice",
                             walk->gguf->file.path, entries[i].name);
    return STATUS_OK;
}

/* Where the data begin, and the alignment of each tensor in them. */
static enum status find_data(struct walk *walk, uint64_t *alignment) {
    struct gguf *gguf = walk->gguf;
    const struct gguf_key *key = gguf_find_key(gguf, "general.alignment");
    int64_t value = 32;
    if (key &&
        (!gguf_integer(key, 0, &value) || value < 1 || value > 1 << 30 || value & (value - 1)))
        return error_set(walk->error, STATUS_INPUT, "%s: general.alignment is no power of two",
                         gguf->file.path);
    *alignment = (uint64_t)value;
    gguf->data_begin = (walk->position + *alignment - 1) / *alignment * *alignment;
    if (gguf->data_begin > gguf->file.size) /* no tensors, and no padding after the header */
        gguf->data_begin = gguf->file.size;
    return STATUS_OK;
}

/* In the order of their data, each tensor begins aligned, after the end of the one before, and ends
 * inside the file. */
static enum status place_tensors(struct walk *walk, struct entry *entries, uint64_t count) {
    struct gguf *gguf = walk->gguf;
    uint64_t alignment = 32;
    const enum status status = find_data(walk, &alignment);
    if (status != STATUS_OK)
        return status;
    qsort(entries, count, sizeof *entries, entries_by_offset);
    const uint64_t data_bytes = gguf->file.size - gguf->data_begin;
    uint64_t end = 0;
    for (uint64_t i = 0; i < count; i++) {
        const struct entry *entry = &entries[i];
        if (entry->offset % alignment || entry->offset < end)
            return error_set(
                walk->error, STATUS_INPUT,
                "%s: tensor %.200s at offset %llu overlaps another one or is not aligned "
                "to %llu bytes",
                gguf->file.path, entry->name, (unsigned long long)entry->offset,
                (unsigned long long)alignment);
        if (entry->offset > data_bytes || entry->bytes > data_bytes - entry->offset)
            return error_set(
                walk->error, STATUS_INPUT,
                "%s: tensor %.200s (%zu bytes at offset %llu) runs beyond the file's %llu "
                "bytes of data (cut short?)",
                gguf->file.path, entry->name, entry->bytes, (unsigned long long)entry->offset,
                (unsigned long long)data_bytes);
        end = entry->offset + entry->bytes;
        if (!type_is_read(entry->type)) {
            const char *type =
                entry->type < ELEMENT_TYPE_COUNT ? element_types[entry->type].name : NULL;
            gguf->unread[gguf->unread_count++] =
                (struct tensor_unread){entry->name, type ? type : "an unknown type"};
            continue;
        }
        struct tensor *tensor = &gguf->tensors[gguf->count++];
        *tensor = (struct tensor){.name = entry->name,
                                  .file = gguf->file.path,
                                  .type = element_types[entry->type].type,
                                  .rank = entry->rank,
                                  .data = gguf->file.data + gguf->data_begin + entry->offset,
                                  .bytes = entry->bytes};
        memcpy(tensor->shape, entry->shape, sizeof tensor->shape);
    }
    return STATUS_OK;
}

static enum status read_header(struct gguf *gguf, struct error *error) {
    struct walk walk = {.gguf = gguf, .error = error};
    const char *path = gguf->file.path;
    char magic[4] = "";
    uint32_t version = 0;
    uint64_t tensors = 0, keys = 0;
    if (!take(&walk, magic, 4) || memcmp(magic, "GGUF", 4))
        return error_set(error, STATUS_INPUT,
                         "%s: not a GGUF file (a Hugging Face model is named by its folder)", path);
    if (!take(&walk, &version, sizeof version) || version != 3)
        return error_set(error, STATUS_INPUT, "%s: GGUF version %u%s; only version 3 is read", path,
                         version, version == 0x03000000 ? " (big-endian 3)" : "");
    if (!take(&walk, &tensors, sizeof tensors) || !take(&walk, &keys, sizeof keys))
        return cut_short(&walk, "the header");
    if (keys > bytes_left(&walk) / SMALLEST_KEY || tensors > bytes_left(&walk) / SMALLEST_TENSOR)
        return error_set(error, STATUS_INPUT,
                         "%s: %llu tensors and %llu keys do not fit into the file's %zu bytes",
                         path, (unsigned long long)tensors, (unsigned long long)keys,
                         gguf->file.size);
    struct entry *entries = calloc(tensors + 1, sizeof *entries);
    gguf->keys = calloc(keys + 1, sizeof *gguf->keys);
    gguf->tensors = calloc(tensors + 1, sizeof *gguf->tensors);
    gguf->unread = calloc(tensors + 1, sizeof *gguf->unread);
    gguf->names = calloc(keys + tensors + 1, sizeof *gguf->names);
    enum status status = STATUS_OK;
    if (!entries || !gguf->keys || !gguf->tensors || !gguf->unread || !gguf->names)
        status = error_set(error, STATUS_FAILED, "%s: out of memory", path);
    if (status == STATUS_OK)
        status = take_keys(&walk, keys);
    if (status == STATUS_OK)
        status = take_tensors(&walk, entries, tensors);
    if (status == STATUS_OK)
        status = place_tensors(&walk, entries, tensors);
    free(entries);
    return status;
}

enum status gguf_open(const char *path, struct gguf *gguf, struct error *error) {
    *gguf = (struct gguf){0};
    enum status status = mapped_file_open(path, &gguf->file, error);
    if (status == STATUS_OK)
        status = read_header(gguf, error);
    if (status != STATUS_OK)
        gguf_close(gguf);
    return status;
}

void gguf_close(struct gguf *gguf) {
    for (int64_t i = 0; i < gguf->name_count; i++)
        free(gguf->names[i]);
    free(gguf->names);
    free(gguf->keys);
    free(gguf->tensors);
    free(gguf->unread);
    mapped_file_close(&gguf->file);
    *gguf = (struct gguf){0};
}

const struct gguf_key *gguf_find_key(const struct gguf *gguf, const char *name) {
    const struct gguf_key wanted = {.name = name};
    return bsearch(&wanted, gguf->keys, (size_t)gguf->key_count, sizeof wanted, keys_by_name);
}

const struct tensor *gguf_find_tensor(const struct gguf *gguf, const char *name) {
    for (int64_t i = 0; i < gguf->count; i++)
        if (!strcmp(gguf->tensors[i].name, name))
            return &gguf->tensors[i];
    return NULL;
}

/* Element `index` of a key, as it lies in the file; NULL when there is none of a number type. */
static const unsigned char *find_number(const struct gguf_key *key, uint64_t index) {
    if (!key || index >= key->count || !value_bytes[key->type])
        return NULL;
    return key->data + index * value_bytes[key->type];
}

bool gguf_integer(const struct gguf_key *key, uint64_t index, int64_t *value) {
    const unsigned char *bytes = find_number(key, index);
    if (!bytes || key->type == GGUF_F32 || key->type == GGUF_F64)
        return false;
    uint64_t bits = 0;
    memcpy(&bits, bytes, value_bytes[key->type]);
    switch (key->type) {
    case GGUF_I8:
        *value = (int8_t)bits;
        return true;
    case GGUF_I16:
        *value = (int16_t)bits;
        return true;
    case GGUF_I32:
        *value = (int32_t)bits;
        return true;
    default: /* i64 as it is; the unsigned ones fit, but for a large u64 */
        *value = (int64_t)bits;
        return key->type == GGUF_I64 || bits <= INT64_MAX;
    }
}

bool gguf_float(const struct gguf_key *key, uint64_t index, double *value) {
    const unsigned char *bytes = find_number(key, index);
    int64_t integer;
    float single;
    if (!bytes)
        return false;
    if (key->type == GGUF_F64) {
        memcpy(value, bytes, sizeof *value);
    } else if (key->type == GGUF_F32) {
        memcpy(&single, bytes, sizeof single);
        *value = (double)single;
    } else if (gguf_integer(key, index, &integer)) {
        *value = (double)integer;
    } else {
        return false;
    }
    return true;
}

struct gguf_string gguf_next_string(const unsigned char **cursor) {
    uint64_t length;
    memcpy(&length, *cursor, sizeof length);
    const struct gguf_string string = {(const char *)*cursor + sizeof length, length};
    *cursor += sizeof length + length;
    return string;
}

bool gguf_string_is(const struct gguf_key *key, const char *text) {
    if (!key || key->array || key->type != GGUF_STRING)
        return false;
    const unsigned char *cursor = key->data;
    const struct gguf_string string = gguf_next_string(&cursor);
    return string.length == strlen(text) && !memcmp(string.text, text, string.length);
}
