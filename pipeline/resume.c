#include "pipeline/resume.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/state.h"
#include "pipeline/log.h"
#include "pipeline/timing.h"

size_t resume_bitmap_bytes(int64_t samples) {
    return ((size_t)samples + 63) / 64 * 8;
}

static bool has_bit(const uint8_t *bits, int64_t index) {
    return bits[index / 8] >> index % 8 & 1;
}

static int64_t stage_channels(const struct resume_run *run) {
    return (run->layer_end - run->layer_begin) * model_layer_channels(run->model);
}

static enum status allocate(struct resume *resume, struct error *error) {
    const int64_t samples = resume->run.windows->samples;
    resume->done = calloc(1, resume_bitmap_bytes(samples) + 1);
    resume->todo = malloc((size_t)samples * sizeof *resume->todo + 1);
    resume->finished = calloc((size_t)resume->run.model->shape.layers, sizeof *resume->finished);
    return resume->done && resume->todo && resume->finished
               ? STATUS_OK
               : error_set(error, STATUS_FAILED, "no memory for the state of %lld windows",
                           (long long)samples);
}

/* Rows of the sample, layer by layer, a site of one at a time: counts are ints. */
static enum status spread_sample(const struct resume_run *run, const struct resume_found *found,
                                 struct error *error) {
    const int64_t tokens = run->sample->tokens;
    const int64_t widest = model_widest_site(run->model);
    uint16_t *rows = malloc((size_t)(tokens * widest) * sizeof *rows + 1);
    const enum status status = mesh_agree(
        run->mesh,
        rows ? STATUS_OK : error_set(error, STATUS_FAILED, "no memory for a site's sample"), error);
    for (int layer = 0; !status && tokens && found->anything && layer < run->model->shape.layers;
         layer++)
        for (int site = 0; site < SITE_COUNT; site++) {
            const int64_t count = tokens * model_site_channels(run->model, (enum site)site);
            const int64_t offset = tokens * model_site_offset(run->model, (enum site)site);
            if (run->mesh->rank == 0)
                memcpy(rows, site_sample_layer(&found->sample, layer) + offset,
                       (size_t)count * sizeof *rows);
            MPI_Bcast(rows, (int)count, MPI_UINT16_T, 0, MPI_COMM_WORLD);
            if (layer >= run->layer_begin && layer < run->layer_end)
                memcpy(site_sample_layer(run->sample, layer) + offset, rows,
                       (size_t)count * sizeof *rows);
        }
    free(rows);
    return status;
}

/* What rank 0 found goes to all; each keeps the maxima of its layers. */
static enum status spread(struct resume *resume, struct resume_found *found, float *maxima,
                          struct error *error) {
    const struct resume_run *run = &resume->run;
    const int layers = run->model->shape.layers;
    const int64_t channels = model_layer_channels(run->model);
    MPI_Bcast(resume->owner, sizeof resume->owner, MPI_CHAR, 0, MPI_COMM_WORLD);
    MPI_Bcast(&found->anything, sizeof found->anything, MPI_BYTE, 0, MPI_COMM_WORLD);
    MPI_Bcast(&found->generation, 1, MPI_INT, 0, MPI_COMM_WORLD);
    resume->generation = found->generation + 1;
    if (run->mesh->rank == 0) {
        memcpy(resume->done, found->done, resume_bitmap_bytes(run->windows->samples));
        memcpy(resume->finished, found->finished, (size_t)layers * sizeof *resume->finished);
    }
    MPI_Bcast(resume->done, (int)resume_bitmap_bytes(run->windows->samples), MPI_BYTE, 0,
              MPI_COMM_WORLD);
    MPI_Bcast(resume->finished, layers * (int)sizeof *resume->finished, MPI_BYTE, 0,
              MPI_COMM_WORLD);
    float *layer_maxima = malloc((size_t)channels * sizeof *layer_maxima);
    const enum status status =
        mesh_agree(run->mesh,
                   layer_maxima ? STATUS_OK
                                : error_set(error, STATUS_FAILED, "no memory for a layer's ranges"),
                   error);
    const bool wanted = found->anything && !run->ranges;
    for (int layer = 0; !status && wanted && layer < layers; layer++) {
        const size_t bytes = (size_t)channels * sizeof *maxima;
        if (run->mesh->rank == 0)
            memcpy(layer_maxima, found->maxima + layer * channels, bytes);
        MPI_Bcast(layer_maxima, (int)channels, MPI_FLOAT, 0, MPI_COMM_WORLD);
        if (layer >= run->layer_begin && layer < run->layer_end)
            memcpy(maxima + (layer - run->layer_begin) * channels, layer_maxima, bytes);
    }
    free(layer_maxima);
    return status ? status : spread_sample(run, found, error);
}

static struct hessian_place hessian_place_of(const struct resume *resume) {
    return (struct hessian_place){.output = resume->run.config->output.checkpoint,
                                  .owner = resume->owner,
                                  .generation = resume->generation,
                                  .mesh = resume->run.mesh};
}

static void list_todo(struct resume *resume) {
    for (int64_t window = 0; window < resume->run.windows->samples; window++)
        if (!has_bit(resume->done, window))
            resume->todo[resume->todo_count++] = window;
    for (int layer = 0; layer < resume->run.model->shape.layers; layer++)
        resume->finished_layers += resume->finished[layer];
    if (resume->finished_layers == resume->run.model->shape.layers)
        resume->todo_count = 0; /* the ranges have served */
}

enum status resume_open(struct resume *resume, const struct resume_run *run, float *maxima,
                        void (*keep)(void *context, const struct site_result *result),
                        void *context, struct error *error) {
    const struct mesh *mesh = run->mesh;
    *resume = (struct resume){.run = *run, .lock = -1};
    struct resume_found found = {0};
    enum status status = allocate(resume, error);
    if (!status && mesh->rank == 0)
        status = state_begin(run->config->output.checkpoint, &resume->lock, error);
    if (!status && mesh->rank == 0)
        status = resume_read(run, resume->owner, &found, error);
    status = mesh_agree(mesh, status, error);
    if (!status)
        status = spread(resume, &found, maxima, error);
    const struct hessian_place place = hessian_place_of(resume);
    if (!status && run->hessians)
        status = hessian_state_open(run->hessians, &place, found.anything, resume->finished,
                                    resume->done, error);
    if (!status)
        list_todo(resume);
    for (int layer = 0; !status && mesh->rank == 0 && layer < run->model->shape.layers; layer++)
        for (int site = 0; found.finished[layer] && site < SITE_COUNT; site++)
            keep(context, &found.results[layer * SITE_COUNT + site]);
    if (!status && found.anything) {
        log_info("going on with an interrupted run: %lld of %lld windows are done, %d of %d layers",
                 (long long)(run->windows->samples - resume->todo_count),
                 (long long)run->windows->samples, resume->finished_layers,
                 run->model->shape.layers);
        status = resume_save_all(resume, maxima, error);
    }
    resume_found_free(&found);
    resume->next_save = timing_next_save(0);
    return status;
}

void resume_close(struct resume *resume) {
    free(resume->done);
    free(resume->todo);
    free(resume->finished);
    if (resume->run.mesh && resume->lock >= 0)
        close(resume->lock);
    *resume = (struct resume){.lock = -1};
}

void resume_mark(struct resume *resume, int64_t window) {
    resume->done[window / 8] = (uint8_t)(resume->done[window / 8] | 1u << window % 8);
}

enum status resume_save(struct resume *resume, const float *maxima, struct error *error) {
    const struct resume_run *run = &resume->run;
    const double begin = timing_now();
    const struct resume_ranges head = {run->layer_begin, run->layer_end,
                                       model_layer_channels(run->model), run->windows->samples,
                                       run->sample->tokens};
    const size_t channels = (size_t)stage_channels(run);
    const struct state_piece pieces[] = {
        {&head, sizeof head},
        {resume->done, resume_bitmap_bytes(head.samples)},
        {maxima, channels * sizeof *maxima},
        {run->sample->values, channels * (size_t)run->sample->tokens * sizeof *run->sample->values},
    };
    char record[STATE_NAME];
    snprintf(record, sizeof record, "ranges-%04d-%05d", resume->generation, run->mesh->rank);
    const enum status status =
        state_write_pieces(run->config->output.checkpoint, record, resume->owner, pieces,
                           sizeof pieces / sizeof pieces[0], error);
    resume->next_save = timing_next_save(timing_now() - begin);
    return status;
}

enum status resume_save_when_due(struct resume *resume, const float *maxima, struct error *error) {
    return timing_now() < resume->next_save ? STATUS_OK : resume_save(resume, maxima, error);
}

enum status resume_save_hessians(const struct resume *resume, bool now, struct error *error) {
    struct hessians *hessians = resume->run.hessians;
    const struct hessian_place place = hessian_place_of(resume);
    if (!hessians)
        return STATUS_OK;
    return now ? hessian_state_save(hessians, &place, error)
               : hessian_state_save_when_due(hessians, &place, error);
}

static void remove_earlier(const struct resume *resume) {
    const char *output = resume->run.config->output.checkpoint;
    char(*names)[STATE_NAME];
    int count;
    if (state_list(output, "ranges-", &names, &count, NULL))
        return;
    for (int i = 0; i < count; i++)
        if (atoi(names[i] + strlen("ranges-")) < resume->generation)
            state_remove(output, names[i]);
    free(names);
}

enum status resume_save_all(struct resume *resume, const float *maxima, struct error *error) {
    enum status status = STATUS_OK;
    if (resume->run.layer_end > resume->run.layer_begin)
        status = resume_save(resume, maxima, error);
    status = mesh_agree(resume->run.mesh, status, error);
    if (!status && resume->run.mesh->rank == 0)
        remove_earlier(resume);
    return status;
}

enum status resume_save_layer(const struct resume *resume, int layer,
                              const struct site_result *results, struct error *error) {
    char record[STATE_NAME];
    layer_part_name(layer, record);
    return state_write(resume->run.config->output.checkpoint, record, resume->owner, results,
                       SITE_COUNT * sizeof *results, error);
}

void resume_remove(const struct resume *resume) {
    state_remove_all(resume->run.config->output.checkpoint);
}
