/* What the parts of the planner share: figures of a model, and estimates from them. */
#ifndef FPTQ_PIPELINE_PLAN_INTERNAL_H
#define FPTQ_PIPELINE_PLAN_INTERNAL_H

#include "pipeline/plan.h"

/* Figures that no choice of the plan changes. Bytes, unless it says otherwise. */
struct plan_costs {
    bool quantizes, streams;             /* the job does; text passes through the layers */
    int layers;                          /* of the model */
    int64_t layer_weights;               /* how many */
    int64_t layer_bytes, layer_cache;    /* of a layer that is held: weights, keys and values */
    int64_t layer_kept, layer_hessians;  /* of every layer of the stage: ranges, samples */
    int64_t layer_record;                /* Hessians on the disk */
    int64_t buffers;                     /* of a rank */
    int64_t quantize;                    /* while a linear is quantized */
    int64_t chunks;                      /* of a window */
    int64_t window_hidden, token_hidden; /* hidden states, as they are kept, as sent */
    /* Of a token through a layer: */
    double token_linear_flops, token_attention_flops, token_elementwise_bytes;
};

/* Layers of the largest stage; windows of the busiest replica. */
static inline int plan_most_layers(const struct plan_costs *costs, const struct plan *plan) {
    return (costs->layers + plan->stages - 1) / plan->stages;
}
static inline int64_t plan_windows(const struct plan *plan) {
    return (plan->samples + plan->replicas - 1) / plan->replicas;
}

/* Seconds of a token through a layer, at a mean position. */
double plan_token_seconds(const struct plan_costs *costs, const struct plan_rates *rates,
                          int threads);
/* The rates for the model's weights and the configured quantization. */
struct plan_rates plan_rates_for_weights(const struct model *model, const struct config *config,
                                         const struct plan_rates *rates);
/* Of stages, replicas and waves that are set. */
void plan_estimate_time(const struct plan_costs *costs, const struct plan_rates *rates,
                        struct plan *plan);
void plan_estimate_memory(const struct plan_costs *costs, struct plan *plan);
double plan_seconds(const struct plan *plan);
/* Whether a host's memory suffices. */
bool plan_fits(const struct plan *plan);

/* Choose the waves for a plan whose stages and replicas are set: of those that take nearly the
 * least time the smallest, since an interruption costs a wave; hidden states in memory rather than
 * in a file. False, with the figures of those that need least memory, where nothing fits. */
bool plan_choose_waves(const struct plan_costs *costs, const struct config *config,
                       const struct plan_rates *rates, struct plan *plan);

#endif
