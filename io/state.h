/* What an unfinished run keeps beside what it writes, to be taken up again: records,
 * NAME.parts/RECORD.state. A record is whole or not there: it is written under a temporary name
 * (.state.tmp), synced, renamed, and ends with a checksum. The old one stays until the new one is
 * on the disk.
 *
 * A file is "fptq-state 1\n", the owner's 64 digits, "\n", the data, and the SHA-256 of all before
 * it in 64 digits. The owner is the sum of the run's fingerprint: a record of another run is not
 * taken for one's own. */
#ifndef FPTQ_IO_STATE_H
#define FPTQ_IO_STATE_H

#include <stddef.h>

#include "io/status.h"

enum { STATE_NAME = 64 };

/* `output` is what the run writes; its records are in NAME.parts/: NAME.h5, or a file NAME that
 * ends otherwise. All but state_begin need that folder to be there. */

/* Make the folder, if it is not there, and lock it: *lock is a descriptor to be closed after the
 * run, which the lock goes with. Where the file system has no locks there is none. STATUS_INPUT
 * when the folder cannot be made, or another run has it. */
enum status state_begin(const char *output, int *lock, struct error *error);
enum status state_write(const char *output, const char *record, const char owner[65],
                        const void *data, size_t bytes, struct error *error);
/* The same, of data in pieces that follow each other. */
struct state_piece {
    const void *data;
    size_t bytes;
};
enum status state_write_pieces(const char *output, const char *record, const char owner[65],
                               const struct state_piece *pieces, int count, struct error *error);
/* *data: malloc'ed. Without such a record *data is NULL and the status STATUS_OK. STATUS_INPUT when
 * it is damaged or another owner's. */
enum status state_read(const char *output, const char *record, const char owner[65], void **data,
                       size_t *bytes, struct error *error);
/* Names of the records that begin with `prefix`, sorted; *names: malloc'ed. */
enum status state_list(const char *output, const char *prefix, char (**names)[STATE_NAME],
                       int *count, struct error *error);
/* Remove a record, if it is there. */
void state_remove(const char *output, const char *record);
/* Remove them all. */
void state_clear(const char *output);
/* Remove them all, and NAME.parts/ if nothing else is in it. */
void state_remove_all(const char *output);

#endif
