/* Calibration: the windows stream through the stages in chunks, every site's per-channel absolute
 * maxima are taken on the way, and reduced over the replicas. */
#ifndef FPTQ_PIPELINE_CALIBRATE_H
#define FPTQ_PIPELINE_CALIBRATE_H

#include "io/sample.h"
#include "pipeline/mesh.h"
#include "pipeline/plan.h"
#include "pipeline/resume.h"
#include "pipeline/site_sample.h"
#include "pipeline/stage.h"
#include "pipeline/stop.h"
#include "pipeline/timing.h"

/* What a stream works with. */
struct calibration {
    struct mesh *mesh;
    const struct plan *plan;
    struct stage *stage; /* all layers held, or none where the plan has waves */
    const char *scratch; /* folder of the scratch file; NULL: hidden states stay in memory */
    const struct sample_windows *windows;
    struct resume *resume;      /* its todo: the windows to pass; the state is saved now and then */
    struct site_sample *sample; /* its rows are taken on the way; without tokens: none */
    struct hessians *hessians;  /* are added to; NULL: not wanted */
    const struct stop *stop;
};

/* Collective. maxima: (layers of the stage, model_layer_channels), zero at the start or what an
 * earlier run has; the same on all replicas of a stage at the end, as are the sample's rows;
 * Hessians are each replica's own.
 * STATUS_STOPPED when it was to stop: what is done is in the state. Ranks left over take part with
 * an empty stage and maxima NULL. A NaN or an infinity stops the run: STATUS_INPUT naming layer,
 * site, channel and rank (and the weight it comes from, where one is not finite). */
enum status calibrate_run(const struct calibration *calibration, float *maxima,
                          struct timing *timing, struct error *error);

#endif
