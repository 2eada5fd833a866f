#include "pipeline/hessian.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/gptq.h"
#include "pipeline/weights.h"

static int64_t window_blocks_of(int64_t sequence_length) {
    return (sequence_length + GRAM_BLOCK - 1) / GRAM_BLOCK;
}

/* Bits, in whole words. */
static size_t set_bytes(int64_t bits) {
    return ((size_t)bits + 63) / 64 * 8;
}

/* Where a site's sums begin; SITE_COUNT: their number. */
static int64_t sums_offset(const struct model *model, int site) {
    int64_t offset = 0;
    for (int before = 0; before < site; before++)
        offset += gptq_packed_count(model_site_channels(model, (enum site)before));
    return offset;
}

static enum matmul_precision precision_of(const struct model *model, const struct config *config) {
    const struct tensor *tensor =
        model_layer_tensor(model, 0, model->architecture->linears[0].name, ".weight");
    const enum run_precision precision = config->run.precision;
    return precision == PRECISION_F32 || weights_number_type(tensor, precision) == NUMBER_F32
               ? MATMUL_F32
               : MATMUL_BF16;
}

static int exponent_of(int64_t tokens) {
    int bits = 0;
    while (bits < 40 && INT64_C(1) << bits < tokens)
        bits++;
    return bits <= 18 ? 20 : 38 - bits;
}

int64_t hessians_bytes(const struct model *model, const struct config *config, int layers) {
    const enum matmul_precision precision = precision_of(model, config);
    return layers * (hessians_layer_record_bytes(model) +
                     (int64_t)gram_block_bytes(precision, model_layer_channels(model)));
}

int64_t hessians_layer_record_bytes(const struct model *model) {
    return sums_offset(model, SITE_COUNT) * (int64_t)sizeof(int64_t);
}

size_t hessians_set_bytes(const struct hessians *hessians) {
    return set_bytes(hessians->samples * hessians->window_blocks);
}

size_t hessians_record_bytes(const struct hessians *hessians) {
    return sizeof(struct hessian_head) + hessians_set_bytes(hessians) +
           (size_t)hessians_layer_record_bytes(hessians->model);
}

static bool create_layer(const struct hessians *hessians, struct hessian_layer *layer, int index) {
    const struct hessian_head head = {index, hessians->exponent, hessians->samples,
                                      hessians->window_blocks};
    layer->record = calloc(1, hessians_record_bytes(hessians));
    layer->elsewhere = calloc(1, hessians_set_bytes(hessians));
    if (!layer->record || !layer->elsewhere)
        return false;
    memcpy(layer->record, &head, sizeof head);
    layer->set = layer->record + sizeof head;
    layer->sums = (int64_t *)(void *)(layer->set + hessians_set_bytes(hessians));
    return true;
}

enum status hessians_create(struct hessians *hessians, const struct model *model,
                            const struct compute *compute, const struct config *config,
                            int layer_begin, int layer_end, struct error *error) {
    const struct config_calibration *calibration = &config->calibration;
    const int layers = layer_end - layer_begin;
    *hessians = (struct hessians){
        .model = model,
        .compute = compute,
        .precision = precision_of(model, config),
        .layer_begin = layer_begin,
        .layer_end = layer_end,
        .samples = calibration->samples,
        .sequence_length = calibration->sequence_length,
        .window_blocks = window_blocks_of(calibration->sequence_length),
        .exponent = exponent_of(calibration->samples * calibration->sequence_length),
    };
    hessians->layers = calloc((size_t)layers + 1, sizeof *hessians->layers);
    hessians->work = aligned_alloc(64, gram_work_bytes(compute, hessians->precision));
    bool complete = hessians->layers && hessians->work;
    for (int i = 0; complete && i < layers; i++)
        complete = create_layer(hessians, &hessians->layers[i], layer_begin + i);
    return complete ? STATUS_OK
                    : error_set(error, STATUS_FAILED,
                                "no memory for the Hessians of %d layers (%zu bytes each)", layers,
                                hessians_record_bytes(hessians));
}

static struct hessian_layer *layer_of(const struct hessians *hessians, int layer) {
    return &hessians->layers[layer - hessians->layer_begin];
}

void hessians_drop(struct hessians *hessians, int layer) {
    struct hessian_layer *dropped = layer_of(hessians, layer);
    free(dropped->record);
    free(dropped->elsewhere);
    free(dropped->blocks);
    *dropped = (struct hessian_layer){0};
}

void hessians_free(struct hessians *hessians) {
    for (int layer = hessians->layer_begin; hessians->layers && layer < hessians->layer_end;
         layer++)
        hessians_drop(hessians, layer);
    free(hessians->layers);
    free(hessians->work);
    *hessians = (struct hessians){0};
}

void hessians_end(struct hessians *hessians) {
    for (int i = 0; i < hessians->layer_end - hessians->layer_begin; i++) {
        free(hessians->layers[i].blocks);
        hessians->layers[i].blocks = NULL;
    }
    free(hessians->work);
    hessians->work = NULL;
}

int64_t hessians_sum_count(const struct hessians *hessians) {
    return sums_offset(hessians->model, SITE_COUNT);
}

static void note_too_large(struct hessians *hessians, int layer, enum site site) {
    if (hessians->too_large)
        return;
    hessians->too_large = true;
    hessians->large_layer = layer;
    hessians->large_site = site;
}

bool hessians_fit(struct hessians *hessians, int layer, int replicas) {
    for (int site = 0; site < SITE_COUNT; site++) {
        const int64_t channels = model_site_channels(hessians->model, (enum site)site);
        const int64_t *sums = hessians_sums(hessians, layer, (enum site)site);
        for (int64_t i = 0; i < channels; i++)
            if (sums[gptq_packed_at(channels, i, i)] >= (INT64_C(1) << 62) / replicas)
                note_too_large(hessians, layer, (enum site)site);
    }
    return !hessians->too_large;
}

static bool has_bit(const uint8_t *bits, int64_t index) {
    return bits[index / 8] >> index % 8 & 1;
}

/* A block is complete: to the sums. */
static void add_block(struct hessians *hessians, int layer, enum site site, int64_t index,
                      const unsigned char *block, int64_t tokens) {
    struct hessian_layer *to = layer_of(hessians, layer);
    const bool fits =
        gram_add(hessians->compute, to->sums + sums_offset(hessians->model, (int)site), block,
                 hessians->precision, tokens, model_site_channels(hessians->model, site),
                 hessians->exponent, hessians->work);
    if (!fits)
        note_too_large(hessians, layer, site);
    if (site == SITE_COUNT - 1)
        to->set[index / 8] = (uint8_t)(to->set[index / 8] | 1u << index % 8);
}

void hessians_take(struct hessians *hessians, int layer, enum site site, int64_t window,
                   const float *x, int64_t position, int64_t tokens) {
    struct hessian_layer *to = layer_of(hessians, layer);
    const int64_t channels = model_site_channels(hessians->model, site);
    const int64_t offset = model_site_offset(hessians->model, site);
    if (!to->record)
        return;
    if (!to->blocks)
        to->blocks = aligned_alloc(
            64,
            (gram_block_bytes(hessians->precision, model_layer_channels(hessians->model)) + 63) &
                ~(size_t)63);
    if (!to->blocks) {
        hessians->no_memory = true;
        return;
    }
    unsigned char *block = to->blocks + gram_block_bytes(hessians->precision, offset);
    for (int64_t done = 0, count; done < tokens; done += count) {
        const int64_t at = position + done, place = at % GRAM_BLOCK;
        const int64_t index = window * hessians->window_blocks + at / GRAM_BLOCK;
        count = GRAM_BLOCK - place < tokens - done ? GRAM_BLOCK - place : tokens - done;
        if (has_bit(to->set, index) || has_bit(to->elsewhere, index))
            continue;
        gram_put(hessians->compute, block, hessians->precision, x + done * channels, place, count,
                 channels);
        if (place + count == GRAM_BLOCK || at + count == hessians->sequence_length)
            add_block(hessians, layer, site, index, block, place + count);
    }
}

enum status hessians_check(const struct hessians *hessians, struct error *error) {
    if (hessians->no_memory)
        return error_set(error, STATUS_FAILED, "no memory for blocks of activations");
    if (!hessians->too_large)
        return STATUS_OK;
    return error_set(error, STATUS_FAILED,
                     "layer %d, site %s: the activations are too large to sum their squares for "
                     "GPTQ, which takes a mean square of 2^23 at most",
                     hessians->large_layer, site_name(hessians->large_site));
}

int64_t *hessians_sums(const struct hessians *hessians, int layer, enum site site) {
    return layer_of(hessians, layer)->sums + sums_offset(hessians->model, (int)site);
}
