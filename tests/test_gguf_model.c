/* The config, names and tokenizers that are made of GGUF files. */
#include "io/gguf_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "io/gguf_vocabulary.h"
#include "io/tokenizer.h"
#include "model_files.h"

static struct memory_file memory_file;

/* Open what was built, which is well formed; `file` is freed. */
static void open_file(struct gguf_file *file, struct gguf *gguf) {
    struct bytes bytes = gguf_finish(file);
    struct error error = {0};
    memory_file_set(&memory_file, bytes.data, bytes.size);
    if (gguf_open(memory_file.path, gguf, &error) != STATUS_OK)
        fail_msg("%s", error.message);
    bytes_free(&bytes);
}

static void add_key(struct gguf_file *file, const char *architecture, const char *name,
                    uint32_t value) {
    char key[100];
    snprintf(key, sizeof key, "%s.%s", architecture, name);
    gguf_add_u32(file, key, value);
}

static void add_zeros(struct gguf_file *file, const char *name, uint64_t columns, uint64_t rows) {
    static const float zeros[64 * 64] = {0};
    gguf_add_tensor(file, name, 0, rows ? 2 : 1, (const uint64_t[]){columns, rows}, zeros,
                    columns * (rows ? rows : 1) * sizeof *zeros);
}

/* The keys and the embedding that llama and qwen2 need. hidden 64, 4 heads, 2 key-value heads. */
static void add_decoder(struct gguf_file *file, const char *architecture) {
    gguf_add_string(file, "general.architecture", architecture);
    add_key(file, architecture, "block_count", 3);
    add_key(file, architecture, "context_length", 512);
    add_key(file, architecture, "embedding_length", 64);
    add_key(file, architecture, "feed_forward_length", 172);
    add_key(file, architecture, "attention.head_count", 4);
    add_key(file, architecture, "attention.head_count_kv", 2);
    char key[100];
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", architecture);
    gguf_add_f32(file, key, 0x1p-20f);
    add_zeros(file, "token_embd.weight", 64, 10);
}

static json_t *make_config(struct gguf_file *file) {
    struct gguf gguf;
    struct error error = {0};
    json_t *config;
    open_file(file, &gguf);
    if (gguf_config(&gguf, &config, &error) != STATUS_OK)
        fail_msg("%s", error.message);
    gguf_close(&gguf);
    return config;
}

static void expect_config(struct gguf_file *file, const char *expected) {
    json_t *config = make_config(file), *wanted = json_loads(expected, 0, NULL);
    assert_non_null(wanted);
    if (!json_equal(config, wanted))
        fail_msg("made %s", json_dumps(config, 0));
    json_decref(config);
    json_decref(wanted);
}

static void expect_refusal(struct gguf_file *file, const char *message) {
    struct gguf gguf;
    struct error error = {0};
    json_t *config;
    open_file(file, &gguf);
    const enum status status = gguf_config(&gguf, &config, &error);
    if (status != STATUS_INPUT || !strstr(error.message, message))
        fail_msg("expected \"%s\": status %d, %s", message, (int)status, error.message);
    assert_null(config);
    gguf_close(&gguf);
}

/* --- config --- */

static void config_of_llama(void **state) {
    (void)state;
    struct gguf_file file = {0};
    add_decoder(&file, "llama");
    gguf_add_f32(&file, "llama.rope.freq_base", 50000);
    gguf_add_u32(&file, "tokenizer.ggml.bos_token_id", 1);
    gguf_add_u32(&file, "tokenizer.ggml.eos_token_id", 2);
    expect_config(&file,
                  "{\"model_type\":\"llama\",\"hidden_act\":\"silu\",\"hidden_size\":64,"
                  "\"intermediate_size\":172,\"num_hidden_layers\":3,\"num_attention_heads\":4,"
                  "\"num_key_value_heads\":2,\"head_dim\":16,\"rms_norm_eps\":9.5367431640625e-07,"
                  "\"rope_theta\":50000.0,\"max_position_embeddings\":512,\"vocab_size\":10,"
                  "\"tie_word_embeddings\":true,\"bos_token_id\":1,\"eos_token_id\":2,"
                  "\"attention_bias\":false}");
}

static void config_of_qwen2(void **state) {
    (void)state;
    struct gguf_file file = {0};
    add_decoder(&file, "qwen2");
    add_key(&file, "qwen2", "attention.key_length", 32);
    add_key(&file, "qwen2", "attention.value_length", 32);
    add_key(&file, "qwen2", "rope.dimension_count", 32);
    gguf_add_string(&file, "qwen2.rope.scaling.type", "yarn");
    gguf_add_f32(&file, "qwen2.rope.scaling.factor", 4);
    add_key(&file, "qwen2", "rope.scaling.original_context_length", 128);
    add_zeros(&file, "output.weight", 64, 10);
    add_zeros(&file, "blk.0.attn_q.bias", 64, 0);
    expect_config(&file,
                  "{\"model_type\":\"qwen2\",\"hidden_act\":\"silu\",\"hidden_size\":64,"
                  "\"intermediate_size\":172,\"num_hidden_layers\":3,\"num_attention_heads\":4,"
                  "\"num_key_value_heads\":2,\"head_dim\":32,\"rms_norm_eps\":9.5367431640625e-07,"
                  "\"rope_theta\":10000.0,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
                  "\"original_max_position_embeddings\":128},\"max_position_embeddings\":512,"
                  "\"vocab_size\":10,\"tie_word_embeddings\":false,\"attention_bias\":true}");
}

static void config_of_bloom(void **state) {
    (void)state;
    struct gguf_file file = {0};
    gguf_add_string(&file, "general.architecture", "bloom");
    add_key(&file, "bloom", "block_count", 2);
    add_key(&file, "bloom", "embedding_length", 64);
    add_key(&file, "bloom", "attention.head_count", 4);
    gguf_add_f32(&file, "bloom.attention.layer_norm_epsilon", 0x1p-20f);
    add_zeros(&file, "token_embd.weight", 64, 10);
    add_zeros(&file, "output.weight", 64, 10);
    expect_config(&file, "{\"model_type\":\"bloom\",\"hidden_size\":64,\"n_layer\":2,\"n_head\":4,"
                         "\"layer_norm_epsilon\":9.5367431640625e-07,\"seq_length\":2048,"
                         "\"vocab_size\":10,\"tie_word_embeddings\":true}");
}

/* Llama-3.1's rule as its authors write it (wavelengths), in double. */
static void fill_divisors(float *divisors, int count, double theta, double factor) {
    for (int i = 0; i < count; i++) {
        const double wavelength = 2 * acos(-1.0) * pow(theta, (double)i / count);
        double divisor = 1;
        if (wavelength > 8192 / 1.0) {
            divisor = factor;
        } else if (wavelength > 8192 / 4.0) {
            const double smooth = (8192 / wavelength - 1) / (4 - 1);
            divisor = 1 / ((1 - smooth) / factor + smooth);
        }
        divisors[i] = (float)divisor;
    }
}

static void recovers_llama3_rope_scaling(void **state) {
    (void)state;
    for (int factor = 8; factor <= 32; factor += 24) {
        float divisors[32];
        struct gguf_file file = {0};
        add_decoder(&file, "llama");
        add_key(&file, "llama", "attention.key_length", 64);
        add_key(&file, "llama", "attention.value_length", 64);
        gguf_add_f32(&file, "llama.rope.freq_base", 500000);
        fill_divisors(divisors, 32, 500000, factor);
        assert_true(divisors[0] == 1 && divisors[31] == (float)factor);
        gguf_add_tensor(&file, "rope_freqs.weight", 0, 1, (const uint64_t[]){32}, divisors,
                        sizeof divisors);
        json_t *config = make_config(&file);
        json_t *wanted = json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor",
                                   (double)factor, "low_freq_factor", 1.0, "high_freq_factor", 4.0,
                                   "original_max_position_embeddings", 8192);
        assert_true(json_equal(json_object_get(config, "rope_scaling"), wanted));
        json_decref(config);
        json_decref(wanted);
        divisors[16] *= 1.01f;
        add_decoder(&file, "llama");
        add_key(&file, "llama", "attention.key_length", 64);
        add_key(&file, "llama", "attention.value_length", 64);
        gguf_add_f32(&file, "llama.rope.freq_base", 500000);
        gguf_add_tensor(&file, "rope_freqs.weight", 0, 1, (const uint64_t[]){32}, divisors,
                        sizeof divisors);
        expect_refusal(&file, "rope_freqs.weight does not follow");
    }
}

static void refuses_configs(void **state) {
    (void)state;
    struct gguf_file file = {0};
    gguf_add_u32(&file, "x", 0);
    expect_refusal(&file, "architecture (none) is not supported");
    gguf_add_string(&file, "general.architecture", "mamba");
    expect_refusal(&file, "architecture mamba is not supported");
    gguf_add_string(&file, "general.architecture", "llama");
    expect_refusal(&file, "key llama.embedding_length: missing");
    add_decoder(&file, "llama");
    add_key(&file, "llama", "expert_count", 8);
    expect_refusal(&file, "mixtures of experts");
    add_decoder(&file, "llama");
    add_key(&file, "llama", "rope.dimension_count", 8);
    expect_refusal(&file, "rotating a part of a head");
    add_decoder(&file, "llama");
    add_key(&file, "llama", "attention.value_length", 8);
    expect_refusal(&file, "different lengths");
    add_decoder(&file, "llama");
    gguf_add_key(&file, "split.count", 2, (const uint16_t[]){2}, 2);
    expect_refusal(&file, "one of 2 parts");
    add_decoder(&file, "llama");
    gguf_add_string(&file, "llama.rope.scaling.type", "\xff");
    expect_refusal(&file, "rope.scaling.type");
    add_decoder(&file, "llama");
    gguf_add_f32(&file, "llama.rope.freq_base", NAN);
    expect_refusal(&file, "rope.freq_base");
    /* heads that do not divide, no embedding, sizes that are none */
    for (int fault = 0; fault < 4; fault++) {
        static const char *const messages[] = {"does not divide", "no matrix token_embd.weight",
                                               "key llama.block_count", "key llama.block_count"};
        gguf_add_string(&file, "general.architecture", "llama");
        add_key(&file, "llama", "embedding_length", 64);
        add_key(&file, "llama", "attention.head_count", fault == 0 ? 7 : 4);
        add_key(&file, "llama", "context_length", 512);
        if (fault == 3)
            gguf_add_array(&file, "llama.block_count", 4, 2, (const uint32_t[]){3, 4}, 8);
        else
            add_key(&file, "llama", "block_count", fault == 2 ? 0 : 3);
        add_key(&file, "llama", "feed_forward_length", 172);
        gguf_add_f32(&file, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
        if (fault != 1)
            add_zeros(&file, "token_embd.weight", 64, 10);
        expect_refusal(&file, messages[fault]);
    }
}

/* --- names --- */

static void names_of_tensors(void **state) {
    (void)state;
    static const struct {
        const char *architecture, *gguf, *hugging_face;
        enum gguf_row_order order;
    } names[] = {
        {"llama", "token_embd.weight", "model.embed_tokens.weight", GGUF_ROWS_SAME},
        {"llama", "output_norm.weight", "model.norm.weight", GGUF_ROWS_SAME},
        {"llama", "output.weight", "lm_head.weight", GGUF_ROWS_SAME},
        {"llama", "blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight",
         GGUF_ROWS_SAME},
        {"llama", "blk.31.attn_q.weight", "model.layers.31.self_attn.q_proj.weight",
         GGUF_ROWS_ROTARY},
        {"llama", "blk.31.attn_k.bias", "model.layers.31.self_attn.k_proj.bias", GGUF_ROWS_ROTARY},
        {"llama", "blk.5.attn_v.weight", "model.layers.5.self_attn.v_proj.weight", GGUF_ROWS_SAME},
        {"llama", "blk.5.attn_output.weight", "model.layers.5.self_attn.o_proj.weight",
         GGUF_ROWS_SAME},
        {"llama", "blk.5.ffn_norm.weight", "model.layers.5.post_attention_layernorm.weight",
         GGUF_ROWS_SAME},
        {"llama", "blk.5.ffn_gate.weight", "model.layers.5.mlp.gate_proj.weight", GGUF_ROWS_SAME},
        {"llama", "blk.5.ffn_up.weight", "model.layers.5.mlp.up_proj.weight", GGUF_ROWS_SAME},
        {"llama", "blk.5.ffn_down.weight", "model.layers.5.mlp.down_proj.weight", GGUF_ROWS_SAME},
        {"qwen2", "blk.5.attn_q.weight", "model.layers.5.self_attn.q_proj.weight", GGUF_ROWS_SAME},
        {"qwen2", "blk.5.attn_q.bias", "model.layers.5.self_attn.q_proj.bias", GGUF_ROWS_SAME},
        {"bloom", "token_embd_norm.bias", "transformer.word_embeddings_layernorm.bias",
         GGUF_ROWS_SAME},
        {"bloom", "blk.1.attn_qkv.weight", "transformer.h.1.self_attention.query_key_value.weight",
         GGUF_ROWS_SPLIT},
        {"bloom", "blk.1.ffn_down.bias", "transformer.h.1.mlp.dense_4h_to_h.bias", GGUF_ROWS_SAME},
        {"llama", "rope_freqs.weight", NULL, GGUF_ROWS_SAME},
        {"llama", "blk.x.attn_q.weight", NULL, GGUF_ROWS_SAME},
        {"llama", "blk.01.attn_q.weight", NULL, GGUF_ROWS_SAME},
        {"llama", "blk..attn_q.weight", NULL, GGUF_ROWS_SAME},
        {"llama", "blk.99999999.attn_q.weight", NULL, GGUF_ROWS_SAME},
        {"llama", "blk.1.attn_q", NULL, GGUF_ROWS_SAME},
        {"llama", "blk.1.attn_q.scale", NULL, GGUF_ROWS_SAME},
        {"llama", "attn_q.weight", NULL, GGUF_ROWS_SAME},
        {"llama", "", NULL, GGUF_ROWS_SAME},
        {"other", "output.weight", NULL, GGUF_ROWS_SAME},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct gguf_file file = {0};
        struct gguf gguf;
        char name[128];
        gguf_add_string(&file, "general.architecture", names[i].architecture);
        open_file(&file, &gguf);
        const bool known = gguf_tensor_name(&gguf, names[i].gguf, name, sizeof name);
        assert_int_equal(known, names[i].hugging_face != NULL);
        if (known)
            assert_string_equal(name, names[i].hugging_face);
        assert_int_equal(gguf_row_order(&gguf, names[i].gguf), names[i].order);
        assert_false(gguf_tensor_name(&gguf, names[i].gguf, name, 5));
        gguf_close(&gguf);
    }
}

/* --- tokenizers --- */

/* Make the tokenizer of what was built and encode; `file` is freed. */
static void expect_ids(struct gguf_file *file, const char *text, const int32_t *ids, size_t count) {
    struct gguf gguf;
    struct error error = {0};
    struct tokenizer *tokenizer = NULL;
    struct token_list list = {0};
    char *json = NULL;
    size_t length;
    open_file(file, &gguf);
    if (gguf_tokenizer_json(&gguf, &json, &length, &error) != STATUS_OK ||
        tokenizer_create(json, length, "made", &tokenizer, &error) != STATUS_OK ||
        tokenizer_encode(tokenizer, text, strlen(text), 1, &list, &error) != STATUS_OK)
        fail_msg("%s", error.message);
    assert_int_equal(strlen(json), length);
    assert_int_equal(list.count, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(list.ids[i], ids[i]);
    token_list_free(&list);
    tokenizer_destroy(tokenizer);
    free(json);
    gguf_close(&gguf);
}

static void expect_no_tokenizer(struct gguf_file *file, const char *message) {
    struct gguf gguf;
    struct error error = {0};
    char *json;
    size_t length;
    open_file(file, &gguf);
    const enum status status = gguf_tokenizer_json(&gguf, &json, &length, &error);
    if (status != STATUS_INPUT || !strstr(error.message, message))
        fail_msg("expected \"%s\": status %d, %s", message, (int)status, error.message);
    assert_null(json);
    gguf_close(&gguf);
}

#define SPACE "\xe2\x96\x81"

/* A vocabulary in which the scores decide: "ab" is better than "bc". */
static void add_pieces(struct gguf_file *file) {
    static const char *const pieces[] = {"<unk>", "<s>", "</s>", SPACE,    "a",        "b",
                                         "c",     "ab",  "bc",   "<0x64>", SPACE "ab", "<user>"};
    static const int32_t types[] = {2, 3, 3, 1, 1, 1, 1, 1, 1, 6, 1, 4};
    static const float scores[] = {0, 0, 0, -9, -9, -9, -9, -1, -2, 0, -3, 0};
    gguf_add_string(file, "tokenizer.ggml.model", "llama");
    gguf_add_strings(file, "tokenizer.ggml.tokens", pieces, 12);
    gguf_add_array(file, "tokenizer.ggml.token_type", 5, 12, types, sizeof types);
    gguf_add_array(file, "tokenizer.ggml.scores", 6, 12, scores, sizeof scores);
    gguf_add_u32(file, "tokenizer.ggml.bos_token_id", 1);
    gguf_add_u32(file, "tokenizer.ggml.eos_token_id", 2);
}

/* The best score first; of one piece's splits the longer left part, in characters; only NORMAL
 * tokens. */
static void merges_of_scores(void **state) {
    (void)state;
    static const char *const pieces[] = {"\xc3\xa9",
                                         "b",
                                         "c",
                                         "bc",
                                         "\xc3\xa9"
                                         "b",
                                         "x",
                                         "xb",
                                         "\xc3\xa9"
                                         "bc",
                                         "cb"};
    static const int32_t types[] = {1, 1, 1, 1, 1, 3, 1, 1, 1};
    static const float scores[] = {-9, -9, -9, -2, -1, 0, -1, -1, -2};
    static const char *const expected[] = {"\xc3\xa9"
                                           "b",
                                           "c",
                                           "\xc3\xa9",
                                           "bc",
                                           "\xc3\xa9",
                                           "b",
                                           "b",
                                           "c",
                                           "c",
                                           "b"};
    struct gguf_file file = {0};
    struct gguf gguf;
    struct error error = {0};
    struct gguf_vocabulary vocabulary;
    gguf_add_strings(&file, "tokenizer.ggml.tokens", pieces, 9);
    gguf_add_array(&file, "tokenizer.ggml.token_type", 5, 9, types, sizeof types);
    gguf_add_array(&file, "tokenizer.ggml.scores", 6, 9, scores, sizeof scores);
    open_file(&file, &gguf);
    assert_int_equal(gguf_vocabulary_read(&gguf, &vocabulary, &error), STATUS_OK);
    assert_int_equal(vocabulary.merge_count, 5);
    for (int i = 0; i < 5; i++) {
        const struct gguf_merge *merge = &vocabulary.merges[i];
        assert_int_equal(merge->left->length, strlen(expected[2 * i]));
        assert_memory_equal(merge->left->text, expected[2 * i], merge->left->length);
        assert_int_equal(merge->right->length, strlen(expected[2 * i + 1]));
        assert_memory_equal(merge->right->text, expected[2 * i + 1], merge->right->length);
    }
    gguf_vocabulary_free(&vocabulary);
    gguf_close(&gguf);
}

static void tokenizer_of_pieces(void **state) {
    (void)state;
    struct gguf_file file = {0};
    add_pieces(&file);
    expect_ids(&file, "abc d", (const int32_t[]){1, 10, 6, 3, 9}, 5);
    add_pieces(&file);
    gguf_add_bool(&file, "tokenizer.ggml.add_bos_token", 0);
    gguf_add_bool(&file, "tokenizer.ggml.add_space_prefix", 0);
    gguf_add_bool(&file, "tokenizer.ggml.add_eos_token", 1);
    expect_ids(&file, "abc<user>bc</s>", (const int32_t[]){7, 6, 11, 8, 2, 2}, 6);
}

/* Byte-level: a blank is U+0120. */
static void add_words(struct gguf_file *file, const char *pre, bool add_bos) {
    static const char *const tokens[] = {"a",
                                         "b",
                                         "\xc4\xa0",
                                         "1",
                                         "ab",
                                         "\xc4\xa0"
                                         "a",
                                         "11",
                                         "<|end|>",
                                         "\"\\\n",
                                         "[PAD9]"};
    static const int32_t types[] = {1, 1, 1, 1, 1, 1, 1, 3, 4, 5};
    static const char *const merges[] = {"a b", "\xc4\xa0 a", "1 1"};
    gguf_add_string(file, "tokenizer.ggml.model", "gpt2");
    gguf_add_string(file, "tokenizer.ggml.pre", pre);
    gguf_add_strings(file, "tokenizer.ggml.tokens", tokens, 10);
    gguf_add_array(file, "tokenizer.ggml.token_type", 5, 10, types, sizeof types);
    gguf_add_strings(file, "tokenizer.ggml.merges", merges, 3);
    gguf_add_u32(file, "tokenizer.ggml.bos_token_id", 7);
    if (add_bos)
        gguf_add_bool(file, "tokenizer.ggml.add_bos_token", 1);
}

static void tokenizer_of_words(void **state) {
    (void)state;
    struct gguf_file file = {0};
    add_words(&file, "gpt-2", false);
    expect_ids(&file, "ab a11<|end|>b\"\\\n", (const int32_t[]){4, 5, 6, 7, 1, 8}, 6);
    add_words(&file, "qwen2", false); /* digits one by one */
    expect_ids(&file, "ab a11", (const int32_t[]){4, 5, 3, 3}, 4);
    add_words(&file, "smollm", true);
    expect_ids(&file, "ab a11", (const int32_t[]){7, 4, 5, 3, 3}, 5);
    add_words(&file, "llama-bpe", false); /* adds BOS unless told otherwise; digits by three */
    expect_ids(&file, "ab a1111", (const int32_t[]){7, 4, 5, 6, 3, 3}, 6);
    add_words(&file, "bloom", false);
    expect_ids(&file, "ab a11", (const int32_t[]){4, 5, 6}, 3);
}

static void refuses_tokenizers(void **state) {
    (void)state;
    struct gguf_file file = {0};
    gguf_add_u32(&file, "x", 0);
    expect_no_tokenizer(&file, "model, the kind of tokenizer, is missing");
    gguf_add_string(&file, "tokenizer.ggml.model", "bert");
    expect_no_tokenizer(&file, "neither gpt2 nor llama");
    gguf_add_string(&file, "tokenizer.ggml.model", "llama");
    expect_no_tokenizer(&file, "brings no tokenizer");
    add_words(&file, "unheard-of", false);
    expect_no_tokenizer(&file, "tokenizer.ggml: pre");
    static const struct {
        const char *tokens[2];
        const char *merge;
        int32_t types[2];
        const char *message;
    } faults[] = {
        {{"a", "a"}, "a a", {1, 1}, "token 1 has the text of another"},
        {{"a", "\xff"}, "a a", {1, 1}, "token 1 is not UTF-8"},
        {{"a", "b"}, "a b", {1, 1}, "merge 0 \"a b\" is not two tokens"},
        {{"a", "aa"}, "aa", {1, 1}, "merge 0 \"aa\""},
        {{"a", "aa"}, "a ", {1, 1}, "merge 0"},
        {{"a", ""}, "a ", {1, 1}, "merge 0"},
        {{"a", "aa"}, " ", {1, 1}, "merge 0"},
        {{"a", "aa"}, "", {1, 1}, "merge 0"},
        {{"a", "aa"}, "a a", {1, 5}, "merge 0"},
        {{"a", "aa"}, "a a", {1, 77}, "token 1 has no known type"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        gguf_add_string(&file, "tokenizer.ggml.model", "gpt2");
        gguf_add_string(&file, "tokenizer.ggml.pre", "gpt-2");
        gguf_add_strings(&file, "tokenizer.ggml.tokens", faults[i].tokens, 2);
        gguf_add_strings(&file, "tokenizer.ggml.merges", &faults[i].merge, 1);
        gguf_add_array(&file, "tokenizer.ggml.token_type", 5, 2, faults[i].types, 8);
        expect_no_tokenizer(&file, faults[i].message);
    }
    char *endless = calloc(2001, 1);
    memset(endless, 'a', 2000);
    gguf_add_string(&file, "tokenizer.ggml.model", "llama");
    gguf_add_strings(&file, "tokenizer.ggml.tokens", (const char *const[]){endless}, 1);
    free(endless);
    expect_no_tokenizer(&file, "longer than 1000 bytes");
    gguf_add_string(&file, "tokenizer.ggml.model", "llama");
    gguf_add_strings(&file, "tokenizer.ggml.tokens", (const char *const[]){"a"}, 1);
    expect_no_tokenizer(&file, "neither merges nor scores");
    gguf_add_string(&file, "tokenizer.ggml.model", "llama");
    gguf_add_strings(&file, "tokenizer.ggml.tokens", (const char *const[]){"a"}, 1);
    gguf_add_array(&file, "tokenizer.ggml.scores", 6, 1, (const float[]){0}, 4);
    expect_no_tokenizer(&file, "add_bos_token without a bos_token_id");
    gguf_add_string(&file, "tokenizer.ggml.model", "llama");
    gguf_add_strings(&file, "tokenizer.ggml.tokens", (const char *const[]){"a"}, 1);
    gguf_add_array(&file, "tokenizer.ggml.scores", 6, 2, (const float[]){0, 0}, 8);
    expect_no_tokenizer(&file, "differ in length");
}

int main(void) {
    memory_file = memory_file_make();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_of_llama),    cmocka_unit_test(config_of_qwen2),
        cmocka_unit_test(config_of_bloom),    cmocka_unit_test(recovers_llama3_rope_scaling),
        cmocka_unit_test(refuses_configs),    cmocka_unit_test(names_of_tensors),
        cmocka_unit_test(merges_of_scores),   cmocka_unit_test(tokenizer_of_pieces),
        cmocka_unit_test(tokenizer_of_words), cmocka_unit_test(refuses_tokenizers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
