/* Quantization of a stage's layers and their parts of the checkpoint, shared out among its
 * replicas. */
#ifndef FPTQ_PIPELINE_QUANTIZE_LAYER_H
#define FPTQ_PIPELINE_QUANTIZE_LAYER_H

#include "pipeline/config.h"
#include "pipeline/fold.h"
#include "pipeline/hessian.h"
#include "pipeline/layer_part.h"
#include "pipeline/mesh.h"
#include "pipeline/resume.h"
#include "pipeline/stop.h"
#include "pipeline/timing.h"

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

#endif
