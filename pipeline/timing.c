#include "pipeline/timing.h"

#include <time.h>

const char *section_name(enum section section) {
    static const char *const names[SECTION_COUNT] = {"open",     "sample", "load",    "compute",
                                                     "hessian",  "wait",   "reduce",  "factor",
                                                     "quantize", "write",  "assemble"};
    return names[section];
}

double timing_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void timing_add(struct timing *timing, enum section section, double *since) {
    const double now = timing_now();
    timing->seconds[section] += now - *since;
    *since = now;
}
