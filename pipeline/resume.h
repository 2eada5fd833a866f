/* Taking up an interrupted run: what is saved while it runs, and read when it starts again.
 *
 * The ranges are maxima, which have no order and may be taken of a window twice, and so are the
 * rows of the site samples (site_sample.h): so a state is a set of (layers, windows that passed
 * through them, maxima, rows), one record "ranges-GGGG-RRRRR" for each rank of a generation (a
 * start of the program). Stages save when it suits them, with no agreement between them. A new run,
 * with any number of ranks, takes for every layer the largest of all records, joins their rows
 * (rank 0 holds those of all layers meanwhile), skips the windows that every layer has, and repeats
 * the rest. Its first record stands before those of the generation before are removed. A record
 * that is damaged is left out with a warning: its windows are computed again.
 *
 * A layer is finished when its part of the checkpoint is there with the record "layer-LLLLL" of its
 * results. Everything belongs to the record "fingerprint": what decides the content (configuration,
 * model, tokens, instructions, version), as lines "key = value". It stays until the checkpoint is
 * complete. */
#ifndef FPTQ_PIPELINE_RESUME_H
#define FPTQ_PIPELINE_RESUME_H

#include <stdbool.h>

#include "io/sample.h"
#include "pipeline/config.h"
#include "pipeline/hessian_state.h"
#include "pipeline/layer_part.h"
#include "pipeline/mesh.h"
#include "pipeline/site_sample.h"

/* What the run is. */
struct resume_run {
    const struct mesh *mesh;
    const struct config *config;
    const struct model *model;
    enum kernel_path path;
    const struct sample_windows *windows;
    const char *ranges; /* digest of those that a checkpoint has, the maxima already; NULL: they are
                           calibrated */
    int layer_begin, layer_end; /* of this rank's stage */
    struct site_sample *sample; /* of this rank's stage, kept with the ranges */
    struct hessians *hessians;  /* of this rank's stage; NULL: none are taken */
    bool restart;               /* forget what an interrupted run left */
};

struct resume {
    struct resume_run run;
    char owner[65]; /* sum of the fingerprint */
    int generation;
    uint8_t *done;  /* bit w: this rank's maxima have window w */
    bool *finished; /* (layers) */
    int finished_layers;
    int64_t *todo; /* (todo_count) windows to pass through the stages, ascending */
    int64_t todo_count;
    double next_save; /* of timing_now() */
    int lock;         /* rank 0's lock on NAME.parts, or -1 */
};

/* Collective. Read what an interrupted run of the same fingerprint left, or clear the place for a
 * new one. maxima (layers of the stage, model_layer_channels) become those read, or zero, and so do
 * the sample's rows; without calibration both stay. Rank 0 calls keep(context, result) for every
 * site of the finished layers. STATUS_INPUT when another run writes this checkpoint, or what is
 * there has another fingerprint and restart is false: the differing key is named. */
enum status resume_open(struct resume *resume, const struct resume_run *run, float *maxima,
                        void (*keep)(void *context, const struct site_result *result),
                        void *context, struct error *error);
void resume_close(struct resume *resume);

/* This rank's maxima have window w, whole. */
void resume_mark(struct resume *resume, int64_t window);
/* Save this rank's ranges: when it is time (at most 2% of the time goes into it), or now. */
enum status resume_save_when_due(struct resume *resume, const float *maxima, struct error *error);
enum status resume_save(struct resume *resume, const float *maxima, struct error *error);
/* Collective: all ranks save now; then records of earlier generations are removed. */
enum status resume_save_all(struct resume *resume, const float *maxima, struct error *error);
/* The Hessians, which take longer: when it is time, or now; nothing where there are none. */
enum status resume_save_hessians(const struct resume *resume, bool now, struct error *error);
/* A layer's results (SITE_COUNT), before its part gets its final name. */
enum status resume_save_layer(const struct resume *resume, int layer,
                              const struct site_result *results, struct error *error);
/* The checkpoint is complete: remove the state. Rank 0 alone. */
void resume_remove(const struct resume *resume);

/* --- resume_read.c: rank 0 reads what is there --- */

/* What the records hold together. */
struct resume_found {
    bool anything;
    int generation;              /* the latest */
    uint8_t *done;               /* bit w: every layer has window w */
    float *maxima;               /* (layers, model_layer_channels) */
    struct site_sample sample;   /* of all layers */
    bool *finished;              /* (layers) */
    struct site_result *results; /* (layers, SITE_COUNT), of the finished */
};

/* Compare fingerprints, clear what is to be cleared, read the rest. Writes the fingerprint when the
 * run is a new one. */
enum status resume_read(const struct resume_run *run, char owner[65], struct resume_found *found,
                        struct error *error);
void resume_found_free(struct resume_found *found);

/* A "ranges" record: this, resume_bitmap_bytes() of windows, the maxima, the rows of the sample. */
struct resume_ranges {
    int32_t layer_begin, layer_end;
    int64_t channels, samples, sample_tokens;
};
size_t resume_bitmap_bytes(int64_t samples);

#endif
