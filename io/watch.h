/* What may interrupt work that takes long, such as reading a corpus: called now and then in
 * between. A status that is not STATUS_OK ends the work, which returns it. */
#ifndef FPTQ_IO_WATCH_H
#define FPTQ_IO_WATCH_H

#include "io/status.h"

struct watch {
    enum status (*check)(void *context, struct error *error);
    void *context;
};

/* watch may be NULL. */
static inline enum status watch_check(const struct watch *watch, struct error *error) {
    return watch ? watch->check(watch->context, error) : STATUS_OK;
}

#endif
