/* Do the linears of a checkpoint compute what the checkpoint says?
 *
 *   tool_check_linears MODEL CHECKPOINT
 *
 * Random activations, within the calibrated ranges and a little beyond, go through every site of
 * every layer; each linear's output is compared with the formulas of io/checkpoint.h taken in
 * double from the checkpoint's own datasets: weights (q - z) * scale, activations rounded to int8
 * by input_scale or the token's own scale after a division by `equalization` where that is not
 * folded. Activations that are not quantized are rounded to bf16, and so are the weights, as the
 * product does. Prints the largest relative error of a linear for each kind; exit 1 above 1e-3. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pipeline/quantized_model.h"
#include "pipeline/stage.h"

enum { TOKENS = 19 };
#define TOLERANCE 1e-3

static struct error error;
static struct quantized_model quantized;

static void check(bool right, const char *message) {
    if (right)
        return;
    fprintf(stderr, "tool_check_linears: %s\n", message);
    exit(2);
}

static float random_float(void) {
    return (float)rand() / (float)RAND_MAX * 2.2f - 1.1f;
}

/* A dataset of the linear as doubles; NULL where there is none. */
static double *read_dataset(const char *group, const char *name) {
    char path[300];
    struct checkpoint_dataset dataset;
    snprintf(path, sizeof path, "%s/%s", group, name);
    if (!checkpoint_has(quantized.file, path))
        return NULL;
    check(!checkpoint_describe(quantized.file, path, &dataset, &error), error.message);
    void *data = malloc(dataset.bytes);
    check(!checkpoint_read(quantized.file, path, data, &error), error.message);
    const size_t element = dataset.type == CHECKPOINT_F32                                      ? 4
                           : dataset.type == CHECKPOINT_F16 || dataset.type == CHECKPOINT_BF16 ? 2
                                                                                               : 1;
    const size_t count = dataset.bytes / element;
    double *values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        const uint16_t *half = data;
        values[i] = dataset.type == CHECKPOINT_F32    ? (double)((const float *)data)[i]
                    : dataset.type == CHECKPOINT_F16  ? (double)number_from_f16(half[i])
                    : dataset.type == CHECKPOINT_BF16 ? (double)number_from_bf16(half[i])
                                                      : (double)((const int8_t *)data)[i];
    }
    free(data);
    return values;
}

static double to_bf16(double value) {
    return (double)number_from_bf16(number_to_bf16((float)value));
}

/* What the linear multiplies, in double. */
static void reference_input(const struct quantized_linear_kind *kind, const char *policy,
                            const float *x, double *input) {
    double *equalization = read_dataset(kind->group, "equalization");
    double *scale = read_dataset(kind->group, "input_scale");
    const bool fixed = !strcmp(policy, "static") || !strcmp(policy, "equalized");
    const bool none = !strcmp(policy, "none");
    check(fixed == (scale != NULL), "input_scale is there, or is not");
    for (int64_t i = 0; i < kind->columns; i++) {
        const bool divides = equalization && !kind->folded;
        /* in f32, as kernels/w4a8.h has it: no tie is to round another way */
        const float divided = !divides ? x[i]
                              : none   ? x[i] / (float)equalization[i]
                                       : x[i] * (1.0f / (float)equalization[i]);
        input[i] = (double)divided;
    }
    double largest = 0;
    for (int64_t i = 0; i < kind->columns; i++)
        largest = fabs(input[i]) > largest ? fabs(input[i]) : largest;
    const float step = fixed ? (float)*scale : (float)largest / 127.0f;
    for (int64_t i = 0; i < kind->columns; i++) {
        const float level = rintf((float)input[i] * (1.0f / step));
        input[i] =
            none ? to_bf16(input[i]) : (double)fminf(fmaxf(level, -127.0f), 127.0f) * (double)step;
    }
    free(equalization);
    free(scale);
}

/* Weights (rows, columns) in double. */
static double *reference_weight(const struct quantized_linear_kind *kind, bool round) {
    double *q = read_dataset(kind->group, "weight");
    double *scale = read_dataset(kind->group, "weight_scale");
    double *zero = read_dataset(kind->group, "weight_zero_point");
    const int64_t size = kind->group_size ? kind->group_size : kind->columns;
    const int64_t groups = (kind->columns + size - 1) / size;
    check(q && scale && (zero != NULL) == !kind->symmetric, "datasets of the weight");
    for (int64_t r = 0; r < kind->rows; r++)
        for (int64_t c = 0; c < kind->columns; c++) {
            double *w = &q[r * kind->columns + c];
            const int64_t at = r * groups + c / size;
            *w = (*w - (zero ? zero[at] : 0)) * scale[at];
            *w = round ? to_bf16(*w) : *w;
        }
    free(scale);
    free(zero);
    return q;
}

/* |y - expected| / |expected| over all tokens. */
static double linear_error(const struct quantized_linear_kind *kind, const char *policy,
                           const float *x, const float *y) {
    double *weight = reference_weight(kind, !strcmp(policy, "none"));
    double *bias = read_dataset(kind->group, "bias");
    double *input = malloc((size_t)kind->columns * sizeof *input), difference = 0, total = 0;
    for (int t = 0; t < TOKENS; t++) {
        reference_input(kind, policy, x + t * kind->columns, input);
        for (int64_t r = 0; r < kind->rows; r++) {
            double expected = bias ? bias[r] : 0;
            for (int64_t c = 0; c < kind->columns; c++)
                expected += input[c] * weight[r * kind->columns + c];
            const double found = (double)y[t * kind->rows + r];
            difference += (found - expected) * (found - expected);
            total += expected * expected;
        }
    }
    free(weight);
    free(bias);
    free(input);
    return sqrt(difference / total);
}

/* Activations within the range of each channel, as they come out of a folded layer. */
static void random_input(const struct quantized_linear_kind *kind, float *x) {
    double *maxima = read_dataset(kind->group, "input_absmax");
    double *equalization = read_dataset(kind->group, "equalization");
    for (int64_t i = 0; i < TOKENS * kind->columns; i++) {
        const int64_t c = i % kind->columns;
        const double scale = equalization && kind->folded ? equalization[c] : 1;
        x[i] = random_float() * (float)(maxima[c] / scale);
    }
    free(maxima);
    free(equalization);
}

static double check_site(struct stage *stage, int layer, enum site site) {
    const struct architecture *architecture = stage->model->architecture;
    const int64_t channels = model_site_channels(stage->model, site);
    float *x = malloc((size_t)(TOKENS * channels) * sizeof *x), *passed = NULL;
    double worst = 0;
    for (int i = 0; i < architecture->linear_count; i++) {
        const struct linear_rule *rule = &architecture->linears[i];
        struct quantized_linear_kind kind;
        char *policy;
        if (rule->reads != site)
            continue;
        check(!quantized_model_linear(&quantized, layer, rule, &kind, &error), error.message);
        check(
            !checkpoint_attribute_text(quantized.file, kind.group, "input_policy", &policy, &error),
            error.message);
        if (!passed) {
            random_input(&kind, x);
            passed = malloc((size_t)(TOKENS * channels) * sizeof *passed);
            memcpy(passed, x, (size_t)(TOKENS * channels) * sizeof *passed);
            stage_read_site(stage, layer, site, passed, TOKENS);
        }
        const double found = linear_error(&kind, policy, x, stage->projected[rule->role]);
        if (layer == 0)
            printf("%-30s %-17s %d bits%s%s %.2e\n", rule->name, policy, kind.bits,
                   kind.equalized ? ", equalized" : "",
                   kind.equalized && !kind.folded ? " at run time" : "", found);
        worst = found > worst ? found : worst;
        free(policy);
    }
    free(x);
    free(passed);
    return worst;
}

int main(int argc, char **argv) {
    check(argc == 3, "usage: tool_check_linears MODEL CHECKPOINT");
    const char *given = getenv("FPTQ_TEST_SEED");
    const unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)time(NULL);
    struct model model;
    struct stage stage;
    srand(seed);
    check(!model_open(argv[1], &model, &error), error.message);
    check(!quantized_model_open(argv[2], &model, &quantized, &error), error.message);
    check(!quantized_model_check(&quantized, &error), error.message);
    const struct compute compute = {kernel_path_best(),
                                    team_create(2, stage_scratch_bytes(&model, TOKENS, TOKENS))};
    check(compute.team != NULL, "no threads");
    check(!stage_load(&model, &quantized, &compute, 0, model.shape.layers, TOKENS, TOKENS,
                      PRECISION_BF16, &stage, &error),
          error.message);
    double worst = 0;
    for (int layer = 0; layer < model.shape.layers; layer++)
        for (int site = 0; site < SITE_COUNT; site++) {
            const double found = check_site(&stage, layer, (enum site)site);
            worst = found > worst || isnan(found) ? found : worst;
        }
    printf("%s: largest relative error of a linear: %.2e (seed %u)\n", argv[2], worst, seed);
    stage_free(&stage);
    quantized_model_close(&quantized);
    model_close(&model);
    team_destroy(compute.team);
    return worst <= TOLERANCE ? 0 : 1;
}
