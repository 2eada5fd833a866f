/* What the files of the checkpoint share with each other and with nobody else.
 *
 * All that calls HDF5 runs on one thread. HDF5's error stack is read right after the call that
 * failed: so the error is set first and what was open is closed afterwards. */
#ifndef FPTQ_IO_CHECKPOINT_INTERNAL_H
#define FPTQ_IO_CHECKPOINT_INTERNAL_H

#define H5_USE_110_API /* newer versions of HDF5 offer that of 1.10 too */
#include <hdf5.h>

#include "io/checkpoint.h"
#include "io/checkpoint_read.h"
#include "io/digest.h"

enum {
    CHECKPOINT_MAX_PATH = 1024,
    CHECKPOINT_MAX_DEPTH = 32,
    CHECKPOINT_ZSTD_LEVEL = 1,
    CHECKPOINT_ZSTD_FILTER = 32015, /* registered with The HDF Group */
};

/* --- checkpoint_file.c: files and HDF5's errors --- */

/* Silence HDF5's own messages and register the zstd filter; before every other HDF5 call. */
enum status checkpoint_hdf5_prepare(struct error *error);
/* "FILE: cannot ACTION OBJECT: REASON", the reason from HDF5's innermost error (errno's text where
 * there is one). object may be "". */
enum status checkpoint_hdf5_error(struct error *error, enum status status, const char *file,
                                  const char *action, const char *object);
enum status checkpoint_file_create(const char *path, hid_t *file, struct error *error);
enum status checkpoint_file_open(const char *path, hid_t *file, struct error *error);
/* fsync a file or a folder. */
enum status checkpoint_file_sync(const char *path, struct error *error);
/* fsync the closed temporary file, rename it, fsync the folder. When that fails nothing is under
 * the final name. */
enum status checkpoint_file_commit(const char *temporary, const char *final, struct error *error);
/* Close a file that was written, and make *file invalid; false when it is not whole. */
bool checkpoint_file_close(hid_t *file);
/* Close (negative: nothing to close) and remove a file that was given up. */
void checkpoint_file_discard(hid_t file, const char *path);
/* Text from a printf format, or NULL. */
char *checkpoint_text(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* NAME.parts of NAME.h5; NAME.parts/PART.h5. */
char *checkpoint_parts_folder(const char *output);
char *checkpoint_part_path(const char *output, const char *part);
/* Whether path is /run or below it. */
bool checkpoint_path_is_run(const char *path);

/* --- checkpoint_shape.c: a dataset's type, shape and layout, in the file and in memory --- */

struct checkpoint_shape {
    enum checkpoint_type type;
    enum checkpoint_compression compression; /* of chunks */
    int rank;
    int64_t dimensions[CHECKPOINT_MAX_RANK];
    size_t text_bytes;     /* of one element of type text */
    int64_t rows, columns; /* dimension 0, and the product of the others; 1 where there are none */
    int64_t chunk_rows;    /* 0: contiguous */
};

/* Describe a dataset to be made. `chunked` is what the caller wants; 4-bit integers always are. */
enum status checkpoint_shape_set(struct checkpoint_shape *shape, enum checkpoint_type type,
                                 int rank, const int64_t *dimensions, size_t text_bytes,
                                 bool chunked, enum checkpoint_compression compression,
                                 const char *path, struct error *error);
/* Make the dataset, with the groups on the way. Negative when HDF5 refuses. */
hid_t checkpoint_shape_create_dataset(const struct checkpoint_shape *shape, hid_t file,
                                      const char *path);
/* The object at a path; a group is made, with those on the way, where there is none. Negative when
 * HDF5 refuses. */
hid_t checkpoint_object_open(hid_t file, const char *path);
/* Describe a dataset that is there; STATUS_INPUT when it is none of this format. */
enum status checkpoint_shape_read(struct checkpoint_shape *shape, hid_t dataset,
                                  struct error *error);
hid_t checkpoint_shape_create_type(const struct checkpoint_shape *shape);
/* Of one element in memory (a 4-bit integer is one int8); of all; of `rows` rows as write_rows
 * takes them (4-bit integers packed). */
size_t checkpoint_shape_element_bytes(const struct checkpoint_shape *shape);
size_t checkpoint_shape_bytes(const struct checkpoint_shape *shape);
size_t checkpoint_shape_packed_bytes(const struct checkpoint_shape *shape, int64_t rows);
/* Of a whole chunk before compression, as the file has it: N-Bit's bytes for 4-bit integers. */
size_t checkpoint_shape_chunk_bytes(const struct checkpoint_shape *shape);

/* --- checkpoint_chunk.c: chunks as the file stores them --- */

/* The stored bytes of a chunk holding `rows` rows (fewer than a chunk's: padded with zeros). */
enum status checkpoint_chunk_encode(struct checkpoint_compressor *compressor,
                                    const struct checkpoint_shape *shape, int64_t rows,
                                    const void *data, const void **stored, size_t *stored_bytes,
                                    struct error *error);
/* values int8 (count) <-> nibbles, the even element in the high one. */
void checkpoint_nibbles_pack(uint8_t *packed, const int8_t *values, size_t count);
void checkpoint_nibbles_unpack(int8_t *values, const uint8_t *packed, size_t count);
/* Add packed elements to the sum, each as one int8. */
void checkpoint_nibbles_digest(struct digest *digest, const uint8_t *packed, size_t count);
/* Whether the file holds as many bytes or chunks as the shape needs. To be asked before memory is
 * taken for the whole: then a file makes us take no more than its own size allows (all of a chunk
 * can be in a few bytes of it, where it is compressed). */
enum status checkpoint_dataset_check_storage(hid_t dataset, const struct checkpoint_shape *shape,
                                             struct error *error);
/* Read a chunked dataset chunk by chunk, from the first row on. */
enum status checkpoint_dataset_chunks(hid_t dataset, const struct checkpoint_shape *shape,
                                      checkpoint_rows_function *take, void *context,
                                      struct error *error);
/* Read a dataset from first to last element, handing its bytes in memory order to sink(). */
enum status checkpoint_dataset_stream(hid_t dataset, const struct checkpoint_shape *shape,
                                      void (*sink)(void *context, const void *data, size_t bytes),
                                      void *context, struct error *error);
/* Make the dataset in another file, its chunks copied as they are stored. */
enum status checkpoint_dataset_copy(hid_t source, const struct checkpoint_shape *shape, hid_t file,
                                    const char *file_name, const char *path, struct error *error);
enum status checkpoint_dataset_digest(hid_t dataset, const struct checkpoint_shape *shape,
                                      char sum[65], struct error *error);

/* --- checkpoint_manifest.c: the list of checksums, and attributes --- */

struct checkpoint_manifest_line {
    char *path; /* of a dataset, or of an object + "@attributes" */
    char sum[65];
    bool seen; /* verify's mark */
};
struct checkpoint_manifest {
    struct checkpoint_manifest_line *lines;
    size_t count, capacity;
};

enum status checkpoint_manifest_add(struct checkpoint_manifest *manifest, const char *path,
                                    const char *suffix, const char *sum, struct error *error);
/* Add the line "path@attributes" of an object, when it has attributes. */
enum status checkpoint_manifest_add_attributes(struct checkpoint_manifest *manifest, hid_t file,
                                               const char *path, struct error *error);
void checkpoint_manifest_sort(struct checkpoint_manifest *manifest);
/* Index of a line (-1: none), and whether some line is below the group. The manifest is sorted. */
ptrdiff_t checkpoint_manifest_find(const struct checkpoint_manifest *manifest, const char *path,
                                   const char *suffix);
bool checkpoint_manifest_has_below(const struct checkpoint_manifest *manifest, const char *group);
/* Whether the line is of an object's attributes. */
bool checkpoint_manifest_is_attributes(const struct checkpoint_manifest_line *line);
enum status checkpoint_manifest_write(struct checkpoint_manifest *manifest, hid_t file,
                                      const char *file_name, struct error *error);
enum status checkpoint_manifest_read(struct checkpoint_manifest *manifest, hid_t file,
                                     const char *file_name, struct error *error);
void checkpoint_manifest_free(struct checkpoint_manifest *manifest);

/* --- checkpoint_attribute.c --- */

struct checkpoint_attribute {
    enum { ATTRIBUTE_TEXT, ATTRIBUTE_INTEGER, ATTRIBUTE_FLOAT } kind;
    char *text; /* malloc'ed when read */
    int64_t integer;
    float number;
};

bool checkpoint_attribute_write(hid_t object, const char *name,
                                const struct checkpoint_attribute *attribute);
enum status checkpoint_attribute_read(hid_t object, const char *name,
                                      struct checkpoint_attribute *attribute, struct error *error);
/* "name=value\n", malloc'ed. */
char *checkpoint_attribute_line(const char *name, const struct checkpoint_attribute *attribute);
/* Names of the attributes of an object, or of the links of a group, in ascending order. */
struct checkpoint_names {
    char **names;
    size_t count;
    bool failed; /* memory ran out */
};
enum status checkpoint_names_of_attributes(hid_t object, struct checkpoint_names *names,
                                           struct error *error);
enum status checkpoint_names_of_links(hid_t group, struct checkpoint_names *names,
                                      struct error *error);
void checkpoint_names_free(struct checkpoint_names *names);
/* All of an object's attribute lines, malloc'ed; and the sum over them (*any: whether it has any).
 */
enum status checkpoint_attributes_text(hid_t object, char **text, struct error *error);
enum status checkpoint_attributes_digest(hid_t object, char sum[65], bool *any,
                                         struct error *error);

#endif
