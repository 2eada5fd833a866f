/* A model on disk: a Hugging Face folder (config.json, *.safetensors with or without
 * model.safetensors.index.json, tokenizer.json) or one GGUF v3 file. Opening checks every header
 * (offsets, sizes, overlaps, shapes against sizes) and maps the files; no weight is read. A folder
 * with both model.safetensors and an index is read from model.safetensors, as transformers does.
 *
 * Both kinds look alike afterwards: a config in the keys of Hugging Face's config.json, tensors by
 * Hugging Face name, a tokenizer in the form of tokenizer.json. For GGUF the config and the
 * tokenizer are made from its metadata, and names are translated
 * (blk.0.attn_q.weight -> model.layers.0.self_attn.q_proj.weight). */
#ifndef FPTQ_IO_MODEL_SOURCE_H
#define FPTQ_IO_MODEL_SOURCE_H

#include <jansson.h>

#include "io/tensor.h"

struct model_source;

enum status model_source_open(const char *path, struct model_source **source, struct error *error);
void model_source_close(struct model_source *source);

const char *model_source_path(const struct model_source *source);
bool model_source_is_gguf(const struct model_source *source);
/* config.json as read, or made from GGUF metadata: "model_type" is "llama", "qwen2", ...; the
 * borrowed object lives as long as the source. */
const json_t *model_source_config(const struct model_source *source);
/* Text of tokenizer.json (made from the metadata for GGUF); *text is allocated with malloc, NUL
 * ended. STATUS_INPUT where the model brings none. */
enum status model_source_tokenizer_json(const struct model_source *source, char **text,
                                        size_t *length, struct error *error);

int64_t model_source_tensor_count(const struct model_source *source);
const struct tensor *model_source_tensor(const struct model_source *source, int64_t index);
/* Its Hugging Face name; tensors are sorted by it. */
const char *model_source_tensor_name(const struct model_source *source, int64_t index);
/* By Hugging Face name; NULL when there is none. */
const struct tensor *model_source_find(const struct model_source *source, const char *name);
/* The same, but STATUS_INPUT when there is none, or it is of a type that is not read: the message
 * says which. */
enum status model_source_require(const struct model_source *source, const char *name,
                                 const struct tensor **tensor, struct error *error);
/* GGUF files hold some tensors' rows in another order than Hugging Face's: "llama" its q and k rows
 * as interleaved rotary pairs, "bloom" its q, k and v rows apart. True when `tensor` is such a one.
 */
bool model_source_rows_permuted(const struct model_source *source, const struct tensor *tensor);
/* The row of the file at which row `row` of the Hugging Face tensor lies: `row` itself but for the
 * q and k of GGUF's "llama" files (weights and biases; for d = head_dim, row h d + j lies at
 * h d + 2 j, or at h d + 2 (j - d / 2) + 1 in the second half of the head) and BLOOM's
 * query_key_value (row (3 h + c) d + j lies at c hidden_size + h d + j). A vector's elements count
 * as rows here. */
int64_t model_source_file_row(const struct model_source *source, const struct tensor *tensor,
                              int64_t row);
/* sha256 over everything that says what the model is: config, and each file's name, size and header
 * (not the weights, which may be hundreds of gigabytes). 64 hexadecimal digits and a NUL. */
enum status model_source_fingerprint(const struct model_source *source, char digest[65],
                                     struct error *error);

#endif
