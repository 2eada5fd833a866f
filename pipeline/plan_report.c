#include "pipeline/plan_report.h"

#include "pipeline/log.h"
#include "pipeline/memory.h"

/* log_plain of a label and a number of bytes. */
static void print_bytes(const char *label, int64_t bytes) {
    char text[32];
    memory_text(bytes, text, sizeof text);
    log_plain("%s%s", label, text);
}

static void print_rates(const struct plan_rates *rates) {
    log_plain("rates        measured, of a thread: products %.3g Gflop/s, attention %.3g Gflop/s, "
              "norms and activations %.3g GB/s, quantization %.3g billion weights/s\n",
              rates->flops_per_thread / 1e9, rates->attention_flops / 1e9,
              rates->elementwise_bytes / 1e9, rates->quantize_weights / 1e9);
    log_plain("             of a rank: loading %.3g GB/s, writing %.3g billion weights/s%s, "
              "messages %.3g GB/s after %.3g us%s\n",
              rates->load_bytes / 1e9, rates->write_weights / 1e9,
              rates->write_measured ? "" : " (assumed)", rates->link_bytes / 1e9,
              rates->link_seconds * 1e6,
              rates->link_measured ? "" : " (assumed: one rank has no other)");
}

void plan_print(const struct plan *plan, const struct model *model,
                const struct plan_rates *rates) {
    const struct model_shape *shape = &model->shape;
    log_plain("model        %s, %d layers of %.1f million weights, %lld wide\n", shape->model_type,
              shape->layers, (double)model_layer_weights(model) / 1e6, (long long)shape->hidden);
    log_plain("ranks        %d on %d host(s), %d thread(s) each\n", plan->ranks, plan->hosts,
              plan->threads);
    log_plain("mesh         %d stage(s) x %d replica(s), %d to %d layers in a stage", plan->stages,
              plan->replicas, shape->layers / plan->stages,
              (shape->layers + plan->stages - 1) / plan->stages);
    if (plan->stages * plan->replicas < plan->ranks)
        log_plain(", %d rank(s) without work", plan->ranks - plan->stages * plan->replicas);
    log_plain("\nmicrobatches %lld of %lld tokens, idle share %.1f%%\n",
              (long long)plan->microbatches, (long long)plan->chunk_tokens, 100 * plan->idle_share);
    if (plan->wave)
        log_plain("waves        of %lld window(s), %d times through a stage, %d layer(s) in memory "
                  "at once, hidden states in %s\n",
                  (long long)plan->wave, plan->passes, plan->layers_held,
                  plan->spills ? "a scratch file" : "memory");
    print_bytes("memory       ", plan->memory_rank);
    print_bytes(" in a rank: weights ", plan->memory_weights);
    if (plan->memory_hidden)
        print_bytes(", hidden states ", plan->memory_hidden);
    print_bytes(", keys and values ", plan->memory_cache);
    print_bytes(", work space ", plan->memory_buffers);
    if (plan->memory_hessians)
        print_bytes(", Hessians ", plan->memory_hessians);
    print_bytes("; ", plan->memory_host);
    print_bytes(" of a host's ", plan->memory_limit);
    print_bytes("\ntraffic      ", plan->traffic_bytes);
    print_bytes(" between stages\ndisk         ", plan->checkpoint_bytes);
    log_plain(" at most");
    if (plan->state_bytes)
        print_bytes(", and for the state of the run ", plan->state_bytes);
    if (plan->scratch_bytes)
        print_bytes(", before that for scratch files ", plan->scratch_bytes);
    const double seconds = plan->seconds_load + plan->seconds_calibrate + plan->seconds_quantize;
    log_plain("\ntime         about %.0f s: load %.0f, calibrate %.0f (%.3g Tflop), "
              "quantize %.0f\n",
              seconds, plan->seconds_load, plan->seconds_calibrate, plan->flops / 1e12,
              plan->seconds_quantize);
    if (rates->measured)
        print_rates(rates);
}

static json_t *rates_json(const struct plan_rates *rates) {
    return json_pack(
        "{s:b, s:b, s:b, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "measured", rates->measured,
        "link_measured", rates->link_measured, "write_measured", rates->write_measured,
        "flops_per_thread", rates->flops_per_thread, "attention_flops_per_thread",
        rates->attention_flops, "elementwise_bytes_per_thread", rates->elementwise_bytes,
        "quantize_weights_per_thread", rates->quantize_weights, "clip_weights_per_thread",
        rates->clip_weights, "load_bytes", rates->load_bytes, "write_weights", rates->write_weights,
        "link_bytes", rates->link_bytes, "link_seconds", rates->link_seconds);
}

static json_t *memory_json(const struct plan *plan) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "rank",
                     (json_int_t)plan->memory_rank, "host", (json_int_t)plan->memory_host, "limit",
                     (json_int_t)plan->memory_limit, "weights", (json_int_t)plan->memory_weights,
                     "cache", (json_int_t)plan->memory_cache, "buffers",
                     (json_int_t)plan->memory_buffers, "hidden", (json_int_t)plan->memory_hidden,
                     "hessians", (json_int_t)plan->memory_hessians);
}

json_t *plan_json(const struct plan *plan, const struct plan_rates *rates) {
    json_t *waves =
        json_pack("{s:I, s:i, s:i, s:b}", "windows", (json_int_t)plan->wave, "passes", plan->passes,
                  "layers_held", plan->layers_held, "spills", plan->spills);
    json_t *seconds = json_pack("{s:f, s:f, s:f}", "load", plan->seconds_load, "calibrate",
                                plan->seconds_calibrate, "quantize", plan->seconds_quantize);
    return json_pack(
        "{s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:o, "
        "s:o, s:o, s:o}",
        "ranks", plan->ranks, "hosts", plan->hosts, "threads", plan->threads, "stages",
        plan->stages, "replicas", plan->replicas, "samples", (json_int_t)plan->samples,
        "sequence_length", (json_int_t)plan->sequence_length, "chunk_tokens",
        (json_int_t)plan->chunk_tokens, "microbatches", (json_int_t)plan->microbatches,
        "idle_share", plan->idle_share, "flops", plan->flops, "traffic_bytes",
        (json_int_t)plan->traffic_bytes, "checkpoint_bytes", (json_int_t)plan->checkpoint_bytes,
        "scratch_bytes", (json_int_t)plan->scratch_bytes, "state_bytes",
        (json_int_t)plan->state_bytes, "memory_bytes", memory_json(plan), "waves", waves, "seconds",
        seconds, "rates", rates_json(rates));
}
