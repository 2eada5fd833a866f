#include "pipeline/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/log.h"
#include "pipeline/memory.h"
#include "pipeline/table.h"

static void range_text(float range, char *text, size_t size) {
    if (isnan(range))
        snprintf(text, size, "-");
    else
        snprintf(text, size, "%.*f", range < 1000 ? 2 : 0, (double)range);
}

/* What every treatment of the activations would cost at the outputs of the linears. */
static void print_sites_with_errors(const struct report *report) {
    struct table *table =
        table_create("rlrlrrrrr", "layer\tsite\trange\tactivations\tweight error\toutput: static\t"
                                  "equalized\tdynamic\tequalized-dynamic");
    for (int i = 0; i < report->site_count; i++) {
        const struct report_site *site = &report->sites[i];
        const double *errors = site->errors;
        char range[32];
        range_text(site->range, range, sizeof range);
        table_add(table, "%d\t%s\t%s\t%s\t%.2f%%\t%.3f%%\t%.3f%%\t%.3f%%\t%.3f%%", site->layer,
                  site->site, range, input_policy_name(site->policy), 100 * site->weight_error,
                  100 * errors[POLICY_STATIC], 100 * errors[POLICY_EQUALIZED],
                  100 * errors[POLICY_DYNAMIC], 100 * errors[POLICY_EQUALIZED_DYNAMIC]);
    }
    table_print(table);
}

void report_print_sites(const struct report *report) {
    if (report->site_count && report->sites[0].errors[0] >= 0) {
        print_sites_with_errors(report);
        return;
    }
    struct table *table = table_create("rlrlr", "layer\tsite\trange\tactivations\tweight error");
    for (int i = 0; i < report->site_count; i++) {
        const struct report_site *site = &report->sites[i];
        char range[32];
        range_text(site->range, range, sizeof range);
        table_add(table, "%d\t%s\t%s\t%s\t%.2f%%", site->layer, site->site, range,
                  input_policy_name(site->policy), 100 * site->weight_error);
    }
    table_print(table);
}

static int compare_floats(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Whether an earlier row has the same kind of site. */
static int seen_before(const struct report *report, int index) {
    for (int i = 0; i < index; i++)
        if (strcmp(report->sites[i].site, report->sites[index].site) == 0)
            return 1;
    return 0;
}

/* Columns are made of the policies that some site has. */
static bool occurs(const struct report *report, int policy) {
    for (int i = 0; i < report->site_count; i++)
        if ((int)report->sites[i].policy == policy)
            return true;
    return false;
}

static void add_choices(struct table *table, const struct report *report, const char *name,
                        float *ranges) {
    int counts[POLICY_COUNT] = {0}, sites = 0, calibrated = 0;
    double errors = 0;
    for (int i = 0; i < report->site_count; i++) {
        const struct report_site *site = &report->sites[i];
        if (strcmp(site->site, name) != 0)
            continue;
        sites++;
        counts[site->policy]++;
        errors += site->weight_error;
        if (!isnan(site->range))
            ranges[calibrated++] = site->range;
    }
    char texts[3][32] = {"-", "-", "-"};
    if (calibrated > 0) {
        qsort(ranges, (size_t)calibrated, sizeof *ranges, compare_floats);
        range_text(ranges[0], texts[0], sizeof texts[0]);
        range_text(ranges[calibrated / 2], texts[1], sizeof texts[1]);
        range_text(ranges[calibrated - 1], texts[2], sizeof texts[2]);
    }
    char numbers[12 * POLICY_COUNT] = "";
    for (int policy = 0, used = 0; policy < POLICY_COUNT; policy++)
        if (occurs(report, policy))
            used += snprintf(numbers + used, sizeof numbers - (size_t)used, "\t%d", counts[policy]);
    table_add(table, "%s%s\t%s\t%s\t%s\t%.2f%%", name, numbers, texts[0], texts[1], texts[2],
              100 * errors / sites);
}

void report_print_choices(const struct report *report) {
    float *ranges = malloc(((size_t)report->site_count + 1) * sizeof *ranges);
    if (!ranges)
        return;
    char alignment[] = "lrrrrrrrrr", policies[20 * POLICY_COUNT] = "", headings[200];
    int columns = 5; /* beside the policies' */
    for (int policy = 0, used = 0; policy < POLICY_COUNT; policy++)
        if (occurs(report, policy)) {
            used += snprintf(policies + used, sizeof policies - (size_t)used, "\t%s",
                             input_policy_name((enum input_policy)policy));
            columns++;
        }
    alignment[columns] = '\0';
    snprintf(headings, sizeof headings, "site%s\trange from\tmedian\tto\tmean weight error",
             policies);
    struct table *table = table_create(alignment, headings);
    for (int i = 0; i < report->site_count; i++)
        if (!seen_before(report, i))
            add_choices(table, report, report->sites[i].site, ranges);
    table_print(table);
    free(ranges);
}

void report_print_sections(const struct report *report) {
    struct table *table =
        table_create("lrrrr", "seconds by rank\tleast\tmean\tmost\tshare of the time");
    for (int i = 0; i < report->section_count; i++) {
        const struct report_section *section = &report->sections[i];
        table_add(table, "%s\t%.2f\t%.2f\t%.2f\t%.1f%%", section->name, section->least,
                  section->mean, section->most,
                  report->seconds > 0 ? 100 * section->mean / report->seconds : 0.0);
    }
    table_add(table, "wall time\t\t\t%.2f", report->seconds);
    table_print(table);
}

void report_print_memory(const struct report *report) {
    if (!report->memory)
        return;
    struct table *table =
        table_create("lrrrr", "peak memory by host\tranks\tleast\tmost\tsum of ranks");
    for (int rank = 0; rank < report->ranks; rank++) {
        const char *host = report->memory[rank].host;
        int64_t least = INT64_MAX, most = 0, sum = 0;
        int ranks = 0, first = 1;
        for (int other = 0; other < report->ranks; other++) {
            if (strcmp(report->memory[other].host, host) != 0)
                continue;
            const int64_t peak = report->memory[other].peak;
            first = first && other >= rank;
            ranks++;
            sum += peak;
            least = peak < least ? peak : least;
            most = peak > most ? peak : most;
        }
        char least_text[32], most_text[32], sum_text[32];
        memory_text(least, least_text, sizeof least_text);
        memory_text(most, most_text, sizeof most_text);
        memory_text(sum, sum_text, sizeof sum_text);
        if (first)
            table_add(table, "%s\t%d\t%s\t%s\t%s", host, ranks, least_text, most_text, sum_text);
    }
    table_print(table);
}

void report_print(const struct report *report) {
    report_print_sites(report);
    log_plain("\n");
    report_print_choices(report);
    log_plain("\n");
    report_print_sections(report);
    if (report->memory)
        log_plain("\n");
    report_print_memory(report);
}
