#include <math.h>

#include "pipeline/plan_internal.h"

/* Waves that take this much longer than the fastest are taken if they are smaller. */
#define SLACK 1.05

struct wave_search {
    const struct plan_costs *costs;
    const struct plan_rates *rates;
    struct plan trial, best;
    bool found;
    double least_seconds; /* of those that fit */
    struct plan least;    /* the one with the least memory, of all */
};

/* More passes hold fewer layers, which leaves memory for reading the next ones ahead. */
static bool is_better(const struct plan *a, const struct plan *b) {
    if (a->wave != b->wave)
        return a->wave < b->wave;
    if (a->spills != b->spills)
        return !a->spills;
    return a->passes > b->passes;
}

/* round 0: what the least time is; 1: the best of those that are nearly as fast. */
static void consider(struct wave_search *search, int round, int passes, int64_t wave, bool spills) {
    struct plan *trial = &search->trial;
    const int most = plan_most_layers(search->costs, trial);
    trial->passes = passes;
    trial->layers_held = (most + passes - 1) / passes;
    trial->wave = wave;
    trial->spills = spills;
    plan_estimate_time(search->costs, search->rates, trial);
    plan_estimate_memory(search->costs, trial);
    const bool fits = plan_fits(trial);
    if (round == 0) {
        if (fits && plan_seconds(trial) < search->least_seconds)
            search->least_seconds = plan_seconds(trial);
        if (trial->memory_host < search->least.memory_host)
            search->least = *trial;
    } else if (fits && plan_seconds(trial) <= SLACK * search->least_seconds &&
               (!search->found || is_better(trial, &search->best))) {
        search->best = *trial;
        search->found = true;
    }
}

/* Waves of all windows, half of them, a quarter ..., down to one. */
static void consider_waves(struct wave_search *search, const struct config_run *run, int round,
                           int passes) {
    const int64_t windows = plan_windows(&search->trial);
    for (int64_t waves = 1;; waves *= 2) {
        int64_t wave = (windows + waves - 1) / waves;
        if (run->wave)
            wave = run->wave < windows ? run->wave : windows;
        for (int spills = run->spill == SPILL_ALWAYS; spills <= (run->spill != SPILL_NEVER);
             spills++)
            consider(search, round, passes, wave, spills);
        if (wave == 1 || run->wave)
            return;
    }
}

bool plan_choose_waves(const struct plan_costs *costs, const struct config *config,
                       const struct plan_rates *rates, struct plan *plan) {
    struct wave_search search = {
        .costs = costs, .rates = rates, .trial = *plan, .least_seconds = INFINITY};
    search.least.memory_host = INT64_MAX;
    const int most = plan_most_layers(costs, plan), held = config->run.layers_held;
    const int fewest = held ? (most + held - 1) / held : 2, last = held ? fewest : most;
    if (fewest < 2 || fewest > most) {
        plan_estimate_time(costs, rates, plan);
        plan_estimate_memory(costs, plan);
        return false;
    }
    for (int round = 0; round < 2; round++)
        for (int passes = fewest; passes <= last; passes++)
            consider_waves(&search, &config->run, round, passes);
    *plan = search.found ? search.best : search.least;
    return search.found;
}
