#include "pipeline/stream.h"

#include <stdlib.h>

#include "io/scratch.h"
#include "pipeline/progress.h"

enum { RING = 3, TAG_HIDDEN = 1 };

/* One rank's end of the stream. Buffer k % RING belongs to chunk k: while k is computed in its own,
 * k + 1 is received into the next and k - 1 may still be on its way out of the one before. */
struct stream {
    struct mesh *mesh;
    const struct stream_work *work;
    int passes;
    struct stream_chunk *chunks; /* (count) of this replica, in order, once for each pass */
    struct stream_piece *pieces; /* (piece_count) */
    int64_t count, piece_count;
    int64_t tokens;      /* each token once */
    int64_t filled;      /* tokens in the last chunk, when the next piece may join it */
    int64_t wave_chunks; /* of the largest wave */
    struct scratch kept; /* (wave_chunks, chunk_tokens, width) between passes */
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

/* Add a piece to the last chunk, if that has room, or begin another. */
static void add_piece(struct stream *stream, struct stream_chunk *chunks,
                      const struct stream_piece *piece, bool last, int64_t wave_begin) {
    const struct stream_work *work = stream->work;
    const bool begins = stream->filled == 0;
    if (chunks) {
        struct stream_chunk *chunk = &chunks[stream->count - !begins];
        if (begins)
            *chunk = (struct stream_chunk){
                .sequence = piece->sequence,
                .position = piece->position,
                .pieces = &stream->pieces[stream->piece_count],
                .leaves = stream->passes == 1,
                .place = stream->count - wave_begin,
            };
        chunk->tokens += piece->tokens;
        chunk->piece_count++;
        chunk->last = last;
        stream->pieces[stream->piece_count] = *piece;
    }
    stream->count += begins;
    stream->piece_count++;
    stream->tokens += piece->tokens;
    const int64_t filled = stream->filled + piece->tokens;
    stream->filled = work->packed && filled < work->chunk_tokens ? filled : 0;
}

/* The pieces of a sequence, whose replica worked on `before` just before; with `chunks` NULL they
 * are only counted. */
static void list_sequence(struct stream *stream, struct stream_chunk *chunks, int64_t index,
                          const struct stream_sequence *before, int64_t wave_begin) {
    const struct stream_work *work = stream->work;
    const struct stream_sequence *sequence = &work->sequences[index];
    const int64_t length = length_of(sequence);
    for (int64_t at = first_position(sequence, before), taken; at < length; at += taken) {
        const int64_t room = work->chunk_tokens - stream->filled;
        taken = length - at < room ? length - at : room;
        const struct stream_piece piece = {index, at, taken};
        add_piece(stream, chunks, &piece, at + taken == length, wave_begin);
    }
}

/* The first pass of a wave stands in chunks [begin, count): add the others. */
static void repeat_wave(struct stream *stream, struct stream_chunk *chunks, int64_t begin) {
    const int64_t count = stream->count - begin;
    stream->wave_chunks = count > stream->wave_chunks ? count : stream->wave_chunks;
    stream->filled = 0;
    for (int pass = 1; pass < stream->passes; pass++)
        for (int64_t i = 0; i < count; i++, stream->count++)
            if (chunks) {
                chunks[stream->count] = chunks[begin + i];
                chunks[stream->count].pass = pass;
                chunks[stream->count].leaves = pass + 1 == stream->passes;
            }
}

static void list_chunks(struct stream *stream, struct stream_chunk *chunks) {
    const struct stream_work *work = stream->work;
    const struct stream_sequence *before = NULL;
    int64_t wave_begin = 0, in_wave = 0;
    stream->count = stream->piece_count = stream->tokens = stream->filled = 0;
    for (int64_t i = 0; i < work->count; i++) {
        const struct stream_sequence *sequence = &work->sequences[i];
        if (sequence->group % stream->mesh->replicas != stream->mesh->replica)
            continue;
        list_sequence(stream, chunks, i, before, wave_begin);
        before = sequence;
        if (stream->passes == 1 || ++in_wave < work->waves.sequences)
            continue;
        repeat_wave(stream, chunks, wave_begin);
        before = NULL; /* other layers' keys and values came after its own */
        wave_begin = stream->count;
        in_wave = 0;
    }
    if (in_wave)
        repeat_wave(stream, chunks, wave_begin);
}

static size_t chunk_bytes(const struct stream *stream) {
    return (size_t)(stream->work->chunk_tokens * stream->work->width) * sizeof(float);
}

static enum status stream_open(struct stream *stream, struct error *error) {
    const struct stream_work *work = stream->work;
    bool complete = true;
    for (int i = 0; i < RING; i++) {
        stream->receive[i] = stream->send[i] = MPI_REQUEST_NULL;
        stream->hidden[i] = malloc(chunk_bytes(stream));
        complete &= stream->hidden[i] != NULL;
    }
    stream->ids = malloc((size_t)work->chunk_tokens * sizeof *stream->ids);
    list_chunks(stream, NULL);
    stream->chunks = malloc(((size_t)stream->count + 1) * sizeof *stream->chunks);
    stream->pieces = malloc(((size_t)stream->piece_count + 1) * sizeof *stream->pieces);
    if (!complete || !stream->ids || !stream->chunks || !stream->pieces)
        return error_set(error, STATUS_FAILED, "no memory for microbatches (rank %d)",
                         stream->mesh->rank);
    list_chunks(stream, stream->chunks);
    return stream->passes == 1 ? STATUS_OK
                               : scratch_create(work->waves.folder,
                                                (size_t)stream->wave_chunks * chunk_bytes(stream),
                                                &stream->kept, error);
}

static void stream_close(struct stream *stream) {
    for (int i = 0; i < RING; i++)
        free(stream->hidden[i]);
    scratch_close(&stream->kept);
    free(stream->ids);
    free(stream->chunks);
    free(stream->pieces);
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
    if (k >= stream->count || stream->mesh->stage == 0 || stream->chunks[k].pass)
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

/* Where the chunk comes from: the stage before, or the pass before. */
static enum status take_chunk(struct stream *stream, int64_t k, struct timing *timing,
                              struct error *error) {
    const struct mesh *mesh = stream->mesh;
    const struct stream_waves *waves = &stream->work->waves;
    const struct stream_chunk *chunk = &stream->chunks[k];
    const int slot = (int)(k % RING), next = (int)((k + 1) % RING);
    enum status status = STATUS_OK;
    double since = timing_now();
    if (stream->passes > 1 && (k == 0 || chunk->pass != stream->chunks[k - 1].pass))
        status = waves->enter(stream->work->context, chunk->pass, error);
    timing_add(timing, SECTION_LOAD, &since);
    if (status)
        return status;
    if (!wait_for(stream, mesh->rank - 1, &stream->receive[slot]) ||
        !wait_for(stream, mesh->rank + 1, &stream->send[next]))
        return mesh_fault_heard(error);
    post_receive(stream, k + 1);
    if (chunk->pass)
        status = scratch_read(&stream->kept, (size_t)chunk->place * chunk_bytes(stream),
                              stream->hidden[slot], chunk_bytes(stream), error);
    timing_add(timing, SECTION_WAIT, &since);
    return status;
}

/* Where it goes: to the next stage, or to the next pass. */
static enum status give_chunk(struct stream *stream, int64_t k, struct error *error) {
    const struct mesh *mesh = stream->mesh;
    const struct stream_chunk *chunk = &stream->chunks[k];
    const int slot = (int)(k % RING);
    if (!chunk->leaves)
        return scratch_write(&stream->kept, (size_t)chunk->place * chunk_bytes(stream),
                             stream->hidden[slot], chunk_bytes(stream), error);
    if (mesh->stage + 1 < mesh->stages)
        MPI_Isend(stream->hidden[slot], (int)(chunk->tokens * stream->work->width), MPI_FLOAT,
                  mesh->rank + 1, TAG_HIDDEN, MPI_COMM_WORLD, &stream->send[slot]);
    return STATUS_OK;
}

/* The ids of a chunk, piece by piece. */
static void fill_ids(struct stream *stream, const struct stream_chunk *chunk) {
    int32_t *id = stream->ids;
    for (int64_t p = 0; p < chunk->piece_count; p++) {
        const struct stream_piece *piece = &chunk->pieces[p];
        for (int64_t i = 0; i < piece->tokens; i++)
            *id++ = stream_token(&stream->work->sequences[piece->sequence], piece->position + i);
    }
}

static enum status pass_chunk(struct stream *stream, int64_t k, struct timing *timing,
                              struct error *error) {
    const struct stream_work *work = stream->work;
    const struct stream_chunk *chunk = &stream->chunks[k];
    const bool begins = stream->mesh->stage == 0 && chunk->pass == 0;
    enum status status = take_chunk(stream, k, timing, error);
    if (status)
        return status;
    double since = timing_now();
    if (begins)
        fill_ids(stream, chunk);
    const struct stage_hook hook = {stream_progress, stream};
    status = work->visit(work->context, chunk, begins ? stream->ids : NULL,
                         stream->hidden[k % RING], &hook, error);
    timing_add(timing, SECTION_COMPUTE, &since);
    if (!status)
        status = give_chunk(stream, k, error);
    timing_add(timing, SECTION_WAIT, &since);
    return status;
}

static enum status pass_chunks(struct stream *stream, struct timing *timing, struct error *error) {
    const int replicas = stream->mesh->replicas;
    const struct stream_work *work = stream->work;
    /* Through some of the layers: that part of a token. */
    const double share = (double)replicas / stream->passes;
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
        progress_update(progress, (int64_t)((double)done * share));
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
    struct stream stream = {
        .mesh = mesh, .work = work, .passes = work->waves.passes > 1 ? work->waves.passes : 1};
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
