#include "pipeline/hessian_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/state.h"
#include "kernels/gptq.h"
#include "pipeline/log.h"
#include "pipeline/timing.h"

/* Before the first save a disk is taken to write so much a second. */
static const double disk_bytes = 400e6;

static struct hessian_layer *layer_of(const struct hessians *hessians, int layer) {
    return &hessians->layers[layer - hessians->layer_begin];
}

/* ---- Saving ---- */

/* Records of earlier generations of a layer. */
static void remove_earlier(const struct hessian_place *place, int layer) {
    char prefix[STATE_NAME], (*names)[STATE_NAME];
    int count;
    snprintf(prefix, sizeof prefix, "hessian-%05d-", layer);
    if (state_list(place->output, prefix, &names, &count, NULL))
        return;
    for (int i = 0; i < count; i++)
        if (atoi(names[i] + strlen(prefix)) < place->generation)
            state_remove(place->output, names[i]);
    free(names);
}

enum status hessian_state_save(struct hessians *hessians, const struct hessian_place *place,
                               struct error *error) {
    const double begin = timing_now();
    enum status status = STATUS_OK;
    for (int layer = hessians->layer_begin; !status && layer < hessians->layer_end; layer++) {
        char record[STATE_NAME];
        if (!layer_of(hessians, layer)->record)
            continue;
        snprintf(record, sizeof record, "hessian-%05d-%04d-%05d", layer, place->generation,
                 place->mesh->rank);
        status = state_write(place->output, record, place->owner, layer_of(hessians, layer)->record,
                             hessians_record_bytes(hessians), error);
        if (!status && place->mesh->replica == 0)
            remove_earlier(place, layer);
    }
    hessians->save_seconds = timing_now() - begin;
    hessians->next_save = timing_next_save(hessians->save_seconds);
    return status;
}

enum status hessian_state_save_when_due(struct hessians *hessians,
                                        const struct hessian_place *place, struct error *error) {
    return timing_now() < hessians->next_save ? STATUS_OK
                                              : hessian_state_save(hessians, place, error);
}

/* ---- Taking up ---- */

static bool overlaps(const uint8_t *a, const uint8_t *b, size_t bytes) {
    uint8_t common = 0;
    for (size_t i = 0; i < bytes; i++)
        common = (uint8_t)(common | (a[i] & b[i]));
    return common != 0;
}

/* Add a record's sums to the layer's, if none of its blocks is in them. False: it does not fit. */
static bool add_record(const struct hessians *hessians, struct hessian_layer *layer,
                       const unsigned char *data, size_t bytes) {
    const size_t set = hessians_set_bytes(hessians);
    const int64_t count = hessians_sum_count(hessians);
    if (bytes != hessians_record_bytes(hessians) ||
        memcmp(data, layer->record, sizeof(struct hessian_head)) != 0)
        return false;
    const uint8_t *other = data + sizeof(struct hessian_head);
    const int64_t *sums = (const int64_t *)(const void *)(other + set);
    if (overlaps(layer->set, other, set))
        return true;
    for (size_t i = 0; i < set; i++)
        layer->set[i] |= other[i];
    for (int64_t i = 0; i < count; i++)
        layer->sums[i] += sums[i];
    return true;
}

/* The latest generation first: what it has of those before, it has whole. */
static enum status load_layer(const struct hessians *hessians, const struct hessian_place *place,
                              int layer, struct error *error) {
    char prefix[STATE_NAME], (*names)[STATE_NAME];
    int count;
    snprintf(prefix, sizeof prefix, "hessian-%05d-", layer);
    enum status status = state_list(place->output, prefix, &names, &count, error);
    for (int i = count - 1; !status && i >= 0; i--) {
        void *data;
        size_t bytes;
        struct error fault = {0};
        if (state_read(place->output, names[i], place->owner, &data, &bytes, &fault))
            log_warning("%s: left out, its windows are computed again", fault.message);
        else if (data && !add_record(hessians, layer_of(hessians, layer), data, bytes))
            log_warning("%s: does not fit; left out", names[i]);
        free(data);
    }
    free(names);
    return status;
}

static bool has_window(const struct hessians *hessians, const uint8_t *set, int64_t window) {
    bool all = true;
    for (int64_t block = 0; block < hessians->window_blocks; block++) {
        const int64_t index = window * hessians->window_blocks + block;
        all &= set[index / 8] >> index % 8 & 1;
    }
    return all;
}

/* The first replica's set, to all; windows that a layer lacks are not done. */
static void spread_sets(struct hessians *hessians, const struct mesh *mesh, uint8_t *done) {
    for (int layer = hessians->layer_begin; layer < hessians->layer_end; layer++) {
        struct hessian_layer *at = layer_of(hessians, layer);
        if (!at->record)
            continue;
        uint8_t *set = mesh->replica == 0 ? at->set : at->elsewhere;
        MPI_Bcast(set, (int)hessians_set_bytes(hessians), MPI_BYTE, 0, mesh->stage_peers);
        for (int64_t window = 0; window < hessians->samples; window++)
            if (!has_window(hessians, set, window))
                done[window / 8] = (uint8_t)(done[window / 8] & ~(1u << window % 8));
    }
}

enum status hessian_state_open(struct hessians *hessians, const struct hessian_place *place,
                               bool found, const bool *finished, uint8_t *done,
                               struct error *error) {
    const struct mesh *mesh = place->mesh;
    enum status status = STATUS_OK;
    for (int layer = hessians->layer_begin; layer < hessians->layer_end; layer++)
        if (finished[layer])
            hessians_drop(hessians, layer);
        else if (found && mesh->replica == 0 && !status)
            status = load_layer(hessians, place, layer, error);
    status = mesh_agree(mesh, status, error);
    if (status)
        return status;
    spread_sets(hessians, mesh, done);
    MPI_Allreduce(MPI_IN_PLACE, done, (int)((hessians->samples + 7) / 8), MPI_BYTE, MPI_BAND,
                  MPI_COMM_WORLD);
    const double bytes =
        (double)hessians_record_bytes(hessians) * (hessians->layer_end - hessians->layer_begin);
    hessians->save_seconds = bytes / disk_bytes;
    hessians->next_save = timing_next_save(hessians->save_seconds);
    return STATUS_OK;
}

/* ---- The sum over replicas ---- */

enum status hessian_state_reduce(struct hessians *hessians, const struct mesh *mesh,
                                 struct error *error) {
    enum { PIECE = 1 << 24 };
    const int64_t count = hessians_sum_count(hessians);
    for (int layer = hessians->layer_begin; layer < hessians->layer_end; layer++) {
        if (!layer_of(hessians, layer)->record)
            continue;
        hessians_fit(hessians, layer, mesh->replicas);
        int64_t *sums = hessians_sums(hessians, layer, SITE_ATTENTION_INPUT);
        for (int64_t at = 0; mesh->replicas > 1 && at < count; at += PIECE)
            MPI_Allreduce(MPI_IN_PLACE, sums + at, (int)(count - at < PIECE ? count - at : PIECE),
                          MPI_INT64_T, MPI_SUM, mesh->stage_peers);
    }
    return hessians_check(hessians, error);
}
