#include "pipeline/calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/progress.h"
#include "pipeline/weights.h"

enum { RING = 3, TAG_HIDDEN = 1 };

/* One rank's end of the stream. Buffer k % RING belongs to microbatch k: while k is computed in its
 * own, k + 1 is received into the next and k - 1 may still be on its way out of the one before. */
struct stream {
    struct mesh *mesh;
    struct stage *stage;
    const struct plan *plan;
    const struct sample_windows *windows;
    struct resume *resume;
    const struct stop *stop;
    double longest;      /* seconds, of a microbatch */
    float *hidden[RING]; /* (chunk_tokens, hidden) */
    MPI_Request receive[RING], send[RING];
    int64_t microbatches, chunks; /* of this replica; per window */
};

/* Which tokens microbatch k is. */
struct microbatch {
    int64_t window, position, tokens;
};

static struct microbatch microbatch_of(const struct stream *stream, int64_t k) {
    const int64_t chunk = k % stream->chunks;
    const int64_t position = chunk * stream->plan->chunk_tokens;
    const int64_t left = stream->windows->sequence_length - position;
    return (struct microbatch){
        .window = stream->resume
                      ->todo[stream->mesh->replica + k / stream->chunks * stream->mesh->replicas],
        .position = position,
        .tokens = left < stream->plan->chunk_tokens ? left : stream->plan->chunk_tokens,
    };
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
    if (k >= stream->microbatches || stream->mesh->stage == 0)
        return;
    const struct microbatch batch = microbatch_of(stream, k);
    MPI_Irecv(stream->hidden[k % RING], (int)(batch.tokens * stream->stage->model->shape.hidden),
              MPI_FLOAT, stream->mesh->rank - 1, TAG_HIDDEN, MPI_COMM_WORLD,
              &stream->receive[k % RING]);
}

/* The first range that is not finite, in the order of computation. */
static enum status check_finite(const struct stream *stream, const float *maxima,
                                struct error *error) {
    const struct model *model = stream->stage->model;
    const int64_t channels = model_layer_channels(model);
    for (int layer = stream->stage->layer_begin; layer < stream->stage->layer_end; layer++) {
        const float *range = maxima + (layer - stream->stage->layer_begin) * channels;
        int64_t bad = 0;
        while (bad < channels && isfinite(range[bad]))
            bad++;
        if (bad == channels)
            continue;
        int site = SITE_COUNT - 1;
        while (bad < model_site_offset(model, (enum site)site))
            site--;
        char cause[400];
        const bool found = weights_find_nonfinite(model, layer, cause, sizeof cause) ||
                           (layer && weights_find_nonfinite(model, layer - 1, cause, sizeof cause));
        return error_set(
            error, STATUS_INPUT,
            "layer %d, site %s, channel %lld: the activations' range is %s (rank %d)%s%s", layer,
            site_name((enum site)site),
            (long long)(bad - model_site_offset(model, (enum site)site)),
            isnan(range[bad]) ? "NaN" : "infinite", stream->mesh->rank, found ? "; " : "",
            found ? cause : "");
    }
    return STATUS_OK;
}

static bool wait_for(struct stream *stream, int rank, MPI_Request *request) {
    if (*request == MPI_REQUEST_NULL)
        return true;
    stream->mesh->awaited = mesh_rank_layers(stream->mesh, rank);
    return mesh_wait(stream->mesh, request);
}

static enum status run_microbatch(struct stream *stream, int64_t k, float *maxima,
                                  struct timing *timing, struct error *error) {
    const struct mesh *mesh = stream->mesh;
    const struct model *model = stream->stage->model;
    const struct microbatch batch = microbatch_of(stream, k);
    const int slot = (int)(k % RING), next = (int)((k + 1) % RING);
    double since = timing_now();
    if (!wait_for(stream, mesh->rank - 1, &stream->receive[slot]) ||
        !wait_for(stream, mesh->rank + 1, &stream->send[next]))
        return mesh_fault_heard(error);
    post_receive(stream, k + 1);
    timing_add(timing, SECTION_WAIT, &since);
    float *hidden = stream->hidden[slot];
    enum status status = STATUS_OK;
    if (mesh->stage == 0)
        status = stage_embed(stream->stage,
                             stream->windows->ids +
                                 batch.window * stream->windows->sequence_length + batch.position,
                             batch.tokens, hidden, error);
    if (status)
        return status;
    const struct stage_hook hook = {stream_progress, stream};
    stage_forward(stream->stage, hidden, batch.position, batch.tokens, maxima, &hook);
    timing_add(timing, SECTION_COMPUTE, &since);
    /* Before it is passed on: a fault is named by the rank where it began. */
    if ((status = check_finite(stream, maxima, error)))
        return status;
    if (mesh->stage + 1 < mesh->stages)
        MPI_Isend(hidden, (int)(batch.tokens * model->shape.hidden), MPI_FLOAT, mesh->rank + 1,
                  TAG_HIDDEN, MPI_COMM_WORLD, &stream->send[slot]);
    return STATUS_OK;
}

/* After microbatch k: is its window done, is it time to save, is it time to stop? */
static enum status keep_state(struct stream *stream, int64_t k, float *maxima, double begin,
                              struct timing *timing, struct error *error) {
    double since = timing_now();
    if (since - begin > stream->longest)
        stream->longest = since - begin;
    enum status status = STATUS_OK;
    if (k % stream->chunks == stream->chunks - 1) {
        resume_mark(stream->resume, microbatch_of(stream, k).window);
        status = resume_save_when_due(stream->resume, maxima, error);
        timing_add(timing, SECTION_WRITE, &since);
    }
    return status ? status : stop_check(stream->stop, 2 * stream->longest, error);
}

static enum status stream_run(struct stream *stream, float *maxima, struct timing *timing,
                              struct error *error) {
    struct progress *progress = progress_create(
        "calibrate", "tokens", stream->resume->todo_count * stream->windows->sequence_length);
    post_receive(stream, 0);
    enum status status = STATUS_OK;
    for (int64_t k = 0; !status && k < stream->microbatches; k++) {
        const double begin = timing_now();
        status = run_microbatch(stream, k, maxima, timing, error);
        if (!status)
            status = keep_state(stream, k, maxima, begin, timing, error);
        if (!status && mesh_fault_pending(stream->mesh))
            status = mesh_fault_heard(error);
        const struct microbatch batch = microbatch_of(stream, k);
        progress_update(progress, (k / stream->chunks * stream->windows->sequence_length +
                                   batch.position + batch.tokens) *
                                      stream->mesh->replicas);
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

static enum status stream_open(struct stream *stream, struct error *error) {
    const size_t count = (size_t)(stream->plan->chunk_tokens * stream->stage->model->shape.hidden);
    bool complete = true;
    for (int i = 0; i < RING; i++) {
        stream->receive[i] = stream->send[i] = MPI_REQUEST_NULL;
        stream->hidden[i] = malloc(count * sizeof(float));
        complete &= stream->hidden[i] != NULL;
    }
    const int64_t samples = stream->resume->todo_count, replicas = stream->mesh->replicas;
    stream->chunks = (stream->windows->sequence_length + stream->plan->chunk_tokens - 1) /
                     stream->plan->chunk_tokens;
    const int64_t windows = samples > stream->mesh->replica
                                ? (samples - stream->mesh->replica + replicas - 1) / replicas
                                : 0;
    stream->microbatches = windows * stream->chunks;
    return complete ? STATUS_OK
                    : error_set(error, STATUS_FAILED, "no memory for microbatches (rank %d)",
                                stream->mesh->rank);
}

enum status calibrate_run(const struct calibration *calibration, float *maxima,
                          struct timing *timing, struct error *error) {
    struct mesh *mesh = calibration->mesh;
    const struct stage *stage = calibration->stage;
    const bool works = mesh->stage >= 0;
    struct stream stream = {.mesh = mesh,
                            .stage = calibration->stage,
                            .plan = calibration->plan,
                            .windows = calibration->windows,
                            .resume = calibration->resume,
                            .stop = calibration->stop};
    enum status status = works ? stream_open(&stream, error) : STATUS_OK;
    status = mesh_agree(mesh, status, error);
    if (!status) {
        if (works)
            status = stream_run(&stream, maxima, timing, error);
        if (status)
            mesh_fault_raise(mesh);
        status = mesh_agree(mesh, status, error);
        mesh_fault_settle(mesh);
    }
    for (int i = 0; works && i < RING; i++)
        free(stream.hidden[i]);
    double since = timing_now();
    if (!status || status == STATUS_STOPPED) {
        const enum status saved = resume_save_all(calibration->resume, maxima, error);
        status = saved ? saved : status;
        timing_add(timing, SECTION_WRITE, &since);
    }
    if (status || !works)
        return status;
    const int64_t count =
        (stage->layer_end - stage->layer_begin) * model_layer_channels(stage->model);
    MPI_Allreduce(MPI_IN_PLACE, maxima, (int)count, MPI_FLOAT, MPI_MAX, mesh->stage_peers);
    timing_add(timing, SECTION_REDUCE, &since);
    return STATUS_OK;
}
