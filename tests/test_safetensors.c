#include "io/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "model_files.h"

static struct memory_file memory_file;

static enum status open_bytes(const void *data, size_t size, struct safetensors *file,
                              struct error *error) {
    memory_file_set(&memory_file, data, size);
    return safetensors_open(memory_file.path, file, error);
}

static enum status open_header(const char *header, size_t data_bytes, struct safetensors *file,
                               struct error *error) {
    static const unsigned char zeros[256] = {0};
    struct bytes bytes = safetensors_make(header, zeros, data_bytes);
    const enum status status = open_bytes(bytes.data, bytes.size, file, error);
    bytes_free(&bytes);
    return status;
}

/* A file of every kind of entry; its tensors do not lie in the header's order. */
static const char good_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[3,2],\"data_offsets\":[8,20]},"
    "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
    "\"buffer\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[20,36]},"
    "\"scalar\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[36,38]},"
    "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[38,38]},"
    "\"five\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1],\"data_offsets\":[38,42]}}  ";

static struct bytes make_good(void) {
    unsigned char data[42] = {0};
    const float a[2] = {1.5f, -2};
    memcpy(data, a, sizeof a);
    for (int i = 0; i < 6; i++) { /* bf16 1, 2, 4, 8 ... */
        const uint16_t bits = (uint16_t)((127 + i) << 7);
        memcpy(data + 8 + 2 * i, &bits, sizeof bits);
    }
    data[37] = 0x3c; /* f16 1 */
    return safetensors_make(good_header, data, sizeof data);
}

static void reads_what_is_there(void **state) {
    (void)state;
    struct error error = {0};
    struct safetensors file;
    struct bytes bytes = make_good();
    assert_int_equal(open_bytes(bytes.data, bytes.size, &file, &error), STATUS_OK);
    bytes_free(&bytes);
    assert_int_equal(file.count, 3);
    const struct tensor *a = &file.tensors[0], *b = &file.tensors[1], *scalar = &file.tensors[2];
    float values[6];
    assert_string_equal(a->name, "a");
    assert_int_equal(a->type, TENSOR_F32);
    assert_int_equal(a->rank, 1);
    assert_int_equal(a->shape[0], 2);
    tensor_read_f32(a, 0, 1, values);
    assert_true(values[0] == 1.5f && values[1] == -2);
    assert_string_equal(b->name, "b");
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->shape[0], 3);
    assert_int_equal(b->shape[1], 2);
    assert_int_equal(b->bytes, 12);
    tensor_read_f32(b, 1, 3, values);
    assert_true(values[0] == 4 && values[3] == 32);
    assert_string_equal(scalar->name, "scalar");
    assert_int_equal(scalar->rank, 1);
    assert_int_equal(scalar->shape[0], 1);
    tensor_read_f32(scalar, 0, 1, values);
    assert_true(values[0] == 1);
    assert_int_equal(file.unread_count, 3);
    for (int i = 0; i < 3; i++) {
        const struct tensor_unread *unread = &file.unread[i];
        assert_string_equal(unread->reason, !strcmp(unread->name, "buffer") ? "I64"
                                            : !strcmp(unread->name, "empty")
                                                ? "no elements"
                                                : "more than 4 dimensions");
    }
    safetensors_close(&file);
}

static void a_file_without_tensors(void **state) {
    (void)state;
    struct error error = {0};
    struct safetensors file;
    assert_int_equal(open_header("{}", 0, &file, &error), STATUS_OK);
    assert_int_equal(file.count, 0);
    safetensors_close(&file);
}

#define ENTRY(dtype, shape, begin, end)                                                            \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

/* Headers that lie, and a piece of the message for each. All have 16 bytes of data. */
static const struct {
    const char *header, *message;
} lies[] = {
    {"{\"a\":" ENTRY("F32", "[4]", 0, 24) "}", "tensor a ends at byte 24"},
    {"{\"a\":" ENTRY("F32", "[5]", 0, 16) "}", "make 20 bytes, data_offsets 16"},
    {"{\"a\":" ENTRY("F16", "[4]", 0, 16) "}", "make 8 bytes"},
    {"{\"a\":" ENTRY("F32", "[4]", 16, 0) "}", "not a range"},
    {"{\"a\":" ENTRY("F32", "[4]", -16, 0) "}", "not a range"},
    {"{\"a\":" ENTRY("F32", "[4]", 0.0, 16.0) "}", "not a range"},
    {"{\"a\":" ENTRY("F32", "[2]", 0, 8) ",\"b\":" ENTRY("F32", "[3]", 4, 16) "}",
     "tensor b begins at byte 4"},
    {"{\"a\":" ENTRY("F32", "[2]", 0, 8) ",\"b\":" ENTRY("F32", "[2]", 0, 8) "}",
     "begins at byte 0"},
    {"{\"a\":" ENTRY("F32", "[1]", 0, 4) ",\"b\":" ENTRY("F32", "[2]", 8, 16) "}",
     "tensor b begins at byte 8"},
    {"{\"a\":" ENTRY("F32", "[2]", 0, 8) "}", "take 8 bytes of data, the file has 16"},
    {"{\"a\":" ENTRY("F32", "[4]", 0, 16) ",\"a\":" ENTRY("F32", "[4]", 0, 16) "}", "duplicate"},
    {"{\"a\":" ENTRY("F32", "[4611686018427387904,4]", 0, 16) "}", "not a list of sizes"},
    {"{\"a\":" ENTRY("F32", "[4294967296,4294967297]", 0, 16) "}", "not a list of sizes"},
    {"{\"a\":" ENTRY("F32", "[-1,-4]", 0, 16) "}", "not a list of sizes"},
    {"{\"a\":" ENTRY("F32", "[\"4\"]", 0, 16) "}", "not a list of sizes"},
    {"{\"a\":" ENTRY("F32", "[99999999999999999999]", 0, 16) "}", "too big"},
    {"{\"a\":" ENTRY("Q9", "[4]", 0, 16) "}", "dtype Q9 is not known"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4]}}", "expected"},
    {"{\"a\":{\"dtype\":7,\"shape\":[4],\"data_offsets\":[0,16]}}", "expected"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,16]}}", "expected"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16,16]}}", "expected"},
    {"{\"a\":[1,2]}", "expected"},
    {"{\"a\":null}", "expected"},
    {"[]", "not a JSON object"},
    {"{\"a\":", "header: "},
    {"", "header: "},
    {"{\"a\\u0000b\":" ENTRY("F32", "[4]", 0, 16) "}", "header: "},
    {"{\"\xff\":" ENTRY("F32", "[4]", 0, 16) "}", "header: "},
};

static void refuses_lies(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct error error = {0};
        struct safetensors file;
        const enum status status = open_header(lies[i].header, 16, &file, &error);
        if (status != STATUS_INPUT || !strstr(error.message, lies[i].message) ||
            !strstr(error.message, memory_file.path))
            fail_msg("%s: status %d, %s", lies[i].header, (int)status, error.message);
        assert_null(file.file.data);
    }
}

/* A deep header, a length beyond the file, a length beyond 64 bits' half, files too short to be
 * one. */
static void refuses_bad_lengths(void **state) {
    (void)state;
    struct error error = {0};
    struct safetensors file;
    char *deep = malloc(100001);
    memset(deep, '[', 100000);
    deep[100000] = '\0';
    assert_int_equal(open_header(deep, 0, &file, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "depth"));
    free(deep);
    static const uint64_t lengths[] = {3, 4, UINT64_MAX, UINT64_MAX - 8, 1ull << 63, 200000000};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct bytes bytes = {0};
        bytes_add_u64(&bytes, lengths[i]);
        bytes_add(&bytes, "{}", 2);
        assert_int_equal(open_bytes(bytes.data, bytes.size, &file, &error), STATUS_INPUT);
        assert_non_null(strstr(error.message, "length"));
        bytes_free(&bytes);
    }
    for (size_t size = 0; size < 8; size++) {
        assert_int_equal(open_bytes("12345678", size, &file, &error), STATUS_INPUT);
        assert_non_null(strstr(error.message, "no safetensors file"));
    }
}

static void refuses_what_is_no_file(void **state) {
    (void)state;
    struct error error = {0};
    struct safetensors file;
    assert_int_equal(safetensors_open("/nonexistent/x", &file, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "/nonexistent/x: No such file"));
    assert_int_equal(safetensors_open("/tmp", &file, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "not a regular file"));
}

/* What is opened can be read: every tensor lies inside the file. */
static void read_all(const struct safetensors *file) {
    float values[64];
    for (int64_t i = 0; i < file->count; i++) {
        const struct tensor *tensor = &file->tensors[i];
        assert_true(tensor->data >= file->file.data + file->data_begin);
        assert_true(tensor->bytes <= file->file.size);
        assert_true(tensor->data + tensor->bytes <= file->file.data + file->file.size);
        const int64_t elements = tensor_rows(tensor) * tensor_columns(tensor);
        assert_true(elements >= 1 && elements <= 64);
        tensor_read_f32(tensor, 0, tensor_rows(tensor), values);
    }
}

static void open_mutated(const struct bytes *bytes, size_t size) {
    struct error error = {0};
    struct safetensors file;
    if (open_bytes(bytes->data, size, &file, &error) == STATUS_OK) {
        read_all(&file);
        safetensors_close(&file);
    } else {
        assert_true(error.message[0] != '\0');
    }
}

/* Every truncation is refused; every byte of the header changed to a few others is refused or read.
 */
static void survives_mutations(void **state) {
    (void)state;
    struct bytes bytes = make_good();
    for (size_t size = 0; size < bytes.size; size++) {
        struct error error = {0};
        struct safetensors file;
        assert_int_equal(open_bytes(bytes.data, size, &file, &error), STATUS_INPUT);
    }
    static const unsigned char changes[] = {0x01, 0x04, 0x10, 0x80, 0xff};
    for (size_t i = 0; i < 8 + strlen(good_header); i++)
        for (size_t j = 0; j < sizeof changes; j++) {
            bytes.data[i] ^= changes[j];
            open_mutated(&bytes, bytes.size);
            bytes.data[i] ^= changes[j];
        }
    bytes_free(&bytes);
}

int main(void) {
    memory_file = memory_file_make();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_is_there), cmocka_unit_test(a_file_without_tensors),
        cmocka_unit_test(refuses_lies),        cmocka_unit_test(refuses_bad_lengths),
        cmocka_unit_test(survives_mutations),  cmocka_unit_test(refuses_what_is_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
