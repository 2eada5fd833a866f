/* Site samples: of a fixed set of calibration tokens, the rows of every site's input, for what is
 * decided by measuring (policy = "error", static_scale = "least-squares", clip = "output").
 *
 * Which tokens: all windows in a row have T = samples * sequence_length tokens. They are cut into n
 * equal parts (n = calibration.sample_tokens, at most T), and of each part one token is drawn
 * (io/random.h, started with the seed's complement), so that all windows and positions are met
 * alike; of the first part it is the very first token, whose activations are often the largest of
 * all. So the choice depends on the configuration alone.
 *
 * Rows are rounded to bf16. A row is computed by one replica and is zero on the others; joining is
 * a bitwise or, which has no order, and a window that is computed twice gives the same row. */
#ifndef FPTQ_PIPELINE_SITE_SAMPLE_H
#define FPTQ_PIPELINE_SITE_SAMPLE_H

#include <mpi.h>
#include <stdint.h>

#include "pipeline/architecture.h"
#include "pipeline/config.h"

struct site_sample {
    const struct model *model;
    int layer_begin, layer_end;
    int64_t tokens;  /* n; 0: there is no sample */
    int64_t *places; /* (n) ascending: window * sequence_length + position */
    int64_t sequence_length;
    /* (layers, n * model_layer_channels) bf16: of each layer, of each site, (n, channels) */
    uint16_t *values;
};

/* Tokens in the sample of a configuration: 0 when nothing needs one. */
int64_t site_sample_tokens(const struct config *config);
/* Bytes of `layers` layers' rows. */
int64_t site_sample_bytes(const struct model *model, const struct config *config, int layers);

/* All rows zero. STATUS_FAILED when memory runs out. */
enum status site_sample_create(struct site_sample *sample, const struct model *model,
                               const struct config *config, int layer_begin, int layer_end,
                               struct error *error);
void site_sample_free(struct site_sample *sample);

/* A site's x f32 (tokens, channels), positions position .. position + tokens - 1 of a window: keep
 * the rows that are of the sample. */
void site_sample_take(struct site_sample *sample, int layer, enum site site, int64_t window,
                      const float *x, int64_t position, int64_t tokens);
/* The rows of one layer, all sites: (n * model_layer_channels) values. */
uint16_t *site_sample_layer(const struct site_sample *sample, int layer);
/* Join another copy of a layer's rows. */
void site_sample_join(uint16_t *rows, const uint16_t *other, int64_t count);
/* Collective over the replicas of a stage: all get all rows. */
void site_sample_reduce(struct site_sample *sample, MPI_Comm stage_peers);

/* rows f32 (n, channels) of a layer's site, divided by scale (channels): multiplied by 1 / scale,
 * as w4a8.h has it; scale NULL: as they are. */
void site_sample_rows(const struct site_sample *sample, int layer, enum site site,
                      const float *scale, float *rows);

#endif
