#include "pipeline/plan_internal.h"
#include "pipeline/simulate.h"

struct simulation_costs simulation_costs_of(const struct model *model, const struct config *config,
                                            const struct plan *plan,
                                            const struct plan_rates *rates) {
    const struct plan_rates adjusted = plan_rates_for_weights(model, config, rates);
    const struct quantize_format format = config_weight_format(config);
    const double threads = plan->threads;
    const int64_t hidden = model->shape.hidden;
    struct simulation_costs costs = {
        .layers = model->shape.layers,
        .token = (plan_layer_flops(model) / adjusted.flops_per_thread +
                  plan_elementwise_bytes(model) / adjusted.elementwise_bytes) /
                 threads,
        .token_key = plan_attention_flops(model, 0) / adjusted.attention_flops / threads,
        .window = model->shape.window,
        .layer_load =
            (double)plan_layer_bytes(model, 0, config->run.precision) / adjusted.load_bytes,
        /* A copy reads and writes. */
        .token_keep = plan->spills ? (double)(4 * hidden) / adjusted.load_bytes
                                   : (double)(8 * hidden) / adjusted.elementwise_bytes,
        .message = adjusted.link_seconds,
        .token_message = (double)(4 * hidden) / adjusted.link_bytes,
        .token_bytes = 4 * hidden,
        .layer_reduce = (double)(4 * model_layer_channels(model)) / adjusted.link_bytes,
        .linear_count = model->architecture->linear_count,
    };
    for (int i = 0; i < costs.linear_count; i++) {
        const struct linear_rule *rule = &model->architecture->linears[i];
        const int64_t rows = model_dimension(&model->shape, rule->out);
        const int64_t groups =
            quantize_group_count(&format, model_dimension(&model->shape, rule->in));
        const double weights = (double)model_linear_weights(model, i);
        costs.linear_weights[i] = model_linear_weights(model, i);
        costs.quantize_linear[i] = weights / (adjusted.quantize_weights * threads);
        costs.write_linear[i] = weights / adjusted.write_weights;
        costs.send_linear[i] =
            (weights * format.bits / 8 + (double)(rows * (groups * 5 + 16))) / adjusted.link_bytes;
    }
    return costs;
}
