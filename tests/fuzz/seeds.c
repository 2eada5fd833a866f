/* seeds FOLDER: small correct inputs for every target, to start from: FOLDER/TARGET/NAME. */
#include <sys/stat.h>
#include <zstd.h>

#include "io/checkpoint.h"
#include "tests/model_files.h"

static const char *root;

static void write_seed(const char *target, const char *name, const void *data, size_t size) {
    char path[500];
    snprintf(path, sizeof path, "%s/%s", root, target);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/%s/%s", root, target, name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file)) {
        perror(path);
        exit(1);
    }
}

static void write_text(const char *target, const char *name, const char *text) {
    write_seed(target, name, text, strlen(text));
}

static void write_safetensors(void) {
    static const unsigned char data[48] = {1, 2, 3};
    struct bytes file =
        safetensors_make("{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"b\":{\"dtype\":\"BF16\",\"shape\":[3,2],\"data_offsets\":[8,20]},"
                         "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                         "\"buffer\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[20,36]},"
                         "\"scalar\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[36,38]}} ",
                         data, 38);
    write_seed("safetensors", "several", file.data, file.size);
    bytes_free(&file);
}

/* --- GGUF --- */

static void add_model(struct gguf_file *file, const char *architecture) {
    static const char *const names[] = {"block_count",
                                        "context_length",
                                        "embedding_length",
                                        "feed_forward_length",
                                        "attention.head_count",
                                        "attention.head_count_kv",
                                        "attention.sliding_window"};
    static const uint32_t values[] = {1, 64, 32, 32, 2, 1, 16};
    static const unsigned char data[4096] = {0};
    char key[100];
    gguf_add_string(file, "general.architecture", architecture);
    for (int i = 0; i < 7; i++) {
        snprintf(key, sizeof key, "%s.%s", architecture, names[i]);
        gguf_add_u32(file, key, values[i]);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", architecture);
    gguf_add_f32(file, key, 1e-5f);
    snprintf(key, sizeof key, "%s.attention.layer_norm_epsilon", architecture);
    gguf_add_f32(file, key, 1e-5f);
    /* Q4_0 embedding, and linears in each other type whose blocks are of 32 elements, or none */
    gguf_add_tensor(file, "token_embd.weight", 2, 2, (const uint64_t[]){32, 6}, data, 6 * 18);
    gguf_add_tensor(file, "blk.0.attn_q.weight", 8, 2, (const uint64_t[]){32, 32}, data, 32 * 34);
    gguf_add_tensor(file, "blk.0.attn_k.weight", 6, 2, (const uint64_t[]){32, 16}, data, 16 * 22);
    gguf_add_tensor(file, "blk.0.attn_q.bias", 0, 1, (const uint64_t[]){32}, data, 128);
    gguf_add_tensor(file, "blk.0.attn_qkv.weight", 1, 2, (const uint64_t[]){8, 96}, data, 1536);
}

static void finish_gguf(struct gguf_file *file, const char *name) {
    struct bytes bytes = gguf_finish(file);
    write_seed("gguf", name, bytes.data, bytes.size);
    bytes_free(&bytes);
}

static void add_pieces(struct gguf_file *file) {
    static const char *const pieces[] = {"<unk>", "<s>", "</s>", "<0x41>", "\xe2\x96\x81", "a"};
    static const int32_t types[] = {2, 3, 3, 6, 1, 1};
    static const float scores[] = {0, 0, 0, 0, -1, -2};
    gguf_add_string(file, "tokenizer.ggml.model", "llama");
    gguf_add_strings(file, "tokenizer.ggml.tokens", pieces, 6);
    gguf_add_array(file, "tokenizer.ggml.token_type", 5, 6, types, sizeof types);
    gguf_add_array(file, "tokenizer.ggml.scores", 6, 6, scores, sizeof scores);
    gguf_add_u32(file, "tokenizer.ggml.bos_token_id", 1);
}

static void add_merges(struct gguf_file *file) {
    static const char *const tokens[] = {"a",
                                         "b",
                                         "\xc4\xa0",
                                         "ab",
                                         ("\xc4\xa0"
                                          "a"),
                                         "<|end|>"};
    static const char *const merges[] = {"a b", "\xc4\xa0 a"};
    static const int32_t types[] = {1, 1, 1, 1, 1, 3};
    gguf_add_string(file, "tokenizer.ggml.model", "gpt2");
    gguf_add_string(file, "tokenizer.ggml.pre", "qwen2");
    gguf_add_strings(file, "tokenizer.ggml.tokens", tokens, 6);
    gguf_add_strings(file, "tokenizer.ggml.merges", merges, 2);
    gguf_add_array(file, "tokenizer.ggml.token_type", 5, 6, types, sizeof types);
    gguf_add_bool(file, "tokenizer.ggml.add_bos_token", 0);
}

static void write_gguf(void) {
    static const char *const architectures[] = {"llama", "qwen2", "bloom"};
    for (int i = 0; i < 3; i++) {
        struct gguf_file file = {0};
        add_model(&file, architectures[i]);
        i == 0 ? add_pieces(&file) : add_merges(&file);
        finish_gguf(&file, architectures[i]);
    }
}

/* --- JSON, text --- */

static void write_configs(void) {
    write_text("config_json", "llama",
               "{\"model_type\":\"llama\",\"hidden_act\":\"silu\",\"hidden_size\":64,"
               "\"intermediate_size\":172,\"num_hidden_layers\":3,\"num_attention_heads\":4,"
               "\"num_key_value_heads\":2,\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,"
               "\"vocab_size\":10,\"sliding_window\":16,\"tie_word_embeddings\":true,"
               "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
               "\"high_freq_factor\":4,\"original_max_position_embeddings\":512}}");
    write_text("config_json", "bloom",
               "{\"model_type\":\"bloom\",\"hidden_size\":64,\"n_layer\":2,\"n_head\":4,"
               "\"layer_norm_epsilon\":1e-5,\"seq_length\":2048,\"vocab_size\":10}");
    write_text("model_folder", "index",
               "{\"metadata\":{},\"weight_map\":{\"a\":\"shard-1.safetensors\","
               "\"b\":\"shard-1.safetensors\"}}");
    write_text("configuration", "all",
               "[model]\npath = \"m\"\n[calibration]\ndata = [\"a.jsonl\", \"b/*.zst\"]\n"
               "samples = 8\nsequence_length = 256\nchunk_tokens = 64\nseed = 1\n"
               "[quantization]\nmethod = \"rtn\"\ngroup_size = 64\nsymmetric = true\n"
               "range = \"amax/7\"\nscale_type = \"f32\"\nv0 = 1.5\nv1 = inf\n"
               "equalization = \"log1p\"\nc = 0.5\n[output]\ncheckpoint = \"o.h5\"\n"
               "layout = \"sharded\"\ncompression = \"zstd\"\n[run]\nthreads = 3\n"
               "memory_limit = \"6GiB\"\nisa = \"avx2\"\nprecision = \"f32\"\n");
    static const char with_override[] =
        "model.path = 'm'\n[calibration]\ndata = \"random-tokens\"\n[output]\ncheckpoint = "
        "\"o.h5\"\n\0quantization.v1=200";
    write_seed("configuration", "override", with_override, sizeof with_override - 1);
}

static void write_tokenizers(void) {
    write_text(
        "tokenizer", "pieces",
        "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true,\"normalized\":false},"
        "{\"id\":1,\"content\":\"<s>\",\"lstrip\":true,\"rstrip\":true,\"single_word\":true}],"
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"
        "\"\xe2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":"
        "\"\xe2\x96\x81\"},{\"type\":\"NFC\"}]},\"pre_tokenizer\":null,\"post_processor\":{"
        "\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":"
        "0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<s>\":"
        "{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]}}},\"model\":{\"type\":\"BPE\","
        "\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,"
        "\"<s>\":1,\"<0xC3>\":2,\"<0xB6>\":3,\"\xe2\x96\x81\":4,\"a\":5,\"b\":6,\"\xe2\x96\x81"
        "a\":7,\"ab\":8},\"merges\":[\"\xe2\x96\x81 a\",\"a b\"]}}");
    write_text(
        "tokenizer", "bytes",
        "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
        "\"pattern\":{\"Regex\":\"(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}|"
        " ?[^(\\\\s|[.,!?])]+|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":"
        "\"Isolated\",\"invert\":false},{\"type\":\"Digits\",\"individual_digits\":true},"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":false}]},"
        "\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,\"vocab\":{\"a\":0,\"b\":1,"
        "\"\xc4\xa0\":2,\"1\":3,\"ab\":4,\"\xc4\xa0"
        "a\":5},\"merges\":[[\"a\",\"b\"],"
        "[\"\xc4\xa0\",\"a\"]]}}");
    static const char with_text[] =
        "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":"
        "\"first\",\"split\":true},\"model\":{\"type\":\"BPE\",\"vocab\":{\"_\":0,\"a\":1,\"_a\":2}"
        ",\"merges\":[\"_ a\"]}}\0a aa\xff  a";
    write_seed("tokenizer", "text", with_text, sizeof with_text - 1);
}

static void write_corpora(void) {
    static const char lines[] = "{\"text\": \"a\\n\\u00e9 \\ud83d\\ude00\", \"meta\": "
                                "{\"pile_set_name\": [1e5, null, true]}}\n\n{\"text\":\"b\"}\r\n";
    char file[400] = "j";
    memcpy(file + 1, lines, sizeof lines - 1);
    write_seed("corpus", "lines", file, sizeof lines);
    file[0] = 'c';
    write_seed("corpus", "two-frames", file, sizeof lines);
    file[0] = 'z';
    const size_t frame = ZSTD_compress(file + 1, sizeof file - 1, lines, sizeof lines - 1, 1);
    write_seed("corpus", "frame", file, 1 + frame);
    write_text("corpus", "text", "t\xef\xbb\xbfone\ntwo");
}

/* --- sets of questions, and the state of a run --- */

static void write_evaluations(void) {
    static const char piqa[] = "\2\0{\"goal\":\"g\",\"sol1\":\"a\",\"sol2\":\"b\"}\n\0"
                               "1\n";
    static const char mmlu[] = "\5\4\"What, \"\"then\"\"?\",a,b,c,d,B\n\0"
                               "question,A,B,C,D,answer\nq,1,2,3,4,0\n";
    static const char wikitext[] = "\0\0 = A = \n \n text \n", ptb[] = "\1\0 a b \n c\n";
    write_seed("evaluation", "wikitext2", wikitext, sizeof wikitext - 1);
    write_seed("evaluation", "ptb", ptb, sizeof ptb - 1);
    write_seed("evaluation", "piqa", piqa, sizeof piqa - 1);
    write_text("evaluation", "hellaswag",
               "\3\4{\"activity_label\":\"L\",\"ctx_a\":\"A [title] b.\",\"ctx_b\":\"he\","
               "\"endings\":[\"x [s]y\",\"z\"],\"label\":\"1\"}\n"
               "{\"ctx\":\"c\",\"endings\":[\"x\",\"y\"],\"label\":0}\n");
    write_text("evaluation", "arc",
               "\4\4{\"question\":{\"stem\":\"s\",\"choices\":[{\"text\":\"a\",\"label\":\"A\"},"
               "{\"text\":\"b\",\"label\":\"B\"}]},\"answerKey\":\"B\"}\n"
               "{\"question\":\"q\",\"choices\":{\"text\":[\"a\",\"b\"],\"label\":[\"1\",\"2\"]},"
               "\"answerKey\":\"2\"}\n"
               "{\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":1}\n");
    write_seed("evaluation", "mmlu", mmlu, sizeof mmlu - 1);
    write_text("evaluation", "lambada", "\6\4{\"text\":\"one two three\"}\n");
    write_text("evaluation", "lambada-text", "\16\4one two three\n");
    write_text("evaluation", "winogrande",
               "\7\4{\"sentence\":\"a _ b.\",\"option1\":\"x\",\"option2\":\"y\","
               "\"answer\":\"2\"}\n");
}

static void write_states(void) {
    static const unsigned char zeros[281] = {2}; /* of one layer, of 3 windows and 2 rows */
    static const unsigned char kinds[] = {0, 1, 2, 3, 4};
    char name[2] = "0";
    for (size_t i = 0; i < sizeof kinds; i++, name[0]++)
        write_seed("state", name, kinds + i, 1);
    write_seed("state", "zeros", zeros, sizeof zeros);
    write_seed("quantized_model", "zeros", zeros + 1, 64);
    /* On each path, activations of no site are quantized. */
    for (unsigned char path = 0; path < 5; path++) {
        const unsigned char floats[] = {path, 0, 0, 4, 0, 4, 0, 4, 0, 4};
        name[0] = (char)('0' + path);
        write_seed("quantized_model", name, floats, sizeof floats);
    }
}

/* --- checkpoints --- */

static void write_checkpoints(void) {
    /* /a bf16 contiguous [4]; /model/b/weight int4 [4, 2] chunked; with attributes */
    static const unsigned char sound[] = {2, 0, 2, 1,  4, 0, 1, 1, 2, 3, 4, 5, 6, 7,  8,
                                          0, 1, 3, 2,  4, 2, 5, 1, 5, 0, 0, 0, 1, 35, 3,
                                          4, 1, 1, 20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,  0};
    write_seed("checkpoint", "two", sound, sizeof sound);
    static const unsigned char text[] = {1, 3, 5,   9,   0,   0,   1, 'j', 's', 'o', 'n', 0, 1,
                                         0, 6, 'f', 'p', 't', 'q', 0, 0,   0,   0,   0,   0};
    write_seed("checkpoint", "text", text, sizeof text);

    char path[500];
    struct checkpoint_part *part;
    struct error error;
    const char *name = "p";
    const int8_t weights[8] = {1, -8, 7, 0, 1, 2, 3, 4};
    const float values[2] = {1, 2};
    snprintf(path, sizeof path, "%s/seed.h5", root);
    if (checkpoint_part_create(path, name, CHECKPOINT_ZSTD, &part, &error) ||
        checkpoint_part_write(part, "/m/a/weight", CHECKPOINT_INT4, 2, (const int64_t[]){4, 2},
                              weights, &error) ||
        checkpoint_part_write(part, "/m/s", CHECKPOINT_F32, 1, (const int64_t[]){2}, values,
                              &error) ||
        checkpoint_part_write_text(part, "/config_json", "{}", 2, &error) ||
        checkpoint_part_attribute_text(part, "/m/a", "input_policy", "static", &error) ||
        checkpoint_part_attribute_integer(part, "/m/a", "group_size", 128, &error) ||
        checkpoint_part_finish(part, &error) ||
        checkpoint_assemble(path, &name, 1, CHECKPOINT_SINGLE, NULL, &error)) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
    static unsigned char bytes[1 << 16];
    FILE *file = fopen(path, "rb");
    const size_t size = file ? fread(bytes, 1, sizeof bytes, file) : 0;
    if (file)
        fclose(file);
    unlink(path);
    write_seed("checkpoint_file", "small", bytes, size);
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", arguments[0]);
        return 2;
    }
    root = arguments[1];
    write_safetensors();
    write_gguf();
    write_configs();
    write_tokenizers();
    write_corpora();
    write_evaluations();
    write_states();
    write_checkpoints();
    return 0;
}
