#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "pipeline/json_file.h"
#include "pipeline/report.h"

/* JSON has no NaN or infinity. */
static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

/* A path may hold any bytes; JSON holds UTF-8 only. */
static json_t *text(const char *value) {
    json_t *string = value ? json_string(value) : NULL;
    return string ? string : json_null();
}

/* A float's shortest decimal text, as a double, so that 15.2f is written 15.2. */
static double shortest(float value) {
    char digits[40];
    for (int precision = 1; precision <= 9; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, (double)value);
        if (strtof(digits, NULL) == value)
            break;
    }
    return strtod(digits, NULL);
}

/* By treatment. */
static json_t *treatments(const struct report_site *site) {
    json_t *errors = json_object();
    for (int t = 0; t < TREATMENT_COUNT; t++)
        json_object_set_new(errors, input_policy_name((enum input_policy)t),
                            number(site->errors[t]));
    return errors;
}

static json_t *sites(const struct report *report) {
    json_t *list = json_array();
    for (int i = 0; i < report->site_count; i++) {
        const struct report_site *site = &report->sites[i];
        json_t *row =
            json_pack("{s:i, s:s, s:o, s:s, s:o}", "layer", site->layer, "site", site->site,
                      "range", number(shortest(site->range)), "policy",
                      input_policy_name(site->policy), "weight_error", number(site->weight_error));
        if (site->damping > 0)
            json_object_set_new(row, "damping", number(site->damping));
        if (site->errors[0] >= 0)
            json_object_set_new(row, "output_errors", treatments(site));
        json_array_append_new(list, row);
    }
    return list;
}

static json_t *sections(const struct report *report) {
    json_t *list = json_array();
    for (int i = 0; i < report->section_count; i++) {
        const struct report_section *section = &report->sections[i];
        json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o, s:o}", "name", section->name,
                                              "least", number(section->least), "mean",
                                              number(section->mean), "most", number(section->most),
                                              "processor", number(section->processor)));
    }
    return list;
}

static json_t *memory(const struct report *report) {
    json_t *list = json_array();
    for (int rank = 0; report->memory && rank < report->ranks; rank++)
        json_array_append_new(list, json_pack("{s:o, s:I}", "host", text(report->memory[rank].host),
                                              "peak_bytes", (json_int_t)report->memory[rank].peak));
    return list;
}

static json_t *whole(const struct report *report) {
    return json_pack(
        "{s:s, s:o, s:o, s:o, s:o, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:o, s:o, s:o, s:o}",
        "program", "fptq-pipeline " FPTQ_VERSION, "method", text(report->method), "model",
        text(report->model), "checkpoint", text(report->checkpoint), "path", text(report->path),
        "ranks", report->ranks, "hosts", report->hosts, "stages", report->stages, "replicas",
        report->replicas, "threads", report->threads, "samples", (json_int_t)report->samples,
        "sequence_length", (json_int_t)report->sequence_length, "checkpoint_bytes",
        (json_int_t)report->checkpoint_bytes, "seconds", number(report->seconds), "sites",
        sites(report), "sections", sections(report), "memory", memory(report));
}

enum status report_write_json(const struct report *report, const char *file, struct error *error) {
    json_t *root = whole(report);
    const enum status status = root ? json_file_write(root, file, 9, error)
                                    : error_set(error, STATUS_FAILED, "%s: out of memory", file);
    json_decref(root);
    return status;
}
