/* What a GGUF file says of its model, in Hugging Face's words. */
#ifndef FPTQ_IO_GGUF_MODEL_H
#define FPTQ_IO_GGUF_MODEL_H

#include <jansson.h>

#include "io/gguf.h"

/* config.json's object made from the metadata and the tensors that are there; *config is a new
 * reference. Architectures: "llama" (Mistral's files say so too), "qwen2", "bloom".
 *
 * llama, qwen2: model_type, hidden_act, hidden_size, intermediate_size, num_hidden_layers,
 * num_attention_heads, num_key_value_heads, head_dim, rms_norm_eps, rope_theta, rope_scaling (where
 * the file has one), sliding_window (where the file has one), max_position_embeddings, vocab_size,
 * tie_word_embeddings (no output.weight), attention_bias (there is a blk.0.attn_q.bias), and
 * bos/eos/pad/unk_token_id where known.
 * bloom: model_type, hidden_size, n_layer, n_head, layer_norm_epsilon, seq_length, vocab_size,
 * tie_word_embeddings, and the token ids.
 *
 * Llama-3.1's files have no key for their rope scaling, but its result: rope_freqs.weight, by which
 * each rotary frequency is divided. The rule's parameters are recovered from it, and the file is
 * refused when they do not reproduce the tensor. */
enum status gguf_config(const struct gguf *gguf, json_t **config, struct error *error);

/* The Hugging Face name of a tensor of the architecture: blk.3.attn_q.weight ->
 * model.layers.3.self_attn.q_proj.weight. False when it has none (rope_freqs.weight ...), or when
 * it is longer than `size`. */
bool gguf_tensor_name(const struct gguf *gguf, const char *name, char *result, size_t size);

/* Where the file keeps rows in another order than Hugging Face, by the tensor's name in the file.
 */
enum gguf_row_order {
    GGUF_ROWS_SAME,
    GGUF_ROWS_ROTARY, /* llama's attn_q, attn_k: rotary pairs side by side */
    GGUF_ROWS_SPLIT,  /* bloom's attn_qkv: all q, all k, all v instead of q, k, v of each head */
};
enum gguf_row_order gguf_row_order(const struct gguf *gguf, const char *name);

/* The text of a tokenizer.json that encodes as the file's tokenizer does; *text is allocated with
 * malloc, NUL ended. */
enum status gguf_tokenizer_json(const struct gguf *gguf, char **text, size_t *length,
                                struct error *error);

#endif
