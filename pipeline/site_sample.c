#include "pipeline/site_sample.h"

#include <stdlib.h>
#include <string.h>

#include "io/random.h"
#include "kernels/number.h"

int64_t site_sample_tokens(const struct config *config) {
    const struct config_calibration *calibration = &config->calibration;
    const int64_t all = calibration->samples * calibration->sequence_length;
    if (!config_needs_sample(config))
        return 0;
    return calibration->sample_tokens < all ? calibration->sample_tokens : all;
}

int64_t site_sample_bytes(const struct model *model, const struct config *config, int layers) {
    return site_sample_tokens(config) * layers * model_layer_channels(model) *
           (int64_t)sizeof(uint16_t);
}

/* Values of a layer. */
static int64_t layer_size(const struct site_sample *sample) {
    return sample->tokens * model_layer_channels(sample->model);
}

static void choose_places(struct site_sample *sample, const struct config *config) {
    const int64_t all = config->calibration.samples * config->calibration.sequence_length;
    struct random_state random = {~config->calibration.seed};
    const int64_t each = all / sample->tokens, rest = all % sample->tokens;
    int64_t begin = 0;
    for (int64_t i = 0; i < sample->tokens; i++) {
        const int64_t count = each + (i < rest);
        sample->places[i] = begin + (int64_t)(i ? random_below(&random, (uint64_t)count) : 0);
        begin += count;
    }
}

enum status site_sample_create(struct site_sample *sample, const struct model *model,
                               const struct config *config, int layer_begin, int layer_end,
                               struct error *error) {
    *sample = (struct site_sample){
        .model = model,
        .layer_begin = layer_begin,
        .layer_end = layer_end,
        .tokens = site_sample_tokens(config),
        .sequence_length = config->calibration.sequence_length,
    };
    if (!sample->tokens)
        return STATUS_OK;
    const int64_t count = (layer_end - layer_begin) * layer_size(sample);
    sample->places = malloc((size_t)sample->tokens * sizeof *sample->places);
    sample->values = calloc((size_t)count + 1, sizeof *sample->values);
    if (!sample->places || !sample->values) {
        site_sample_free(sample);
        return error_set(error, STATUS_FAILED,
                         "no memory for a sample of the activations (%lld bytes); lower "
                         "calibration.sample_tokens",
                         (long long)count * (long long)sizeof *sample->values);
    }
    choose_places(sample, config);
    return STATUS_OK;
}

void site_sample_free(struct site_sample *sample) {
    free(sample->places);
    free(sample->values);
    *sample = (struct site_sample){0};
}

/* The first row whose place is at or after `place`. */
static int64_t first_row(const struct site_sample *sample, int64_t place) {
    int64_t low = 0, high = sample->tokens;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (sample->places[middle] < place)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint16_t *site_sample_layer(const struct site_sample *sample, int layer) {
    return sample->values + (layer - sample->layer_begin) * layer_size(sample);
}

static uint16_t *site_rows(const struct site_sample *sample, int layer, enum site site) {
    return site_sample_layer(sample, layer) +
           sample->tokens * model_site_offset(sample->model, site);
}

void site_sample_take(struct site_sample *sample, int layer, enum site site, int64_t window,
                      const float *x, int64_t position, int64_t tokens) {
    const int64_t channels = model_site_channels(sample->model, site);
    const int64_t begin = window * sample->sequence_length + position;
    uint16_t *rows = site_rows(sample, layer, site);
    for (int64_t row = first_row(sample, begin);
         row < sample->tokens && sample->places[row] < begin + tokens; row++)
        number_narrow(rows + row * channels, x + (sample->places[row] - begin) * channels,
                      NUMBER_BF16, (size_t)channels);
}

void site_sample_join(uint16_t *rows, const uint16_t *other, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        rows[i] |= other[i];
}

void site_sample_reduce(struct site_sample *sample, MPI_Comm stage_peers) {
    for (int layer = sample->layer_begin; layer < sample->layer_end; layer++)
        for (int site = 0; site < SITE_COUNT; site++)
            MPI_Allreduce(
                MPI_IN_PLACE, site_rows(sample, layer, (enum site)site),
                (int)(sample->tokens * model_site_channels(sample->model, (enum site)site)),
                MPI_UINT16_T, MPI_BOR, stage_peers);
}

void site_sample_rows(const struct site_sample *sample, int layer, enum site site,
                      const float *scale, float *rows) {
    const int64_t channels = model_site_channels(sample->model, site);
    number_widen(rows, site_rows(sample, layer, site), NUMBER_BF16,
                 (size_t)(sample->tokens * channels));
    for (int64_t row = 0; scale && row < sample->tokens; row++)
        for (int64_t i = 0; i < channels; i++)
            rows[row * channels + i] *= 1.0f / scale[i];
}
