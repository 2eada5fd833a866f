/* fptq-pipeline eval CONFIG: open, tokenize, plan, load, then one set after the other. */
#include <stdlib.h>

#include "pipeline/evaluate.h"
#include "pipeline/evaluation_report.h"
#include "pipeline/job.h"
#include "pipeline/launch.h"
#include "pipeline/log.h"

struct job {
    const struct config *config;
    const struct options *options;
    struct launch launch;
    struct model model;
    struct stage stage;
    struct head head;
    struct evaluation_task tasks[EVALUATION_SET_COUNT]; /* (task_count) */
    struct evaluation_scores scores[EVALUATION_SET_COUNT];
    int task_count;
    struct timing timing;
    double started;
};

static enum status create_tasks(struct job *job, struct error *error) {
    char *json = NULL;
    size_t length = 0;
    struct tokenizer *tokenizer = NULL;
    const struct model_shape *shape = &job->model.shape;
    enum status status = model_source_tokenizer_json(job->model.source, &json, &length, error);
    if (status)
        return status;
    status = tokenizer_create(json, length, job->config->model.path, &tokenizer, error);
    if (!status && job->config->evaluation.bos == EVALUATION_BOS_ALWAYS &&
        tokenizer_bos(tokenizer) < 0)
        status = error_set(error, STATUS_INPUT,
                           "evaluation.bos is \"always\", but the tokenizer of %s puts no token in "
                           "front of a text",
                           job->config->model.path);
    for (int set = 0, task = 0; !status && set < EVALUATION_SET_COUNT; set++)
        if (job->config->evaluation.sets[set])
            status = evaluation_task_create((enum evaluation_set)set, job->config, shape, tokenizer,
                                            &job->tasks[task++], error);
    if (tokenizer)
        tokenizer_destroy(tokenizer);
    free(json);
    return status;
}

/* Rank 0 reads and tokenizes, all have the requests. */
static enum status take_tasks(struct job *job, struct error *error) {
    double since = timing_now();
    const struct mesh *mesh = &job->launch.mesh;
    const struct config_evaluation *evaluation = &job->config->evaluation;
    if (evaluation->sequence_length > job->model.shape.max_positions)
        return error_set(error, STATUS_INPUT,
                         "evaluation.sequence_length is %lld, but the model has %lld positions",
                         (long long)evaluation->sequence_length,
                         (long long)job->model.shape.max_positions);
    for (int set = 0; set < EVALUATION_SET_COUNT; set++)
        job->task_count += evaluation->sets[set] != NULL;
    enum status status = mesh_agree(mesh, mesh->rank ? STATUS_OK : create_tasks(job, error), error);
    for (int i = 0; !status && i < job->task_count; i++)
        status = evaluation_task_share(mesh, &job->tasks[i], error);
    timing_add(&job->timing, SECTION_SAMPLE, &since);
    return status;
}

/* The layers' plan, as for calibration with the items of the largest set and the longest request.
 */
static enum status plan(struct job *job, struct error *error) {
    struct config config = *job->config; /* a view: it owns nothing */
    int64_t longest = 1, most = 1, ids = 0;
    for (int i = 0; i < job->task_count; i++) {
        const struct evaluation_task *task = &job->tasks[i];
        longest = task->longest > longest ? task->longest : longest;
        most = task->item_count > most ? task->item_count : most;
        ids += task->id_count;
    }
    config.calibration.samples = most;
    config.calibration.sequence_length = longest;
    const int64_t chunk = config.calibration.chunk_tokens;
    const int64_t outside =
        head_bytes(&job->model, config.run.precision, chunk < longest ? chunk : longest) + 4 * ids;
    const size_t row = (size_t)job->model.shape.hidden * sizeof(float);
    const enum status status = launch_plan(&job->launch, &job->model, &config, outside, row, error);
    if (!status)
        launch_log(&job->launch, &job->model, &config);
    return status;
}

static enum status load(struct job *job, struct error *error) {
    double since = timing_now();
    const struct launch *launch = &job->launch;
    const enum run_precision precision = job->config->run.precision;
    enum status status = stage_load(&job->model, &launch->compute, launch->layer_begin,
                                    launch->layer_end, launch->plan.chunk_tokens,
                                    launch->plan.sequence_length, precision, &job->stage, error);
    if (!status && launch->mesh.stage + 1 == launch->plan.stages)
        status = head_load(&job->model, &launch->compute, precision, launch->plan.chunk_tokens,
                           &job->head, error);
    status = mesh_agree(&launch->mesh, status, error);
    timing_add(&job->timing, SECTION_LOAD, &since);
    return status;
}

static enum status show(const struct job *job, struct error *error) {
    struct evaluation_row rows[EVALUATION_SET_COUNT];
    for (int i = 0; i < job->task_count; i++)
        rows[i] = (struct evaluation_row){&job->tasks[i], &job->scores[i], "full precision"};
    const struct evaluation_report report = {
        .config = job->config,
        .launch = &job->launch,
        .rows = rows,
        .row_count = job->task_count,
        .seconds = timing_now() - job->started,
    };
    evaluation_report_print(&report);
    return job->options->json ? evaluation_report_write_json(&report, job->options->json, error)
                              : STATUS_OK;
}

static enum status run_phases(struct job *job, struct error *error) {
    struct mesh *mesh = &job->launch.mesh;
    mesh->stall_limit = (double)job->config->run.stall_limit;
    mesh_enter(mesh, "opening the model");
    enum status status =
        mesh_agree(mesh, model_open(job->config->model.path, &job->model, error), error);
    if (!status)
        status = launch_agree_path(&job->launch, job->config, error);
    mesh_enter(mesh, "tokenizing");
    if (!status)
        status = take_tasks(job, error);
    if (!status)
        status = plan(job, error);
    mesh_enter(mesh, "loading");
    if (!status)
        status = load(job, error);
    mesh_enter(mesh, "evaluation");
    for (int i = 0; !status && i < job->task_count; i++)
        status = evaluate_run(mesh, &job->launch.plan, &job->stage, &job->head, &job->tasks[i],
                              &job->scores[i], &job->timing, error);
    if (!status)
        status = mesh_agree(mesh, mesh->rank ? STATUS_OK : show(job, error), error);
    return status;
}

enum status job_evaluate(const struct config *config, const struct options *options,
                         struct error *error) {
    struct job job = {.config = config, .options = options, .started = timing_now()};
    enum status status = mesh_agree(&job.launch.mesh, mesh_create(&job.launch.mesh, error), error);
    if (!status)
        status = run_phases(&job, error);
    for (int i = 0; i < job.task_count; i++) {
        evaluation_task_free(&job.tasks[i]);
        free(job.scores[i].requests);
    }
    head_free(&job.head);
    stage_free(&job.stage);
    model_close(&job.model);
    launch_end(&job.launch);
    return status;
}
