#include "pipeline/sensitivity_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/log.h"
#include "pipeline/stored.h"
#include "pipeline/table.h"

/* ---- Policies ---- */

static enum status read_policy(const struct quantized_model *quantized, int layer,
                               const struct linear_rule *rule, enum input_policy *policy,
                               struct error *error) {
    char group[200], *name = NULL;
    stored_path(quantized->model, layer, rule->name, "", group);
    const enum status status =
        checkpoint_attribute_text(quantized->file, group, "input_policy", &name, error);
    int p = 0;
    while (!status && p + 1 < POLICY_COUNT &&
           strcmp(name, input_policy_name((enum input_policy)p)) != 0)
        p++;
    *policy = (enum input_policy)p;
    free(name);
    return status;
}

enum status sensitivity_report_create(const struct quantized_model *quantized,
                                      struct sensitivity_report *report, struct error *error) {
    const struct model *model = quantized->model;
    const struct architecture *architecture = model->architecture;
    *report = (struct sensitivity_report){
        .model = model,
        .policies = calloc((size_t)model->shape.layers * SITE_COUNT, sizeof *report->policies)};
    if (!report->policies)
        return error_set(error, STATUS_FAILED, "no memory for evaluation.sensitivity");
    enum status status = STATUS_OK;
    for (int layer = 0; !status && layer < model->shape.layers; layer++)
        for (int i = 0; !status && i < architecture->linear_count; i++) {
            const struct linear_rule *rule = &architecture->linears[i];
            status = read_policy(quantized, layer, rule,
                                 &report->policies[layer * SITE_COUNT + (int)rule->reads], error);
        }
    return status;
}

void sensitivity_report_free(struct sensitivity_report *report) {
    free(report->policies);
    *report = (struct sensitivity_report){0};
}

/* ---- By policy ---- */

struct policy_sum {
    int linears;
    double sum, largest;
    int layer, linear; /* of the largest */
};

static enum input_policy policy_of(const struct sensitivity_report *report, int layer, int linear) {
    const enum site site = report->model->architecture->linears[linear].reads;
    return report->policies[layer * SITE_COUNT + (int)site];
}

static void sum_policies(const struct sensitivity_report *report, const double *errors,
                         struct policy_sum sums[POLICY_COUNT]) {
    memset(sums, 0, POLICY_COUNT * sizeof *sums);
    for (int layer = 0; layer < report->model->shape.layers; layer++)
        for (int i = 0; i < report->model->architecture->linear_count; i++) {
            const double value = errors[layer * LINEARS_MAX + i];
            struct policy_sum *sum = &sums[policy_of(report, layer, i)];
            if (!sum->linears++ || value > sum->largest) {
                sum->largest = value;
                sum->layer = layer;
                sum->linear = i;
            }
            sum->sum += value;
        }
}

/* ---- Tables ---- */

/* "q_proj 4.21%  k_proj 3.90%": the linears that read a site. */
static void errors_text(const struct sensitivity_report *report, const double *errors,
                        enum site site, char *text, size_t size) {
    const struct architecture *architecture = report->model->architecture;
    size_t used = 0;
    *text = '\0';
    for (int i = 0; i < architecture->linear_count && used < size; i++) {
        const char *dot = strrchr(architecture->linears[i].name, '.');
        if (architecture->linears[i].reads == site)
            used +=
                (size_t)snprintf(text + used, size - used, "%s%s %.2f%%", used ? "  " : "",
                                 dot ? dot + 1 : architecture->linears[i].name, 100 * errors[i]);
    }
}

static void print_linears(const struct sensitivity_report *report, const char *set,
                          const double *errors) {
    struct table *table = table_create("rlll", "layer\tsite\tactivations\terror of the outputs");
    for (int layer = 0; layer < report->model->shape.layers; layer++)
        for (int site = 0; site < SITE_COUNT; site++) {
            char text[200];
            errors_text(report, errors + layer * LINEARS_MAX, (enum site)site, text, sizeof text);
            table_add(table, "%d\t%s\t%s\t%s", layer, site_name((enum site)site),
                      input_policy_name(report->policies[layer * SITE_COUNT + site]), text);
        }
    log_plain("\n%s: error of each linear's output, on the model's own inputs\n", set);
    table_print(table);
    struct policy_sum sums[POLICY_COUNT];
    sum_policies(report, errors, sums);
    table = table_create("lrrrrl", "activations\tlinears\tmean error\tlargest\tlayer\tlinear");
    for (int p = 0; p < POLICY_COUNT; p++)
        if (sums[p].linears)
            table_add(table, "%s\t%d\t%.2f%%\t%.2f%%\t%d\t%s",
                      input_policy_name((enum input_policy)p), sums[p].linears,
                      100 * sums[p].sum / sums[p].linears, 100 * sums[p].largest, sums[p].layer,
                      report->model->architecture->linears[sums[p].linear].name);
    log_plain("\n");
    table_print(table);
}

static void print_layers(const struct sensitivity_report *report, const char *set,
                         const struct sensitivity_result *result) {
    struct table *table = table_create("rrrrr", "layer\tperplexity\tkl_divergence\t+-\tsame_top");
    for (int layer = 0; layer < report->model->shape.layers; layer++) {
        const struct evaluation_metric *metrics = result->layers[layer];
        char error[40] = "";
        if (isfinite(metrics[1].standard_error))
            snprintf(error, sizeof error, "%.6f", metrics[1].standard_error);
        table_add(table, "%d\t%.4f\t%.6f\t%s\t%.4f", layer, metrics[0].value, metrics[1].value,
                  error, metrics[2].value);
    }
    log_plain("\n%s: with one layer of the checkpoint, all others of the model\n", set);
    table_print(table);
}

void sensitivity_report_print(const struct sensitivity_report *report, const char *set,
                              const struct sensitivity_result *result) {
    if (result->errors)
        print_linears(report, set, result->errors);
    if (result->layers)
        print_layers(report, set, result);
}

/* ---- JSON, which has no NaN ---- */

static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *linears_json(const struct sensitivity_report *report, const double *errors) {
    const struct architecture *architecture = report->model->architecture;
    json_t *list = json_array();
    for (int layer = 0; layer < report->model->shape.layers; layer++)
        for (int i = 0; i < architecture->linear_count; i++)
            json_array_append_new(list,
                                  json_pack("{s:i, s:s, s:s, s:s, s:o}", "layer", layer, "linear",
                                            architecture->linears[i].name, "site",
                                            site_name(architecture->linears[i].reads), "policy",
                                            input_policy_name(policy_of(report, layer, i)), "error",
                                            number(errors[layer * LINEARS_MAX + i])));
    return list;
}

static json_t *policies_json(const struct sensitivity_report *report, const double *errors) {
    struct policy_sum sums[POLICY_COUNT];
    json_t *list = json_array();
    sum_policies(report, errors, sums);
    for (int p = 0; p < POLICY_COUNT; p++)
        if (sums[p].linears)
            json_array_append_new(list, json_pack("{s:s, s:i, s:o, s:o}", "policy",
                                                  input_policy_name((enum input_policy)p),
                                                  "linears", sums[p].linears, "mean",
                                                  number(sums[p].sum / sums[p].linears), "largest",
                                                  number(sums[p].largest)));
    return list;
}

static json_t *layers_json(const struct sensitivity_report *report,
                           const struct sensitivity_result *result) {
    json_t *list = json_array();
    for (int layer = 0; layer < report->model->shape.layers; layer++) {
        json_t *entry = json_pack("{s:i}", "layer", layer);
        for (int i = 0; i < EVALUATION_METRICS_MAX; i++) {
            const struct evaluation_metric *metric = &result->layers[layer][i];
            json_object_set_new(entry, metric->name,
                                json_pack("{s:o, s:o}", "value", number(metric->value),
                                          "standard_error", number(metric->standard_error)));
        }
        json_array_append_new(list, entry);
    }
    return list;
}

json_t *sensitivity_report_json(const struct sensitivity_report *report, const char *set,
                                const struct sensitivity_result *result) {
    json_t *object = json_pack("{s:s}", "set", set);
    if (result->errors) {
        json_object_set_new(object, "linears", linears_json(report, result->errors));
        json_object_set_new(object, "policies", policies_json(report, result->errors));
    }
    if (result->layers)
        json_object_set_new(object, "layers", layers_json(report, result));
    return object;
}
