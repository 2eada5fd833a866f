/* Folders and GGUF files as one kind of source. Real models: FPTQ_TEST_DATA (models/stories260K)
 * and FPTQ_TEST_MODELS (qwen/qwen2.5-coder-1.5b.gguf, smollm/smollm2-135m.gguf). */
#include "io/model_source.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "io/digest.h"
#include "model_files.h"

static struct folder folder;

static const char index_name[] = "model.safetensors.index.json";

static void remove_files(void) {
    static const char *const names[] = {
        "config.json",       "tokenizer.json", "tokenizer.model",
        "model.safetensors", "a.safetensors",  "b.safetensors",
        "model.gguf",        "other.gguf",     "model.safetensors.index.json",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        folder_delete(&folder, names[i]);
}

static struct model_source *open_good(const char *path) {
    struct error error = {0};
    struct model_source *source;
    if (model_source_open(path, &source, &error) != STATUS_OK)
        fail_msg("%s", error.message);
    return source;
}

static void expect_refusal(const char *message) {
    struct error error = {0};
    struct model_source *source;
    const enum status status = model_source_open(folder.path, &source, &error);
    if (status != STATUS_INPUT || !strstr(error.message, message) ||
        !strstr(error.message, folder.path))
        fail_msg("expected \"%s\": status %d, %s", message, (int)status, error.message);
    assert_null(source);
    remove_files();
}

/* A shard with one F32 tensor of two elements, and an I64 buffer when `buffer`. */
static void write_shard(const char *file, const char *tensor, float value, bool buffer) {
    char header[400];
    const float data[4] = {value, -value};
    snprintf(header, sizeof header,
             "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}%s}", tensor,
             buffer ? ",\"buffer\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[8,16]}" : "");
    struct bytes bytes = safetensors_make(header, data, buffer ? 16 : 8);
    folder_write(&folder, file, bytes.data, bytes.size);
    bytes_free(&bytes);
}

static void expect_tensor(const struct model_source *source, const char *name, float value) {
    float values[2];
    const struct tensor *tensor = model_source_find(source, name);
    assert_non_null(tensor);
    tensor_read_f32(tensor, 0, 1, values);
    assert_true(values[0] == value && values[1] == -value);
    assert_true(model_source_file_row(source, tensor, 1) == 1);
    assert_false(model_source_rows_permuted(source, tensor));
}

static void one_file(void **state) {
    (void)state;
    struct error error = {0};
    const struct tensor *tensor;
    char *text;
    size_t length;
    folder_write_text(&folder, "config.json", "{\"model_type\":\"llama\",\"x\":[1.5]}");
    write_shard("model.safetensors", "model.norm.weight", 3, true);
    struct model_source *source = open_good(folder.path);
    assert_string_equal(model_source_path(source), folder.path);
    assert_false(model_source_is_gguf(source));
    assert_string_equal(
        json_string_value(json_object_get(model_source_config(source), "model_type")), "llama");
    assert_int_equal(model_source_tensor_count(source), 1);
    assert_string_equal(model_source_tensor_name(source, 0), "model.norm.weight");
    expect_tensor(source, "model.norm.weight", 3);
    assert_null(model_source_find(source, "buffer"));
    assert_int_equal(model_source_require(source, "model.norm.weight", &tensor, &error), STATUS_OK);
    assert_ptr_equal(tensor, model_source_tensor(source, 0));
    assert_int_equal(model_source_require(source, "buffer", &tensor, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "tensor buffer (I64) cannot be read"));
    assert_int_equal(model_source_require(source, "lm_head.weight", &tensor, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "no tensor lm_head.weight"));
    assert_int_equal(model_source_tokenizer_json(source, &text, &length, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "no tokenizer.json"));
    folder_write_text(&folder, "tokenizer.model", "");
    assert_int_equal(model_source_tokenizer_json(source, &text, &length, &error), STATUS_INPUT);
    assert_non_null(strstr(error.message, "only tokenizer.model"));
    folder_write_text(&folder, "tokenizer.json", "{\"a\":1}");
    assert_int_equal(model_source_tokenizer_json(source, &text, &length, &error), STATUS_OK);
    assert_int_equal(length, 7);
    assert_string_equal(text, "{\"a\":1}");
    free(text);
    model_source_close(source);
    remove_files();
}

static void write_index(const char *map) {
    char text[1000];
    snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":16},\"weight_map\":%s}", map);
    folder_write_text(&folder, "config.json", "{\"model_type\":\"llama\"}");
    folder_write_text(&folder, index_name, text);
    write_shard("a.safetensors", "t.one", 1, true);
    write_shard("b.safetensors", "t.two", 2, false);
}

static void shards(void **state) {
    (void)state;
    write_index("{\"t.two\":\"b.safetensors\",\"t.one\":\"a.safetensors\","
                "\"buffer\":\"a.safetensors\"}");
    struct model_source *source = open_good(folder.path);
    assert_int_equal(model_source_tensor_count(source), 2);
    assert_string_equal(model_source_tensor_name(source, 0), "t.one");
    assert_string_equal(model_source_tensor_name(source, 1), "t.two");
    expect_tensor(source, "t.one", 1);
    expect_tensor(source, "t.two", 2);
    model_source_close(source);
    /* Of a name in two files, the index says which one counts. */
    write_index("{\"t.one\":\"b.safetensors\"}");
    write_shard("b.safetensors", "t.one", 7, false);
    source = open_good(folder.path);
    expect_tensor(source, "t.one", 7);
    model_source_close(source);
    remove_files();
}

static void refuses_folders(void **state) {
    (void)state;
    expect_refusal("config.json: No such file");
    folder_write_text(&folder, "config.json", "");
    expect_refusal("config.json: line");
    folder_write_text(&folder, "config.json", "{\"a\":1,}");
    expect_refusal("config.json: line 1");
    folder_write_text(&folder, "config.json", "[1]");
    expect_refusal("not a JSON object");
    char *deep = malloc(100001);
    memset(deep, '[', 100000);
    deep[100000] = '\0';
    folder_write_text(&folder, "config.json", deep);
    free(deep);
    expect_refusal("depth");
    folder_write_text(&folder, "config.json", "{}");
    expect_refusal("neither model.safetensors nor");
    folder_write_text(&folder, "config.json", "{}");
    folder_write_text(&folder, "model.safetensors", "");
    expect_refusal("model.safetensors: 0 bytes");
    folder_write_text(&folder, "config.json", "{}");
    folder_write_text(&folder, index_name, "{\"weight_map\":[]}");
    expect_refusal("no object \"weight_map\"");
    static const struct {
        const char *map, *message;
    } faults[] = {
        {"{\"t.one\":\"../a.safetensors\"}", "tensor t.one: \"../a.safetensors\" is no name"},
        {"{\"t.one\":\"/etc/passwd\"}", "is no name"},
        {"{\"t.one\":\"x/a.safetensors\"}", "is no name"},
        {"{\"t.one\":\"x\\\\a.safetensors\"}", "is no name"},
        {"{\"t.one\":\"..\"}", "is no name"},
        {"{\"t.one\":\"\"}", "is no name"},
        {"{\"t.one\":7}", "is no name"},
        {"{\"t.one\":\"c.safetensors\"}", "c.safetensors: No such file"},
        {"{\"t.two\":\"a.safetensors\"}", "a.safetensors: no tensor t.two"},
        {"{\"__metadata__\":\"a.safetensors\"}", "a.safetensors: no tensor __metadata__"},
        {"{\"t.one\":\"a.safetensors\",\"t.one\":\"b.safetensors\"}", "duplicate"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        write_index(faults[i].map);
        expect_refusal(faults[i].message);
    }
    struct error error = {0};
    struct model_source *source;
    assert_int_equal(model_source_open("/nonexistent", &source, &error), STATUS_INPUT);
    assert_string_equal(error.message, "/nonexistent: No such file or directory");
}

/* --- GGUF --- */

enum { HIDDEN = 24, HEADS = 3, HEAD_DIM = 8 };

/* A "llama" file whose q (HEADS heads) and k (one head) rows each hold their Hugging Face row's
 * number: the file's rows are those of a head, (2, HEAD_DIM / 2), transposed. */
static void write_gguf(const char *name, uint32_t value_type) {
    float q[HIDDEN * HIDDEN] = {0}, k[HEAD_DIM * HIDDEN] = {0}, bias[HIDDEN],
                     zeros[HIDDEN * HIDDEN];
    for (int head = 0; head < HEADS; head++)
        for (int half = 0; half < 2; half++)
            for (int pair = 0; pair < HEAD_DIM / 2; pair++) {
                const int row = head * HEAD_DIM + half * (HEAD_DIM / 2) + pair;
                const int file_row = head * HEAD_DIM + pair * 2 + half;
                q[file_row * HIDDEN] = bias[file_row] = (float)row;
                if (head == 0)
                    k[file_row * HIDDEN] = (float)row;
            }
    memset(zeros, 0, sizeof zeros);
    struct gguf_file file = {0};
    gguf_add_string(&file, "general.architecture", "llama");
    gguf_add_u32(&file, "llama.block_count", 1);
    gguf_add_u32(&file, "llama.context_length", 64);
    gguf_add_u32(&file, "llama.embedding_length", HIDDEN);
    gguf_add_u32(&file, "llama.feed_forward_length", HIDDEN);
    gguf_add_u32(&file, "llama.attention.head_count", HEADS);
    gguf_add_u32(&file, "llama.attention.head_count_kv", 1);
    gguf_add_f32(&file, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_add_tensor(&file, "token_embd.weight", 0, 2, (const uint64_t[]){HIDDEN, 4}, zeros,
                    4 * HIDDEN * sizeof *zeros);
    gguf_add_tensor(&file, "blk.0.attn_q.weight", 0, 2, (const uint64_t[]){HIDDEN, HIDDEN}, q,
                    sizeof q);
    gguf_add_tensor(&file, "blk.0.attn_q.bias", 0, 1, (const uint64_t[]){HIDDEN}, bias,
                    sizeof bias);
    gguf_add_tensor(&file, "blk.0.attn_k.weight", 0, 2, (const uint64_t[]){HIDDEN, HEAD_DIM}, k,
                    sizeof k);
    gguf_add_tensor(&file, "blk.0.attn_v.weight", value_type, 2,
                    (const uint64_t[]){HIDDEN, HEAD_DIM}, k, sizeof k);
    gguf_add_tensor(&file, "surplus.weight", 0, 1, (const uint64_t[]){HIDDEN}, zeros,
                    HIDDEN * sizeof *zeros);
    struct bytes bytes = gguf_finish(&file);
    folder_write(&folder, name, bytes.data, bytes.size);
    bytes_free(&bytes);
}

static void one_gguf_file(void **state) {
    (void)state;
    char path[200];
    write_gguf("model.gguf", 0);
    folder_path(&folder, "model.gguf", path);
    struct model_source *source = open_good(path);
    assert_true(model_source_is_gguf(source));
    assert_int_equal(model_source_tensor_count(source), 5);
    assert_int_equal(json_integer_value(json_object_get(model_source_config(source), "head_dim")),
                     HEAD_DIM);
    static const char *const names[] = {"model.layers.0.self_attn.q_proj.weight",
                                        "model.layers.0.self_attn.k_proj.weight"};
    float row_values[HIDDEN];
    for (int i = 0; i < 2; i++) {
        const struct tensor *tensor = model_source_find(source, names[i]);
        assert_true(model_source_rows_permuted(source, tensor));
        for (int64_t row = 0; row < tensor_rows(tensor); row++) {
            const int64_t file_row = model_source_file_row(source, tensor, row);
            tensor_read_f32(tensor, file_row, file_row + 1, row_values);
            assert_true(row_values[0] == (float)row);
        }
    }
    const struct tensor *bias = model_source_find(source, "model.layers.0.self_attn.q_proj.bias");
    tensor_read_f32(bias, 0, 1, row_values);
    for (int64_t row = 0; row < HIDDEN; row++)
        assert_true(row_values[model_source_file_row(source, bias, row)] == (float)row);
    const struct tensor *v = model_source_find(source, "model.layers.0.self_attn.v_proj.weight");
    assert_false(model_source_rows_permuted(source, v));
    assert_int_equal(model_source_file_row(source, v, 3), 3);
    model_source_close(source);
    remove_files();
}

/* A type that is not read says so when the tensor is asked for. */
static void a_type_that_is_not_read(void **state) {
    (void)state;
    char path[200];
    struct error error = {0};
    const struct tensor *tensor;
    write_gguf("model.gguf", 11);
    folder_path(&folder, "model.gguf", path);
    struct model_source *source = open_good(path);
    assert_int_equal(
        model_source_require(source, "model.layers.0.self_attn.v_proj.weight", &tensor, &error),
        STATUS_INPUT);
    assert_non_null(strstr(error.message, "self_attn.v_proj.weight (Q3_K) cannot be read"));
    assert_null(tensor);
    model_source_close(source);
    remove_files();
}

/* BLOOM: row (3 h + c) d + j of Hugging Face lies at (c heads + h) d + j of the file. */
static void bloom_rows(void **state) {
    (void)state;
    enum { D = 4, H = 3, N = D * H };
    float bias[3 * N], zeros[4 * N] = {0};
    for (int c = 0; c < 3; c++)
        for (int h = 0; h < H; h++)
            for (int j = 0; j < D; j++)
                bias[(c * H + h) * D + j] = (float)((3 * h + c) * D + j);
    struct gguf_file file = {0};
    gguf_add_string(&file, "general.architecture", "bloom");
    gguf_add_u32(&file, "bloom.block_count", 1);
    gguf_add_u32(&file, "bloom.embedding_length", N);
    gguf_add_u32(&file, "bloom.attention.head_count", H);
    gguf_add_tensor(&file, "token_embd.weight", 0, 2, (const uint64_t[]){N, 4}, zeros,
                    sizeof zeros);
    gguf_add_tensor(&file, "blk.0.attn_qkv.bias", 0, 1, (const uint64_t[]){3 * N}, bias,
                    sizeof bias);
    struct bytes bytes = gguf_finish(&file);
    char path[200];
    folder_write(&folder, "model.gguf", bytes.data, bytes.size);
    bytes_free(&bytes);
    folder_path(&folder, "model.gguf", path);
    struct model_source *source = open_good(path);
    const struct tensor *tensor =
        model_source_find(source, "transformer.h.0.self_attention.query_key_value.bias");
    float values[3 * N];
    tensor_read_f32(tensor, 0, 1, values);
    for (int64_t row = 0; row < 3 * N; row++)
        assert_true(values[model_source_file_row(source, tensor, row)] == (float)row);
    assert_true(model_source_rows_permuted(source, tensor));
    model_source_close(source);
    remove_files();
}

/* --- fingerprint --- */

static void take_fingerprint(const char *path, char digest[65]) {
    struct error error = {0};
    struct model_source *source = open_good(path);
    assert_int_equal(model_source_fingerprint(source, digest, &error), STATUS_OK);
    assert_int_equal(strlen(digest), 64);
    model_source_close(source);
}

static void fingerprints(void **state) {
    (void)state;
    char first[65], second[65], path[200];
    folder_write_text(&folder, "config.json", "{\"a\":1,\"b\":2}");
    write_shard("model.safetensors", "x", 1, false);
    take_fingerprint(folder.path, first);
    folder_write_text(&folder, "config.json", "{\"b\": 2, \"a\": 1}\n"); /* the same config */
    write_shard("model.safetensors", "x", 2, false);                     /* other weights */
    take_fingerprint(folder.path, second);
    assert_string_equal(first, second);
    folder_write_text(&folder, "config.json", "{\"a\":1,\"b\":3}");
    take_fingerprint(folder.path, second);
    assert_string_not_equal(first, second);
    folder_write_text(&folder, "config.json", "{\"a\":1,\"b\":2}");
    write_shard("model.safetensors", "y", 1, false);
    take_fingerprint(folder.path, second);
    assert_string_not_equal(first, second);
    write_gguf("model.gguf", 0);
    write_gguf("other.gguf", 0);
    folder_path(&folder, "model.gguf", path);
    take_fingerprint(path, first);
    folder_path(&folder, "other.gguf", path);
    take_fingerprint(path, second);
    assert_string_not_equal(first, second);
    remove_files();
}

/* --- real models --- */

/* sha256 of the first rows of a tensor, at most 64, in Hugging Face's order; recorded from the gguf
 * package (and, for the order, transformers). */
static void expect_rows(const struct model_source *source, const char *name, const char *sha256) {
    const struct tensor *tensor = model_source_find(source, name);
    assert_non_null(tensor);
    const int64_t rows = tensor_rows(tensor) < 64 ? tensor_rows(tensor) : 64;
    const int64_t columns = tensor_columns(tensor);
    float *values = malloc((size_t)(rows * columns) * sizeof *values);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t file_row = model_source_file_row(source, tensor, row);
        tensor_read_f32(tensor, file_row, file_row + 1, values + row * columns);
    }
    char sum[65];
    digest_bytes(values, (size_t)(rows * columns) * sizeof *values, sum);
    assert_string_equal(sum, sha256);
    free(values);
}

/* NULL, having said so, when the variable is not set or the file is not there. */
static struct model_source *open_real(const char *variable, const char *name) {
    const char *root = getenv(variable);
    char path[1000];
    snprintf(path, sizeof path, "%s/%s", root ? root : "", name);
    if (!root || access(path, R_OK)) {
        print_message("skipped: %s/%s is not there (set %s)\n", root ? root : "...", name,
                      variable);
        return NULL;
    }
    return open_good(path);
}

static void expect_config(const struct model_source *source, const char *expected) {
    json_t *wanted = json_loads(expected, 0, NULL);
    assert_non_null(wanted);
    const char *key;
    json_t *value;
    json_object_foreach(wanted, key,
                        value) if (!json_equal(json_object_get(model_source_config(source), key),
                                               value)) fail_msg("config.%s differs", key);
    json_decref(wanted);
}

static void real_folder(void **state) {
    (void)state;
    struct model_source *source = open_real("FPTQ_TEST_DATA", "models/stories260K");
    if (!source)
        skip();
    assert_int_equal(model_source_tensor_count(source), 47);
    expect_rows(source, "model.layers.4.mlp.down_proj.weight",
                "414592b302b72ae5a85da2bfde57c127f23ee6d306b2abeb3be9c9888fb4901e");
    model_source_close(source);
}

static void real_qwen2(void **state) {
    (void)state;
    struct model_source *source = open_real("FPTQ_TEST_MODELS", "qwen/qwen2.5-coder-1.5b.gguf");
    if (!source)
        skip();
    expect_config(source,
                  "{\"model_type\":\"qwen2\",\"hidden_size\":1536,\"intermediate_size\":8960,"
                  "\"num_hidden_layers\":28,\"num_attention_heads\":12,"
                  "\"num_key_value_heads\":2,\"head_dim\":128,"
                  "\"rms_norm_eps\":9.999999974752427e-07,\"rope_theta\":1000000.0,"
                  "\"max_position_embeddings\":32768,\"vocab_size\":151936,"
                  "\"tie_word_embeddings\":false,\"bos_token_id\":151643,"
                  "\"eos_token_id\":151645,\"pad_token_id\":151643,\"attention_bias\":true}");
    assert_int_equal(model_source_tensor_count(source), 339);
    expect_rows(source, "lm_head.weight",
                "fcdb271750d9f14ddd38783cc16e61d69900f4027965c37e2dd4dbf6b1e21211");
    expect_rows(source, "model.embed_tokens.weight",
                "d6604c1a0e026f80cddc1812c0facfdb06cf1cc492ebcd454a901e7664780fb4");
    expect_rows(source, "model.layers.27.mlp.down_proj.weight",
                "ec2008e2ad467a1f4391d25cce316981435bcc4cdfa180252e3a03fb21b5415e");
    expect_rows(source, "model.layers.3.self_attn.q_proj.weight",
                "919eb7917c101a0a8af5d306e644ad68b46ede956323c74e37bda4f4569b3c4d");
    expect_rows(source, "model.layers.3.self_attn.q_proj.bias",
                "413a0309d61526c5b9fbe2a0b43a6c484f75c30b49b1239c8906996a7e738f23");
    model_source_close(source);
}

static void real_smollm2(void **state) {
    (void)state;
    struct model_source *source = open_real("FPTQ_TEST_MODELS", "smollm/smollm2-135m.gguf");
    if (!source)
        skip();
    expect_config(source,
                  "{\"model_type\":\"llama\",\"hidden_size\":576,\"intermediate_size\":1536,"
                  "\"num_hidden_layers\":30,\"num_attention_heads\":9,"
                  "\"num_key_value_heads\":3,\"head_dim\":64,"
                  "\"rms_norm_eps\":9.999999747378752e-06,\"rope_theta\":100000.0,"
                  "\"max_position_embeddings\":8192,\"vocab_size\":49152,"
                  "\"tie_word_embeddings\":true,\"bos_token_id\":1,\"eos_token_id\":2,"
                  "\"pad_token_id\":2,\"unk_token_id\":0,\"attention_bias\":false}");
    assert_int_equal(model_source_tensor_count(source), 272);
    expect_rows(source, "model.embed_tokens.weight",
                "fa3a0dda82189bc050dbd8c25a34d4135d7c7c983c276a134060970e58a82dd8");
    expect_rows(source, "model.layers.7.self_attn.q_proj.weight",
                "787aae767227b01388eb4190cc38ba50f3a1309a7b09ff571e6a9fd98408624a");
    expect_rows(source, "model.layers.7.self_attn.k_proj.weight",
                "b8f8eeeb3acf47f273ae24a76969b84d51b50517c0a50f997b3b398c67fdc44f");
    expect_rows(source, "model.layers.29.mlp.up_proj.weight",
                "a6e0dfd4bbaa9c197e8a338210f752a84892eb15686e34ab18c149a0299a4210");
    model_source_close(source);
}

static int make_folder(void **state) {
    (void)state;
    folder = folder_make();
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    remove_files();
    folder_remove(&folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_file),
        cmocka_unit_test(shards),
        cmocka_unit_test(refuses_folders),
        cmocka_unit_test(one_gguf_file),
        cmocka_unit_test(a_type_that_is_not_read),
        cmocka_unit_test(bloom_rows),
        cmocka_unit_test(fingerprints),
        cmocka_unit_test(real_folder),
        cmocka_unit_test(real_qwen2),
        cmocka_unit_test(real_smollm2),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
