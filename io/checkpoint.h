/* The checkpoint: an HDF5 file that h5ls, h5dump and h5py read. The format, version 1, is specified
 * here, whole.
 *
 * Files. Parts NAME.parts/PART.h5, each by one writer, are written under a temporary name
 * (PART.h5.tmp), synced, renamed: a part under its final name is complete. Then NAME.h5, made the
 * same way, either merged ("single"; the parts are removed) or a small master ("sharded") with
 * external links, relative to its folder, to the same paths of the parts. Both show the same tree.
 * A part is a file of this format too. HDF5's default (oldest) file versions, no object times: the
 * same content written the same way gives the same bytes.
 *
 * Tree. Paths are the Hugging Face tensor names with '/' for '.':
 *   /model/layers/0/self_attn/q_proj          group of a linear; attributes:
 *       input_policy (text: "static", "equalized", "dynamic", "equalized-dynamic", "none"),
 *       input_range (float), weight_bits, group_size, symmetric, folded (integers; 0 and 1 for no
 *       and yes)
 *   .../weight              [out, in]: int4 with weight_bits = 4, int8 (-127..127) with 8
 *   .../weight_scale        f16 or f32 [out, groups]; with weight_bits = 8 one group, the whole row
 *                           (group_size 0), symmetric
 *   .../weight_zero_point   int4 [out, groups]; absent if symmetric. w = (q - z) * scale
 *   .../input_absmax        f32 [in]: max |x| of each input channel before equalization
 *   .../input_scale         f32 scalar: static and equalized policies
 *   .../equalization        f32 [in]: where channels have a scale, with any policy (with the
 *                           equalized ones always); multiplied into the weights. folded = 1: what
 *                           makes x divides by it already; 0: x is to be divided by it
 *   norms, embeddings, lm_head, biases: f16, bf16 or f32 as the model has them, after folding
 *   /config_json, /tokenizer_json, /config_toml: texts
 *   /manifest: lines, see below
 *   /run: what describes the run (times, hosts), not the result
 *   attributes of the root: format = "fptq-checkpoint", format_version = 1 (in every file, written
 *       by checkpoint_part_create()), method, model_type, and rotation (text) where the residual
 *       stream is rotated: "hadamard". The tensors then are those of a model of the same function
 *       with another basis of its hidden states: embedding, linears and lm_head (which a rotated
 *       model always has) are rotated, norms are 1 (or 1 / equalization), and config_json says that
 *       the head is not tied. To be read like any other
 *
 * Types, all little endian. f32: IEEE. f16: HDF5 float, sign 15, exponent 10..14 (bias 15),
 * mantissa 0..9 (IEEE half). bf16: HDF5 float, sign 15, exponent 7..14 (bias 127), mantissa 0..6.
 * int8: H5T_STD_I8LE. int4: H5T_STD_I8LE with precision 4, offset 0: two's complement, -8..7; fill
 * value 0. Text: a scalar string of as many bytes as it has, UTF-8 (an empty one: one NUL). Lines:
 * a vector of strings of one width, each ended by NUL. Attributes are scalars: variable-length
 * UTF-8 string, 64-bit integer, or f32.
 *
 * Layout. int4, and other datasets that are written by rows, are chunked: checkpoint_chunk_rows()
 * rows, all of the other dimensions. So are, with compression, others from 64 KiB on; the rest is
 * contiguous. Filters of int4: N-Bit, then zstd with compression. Of others: zstd with compression.
 * N-Bit's bytes of a chunk of n elements: n / 2 + 1 bytes, element e in byte e / 2, even e in the
 * high nibble, the rest zero. zstd: filter 32015 (level 1), one frame a chunk. Edge chunks are
 * padded with zeros to the full size.
 *
 * Manifest: "<sha256 hex>  <path>" lines sorted by path, for every dataset of the file except
 * /manifest itself and what is under /run, and "<sha256 hex>  <path>@attributes" for every object
 * with attributes (not under /run). A dataset's sum is over the elements as stored, row-major; a
 * 4-bit integer counts as one int8. So hashlib.sha256(file[path][()].tobytes()) in h5py gives the
 * same (except for bf16, which h5py widens). The sum of attributes is over "name=value\n" for each,
 * sorted by name: a text as it is, an integer in decimal, a float as printf's %.9g. An object
 * without attributes has no such line, and a group without attributes none at all. */
#ifndef FPTQ_IO_CHECKPOINT_H
#define FPTQ_IO_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/watch.h"

enum checkpoint_type {
    CHECKPOINT_F32,
    CHECKPOINT_F16,
    CHECKPOINT_BF16,
    CHECKPOINT_INT4,
    CHECKPOINT_INT8,
    CHECKPOINT_TEXT, /* written by checkpoint_part_write_text() alone */
};
enum checkpoint_compression { CHECKPOINT_NONE, CHECKPOINT_ZSTD };
enum checkpoint_layout { CHECKPOINT_SINGLE, CHECKPOINT_SHARDED };

#define CHECKPOINT_FORMAT "fptq-checkpoint"
enum { CHECKPOINT_VERSION = 1, CHECKPOINT_MAX_RANK = 8 };

struct checkpoint_part;
struct checkpoint_compressor;

/* Rows in a chunk of a [rows, columns] dataset (columns >= 1): fixed by the shape alone. At most as
 * many as make 1 MiB (HDF5's default chunk cache; a 4-bit integer counts as a byte, as when it is
 * read), all if they fit, else an even number, at least 2, with the rows shared out evenly over the
 * chunks. */
int64_t checkpoint_chunk_rows(enum checkpoint_type type, int64_t rows, int64_t columns);

/* A part's functions may be called by one thread at a time in the whole program (HDF5 has a global
 * state). After a failure of any of them the part can only be abandoned.
 *
 * `output` is the final path, NAME.h5. Creates OUTPUT-without-.h5 + ".parts/" when missing and
 * PART.h5.tmp in it (replacing one that a stopped run left). */
enum status checkpoint_part_create(const char *output, const char *part,
                                   enum checkpoint_compression compression,
                                   struct checkpoint_part **result, struct error *error);
/* A dataset from memory, elements in the stored type, row-major. int4: one int8 an element. path
 * like
 * "/model/layers/0/self_attn/q_proj/weight_scale"; groups on the way are made. rank 0: a scalar. */
enum status checkpoint_part_write(struct checkpoint_part *part, const char *path,
                                  enum checkpoint_type type, int rank, const int64_t *dimensions,
                                  const void *data, struct error *error);
/* A large 2-D dataset chunk by chunk, rows in ascending order. int4: `data` is the packed nibbles
 * of `rows` rows (kernels/quantize's layout = the N-Bit filter's), rows a multiple of the chunk's
 * except the last time; other types: elements. begin .. rows* .. end. */
enum status checkpoint_part_begin_rows(struct checkpoint_part *part, const char *path,
                                       enum checkpoint_type type, int64_t rows, int64_t columns,
                                       struct error *error);
enum status checkpoint_part_write_rows(struct checkpoint_part *part, int64_t row_begin,
                                       int64_t rows, const void *data, struct error *error);
enum status checkpoint_part_end_rows(struct checkpoint_part *part, struct error *error);
/* The same with the chunks prepared by several threads, which calls no HDF5: each thread, or each
 * chunk in flight, has a compressor (for the compression given to checkpoint_part_create()).
 * compress() takes the rows of one chunk, from row_begin (a multiple of the chunk's rows), as
 * write_rows does, and gives the bytes to store: valid until the compressor's next call, and
 * perhaps those of `data` itself. */
enum status checkpoint_compressor_create(enum checkpoint_compression compression,
                                         struct checkpoint_compressor **result,
                                         struct error *error);
void checkpoint_compressor_destroy(struct checkpoint_compressor *compressor);
enum status checkpoint_chunk_compress(struct checkpoint_compressor *compressor,
                                      enum checkpoint_type type, int64_t rows, int64_t columns,
                                      int64_t row_begin, const void *data, const void **stored,
                                      size_t *stored_bytes, struct error *error);
/* Between begin_rows and end_rows, chunk after chunk; `data` as given to compress(), for the
 * checksum. */
enum status checkpoint_part_write_compressed(struct checkpoint_part *part, int64_t row_begin,
                                             const void *data, const void *stored,
                                             size_t stored_bytes, struct error *error);
/* A text as a scalar fixed-length string dataset; attributes of an object ("/" for the root). */
enum status checkpoint_part_write_text(struct checkpoint_part *part, const char *path,
                                       const char *text, size_t length, struct error *error);
enum status checkpoint_part_attribute_text(struct checkpoint_part *part, const char *path,
                                           const char *name, const char *text, struct error *error);
enum status checkpoint_part_attribute_integer(struct checkpoint_part *part, const char *path,
                                              const char *name, int64_t value, struct error *error);
enum status checkpoint_part_attribute_float(struct checkpoint_part *part, const char *path,
                                            const char *name, float value, struct error *error);
/* Write the part's manifest, flush, fsync file and folder, rename to PART.h5. The part is freed,
 * and its temporary file gone, whether this succeeds or not. */
enum status checkpoint_part_finish(struct checkpoint_part *part, struct error *error);
/* Give up: close and remove the temporary file. part may be NULL. */
void checkpoint_part_abandon(struct checkpoint_part *part);
/* Whether PART.h5 is there and complete (its own manifest present). */
bool checkpoint_part_exists(const char *output, const char *part);

/* Make NAME.h5 of the parts (names in the order given) under a temporary name, with the manifest of
 * all; fsync, rename. Groups may span parts; a dataset in two parts, or an attribute of one object
 * with different values in two, is an error. single: raw chunks are copied and the parts removed
 * after the rename. The manifest of all is sorted, so it does not depend on the parts' order. When
 * it fails, or `watch` (may be NULL) interrupts it, the parts are untouched and nothing is under
 * the final name. */
enum status checkpoint_assemble(const char *output, const char *const *parts, int part_count,
                                enum checkpoint_layout layout, const struct watch *watch,
                                struct error *error);

/* Re-hash every dataset, and every object's attributes, against the manifest, through external
 * links; for each fault call report(context, path, what) (may be NULL): "differs from its
 * checksum", "missing", "cannot be read: ...", "not in the manifest", and the same of attributes.
 * *checked: datasets looked at; *bad: faults. STATUS_INPUT when the file is no checkpoint, or so
 * damaged that HDF5 crashes or does not return: a child process (fork) reads it. */
enum status checkpoint_verify(const char *path,
                              void (*report)(void *context, const char *dataset, const char *what),
                              void *context, int64_t *checked, int64_t *bad, struct error *error);

#endif
