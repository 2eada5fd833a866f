#include "io/status.h"

#include <stdarg.h>
#include <stdio.h>

enum status error_set(struct error *error, enum status status, const char *format, ...) {
    if (!error)
        return status;
    error->status = status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    for (unsigned char *byte = (unsigned char *)error->message; *byte; byte++)
        if (*byte < 0x20 || *byte == 0x7f)
            *byte = '?';
    return status;
}
