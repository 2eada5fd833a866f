#include "pipeline/simulate_report.h"

#include <stdlib.h>

#include "pipeline/log.h"
#include "pipeline/memory.h"
#include "pipeline/table.h"

/* The sections that are simulated, and how the timeline draws them. */
static const struct {
    enum section section;
    char mark;
} shown[] = {{SECTION_LOAD, 'L'},   {SECTION_COMPUTE, '#'},  {SECTION_WAIT, '.'},
             {SECTION_REDUCE, 'R'}, {SECTION_QUANTIZE, 'Q'}, {SECTION_WRITE, 'W'}};
enum { SHOWN = sizeof shown / sizeof shown[0], ROWS_MAX = 36, COLUMNS = 72 };

struct timeline {
    int rows, stages_per_row;
    double column;   /* seconds */
    double *seconds; /* (rows, COLUMNS, SECTION_COUNT) of all its ranks */
};

static void add_span(void *context, int stage, int replica, enum section section, double begin,
                     double end) {
    struct timeline *timeline = context;
    (void)replica;
    double *row =
        timeline->seconds + (size_t)(stage / timeline->stages_per_row) * COLUMNS * SECTION_COUNT;
    int column = (int)(begin / timeline->column);
    for (; column < COLUMNS && begin < end; column++) {
        const double next = (column + 1) * timeline->column;
        const double until = next < end && column + 1 < COLUMNS ? next : end;
        if (until > begin)
            row[column * SECTION_COUNT + (int)section] += until - begin;
        begin = until;
    }
}

static char mark_of(const double *seconds) {
    int most = -1;
    for (int i = 0; i < SHOWN; i++)
        if (seconds[shown[i].section] > 0 &&
            (most < 0 || seconds[shown[i].section] > seconds[shown[most].section]))
            most = i;
    return most < 0 ? ' ' : shown[most].mark;
}

static void print_timeline(const struct timeline *timeline, int stages) {
    for (int row = 0; row < timeline->rows; row++) {
        const int first = row * timeline->stages_per_row;
        int last = first + timeline->stages_per_row - 1;
        last = last < stages ? last : stages - 1;
        char label[32], line[COLUMNS + 1] = "";
        if (last > first)
            snprintf(label, sizeof label, "%d-%d", first, last);
        else
            snprintf(label, sizeof label, "%d", first);
        for (int column = 0; column < COLUMNS; column++)
            line[column] = mark_of(timeline->seconds +
                                   ((size_t)row * COLUMNS + (size_t)column) * SECTION_COUNT);
        log_plain("%9s |%s|\n", label, line);
    }
    log_plain("   stages  a column is %.3g s; L load, # compute, . wait, R reduce, Q quantize, "
              "W write\n",
              timeline->column);
}

static void print_sections(const struct simulation *simulation) {
    double all = 0;
    for (int i = 0; i < SHOWN; i++)
        all += simulation->rank_seconds[shown[i].section];
    struct table *table = table_create("lrr", "section\trank-seconds\tshare");
    for (int i = 0; i < SHOWN; i++) {
        const double seconds = simulation->rank_seconds[shown[i].section];
        table_add(table, "%s\t%.1f\t%.1f%%", section_name(shown[i].section), seconds,
                  all > 0 ? 100 * seconds / all : 0);
    }
    table_add(table, "all\t%.1f", all);
    table_print(table);
}

static void print_figures(const struct plan *plan, const struct simulation *simulation) {
    char traffic[32];
    memory_text(simulation->traffic_bytes, traffic, sizeof traffic);
    log_plain("\nsimulation   %d ranks with work, %lld events, %lld messages of %s in all\n",
              plan->stages * plan->replicas, (long long)simulation->events,
              (long long)simulation->messages, traffic);
    log_plain(
        "time         %.1f s, calibration %.1f of them; by the plan's formula %.1f and %.1f\n",
        simulation->seconds, simulation->seconds_calibrate,
        plan->seconds_load + plan->seconds_calibrate + plan->seconds_quantize,
        plan->seconds_calibrate + (plan->wave ? plan->seconds_load : 0));
    log_plain("idle share   %.1f%% of the pipeline; by the plan's formula %.1f%%\n\n",
              100 * simulation->idle_share, 100 * plan->idle_share);
}

enum status simulation_print(const struct simulation_costs *costs, const struct plan *plan,
                             const struct simulation *simulation, struct error *error) {
    struct timeline timeline = {
        .stages_per_row = (plan->stages + ROWS_MAX - 1) / ROWS_MAX,
        .column = simulation->seconds / COLUMNS,
    };
    timeline.rows = (plan->stages + timeline.stages_per_row - 1) / timeline.stages_per_row;
    timeline.seconds = calloc((size_t)timeline.rows * COLUMNS * SECTION_COUNT, sizeof(double));
    if (!timeline.seconds)
        return error_set(error, STATUS_FAILED, "no memory for the timeline");
    const struct simulation_observer observer = {add_span, &timeline};
    struct simulation again;
    const enum status status = simulate(costs, plan, &observer, &again, error);
    if (!status) {
        print_figures(plan, simulation);
        print_sections(simulation);
        log_plain("\n");
        print_timeline(&timeline, plan->stages);
    }
    free(timeline.seconds);
    return status;
}

json_t *simulation_json(const struct simulation *simulation) {
    json_t *sections = json_object();
    for (int i = 0; i < SHOWN; i++)
        json_object_set_new(sections, section_name(shown[i].section),
                            json_real(simulation->rank_seconds[shown[i].section]));
    return json_pack("{s:f, s:f, s:f, s:I, s:I, s:o}", "seconds", simulation->seconds,
                     "seconds_calibrate", simulation->seconds_calibrate, "idle_share",
                     simulation->idle_share, "messages", (json_int_t)simulation->messages,
                     "traffic_bytes", (json_int_t)simulation->traffic_bytes, "rank_seconds",
                     sections);
}
