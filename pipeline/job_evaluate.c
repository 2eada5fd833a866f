/* fptq-pipeline eval CONFIG: open, tokenize, plan, load, then one set after the other. */
#include <stdlib.h>

#include "pipeline/evaluate.h"
#include "pipeline/evaluation_report.h"
#include "pipeline/evaluation_state.h"
#include "pipeline/job.h"
#include "pipeline/launch.h"
#include "pipeline/log.h"
#include "pipeline/memory.h"
#include "pipeline/quantized_model.h"
#include "pipeline/stop.h"

/* What else an evaluation takes: mapped pages at the edges of decoded tensors, an open checkpoint's
 * manifest, HDF5's caches (measured: 3 to 9 MB), the samples of the weights for the state's
 * fingerprint (9 MB). */
enum { OTHER_BYTES = 20 << 20 };

struct job {
    const struct config *config;
    const struct options *options;
    struct launch launch;
    struct model model;
    struct quantized_model quantized;                         /* of evaluation.checkpoint */
    struct evaluation_model evaluated[EVALUATION_MODELS_MAX]; /* (evaluated_count) */
    int evaluated_count;
    struct evaluation_task tasks[EVALUATION_SET_COUNT]; /* (task_count) */
    struct evaluation_scores scores[EVALUATION_SET_COUNT][EVALUATION_MODELS_MAX];
    struct sensitivity_result sensitivity[EVALUATION_SET_COUNT]; /* of texts, if asked for */
    struct sensitivity_report sensitivity_report;
    int task_count;
    struct evaluation_state state;
    struct stop stop;
    struct timing timing;
    double started;
    int64_t planned_memory, peak_memory; /* of the rank with most */
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
    memory_give_back();
    return status;
}

/* Rank 0 reads and tokenizes, all have the requests. */
static enum status take_tasks(struct job *job, struct error *error) {
    struct timing_mark since = timing_mark();
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

/* Between the layers of a rotated model flow other numbers than between the model's. */
static enum status check_sensitivity(const struct job *job, struct error *error) {
    char *rotation = NULL;
    if (!job->config->evaluation.sensitivity ||
        checkpoint_attribute_text(job->quantized.file, "/", "rotation", &rotation, NULL))
        return STATUS_OK;
    free(rotation);
    return error_set(error, STATUS_INPUT,
                     "%s: evaluation.sensitivity compares layers with the model's, but the "
                     "checkpoint is of the rotated model (quantization.rotation)",
                     job->quantized.path);
}

/* One rank looks at the checkpoint before any other opens it. */
static enum status open_checkpoint(struct job *job, struct error *error) {
    struct mesh *mesh = &job->launch.mesh;
    const char *path = job->config->evaluation.checkpoint;
    if (job->config->evaluation.full_precision)
        job->evaluated[job->evaluated_count++].name = "full precision";
    if (!path)
        return STATUS_OK;
    struct timing_mark since = timing_mark();
    mesh_enter(mesh, "verifying the checkpoint");
    enum status status =
        mesh_agree(mesh, mesh->rank ? STATUS_OK : quantized_model_verify(path, error), error);
    if (!status)
        status = mesh_agree(mesh, quantized_model_open(path, &job->model, &job->quantized, error),
                            error);
    if (!status)
        status = mesh_agree(
            mesh, mesh->rank ? STATUS_OK : quantized_model_check(&job->quantized, error), error);
    if (!status)
        status = mesh_agree(mesh, mesh->rank ? STATUS_OK : check_sensitivity(job, error), error);
    job->evaluated[job->evaluated_count++].name = job->quantized.method;
    timing_add(&job->timing, SECTION_OPEN, &since);
    return status;
}

/* What a rank needs outside the layers: tokens and results, the checkpoint's embedding in the first
 * stage, heads in the last. */
static int64_t outside_bytes(const struct job *job, int64_t longest, bool first, bool last) {
    const struct config *config = job->config;
    const struct model_shape *shape = &job->model.shape;
    const int64_t chunk = config->calibration.chunk_tokens;
    const int64_t models = job->evaluated_count;
    /* rows of a chunk to score, and on their way in and out */
    int64_t bytes = OTHER_BYTES + 4 * models * chunk * shape->hidden * (int64_t)sizeof(float);
    int64_t windows = 0;
    if (last)
        bytes += models *
                 head_bytes(&job->model, config->run.precision, chunk < longest ? chunk : longest);
    if (first && config->evaluation.checkpoint)
        bytes += 2 * shape->vocabulary * shape->hidden;
    for (int i = 0; i < job->task_count; i++) {
        const struct evaluation_task *task = &job->tasks[i];
        bytes += (int64_t)sizeof(int32_t) * task->id_count +
                 task->request_count * ((int64_t)sizeof *task->requests +
                                        models * (int64_t)sizeof(struct evaluation_score) +
                                        (int64_t)sizeof(struct evaluation_state_entry));
        if (task->window_tokens && task->request_count > windows)
            windows = task->request_count;
    }
    if (config->evaluation.sensitivity == SENSITIVITY_LINEARS)
        bytes += sensitivity_bytes(&job->model, shape->layers, windows, chunk);
    return bytes;
}

/* The layers' plan, as for calibration with the items of the largest set and the longest request,
 * or what short ones are packed into. */
static enum status plan(struct job *job, struct error *error) {
    struct config config = *job->config; /* a view: it owns nothing */
    const int64_t pack = config.calibration.chunk_tokens,
                  positions = job->model.shape.max_positions;
    int64_t longest = pack < positions ? pack : positions, most = 1;
    for (int i = 0; i < job->task_count; i++) {
        const struct evaluation_task *task = &job->tasks[i];
        longest = task->longest > longest ? task->longest : longest;
        most = task->item_count > most ? task->item_count : most;
    }
    config.calibration.samples = most;
    config.calibration.sequence_length = longest;
    config.run.spill = SPILL_NEVER; /* there is no folder for files */
    struct plan_needs needs = {.models = job->evaluated_count};
    if (config.evaluation.checkpoint)
        needs.layer_bytes = quantized_model_layer_bytes(&job->quantized, job->launch.compute.path,
                                                        config.run.precision);
    if (!config.evaluation.full_precision)
        needs.layer_bytes -= plan_layer_bytes(&job->model, 0, config.run.precision);
    const size_t row = (size_t)job->model.shape.hidden * sizeof(float);
    const enum status status = launch_plan(&job->launch, &job->model, &config, &needs,
                                           outside_bytes(job, longest, true, true), row, error);
    const struct mesh *mesh = &job->launch.mesh;
    job->planned_memory =
        job->launch.plan.memory_rank +
        outside_bytes(job, longest, mesh->stage == 0, mesh->stage + 1 == mesh->stages);
    if (!status)
        launch_log(&job->launch, &job->model, &config);
    return status;
}

/* The last of the models is the checkpoint, where there is one. */
static enum status load_model(struct job *job, int index, struct error *error) {
    const struct launch *launch = &job->launch;
    const struct plan *plan = &launch->plan;
    const enum run_precision precision = job->config->run.precision;
    const bool is_checkpoint =
        job->config->evaluation.checkpoint && index + 1 == job->evaluated_count;
    const struct quantized_model *quantized = is_checkpoint ? &job->quantized : NULL;
    struct evaluation_model *model = &job->evaluated[index];
    const int begin = launch->layer_begin, end = launch->layer_end;
    const bool waves = plan_stage_passes(plan, end - begin) > 1;
    enum status status = stage_open(&job->model, quantized, &launch->compute, begin, end,
                                    waves ? plan->layers_held : end - begin, plan->chunk_tokens,
                                    plan->sequence_length, precision, &model->stage, error);
    if (!status && !waves)
        status = stage_hold(&model->stage, begin, end, error);
    model->stage.int8_cache = is_checkpoint && job->config->evaluation.kv_cache == CACHE_INT8;
    if (!status && launch->mesh.stage + 1 == plan->stages)
        status = head_load(&job->model, quantized, &launch->compute, precision, plan->chunk_tokens,
                           &model->head, error);
    return status;
}

static enum status load(struct job *job, struct error *error) {
    struct timing_mark since = timing_mark();
    enum status status = STATUS_OK;
    for (int i = 0; !status && i < job->evaluated_count; i++)
        status = load_model(job, i, error);
    status = mesh_agree(&job->launch.mesh, status, error);
    timing_add(&job->timing, SECTION_LOAD, &since);
    return status;
}

/* A set, scored whole, with one layer of the checkpoint alone or (-1) all. It goes on with an
 * interrupted run, but for sensitivity's sums, which have no state. */
static enum status evaluate_set(struct job *job, int index, int layer,
                                struct sensitivity *sensitivity, struct evaluation_scores *scores,
                                struct error *error) {
    const struct evaluation_work work = {
        .mesh = &job->launch.mesh,
        .plan = &job->launch.plan,
        .models = job->evaluated,
        .model_count = job->evaluated_count,
        .task = &job->tasks[index],
        .sensitivity = sensitivity,
        .state = sensitivity ? NULL : &job->state,
        .layer = layer,
        .stop = &job->stop,
        .timing = &job->timing,
    };
    return evaluate_run(&work, scores, error);
}

/* Sums of the linears' errors, beside the evaluation of a text. */
static enum status measure_linears(struct job *job, int index, struct error *error) {
    struct mesh *mesh = &job->launch.mesh;
    const struct evaluation_task *task = &job->tasks[index];
    const int layers = job->model.shape.layers;
    struct sensitivity sensitivity;
    enum status status = sensitivity_create(&sensitivity, &job->evaluated[0].stage,
                                            &job->evaluated[1].stage, task->request_count, error);
    double *errors = calloc((size_t)layers * LINEARS_MAX, sizeof *errors);
    job->sensitivity[index].errors = errors;
    if (!status && !errors)
        status = error_set(error, STATUS_FAILED, "no memory for evaluation.sensitivity");
    status = mesh_agree(mesh, status, error);
    if (!status)
        status = evaluate_set(job, index, -1, &sensitivity, job->scores[index], error);
    if (!status)
        status = sensitivity_gather(&sensitivity, mesh, layers, errors, error);
    sensitivity_free(&sensitivity);
    return status;
}

/* A text with one layer of the checkpoint among the model's. */
static enum status measure_layer(struct job *job, int index, int layer, struct error *error) {
    struct evaluation_scores scores[EVALUATION_MODELS_MAX] = {{0}};
    struct evaluation_model *model = &job->evaluated[1];
    model->stage.others = &job->evaluated[0].stage;
    model->stage.alone = layer;
    const enum status status = evaluate_set(job, index, layer, NULL, scores, error);
    model->stage.others = NULL;
    if (!status && !job->launch.mesh.rank)
        evaluation_metrics(&job->tasks[index], &scores[1], job->sensitivity[index].layers[layer]);
    for (int i = 0; i < EVALUATION_MODELS_MAX; i++)
        free(scores[i].requests);
    return status;
}

/* The head is the model's own meanwhile. */
static enum status measure_layers(struct job *job, int index, struct error *error) {
    struct sensitivity_result *result = &job->sensitivity[index];
    const int layers = job->model.shape.layers;
    result->layers = calloc((size_t)layers, sizeof *result->layers);
    enum status status = mesh_agree(
        &job->launch.mesh,
        result->layers ? STATUS_OK
                       : error_set(error, STATUS_FAILED, "no memory for evaluation.sensitivity"),
        error);
    struct head *full = &job->evaluated[0].head, *head = &job->evaluated[1].head;
    const struct matmul_weight weight = head->weight;
    const struct stage_norm norm = head->norm;
    head->weight = full->weight;
    head->norm = full->norm;
    for (int layer = 0; !status && layer < layers; layer++)
        status = measure_layer(job, index, layer, error);
    head->weight = weight;
    head->norm = norm;
    return status;
}

static enum status evaluate(struct job *job, int index, struct error *error) {
    const bool text = job->tasks[index].window_tokens;
    const enum sensitivity_kind kind = job->config->evaluation.sensitivity;
    if (text && kind == SENSITIVITY_LINEARS)
        return measure_linears(job, index, error);
    const enum status status = evaluate_set(job, index, -1, NULL, job->scores[index], error);
    return status || !text || kind != SENSITIVITY_LAYERS ? status
                                                         : measure_layers(job, index, error);
}

static enum status show(struct job *job, struct error *error) {
    enum status status = STATUS_OK;
    if (job->config->evaluation.sensitivity)
        status = sensitivity_report_create(&job->quantized, &job->sensitivity_report, error);
    if (status)
        return status;
    struct evaluation_row rows[EVALUATION_SET_COUNT * EVALUATION_MODELS_MAX];
    int count = 0;
    for (int i = 0; i < job->task_count; i++)
        for (int model = 0; model < job->evaluated_count; model++)
            rows[count++] = (struct evaluation_row){
                &job->tasks[i], &job->scores[i][model], job->evaluated[model].name,
                model && (job->sensitivity[i].errors || job->sensitivity[i].layers)
                    ? &job->sensitivity[i]
                    : NULL};
    const struct evaluation_report report = {
        .config = job->config,
        .launch = &job->launch,
        .rows = rows,
        .row_count = count,
        .sensitivity = &job->sensitivity_report,
        .seconds = timing_now() - job->started,
        .peak_memory = job->peak_memory,
        .planned_memory = job->planned_memory,
    };
    evaluation_report_print(&report);
    return job->options->json ? evaluation_report_write_json(&report, job->options->json, error)
                              : STATUS_OK;
}

static enum status take_up(struct job *job, struct error *error) {
    const struct evaluation_state_run run = {
        .mesh = &job->launch.mesh,
        .config = job->config,
        .model = &job->model,
        .checkpoint = job->quantized.file,
        .path = job->launch.compute.path,
        .tasks = job->tasks,
        .task_count = job->task_count,
        .model_count = job->evaluated_count,
        .output = job->options->json,
        .restart = job->options->restart,
    };
    return evaluation_state_open(&job->state, &run, error);
}

static enum status run_phases(struct job *job, struct error *error) {
    struct mesh *mesh = &job->launch.mesh;
    mesh->stall_limit = (double)job->config->run.stall_limit;
    mesh_enter(mesh, "opening the model");
    enum status status =
        mesh_agree(mesh, model_open(job->config->model.path, &job->model, error), error);
    if (!status)
        status = launch_agree_path(&job->launch, job->config, error);
    if (!status)
        status = open_checkpoint(job, error);
    mesh_enter(mesh, "tokenizing");
    if (!status)
        status = take_tasks(job, error);
    if (!status)
        status = plan(job, error);
    if (!status)
        status = stop_agree(&job->stop, mesh, error);
    if (!status)
        status = take_up(job, error);
    mesh_enter(mesh, "loading");
    if (!status)
        status = load(job, error);
    if (!status)
        status = stop_agree(&job->stop, mesh, error);
    mesh_enter(mesh, "evaluation");
    for (int i = 0; !status && i < job->task_count; i++)
        status = evaluate(job, i, error);
    int64_t memory[] = {memory_peak(), job->planned_memory};
    MPI_Allreduce(MPI_IN_PLACE, memory, 2, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD);
    job->peak_memory = memory[0];
    job->planned_memory = memory[1];
    if (!status)
        status = mesh_agree(mesh, mesh->rank ? STATUS_OK : show(job, error), error);
    return status;
}

/* What all ranks agreed on, with what it means to the user. */
static enum status tell_stopped(const struct job *job, struct error *error) {
    const struct error cause = *error;
    if (!job->options->json)
        return error_set(error, STATUS_STOPPED, "%s; without --json nothing is kept",
                         cause.message);
    return error_set(error, STATUS_STOPPED,
                     "%s; what is done is saved beside %s: the same command goes on with it",
                     cause.message, job->options->json);
}

enum status job_evaluate(const struct config *config, const struct options *options,
                         struct error *error) {
    struct job job = {.config = config, .options = options, .started = timing_now()};
    job.state.lock = -1;
    stop_set_deadline(&job.stop, job.started, config->run.time_limit);
    enum status status = mesh_agree(&job.launch.mesh, mesh_create(&job.launch.mesh, error), error);
    if (!status)
        status = run_phases(&job, error);
    if (status == STATUS_STOPPED)
        status = tell_stopped(&job, error);
    evaluation_state_close(&job.state, !status);
    for (int i = 0; i < job.task_count; i++) {
        evaluation_task_free(&job.tasks[i]);
        free(job.sensitivity[i].errors);
        free(job.sensitivity[i].layers);
        for (int model = 0; model < EVALUATION_MODELS_MAX; model++)
            free(job.scores[i][model].requests);
    }
    for (int model = 0; model < EVALUATION_MODELS_MAX; model++) {
        head_free(&job.evaluated[model].head);
        stage_free(&job.evaluated[model].stage);
    }
    sensitivity_report_free(&job.sensitivity_report);
    quantized_model_close(&job.quantized);
    model_close(&job.model);
    launch_end(&job.launch);
    return status;
}
