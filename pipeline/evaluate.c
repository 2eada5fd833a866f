#include "pipeline/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/stream.h"

/* What the visits of one rank share. */
struct evaluation {
    const struct mesh *mesh;
    struct evaluation_model *models; /* (model_count) */
    int model_count, passes;
    bool compares;
    const struct evaluation_task *task;
    const struct stream_sequence *sequences;                /* one for each request */
    struct evaluation_score *scores[EVALUATION_MODELS_MAX]; /* (request_count) */
    double seconds[EVALUATION_MODELS_MAX];                  /* of computation */
    int32_t *targets;                                       /* (chunk_tokens) */
    double *divergences;                                    /* (chunk_tokens) */
};

/* The floats of a chunk's tokens: of one model after those of the other. */
static float *hidden_of(const struct evaluation *evaluation, float *hidden, int model,
                        int64_t tokens) {
    return hidden + model * tokens * evaluation->models[model].stage.model->shape.hidden;
}

static void add_scores(struct evaluation *evaluation, int model, int64_t request, int64_t tokens) {
    const struct log_likelihood *scores = evaluation->models[model].head.scores;
    const struct log_likelihood *first = evaluation->models[0].head.scores;
    struct evaluation_score *score = &evaluation->scores[model][request];
    for (int64_t t = 0; t < tokens; t++) {
        score->log_likelihood += log_likelihood_value(&scores[t]);
        score->equal_top += scores[t].top == scores[t].target;
        if (model && evaluation->compares) {
            score->divergence += evaluation->divergences[t];
            score->same_top += scores[t].top == first[t].top;
        }
    }
}

/* The last stage: what the chunk's tokens say of those that follow. */
static void score_chunk(struct evaluation *evaluation, const struct stream_chunk *chunk,
                        float *hidden) {
    const struct evaluation_request *request = &evaluation->task->requests[chunk->sequence];
    const int64_t wanted = evaluation->sequences[chunk->sequence].wanted;
    const int64_t skipped = wanted > chunk->position ? wanted - chunk->position : 0;
    const int64_t tokens = chunk->tokens - skipped;
    if (tokens <= 0)
        return;
    const int32_t *continuation = evaluation->task->ids + request->continuation;
    for (int64_t t = 0; t < tokens; t++)
        evaluation->targets[t] = continuation[chunk->position + skipped + t - wanted];
    const float *rows[EVALUATION_MODELS_MAX] = {NULL};
    for (int model = 0; model < evaluation->model_count; model++)
        rows[model] = hidden_of(evaluation, hidden, model, chunk->tokens) +
                      skipped * evaluation->models[model].stage.model->shape.hidden;
    if (evaluation->compares) {
        head_score_both(&evaluation->models[0].head, &evaluation->models[1].head, rows[0], rows[1],
                        evaluation->targets, tokens, evaluation->divergences,
                        &evaluation->seconds[0], &evaluation->seconds[1]);
    }
    for (int model = 0; model < evaluation->model_count; model++) {
        const double since = timing_now();
        if (!evaluation->compares)
            head_score(&evaluation->models[model].head, rows[model], evaluation->targets, tokens);
        add_scores(evaluation, model, chunk->sequence, tokens);
        evaluation->seconds[model] += timing_now() - since;
    }
}

static enum status visit(void *context, const struct stream_chunk *chunk, const int32_t *ids,
                         float *hidden, const struct stage_hook *hook, struct error *error) {
    struct evaluation *evaluation = context;
    for (int model = 0; model < evaluation->model_count; model++) {
        const double since = timing_now();
        struct stage *stage = &evaluation->models[model].stage;
        float *rows = hidden_of(evaluation, hidden, model, chunk->tokens);
        const enum status status =
            ids ? stage_embed(stage, ids, chunk->tokens, rows, error) : STATUS_OK;
        if (status)
            return status;
        stage_forward(stage, rows, chunk->position, chunk->tokens, NULL, hook);
        evaluation->seconds[model] += timing_now() - since;
    }
    if (chunk->leaves && evaluation->mesh->stage + 1 == evaluation->mesh->stages)
        score_chunk(evaluation, chunk, hidden);
    return STATUS_OK;
}

/* In waves: the layers of a pass, of all models. */
static enum status enter_pass(void *context, int pass, struct error *error) {
    struct evaluation *evaluation = context;
    enum status status = STATUS_OK;
    for (int model = 0; !status && model < evaluation->model_count; model++)
        status =
            stage_enter_pass(&evaluation->models[model].stage, evaluation->passes, pass, error);
    return status;
}

/* The model sees the context and all of the continuation but its last token. The requests of an
 * item follow each other on one replica, so that they share their context's keys and values. */
static void list_requests(const struct evaluation_task *task, struct stream_sequence *sequences) {
    for (int64_t i = 0; i < task->request_count; i++) {
        const struct evaluation_request *request = &task->requests[i];
        sequences[i] = (struct stream_sequence){
            .head = task->ids + request->context,
            .head_tokens = request->context_tokens,
            .tail = task->ids + request->continuation,
            .tail_tokens = request->continuation_tokens - 1,
            .group = request->item,
            .wanted = request->context_tokens - 1,
        };
    }
}

/* Each request was scored by one rank, and is zero on the others: their sum is exact. */
static enum status gather(const struct mesh *mesh, const struct evaluation_task *task,
                          const struct evaluation_model *model, struct evaluation_score *scores,
                          struct error *error) {
    enum { PIECE = 1 << 20, NUMBERS = sizeof *scores / sizeof(double) };
    enum status status = STATUS_OK;
    for (int64_t at = 0; at < task->request_count; at += PIECE) {
        const int64_t left = task->request_count - at;
        const int count = NUMBERS * (int)(left < PIECE ? left : PIECE);
        MPI_Reduce(mesh->rank ? (void *)(scores + at) : MPI_IN_PLACE, scores + at, count,
                   MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    }
    for (int64_t i = 0; !mesh->rank && !status && i < task->request_count; i++)
        if (!isfinite(scores[i].log_likelihood))
            status = error_set(error, STATUS_INPUT,
                               "%s, item %lld: the log-probability is %f (%s): the model computes "
                               "numbers that are not finite",
                               evaluation_set_name(task->set), (long long)task->requests[i].item,
                               scores[i].log_likelihood, model->name);
    return mesh_agree(mesh, status, error);
}

/* The wall time, shared out as the models' computation on all ranks is. */
static void share_seconds(struct evaluation *evaluation, double wall,
                          struct evaluation_scores *scores) {
    double total = 0, *seconds = evaluation->seconds;
    MPI_Allreduce(MPI_IN_PLACE, seconds, EVALUATION_MODELS_MAX, MPI_DOUBLE, MPI_SUM,
                  MPI_COMM_WORLD);
    for (int model = 0; model < evaluation->model_count; model++)
        total += seconds[model];
    for (int model = 0; model < evaluation->model_count; model++)
        scores[model].seconds = total > 0 ? wall * seconds[model] / total : wall;
}

static enum status run_stream(struct mesh *mesh, const struct plan *plan,
                              struct evaluation *evaluation, struct evaluation_scores *scores,
                              struct timing *timing, struct error *error) {
    const struct evaluation_task *task = evaluation->task;
    const int models = evaluation->model_count;
    const struct stream_work work = {
        .sequences = evaluation->sequences,
        .count = task->request_count,
        .chunk_tokens = plan->chunk_tokens,
        .width = mesh->stage >= 0 ? models * evaluation->models[0].stage.model->shape.hidden : 0,
        .label = evaluation_set_name(task->set),
        .waves = {.passes = evaluation->passes, .sequences = plan->wave, .enter = enter_pass},
        .visit = visit,
        .context = evaluation,
    };
    int64_t tokens = 0;
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = timing_now();
    enum status status = stream_run(mesh, &work, timing, &tokens, error);
    if (status)
        return status;
    share_seconds(evaluation, timing_now() - begin, scores);
    if (mesh->stage != 0)
        tokens = 0;
    MPI_Allreduce(MPI_IN_PLACE, &tokens, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    for (int model = 0; !status && model < models; model++) {
        scores[model].tokens = tokens;
        scores[model].compared = model && evaluation->compares;
        status = gather(mesh, task, &evaluation->models[model], evaluation->scores[model], error);
    }
    return status;
}

enum status evaluate_run(struct mesh *mesh, const struct plan *plan,
                         struct evaluation_model *models, int model_count,
                         const struct evaluation_task *task, struct evaluation_scores *scores,
                         struct timing *timing, struct error *error) {
    const size_t requests = (size_t)task->request_count, tokens = (size_t)plan->chunk_tokens;
    struct stream_sequence *sequences = malloc(requests * sizeof *sequences);
    struct evaluation evaluation = {
        .mesh = mesh,
        .models = models,
        .model_count = model_count,
        .passes = mesh->stage < 0 ? 1
                                  : plan_stage_passes(plan, models[0].stage.layer_end -
                                                                models[0].stage.layer_begin),
        .compares = model_count > 1 && task->window_tokens,
        .task = task,
        .sequences = sequences,
        .targets = malloc(tokens * sizeof *evaluation.targets),
        .divergences = malloc(tokens * sizeof *evaluation.divergences),
    };
    bool complete = sequences && evaluation.targets && evaluation.divergences;
    for (int model = 0; model < model_count; model++) {
        scores[model] =
            (struct evaluation_scores){.requests = calloc(requests, sizeof *scores->requests)};
        evaluation.scores[model] = scores[model].requests;
        complete &= scores[model].requests != NULL;
    }
    enum status status =
        mesh_agree(mesh,
                   complete ? STATUS_OK
                            : error_set(error, STATUS_FAILED, "no memory for the requests of %s",
                                        evaluation_set_name(task->set)),
                   error);
    if (!status) {
        list_requests(task, sequences);
        status = run_stream(mesh, plan, &evaluation, scores, timing, error);
    }
    free(sequences);
    free(evaluation.targets);
    free(evaluation.divergences);
    return status;
}
