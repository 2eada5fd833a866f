/* How far a long phase is: a bar on a terminal, a line now and then in a log (the first after 10 s,
 * then every 30 s), on standard error. Silent on ranks that do not speak and with --quiet. */
#ifndef FPTQ_PIPELINE_PROGRESS_H
#define FPTQ_PIPELINE_PROGRESS_H

#include <stddef.h>
#include <stdint.h>

struct progress;

/* label: "calibrate"; unit: "windows"; total: how many are to be done now. May be NULL (silent, or
 * no memory); the other calls take NULL. The strings must outlive it. */
struct progress *progress_create(const char *label, const char *unit, int64_t total);
/* `done` of the total are done. Cheap: call it as often as there is news. */
void progress_update(struct progress *progress, int64_t done);
/* Remove the bar and free; says nothing more. */
void progress_finish(struct progress *progress);

/* "calibrate 37/128 windows (28%), 1.2 windows/s, 1m16s left", after `seconds`. */
void progress_text(const char *label, const char *unit, int64_t done, int64_t total, double seconds,
                   char *text, size_t size);

#endif
