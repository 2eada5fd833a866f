/* The error rule of the project, stated once and kept everywhere.
 *
 * A function that can fail returns `enum status` and takes `struct error *error` as its last
 * parameter. On success it returns STATUS_OK and leaves *error alone. On failure it returns the
 * status, having written into *error ONE line that says what is wrong, where (file, tensor, layer,
 * key), what was expected and found, and what to do where that is not plain. The message is made
 * where the fault is known; callers pass it up unchanged; one rank prints it, once. A function that
 * fails has released what it took and set its outputs to NULL or zero.
 *
 * The values are the exit statuses of the program. */
#ifndef FPTQ_IO_STATUS_H
#define FPTQ_IO_STATUS_H

enum status {
    STATUS_OK = 0,       /* done */
    STATUS_INPUT = 1,    /* the input or the configuration is wrong: the user mends it */
    STATUS_USAGE = 2,    /* the command line is wrong */
    STATUS_FAILED = 3,   /* failed while running: memory, disk, a dead rank, a defect */
    STATUS_STOPPED = 75, /* stopped by a signal or time limit with its state saved */
};

struct error {
    enum status status;
    char message[1000];
};

/* Write the message (printf format, no trailing newline) and return `status`:
 * `return error_set(error, STATUS_INPUT, "%s: no tensor %s", path, name);`
 * Bytes that are not printable ASCII or UTF-8 text are written as '?', so that a hostile file
 * cannot send control sequences to a terminal. `error` may be NULL. */
enum status error_set(struct error *error, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
