/* One GGUF file, version 3.
 *
 * All numbers are little endian, nothing is padded but the start of the data and of each tensor.
 *
 *     header     4 bytes "GGUF"; u32 version = 3; u64 number of tensors T; u64 number of keys K
 *     K keys     string key; u32 value type; value
 *     T tensors  string name; u32 rank (1 .. 4); rank x u64 dimensions, INNERMOST first;
 *                u32 element type; u64 offset of its data from the start of the data
 *     data       from the next multiple of A after the last tensor's entry; A is the value of key
 *                "general.alignment" (u32) or 32; every offset is a multiple of A
 *
 *     string     u64 length; that many bytes of UTF-8, no NUL
 *     value      by its type: 0 u8, 1 i8, 2 u16, 3 i16, 4 u32, 5 i32, 6 f32, 7 bool (one byte),
 *                8 string, 9 array, 10 u64, 11 i64, 12 f64
 *     array      u32 type of its elements; u64 their number; the elements one after the other
 *
 *     element types that are read: 0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 6 Q5_0, 7 Q5_1, 8 Q8_0, 12 Q4_K,
 *                13 Q5_K, 14 Q6_K, 30 BF16; rows of blocks are contiguous (io/gguf_blocks.h)
 *
 * Opening walks every key and entry inside the bounds of the file and keeps pointers into it:
 * memory is a small multiple of the bytes walked. Keys and names occur once; tensors do not
 * overlap. */
#ifndef FPTQ_IO_GGUF_H
#define FPTQ_IO_GGUF_H

#include "io/mapped_file.h"
#include "io/tensor.h"

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
};

struct gguf_key {
    const char *name;
    enum gguf_type type; /* of the value; of the elements where `array` */
    bool array;
    uint64_t count;            /* of elements; 1 for a plain value */
    const unsigned char *data; /* the first element */
};

struct gguf {
    struct mapped_file file;
    size_t data_begin;
    struct gguf_key *keys; /* sorted by name */
    int64_t key_count;
    struct tensor *tensors; /* in the order of their data; names as in the file */
    int64_t count;
    struct tensor_unread *unread; /* of element types that are not read */
    int64_t unread_count;
    char **names; /* of keys and tensors, as C strings */
    int64_t name_count;
};

/* Map the file and check all of its header. STATUS_INPUT names the file and the key or tensor. */
enum status gguf_open(const char *path, struct gguf *gguf, struct error *error);
void gguf_close(struct gguf *gguf);

/* NULL when the file has no such key. */
const struct gguf_key *gguf_find_key(const struct gguf *gguf, const char *name);
const struct tensor *gguf_find_tensor(const struct gguf *gguf, const char *name);

/* Element `index` of a key of a number type (any integer, bool or float). False when the key is
 * NULL, of another type, or shorter; integers also when the value does not fit. */
bool gguf_integer(const struct gguf_key *key, uint64_t index, int64_t *value);
bool gguf_float(const struct gguf_key *key, uint64_t index, double *value);

/* The strings of a key of type GGUF_STRING, one after the other: start with *cursor = key->data and
 * take key->count of them. They are not NUL-ended. */
struct gguf_string {
    const char *text;
    size_t length;
};
struct gguf_string gguf_next_string(const unsigned char **cursor);
/* Whether `key` is there, is one string, and equals `text`. */
bool gguf_string_is(const struct gguf_key *key, const char *text);

#endif
