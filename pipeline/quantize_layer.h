/* Quantization of a stage's layers and their parts of the checkpoint, shared out among its
 * replicas. */
#ifndef FPTQ_PIPELINE_QUANTIZE_LAYER_H
#define FPTQ_PIPELINE_QUANTIZE_LAYER_H

#include "pipeline/config.h"
#include "pipeline/fold.h"
#include "pipeline/hessian.h"
#include "pipeline/mesh.h"
#include "pipeline/stop.h"
#include "pipeline/timing.h"

struct resume;

/* What became of a site, for the report. Plain data: it travels between ranks as bytes. */
struct site_result {
    int layer, site, policy;
    float range;
    double damping;      /* of GPTQ's Hessian, after raising it where it had to be; 0: no GPTQ */
    double weight_error; /* sqrt(sum (w - w_quantized)^2 / sum w^2) over the linears that read it */
    double errors[TREATMENT_COUNT]; /* of site_error.h; negative: not measured */
};

struct quantize_job {
    struct mesh *mesh;
    const struct model *model;
    const struct config *config;
    const struct compute *compute;
    int layer_begin, layer_end;
    const float *maxima;              /* (layers, model_layer_channels), the same on all replicas */
    const struct site_sample *sample; /* of the stage's layers, the same on all replicas */
    struct hessians *hessians;        /* for GPTQ, the same on all replicas; NULL: nearest rounding.
                                         Each layer's are dropped when it is done */
    const struct resume *resume; /* tells the finished layers, keeps the results of the others */
    const struct stop *stop;
};

/* Collective over the mesh. Layers that are finished already are passed over. STATUS_STOPPED when
 * it was to stop: the layers done are finished parts. With as many layers as replicas or more,
 * replica j % replicas writes layer j; with fewer, the replicas of a layer share its linears and
 * send theirs to the one that writes. Each writing rank calls finished(context, result) for every
 * site of its layers, in order.
 */
enum status quantize_layers(const struct quantize_job *job,
                            void (*finished)(void *context, const struct site_result *result),
                            void *context, struct timing *timing, struct error *error);

/* "layer-00012" */
void quantize_part_name(int layer, char name[32]);

#endif
