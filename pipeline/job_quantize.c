/* The main job: open, plan, sample, load, calibrate, quantize, assemble, report. Every phase ends
 * with the ranks agreeing that all is well. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "io/digest.h"
#include "kernels/w4a8.h"
#include "pipeline/calibrate.h"
#include "pipeline/checkpoint_root.h"
#include "pipeline/host_share.h"
#include "pipeline/job.h"
#include "pipeline/launch.h"
#include "pipeline/log.h"
#include "pipeline/method.h"
#include "pipeline/quantize_layer.h"
#include "pipeline/results.h"
#include "pipeline/resume.h"
#include "pipeline/saved_ranges.h"
#include "pipeline/site_sample.h"
#include "pipeline/stop.h"

struct job {
    const struct config *config;
    const struct options *options;
    struct launch launch;
    struct model model;
    struct rotation rotation;
    struct model rotated; /* a view of the model: what is quantized and stored, rotated or not */
    struct stage stage;
    struct host_share share;
    struct saved_ranges saved; /* with calibration.ranges, in the place of the windows */
    struct sample_windows windows;
    float *maxima; /* (layers of the stage, model_layer_channels) */
    struct site_sample sample;
    struct hessians hessians; /* for GPTQ; else all zero */
    char tokenizer_digest[65];
    struct resume resume;
    struct stop stop;
    struct watch watch; /* of what rank 0 does alone */
    struct results results;
    struct timing timing;
    double started;
};

static enum status make_rotation(struct job *job, struct error *error) {
    const int64_t width = job->model.shape.hidden;
    job->rotated = job->model;
    if (job->config->quantization.rotation == ROTATION_NONE)
        return STATUS_OK;
    job->rotated.rotation = &job->rotation;
    return rotation_create(&job->launch.compute, width, job->config->calibration.seed,
                           &job->rotation)
               ? STATUS_OK
               : error_set(error, STATUS_FAILED, "no memory for a rotation of %lld channels",
                           (long long)width);
}

/* The ranges' checkpoint says what this run counts as: its settings and its text. */
static enum status take_settings(struct job *job, struct error *error) {
    const enum status status =
        saved_ranges_open(&job->launch.mesh, &job->model, job->config, &job->saved, error);
    if (status)
        return status;
    job->config = &job->saved.config;
    job->windows = job->saved.windows;
    snprintf(job->tokenizer_digest, sizeof job->tokenizer_digest, "%s",
             job->saved.tokenizer_digest);
    return STATUS_OK;
}

static enum status open_model(struct job *job, struct error *error) {
    struct timing_mark since = timing_mark();
    struct launch *launch = &job->launch;
    enum status status =
        mesh_agree(&launch->mesh, model_open(job->config->model.path, &job->model, error), error);
    if (!status)
        status = launch_agree_path(launch, job->config, error);
    if (!status && job->config->calibration.ranges)
        status = take_settings(job, error);
    if (!status)
        status = launch_plan(launch, &job->model, job->config, NULL, 0,
                             config_needs_sample(job->config) ? w4a8_scratch_bytes() : 0, error);
    if (!status)
        status = mesh_agree(&launch->mesh, make_rotation(job, error), error);
    timing_add(&job->timing, SECTION_OPEN, &since);
    if (!status)
        launch_log(launch, &job->model, job->config);
    return status;
}

/* While the others wait for rank 0 alone: it is alive, and a signal stops it. */
static enum status watch_rank_0(void *context, struct error *error) {
    struct job *job = context;
    mesh_pulse(&job->launch.mesh);
    return stop_check(&job->stop, 0, error);
}

static enum status sample_corpus(struct job *job, struct error *error) {
    const struct config_calibration *calibration = &job->config->calibration;
    char *json = NULL;
    size_t length = 0;
    struct tokenizer *tokenizer = NULL;
    struct corpus *corpus = NULL;
    enum status status = model_source_tokenizer_json(job->model.source, &json, &length, error);
    if (status)
        return status;
    digest_bytes(json, length, job->tokenizer_digest);
    status = tokenizer_create(json, length, job->config->model.path, &tokenizer, error);
    if (!status)
        status = corpus_open((const char *const *)calibration->data, calibration->data_count,
                             &corpus, error);
    if (!status)
        corpus_set_watch(corpus, &job->watch);
    if (!status)
        status = sample_from_corpus(corpus, tokenizer, calibration->samples,
                                    calibration->sequence_length, calibration->seed,
                                    job->model.shape.vocabulary, &job->windows, error);
    if (corpus)
        corpus_close(corpus);
    if (tokenizer)
        tokenizer_destroy(tokenizer);
    free(json);
    return status;
}

/* Rank 0 reads and tokenizes; the windows go to all. */
static enum status take_samples(struct job *job, struct error *error) {
    const struct config_calibration *calibration = &job->config->calibration;
    struct timing_mark since = timing_mark();
    enum status status = STATUS_OK;
    if (calibration->ranges)
        return STATUS_OK;
    if (job->launch.mesh.rank == 0)
        status = calibration->random_tokens
                     ? sample_random_tokens(calibration->samples, calibration->sequence_length,
                                            calibration->seed, job->model.shape.vocabulary,
                                            &job->windows, error)
                     : sample_corpus(job, error);
    status = mesh_agree(&job->launch.mesh, status, error);
    if (status)
        return status;
    int32_t *ids = job->windows.ids;
    MPI_Bcast(&job->windows, (int)sizeof job->windows, MPI_BYTE, 0, MPI_COMM_WORLD);
    const int64_t count = job->windows.samples * job->windows.sequence_length;
    if (job->launch.mesh.rank != 0)
        ids = malloc((size_t)count * sizeof *ids);
    job->windows.ids = ids;
    status = mesh_agree(
        &job->launch.mesh,
        ids ? STATUS_OK
            : error_set(error, STATUS_FAILED, "no memory for %lld tokens", (long long)count),
        error);
    /* In pieces: counts are ints. */
    enum { PIECE = 1 << 24 };
    for (int64_t at = 0; !status && at < count; at += PIECE)
        MPI_Bcast(ids + at, (int)(count - at < PIECE ? count - at : PIECE), MPI_INT32_T, 0,
                  MPI_COMM_WORLD);
    timing_add(&job->timing, SECTION_SAMPLE, &since);
    if (!status && !calibration->random_tokens)
        log_info("%lld windows of %lld tokens from %lld documents", (long long)job->windows.samples,
                 (long long)job->windows.sequence_length, (long long)job->windows.documents);
    return status;
}

static void keep_result(void *context, const struct site_result *result) {
    struct job *job = context;
    results_add(&job->results, result);
}

static bool needs_hessians(const struct job *job) {
    return method_rounding(&job->config->quantization) == ROUNDING_GPTQ;
}

static enum status take_up(struct job *job, struct error *error) {
    const int64_t ranges =
        (job->launch.layer_end - job->launch.layer_begin) * model_layer_channels(&job->model);
    job->maxima = calloc((size_t)ranges + 1, sizeof *job->maxima);
    enum status status = job->maxima ? results_create(&job->results, job->model.shape.layers, error)
                                     : error_set(error, STATUS_FAILED, "no memory for %lld ranges",
                                                 (long long)ranges);
    if (!status)
        status = site_sample_create(&job->sample, &job->model, job->config, job->launch.layer_begin,
                                    job->launch.layer_end, error);
    if (!status && needs_hessians(job))
        status = hessians_create(&job->hessians, &job->model, &job->launch.compute, job->config,
                                 job->launch.layer_begin, job->launch.layer_end, error);
    if (!status && job->config->calibration.ranges)
        status = saved_ranges_read(&job->saved, job->launch.layer_begin, job->launch.layer_end,
                                   job->maxima, error);
    status = mesh_agree(&job->launch.mesh, status, error);
    const struct resume_run run = {
        .mesh = &job->launch.mesh,
        .config = job->config,
        .model = &job->model,
        .path = job->launch.compute.path,
        .windows = &job->windows,
        .ranges = job->config->calibration.ranges ? job->saved.digest : NULL,
        .layer_begin = job->launch.layer_begin,
        .layer_end = job->launch.layer_end,
        .sample = &job->sample,
        .hessians = needs_hessians(job) ? &job->hessians : NULL,
        .restart = job->options->restart,
    };
    return status ? status : resume_open(&job->resume, &run, job->maxima, keep_result, job, error);
}

/* All layers of the stage, what is decoded once on a host; or in waves room for some. Collective.
 */
static enum status load(struct job *job, struct error *error) {
    const struct launch *launch = &job->launch;
    const struct plan *plan = &launch->plan;
    const enum run_precision precision = job->config->run.precision;
    const int begin = launch->layer_begin, end = launch->layer_end;
    const bool waves = plan_stage_passes(plan, end - begin) > 1;
    if (!waves)
        host_share_create(&launch->mesh, stage_share_bytes(&job->model, begin, end, precision),
                          &job->share);
    enum status status = stage_open(&job->model, NULL, &launch->compute, begin, end,
                                    waves ? plan->layers_held : end - begin, plan->chunk_tokens,
                                    plan->sequence_length, precision, &job->stage, error);
    if (!status)
        status = stage_observe_rotated(&job->stage, job->rotated.rotation, error);
    job->stage.share = (struct stage_share){job->share.data, job->share.member, job->share.members};
    if (!status && !waves)
        status = stage_hold(&job->stage, begin, end, error);
    return mesh_agree(&launch->mesh, status, error);
}

static enum status calibrate(struct job *job, struct error *error) {
    if (job->resume.todo_count == 0)
        return STATUS_OK;
    struct timing_mark since = timing_mark();
    const char *output = job->config->output.checkpoint;
    char parts[PATH_MAX];
    snprintf(parts, sizeof parts, "%.*s.parts", (int)strlen(output) - 3, output);
    mesh_enter(&job->launch.mesh, "loading");
    enum status status = load(job, error);
    timing_add(&job->timing, SECTION_LOAD, &since);
    mesh_enter(&job->launch.mesh, "calibration");
    const struct calibration calibration = {
        .mesh = &job->launch.mesh,
        .plan = &job->launch.plan,
        .stage = &job->stage,
        .scratch = job->launch.plan.spills ? parts : NULL,
        .windows = &job->windows,
        .resume = &job->resume,
        .sample = &job->sample,
        .hessians = needs_hessians(job) ? &job->hessians : NULL,
        .stop = &job->stop,
    };
    if (!status)
        status = calibrate_run(&calibration, job->maxima, &job->timing, error);
    stage_free(&job->stage);
    host_share_free(&job->share);
    return status;
}

/* What each replica has summed, over all of them. */
static enum status reduce_hessians(struct job *job, struct error *error) {
    struct timing_mark since = timing_mark();
    if (!needs_hessians(job))
        return STATUS_OK;
    mesh_enter(&job->launch.mesh, "reduction");
    hessians_end(&job->hessians);
    const enum status status = hessian_state_reduce(&job->hessians, &job->launch.mesh, error);
    timing_add(&job->timing, SECTION_REDUCE, &since);
    return mesh_agree(&job->launch.mesh, status, error);
}

static enum status quantize(struct job *job, struct error *error) {
    const struct quantize_job work = {
        .mesh = &job->launch.mesh,
        .model = &job->rotated,
        .config = job->config,
        .compute = &job->launch.compute,
        .layer_begin = job->launch.layer_begin,
        .layer_end = job->launch.layer_end,
        .maxima = job->maxima,
        .sample = &job->sample,
        .hessians = needs_hessians(job) ? &job->hessians : NULL,
        .resume = &job->resume,
        .stop = &job->stop,
    };
    mesh_enter(&job->launch.mesh, "quantization");
    enum status status = quantize_layers(&work, keep_result, job, &job->timing, error);
    struct timing_mark since = timing_mark();
    const struct checkpoint_root root = {
        .config = job->config,
        .model = &job->rotated,
        .plan = &job->launch.plan,
        .path = job->launch.compute.path,
        .windows = &job->windows,
        .tokenizer_digest = job->tokenizer_digest,
    };
    if (!status)
        status = mesh_agree(&job->launch.mesh,
                            checkpoint_root_write(&root, &job->launch.mesh, error), error);
    timing_add(&job->timing, SECTION_WRITE, &since);
    if (!status)
        status = stop_agree(&job->stop, &job->launch.mesh, error);
    mesh_enter(&job->launch.mesh, "assembling");
    if (!status && job->launch.mesh.rank == 0 &&
        !(status = checkpoint_root_assemble(&root, &job->watch, error)))
        resume_remove(&job->resume);
    status = mesh_agree(&job->launch.mesh, status, error);
    timing_add(&job->timing, SECTION_ASSEMBLE, &since);
    return status;
}

static enum status run_phases(struct job *job, struct error *error) {
    job->launch.mesh.stall_limit = (double)job->config->run.stall_limit;
    mesh_enter(&job->launch.mesh, "opening the model");
    enum status status = open_model(job, error);
    if (!status)
        status = mesh_agree(&job->launch.mesh,
                            job->launch.mesh.rank
                                ? STATUS_OK
                                : checkpoint_root_prepare(job->config, &job->launch.plan, error),
                            error);
    if (!status)
        status = stop_agree(&job->stop, &job->launch.mesh, error);
    mesh_enter(&job->launch.mesh, "sampling");
    if (!status)
        status = take_samples(job, error);
    if (!status)
        status = take_up(job, error);
    if (!status)
        status = stop_agree(&job->stop, &job->launch.mesh, error);
    if (!status)
        status = calibrate(job, error);
    if (!status)
        status = reduce_hessians(job, error);
    if (!status)
        status = quantize(job, error);
    if (status)
        return status;
    const struct results_run run = {.config = job->config,
                                    .plan = &job->launch.plan,
                                    .path = job->launch.compute.path,
                                    .timing = &job->timing,
                                    .seconds = timing_now() - job->started};
    return results_report(&job->results, &job->launch.mesh, &run, job->options, error);
}

/* What all ranks agreed on, with what it means to the user. */
static enum status tell_stopped(const struct job *job, struct error *error) {
    const struct error cause = *error;
    return error_set(error, STATUS_STOPPED,
                     "%s; what is done is saved beside %s: the same command goes on with it",
                     cause.message, job->config->output.checkpoint);
}

enum status job_quantize(const struct config *config, const struct options *options,
                         struct error *error) {
    struct job job = {.config = config, .options = options, .started = timing_now()};
    job.resume.lock = -1;
    job.watch = (struct watch){watch_rank_0, &job};
    stop_set_deadline(&job.stop, job.started, config->run.time_limit);
    enum status status = mesh_agree(&job.launch.mesh, mesh_create(&job.launch.mesh, error), error);
    if (!status)
        status = run_phases(&job, error);
    if (status == STATUS_STOPPED)
        status = tell_stopped(&job, error);
    results_free(&job.results);
    resume_close(&job.resume);
    sample_free(&job.windows);
    saved_ranges_close(&job.saved);
    free(job.maxima);
    site_sample_free(&job.sample);
    hessians_free(&job.hessians);
    rotation_free(&job.rotation);
    model_close(&job.model);
    launch_end(&job.launch);
    return status;
}
