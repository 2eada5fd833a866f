#include "pipeline/plan.h"

#include <math.h>

#include "kernels/attention.h"
#include "kernels/gptq.h"
#include "pipeline/hessian.h"
#include "pipeline/log.h"
#include "pipeline/memory.h"
#include "pipeline/method.h"
#include "pipeline/site_sample.h"
#include "pipeline/stage.h"
#include "pipeline/weights.h"

/* What the program and its libraries take before a model is opened (measured: 28 to 32 MB). */
enum { BASE_BYTES = 30 << 20 };

int plan_stage_begin(int layers, int stages, int stage) {
    const int each = layers / stages, rest = layers % stages;
    return stage * each + (stage < rest ? stage : rest);
}

/* Measured on machines at hand, rounded down; a plan needs them right within a factor of two. */
struct plan_rates plan_rates_typical(enum kernel_path path) {
    static const double flops[PATH_COUNT] = {0.3e9, 40e9, 80e9, 170e9, 900e9};
    return (struct plan_rates){
        .flops_per_thread = flops[path],
        .load_bytes = 1.0e9,
        .link_bytes = 1.0e9,
        .quantize_weights = 0.5e9,
        .multiplies_bf16 = path >= PATH_AVX512_BF16,
    };
}

double plan_layer_flops(const struct model *model) {
    return 2.0 * (double)model_layer_weights(model);
}

double plan_attention_flops(const struct model *model, int64_t position) {
    const int64_t window = model->shape.window;
    const int64_t seen = window && position + 1 > window ? window : position + 1;
    return 4.0 * (double)seen * (double)model_dimension(&model->shape, DIMENSION_QUERY);
}

int64_t plan_layer_bytes(const struct model *model, int layer, enum run_precision precision) {
    const struct architecture *architecture = model->architecture;
    int64_t bytes = 0;
    for (int i = 0; i < architecture->linear_count; i++) {
        const struct tensor *tensor =
            model_layer_tensor(model, layer, architecture->linears[i].name, ".weight");
        bytes += tensor_rows(tensor) * tensor_columns(tensor) *
                 (int64_t)number_size(weights_number_type(tensor, precision));
    }
    return bytes;
}

/* Hessians, and what a site's factor and the threads' batches take when calibration's own is gone.
 */
static int64_t estimate_gptq(const struct model *model, const struct config *config, int layers,
                             int threads, int64_t widest, struct plan *plan) {
    plan->memory_hessians = hessians_bytes(model, config, layers);
    return (int64_t)gptq_factor_bytes(widest) + threads * (int64_t)gptq_scratch_bytes(widest);
}

/* Bytes a rank with `layers` layers needs: weights, keys and values, work space. */
static void estimate_memory(const struct model *model, const struct config *config, int layers,
                            int threads, const struct plan_needs *needs, struct plan *plan) {
    const struct model_shape *shape = &model->shape;
    const int64_t tokens = plan->chunk_tokens;
    const struct attention_shape attention = {
        .heads = shape->heads,
        .kv_heads = shape->kv_heads,
        .head_dim = shape->head_dim,
        .context = plan->sequence_length,
        .precision = config->run.precision == PRECISION_F32 ? MATMUL_F32 : MATMUL_BF16,
    };
    int64_t widest = 0, outputs = 0;
    for (int site = 0; site < SITE_COUNT; site++) {
        const int64_t channels = model_site_channels(model, (enum site)site);
        widest = channels > widest ? channels : widest;
    }
    for (int role = 0; role < ROLE_COUNT; role++)
        outputs += model_role_columns(model, (enum linear_role)role);
    const int64_t work =
        tokens * 4 * (outputs + 4 * shape->hidden + model_dimension(shape, DIMENSION_QUERY)) +
        (int64_t)matmul_packed_bytes(PATH_AVX512, MATMUL_F32, tokens, widest) +
        plan->sequence_length * shape->head_dim * 4;
    plan->memory_weights =
        layers * (plan_layer_bytes(model, 0, config->run.precision) + needs->layer_bytes);
    plan->memory_cache = needs->models * layers * (int64_t)attention_cache_bytes(&attention);
    plan->memory_buffers =
        needs->models * work + plan->samples * plan->sequence_length * 4 +
        layers * model_layer_channels(model) * 4 + site_sample_bytes(model, config, layers) +
        threads * (int64_t)stage_scratch_bytes(model, tokens, plan->sequence_length);
    plan->memory_base = BASE_BYTES;
    const int64_t calibration = plan->memory_weights + plan->memory_cache + plan->memory_buffers;
    const bool by_gptq =
        needs->quantizes && method_rounding(&config->quantization) == ROUNDING_GPTQ;
    const int64_t rounding =
        by_gptq ? estimate_gptq(model, config, layers, threads, widest, plan) : 0;
    plan->memory_rank = (calibration > rounding ? calibration : rounding) + plan->memory_hessians +
                        plan->memory_base;
}

static void estimate_time(const struct model *model, const struct plan_rates *rates,
                          struct plan *plan) {
    const int layers = model->shape.layers;
    const int most = (layers + plan->stages - 1) / plan->stages;
    const int64_t chunks = (plan->sequence_length + plan->chunk_tokens - 1) / plan->chunk_tokens;
    const double tokens = (double)(plan->samples * plan->sequence_length);
    const double token_flops =
        plan_layer_flops(model) + plan_attention_flops(model, plan->sequence_length / 2);
    plan->microbatches = (plan->samples + plan->replicas - 1) / plan->replicas * chunks;
    plan->flops = tokens * token_flops * layers;
    const double flops = rates->flops_per_thread * plan->threads;
    const double microbatch = (double)plan->chunk_tokens * token_flops * most / flops;
    plan->seconds_calibrate = (double)(plan->microbatches + plan->stages - 1) * microbatch;
    plan->idle_share =
        1.0 - plan->flops / flops / (plan->seconds_calibrate * plan->stages * plan->replicas);
    plan->seconds_load =
        (double)(most * plan_layer_bytes(model, 0, PRECISION_BF16)) / rates->load_bytes;
    plan->seconds_quantize = (double)(most * model_layer_weights(model)) /
                             (rates->quantize_weights * plan->replicas * plan->threads);
    plan->traffic_bytes =
        (int64_t)(tokens * (double)(model->shape.hidden * 4) * (plan->stages - 1));
}

static double plan_seconds(const struct plan *plan) {
    return plan->seconds_load + plan->seconds_calibrate + plan->seconds_quantize;
}

static int64_t estimate_checkpoint(const struct model *model, const struct config *config) {
    const struct model_shape *shape = &model->shape;
    const struct quantize_format format = config_weight_format(config);
    double bits = 0;
    for (int i = 0; i < model->architecture->linear_count; i++) {
        const struct linear_rule *rule = &model->architecture->linears[i];
        const int64_t out = model_dimension(shape, rule->out),
                      in = model_dimension(shape, rule->in);
        const double groups = (double)(out * quantize_group_count(&format, in));
        bits +=
            format.bits * (double)(out * in) +
            groups * (8.0 * (double)number_size(format.scale_type) + (format.symmetric ? 0 : 4)) +
            64.0 * (double)in;
        if (model_layer_tensor(model, 0, rule->name, ".bias"))
            bits += 16.0 * (double)out;
    }
    const double outside = (double)(shape->vocabulary * shape->hidden) * (shape->tied_head ? 2 : 4);
    return (int64_t)(bits / 8 * shape->layers + outside);
}

/* Fill the plan for given stages and replicas; true when a host's memory suffices. */
static bool try_mesh(const struct model *model, const struct config *config,
                     const struct plan_rates *rates, const struct plan_needs *needs, int stages,
                     int replicas, struct plan *plan) {
    plan->stages = stages;
    plan->replicas = replicas;
    estimate_time(model, rates, plan);
    estimate_memory(model, config, (model->shape.layers + stages - 1) / stages, plan->threads,
                    needs, plan);
    const int per_host = (plan->ranks + plan->hosts - 1) / plan->hosts;
    return plan->memory_rank * per_host <= plan->memory_limit;
}

static enum status check_work(const struct model *model, const struct config *config, int ranks,
                              struct error *error) {
    const int layers = model->shape.layers;
    const int stages = config->run.stages, replicas = config->run.replicas;
    const int64_t samples = config->calibration.samples;
    if (config->calibration.sequence_length > model->shape.max_positions)
        return error_set(error, STATUS_INPUT,
                         "calibration.sequence_length is %lld, but the model has %lld positions",
                         (long long)config->calibration.sequence_length,
                         (long long)model->shape.max_positions);
    if (stages > layers)
        return error_set(error, STATUS_INPUT, "run.stages is %d, but the model has %d layers",
                         stages, layers);
    if (replicas > samples)
        return error_set(error, STATUS_INPUT, "run.replicas is %d, but there are %lld samples",
                         replicas, (long long)samples);
    if ((stages ? stages : 1) * (int64_t)(replicas ? replicas : 1) > ranks)
        return error_set(error, STATUS_INPUT,
                         "run.stages and run.replicas ask for %lld ranks, but there are %d",
                         (stages ? stages : 1) * (long long)(replicas ? replicas : 1), ranks);
    if (ranks > layers * samples)
        return error_set(error, STATUS_INPUT,
                         "%d ranks are more than there is work for: %d layers x %lld samples",
                         ranks, layers, (long long)samples);
    return STATUS_OK;
}

/* f16 weights take two products each where the path multiplies bf16 (kernels/matmul.h). */
static struct plan_rates rates_for_weights(const struct model *model,
                                           const struct plan_rates *rates) {
    struct plan_rates adjusted = *rates;
    const struct tensor *tensor =
        model_layer_tensor(model, 0, model->architecture->linears[0].name, ".weight");
    if (tensor->type == TENSOR_F16 && rates->multiplies_bf16)
        adjusted.flops_per_thread /= 2;
    return adjusted;
}

/* Replicas that go with a number of stages: all ranks, but no more than samples. */
static int replicas_for(const struct config *config, int ranks, int stages) {
    const int replicas = config->run.replicas ? config->run.replicas : ranks / stages;
    const int64_t samples = config->calibration.samples;
    return replicas < samples ? replicas : (int)samples;
}

/* A plan this much slower than the fastest is taken if it needs less memory: stages share the
 * layers, replicas repeat them. */
#define SLACK 1.02

struct candidates {
    double least_seconds; /* of those that fit */
    int64_t least_memory; /* of all */
};

static void note_candidate(struct candidates *candidates, const struct plan *trial, bool fits) {
    if (trial->memory_rank < candidates->least_memory)
        candidates->least_memory = trial->memory_rank;
    if (fits && plan_seconds(trial) < candidates->least_seconds)
        candidates->least_seconds = plan_seconds(trial);
}

enum status plan_make(const struct model *model, const struct config *config, int ranks, int hosts,
                      int threads, int64_t host_memory, const struct plan_rates *rates,
                      const struct plan_needs *needs, struct plan *plan, struct error *error) {
    static const struct plan_needs one_model = {.models = 1, .quantizes = true};
    const struct config_calibration *calibration = &config->calibration;
    enum status status = check_work(model, config, ranks, error);
    if (status)
        return status;
    struct plan trial = {
        .ranks = ranks,
        .hosts = hosts,
        .threads = threads,
        .samples = calibration->samples,
        .sequence_length = calibration->sequence_length,
        .chunk_tokens = calibration->chunk_tokens < calibration->sequence_length
                            ? calibration->chunk_tokens
                            : calibration->sequence_length,
        .memory_limit = config->run.memory_limit ? config->run.memory_limit : host_memory,
        .checkpoint_bytes = estimate_checkpoint(model, config),
    };
    const struct plan_rates adjusted = rates_for_weights(model, rates);
    struct candidates candidates = {.least_seconds = INFINITY, .least_memory = INT64_MAX};
    /* First the fastest; then, among those nearly as fast, the one that needs least memory. */
    bool found = false;
    for (int pass = 0; pass < 2; pass++)
        for (int stages = 1; stages <= model->shape.layers && stages <= ranks; stages++) {
            const int replicas = replicas_for(config, ranks, stages);
            if ((config->run.stages && stages != config->run.stages) || stages * replicas > ranks)
                continue;
            const bool fits = try_mesh(model, config, &adjusted, needs ? needs : &one_model, stages,
                                       replicas, &trial);
            if (pass == 0)
                note_candidate(&candidates, &trial, fits);
            else if (fits && plan_seconds(&trial) <= SLACK * candidates.least_seconds &&
                     (!found || trial.memory_rank < plan->memory_rank)) {
                *plan = trial;
                found = true;
            }
        }
    if (found)
        return STATUS_OK;
    char need[32], have[32];
    memory_text(candidates.least_memory, need, sizeof need);
    memory_text(trial.memory_limit, have, sizeof have);
    return error_set(error, STATUS_INPUT,
                     "%d rank(s) on %d host(s) need at least %s each, but a host has %s "
                     "(run.memory_limit): use more hosts",
                     ranks, hosts, need, have);
}

/* log_plain of a label and a number of bytes. */
static void print_bytes(const char *label, int64_t bytes) {
    char text[32];
    memory_text(bytes, text, sizeof text);
    log_plain("%s%s", label, text);
}

void plan_print(const struct plan *plan, const struct model *model) {
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
    print_bytes("memory       ", plan->memory_rank);
    print_bytes(" in a rank: weights ", plan->memory_weights);
    print_bytes(", keys and values ", plan->memory_cache);
    print_bytes(", work space ", plan->memory_buffers);
    if (plan->memory_hessians)
        print_bytes(", Hessians ", plan->memory_hessians);
    print_bytes("; a host has ", plan->memory_limit);
    print_bytes("\ntraffic      ", plan->traffic_bytes);
    print_bytes(" between stages\ndisk         ", plan->checkpoint_bytes);
    log_plain(" at most\ntime         about %.0f s: load %.0f, calibrate %.0f (%.3g Tflop), "
              "quantize %.0f\n",
              plan_seconds(plan), plan->seconds_load, plan->seconds_calibrate, plan->flops / 1e12,
              plan->seconds_quantize);
}
