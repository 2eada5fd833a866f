/* Small model files made inside the tests: bytes that grow, a temporary folder, GGUF and
 * safetensors. */
#ifndef FPTQ_TESTS_MODEL_FILES_H
#define FPTQ_TESTS_MODEL_FILES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct bytes {
    unsigned char *data;
    size_t size;
};

static inline void bytes_add(struct bytes *bytes, const void *data, size_t size) {
    bytes->data = realloc(bytes->data, bytes->size + size + 1);
    if (!bytes->data)
        abort();
    if (size)
        memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
}

static inline void bytes_add_u32(struct bytes *bytes, uint32_t value) {
    bytes_add(bytes, &value, sizeof value);
}

static inline void bytes_add_u64(struct bytes *bytes, uint64_t value) {
    bytes_add(bytes, &value, sizeof value);
}

static inline void bytes_free(struct bytes *bytes) {
    free(bytes->data);
    *bytes = (struct bytes){0};
}

/* --- a temporary folder --- */

struct folder {
    char path[64];
};

static inline struct folder folder_make(void) {
    struct folder folder = {"/tmp/fptq-test-XXXXXX"};
    if (!mkdtemp(folder.path))
        abort();
    return folder;
}

static inline void folder_path(const struct folder *folder, const char *name, char path[200]) {
    snprintf(path, 200, "%s/%s", folder->path, name);
}

static inline void folder_write(const struct folder *folder, const char *name, const void *data,
                                size_t size) {
    char path[200];
    folder_path(folder, name, path);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file))
        abort();
}

static inline void folder_write_text(const struct folder *folder, const char *name,
                                     const char *text) {
    folder_write(folder, name, text, strlen(text));
}

static inline void folder_delete(const struct folder *folder, const char *name) {
    char path[200];
    folder_path(folder, name, path);
    unlink(path);
}

/* The folder must be empty by now. */
static inline void folder_remove(const struct folder *folder) {
    if (rmdir(folder->path))
        abort();
}

/* --- one file in memory, for thousands of versions of it --- */

struct memory_file {
    int descriptor;
    char path[40];
};

static inline struct memory_file memory_file_make(void) {
    struct memory_file file = {.descriptor = memfd_create("model", MFD_CLOEXEC)};
    snprintf(file.path, sizeof file.path, "/proc/self/fd/%d", file.descriptor);
    return file;
}

static inline void memory_file_set(const struct memory_file *file, const void *data, size_t size) {
    if (ftruncate(file->descriptor, (off_t)size) ||
        pwrite(file->descriptor, data, size, 0) != (ssize_t)size)
        abort();
}

/* --- safetensors --- */

/* The header's length, the header, the data. */
static inline struct bytes safetensors_make(const char *header, const void *data, size_t size) {
    struct bytes file = {0};
    bytes_add_u64(&file, strlen(header));
    bytes_add(&file, header, strlen(header));
    bytes_add(&file, data, size);
    return file;
}

/* --- GGUF --- */

struct gguf_file {
    struct bytes keys, entries, data;
    uint64_t key_count, tensor_count;
};

static inline void gguf_add_text(struct bytes *bytes, const char *text) {
    bytes_add_u64(bytes, strlen(text));
    bytes_add(bytes, text, strlen(text));
}

static inline void gguf_add_key(struct gguf_file *file, const char *key, uint32_t type,
                                const void *value, size_t size) {
    gguf_add_text(&file->keys, key);
    bytes_add_u32(&file->keys, type);
    bytes_add(&file->keys, value, size);
    file->key_count++;
}

static inline void gguf_add_u32(struct gguf_file *file, const char *key, uint32_t value) {
    gguf_add_key(file, key, 4, &value, sizeof value);
}

static inline void gguf_add_f32(struct gguf_file *file, const char *key, float value) {
    gguf_add_key(file, key, 6, &value, sizeof value);
}

static inline void gguf_add_bool(struct gguf_file *file, const char *key, unsigned char value) {
    gguf_add_key(file, key, 7, &value, sizeof value);
}

static inline void gguf_add_string(struct gguf_file *file, const char *key, const char *text) {
    struct bytes value = {0};
    gguf_add_text(&value, text);
    gguf_add_key(file, key, 8, value.data, value.size);
    bytes_free(&value);
}

/* An array of `count` elements of a type with their bytes. */
static inline void gguf_add_array(struct gguf_file *file, const char *key, uint32_t type,
                                  uint64_t count, const void *elements, size_t size) {
    struct bytes value = {0};
    bytes_add_u32(&value, type);
    bytes_add_u64(&value, count);
    bytes_add(&value, elements, size);
    gguf_add_key(file, key, 9, value.data, value.size);
    bytes_free(&value);
}

static inline void gguf_add_strings(struct gguf_file *file, const char *key,
                                    const char *const *texts, uint64_t count) {
    struct bytes elements = {0};
    for (uint64_t i = 0; i < count; i++)
        gguf_add_text(&elements, texts[i]);
    gguf_add_array(file, key, 8, count, elements.data, elements.size);
    bytes_free(&elements);
}

/* A tensor's entry alone; dimensions innermost first. */
static inline void gguf_add_entry(struct gguf_file *file, const char *name, uint32_t type,
                                  uint32_t rank, const uint64_t *dimensions, uint64_t offset) {
    gguf_add_text(&file->entries, name);
    bytes_add_u32(&file->entries, rank);
    bytes_add(&file->entries, dimensions, rank * sizeof *dimensions);
    bytes_add_u32(&file->entries, type);
    bytes_add_u64(&file->entries, offset);
    file->tensor_count++;
}

/* A tensor with its data, padded to 32 bytes. */
static inline void gguf_add_tensor(struct gguf_file *file, const char *name, uint32_t type,
                                   uint32_t rank, const uint64_t *dimensions, const void *data,
                                   size_t size) {
    static const unsigned char zeros[32] = {0};
    gguf_add_entry(file, name, type, rank, dimensions, file->data.size);
    bytes_add(&file->data, data, size);
    bytes_add(&file->data, zeros, -size % 32);
}

/* The whole file; `file` is freed. */
static inline struct bytes gguf_finish(struct gguf_file *file) {
    static const unsigned char zeros[32] = {0};
    struct bytes whole = {0};
    bytes_add(&whole, "GGUF", 4);
    bytes_add_u32(&whole, 3);
    bytes_add_u64(&whole, file->tensor_count);
    bytes_add_u64(&whole, file->key_count);
    bytes_add(&whole, file->keys.data, file->keys.size);
    bytes_add(&whole, file->entries.data, file->entries.size);
    bytes_add(&whole, zeros, -whole.size % 32);
    bytes_add(&whole, file->data.data, file->data.size);
    bytes_free(&file->keys);
    bytes_free(&file->entries);
    bytes_free(&file->data);
    *file = (struct gguf_file){0};
    return whole;
}

#endif
