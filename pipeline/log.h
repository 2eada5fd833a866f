/* What the program says. Diagnostics and progress go to standard error, results to standard output.
 *
 * Only one process of a job speaks: rank 0, unless log_set_speaker says otherwise. The level and
 * whether this process speaks are the only globals of the program. Call from one thread. */
#ifndef FPTQ_PIPELINE_LOG_H
#define FPTQ_PIPELINE_LOG_H

#include <stdbool.h>

#include "io/status.h"

enum log_level { LOG_QUIET, LOG_NORMAL, LOG_VERBOSE };

void log_set_level(enum log_level level); /* LOG_NORMAL at start */
enum log_level log_level(void);
/* Whether this process speaks at all (true at start; main sets rank == 0). */
void log_set_speaker(bool speaks);
bool log_speaks(void);

/* Each writes one line (no trailing newline in the format) and flushes it. On a terminal the line
 * first erases what stands in its place (a progress bar). */
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));   /* not when quiet */
void log_detail(const char *format, ...) __attribute__((format(printf, 1, 2))); /* when verbose */
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2))); /* always */
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));   /* always */
/* "fptq-pipeline: error: MESSAGE", and for STATUS_USAGE a hint at --help. */
void log_report_error(const struct error *error);
/* A result: text to standard output as it is, no prefix and no newline added; at every level. */
void log_plain(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_flush(void);

#endif
