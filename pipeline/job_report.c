/* fptq-pipeline report RESULTS.json...: what `eval --json` wrote, side by side as two Markdown
 * tables: the accuracies of sets of questions, and what was measured on texts.
 *
 * A row is a method. It is named after the file that has it, up to the first '.': gptq.h5's results
 * may stand in gptq.texts.json and gptq.questions.json. The full-precision model is one row, from
 * whichever file has it first. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/job.h"
#include "pipeline/mesh.h"

enum { CELLS_MAX = 64, NAME_BYTES = 64 };

/* A column: a metric of a set. */
struct column {
    char set[NAME_BYTES], metric[NAME_BYTES];
    bool accuracy; /* a share, shown in percent */
};

struct row {
    char name[NAME_BYTES];
    struct cell {
        bool known;
        double value, standard_error; /* standard_error < 0: none */
    } cells[CELLS_MAX];
};

struct comparison {
    struct column columns[CELLS_MAX];
    int column_count;
    struct row *rows; /* (row_count) */
    int row_count;
};

static int find_column(struct comparison *comparison, const char *set, const char *metric) {
    int i = 0;
    while (i < comparison->column_count && (strcmp(comparison->columns[i].set, set) ||
                                            strcmp(comparison->columns[i].metric, metric)))
        i++;
    if (i == CELLS_MAX)
        return -1;
    if (i == comparison->column_count) {
        struct column *column = &comparison->columns[comparison->column_count++];
        snprintf(column->set, sizeof column->set, "%s", set);
        snprintf(column->metric, sizeof column->metric, "%s", metric);
        column->accuracy = strncmp(metric, "acc", 3) == 0;
    }
    return i;
}

static struct row *find_row(struct comparison *comparison, const char *name) {
    for (int i = 0; i < comparison->row_count; i++)
        if (strcmp(comparison->rows[i].name, name) == 0)
            return &comparison->rows[i];
    struct row *rows =
        realloc(comparison->rows, (size_t)(comparison->row_count + 1) * sizeof *comparison->rows);
    if (!rows)
        return NULL;
    comparison->rows = rows;
    struct row *row = &rows[comparison->row_count++];
    *row = (struct row){0};
    snprintf(row->name, sizeof row->name, "%s", name);
    return row;
}

/* "out/gptq.texts.json" -> "gptq" */
static void file_label(const char *file, char label[NAME_BYTES]) {
    const char *slash = strrchr(file, '/');
    snprintf(label, NAME_BYTES, "%s", slash ? slash + 1 : file);
    label[strcspn(label, ".")] = '\0';
}

static enum status add_metric(struct comparison *comparison, struct row *row, const char *set,
                              const char *metric, const json_t *found, struct error *error) {
    const json_t *value = json_object_get(found, "value");
    const json_t *deviation = json_object_get(found, "standard_error");
    if (!json_is_number(value))
        return STATUS_OK;
    const int column = find_column(comparison, set, metric);
    if (column < 0)
        return error_set(error, STATUS_INPUT, "more than %d figures to compare", CELLS_MAX);
    struct cell *cell = &row->cells[column];
    if (!cell->known)
        *cell = (struct cell){true, json_number_value(value),
                              json_is_number(deviation) ? json_number_value(deviation) : -1};
    return STATUS_OK;
}

static enum status add_result(struct comparison *comparison, const char *file, const json_t *result,
                              struct error *error) {
    const char *set = json_string_value(json_object_get(result, "set"));
    const char *method = json_string_value(json_object_get(result, "method"));
    json_t *metrics = json_object_get(result, "metrics");
    char label[NAME_BYTES], set_label[NAME_BYTES];
    if (!set || !method || !json_is_object(metrics))
        return error_set(error, STATUS_INPUT, "%s: these are no results of fptq-pipeline eval",
                         file);
    file_label(file, label);
    const bool full = strcmp(method, "full precision") == 0;
    struct row *row = find_row(comparison, full ? method : label);
    if (!row)
        return error_set(error, STATUS_FAILED, "out of memory");
    const int shots = (int)json_integer_value(json_object_get(result, "shots"));
    if (strcmp(set, "mmlu") == 0)
        snprintf(set_label, sizeof set_label, "mmlu %d-shot", shots);
    else
        snprintf(set_label, sizeof set_label, "%s", set);
    const char *metric;
    json_t *found;
    enum status status = STATUS_OK;
    json_object_foreach(metrics, metric, found) {
        if (!status)
            status = add_metric(comparison, row, set_label, metric, found, error);
    }
    return status;
}

static enum status add_file(struct comparison *comparison, const char *file, struct error *error) {
    json_error_t fault;
    json_t *root = json_load_file(file, 0, &fault);
    if (!root)
        return error_set(error, STATUS_INPUT, "%s: line %d: %s", file, fault.line, fault.text);
    const json_t *results = json_object_get(root, "results");
    enum status status = STATUS_OK;
    if (json_array_size(results) == 0)
        status =
            error_set(error, STATUS_INPUT, "%s: these are no results of fptq-pipeline eval", file);
    for (size_t i = 0; !status && i < json_array_size(results); i++)
        status = add_result(comparison, file, json_array_get(results, i), error);
    json_decref(root);
    return status;
}

static void print_cell(const struct cell *cell, bool accuracy) {
    const double factor = accuracy ? 100 : 1;
    const int digits = accuracy ? 2 : 4;
    if (!cell->known)
        log_plain(" |");
    else if (accuracy && cell->standard_error >= 0)
        log_plain(" %.*f ± %.*f |", digits, factor * cell->value, digits,
                  factor * cell->standard_error);
    else
        log_plain(" %.*f |", digits, factor * cell->value);
}

static void print_table(const struct comparison *comparison, bool accuracy) {
    int shown = 0;
    for (int i = 0; i < comparison->column_count; i++)
        shown += comparison->columns[i].accuracy == accuracy;
    if (!shown)
        return;
    log_plain("| method |");
    for (int i = 0; i < comparison->column_count; i++)
        if (comparison->columns[i].accuracy == accuracy)
            log_plain(" %s, %s |", comparison->columns[i].set, comparison->columns[i].metric);
    log_plain("\n|---|");
    for (int i = 0; i < shown; i++)
        log_plain("---:|");
    log_plain("\n");
    for (int i = 0; i < comparison->row_count; i++) {
        log_plain("| %s |", comparison->rows[i].name);
        for (int j = 0; j < comparison->column_count; j++)
            if (comparison->columns[j].accuracy == accuracy)
                print_cell(&comparison->rows[i].cells[j], accuracy);
        log_plain("\n");
    }
    log_plain("\n");
}

static enum status report(const struct options *options, struct error *error) {
    struct comparison comparison = {0};
    enum status status = STATUS_OK;
    for (int i = 0; !status && i < options->argument_count; i++)
        status = add_file(&comparison, options->arguments[i], error);
    if (!status) {
        print_table(&comparison, true);
        print_table(&comparison, false);
    }
    free(comparison.rows);
    return status;
}

enum status job_report(const struct options *options, struct error *error) {
    struct mesh mesh;
    enum status status = mesh_create(&mesh, error);
    status = mesh_agree(&mesh, status, error);
    if (status)
        return status;
    status = mesh_agree(&mesh, mesh.rank ? STATUS_OK : report(options, error), error);
    mesh_destroy(&mesh);
    return status;
}
