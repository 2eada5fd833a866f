/* calibration.ranges: what a checkpoint was quantized by (its input_absmax) takes the place of a
 * calibration. Those are the ranges of the model's own activations, before any scale is folded in,
 * so that another method, other thresholds or other weights can be had from them: the same bytes
 * as from a calibration of the checkpoint's settings. */
#ifndef FPTQ_PIPELINE_SAVED_RANGES_H
#define FPTQ_PIPELINE_SAVED_RANGES_H

#include "io/sample.h"
#include "pipeline/config.h"
#include "pipeline/mesh.h"
#include "pipeline/quantized_model.h"

struct saved_ranges {
    struct quantized_model checkpoint;
    struct config content;         /* what the checkpoint says of its making; owns its texts */
    struct config config;          /* the run's, calibrated as the checkpoint was: a view of both */
    struct sample_windows windows; /* no ids: the digest of those that the checkpoint has seen */
    char tokenizer_digest[65];
    char digest[65]; /* of the ranges */
};

/* Collective: rank 0 verifies the checkpoint, all open it and take over its calibration's settings.
 * config must outlive the result. STATUS_INPUT when it is damaged, of another model (kind, shapes,
 * final norm, tokenizer), or the file that is to be written. */
enum status saved_ranges_open(const struct mesh *mesh, const struct model *model,
                              const struct config *config, struct saved_ranges *saved,
                              struct error *error);
/* maxima (layer_end - layer_begin, model_layer_channels) of these layers. STATUS_INPUT where a
 * range is missing, not finite or negative, or linears that read one site differ in it. */
enum status saved_ranges_read(const struct saved_ranges *saved, int layer_begin, int layer_end,
                              float *maxima, struct error *error);
void saved_ranges_close(struct saved_ranges *saved);

#endif
