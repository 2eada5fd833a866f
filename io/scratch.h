/* Room for bytes that are needed for a while: in memory, or in a file that has no name, so that it
 * is gone when it is closed or the process ends, however that ends. */
#ifndef FPTQ_IO_SCRATCH_H
#define FPTQ_IO_SCRATCH_H

#include <stddef.h>

#include "io/status.h"

struct scratch {
    unsigned char *memory; /* or NULL: */
    int file;              /* open file, or -1 */
    char *folder;          /* where it is, for messages */
};

/* folder: of the file; NULL: in memory. The file takes its space at once, where the file system can
 * do that. STATUS_FAILED where there is not enough, or no file can be made. */
enum status scratch_create(const char *folder, size_t bytes, struct scratch *scratch,
                           struct error *error);
/* What is written at `at` is read there; STATUS_FAILED where the disk fails. */
enum status scratch_write(const struct scratch *scratch, size_t at, const void *data, size_t bytes,
                          struct error *error);
enum status scratch_read(const struct scratch *scratch, size_t at, void *data, size_t bytes,
                         struct error *error);
/* One that is all zero is let be. */
void scratch_close(struct scratch *scratch);

#endif
