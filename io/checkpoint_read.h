/* Reading a checkpoint (either layout, or one part), without any HDF5 plug-in. */
#ifndef FPTQ_IO_CHECKPOINT_READ_H
#define FPTQ_IO_CHECKPOINT_READ_H

#include "io/checkpoint.h"

struct checkpoint;

struct checkpoint_dataset {
    enum checkpoint_type type;
    int rank;
    int64_t dimensions[CHECKPOINT_MAX_RANK];
    size_t bytes; /* in memory: a 4-bit integer is one int8; a text is not NUL ended */
};

/* STATUS_INPUT when it is no checkpoint (no manifest) or damaged. */
enum status checkpoint_open(const char *path, struct checkpoint **result, struct error *error);
void checkpoint_close(struct checkpoint *checkpoint);
/* The manifest's lines, sorted by path: a dataset's path, or an object's path + "@attributes". */
size_t checkpoint_line_count(const struct checkpoint *checkpoint);
const char *checkpoint_line_path(const struct checkpoint *checkpoint, size_t index);
const char *checkpoint_line_sum(const struct checkpoint *checkpoint, size_t index);
/* STATUS_INPUT when there is no dataset at the path, it is none of this format, or the file does
 * not hold all of it: so memory for `bytes` can be taken. */
enum status checkpoint_describe(const struct checkpoint *checkpoint, const char *path,
                                struct checkpoint_dataset *dataset, struct error *error);
/* All elements in the stored type, row-major; data: `bytes` of checkpoint_describe(). The checksum
 * is not looked at. */
enum status checkpoint_read(const struct checkpoint *checkpoint, const char *path, void *data,
                            struct error *error);
/* The rows of a 2-D dataset as checkpoint_part_write_rows() takes them (4-bit integers packed),
 * some at a time, from row 0 on: `rows` of them from row_begin, which is even in front of packed
 * ones. */
typedef void checkpoint_rows_function(void *context, int64_t row_begin, int64_t rows,
                                      const void *data);
enum status checkpoint_read_rows(const struct checkpoint *checkpoint, const char *path,
                                 checkpoint_rows_function *take, void *context,
                                 struct error *error);
/* Whether the manifest names a dataset at the path. */
bool checkpoint_has(const struct checkpoint *checkpoint, const char *path);
/* An object's attribute; STATUS_INPUT when there is none of that name and kind. *text: malloc'ed.
 */
enum status checkpoint_attribute_text(const struct checkpoint *checkpoint, const char *path,
                                      const char *name, char **text, struct error *error);
enum status checkpoint_attribute_integer(const struct checkpoint *checkpoint, const char *path,
                                         const char *name, int64_t *value, struct error *error);
enum status checkpoint_attribute_float(const struct checkpoint *checkpoint, const char *path,
                                       const char *name, float *value, struct error *error);
/* All attributes of an object, "name=value\n" each, sorted by name (what "@attributes" sums are
 * over): malloc'ed, "" when it has none. */
enum status checkpoint_attribute_lines(const struct checkpoint *checkpoint, const char *path,
                                       char **lines, struct error *error);

#endif
