/* Calibration: the windows stream through the stages in chunks, every site's per-channel absolute
 * maxima are taken on the way, and reduced over the replicas. */
#ifndef FPTQ_PIPELINE_CALIBRATE_H
#define FPTQ_PIPELINE_CALIBRATE_H

#include "io/sample.h"
#include "pipeline/mesh.h"
#include "pipeline/stage.h"
#include "pipeline/timing.h"

/* Collective. maxima: (layers of the stage, model_layer_channels), zero at the start; the same on
 * all replicas of a stage at the end. Ranks left over take part with an empty stage and maxima
 * NULL. A NaN or an infinity stops the run: STATUS_INPUT naming layer, site, channel and rank (and
 * the weight it comes from, where one is not finite). */
enum status calibrate_run(struct mesh *mesh, const struct plan *plan, struct stage *stage,
                          const struct sample_windows *windows, float *maxima,
                          struct timing *timing, struct error *error);

#endif
