#include "pipeline/calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/stream.h"
#include "pipeline/weights.h"

/* What the visits of one rank share. */
struct pass {
    const struct calibration *calibration;
    float *maxima;  /* (layers of the stage, model_layer_channels) */
    int64_t window; /* that is passing */
    double longest; /* seconds, of a chunk */
    struct timing *timing;
};

/* The first range that is not finite, in the order of computation. */
static enum status check_finite(const struct pass *pass, struct error *error) {
    const struct stage *stage = pass->calibration->stage;
    const struct model *model = stage->model;
    const int64_t channels = model_layer_channels(model);
    for (int layer = stage->layer_begin; layer < stage->layer_end; layer++) {
        const float *range = pass->maxima + (layer - stage->layer_begin) * channels;
        int64_t bad = 0;
        while (bad < channels && isfinite(range[bad]))
            bad++;
        if (bad == channels)
            continue;
        int site = SITE_COUNT - 1;
        while (bad < model_site_offset(model, (enum site)site))
            site--;
        char cause[400];
        const bool found = weights_find_nonfinite(model, layer, cause, sizeof cause) ||
                           (layer && weights_find_nonfinite(model, layer - 1, cause, sizeof cause));
        return error_set(
            error, STATUS_INPUT,
            "layer %d, site %s, channel %lld: the activations' range is %s (rank %d)%s%s", layer,
            site_name((enum site)site),
            (long long)(bad - model_site_offset(model, (enum site)site)),
            isnan(range[bad]) ? "NaN" : "infinite", pass->calibration->mesh->rank,
            found ? "; " : "", found ? cause : "");
    }
    return STATUS_OK;
}

static void take_site(void *context, int layer, enum site site, const float *x, int64_t position,
                      int64_t tokens) {
    struct pass *pass = context;
    const struct calibration *calibration = pass->calibration;
    const struct timing_mark begin = timing_mark();
    if (calibration->sample->tokens)
        site_sample_take(calibration->sample, layer, site, pass->window, x, position, tokens);
    if (calibration->hessians)
        hessians_take(calibration->hessians, layer, site, pass->window, x, position, tokens);
    timing_move(pass->timing, SECTION_COMPUTE, SECTION_HESSIAN, &begin);
}

static enum status visit(void *context, const struct stream_chunk *chunk, const int32_t *ids,
                         float *hidden, const struct stage_hook *hook, struct error *error) {
    struct pass *pass = context;
    struct stage *stage = pass->calibration->stage;
    struct hessians *hessians = pass->calibration->hessians;
    if (ids) {
        const enum status status = stage_embed(stage, ids, chunk->tokens, hidden, error);
        if (status)
            return status;
    }
    pass->window = pass->calibration->resume->todo[chunk->sequence];
    const struct stage_observer observer = {
        .maxima = pass->maxima,
        .site = hessians || pass->calibration->sample->tokens ? take_site : NULL,
        .context = pass,
    };
    stage_forward(stage, hidden, chunk->position, chunk->tokens, &observer, hook);
    /* Before it is passed on: a fault is named by the rank where it began. */
    const enum status status = check_finite(pass, error);
    return status || !hessians ? status : hessians_check(hessians, error);
}

static int passes_of(const struct calibration *calibration) {
    const struct stage *stage = calibration->stage;
    return plan_stage_passes(calibration->plan, stage->layer_end - stage->layer_begin);
}

static enum status enter_pass(void *context, int pass, struct error *error) {
    const struct pass *work = context;
    return stage_enter_pass(work->calibration->stage, passes_of(work->calibration), pass, error);
}

/* Is a window done, is it time to save, is it time to stop? */
static enum status keep_state(void *context, const struct stream_chunk *chunk, double seconds,
                              struct error *error) {
    struct pass *pass = context;
    struct resume *resume = pass->calibration->resume;
    struct timing_mark since = timing_mark();
    if (seconds > pass->longest)
        pass->longest = seconds;
    enum status status = STATUS_OK;
    double margin = 2 * pass->longest;
    if (chunk->last && chunk->leaves) {
        resume_mark(resume, resume->todo[chunk->sequence]);
        status = resume_save_when_due(resume, pass->maxima, error);
        if (!status)
            status = resume_save_hessians(resume, false, error);
        timing_add(pass->timing, SECTION_WRITE, &since);
    }
    if (pass->calibration->hessians)
        margin += 2 * pass->calibration->hessians->save_seconds;
    return status ? status : stop_check(pass->calibration->stop, margin, error);
}

/* Each window that is to do is a sequence, taken by the replicas in turn. */
static struct stream_sequence *list_windows(const struct calibration *calibration) {
    const struct sample_windows *windows = calibration->windows;
    const struct resume *resume = calibration->resume;
    struct stream_sequence *sequences = calloc((size_t)resume->todo_count + 1, sizeof *sequences);
    for (int64_t i = 0; sequences && i < resume->todo_count; i++)
        sequences[i] = (struct stream_sequence){
            .head = windows->ids + resume->todo[i] * windows->sequence_length,
            .head_tokens = windows->sequence_length,
            .group = i,
        };
    return sequences;
}

static enum status run_stream(struct pass *pass, struct error *error) {
    const struct calibration *calibration = pass->calibration;
    struct mesh *mesh = calibration->mesh;
    struct stream_sequence *sequences = list_windows(calibration);
    enum status status =
        mesh_agree(mesh,
                   sequences ? STATUS_OK
                             : error_set(error, STATUS_FAILED, "no memory for the list of windows"),
                   error);
    const struct stream_waves waves = {
        .passes = mesh->stage < 0 ? 1 : passes_of(calibration),
        .folder = calibration->scratch,
        .enter = enter_pass,
    };
    const struct stream_work work = {
        .text = {.sequences = sequences,
                 .count = calibration->resume->todo_count,
                 .chunk_tokens = calibration->plan->chunk_tokens,
                 .wave = calibration->plan->wave},
        .width = mesh->stage >= 0 ? calibration->stage->model->shape.hidden : 0,
        .label = "calibrate",
        .waves = waves,
        .visit = visit,
        .passed = keep_state,
        .context = pass,
    };
    if (!status)
        status = stream_run(mesh, &work, pass->timing, NULL, error);
    free(sequences);
    return status;
}

enum status calibrate_run(const struct calibration *calibration, float *maxima,
                          struct timing *timing, struct error *error) {
    struct mesh *mesh = calibration->mesh;
    const struct stage *stage = calibration->stage;
    struct pass pass = {.calibration = calibration, .maxima = maxima, .timing = timing};
    enum status status = run_stream(&pass, error);
    struct timing_mark since = timing_mark();
    if (!status || status == STATUS_STOPPED) {
        enum status saved = resume_save_all(calibration->resume, maxima, error);
        if (!saved)
            saved = mesh_agree(
                mesh, resume_save_hessians(calibration->resume, status != STATUS_OK, error), error);
        status = saved ? saved : status;
        timing_add(timing, SECTION_WRITE, &since);
    }
    if (status || mesh->stage < 0)
        return status;
    const int64_t count =
        (stage->layer_end - stage->layer_begin) * model_layer_channels(stage->model);
    MPI_Allreduce(MPI_IN_PLACE, maxima, (int)count, MPI_FLOAT, MPI_MAX, mesh->stage_peers);
    site_sample_reduce(calibration->sample, mesh->stage_peers);
    timing_add(timing, SECTION_REDUCE, &since);
    return STATUS_OK;
}
