#include "pipeline/stream.h"

#include <assert.h>
#include <stdlib.h>

#include "io/scratch.h"
#include "pipeline/progress.h"

enum { RING = STREAM_RING, TAG_HIDDEN = 1 };

/* One rank's end of the stream. */
struct stream {
    struct mesh *mesh;
    const struct stream_work *work;
    struct stream_order order;
    struct scratch kept; /* (wave_chunks, chunk_tokens, width) between passes */
    float *hidden[RING]; /* (chunk_tokens, width) */
    int32_t *ids;        /* (chunk_tokens), on the first stage */
    MPI_Request receive[RING], send[RING];
};

static size_t chunk_bytes(const struct stream *stream) {
    return (size_t)(stream->work->text.chunk_tokens * stream->work->width) * sizeof(float);
}

static enum status stream_open(struct stream *stream, struct error *error) {
    const struct stream_work *work = stream->work;
    bool complete = true;
    for (int i = 0; i < RING; i++) {
        stream->receive[i] = stream->send[i] = MPI_REQUEST_NULL;
        stream->hidden[i] = malloc(chunk_bytes(stream));
        complete &= stream->hidden[i] != NULL;
    }
    stream->ids = malloc((size_t)work->text.chunk_tokens * sizeof *stream->ids);
    if (!complete || !stream->ids)
        return error_set(error, STATUS_FAILED, "no memory for microbatches (rank %d)",
                         stream->mesh->rank);
    const enum status status =
        stream_order_create(&work->text, stream->mesh->replica, stream->mesh->replicas,
                            work->waves.passes > 1 ? work->waves.passes : 1, &stream->order, error);
    return status || stream->order.passes == 1
               ? status
               : scratch_create(work->waves.folder,
                                (size_t)stream->order.wave_chunks * chunk_bytes(stream),
                                &stream->kept, error);
}

static void stream_close(struct stream *stream) {
    for (int i = 0; i < RING; i++)
        free(stream->hidden[i]);
    scratch_close(&stream->kept);
    free(stream->ids);
    stream_order_free(&stream->order);
}

static void stream_progress(void *context) {
    struct stream *stream = context;
    int done;
    for (int i = 0; i < RING; i++) {
        MPI_Test(&stream->receive[i], &done, MPI_STATUS_IGNORE);
        MPI_Test(&stream->send[i], &done, MPI_STATUS_IGNORE);
    }
}

static bool wait_for(struct stream *stream, int rank, MPI_Request *request) {
    if (*request == MPI_REQUEST_NULL)
        return true;
    stream->mesh->awaited = mesh_rank_layers(stream->mesh, rank);
    return mesh_wait(stream->mesh, request);
}

/* The ids of a chunk, piece by piece. */
static void fill_ids(struct stream *stream, const struct stream_chunk *chunk) {
    int32_t *id = stream->ids;
    for (int64_t p = 0; p < chunk->piece_count; p++) {
        const struct stream_piece *piece = &chunk->pieces[p];
        for (int64_t i = 0; i < piece->tokens; i++)
            *id++ =
                stream_token(&stream->work->text.sequences[piece->sequence], piece->position + i);
    }
}

static enum status visit_chunk(struct stream *stream, int64_t k, struct error *error) {
    const struct stream_work *work = stream->work;
    const struct stream_chunk *chunk = &stream->order.chunks[k];
    const struct stage_hook hook = {stream_progress, stream};
    const bool begins = stream->mesh->stage == 0 && chunk->pass == 0;
    if (begins)
        fill_ids(stream, chunk);
    return work->visit(work->context, chunk, begins ? stream->ids : NULL, stream->hidden[k % RING],
                       &hook, error);
}

static enum status do_act(struct stream *stream, int64_t k, enum stream_act act,
                          struct error *error) {
    const struct stream_work *work = stream->work;
    const struct stream_chunk *chunk = k < 0 ? NULL : &stream->order.chunks[k];
    assert(chunk || act == STREAM_EXPECT);
    const int rank = stream->mesh->rank;
    const int slot = (int)((k + RING) % RING), next = (slot + 1) % RING;
    const size_t bytes = chunk_bytes(stream), place = chunk ? (size_t)chunk->place * bytes : 0;
    switch (act) {
    case STREAM_ENTER:
        return work->waves.enter(work->context, chunk->pass, error);
    case STREAM_AWAIT:
        return wait_for(stream, rank - 1, &stream->receive[slot]) ? STATUS_OK
                                                                  : mesh_fault_heard(error);
    case STREAM_CLEAR:
        return wait_for(stream, rank + 1, &stream->send[next]) ? STATUS_OK
                                                               : mesh_fault_heard(error);
    case STREAM_EXPECT:
        MPI_Irecv(stream->hidden[next], (int)(stream->order.chunks[k + 1].tokens * work->width),
                  MPI_FLOAT, rank - 1, TAG_HIDDEN, MPI_COMM_WORLD, &stream->receive[next]);
        return STATUS_OK;
    case STREAM_READ:
        return scratch_read(&stream->kept, place, stream->hidden[slot], bytes, error);
    case STREAM_VISIT:
        return visit_chunk(stream, k, error);
    case STREAM_KEEP:
        return scratch_write(&stream->kept, place, stream->hidden[slot], bytes, error);
    case STREAM_SEND:
        MPI_Isend(stream->hidden[slot], (int)(chunk->tokens * work->width), MPI_FLOAT, rank + 1,
                  TAG_HIDDEN, MPI_COMM_WORLD, &stream->send[slot]);
        return STATUS_OK;
    default:
        return STATUS_OK;
    }
}

/* The acts from `first` on. */
static enum status pass_chunk(struct stream *stream, int64_t k, enum stream_act first,
                              enum stream_act last, struct timing *timing, struct error *error) {
    const struct mesh *mesh = stream->mesh;
    enum status status = STATUS_OK;
    for (int act = (int)first; !status && act <= (int)last; act++) {
        struct timing_mark since = timing_mark();
        if (stream_order_has(&stream->order, k, (enum stream_act)act, mesh->stage, mesh->stages))
            status = do_act(stream, k, (enum stream_act)act, error);
        timing_add(timing, stream_act_section((enum stream_act)act), &since);
    }
    return status;
}

static enum status pass_chunks(struct stream *stream, struct timing *timing, struct error *error) {
    const int replicas = stream->mesh->replicas;
    const struct stream_work *work = stream->work;
    const struct stream_order *order = &stream->order;
    /* Through some of the layers: that part of a token. */
    const double share = (double)replicas / order->passes;
    struct progress *progress = progress_create(work->label, "tokens", order->tokens * replicas);
    enum status status = pass_chunk(stream, -1, STREAM_EXPECT, STREAM_EXPECT, timing, error);
    for (int64_t k = 0, done = 0; !status && k < order->count; k++) {
        const double begin = timing_now();
        status = pass_chunk(stream, k, STREAM_ENTER, STREAM_SEND, timing, error);
        if (!status && work->passed)
            status = work->passed(work->context, &order->chunks[k], timing_now() - begin, error);
        if (!status && mesh_fault_pending(stream->mesh))
            status = mesh_fault_heard(error);
        done += order->chunks[k].tokens;
        progress_update(progress, (int64_t)((double)done * share));
    }
    struct timing_mark since = timing_mark();
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
        *tokens = stream.order.tokens;
    stream_close(&stream);
    return status;
}
