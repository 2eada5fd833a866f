#include "pipeline/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static enum log_level current_level = LOG_NORMAL;
static bool process_speaks = true;

void log_set_level(enum log_level level) {
    current_level = level;
}

enum log_level log_level(void) {
    return current_level;
}

void log_set_speaker(bool speaks) {
    process_speaks = speaks;
}

bool log_speaks(void) {
    return process_speaks;
}

/* One call of fputs a line, so that mpirun does not mix it with another process's. */
static void write_line(const char *prefix, const char *format, va_list arguments) {
    char text[2000];
    vsnprintf(text, sizeof text, format, arguments);
    char line[2100];
    snprintf(line, sizeof line, "%s%s%s\n", isatty(STDERR_FILENO) ? "\r\033[K" : "", prefix, text);
    fflush(stdout);
    fputs(line, stderr);
    fflush(stderr);
}

#define WRITE_LINE(prefix)                                                                         \
    do {                                                                                           \
        va_list arguments;                                                                         \
        va_start(arguments, format);                                                               \
        write_line(prefix, format, arguments);                                                     \
        va_end(arguments);                                                                         \
    } while (0)

void log_info(const char *format, ...) {
    if (process_speaks && current_level >= LOG_NORMAL)
        WRITE_LINE("");
}

void log_detail(const char *format, ...) {
    if (process_speaks && current_level >= LOG_VERBOSE)
        WRITE_LINE("");
}

void log_warning(const char *format, ...) {
    if (process_speaks)
        WRITE_LINE("fptq-pipeline: warning: ");
}

void log_error(const char *format, ...) {
    if (process_speaks)
        WRITE_LINE("fptq-pipeline: error: ");
}

void log_report_error(const struct error *error) {
    if (error->status == STATUS_STOPPED)
        log_warning("%s", error->message);
    else
        log_error("%s", error->message);
    if (error->status == STATUS_USAGE && process_speaks)
        fputs("Try 'fptq-pipeline --help'.\n", stderr);
}

void log_plain(const char *format, ...) {
    if (!process_speaks)
        return;
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
}

void log_flush(void) {
    fflush(stdout);
    fflush(stderr);
}
