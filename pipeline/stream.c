#include "pipeline/stream.h"

#include <stdlib.h>

#include "pipeline/progress.h"

enum { RING = 3, TAG_HIDDEN = 1 };

/* One rank's end of the stream. Buffer k % RING belongs to chunk k: while k is computed in its own,
 * k + 1 is received into the next and k - 1 may still be on its way out of the one before. */
struct stream {
    struct mesh *mesh;
    const struct stream_work *work;
    struct stream_chunk *chunks; /* (count) of this replica, in order */
    int64_t count, tokens;
    float *hidden[RING]; /* (chunk_tokens, width) */
    int32_t *ids;        /* (chunk_tokens), on the first stage */
    MPI_Request receive[RING], send[RING];
};

static int64_t length_of(const struct stream_sequence *sequence) {
    return sequence->head_tokens + sequence->tail_tokens;
}

int32_t stream_token(const struct stream_sequence *sequence, int64_t position) {
    return position < sequence->head_tokens ? sequence->head[position]
                                            : sequence->tail[position - sequence->head_tokens];
}

/* Where to begin: the tokens before are the same as those of `before`, and not wanted. */
static int64_t first_position(const struct stream_sequence *sequence,
                              const struct stream_sequence *before) {
    int64_t position = 0;
    const int64_t most = before ? length_of(before) : 0;
    while (position < sequence->wanted && position < most &&
           stream_token(sequence, position) == stream_token(before, position))
        position++;
    return position;
}

/* The chunks of this replica; with `chunks` NULL they are only counted. */
static void list_chunks(struct stream *stream, struct stream_chunk *chunks) {
    const struct stream_work *work = stream->work;
    const struct stream_sequence *before = NULL;
    stream->count = stream->tokens = 0;
    for (int64_t i = 0; i < work->count; i++) {
        const struct stream_sequence *sequence = &work->sequences[i];
        if (sequence->group % stream->mesh->replicas != stream->mesh->replica)
            continue;
        const int64_t length = length_of(sequence);
        for (int64_t at = first_position(sequence, before), taken; at < length; at += taken) {
            taken = length - at < work->chunk_tokens ? length - at : work->chunk_tokens;
            if (chunks)
                chunks[stream->count] = (struct stream_chunk){i, at, taken, at + taken == length};
            stream->count++;
            stream->tokens += taken;
        }
        before = sequence;
    }
}

static enum status stream_open(struct stream *stream, struct error *error) {
    const struct stream_work *work = stream->work;
    bool complete = true;
    for (int i = 0; i < RING; i++) {
        stream->receive[i] = stream->send[i] = MPI_REQUEST_NULL;
        stream->hidden[i] = malloc((size_t)(work->chunk_tokens * work->width) * sizeof(float));
        complete &= stream->hidden[i] != NULL;
    }
    stream->ids = malloc((size_t)work->chunk_tokens * sizeof *stream->ids);
    list_chunks(stream, NULL);
    stream->chunks = malloc(((size_t)stream->count + 1) * sizeof *stream->chunks);
    if (!complete || !stream->ids || !stream->chunks)
        return error_set(error, STATUS_FAILED, "no memory for microbatches (rank %d)",
                         stream->mesh->rank);
    list_chunks(stream, stream->chunks);
    return STATUS_OK;
}

static void stream_close(struct stream *stream) {
    for (int i = 0; i < RING; i++)
        free(stream->hidden[i]);
    free(stream->ids);
    free(stream->chunks);
}

static void stream_progress(void *context) {
    struct stream *stream = context;
    int done;
    for (int i = 0; i < RING; i++) {
        MPI_Test(&stream->receive[i], &done, MPI_STATUS_IGNORE);
        MPI_Test(&stream->send[i], &done, MPI_STATUS_IGNORE);
    }
}

static void post_receive(struct stream *stream, int64_t k) {
    if (k >= stream->count || stream->mesh->stage == 0)
        return;
    MPI_Irecv(stream->hidden[k % RING], (int)(stream->chunks[k].tokens * stream->work->width),
              MPI_FLOAT, stream->mesh->rank - 1, TAG_HIDDEN, MPI_COMM_WORLD,
              &stream->receive[k % RING]);
}

static bool wait_for(struct stream *stream, int rank, MPI_Request *request) {
    if (*request == MPI_REQUEST_NULL)
        return true;
    stream->mesh->awaited = mesh_rank_layers(stream->mesh, rank);
    return mesh_wait(stream->mesh, request);
}

static enum status pass_chunk(struct stream *stream, int64_t k, struct timing *timing,
                              struct error *error) {
    const struct mesh *mesh = stream->mesh;
    const struct stream_work *work = stream->work;
    const struct stream_chunk *chunk = &stream->chunks[k];
    const int slot = (int)(k % RING), next = (int)((k + 1) % RING);
    double since = timing_now();
    if (!wait_for(stream, mesh->rank - 1, &stream->receive[slot]) ||
        !wait_for(stream, mesh->rank + 1, &stream->send[next]))
        return mesh_fault_heard(error);
    post_receive(stream, k + 1);
    timing_add(timing, SECTION_WAIT, &since);
    for (int64_t i = 0; mesh->stage == 0 && i < chunk->tokens; i++)
        stream->ids[i] = stream_token(&work->sequences[chunk->sequence], chunk->position + i);
    const struct stage_hook hook = {stream_progress, stream};
    const enum status status =
        work->visit(work->context, chunk, mesh->stage == 0 ? stream->ids : NULL,
                    stream->hidden[slot], &hook, error);
    timing_add(timing, SECTION_COMPUTE, &since);
    if (!status && mesh->stage + 1 < mesh->stages)
        MPI_Isend(stream->hidden[slot], (int)(chunk->tokens * work->width), MPI_FLOAT,
                  mesh->rank + 1, TAG_HIDDEN, MPI_COMM_WORLD, &stream->send[slot]);
    return status;
}

static enum status pass_chunks(struct stream *stream, struct timing *timing, struct error *error) {
    const int replicas = stream->mesh->replicas;
    const struct stream_work *work = stream->work;
    struct progress *progress = progress_create(work->label, "tokens", stream->tokens * replicas);
    post_receive(stream, 0);
    enum status status = STATUS_OK;
    for (int64_t k = 0, done = 0; !status && k < stream->count; k++) {
        const double begin = timing_now();
        status = pass_chunk(stream, k, timing, error);
        if (!status && work->passed)
            status = work->passed(work->context, &stream->chunks[k], timing_now() - begin, error);
        if (!status && mesh_fault_pending(stream->mesh))
            status = mesh_fault_heard(error);
        done += stream->chunks[k].tokens;
        progress_update(progress, done * replicas);
    }
    double since = timing_now();
    for (int i = 0; !status && i < RING; i++)
        if (!wait_for(stream, stream->mesh->rank + 1, &stream->send[i]))
            status = mesh_fault_heard(error);
    for (int i = 0; status && i < RING; i++) {
        mesh_cancel(&stream->send[i]);
        mesh_cancel(&stream->receive[i]);
    }
    timing_add(timing, SECTION_WAIT, &since);
    progress_finish(progress);
    return status;
}

enum status stream_run(struct mesh *mesh, const struct stream_work *work, struct timing *timing,
                       int64_t *tokens, struct error *error) {
    const bool works = mesh->stage >= 0;
    struct stream stream = {.mesh = mesh, .work = work};
    enum status status = works ? stream_open(&stream, error) : STATUS_OK;
    status = mesh_agree(mesh, status, error);
    if (!status) {
        if (works)
            status = pass_chunks(&stream, timing, error);
        if (status)
            mesh_fault_raise(mesh);
        status = mesh_agree(mesh, status, error);
        mesh_fault_settle(mesh);
    }
    if (tokens)
        *tokens = stream.tokens;
    stream_close(&stream);
    return status;
}
