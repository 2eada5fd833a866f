#include "pipeline/timing.h"

#include <time.h>

const char *section_name(enum section section) {
    static const char *const names[SECTION_COUNT] = {"open",     "sample", "load",    "compute",
                                                     "hessian",  "wait",   "reduce",  "factor",
                                                     "quantize", "write",  "assemble"};
    return names[section];
}

static double seconds_of(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double timing_now(void) {
    return seconds_of(CLOCK_MONOTONIC);
}

double timing_next_save(double duration) {
    const double interval = 50 * duration;
    return timing_now() + (interval > 1 ? interval : 1);
}

struct timing_mark timing_mark(void) {
    return (struct timing_mark){timing_now(), seconds_of(CLOCK_PROCESS_CPUTIME_ID)};
}

void timing_add(struct timing *timing, enum section section, struct timing_mark *since) {
    const struct timing_mark now = timing_mark();
    timing->seconds[section] += now.wall - since->wall;
    timing->processor[section] += now.processor - since->processor;
    *since = now;
}

void timing_move(struct timing *timing, enum section from, enum section to,
                 const struct timing_mark *begin) {
    struct timing taken = {{0}, {0}};
    struct timing_mark since = *begin;
    timing_add(&taken, to, &since);
    timing->seconds[to] += taken.seconds[to];
    timing->seconds[from] -= taken.seconds[to];
    timing->processor[to] += taken.processor[to];
    timing->processor[from] -= taken.processor[to];
}
