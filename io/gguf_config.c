#include "io/gguf_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum architecture { LLAMA, QWEN2, BLOOM, ARCHITECTURE_COUNT };
static const char *const architecture_names[] = {"llama", "qwen2", "bloom"};

static enum architecture find_architecture(const struct gguf *gguf) {
    const struct gguf_key *key = gguf_find_key(gguf, "general.architecture");
    int index = 0;
    while (index < ARCHITECTURE_COUNT && !gguf_string_is(key, architecture_names[index]))
        index++;
    return (enum architecture)index;
}

/* The building of one config; the first fault stays. */
struct builder {
    const struct gguf *gguf;
    const char *architecture;
    json_t *config;
    enum status status;
    struct error *error;
};

static const struct gguf_key *find(const struct builder *b, const char *name) {
    char full[100];
    snprintf(full, sizeof full, "%s.%s", b->architecture, name);
    return gguf_find_key(b->gguf, full);
}

static void fail(struct builder *b, const char *key, const char *what) {
    if (b->status == STATUS_OK)
        b->status = error_set(b->error, STATUS_INPUT, "%s: key %s.%s: %s", b->gguf->file.path,
                              b->architecture, key, what);
}

static void set(struct builder *b, const char *name, json_t *value) {
    if (json_object_set_new(b->config, name, value) && b->status == STATUS_OK)
        b->status = error_set(b->error, STATUS_FAILED, "%s: out of memory", b->gguf->file.path);
}

/* A size: a positive integer below 2^31. Where a key holds one for each layer they are all equal.
 */
static int64_t size_of(struct builder *b, const char *name) {
    const struct gguf_key *key = find(b, name);
    int64_t size = 0;
    if (!key) {
        fail(b, name, "missing");
        return 0;
    }
    for (uint64_t i = 0; i < key->count; i++) {
        int64_t other;
        if (!gguf_integer(key, i, &other) || other < 1 || other > INT32_MAX ||
            (i && other != size)) {
            fail(b, name, "expected a positive integer, the same for all layers");
            return 0;
        }
        size = other;
    }
    if (!size)
        fail(b, name, "expected a positive integer");
    return size;
}

static int64_t size_or(struct builder *b, const char *name, int64_t otherwise) {
    return find(b, name) ? size_of(b, name) : otherwise;
}

static double number_or(struct builder *b, const char *name, double otherwise) {
    const struct gguf_key *key = find(b, name);
    double number = otherwise;
    if (key && (!gguf_float(key, 0, &number) || !(number > 0) || !isfinite(number)))
        fail(b, name, "expected a positive number");
    return number;
}

static void set_token_id(struct builder *b, const char *key, const char *name) {
    char full[100];
    int64_t id;
    snprintf(full, sizeof full, "tokenizer.ggml.%s", key);
    if (gguf_integer(gguf_find_key(b->gguf, full), 0, &id))
        set(b, name, json_integer(id));
}

static void set_vocabulary(struct builder *b, bool tied) {
    const struct tensor *embedding = gguf_find_tensor(b->gguf, "token_embd.weight");
    if (!embedding || embedding->rank != 2) {
        if (b->status == STATUS_OK)
            b->status = error_set(b->error, STATUS_INPUT, "%s: no matrix token_embd.weight",
                                  b->gguf->file.path);
        return;
    }
    set(b, "vocab_size", json_integer(embedding->shape[0]));
    set(b, "tie_word_embeddings", json_boolean(tied));
    set_token_id(b, "bos_token_id", "bos_token_id");
    set_token_id(b, "eos_token_id", "eos_token_id");
    set_token_id(b, "padding_token_id", "pad_token_id");
    set_token_id(b, "unknown_token_id", "unk_token_id");
}

/* Llama-3.1's rule: what rotary frequency i of head_dim / 2 is divided by. */
struct llama3_scaling {
    double factor, low, high, original;
};

static double llama3_divisor(const struct llama3_scaling *rule, double theta, int64_t head_dim,
                             int64_t i) {
    const double frequency = pow(theta, -2.0 * (double)i / (double)head_dim);
    const double turns = rule->original * frequency / (2 * 3.14159265358979323846);
    if (turns > rule->high)
        return 1;
    if (turns < rule->low)
        return rule->factor;
    const double smooth = (turns - rule->low) / (rule->high - rule->low);
    return 1 / ((1 - smooth) / rule->factor + smooth);
}

/* rope_freqs.weight -> rope_scaling. The largest divisor is the factor; the other parameters are
 * those of every published model. */
static void set_rope_from_divisors(struct builder *b, const struct tensor *divisors, double theta,
                                   int64_t head_dim) {
    float values[512];
    bool follows = tensor_rows(divisors) == 1 && tensor_columns(divisors) == head_dim / 2 &&
                   head_dim / 2 <= 512;
    struct llama3_scaling rule = {.factor = 1, .low = 1, .high = 4, .original = 8192};
    if (follows) {
        tensor_read_f32(divisors, 0, 1, values);
        for (int64_t i = 0; i < head_dim / 2; i++)
            rule.factor = fmax(rule.factor, (double)values[i]);
        for (int64_t i = 0; i < head_dim / 2; i++)
            follows &=
                fabs((double)values[i] / llama3_divisor(&rule, theta, head_dim, i) - 1) < 1e-3;
    }
    if (!follows) {
        if (b->status == STATUS_OK)
            b->status =
                error_set(b->error, STATUS_INPUT,
                          "%s: rope_freqs.weight does not follow Llama-3's rope scaling, the "
                          "only one that is known; use the Hugging Face folder of the model",
                          b->gguf->file.path);
        return;
    }
    set(b, "rope_scaling",
        json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor", rule.factor,
                  "low_freq_factor", rule.low, "high_freq_factor", rule.high,
                  "original_max_position_embeddings", (int)rule.original));
}

static void set_rope(struct builder *b, int64_t head_dim) {
    const double theta = number_or(b, "rope.freq_base", 10000);
    set(b, "rope_theta", json_real(theta));
    const struct tensor *divisors = gguf_find_tensor(b->gguf, "rope_freqs.weight");
    const struct gguf_key *type = find(b, "rope.scaling.type");
    const double linear = number_or(b, "rope.scale_linear", 1); /* how old files say "linear" */
    if (divisors) {
        set_rope_from_divisors(b, divisors, theta, head_dim);
    } else if (type && !gguf_string_is(type, "none")) {
        const char *name = gguf_string_is(type, "linear")     ? "linear"
                           : gguf_string_is(type, "yarn")     ? "yarn"
                           : gguf_string_is(type, "longrope") ? "longrope"
                                                              : NULL;
        if (!name) {
            fail(b, "rope.scaling.type", "expected none, linear, yarn or longrope");
            return;
        }
        json_t *scaling = json_pack("{s:s, s:f}", "rope_type", name, "factor",
                                    number_or(b, "rope.scaling.factor", 1));
        const int64_t original = size_or(b, "rope.scaling.original_context_length", 0);
        if (original)
            json_object_set_new(scaling, "original_max_position_embeddings",
                                json_integer(original));
        set(b, "rope_scaling", scaling);
    } else if (linear != 1) {
        set(b, "rope_scaling", json_pack("{s:s, s:f}", "rope_type", "linear", "factor", linear));
    }
}

static void build_llama(struct builder *b) {
    const int64_t hidden = size_of(b, "embedding_length"),
                  heads = size_of(b, "attention.head_count");
    set(b, "hidden_act", json_string("silu"));
    set(b, "hidden_size", json_integer(hidden));
    set(b, "intermediate_size", json_integer(size_of(b, "feed_forward_length")));
    set(b, "num_hidden_layers", json_integer(size_of(b, "block_count")));
    set(b, "num_attention_heads", json_integer(heads));
    set(b, "num_key_value_heads", json_integer(size_or(b, "attention.head_count_kv", heads)));
    if (b->status != STATUS_OK || heads < 1)
        return;
    if (hidden % heads && !find(b, "attention.key_length"))
        fail(b, "attention.head_count", "does not divide embedding_length");
    const int64_t head_dim = size_or(b, "attention.key_length", hidden / heads);
    set(b, "head_dim", json_integer(head_dim));
    if (size_or(b, "attention.value_length", head_dim) != head_dim)
        fail(b, "attention.value_length", "keys and values of different lengths are not supported");
    if (size_or(b, "rope.dimension_count", head_dim) != head_dim)
        fail(b, "rope.dimension_count", "rotating a part of a head is not supported");
    int64_t experts = 0;
    if (gguf_integer(find(b, "expert_count"), 0, &experts) && experts > 0)
        fail(b, "expert_count", "mixtures of experts are not supported");
    if (!find(b, "attention.layer_norm_rms_epsilon"))
        fail(b, "attention.layer_norm_rms_epsilon", "missing");
    set(b, "rms_norm_eps", json_real(number_or(b, "attention.layer_norm_rms_epsilon", 1)));
    set_rope(b, head_dim);
    if (find(b, "attention.sliding_window"))
        set(b, "sliding_window", json_integer(size_of(b, "attention.sliding_window")));
    set(b, "max_position_embeddings", json_integer(size_of(b, "context_length")));
    set_vocabulary(b, !gguf_find_tensor(b->gguf, "output.weight"));
    set(b, "attention_bias", json_boolean(gguf_find_tensor(b->gguf, "blk.0.attn_q.bias")));
}

static void build_bloom(struct builder *b) {
    const int64_t hidden = size_of(b, "embedding_length"),
                  heads = size_of(b, "attention.head_count");
    if (b->status == STATUS_OK && hidden % heads)
        fail(b, "attention.head_count", "does not divide embedding_length");
    set(b, "hidden_size", json_integer(hidden));
    set(b, "n_layer", json_integer(size_of(b, "block_count")));
    set(b, "n_head", json_integer(heads));
    set(b, "layer_norm_epsilon", json_real(number_or(b, "attention.layer_norm_epsilon", 1e-5)));
    set(b, "seq_length", json_integer(size_or(b, "context_length", 2048)));
    set_vocabulary(b, true); /* files may repeat the embedding as output.weight */
}

enum status gguf_config(const struct gguf *gguf, json_t **config, struct error *error) {
    *config = NULL;
    const enum architecture architecture = find_architecture(gguf);
    if (architecture == ARCHITECTURE_COUNT) {
        const struct gguf_key *key = gguf_find_key(gguf, "general.architecture");
        struct gguf_string name = {"(none)", 6};
        if (key && !key->array && key->type == GGUF_STRING) {
            const unsigned char *cursor = key->data;
            name = gguf_next_string(&cursor);
        }
        return error_set(error, STATUS_INPUT,
                         "%s: architecture %.*s is not supported (llama, qwen2 and bloom are)",
                         gguf->file.path, (int)(name.length < 100 ? name.length : 100), name.text);
    }
    int64_t parts;
    if (gguf_integer(gguf_find_key(gguf, "split.count"), 0, &parts) && parts > 1)
        return error_set(
            error, STATUS_INPUT,
            "%s: one of %lld parts of a model; join them first (llama-gguf-split --merge)",
            gguf->file.path, (long long)parts);
    struct builder b = {.gguf = gguf,
                        .architecture = architecture_names[architecture],
                        .config = json_object(),
                        .error = error};
    set(&b, "model_type", json_string(b.architecture));
    if (architecture == BLOOM)
        build_bloom(&b);
    else
        build_llama(&b);
    if (b.status == STATUS_OK)
        *config = b.config;
    else
        json_decref(b.config);
    return b.status;
}
