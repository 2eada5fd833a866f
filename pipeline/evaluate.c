#include "pipeline/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/stream.h"

/* What the visits of one rank share. */
struct evaluation {
    const struct mesh *mesh;
    struct stage *stage;
    struct head *head;
    const struct evaluation_task *task;
    const struct stream_sequence *sequences; /* one for each request */
    struct evaluation_score *scores;         /* (request_count) */
    int32_t *targets;                        /* (chunk_tokens) */
};

/* The last stage: what the chunk's tokens say of those that follow. */
static void score_chunk(struct evaluation *evaluation, const struct stream_chunk *chunk,
                        const float *hidden) {
    const struct evaluation_request *request = &evaluation->task->requests[chunk->sequence];
    const int64_t wanted = evaluation->sequences[chunk->sequence].wanted;
    const int64_t skipped = wanted > chunk->position ? wanted - chunk->position : 0;
    const int64_t tokens = chunk->tokens - skipped;
    if (tokens <= 0)
        return;
    const int32_t *continuation = evaluation->task->ids + request->continuation;
    for (int64_t t = 0; t < tokens; t++)
        evaluation->targets[t] = continuation[chunk->position + skipped + t - wanted];
    head_score(evaluation->head, hidden + skipped * evaluation->stage->model->shape.hidden,
               evaluation->targets, tokens);
    struct evaluation_score *score = &evaluation->scores[chunk->sequence];
    for (int64_t t = 0; t < tokens; t++) {
        const struct log_likelihood *token = &evaluation->head->scores[t];
        score->log_likelihood += log_likelihood_value(token);
        score->equal_top += token->top == token->target;
    }
}

static enum status visit(void *context, const struct stream_chunk *chunk, const int32_t *ids,
                         float *hidden, const struct stage_hook *hook, struct error *error) {
    struct evaluation *evaluation = context;
    struct stage *stage = evaluation->stage;
    if (ids) {
        const enum status status = stage_embed(stage, ids, chunk->tokens, hidden, error);
        if (status)
            return status;
    }
    stage_forward(stage, hidden, chunk->position, chunk->tokens, NULL, hook);
    if (evaluation->mesh->stage + 1 == evaluation->mesh->stages)
        score_chunk(evaluation, chunk, hidden);
    return STATUS_OK;
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
                          struct evaluation_score *scores, struct error *error) {
    enum { PIECE = 1 << 20 };
    enum status status = STATUS_OK;
    for (int64_t at = 0; at < task->request_count; at += PIECE) {
        const int64_t left = task->request_count - at;
        const int count = 2 * (int)(left < PIECE ? left : PIECE);
        MPI_Reduce(mesh->rank ? (void *)(scores + at) : MPI_IN_PLACE, scores + at, count,
                   MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    }
    for (int64_t i = 0; !mesh->rank && !status && i < task->request_count; i++)
        if (!isfinite(scores[i].log_likelihood))
            status = error_set(error, STATUS_INPUT,
                               "%s, item %lld: the log-probability is %f: the model computes "
                               "numbers that are not finite",
                               evaluation_set_name(task->set), (long long)task->requests[i].item,
                               scores[i].log_likelihood);
    return mesh_agree(mesh, status, error);
}

static enum status run_stream(struct mesh *mesh, const struct plan *plan,
                              struct evaluation *evaluation, struct evaluation_scores *scores,
                              struct timing *timing, struct error *error) {
    const struct evaluation_task *task = evaluation->task;
    const struct stream_work work = {
        .sequences = evaluation->sequences,
        .count = task->request_count,
        .chunk_tokens = plan->chunk_tokens,
        .width = mesh->stage >= 0 ? evaluation->stage->model->shape.hidden : 0,
        .label = evaluation_set_name(task->set),
        .visit = visit,
        .context = evaluation,
    };
    int64_t tokens = 0;
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = timing_now();
    const enum status status = stream_run(mesh, &work, timing, &tokens, error);
    scores->seconds = timing_now() - begin;
    if (status)
        return status;
    if (mesh->stage != 0)
        tokens = 0;
    MPI_Reduce(&tokens, &scores->tokens, 1, MPI_INT64_T, MPI_SUM, 0, MPI_COMM_WORLD);
    return gather(mesh, task, evaluation->scores, error);
}

enum status evaluate_run(struct mesh *mesh, const struct plan *plan, struct stage *stage,
                         struct head *head, const struct evaluation_task *task,
                         struct evaluation_scores *scores, struct timing *timing,
                         struct error *error) {
    const size_t requests = (size_t)task->request_count;
    struct stream_sequence *sequences = malloc(requests * sizeof *sequences);
    int32_t *targets = malloc((size_t)plan->chunk_tokens * sizeof *targets);
    *scores = (struct evaluation_scores){.requests = calloc(requests, sizeof *scores->requests)};
    enum status status =
        mesh_agree(mesh,
                   sequences && targets && scores->requests
                       ? STATUS_OK
                       : error_set(error, STATUS_FAILED, "no memory for the requests of %s",
                                   evaluation_set_name(task->set)),
                   error);
    struct evaluation evaluation = {mesh, stage, head, task, sequences, scores->requests, targets};
    if (!status) {
        list_requests(task, sequences);
        status = run_stream(mesh, plan, &evaluation, scores, timing, error);
    }
    free(sequences);
    free(targets);
    return status;
}
