#include "pipeline/evaluate.h"

#include <assert.h>
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
    struct sensitivity *sensitivity;                        /* or NULL */
    double seconds[EVALUATION_MODELS_MAX + 1]; /* of computation; the last: of sensitivity */
    /* of a chunk, T = chunk_tokens: */
    struct stage_piece *pieces;         /* (T) */
    float *rows[EVALUATION_MODELS_MAX]; /* (T, hidden) of the tokens to score */
    int64_t *requests;                  /* (T) whose they are */
    int32_t *targets;                   /* (T) */
    double *divergences;                /* (T) */
};

static int64_t width_of(const struct evaluation *evaluation) {
    return evaluation->models[0].stage.model->shape.hidden;
}

/* Of a chunk's hidden: the models' tokens stand one after the other. */
static float *hidden_of(const struct evaluation *evaluation, float *hidden, int model,
                        int64_t tokens) {
    return hidden + model * tokens * width_of(evaluation);
}

/* Gather the tokens of a chunk that are scored, with their targets; returns how many. */
static int64_t gather_tokens(struct evaluation *evaluation, const struct stream_chunk *chunk,
                             float *hidden) {
    const int64_t width = width_of(evaluation);
    int64_t found = 0, at = 0;
    for (int64_t p = 0; p < chunk->piece_count; at += chunk->pieces[p++].tokens) {
        const struct stream_piece *piece = &chunk->pieces[p];
        const struct evaluation_request *request = &evaluation->task->requests[piece->sequence];
        const int64_t wanted = evaluation->sequences[piece->sequence].wanted;
        const int64_t skipped = wanted > piece->position ? wanted - piece->position : 0;
        const int32_t *continuation = evaluation->task->ids + request->continuation;
        if (skipped >= piece->tokens)
            continue;
        for (int model = 0; model < evaluation->model_count; model++)
            memcpy(evaluation->rows[model] + found * width,
                   hidden_of(evaluation, hidden, model, chunk->tokens) + (at + skipped) * width,
                   (size_t)((piece->tokens - skipped) * width) * sizeof(float));
        for (int64_t t = skipped; t < piece->tokens; t++, found++) {
            evaluation->targets[found] = continuation[piece->position + t - wanted];
            evaluation->requests[found] = piece->sequence;
        }
    }
    return found;
}

static void add_scores(struct evaluation *evaluation, int model, int64_t tokens) {
    const struct log_likelihood *scores = evaluation->models[model].head.scores;
    const struct log_likelihood *first = evaluation->models[0].head.scores;
    for (int64_t t = 0; t < tokens; t++) {
        struct evaluation_score *score = &evaluation->scores[model][evaluation->requests[t]];
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
    struct evaluation_model *models = evaluation->models;
    const int64_t scored = gather_tokens(evaluation, chunk, hidden);
    if (!scored)
        return;
    if (evaluation->compares)
        head_score_both(&models[0].head, &models[1].head, evaluation->rows[0], evaluation->rows[1],
                        evaluation->targets, scored, evaluation->divergences,
                        &evaluation->seconds[0], &evaluation->seconds[1]);
    for (int model = 0; model < evaluation->model_count; model++) {
        const double since = timing_now();
        if (!evaluation->compares)
            head_score(&models[model].head, evaluation->rows[model], evaluation->targets, scored);
        add_scores(evaluation, model, scored);
        evaluation->seconds[model] += timing_now() - since;
    }
}

/* The model in full precision shows its activations, where that is wanted. */
static void forward(struct evaluation *evaluation, int model, const struct stream_chunk *chunk,
                    float *hidden, const struct stage_hook *hook) {
    struct sensitivity *sensitivity = model == 0 ? evaluation->sensitivity : NULL;
    struct stage *stage = &evaluation->models[model].stage;
    struct stage_observer observer;
    const double before = sensitivity ? sensitivity->seconds : 0;
    if (sensitivity)
        observer = sensitivity_observe(sensitivity, chunk);
    stage_forward_pieces(stage, hidden, evaluation->pieces, chunk->piece_count,
                         sensitivity ? &observer : NULL, hook);
    if (sensitivity) {
        evaluation->seconds[EVALUATION_MODELS_MAX] += sensitivity->seconds - before;
        evaluation->seconds[model] -= sensitivity->seconds - before;
    }
}

static enum status visit(void *context, const struct stream_chunk *chunk, const int32_t *ids,
                         float *hidden, const struct stage_hook *hook, struct error *error) {
    struct evaluation *evaluation = context;
    const int64_t tokens = chunk->tokens;
    for (int64_t p = 0; p < chunk->piece_count; p++)
        evaluation->pieces[p] =
            (struct stage_piece){chunk->pieces[p].position, chunk->pieces[p].tokens};
    for (int model = 0; model < evaluation->model_count; model++) {
        const double since = timing_now();
        struct stage *stage = &evaluation->models[model].stage;
        float *rows = hidden_of(evaluation, hidden, model, tokens);
        const enum status status = ids ? stage_embed(stage, ids, tokens, rows, error) : STATUS_OK;
        if (status)
            return status;
        forward(evaluation, model, chunk, rows, hook);
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
    MPI_Allreduce(MPI_IN_PLACE, seconds, EVALUATION_MODELS_MAX + 1, MPI_DOUBLE, MPI_SUM,
                  MPI_COMM_WORLD);
    for (int i = 0; i < EVALUATION_MODELS_MAX + 1; i++)
        total += seconds[i];
    for (int model = 0; model < evaluation->model_count; model++)
        scores[model].seconds = total > 0 ? wall * seconds[model] / total : wall;
}

static enum status run_stream(struct mesh *mesh, const struct plan *plan,
                              struct evaluation *evaluation, struct evaluation_scores *scores,
                              struct timing *timing, struct error *error) {
    const struct evaluation_task *task = evaluation->task;
    const int models = evaluation->model_count;
    const struct stream_work work = {
        .text = {.sequences = evaluation->sequences,
                 .count = task->request_count,
                 .chunk_tokens = plan->chunk_tokens,
                 .packed = true,
                 .wave = plan->wave},
        .width = mesh->stage >= 0 ? models * width_of(evaluation) : 0,
        .label = evaluation_set_name(task->set),
        .waves = {.passes = evaluation->passes, .enter = enter_pass},
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

static void free_evaluation(struct evaluation *evaluation) {
    free((void *)evaluation->sequences);
    free(evaluation->pieces);
    free(evaluation->requests);
    free(evaluation->targets);
    free(evaluation->divergences);
    for (int model = 0; model < evaluation->model_count; model++)
        free(evaluation->rows[model]);
}

/* Room for the results, which the caller has, and for what the visits share. */
static enum status allocate_evaluation(struct evaluation *evaluation, int64_t chunk_tokens,
                                       struct evaluation_scores *scores, struct error *error) {
    const struct evaluation_task *task = evaluation->task;
    const size_t requests = (size_t)task->request_count, tokens = (size_t)chunk_tokens;
    const size_t row = evaluation->mesh->stage < 0 ? 0 : (size_t)width_of(evaluation);
    struct stream_sequence *sequences = malloc(requests * sizeof *sequences);
    evaluation->sequences = sequences;
    evaluation->pieces = malloc(tokens * sizeof *evaluation->pieces);
    evaluation->requests = malloc(tokens * sizeof *evaluation->requests);
    evaluation->targets = malloc(tokens * sizeof *evaluation->targets);
    evaluation->divergences = malloc(tokens * sizeof *evaluation->divergences);
    bool complete = sequences && evaluation->pieces && evaluation->requests &&
                    evaluation->targets && evaluation->divergences;
    for (int model = 0; model < evaluation->model_count; model++) {
        scores[model] =
            (struct evaluation_scores){.requests = calloc(requests, sizeof *scores->requests)};
        evaluation->scores[model] = scores[model].requests;
        evaluation->rows[model] = malloc(tokens * row * sizeof(float) + 1);
        complete &= scores[model].requests && evaluation->rows[model];
    }
    if (!complete)
        return error_set(error, STATUS_FAILED, "no memory for the requests of %s",
                         evaluation_set_name(task->set));
    list_requests(task, sequences);
    return STATUS_OK;
}

enum status evaluate_run(struct mesh *mesh, const struct plan *plan,
                         struct evaluation_model *models, int model_count,
                         const struct evaluation_task *task, struct evaluation_scores *scores,
                         struct sensitivity *sensitivity, struct timing *timing,
                         struct error *error) {
    assert(model_count <= EVALUATION_MODELS_MAX);
    struct evaluation evaluation = {
        .mesh = mesh,
        .models = models,
        .model_count = model_count,
        .passes = mesh->stage < 0 ? 1
                                  : plan_stage_passes(plan, models[0].stage.layer_end -
                                                                models[0].stage.layer_begin),
        .compares = model_count > 1 && task->window_tokens,
        .task = task,
        .sensitivity = sensitivity,
    };
    enum status status = mesh_agree(
        mesh, allocate_evaluation(&evaluation, plan->chunk_tokens, scores, error), error);
    if (!status)
        status = run_stream(mesh, plan, &evaluation, scores, timing, error);
    free_evaluation(&evaluation);
    return status;
}
