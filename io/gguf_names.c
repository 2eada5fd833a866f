/* Names of tensors: GGUF's and Hugging Face's, and the order of rows. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "io/gguf_model.h"

struct rename {
    const char *gguf; /* without blk.N. and .weight or .bias */
    const char *hugging_face;
    enum gguf_row_order order; /* where the architecture's files permute rows */
};

/* llama and qwen2; each list ends with a NULL. */
static const struct rename decoder_outer[] = {
    {"token_embd", "model.embed_tokens", GGUF_ROWS_SAME},
    {"output_norm", "model.norm", GGUF_ROWS_SAME},
    {"output", "lm_head", GGUF_ROWS_SAME},
    {0},
};
static const struct rename decoder_inner[] = {
    {"attn_norm", "input_layernorm", GGUF_ROWS_SAME},
    {"attn_q", "self_attn.q_proj", GGUF_ROWS_ROTARY},
    {"attn_k", "self_attn.k_proj", GGUF_ROWS_ROTARY},
    {"attn_v", "self_attn.v_proj", GGUF_ROWS_SAME},
    {"attn_output", "self_attn.o_proj", GGUF_ROWS_SAME},
    {"ffn_norm", "post_attention_layernorm", GGUF_ROWS_SAME},
    {"ffn_gate", "mlp.gate_proj", GGUF_ROWS_SAME},
    {"ffn_up", "mlp.up_proj", GGUF_ROWS_SAME},
    {"ffn_down", "mlp.down_proj", GGUF_ROWS_SAME},
    {0},
};
static const struct rename bloom_outer[] = {
    {"token_embd", "transformer.word_embeddings", GGUF_ROWS_SAME},
    {"token_embd_norm", "transformer.word_embeddings_layernorm", GGUF_ROWS_SAME},
    {"output_norm", "transformer.ln_f", GGUF_ROWS_SAME},
    {0},
};
static const struct rename bloom_inner[] = {
    {"attn_norm", "input_layernorm", GGUF_ROWS_SAME},
    {"attn_qkv", "self_attention.query_key_value", GGUF_ROWS_SPLIT},
    {"attn_output", "self_attention.dense", GGUF_ROWS_SAME},
    {"ffn_norm", "post_attention_layernorm", GGUF_ROWS_SAME},
    {"ffn_up", "mlp.dense_h_to_4h", GGUF_ROWS_SAME},
    {"ffn_down", "mlp.dense_4h_to_h", GGUF_ROWS_SAME},
    {0},
};

struct renames {
    const char *architecture;
    const char *layers; /* what stands for "blk." */
    const struct rename *outer, *inner;
    bool permuted;
};
static const struct renames tables[] = {
    {"llama", "model.layers.", decoder_outer, decoder_inner, true},
    {"qwen2", "model.layers.", decoder_outer, decoder_inner, false},
    {"bloom", "transformer.h.", bloom_outer, bloom_inner, true},
};

/* The parts of a GGUF name: [blk.LAYER.]STEM.SUFFIX */
struct parts {
    const char *layer; /* NULL outside the layers */
    int layer_length;
    const char *stem;
    size_t stem_length;
    const char *suffix; /* "weight" or "bias" */
};

static bool split_name(const char *name, struct parts *parts) {
    *parts = (struct parts){.stem = name};
    if (!strncmp(name, "blk.", 4)) {
        const size_t digits = strspn(name + 4, "0123456789");
        if (digits < 1 || digits > 6 || name[4 + digits] != '.' || (name[4] == '0' && digits > 1))
            return false;
        parts->layer = name + 4;
        parts->layer_length = (int)digits;
        parts->stem = name + 4 + digits + 1;
    }
    const char *dot = strrchr(parts->stem, '.');
    if (!dot || (strcmp(dot, ".weight") && strcmp(dot, ".bias")))
        return false;
    parts->stem_length = (size_t)(dot - parts->stem);
    parts->suffix = dot + 1;
    return true;
}

static const struct renames *find_table(const struct gguf *gguf) {
    const struct gguf_key *key = gguf_find_key(gguf, "general.architecture");
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++)
        if (gguf_string_is(key, tables[i].architecture))
            return &tables[i];
    return NULL;
}

static const struct rename *find_rename(const struct renames *table, const struct parts *parts) {
    const struct rename *rename = parts->layer ? table->inner : table->outer;
    for (; rename->gguf; rename++)
        if (strlen(rename->gguf) == parts->stem_length &&
            !memcmp(rename->gguf, parts->stem, parts->stem_length))
            return rename;
    return NULL;
}

bool gguf_tensor_name(const struct gguf *gguf, const char *name, char *result, size_t size) {
    struct parts parts;
    const struct renames *table = find_table(gguf);
    const struct rename *rename =
        table && split_name(name, &parts) ? find_rename(table, &parts) : NULL;
    if (!rename)
        return false;
    const int length =
        parts.layer ? snprintf(result, size, "%s%.*s.%s.%s", table->layers, parts.layer_length,
                               parts.layer, rename->hugging_face, parts.suffix)
                    : snprintf(result, size, "%s.%s", rename->hugging_face, parts.suffix);
    return length > 0 && (size_t)length < size;
}

enum gguf_row_order gguf_row_order(const struct gguf *gguf, const char *name) {
    struct parts parts;
    const struct renames *table = find_table(gguf);
    const struct rename *rename =
        table && split_name(name, &parts) ? find_rename(table, &parts) : NULL;
    return rename && table->permuted ? rename->order : GGUF_ROWS_SAME;
}
