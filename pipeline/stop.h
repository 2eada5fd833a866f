/* When a run is to end before it is done: by a signal, or in time before a limit. */
#ifndef FPTQ_PIPELINE_STOP_H
#define FPTQ_PIPELINE_STOP_H

#include <stdint.h>

#include "io/status.h"
#include "pipeline/mesh.h"

struct stop {
    double deadline; /* of timing_now(); infinite without a limit */
};

/* From now on the first SIGTERM, SIGINT or SIGUSR1 only sets a flag. A second one, a second later
 * or more, ends the process at once, as if nothing were installed. */
void stop_install_signals(void);
/* Collective. The limit is time_limit (seconds from `started`, 0: none) or the end of the SLURM job
 * that rank 0 is told of (SLURM_JOB_END_TIME), whichever is first; the deadline is 5% of what is
 * left, at most a minute, before it. */
void stop_set_deadline(struct stop *stop, double started, int64_t time_limit);
/* STATUS_STOPPED with a message when a signal came, or the deadline is less than `margin` seconds
 * away. Not collective: ranks see it at different times. */
enum status stop_check(const struct stop *stop, double margin, struct error *error);
/* Collective, between phases: all ranks stop when one is to. */
enum status stop_agree(const struct stop *stop, const struct mesh *mesh, struct error *error);

#endif
