#include "pipeline/rates.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/memory.h"
#include "pipeline/rates_internal.h"
#include "pipeline/stage.h"
#include "pipeline/weights.h"

/* Weights in the pool: more than the caches hold, and not much more. */
enum { POOL_BYTES = 128 << 20 };

static float next_number(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u; /* Numerical Recipes' generator */
    return (float)(int32_t)*state * 0x1p-31f;
}

void rates_fill_weights(const struct rates_bench *bench) {
    const size_t size = number_size(bench->type), count = bench->weight_bytes / size;
    enum { BLOCK = 4096 };
    float values[BLOCK];
    uint32_t state = 1;
    for (int i = 0; i < BLOCK; i++)
        values[i] = 0.25f * (next_number(&state) + next_number(&state) + next_number(&state));
    for (size_t at = 0; at < count; at += BLOCK)
        number_narrow(bench->weights + at * size, values, bench->type,
                      count - at < BLOCK ? count - at : BLOCK);
}

/* The widest row of activations that any part of a layer has. */
static int64_t widest_of(const struct model *model) {
    int64_t widest = model->shape.hidden;
    for (int i = 0; i < model->architecture->linear_count; i++) {
        const struct linear_rule *rule = &model->architecture->linears[i];
        const int64_t sizes[] = {model_dimension(&model->shape, rule->in),
                                 model_dimension(&model->shape, rule->out)};
        for (int s = 0; s < 2; s++)
            widest = sizes[s] > widest ? sizes[s] : widest;
    }
    return widest;
}

/* Heads of keys that suffice: they do not know each other. */
static int measured_heads(const struct rates_bench *bench) {
    const struct model_shape *shape = &bench->model->shape;
    const double flops = (double)bench->tokens *
                         plan_attention_flops(bench->model, bench->context) / shape->kv_heads;
    const int threads = team_size(bench->compute.team);
    const double enough = 0.004 * bench->expected_flops / flops + 1;
    const int heads = enough < shape->kv_heads ? (int)enough : shape->kv_heads;
    return heads > threads || threads > shape->kv_heads ? heads : threads;
}

static struct attention_shape attention_shape_of(const struct rates_bench *bench, int kv_heads) {
    const struct model_shape *shape = &bench->model->shape;
    return (struct attention_shape){
        .heads = kv_heads * (shape->heads / shape->kv_heads),
        .kv_heads = kv_heads,
        .head_dim = shape->head_dim,
        .context = bench->context,
        .window = shape->window,
        .scale = 0.1f,
        .alibi_slopes = bench->slopes,
        .precision = bench->precision,
    };
}

static enum status bench_create(struct rates_bench *bench, int threads, struct error *error) {
    const struct model *model = bench->model;
    const enum run_precision precision = bench->config->run.precision;
    bench->type = weights_number_type(
        model_layer_tensor(model, 0, model->architecture->linears[0].name, ".weight"), precision);
    bench->precision =
        precision == PRECISION_F32 || bench->type == NUMBER_F32 ? MATMUL_F32 : MATMUL_BF16;
    bench->widest = widest_of(model);
    const struct attention_shape attention = attention_shape_of(bench, model->shape.kv_heads);
    const size_t numbers = (size_t)(bench->tokens * bench->widest) * sizeof(float);
    const size_t all =
        (size_t)model->shape.layers * (size_t)model_layer_weights(model) * number_size(bench->type);
    bench->weight_bytes = all < POOL_BYTES ? all : POOL_BYTES;
    bench->compute.team =
        team_create(threads, stage_scratch_bytes(model, bench->tokens, bench->context));
    bench->source = memory_allocate(numbers);
    bench->input = memory_allocate(numbers);
    bench->output = memory_allocate(numbers);
    bench->maxima = calloc((size_t)bench->widest, sizeof(float));
    bench->slopes = calloc((size_t)model->shape.heads, sizeof(float));
    bench->packed.data = memory_allocate(
        matmul_packed_bytes(bench->compute.path, bench->precision, bench->tokens, bench->widest));
    bench->weights = memory_allocate(bench->weight_bytes);
    bench->cache = memory_allocate(attention_cache_bytes(&attention));
    if (!bench->compute.team || !bench->source || !bench->input || !bench->output ||
        !bench->maxima || !bench->slopes || !bench->packed.data || !bench->weights || !bench->cache)
        return error_set(error, STATUS_FAILED, "no memory to measure rates (rank %d)",
                         bench->mesh->rank);
    uint32_t state = 2;
    for (int64_t i = 0; i < bench->tokens * bench->widest; i++)
        bench->source[i] = next_number(&state);
    memset(bench->cache, 0, attention_cache_bytes(&attention));
    rates_fill_weights(bench);
    return STATUS_OK;
}

static void bench_free(struct rates_bench *bench) {
    if (bench->compute.team)
        team_destroy(bench->compute.team);
    free(bench->source);
    free(bench->input);
    free(bench->output);
    free(bench->maxima);
    free(bench->slopes);
    free(bench->packed.data);
    free(bench->weights);
    free(bench->cache);
}

bool rates_repeat(const struct rates_bench *bench, const struct timing_mark *begin,
                  double seconds) {
    const struct timing_mark now = timing_mark();
    const double most = 6 * seconds; /* by the clock */
    return now.processor - begin->processor < seconds * team_size(bench->compute.team) &&
           now.wall - begin->wall < most;
}

static void keep_least(double *least, double value) {
    if (*least == 0 || value < *least)
        *least = value;
}

/* ---- Products ---- */

/* Rows of a linear that suffice to know its rate: a few milliseconds' work, so that some of its
 * repetitions are undisturbed. */
static int64_t measured_rows(const struct rates_bench *bench, const struct linear_rule *rule) {
    const int64_t rows = model_dimension(&bench->model->shape, rule->out);
    const int64_t columns = model_dimension(&bench->model->shape, rule->in);
    const int64_t fit = (int64_t)(bench->weight_bytes / number_size(bench->type)) / columns;
    const int64_t enough =
        (int64_t)(0.004 * bench->expected_flops / (2.0 * (double)(columns * bench->tokens)));
    const int64_t least = 64 * (int64_t)team_size(bench->compute.team);
    int64_t taken = enough > least ? enough : least;
    taken = taken < rows ? taken : rows;
    return taken < fit ? taken : fit;
}

/* Through the linears of a layer as the forward pass takes them, again and again, each with the
 * weights that come next in the pool. */
double rates_products(struct rates_bench *bench) {
    const struct model *model = bench->model;
    const int count = model->architecture->linear_count;
    double pack[LINEARS_MAX] = {0}, run[LINEARS_MAX] = {0}, sum = 0;
    size_t at = 0;
    MPI_Barrier(MPI_COMM_WORLD);
    const struct timing_mark begin = timing_mark();
    for (int pass = 0; pass < 2 || rates_repeat(bench, &begin, 0.8); pass++)
        for (int i = 0; i < count; i++) {
            const struct linear_rule *rule = &model->architecture->linears[i];
            const int64_t rows = measured_rows(bench, rule);
            const int64_t columns = model_dimension(&model->shape, rule->in);
            const size_t bytes = (size_t)(rows * columns) * number_size(bench->type);
            at = at + bytes > bench->weight_bytes ? 0 : at;
            const struct matmul_weight weight = {.data = bench->weights + at,
                                                 .type = bench->type,
                                                 .rows = rows,
                                                 .columns = columns,
                                                 .stride = columns};
            at += bytes;
            double since = timing_now();
            const bool reads_anew = i == 0 || rule->reads != rule[-1].reads;
            if (reads_anew) {
                matmul_pack(&bench->compute, &bench->packed, bench->source, bench->tokens, columns,
                            columns, bench->precision, bench->maxima);
                const double now = timing_now();
                keep_least(&pack[i], now - since);
                since = now;
            }
            matmul_run(&bench->compute, bench->output, rows, &bench->packed, &weight);
            keep_least(&run[i], (timing_now() - since) / (double)rows);
        }
    for (int i = 0; i < count; i++)
        sum += pack[i] +
               run[i] * (double)model_dimension(&model->shape, model->architecture->linears[i].out);
    return (double)bench->tokens * plan_layer_flops(model) / sum;
}

/* ---- Attention ---- */

/* A chunk at each of up to four places of a sequence, from its first to its last. */
double rates_attention(struct rates_bench *bench) {
    const struct model_shape *model_shape = &bench->model->shape;
    const int heads = measured_heads(bench);
    const struct attention_shape shape = attention_shape_of(bench, heads);
    const int64_t query = model_dimension(model_shape, DIMENSION_QUERY);
    const int64_t key_value = model_dimension(model_shape, DIMENSION_KEY_VALUE);
    const int64_t tokens = bench->tokens, chunks = bench->context / tokens;
    const int64_t places = chunks < 4 ? chunks : 4;
    double flops = 0, seconds = 0;
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        attention_append(&bench->compute, bench->cache, &shape, chunk * tokens, tokens,
                         bench->source, bench->source, key_value);
    MPI_Barrier(MPI_COMM_WORLD);
    for (int64_t place = 0; place < places; place++) {
        const int64_t position = (places == 1 ? 0 : place * (chunks - 1) / (places - 1)) * tokens;
        double best = 0;
        const struct timing_mark begin = timing_mark();
        for (int repeat = 0; repeat < 2 || rates_repeat(bench, &begin, 0.1); repeat++) {
            const double since = timing_now();
            attention_append(&bench->compute, bench->cache, &shape, position, tokens, bench->source,
                             bench->source, key_value);
            attention_run(&bench->compute, bench->output, bench->source, query, bench->cache,
                          &shape, position, tokens);
            keep_least(&best, timing_now() - since);
        }
        seconds += best;
        flops += 0.5 * (double)tokens *
                 (plan_attention_flops(bench->model, position) +
                  plan_attention_flops(bench->model, position + tokens - 1));
    }
    return flops * heads / model_shape->kv_heads / seconds;
}

/* ---- Everything else in a layer ---- */

double rates_elementwise(struct rates_bench *bench) {
    const struct compute *compute = &bench->compute;
    const struct architecture *architecture = bench->model->architecture;
    const int64_t tokens = bench->tokens, hidden = bench->model->shape.hidden;
    const int64_t inside = bench->model->shape.intermediate;
    const bool gelu = architecture->activation == ACTIVATION_GELU_TANH;
    const size_t bytes = (size_t)(tokens * bench->widest) * sizeof(float);
    double best = 0;
    MPI_Barrier(MPI_COMM_WORLD);
    const struct timing_mark begin = timing_mark();
    for (int repeat = 0; repeat < 3 || rates_repeat(bench, &begin, 0.15); repeat++) {
        memcpy(bench->input, bench->source, bytes);
        memcpy(bench->output, bench->source, bytes);
        const double since = timing_now();
        if (architecture->norm_kind == NORM_RMS)
            norm_rms(compute, bench->output, bench->input, bench->source, tokens, hidden, 1e-5f);
        else
            norm_layer(compute, bench->output, bench->input, bench->source, bench->source, tokens,
                       hidden, 1e-5f);
        elementwise_add(compute, bench->input, bench->output, tokens * hidden);
        if (gelu)
            activation_gelu_tanh(compute, bench->input, tokens, inside);
        else
            activation_silu_multiply(compute, bench->input, inside, bench->output, inside, tokens,
                                     inside);
        keep_least(&best, timing_now() - since);
    }
    /* A norm reads and writes, a sum reads two and writes one. */
    return 4.0 * (double)(tokens * (5 * hidden + (gelu ? 2 : 3) * inside)) / best;
}

/* ---- All of it ---- */

struct figures {
    double products, attention, elementwise, quantize, load, write, link_bytes, link_seconds;
};
enum { FIGURES = sizeof(struct figures) / sizeof(double) };

static enum status take_figures(struct rates_bench *bench, struct figures *figures,
                                struct error *error) {
    figures->products = rates_products(bench);
    figures->attention = rates_attention(bench);
    figures->elementwise = rates_elementwise(bench);
    rates_link(bench, &figures->link_bytes, &figures->link_seconds);
    enum status status = rates_load(bench, &figures->load, error);
    if (!status)
        status = rates_quantize(bench, &figures->quantize, &figures->write, error);
    const char *name = bench->model->architecture->linears[0].name;
    const struct weights_source source = {
        .model = bench->model, .tensor = model_layer_tensor(bench->model, 0, name, ".weight")};
    if (!status && !weights_are_mapped(&source)) /* quantization decodes them again */
        figures->quantize =
            1 / (1 / figures->quantize + (double)number_size(bench->type) / figures->load);
    return status;
}

/* The mean over the ranks that have a figure; 0 where none has. */
static void average(struct figures *figures) {
    double *values = &figures->products, have[FIGURES];
    for (int i = 0; i < FIGURES; i++)
        have[i] = values[i] > 0;
    MPI_Allreduce(MPI_IN_PLACE, values, FIGURES, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, have, FIGURES, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    for (int i = 0; i < FIGURES; i++)
        values[i] /= have[i] > 0 ? have[i] : 1;
}

enum status rates_measure(const struct mesh *mesh, const struct model *model,
                          const struct config *config, enum kernel_path path, int threads,
                          struct plan_rates *rates, struct error *error) {
    const struct config_calibration *calibration = &config->calibration;
    struct rates_bench bench = {
        .expected_flops = rates->flops_per_thread * threads,
        .mesh = mesh,
        .model = model,
        .config = config,
        .compute = {.path = path},
        .context = calibration->sequence_length,
        .tokens = calibration->chunk_tokens < calibration->sequence_length
                      ? calibration->chunk_tokens
                      : calibration->sequence_length,
    };
    struct figures figures = {0};
    enum status status = mesh_agree(mesh, bench_create(&bench, threads, error), error);
    if (!status)
        status = mesh_agree(mesh, take_figures(&bench, &figures, error), error);
    bench_free(&bench);
    if (status)
        return status;
    average(&figures);
    rates->measured = true;
    rates->flops_per_thread = figures.products / threads;
    rates->attention_flops = figures.attention / threads;
    rates->elementwise_bytes = figures.elementwise / threads;
    rates->quantize_weights = figures.quantize / threads;
    rates->load_bytes = figures.load;
    rates->write_measured = figures.write > 0;
    if (rates->write_measured)
        rates->write_weights = figures.write;
    rates->link_measured = figures.link_bytes > 0;
    if (rates->link_measured) {
        rates->link_bytes = figures.link_bytes;
        rates->link_seconds = figures.link_seconds;
    }
    return STATUS_OK;
}
