/* The main job: open, plan, sample, load, calibrate, quantize, assemble, report. Every phase ends
 * with the ranks agreeing that all is well. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "io/digest.h"
#include "pipeline/calibrate.h"
#include "pipeline/checkpoint_root.h"
#include "pipeline/cores.h"
#include "pipeline/job.h"
#include "pipeline/log.h"
#include "pipeline/memory.h"
#include "pipeline/quantize_layer.h"
#include "pipeline/results.h"
#include "pipeline/resume.h"
#include "pipeline/stop.h"

struct job {
    const struct config *config;
    const struct options *options;
    struct mesh mesh;
    struct model model;
    struct plan plan;
    struct compute compute;
    struct stage stage;
    int layer_begin, layer_end; /* of this rank's stage */
    struct sample_windows windows;
    float *maxima; /* (layers of the stage, model_layer_channels) */
    char tokenizer_digest[65];
    struct resume resume;
    struct stop stop;
    struct results results;
    struct timing timing;
    double started;
};

/* The best path of this rank; the environment's FPTQ_ISA can hold it back, so that one machine can
 * play several unlike ones. */
static enum kernel_path best_path(void) {
    const enum kernel_path best = kernel_path_best();
    enum kernel_path held = best;
    const char *name = getenv("FPTQ_ISA");
    return name && kernel_path_parse(name, &held) && held < best ? held : best;
}

/* The path that every rank has: the configured one, or the worst of the ranks' bests. */
static enum status agree_path(struct job *job, struct error *error) {
    const char *isa = job->config->run.isa;
    enum kernel_path path = best_path();
    enum status status = STATUS_OK;
    if (*isa && (!kernel_path_parse(isa, &path) || !kernel_path_supported(path)))
        status = error_set(
            error, STATUS_INPUT,
            "run.isa is \"%s\", which the processor of rank %d does not have (its best is %s)", isa,
            job->mesh.rank, kernel_path_name(kernel_path_best()));
    status = mesh_agree(&job->mesh, status, error);
    if (status)
        return status;
    int level = (int)path;
    MPI_Allreduce(MPI_IN_PLACE, &level, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    job->compute.path = (enum kernel_path)level;
    int unlike = job->compute.path != path, unlike_ranks;
    MPI_Reduce(&unlike, &unlike_ranks, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
    if (job->mesh.rank == 0 && unlike_ranks)
        log_info(
            "processors are unlike: %d of %d ranks could do better than path %s, which all have",
            unlike_ranks, job->mesh.size, kernel_path_name(job->compute.path));
    return STATUS_OK;
}

/* Ranks may have unlike hosts: the plan is made with the least memory and threads of any. */
static enum status make_plan(struct job *job, struct error *error) {
    int threads = job->config->run.threads ? job->config->run.threads : cores_for_rank();
    int64_t host_memory = memory_available();
    MPI_Allreduce(MPI_IN_PLACE, &threads, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, &host_memory, 1, MPI_INT64_T, MPI_MIN, MPI_COMM_WORLD);
    const struct plan_rates rates = plan_rates_typical(job->compute.path);
    enum status status =
        mesh_agree(&job->mesh,
                   plan_make(&job->model, job->config, job->mesh.size, job->mesh.hosts, threads,
                             host_memory, &rates, &job->plan, error),
                   error);
    if (status)
        return status;
    status = mesh_agree(&job->mesh, mesh_arrange(&job->mesh, &job->plan, error), error);
    if (status)
        return status;
    job->mesh.layers = job->model.shape.layers;
    if (job->mesh.stage >= 0) {
        job->layer_begin =
            plan_stage_begin(job->model.shape.layers, job->plan.stages, job->mesh.stage);
        job->layer_end =
            plan_stage_begin(job->model.shape.layers, job->plan.stages, job->mesh.stage + 1);
    }
    job->compute.team =
        team_create(threads, stage_scratch_bytes(&job->model, job->plan.chunk_tokens,
                                                 job->plan.sequence_length));
    status = job->compute.team ? STATUS_OK
                               : error_set(error, STATUS_FAILED, "rank %d cannot start %d threads",
                                           job->mesh.rank, threads);
    return mesh_agree(&job->mesh, status, error);
}

static enum status open_model(struct job *job, struct error *error) {
    double since = timing_now();
    enum status status =
        mesh_agree(&job->mesh, model_open(job->config->model.path, &job->model, error), error);
    if (!status)
        status = agree_path(job, error);
    if (!status)
        status = make_plan(job, error);
    timing_add(&job->timing, SECTION_OPEN, &since);
    if (status)
        return status;
    log_info(
        "%s: %s, %d layers; %d rank(s) as %d stage(s) x %d replica(s), %d thread(s) each, path %s",
        job->config->model.path, job->model.shape.model_type, job->model.shape.layers,
        job->mesh.size, job->plan.stages, job->plan.replicas, job->plan.threads,
        kernel_path_name(job->compute.path));
    const int idle = job->mesh.size - job->plan.stages * job->plan.replicas;
    if (idle)
        log_warning("%d of %d ranks have no work: stages x replicas is %d", idle, job->mesh.size,
                    job->plan.stages * job->plan.replicas);
    return STATUS_OK;
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
    double since = timing_now();
    enum status status = STATUS_OK;
    if (job->mesh.rank == 0)
        status = calibration->random_tokens
                     ? sample_random_tokens(calibration->samples, calibration->sequence_length,
                                            calibration->seed, job->model.shape.vocabulary,
                                            &job->windows, error)
                     : sample_corpus(job, error);
    status = mesh_agree(&job->mesh, status, error);
    if (status)
        return status;
    int32_t *ids = job->windows.ids;
    MPI_Bcast(&job->windows, (int)sizeof job->windows, MPI_BYTE, 0, MPI_COMM_WORLD);
    const int64_t count = job->windows.samples * job->windows.sequence_length;
    if (job->mesh.rank != 0)
        ids = malloc((size_t)count * sizeof *ids);
    job->windows.ids = ids;
    status = mesh_agree(
        &job->mesh,
        ids ? STATUS_OK
            : error_set(error, STATUS_FAILED, "no memory for %lld tokens", (long long)count),
        error);
    for (int64_t row = 0; !status && row < job->windows.samples; row++)
        MPI_Bcast(ids + row * job->windows.sequence_length, (int)job->windows.sequence_length,
                  MPI_INT32_T, 0, MPI_COMM_WORLD);
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

/* Collective. Phases are left at once when a signal came or time is up; so is their sequence. */
static enum status stop_point(const struct job *job, struct error *error) {
    return mesh_agree(&job->mesh, stop_check(&job->stop, 0, error), error);
}

static enum status take_up(struct job *job, struct error *error) {
    const int64_t ranges = (job->layer_end - job->layer_begin) * model_layer_channels(&job->model);
    job->maxima = calloc((size_t)ranges + 1, sizeof *job->maxima);
    enum status status = job->maxima ? results_create(&job->results, job->model.shape.layers, error)
                                     : error_set(error, STATUS_FAILED, "no memory for %lld ranges",
                                                 (long long)ranges);
    status = mesh_agree(&job->mesh, status, error);
    const struct resume_run run = {
        .mesh = &job->mesh,
        .config = job->config,
        .model = &job->model,
        .path = job->compute.path,
        .windows = &job->windows,
        .layer_begin = job->layer_begin,
        .layer_end = job->layer_end,
        .restart = job->options->restart,
    };
    return status ? status : resume_open(&job->resume, &run, job->maxima, keep_result, job, error);
}

static enum status calibrate(struct job *job, struct error *error) {
    if (job->resume.todo_count == 0)
        return STATUS_OK;
    double since = timing_now();
    mesh_enter(&job->mesh, "loading");
    enum status status =
        mesh_agree(&job->mesh,
                   stage_load(&job->model, &job->compute, job->layer_begin, job->layer_end,
                              job->plan.chunk_tokens, job->plan.sequence_length,
                              job->config->run.precision, &job->stage, error),
                   error);
    timing_add(&job->timing, SECTION_LOAD, &since);
    mesh_enter(&job->mesh, "calibration");
    const struct calibration calibration = {
        .mesh = &job->mesh,
        .plan = &job->plan,
        .stage = &job->stage,
        .windows = &job->windows,
        .resume = &job->resume,
        .stop = &job->stop,
    };
    if (!status)
        status = calibrate_run(&calibration, job->maxima, &job->timing, error);
    stage_free(&job->stage);
    return status;
}

static enum status quantize(struct job *job, struct error *error) {
    const struct quantize_job work = {
        .mesh = &job->mesh,
        .model = &job->model,
        .config = job->config,
        .compute = &job->compute,
        .layer_begin = job->layer_begin,
        .layer_end = job->layer_end,
        .maxima = job->maxima,
        .resume = &job->resume,
        .stop = &job->stop,
    };
    mesh_enter(&job->mesh, "quantization");
    enum status status = quantize_layers(&work, keep_result, job, &job->timing, error);
    double since = timing_now();
    const struct checkpoint_root root = {
        .config = job->config,
        .model = &job->model,
        .plan = &job->plan,
        .path = job->compute.path,
        .windows = &job->windows,
        .tokenizer_digest = job->tokenizer_digest,
    };
    if (!status)
        status = mesh_agree(&job->mesh, checkpoint_root_write(&root, &job->mesh, error), error);
    timing_add(&job->timing, SECTION_WRITE, &since);
    if (!status)
        status = stop_point(job, error);
    mesh_enter(&job->mesh, "assembling");
    if (!status && job->mesh.rank == 0 && !(status = checkpoint_root_assemble(&root, error)))
        resume_remove(&job->resume);
    status = mesh_agree(&job->mesh, status, error);
    timing_add(&job->timing, SECTION_ASSEMBLE, &since);
    return status;
}

static enum status run_phases(struct job *job, struct error *error) {
    job->mesh.stall_limit = (double)job->config->run.stall_limit;
    mesh_enter(&job->mesh, "opening the model");
    enum status status = open_model(job, error);
    if (!status)
        status = mesh_agree(
            &job->mesh,
            job->mesh.rank ? STATUS_OK : checkpoint_root_prepare(job->config, &job->plan, error),
            error);
    if (!status)
        status = stop_point(job, error);
    mesh_enter(&job->mesh, "sampling");
    if (!status)
        status = take_samples(job, error);
    if (!status)
        status = take_up(job, error);
    if (!status)
        status = stop_point(job, error);
    if (!status)
        status = calibrate(job, error);
    if (!status)
        status = quantize(job, error);
    if (status)
        return status;
    const struct results_run run = {.config = job->config,
                                    .plan = &job->plan,
                                    .path = job->compute.path,
                                    .timing = &job->timing,
                                    .seconds = timing_now() - job->started};
    return results_report(&job->results, &job->mesh, &run, job->options, error);
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
    stop_install_signals();
    stop_set_deadline(&job.stop, job.started, config->run.time_limit);
    enum status status = mesh_agree(&job.mesh, mesh_create(&job.mesh, error), error);
    if (!status)
        status = run_phases(&job, error);
    if (status == STATUS_STOPPED)
        status = tell_stopped(&job, error);
    results_free(&job.results);
    resume_close(&job.resume);
    sample_free(&job.windows);
    free(job.maxima);
    if (job.compute.team)
        team_destroy(job.compute.team);
    model_close(&job.model);
    mesh_destroy(&job.mesh);
    return status;
}
