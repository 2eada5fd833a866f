#include "pipeline/plan.h"

#include <limits.h>
#include <math.h>

#include "kernels/attention.h"
#include "kernels/gptq.h"
#include "pipeline/hessian.h"
#include "pipeline/memory.h"
#include "pipeline/method.h"
#include "pipeline/plan_internal.h"
#include "pipeline/site_sample.h"
#include "pipeline/stage.h"
#include "pipeline/weights.h"

/* What the program and its libraries take before a model is opened (measured: 28 to 32 MB). */
enum { BASE_BYTES = 30 << 20 };

/* Measured on machines at hand, rounded down; a plan needs them right within a factor of two. */
struct plan_rates plan_rates_typical(enum kernel_path path) {
    static const double flops[PATH_COUNT] = {0.3e9, 40e9, 80e9, 170e9, 900e9};
    return (struct plan_rates){
        .flops_per_thread = flops[path],
        .attention_flops = flops[path] / 2,
        .elementwise_bytes = 5.0e9,
        .quantize_weights = 1.0e9,
        .clip_weights = 0.012e9,
        .load_bytes = 1.0e9,
        .write_weights = 0.5e9,
        .link_bytes = 1.0e9,
        .link_seconds = 5e-6,
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

double plan_elementwise_bytes(const struct model *model) {
    const struct architecture *architecture = model->architecture;
    const struct model_shape *shape = &model->shape;
    const int64_t query = model_dimension(shape, DIMENSION_QUERY);
    const int64_t key_value = model_dimension(shape, DIMENSION_KEY_VALUE);
    /* Two norms read and write, two sums read two and write one. */
    int64_t numbers = 10 * shape->hidden;
    numbers += (architecture->activation == ACTIVATION_GELU_TANH ? 2 : 3) * shape->intermediate;
    if (architecture->position == POSITION_ROTARY)
        numbers += 2 * (query + key_value);
    if (model_role_columns(model, ROLE_QUERY_KEY_VALUE))
        numbers += 2 * (query + 2 * key_value); /* taken apart */
    for (int i = 0; i < architecture->linear_count; i++)
        if (model_layer_tensor(model, 0, architecture->linears[i].name, ".bias"))
            numbers += 2 * model_dimension(shape, architecture->linears[i].out);
    return 4.0 * (double)numbers;
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

int plan_stage_passes(const struct plan *plan, int layers) {
    return (layers + plan->layers_held - 1) / plan->layers_held;
}

static struct attention_shape attention_shape_of(const struct model *model,
                                                 const struct config *config, int64_t context) {
    return (struct attention_shape){
        .heads = model->shape.heads,
        .kv_heads = model->shape.kv_heads,
        .head_dim = model->shape.head_dim,
        .context = context,
        .precision = config->run.precision == PRECISION_F32 ? MATMUL_F32 : MATMUL_BF16,
    };
}

/* What quantizing a linear takes, of the one that takes most: its mapped weights, rotated ones,
 * packed ones, scales, zero points; where choices are measured, the samples' rows at its input and
 * output and weights packed for products; for GPTQ a Hessian's factor and the threads' batches. */
static int64_t quantize_bytes(const struct model *model, const struct config *config, int threads) {
    const struct quantize_format format = config_weight_format(config);
    const bool by_gptq = method_rounding(&config->quantization) == ROUNDING_GPTQ;
    const int64_t sampled = site_sample_tokens(config);
    const int rotated = config->quantization.rotation != ROTATION_NONE;
    int64_t most = 0;
    for (int i = 0; i < model->architecture->linear_count; i++) {
        const struct tensor *tensor =
            model_layer_tensor(model, 0, model->architecture->linears[i].name, ".weight");
        const int64_t rows = tensor_rows(tensor), columns = tensor_columns(tensor);
        int64_t bytes = (int64_t)tensor->bytes + rotated * rows * columns * (sampled ? 8 : 4) +
                        rows * columns * (sampled ? 2 : 1) +
                        rows * (quantize_group_count(&format, columns) * 5 + 16) +
                        sampled * (12 * columns + 8 * rows);
        if (by_gptq)
            bytes += (int64_t)gptq_factor_bytes(columns) +
                     threads * (int64_t)gptq_scratch_bytes(columns);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static struct plan_costs find_costs(const struct model *model, const struct config *config,
                                    const struct plan_needs *needs, const struct plan *plan) {
    const struct model_shape *shape = &model->shape;
    const int64_t tokens = plan->chunk_tokens;
    const struct attention_shape attention =
        attention_shape_of(model, config, plan->sequence_length);
    int64_t outputs = 0;
    for (int role = 0; role < ROLE_COUNT; role++)
        outputs += model_role_columns(model, (enum linear_role)role);
    const int64_t chunks = (plan->sequence_length + tokens - 1) / tokens;
    const int64_t work =
        tokens * 4 * (outputs + 4 * shape->hidden + model_dimension(shape, DIMENSION_QUERY)) +
        (int64_t)matmul_packed_bytes(PATH_AVX512, MATMUL_F32, tokens, model_widest_site(model)) +
        plan->sequence_length * shape->head_dim * 4;
    /* A site's rotated activations; each thread's vectors. */
    const int64_t rotation = needs->quantizes && config->quantization.rotation != ROTATION_NONE
                                 ? (tokens + 32 * plan->threads) * shape->hidden * 4
                                 : 0;
    const bool streams = needs->models > 0;
    const bool by_gptq =
        needs->quantizes && method_rounding(&config->quantization) == ROUNDING_GPTQ;
    return (struct plan_costs){
        .quantizes = needs->quantizes,
        .streams = streams,
        .layers = shape->layers,
        .layer_weights = model_layer_weights(model),
        .layer_bytes =
            streams ? plan_layer_bytes(model, 0, config->run.precision) + needs->layer_bytes : 0,
        .layer_cache = needs->models * (int64_t)attention_cache_bytes(&attention),
        .layer_kept = model_layer_channels(model) * 4 + site_sample_bytes(model, config, 1),
        .layer_hessians = by_gptq ? hessians_bytes(model, config, 1) : 0,
        .layer_record = by_gptq ? hessians_layer_record_bytes(model) : 0,
        .buffers =
            needs->models * work + rotation +
            (needs->quantizes ? plan->samples * plan->sequence_length * 4 : 0) +
            plan->threads * (int64_t)stage_scratch_bytes(model, tokens, plan->sequence_length),
        .quantize = needs->quantizes ? quantize_bytes(model, config, plan->threads) : 0,
        .chunks = chunks,
        .window_hidden = needs->models * chunks * tokens * shape->hidden * 4,
        .token_hidden = shape->hidden * 4,
        .token_linear_flops = streams ? plan_layer_flops(model) : 0,
        .token_attention_flops =
            streams ? plan_attention_flops(model, plan->sequence_length / 2) : 0,
        .token_elementwise_bytes = streams ? plan_elementwise_bytes(model) : 0,
    };
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* What the ranks save (pipeline/resume.h, pipeline/hessian_state.h): ranges, of a whole stage at a
 * time, and Hessians, layer by layer; the old record stays until the new one is whole. */
static int64_t estimate_state(const struct plan_costs *costs, const struct plan *plan) {
    if (!costs->quantizes)
        return 0;
    const int64_t records = (int64_t)plan->replicas * costs->layers;
    const int64_t writers = (int64_t)plan->replicas * plan->stages;
    return records * (2 * costs->layer_kept + costs->layer_record) + writers * costs->layer_record;
}

void plan_estimate_memory(const struct plan_costs *costs, struct plan *plan) {
    const int layers = plan_most_layers(costs, plan);
    plan->memory_weights = plan->layers_held * costs->layer_bytes;
    plan->memory_cache = plan->layers_held * costs->layer_cache;
    plan->memory_buffers = costs->buffers + layers * costs->layer_kept;
    plan->memory_hidden = plan->spills ? 0 : plan->wave * costs->window_hidden;
    plan->memory_hessians = layers * costs->layer_hessians;
    plan->memory_base = BASE_BYTES;
    const int64_t always = plan->memory_base + plan->memory_hessians;
    const int64_t alone = always + plan->memory_cache + plan->memory_buffers + plan->memory_hidden;
    const int64_t quantize = always + costs->quantize + layers * costs->layer_kept;
    plan->memory_rank = larger(alone + plan->memory_weights, quantize);
    /* Waves are not in step: each replica has the layers it is at. */
    const int per_host = (plan->ranks + plan->hosts - 1) / plan->hosts;
    const bool shares = costs->quantizes && !plan->wave;
    const int copies = shares && plan->stages < per_host ? plan->stages : per_host;
    plan->memory_host =
        larger(per_host * alone + copies * plan->memory_weights, per_host * quantize);
    plan->scratch_bytes =
        plan->spills ? plan->wave * costs->window_hidden * plan->stages * plan->replicas : 0;
    plan->state_bytes = estimate_state(costs, plan);
}

bool plan_fits(const struct plan *plan) {
    return plan->memory_host <= plan->memory_limit;
}

double plan_token_seconds(const struct plan_costs *costs, const struct plan_rates *rates,
                          int threads) {
    return (costs->token_linear_flops / rates->flops_per_thread +
            costs->token_attention_flops / rates->attention_flops +
            costs->token_elementwise_bytes / rates->elementwise_bytes) /
           threads;
}

void plan_estimate_time(const struct plan_costs *costs, const struct plan_rates *rates,
                        struct plan *plan) {
    const int most = plan_most_layers(costs, plan);
    const double tokens = (double)(plan->samples * plan->sequence_length);
    const int64_t windows = plan_windows(plan);
    plan->microbatches = windows * costs->chunks;
    plan->flops =
        tokens * (costs->token_linear_flops + costs->token_attention_flops) * costs->layers;
    const double token = plan_token_seconds(costs, rates, plan->threads);
    const double microbatch = (double)plan->chunk_tokens * token * most;
    const double load = (double)(most * costs->layer_bytes) / rates->load_bytes;
    if (plan->wave) {
        const double spill = !plan->spills ? 0
                                           : 2.0 * (double)(plan->wave * costs->window_hidden) *
                                                 (plan->passes - 1) / rates->load_bytes;
        const double wave = (double)(plan->wave * costs->chunks) * microbatch + spill;
        const int64_t each = (windows + plan->wave - 1) / plan->wave;
        const double waves = (double)(each + plan->stages - 1);
        plan->seconds_wave = load + wave;
        plan->seconds_load = waves * load;
        plan->seconds_calibrate = waves * wave;
    } else {
        plan->seconds_load = load;
        plan->seconds_calibrate = (double)(plan->microbatches + plan->stages - 1) * microbatch;
    }
    const double busy = tokens * token * costs->layers;
    plan->idle_share =
        busy > 0 ? 1.0 - busy / (plan->seconds_calibrate * plan->stages * plan->replicas) : 0;
    plan->seconds_quantize =
        (double)(most * costs->layer_weights) / plan->replicas *
        (1 / (rates->quantize_weights * plan->threads) + 1 / rates->write_weights);
    plan->traffic_bytes = (int64_t)(tokens * (double)(costs->token_hidden * (plan->stages - 1)));
}

double plan_seconds(const struct plan *plan) {
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
    const bool one_matrix = shape->tied_head && config->quantization.rotation == ROTATION_NONE;
    const double outside = (double)(shape->vocabulary * shape->hidden) * (one_matrix ? 2 : 4);
    return (int64_t)(bits / 8 * shape->layers + outside);
}

/* Fill the plan for given stages and replicas, all layers held or in waves; true when a host's
 * memory suffices. */
static bool try_mesh(const struct plan_costs *costs, const struct config *config,
                     const struct plan_rates *rates, int stages, int replicas, bool waves,
                     struct plan *plan) {
    plan->stages = stages;
    plan->replicas = replicas;
    plan->layers_held = plan_most_layers(costs, plan);
    plan->passes = 1;
    plan->wave = 0;
    plan->spills = false;
    if (waves)
        return plan_choose_waves(costs, config, rates, plan);
    plan_estimate_time(costs, rates, plan);
    plan_estimate_memory(costs, plan);
    return plan_fits(plan) && (!costs->streams || !config->run.layers_held ||
                               config->run.layers_held >= plan->layers_held);
}

/* What goes from rank to rank in one message, `tokens` rows as wide as `columns`, counts as an int
 * in MPI. */
static enum status check_message(const char *key, int64_t tokens, int64_t columns,
                                 struct error *error) {
    if (tokens <= INT_MAX / columns)
        return STATUS_OK;
    return error_set(
        error, STATUS_INPUT,
        "%s is %lld, but with %lld numbers a token a message holds %lld tokens at most", key,
        (long long)tokens, (long long)columns, (long long)(INT_MAX / columns));
}

static enum status check_messages(const struct model *model, const struct config *config,
                                  struct error *error) {
    const struct config_calibration *calibration = &config->calibration;
    const enum status status = check_message("calibration.chunk_tokens", calibration->chunk_tokens,
                                             model->shape.hidden, error);
    return status || !config_needs_sample(config)
               ? status
               : check_message("calibration.sample_tokens", calibration->sample_tokens,
                               model_widest_site(model), error);
}

/* The windows that replicas share. Where none pass they share the linears, and any number will do.
 */
static int64_t work_samples(const struct config *config, const struct plan_needs *needs) {
    return needs->models ? config->calibration.samples : INT32_MAX;
}

static enum status check_work(const struct model *model, const struct config *config,
                              const struct plan_needs *needs, int ranks, struct error *error) {
    const int layers = model->shape.layers;
    const int stages = config->run.stages, replicas = config->run.replicas;
    const int64_t samples = work_samples(config, needs);
    if (needs->models && config->calibration.sequence_length > model->shape.max_positions)
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
    return check_messages(model, config, error);
}

static enum status check_rotation(const struct model *model, const struct config *config,
                                  struct error *error) {
    if (config->quantization.rotation == ROTATION_NONE ||
        architecture_can_rotate(model->architecture))
        return STATUS_OK;
    return error_set(error, STATUS_INPUT,
                     "quantization.rotation is \"%s\", but the norms of a model of the type \"%s\" "
                     "subtract the mean, which a rotation does not keep: leave it at \"none\"",
                     config_rotation_name(config), model->shape.model_type);
}

/* f16 weights take two products each where the path multiplies bf16 (kernels/matmul.h); clipping
 * takes more time than all else in quantization. */
struct plan_rates plan_rates_for_weights(const struct model *model, const struct config *config,
                                         const struct plan_rates *rates) {
    struct plan_rates adjusted = *rates;
    if (config->quantization.clip != CLIP_NONE)
        adjusted.quantize_weights = rates->clip_weights;
    const struct tensor *tensor =
        model_layer_tensor(model, 0, model->architecture->linears[0].name, ".weight");
    if (tensor->type == TENSOR_F16 && rates->multiplies_bf16 && !rates->measured)
        adjusted.flops_per_thread /= 2;
    return adjusted;
}

/* Replicas that go with a number of stages: all ranks, but no more than samples. */
static int replicas_for(const struct config *config, const struct plan_needs *needs, int ranks,
                        int stages) {
    const int replicas = config->run.replicas ? config->run.replicas : ranks / stages;
    const int64_t samples = work_samples(config, needs);
    return replicas < samples ? replicas : (int)samples;
}

/* A plan this much slower than the fastest is taken if it needs less memory: stages share the
 * layers, replicas repeat them. */
#define SLACK 1.02

struct candidates {
    double least_seconds; /* of those that fit */
    int64_t least_memory; /* of all */
};

struct search {
    const struct model *model;
    const struct config *config;
    const struct plan_needs *needs;
    const struct plan_costs *costs;
    const struct plan_rates *rates;
    struct candidates candidates;
};

static void note_candidate(struct candidates *candidates, const struct plan *trial, bool fits) {
    if (trial->memory_host < candidates->least_memory)
        candidates->least_memory = trial->memory_host;
    if (fits && plan_seconds(trial) < candidates->least_seconds)
        candidates->least_seconds = plan_seconds(trial);
}

/* First the fastest; then, among those nearly as fast, the one that needs least memory. */
static bool find_plan(struct search *search, bool waves, struct plan *trial, struct plan *plan) {
    struct candidates *candidates = &search->candidates;
    const struct config *config = search->config;
    bool found = false;
    for (int pass = 0; pass < 2; pass++)
        for (int stages = 1; stages <= search->model->shape.layers && stages <= trial->ranks;
             stages++) {
            const int replicas = replicas_for(config, search->needs, trial->ranks, stages);
            if ((config->run.stages && stages != config->run.stages) ||
                stages * replicas > trial->ranks)
                continue;
            const bool fits =
                try_mesh(search->costs, config, search->rates, stages, replicas, waves, trial);
            if (pass == 0)
                note_candidate(candidates, trial, fits);
            else if (fits && plan_seconds(trial) <= SLACK * candidates->least_seconds &&
                     (!found || trial->memory_rank < plan->memory_rank)) {
                *plan = *trial;
                found = true;
            }
        }
    return found;
}

enum status plan_make(const struct model *model, const struct config *config, int ranks, int hosts,
                      int threads, int64_t host_memory, const struct plan_rates *rates,
                      const struct plan_needs *needs, struct plan *plan, struct error *error) {
    static const struct plan_needs one_model = {.models = 1, .quantizes = true},
                                   quantization_alone = {.quantizes = true};
    const struct config_calibration *calibration = &config->calibration;
    if (!needs)
        needs = config->calibration.ranges ? &quantization_alone : &one_model;
    enum status status = check_work(model, config, needs, ranks, error);
    if (!status && needs->quantizes)
        status = check_rotation(model, config, error);
    if (status)
        return status;
    struct plan trial = {
        .ranks = ranks,
        .hosts = hosts,
        .threads = threads,
        .samples = needs->models ? calibration->samples : 0,
        .sequence_length = calibration->sequence_length,
        .chunk_tokens = calibration->chunk_tokens < calibration->sequence_length
                            ? calibration->chunk_tokens
                            : calibration->sequence_length,
        .memory_limit = config->run.memory_limit ? config->run.memory_limit : host_memory,
        .checkpoint_bytes = estimate_checkpoint(model, config),
    };
    const struct plan_rates adjusted = plan_rates_for_weights(model, config, rates);
    const struct plan_costs costs = find_costs(model, config, needs, &trial);
    struct search search = {model, config, needs, &costs, &adjusted, {INFINITY, INT64_MAX}};
    if (find_plan(&search, false, &trial, plan) ||
        (costs.streams && find_plan(&search, true, &trial, plan)))
        return STATUS_OK;
    char need[32], have[32];
    memory_text(search.candidates.least_memory, need, sizeof need);
    memory_text(trial.memory_limit, have, sizeof have);
    return error_set(error, STATUS_INPUT,
                     "%d rank(s) on %d host(s) need at least %s on a host%s, but it has %s "
                     "(run.memory_limit): use "
                     "more hosts, or fewer ranks on each",
                     ranks, hosts, need,
                     costs.quantizes && costs.streams ? ", with one layer in memory at a time" : "",
                     have);
}
