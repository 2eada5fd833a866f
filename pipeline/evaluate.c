#include "pipeline/evaluate.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/evaluation_state.h"
#include "pipeline/stream.h"

/* What the visits of one rank share. */
struct evaluation {
    const struct evaluation_work *work;
    int passes;
    bool compares;
    int64_t *todo; /* (todo_count) requests to score, ascending */
    int64_t todo_count;
    struct stream_sequence *sequences;         /* (todo_count) */
    struct evaluation_scores *scores;          /* (model_count) */
    double longest;                            /* seconds, of a chunk */
    double seconds[EVALUATION_MODELS_MAX + 1]; /* of computation; the last: of sensitivity */
    /* of a chunk, T = chunk_tokens: */
    struct stage_piece *pieces;         /* (T) */
    float *rows[EVALUATION_MODELS_MAX]; /* (T, hidden) of the tokens to score */
    int64_t *requests;                  /* (T) whose they are */
    int32_t *targets;                   /* (T) */
    double *divergences;                /* (T) */
};

static int64_t width_of(const struct evaluation *evaluation) {
    return evaluation->work->models[0].stage.model->shape.hidden;
}

/* Of a chunk's hidden: the models' tokens stand one after the other. */
static float *hidden_of(const struct evaluation *evaluation, float *hidden, int model,
                        int64_t tokens) {
    return hidden + model * tokens * width_of(evaluation);
}

/* Gather the tokens of a chunk that are scored, with their targets; returns how many. */
static int64_t gather_tokens(struct evaluation *evaluation, const struct stream_chunk *chunk,
                             float *hidden) {
    const struct evaluation_task *task = evaluation->work->task;
    const int64_t width = width_of(evaluation);
    int64_t found = 0, at = 0;
    for (int64_t p = 0; p < chunk->piece_count; at += chunk->pieces[p++].tokens) {
        const struct stream_piece *piece = &chunk->pieces[p];
        const int64_t todo = evaluation->todo[piece->sequence];
        const struct evaluation_request *request = &task->requests[todo];
        const int64_t wanted = evaluation->sequences[piece->sequence].wanted;
        const int64_t skipped = wanted > piece->position ? wanted - piece->position : 0;
        const int32_t *continuation = task->ids + request->continuation;
        if (skipped >= piece->tokens)
            continue;
        for (int model = 0; model < evaluation->work->model_count; model++)
            memcpy(evaluation->rows[model] + found * width,
                   hidden_of(evaluation, hidden, model, chunk->tokens) + (at + skipped) * width,
                   (size_t)((piece->tokens - skipped) * width) * sizeof(float));
        for (int64_t t = skipped; t < piece->tokens; t++, found++) {
            evaluation->targets[found] = continuation[piece->position + t - wanted];
            evaluation->requests[found] = todo;
        }
    }
    return found;
}

static void add_scores(struct evaluation *evaluation, int model, int64_t tokens) {
    const struct log_likelihood *scores = evaluation->work->models[model].head.scores;
    const struct log_likelihood *first = evaluation->work->models[0].head.scores;
    for (int64_t t = 0; t < tokens; t++) {
        struct evaluation_score *score =
            &evaluation->scores[model].requests[evaluation->requests[t]];
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
    struct evaluation_model *models = evaluation->work->models;
    const int64_t scored = gather_tokens(evaluation, chunk, hidden);
    if (!scored)
        return;
    if (evaluation->compares)
        head_score_both(&models[0].head, &models[1].head, evaluation->rows[0], evaluation->rows[1],
                        evaluation->targets, scored, evaluation->divergences,
                        &evaluation->seconds[0], &evaluation->seconds[1]);
    for (int model = 0; model < evaluation->work->model_count; model++) {
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
    struct sensitivity *sensitivity = model == 0 ? evaluation->work->sensitivity : NULL;
    struct stage *stage = &evaluation->work->models[model].stage;
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

static bool is_last_stage(const struct mesh *mesh) {
    return mesh->stage >= 0 && mesh->stage + 1 == mesh->stages;
}

static enum status visit(void *context, const struct stream_chunk *chunk, const int32_t *ids,
                         float *hidden, const struct stage_hook *hook, struct error *error) {
    struct evaluation *evaluation = context;
    const struct evaluation_work *work = evaluation->work;
    const int64_t tokens = chunk->tokens;
    for (int64_t p = 0; p < chunk->piece_count; p++)
        evaluation->pieces[p] =
            (struct stage_piece){chunk->pieces[p].position, chunk->pieces[p].tokens};
    for (int model = 0; model < work->model_count; model++) {
        const double since = timing_now();
        struct stage *stage = &work->models[model].stage;
        float *rows = hidden_of(evaluation, hidden, model, tokens);
        const enum status status = ids ? stage_embed(stage, ids, tokens, rows, error) : STATUS_OK;
        if (status)
            return status;
        forward(evaluation, model, chunk, rows, hook);
        evaluation->seconds[model] += timing_now() - since;
    }
    if (chunk->leaves && is_last_stage(work->mesh))
        score_chunk(evaluation, chunk, hidden);
    return STATUS_OK;
}

/* In waves: the layers of a pass, of all models. */
static enum status enter_pass(void *context, int pass, struct error *error) {
    struct evaluation *evaluation = context;
    enum status status = STATUS_OK;
    for (int model = 0; !status && model < evaluation->work->model_count; model++)
        status = stage_enter_pass(&evaluation->work->models[model].stage, evaluation->passes, pass,
                                  error);
    return status;
}

/* The requests that the chunk was the last of are done. */
static void keep_requests(const struct evaluation *evaluation, const struct stream_chunk *chunk) {
    for (int64_t p = 0; p < chunk->piece_count; p++) {
        const struct stream_piece *piece = &chunk->pieces[p];
        const struct stream_sequence *sequence = &evaluation->sequences[piece->sequence];
        if (piece->position + piece->tokens == sequence->head_tokens + sequence->tail_tokens)
            evaluation_state_add(evaluation->work->state, evaluation->scores,
                                 evaluation->todo[piece->sequence]);
    }
}

/* Is a request done, is it time to save, is it time to stop? */
static enum status keep_state(void *context, const struct stream_chunk *chunk, double seconds,
                              struct error *error) {
    struct evaluation *evaluation = context;
    const struct evaluation_work *work = evaluation->work;
    enum status status = STATUS_OK;
    double margin = 0;
    if (seconds > evaluation->longest)
        evaluation->longest = seconds;
    if (work->state) {
        struct timing_mark since = timing_mark();
        if (chunk->leaves && is_last_stage(work->mesh))
            keep_requests(evaluation, chunk);
        status = evaluation_state_save_when_due(work->state, error);
        margin = 2 * work->state->save_seconds;
        timing_add(work->timing, SECTION_WRITE, &since);
    }
    return status ? status : stop_check(work->stop, margin + 2 * evaluation->longest, error);
}

/* The model sees the context and all of the continuation but its last token. The requests of an
 * item follow each other on one replica, so that they share their context's keys and values. */
static void list_requests(struct evaluation *evaluation) {
    const struct evaluation_task *task = evaluation->work->task;
    for (int64_t i = 0; i < evaluation->todo_count; i++) {
        const struct evaluation_request *request = &task->requests[evaluation->todo[i]];
        evaluation->sequences[i] = (struct stream_sequence){
            .head = task->ids + request->context,
            .head_tokens = request->context_tokens,
            .tail = task->ids + request->continuation,
            .tail_tokens = request->continuation_tokens - 1,
            .group = request->item,
            .wanted = request->context_tokens - 1,
        };
    }
}

/* Collective. What is to do: all but what an interrupted run has done. */
static enum status take_up(struct evaluation *evaluation, struct error *error) {
    const struct evaluation_work *work = evaluation->work;
    const int64_t count = work->task->request_count;
    bool *done = calloc((size_t)count, sizeof *done);
    enum status status = done ? STATUS_OK
                              : error_set(error, STATUS_FAILED, "no memory for the requests of %s",
                                          evaluation_set_name(work->task->set));
    status = mesh_agree(work->mesh, status, error);
    if (!status && work->state)
        status = evaluation_state_begin(work->state, work->task, work->layer, evaluation->scores,
                                        done, error);
    for (int64_t i = 0; !status && i < count; i++)
        if (!done[i])
            evaluation->todo[evaluation->todo_count++] = i;
    free(done);
    if (!status)
        list_requests(evaluation);
    return status;
}

/* Each request was scored by one rank (what was taken up, rank 0 has), and is zero on the others:
 * their sum is exact. */
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
static void share_seconds(struct evaluation *evaluation, double wall) {
    double total = 0, *seconds = evaluation->seconds;
    MPI_Allreduce(MPI_IN_PLACE, seconds, EVALUATION_MODELS_MAX + 1, MPI_DOUBLE, MPI_SUM,
                  MPI_COMM_WORLD);
    for (int i = 0; i < EVALUATION_MODELS_MAX + 1; i++)
        total += seconds[i];
    for (int model = 0; model < evaluation->work->model_count; model++)
        evaluation->scores[model].seconds = total > 0 ? wall * seconds[model] / total : wall;
}

static enum status run_stream(struct evaluation *evaluation, struct error *error) {
    const struct evaluation_work *work = evaluation->work;
    struct mesh *mesh = work->mesh;
    const struct stream_work stream = {
        .text = {.sequences = evaluation->sequences,
                 .count = evaluation->todo_count,
                 .chunk_tokens = work->plan->chunk_tokens,
                 .packed = true,
                 .wave = work->plan->wave},
        .width = mesh->stage >= 0 ? work->model_count * width_of(evaluation) : 0,
        .label = evaluation_set_name(work->task->set),
        .waves = {.passes = evaluation->passes, .enter = enter_pass},
        .visit = visit,
        .passed = keep_state,
        .context = evaluation,
    };
    int64_t tokens = 0;
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = timing_now();
    enum status status = stream_run(mesh, &stream, work->timing, &tokens, error);
    if (work->state && (!status || status == STATUS_STOPPED)) {
        const enum status saved =
            mesh_agree(mesh, evaluation_state_save(work->state, error), error);
        status = saved ? saved : status;
    }
    if (status)
        return status;
    share_seconds(evaluation, timing_now() - begin);
    if (mesh->stage != 0)
        tokens = 0;
    MPI_Allreduce(MPI_IN_PLACE, &tokens, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    for (int model = 0; model < work->model_count; model++)
        evaluation->scores[model].tokens = tokens;
    return STATUS_OK;
}

static void free_evaluation(struct evaluation *evaluation) {
    free(evaluation->todo);
    free(evaluation->sequences);
    free(evaluation->pieces);
    free(evaluation->requests);
    free(evaluation->targets);
    free(evaluation->divergences);
    for (int model = 0; model < evaluation->work->model_count; model++)
        free(evaluation->rows[model]);
}

/* Room for the results, which the caller has, and for what the visits share. */
static enum status allocate_evaluation(struct evaluation *evaluation, struct error *error) {
    const struct evaluation_work *work = evaluation->work;
    const size_t requests = (size_t)work->task->request_count;
    const size_t tokens = (size_t)work->plan->chunk_tokens;
    const size_t row = work->mesh->stage < 0 ? 0 : (size_t)width_of(evaluation);
    evaluation->todo = malloc(requests * sizeof *evaluation->todo);
    evaluation->sequences = malloc(requests * sizeof *evaluation->sequences);
    evaluation->pieces = malloc(tokens * sizeof *evaluation->pieces);
    evaluation->requests = malloc(tokens * sizeof *evaluation->requests);
    evaluation->targets = malloc(tokens * sizeof *evaluation->targets);
    evaluation->divergences = malloc(tokens * sizeof *evaluation->divergences);
    bool complete = evaluation->todo && evaluation->sequences && evaluation->pieces &&
                    evaluation->requests && evaluation->targets && evaluation->divergences;
    for (int model = 0; model < work->model_count; model++) {
        struct evaluation_scores *scores = &evaluation->scores[model];
        *scores = (struct evaluation_scores){
            .requests = calloc(requests, sizeof *scores->requests),
            .compared = model && evaluation->compares,
        };
        evaluation->rows[model] = malloc(tokens * row * sizeof(float) + 1);
        complete &= scores->requests && evaluation->rows[model];
    }
    return complete ? STATUS_OK
                    : error_set(error, STATUS_FAILED, "no memory for the requests of %s",
                                evaluation_set_name(work->task->set));
}

enum status evaluate_run(const struct evaluation_work *work, struct evaluation_scores *scores,
                         struct error *error) {
    assert(work->model_count <= EVALUATION_MODELS_MAX);
    const struct stage *stage = &work->models[0].stage;
    struct evaluation evaluation = {
        .work = work,
        .passes = work->mesh->stage < 0
                      ? 1
                      : plan_stage_passes(work->plan, stage->layer_end - stage->layer_begin),
        .compares = work->model_count > 1 && work->task->window_tokens,
        .scores = scores,
    };
    enum status status = mesh_agree(work->mesh, allocate_evaluation(&evaluation, error), error);
    if (!status)
        status = take_up(&evaluation, error);
    if (!status && evaluation.todo_count)
        status = run_stream(&evaluation, error);
    for (int model = 0; !status && model < work->model_count; model++)
        status =
            gather(work->mesh, work->task, &work->models[model], scores[model].requests, error);
    free_evaluation(&evaluation);
    return status;
}
