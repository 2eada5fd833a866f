/* A file mapped read-only: its pages are the operating system's, shared by all ranks of a host. A
 * file that is cut short while it is mapped ends the program where it is read (SIGBUS). */
#ifndef FPTQ_IO_MAPPED_FILE_H
#define FPTQ_IO_MAPPED_FILE_H

#include <stddef.h>

#include "io/status.h"

struct mapped_file {
    const unsigned char *data; /* NULL for an empty file */
    size_t size;
    char *path;
};

/* STATUS_INPUT where there is no such file, or it is no regular one. */
enum status mapped_file_open(const char *path, struct mapped_file *file, struct error *error);
void mapped_file_close(struct mapped_file *file);

#endif
