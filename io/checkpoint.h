/* The checkpoint: an HDF5 file that h5ls, h5dump and h5py read. (The format is specified here, whole.)
 *
 * Written in parts, NAME.parts/PART.h5, each by one writer, under a temporary name, synced, renamed:
 * a part under its final name is complete. Then NAME.h5: merged ("single") or a small master with
 * external links ("sharded").
 *
 * Objects: DESIGN.md section 5's table, to be restated here byte by byte.
 *
 * Manifest: /manifest, one fixed-length string a dataset, "<sha256 hex>  <path>", sorted by path, of
 * every dataset of the file except /manifest itself and what is under /run. The sum is over the
 * elements as stored, little endian, row-major; a 4-bit integer counts as one int8. So
 * hashlib.sha256(file[path][()].tobytes()) in h5py gives the same (except for bf16, which h5py widens). */
#ifndef FPTQ_IO_CHECKPOINT_H
#define FPTQ_IO_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/status.h"

enum checkpoint_type { CHECKPOINT_F32, CHECKPOINT_F16, CHECKPOINT_BF16, CHECKPOINT_INT4, CHECKPOINT_INT8 };
enum checkpoint_compression { CHECKPOINT_NONE, CHECKPOINT_ZSTD };
enum checkpoint_layout { CHECKPOINT_SINGLE, CHECKPOINT_SHARDED };

struct checkpoint_part;

/* Rows in a chunk of a [rows, columns] dataset: fixed by the shape alone (about 1 MiB of packed int4). */
int64_t checkpoint_chunk_rows(enum checkpoint_type type, int64_t rows, int64_t columns);

/* `output` is the final path, NAME.h5. Creates OUTPUT-without-.h5 + ".parts/" when missing and
 * PART.h5.tmp in it. */
enum status checkpoint_part_create(const char *output, const char *part,
                                   enum checkpoint_compression compression,
                                   struct checkpoint_part **result, struct error *error);
/* A dataset from memory, elements in the stored type, row-major. int4: one int8 an element. path like
 * "/model/layers/0/self_attn/q_proj/weight_scale"; groups on the way are made. rank 0: a scalar. */
enum status checkpoint_part_write(struct checkpoint_part *part, const char *path,
                                  enum checkpoint_type type, int rank, const int64_t *dimensions,
                                  const void *data, struct error *error);
/* A large 2-D dataset chunk by chunk, rows in ascending order. int4: `data` is the packed nibbles of
 * `rows` rows (kernels/quantize's layout = the N-Bit filter's), rows a multiple of the chunk's except
 * the last time; other types: elements. begin .. rows* .. end. */
enum status checkpoint_part_begin_rows(struct checkpoint_part *part, const char *path,
                                       enum checkpoint_type type, int64_t rows, int64_t columns,
                                       struct error *error);
enum status checkpoint_part_write_rows(struct checkpoint_part *part, int64_t row_begin,
                                       int64_t rows, const void *data, struct error *error);
enum status checkpoint_part_end_rows(struct checkpoint_part *part, struct error *error);
/* A text as a scalar fixed-length string dataset; attributes of an object ("/" for the root). */
enum status checkpoint_part_write_text(struct checkpoint_part *part, const char *path,
                                       const char *text, size_t length, struct error *error);
enum status checkpoint_part_attribute_text(struct checkpoint_part *part, const char *path,
                                           const char *name, const char *text, struct error *error);
enum status checkpoint_part_attribute_integer(struct checkpoint_part *part, const char *path,
                                              const char *name, int64_t value, struct error *error);
enum status checkpoint_part_attribute_float(struct checkpoint_part *part, const char *path,
                                            const char *name, float value, struct error *error);
/* Write the part's manifest, flush, fsync file and folder, rename to PART.h5. */
enum status checkpoint_part_finish(struct checkpoint_part *part, struct error *error);
/* Give up: close and remove the temporary file. */
void checkpoint_part_abandon(struct checkpoint_part *part);
/* Whether PART.h5 is there and complete (its own manifest present). */
bool checkpoint_part_exists(const char *output, const char *part);

/* Make NAME.h5 of the parts (names in the order given; their trees do not overlap) under a temporary
 * name, with the manifest of all; fsync, rename. single: raw chunks are copied and the parts removed
 * after the rename. The manifest of all is sorted, so it does not depend on the parts' order. */
enum status checkpoint_assemble(const char *output, const char *const *parts, int part_count,
                                enum checkpoint_layout layout, struct error *error);

/* Re-hash every dataset against the manifest; for each one that differs, is missing, cannot be read or
 * is not in the manifest call report(context, path, what). *checked: datasets looked at; *bad: faults. */
enum status checkpoint_verify(const char *path, void (*report)(void *context, const char *dataset, const char *what), void *context,
                              int64_t *checked, int64_t *bad, struct error *error);

#endif
