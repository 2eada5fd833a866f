#include "pipeline/evaluation_report.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "pipeline/json_file.h"
#include "pipeline/log.h"
#include "pipeline/memory.h"
#include "pipeline/table.h"

static void set_label(const struct evaluation_task *task, char *text, size_t size) {
    if (task->set == EVALUATION_MMLU)
        snprintf(text, size, "mmlu %d-shot", task->shots);
    else
        snprintf(text, size, "%s", evaluation_set_name(task->set));
}

/* NaN where an earlier run has computed all. */
static double tokens_per_second(const struct evaluation_scores *scores) {
    return scores->seconds > 0 ? (double)scores->tokens / scores->seconds : NAN;
}

static void print_notes(const struct evaluation_report *report) {
    char peak[32], planned[32];
    memory_text(report->peak_memory, peak, sizeof peak);
    memory_text(report->planned_memory, planned, sizeof planned);
    log_plain("peak memory of a rank: %s (planned: %s)\n", peak, planned);
    for (int i = 0; i < report->row_count; i++) {
        const struct evaluation_task *task = report->rows[i].task;
        if (i && report->rows[i - 1].task == task)
            continue;
        if (task->window_tokens)
            log_plain("%s: windows of %lld tokens\n", evaluation_set_name(task->set),
                      (long long)task->window_tokens);
        if (task->truncated)
            log_plain("%s: %lld of %lld contexts were longer than the model's positions and lost "
                      "their beginning\n",
                      evaluation_set_name(task->set), (long long)task->truncated,
                      (long long)task->request_count);
    }
}

void evaluation_report_print(const struct evaluation_report *report) {
    struct table *table =
        table_create("lllrrrr", "set\tmethod\tmetric\tvalue\t+-\titems\ttokens/s");
    for (int i = 0; i < report->row_count; i++) {
        const struct evaluation_row *row = &report->rows[i];
        struct evaluation_metric metrics[EVALUATION_METRICS_MAX];
        const int count = evaluation_metrics(row->task, row->scores, metrics);
        for (int j = 0; j < count; j++) {
            char label[40], error[40] = "", speed[40] = "";
            set_label(row->task, label, sizeof label);
            if (isfinite(metrics[j].standard_error))
                snprintf(error, sizeof error, "%.4f", metrics[j].standard_error);
            if (row->scores->tokens)
                snprintf(speed, sizeof speed, "%.0f", tokens_per_second(row->scores));
            table_add(table, "%s\t%s\t%s\t%.4f\t%s\t%lld\t%s", label, row->method, metrics[j].name,
                      metrics[j].value, error, (long long)row->task->item_count, speed);
        }
    }
    table_print(table);
    print_notes(report);
    for (int i = 0; i < report->row_count; i++)
        if (report->rows[i].sensitivity)
            sensitivity_report_print(report->sensitivity,
                                     evaluation_set_name(report->rows[i].task->set),
                                     report->rows[i].sensitivity);
}

/* JSON has no NaN or infinity. */
static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *text(const char *value) {
    json_t *string = value ? json_string(value) : NULL;
    return string ? string : json_null();
}

static json_t *metrics_json(const struct evaluation_row *row) {
    struct evaluation_metric metrics[EVALUATION_METRICS_MAX];
    const int count = evaluation_metrics(row->task, row->scores, metrics);
    json_t *object = json_object();
    for (int i = 0; i < count; i++)
        json_object_set_new(object, metrics[i].name,
                            json_pack("{s:o, s:o}", "value", number(metrics[i].value),
                                      "standard_error", number(metrics[i].standard_error)));
    return object;
}

/* [{"log_likelihoods": [...], "choice": i, "choice_norm": i, "answer": i}] */
static json_t *items_json(const struct evaluation_row *row) {
    const struct evaluation_task *task = row->task;
    const struct evaluation_score *scores = row->scores->requests;
    json_t *list = json_array(), *likelihoods = NULL;
    for (int64_t i = 0; i < task->request_count; i++) {
        const int64_t item = task->requests[i].item;
        if (!i || task->requests[i - 1].item != item) {
            likelihoods = json_array();
            json_t *entry = json_pack("{s:o}", "log_likelihoods", likelihoods);
            if (task->answers && task->set != EVALUATION_LAMBADA) {
                json_object_set_new(entry, "answer", json_integer(task->answers[item]));
                json_object_set_new(entry, "choice",
                                    json_integer(evaluation_choose(task, scores, i, false)));
                json_object_set_new(entry, "choice_norm",
                                    json_integer(evaluation_choose(task, scores, i, true)));
            }
            json_array_append_new(list, entry);
        }
        json_array_append_new(likelihoods, number(scores[i].log_likelihood));
    }
    return list;
}

static json_t *rows_json(const struct evaluation_report *report) {
    json_t *list = json_array();
    for (int i = 0; i < report->row_count; i++) {
        const struct evaluation_row *row = &report->rows[i];
        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "set",
                      evaluation_set_name(row->task->set), "method", row->method, "shots",
                      row->task->shots, "window_tokens", (json_int_t)row->task->window_tokens,
                      "count", (json_int_t)row->task->item_count, "truncated",
                      (json_int_t)row->task->truncated, "tokens", (json_int_t)row->scores->tokens,
                      "seconds", number(row->scores->seconds), "tokens_per_second",
                      number(tokens_per_second(row->scores)), "metrics", metrics_json(row), "items",
                      items_json(row)));
    }
    return list;
}

static json_t *sensitivity_json(const struct evaluation_report *report) {
    json_t *list = json_array();
    for (int i = 0; i < report->row_count; i++)
        if (report->rows[i].sensitivity)
            json_array_append_new(
                list, sensitivity_report_json(report->sensitivity,
                                              evaluation_set_name(report->rows[i].task->set),
                                              report->rows[i].sensitivity));
    return list;
}

enum status evaluation_report_write_json(const struct evaluation_report *report, const char *file,
                                         struct error *error) {
    const struct plan *plan = &report->launch->plan;
    const char *checkpoint = report->config->evaluation.checkpoint;
    json_t *root = json_pack(
        "{s:s, s:o, s:o, s:s, s:i, s:i, s:i, s:i, s:i, s:o, s:I, s:I, s:o}", "program",
        "fptq-pipeline " FPTQ_VERSION, "model", text(report->config->model.path), "checkpoint",
        text(checkpoint), "path", kernel_path_name(report->launch->compute.path), "ranks",
        plan->ranks, "hosts", plan->hosts, "stages", plan->stages, "replicas", plan->replicas,
        "threads", plan->threads, "seconds", number(report->seconds), "peak_memory",
        (json_int_t)report->peak_memory, "planned_memory", (json_int_t)report->planned_memory,
        "results", rows_json(report));
    if (root && report->config->evaluation.sensitivity)
        json_object_set_new(root, "sensitivity", sensitivity_json(report));
    const enum status status = root ? json_file_write(root, file, 17, error)
                                    : error_set(error, STATUS_FAILED, "%s: out of memory", file);
    json_decref(root);
    return status;
}
