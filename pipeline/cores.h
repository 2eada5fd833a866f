/* How many threads a rank is to use. */
#ifndef FPTQ_PIPELINE_CORES_H
#define FPTQ_PIPELINE_CORES_H

#include <stdint.h>

struct cores {
    int count;        /* cores (not hardware threads) that this process may run on */
    double quota;     /* processors' worth of time that control groups allow; 0: no limit */
    uint64_t binding; /* equal for processes bound to the same processors */
};

/* Look at this process's binding (hwloc) and its control groups. */
struct cores cores_detect(void);
/* Processors' worth of time, with `root` in front of /proc and /sys, for tests. */
double cores_quota_at(const char *root);
/* Threads for one of `sharing` ranks with this binding, `host_ranks` on the host (they share the
 * quota): at least 1. */
int cores_threads(const struct cores *cores, int sharing, int host_ranks);

/* Collective over MPI_COMM_WORLD: threads for this rank. */
int cores_for_rank(void);

#endif
