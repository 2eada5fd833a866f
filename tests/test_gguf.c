#include "io/gguf.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "io/gguf_model.h"
#include "model_files.h"

static struct memory_file memory_file;

static enum status open_bytes(const void *data, size_t size, struct gguf *gguf,
                              struct error *error) {
    memory_file_set(&memory_file, data, size);
    return gguf_open(memory_file.path, gguf, error);
}

/* Open what was built; `file` is freed. */
static enum status open_file(struct gguf_file *file, struct gguf *gguf, struct error *error) {
    struct bytes bytes = gguf_finish(file);
    const enum status status = open_bytes(bytes.data, bytes.size, gguf, error);
    bytes_free(&bytes);
    return status;
}

static void expect_refusal(struct gguf_file *file, const char *message) {
    struct error error = {0};
    struct gguf gguf;
    const enum status status = open_file(file, &gguf, &error);
    if (status != STATUS_INPUT || !strstr(error.message, message) ||
        !strstr(error.message, memory_file.path))
        fail_msg("expected \"%s\": status %d, %s", message, (int)status, error.message);
    assert_null(gguf.file.data);
}

/* --- keys --- */

static void reads_keys_of_every_type(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint32_t type;
        int64_t value;
        size_t size;
    } integers[] = {
        {"u8", 0, 200, 1},     {"i8", 1, -100, 1},        {"u16", 2, 60000, 2},
        {"i16", 3, -30000, 2}, {"u32", 4, 4000000000, 4}, {"i32", 5, -2000000000, 4},
        {"bool", 7, 1, 1},     {"u64", 10, INT64_MAX, 8}, {"i64", 11, INT64_MIN, 8},
    };
    enum { COUNT = sizeof integers / sizeof integers[0] };
    struct gguf_file file = {0};
    for (size_t i = 0; i < COUNT; i++)
        gguf_add_key(&file, integers[i].name, integers[i].type, &integers[i].value,
                     integers[i].size);
    gguf_add_f32(&file, "f32", 1.5f);
    gguf_add_key(&file, "f64", 12, (const double[]){-2.25}, 8);
    gguf_add_key(&file, "huge", 10, (const uint64_t[]){UINT64_MAX}, 8);
    gguf_add_string(&file, "string", "text");
    gguf_add_array(&file, "array", 3, 3, (const int16_t[]){7, -8, 9}, 6);
    gguf_add_strings(&file, "strings", (const char *const[]){"one", "", "three"}, 3);
    struct error error = {0};
    struct gguf gguf;
    assert_int_equal(open_file(&file, &gguf, &error), STATUS_OK);
    int64_t integer;
    double number;
    for (size_t i = 0; i < COUNT; i++) {
        const struct gguf_key *key = gguf_find_key(&gguf, integers[i].name);
        assert_true(gguf_integer(key, 0, &integer));
        assert_true(integer == integers[i].value);
        assert_true(gguf_float(key, 0, &number));
        assert_true(number == (double)integers[i].value);
        assert_false(gguf_integer(key, 1, &integer));
        assert_false(gguf_string_is(key, "text"));
    }
    assert_true(gguf_float(gguf_find_key(&gguf, "f32"), 0, &number) && number == 1.5);
    assert_true(gguf_float(gguf_find_key(&gguf, "f64"), 0, &number) && number == -2.25);
    assert_false(gguf_integer(gguf_find_key(&gguf, "f32"), 0, &integer));
    assert_false(gguf_integer(gguf_find_key(&gguf, "huge"), 0, &integer));
    assert_false(gguf_integer(gguf_find_key(&gguf, "string"), 0, &integer));
    assert_false(gguf_integer(gguf_find_key(&gguf, "missing"), 0, &integer));
    assert_true(gguf_string_is(gguf_find_key(&gguf, "string"), "text"));
    assert_false(gguf_string_is(gguf_find_key(&gguf, "string"), "text2"));
    assert_false(gguf_string_is(gguf_find_key(&gguf, "strings"), "one"));
    assert_true(gguf_integer(gguf_find_key(&gguf, "array"), 1, &integer) && integer == -8);
    assert_false(gguf_integer(gguf_find_key(&gguf, "array"), 3, &integer));
    const struct gguf_key *strings = gguf_find_key(&gguf, "strings");
    assert_int_equal(strings->count, 3);
    const unsigned char *cursor = strings->data;
    assert_int_equal(gguf_next_string(&cursor).length, 3);
    assert_int_equal(gguf_next_string(&cursor).length, 0);
    const struct gguf_string third = gguf_next_string(&cursor);
    assert_int_equal(third.length, 5);
    assert_memory_equal(third.text, "three", 5);
    gguf_close(&gguf);
}

static void refuses_keys_that_lie(void **state) {
    (void)state;
    struct gguf_file file = {0};
    gguf_add_u32(&file, "twice", 1);
    gguf_add_u32(&file, "twice", 1);
    expect_refusal(&file, "key twice occurs twice");
    gguf_add_key(&file, "odd", 13, "", 0);
    expect_refusal(&file, "key odd (type 13)");
    gguf_add_array(&file, "long", 8, UINT64_MAX, "", 0);
    expect_refusal(&file, "key long (type 8)");
    gguf_add_array(&file, "long", 4, UINT64_MAX / 4 + 2, "12345678", 8);
    expect_refusal(&file, "key long (type 4)");
    gguf_add_array(&file, "long", 9, UINT64_MAX, "", 0);
    expect_refusal(&file, "key long (type 9)");
    gguf_add_key(&file, "text", 8, (const uint64_t[]){UINT64_MAX - 7}, 8);
    expect_refusal(&file, "key text (type 8)");
    gguf_add_key(&file, "text", 8, (const uint64_t[]){1000}, 8);
    expect_refusal(&file, "key text (type 8)");
    struct bytes deep = {0}; /* arrays of one array, and so on */
    for (int i = 0; i < 100; i++) {
        bytes_add_u32(&deep, 9);
        bytes_add_u64(&deep, 1);
    }
    bytes_add_u32(&deep, 0); /* well formed but for its depth */
    bytes_add_u64(&deep, 0);
    gguf_add_key(&file, "deep", 9, deep.data, deep.size);
    bytes_free(&deep);
    expect_refusal(&file, "key deep");
    bytes_add_u64(&file.keys, 3);
    bytes_add(&file.keys, "a\0b\0\0\0\0\0", 8);
    file.key_count = 1;
    expect_refusal(&file, "holds a NUL");
    bytes_add_u64(&file.keys, UINT64_MAX);
    bytes_add(&file.keys, "12345678", 8);
    file.key_count = 1;
    expect_refusal(&file, "a key's name");
    gguf_add_u32(&file, "general.alignment", 48);
    expect_refusal(&file, "general.alignment");
    gguf_add_u32(&file, "general.alignment", 0);
    expect_refusal(&file, "general.alignment");
    gguf_add_string(&file, "general.alignment", "32");
    expect_refusal(&file, "general.alignment");
}

static void refuses_other_files(void **state) {
    (void)state;
    static const struct {
        const char *magic;
        uint32_t version;
        uint64_t tensors, keys;
        const char *message;
    } headers[] = {
        {"GGML", 3, 0, 0, "not a GGUF file"},
        {"GGUF", 2, 0, 0, "GGUF version 2; only version 3 is read"},
        {"GGUF", 4, 0, 0, "GGUF version 4"},
        {"GGUF", 0x03000000, 0, 0, "big-endian"},
        {"GGUF", 3, UINT64_MAX, 0, "do not fit"},
        {"GGUF", 3, 0, UINT64_MAX, "do not fit"},
        {"GGUF", 3, 5, 0, "do not fit"},
        {"GGUF", 3, 4, 9, "beyond the file's"},
    };
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        struct bytes bytes = {0};
        struct error error = {0};
        struct gguf gguf;
        bytes_add(&bytes, headers[i].magic, 4);
        bytes_add_u32(&bytes, headers[i].version);
        bytes_add_u64(&bytes, headers[i].tensors);
        bytes_add_u64(&bytes, headers[i].keys);
        for (int j = 0; j < 16; j++)
            bytes_add_u64(&bytes, UINT64_MAX);
        assert_int_equal(open_bytes(bytes.data, bytes.size, &gguf, &error), STATUS_INPUT);
        if (!strstr(error.message, headers[i].message))
            fail_msg("expected \"%s\": %s", headers[i].message, error.message);
        bytes_free(&bytes);
    }
}

/* --- tensors --- */

static void reads_tensors(void **state) {
    (void)state;
    const float matrix[6] = {1, 2, 3, 4, 5, 6};
    unsigned char blocks[2 * 18] = {0};
    blocks[1] = blocks[18 + 1] = 0x3c; /* both scales 1 */
    blocks[18 + 2] = 0xf0;             /* second block: element 0 is -8, element 16 is 7 */
    struct gguf_file file = {0};
    gguf_add_tensor(&file, "blocks", 2, 2, (const uint64_t[]){32, 2}, blocks, sizeof blocks);
    gguf_add_tensor(&file, "matrix", 0, 2, (const uint64_t[]){2, 3}, matrix, sizeof matrix);
    gguf_add_tensor(&file, "other", 10, 2, (const uint64_t[]){256, 1}, blocks, 32);
    gguf_add_tensor(&file, "unknown", 99, 1, (const uint64_t[]){1}, blocks, 32);
    struct error error = {0};
    struct gguf gguf;
    assert_int_equal(open_file(&file, &gguf, &error), STATUS_OK);
    assert_int_equal(gguf.count, 2);
    const struct tensor *tensor = gguf_find_tensor(&gguf, "matrix");
    float values[64];
    assert_int_equal(tensor->rank, 2);
    assert_int_equal(tensor->shape[0], 3); /* outermost first */
    assert_int_equal(tensor->shape[1], 2);
    tensor_read_f32(tensor, 1, 3, values);
    assert_memory_equal(values, matrix + 2, 4 * sizeof *values);
    tensor = gguf_find_tensor(&gguf, "blocks");
    assert_int_equal(tensor->type, TENSOR_Q4_0);
    tensor_read_f32(tensor, 1, 2, values);
    assert_true(values[0] == -8 && values[16] == 7);
    assert_null(gguf_find_tensor(&gguf, "other"));
    assert_int_equal(gguf.unread_count, 2);
    assert_string_equal(gguf.unread[0].name, "other");
    assert_string_equal(gguf.unread[0].reason, "Q2_K");
    assert_string_equal(gguf.unread[1].reason, "an unknown type");
    gguf_close(&gguf);
}

static void respects_alignment(void **state) {
    (void)state;
    struct gguf_file file = {0};
    gguf_add_u32(&file, "general.alignment", 4096);
    gguf_add_entry(&file, "a", 0, 1, (const uint64_t[]){1}, 0);
    gguf_add_entry(&file, "b", 0, 1, (const uint64_t[]){1}, 4096);
    struct bytes bytes = gguf_finish(&file), zeros = {calloc(3, 4096), 4096 - bytes.size};
    bytes_add(&bytes, zeros.data, 4096 - bytes.size); /* gguf_finish aligned to 32 */
    bytes_add(&bytes, (const float[]){5}, 4);
    bytes_add(&bytes, zeros.data, 4092);
    bytes_add(&bytes, (const float[]){6}, 4);
    bytes_free(&zeros);
    struct error error = {0};
    struct gguf gguf;
    float value;
    assert_int_equal(open_bytes(bytes.data, bytes.size, &gguf, &error), STATUS_OK);
    assert_int_equal(gguf.data_begin, 4096);
    tensor_read_f32(gguf_find_tensor(&gguf, "b"), 0, 1, &value);
    assert_true(value == 6);
    gguf_close(&gguf);
    assert_int_equal(open_bytes(bytes.data, bytes.size - 1, &gguf, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "tensor b"));
    bytes_free(&bytes);
}

static void refuses_tensors_that_lie(void **state) {
    (void)state;
    static const float zeros[64] = {0};
    static const struct {
        uint32_t type, rank;
        uint64_t dimensions[5];
        uint64_t offset;
        const char *message;
    } lies[] = {
        {0, 0, {0}, 0, "tensor bad has 0 dimensions"},
        {0, 5, {1, 1, 1, 1, 1}, 0, "tensor bad has 5 dimensions"},
        {0, 2, {4, 0}, 0, "tensor bad: its shape"},
        {0, 2, {1ull << 62, 4}, 0, "tensor bad: its shape"},
        {0, 2, {1ull << 32, 1ull << 32}, 0, "tensor bad: its shape"},
        {0, 4, {1ull << 16, 1ull << 16, 1ull << 16, 1ull << 16}, 0, "tensor bad: its shape"},
        {0, 1, {UINT64_MAX}, 0, "tensor bad: its shape"},
        {2,
         2,
         {16, 2},
         0,
         "tensor bad: its shape is impossible, or no whole number of Q4_0 blocks"},
        {14, 1, {255}, 0, "no whole number of Q6_K blocks"},
        {0, 1, {65}, 256, "tensor bad (260 bytes at offset 256) runs beyond"},
        {0, 1, {8}, 264, "tensor bad at offset 264"},
        {0, 1, {8}, 1ull << 63, "runs beyond"},
        {0, 1, {8}, UINT64_MAX - 31, "runs beyond"},
        {0, 1, {8}, 224, "overlaps another one"},
        {99, 1, {8}, 1ull << 63, "runs beyond"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct gguf_file file = {0};
        gguf_add_tensor(&file, "good", 0, 1, (const uint64_t[]){64}, zeros, sizeof zeros);
        gguf_add_entry(&file, "bad", lies[i].type, lies[i].rank, lies[i].dimensions,
                       lies[i].offset);
        expect_refusal(&file, lies[i].message);
    }
    struct gguf_file file = {0};
    gguf_add_tensor(&file, "same", 0, 1, (const uint64_t[]){64}, zeros, sizeof zeros);
    gguf_add_tensor(&file, "same", 0, 1, (const uint64_t[]){64}, zeros, sizeof zeros);
    expect_refusal(&file, "tensor same occurs twice");
}

/* --- mutations --- */

static const char *const pieces[] = {"<unk>",
                                     "<s>",
                                     "</s>",
                                     "\xe2\x96\x81",
                                     "a",
                                     "b",
                                     "ab",
                                     "\xe2\x96\x81"
                                     "a",
                                     "<0x0A>",
                                     "\xe2\x96\x81"
                                     "ab"};
static const int32_t piece_types[] = {2, 3, 3, 1, 1, 1, 1, 1, 6, 1};
static const float piece_scores[] = {0, 0, 0, -5, -4, -6, -1, -2, 0, -3};

static struct bytes make_whole(void) {
    const float zeros[10 * 8] = {0};
    struct gguf_file file = {0};
    gguf_add_string(&file, "general.architecture", "llama");
    gguf_add_u32(&file, "llama.block_count", 1);
    gguf_add_u32(&file, "llama.context_length", 64);
    gguf_add_u32(&file, "llama.embedding_length", 8);
    gguf_add_u32(&file, "llama.feed_forward_length", 8);
    gguf_add_u32(&file, "llama.attention.head_count", 2);
    gguf_add_f32(&file, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_add_string(&file, "tokenizer.ggml.model", "llama");
    gguf_add_strings(&file, "tokenizer.ggml.tokens", pieces, 10);
    gguf_add_array(&file, "tokenizer.ggml.token_type", 5, 10, piece_types, sizeof piece_types);
    gguf_add_array(&file, "tokenizer.ggml.scores", 6, 10, piece_scores, sizeof piece_scores);
    gguf_add_u32(&file, "tokenizer.ggml.bos_token_id", 1);
    gguf_add_tensor(&file, "token_embd.weight", 0, 2, (const uint64_t[]){8, 10}, zeros,
                    sizeof zeros);
    gguf_add_tensor(&file, "rope_freqs.weight", 0, 1, (const uint64_t[]){2}, (const float[]){1, 1},
                    8);
    gguf_add_tensor(&file, "blk.0.attn_q.weight", 8, 2, (const uint64_t[]){32, 1}, zeros, 34);
    return gguf_finish(&file);
}

/* What is opened can be read. */
static void read_all(const struct gguf *gguf) {
    for (int64_t i = 0; i < gguf->count; i++) {
        const struct tensor *tensor = &gguf->tensors[i];
        assert_true(tensor->data >= gguf->file.data + gguf->data_begin);
        assert_true(tensor->data + tensor->bytes <= gguf->file.data + gguf->file.size);
        const int64_t elements = tensor_rows(tensor) * tensor_columns(tensor);
        assert_in_range(elements, 1, 4096);
        float *values = malloc((size_t)elements * sizeof *values);
        tensor_read_f32(tensor, 0, tensor_rows(tensor), values);
        free(values);
    }
}

static void open_mutated(const struct bytes *bytes) {
    struct error error = {0};
    struct gguf gguf;
    if (open_bytes(bytes->data, bytes->size, &gguf, &error) != STATUS_OK) {
        assert_true(error.message[0] != '\0');
        return;
    }
    read_all(&gguf);
    json_t *config;
    if (gguf_config(&gguf, &config, &error) == STATUS_OK)
        json_decref(config);
    char *text;
    size_t length;
    if (gguf_tokenizer_json(&gguf, &text, &length, &error) == STATUS_OK) {
        json_t *tokenizer = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
        assert_non_null(tokenizer);
        json_decref(tokenizer);
        free(text);
    }
    gguf_close(&gguf);
}

/* Every truncation is refused; every byte of the header changed to a few others is refused or read.
 */
static void survives_mutations(void **state) {
    (void)state;
    struct bytes bytes = make_whole();
    struct error error = {0};
    struct gguf gguf;
    assert_int_equal(open_bytes(bytes.data, bytes.size, &gguf, &error), STATUS_OK);
    const size_t header = gguf.data_begin;
    gguf_close(&gguf);
    for (size_t size = 0; size < bytes.size - 30; size++) /* 30 bytes pad the last tensor */
        assert_int_equal(open_bytes(bytes.data, size, &gguf, &error), STATUS_INPUT);
    static const unsigned char changes[] = {0x01, 0x02, 0x08, 0x40, 0x80, 0xff};
    for (size_t i = 0; i < header; i++)
        for (size_t j = 0; j < sizeof changes; j++) {
            bytes.data[i] ^= changes[j];
            open_mutated(&bytes);
            bytes.data[i] ^= changes[j];
        }
    bytes_free(&bytes);
}

int main(void) {
    memory_file = memory_file_make();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_keys_of_every_type), cmocka_unit_test(refuses_keys_that_lie),
        cmocka_unit_test(refuses_other_files),      cmocka_unit_test(reads_tensors),
        cmocka_unit_test(respects_alignment),       cmocka_unit_test(refuses_tensors_that_lie),
        cmocka_unit_test(survives_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
