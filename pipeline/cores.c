#include "pipeline/cores.h"

#include <hwloc.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#include "io/status.h"
#include "pipeline/cgroup.h"

/* FNV-1a over the list of processors. */
static uint64_t hash_set(hwloc_const_bitmap_t set) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (int processor = hwloc_bitmap_first(set); processor >= 0;
         processor = hwloc_bitmap_next(set, processor))
        hash = (hash ^ (uint64_t)processor) * 0x100000001b3u;
    return hash;
}

static int count_cores(hwloc_topology_t topology, hwloc_const_bitmap_t set) {
    const int cores = hwloc_get_nbobjs_inside_cpuset_by_type(topology, set, HWLOC_OBJ_CORE);
    int touched = 0; /* a binding to one hardware thread has a part of a core only */
    for (hwloc_obj_t core = NULL;
         (core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)) != NULL;)
        touched += hwloc_bitmap_intersects(core->cpuset, set);
    if (touched > 0)
        return touched;
    return cores > 0 ? cores : hwloc_bitmap_weight(set);
}

static void lower_to_group(void *context, const char *folder, int version) {
    double *least = context;
    char line[64], period_line[64];
    double quota = 0, period = 0;
    if (version == 2) { /* "max 100000" or "150000 100000" */
        if (!cgroup_read_line(folder, "cpu.max", line, sizeof line) ||
            sscanf(line, "%lf %lf", &quota, &period) != 2)
            return;
    } else {
        if (!cgroup_read_line(folder, "cpu.cfs_quota_us", line, sizeof line) ||
            !cgroup_read_line(folder, "cpu.cfs_period_us", period_line, sizeof period_line))
            return;
        quota = strtod(line, NULL);
        period = strtod(period_line, NULL);
    }
    if (quota > 0 && period > 0 && (*least == 0 || quota / period < *least))
        *least = quota / period;
}

double cores_quota_at(const char *root) {
    double least = 0;
    cgroup_visit(root, "cpu", lower_to_group, &least);
    return least;
}

struct cores cores_detect(void) {
    struct cores cores = {.count = 1, .quota = cores_quota_at("")};
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0)
        return cores;
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    if (set && hwloc_topology_load(topology) == 0) {
        if (hwloc_get_cpubind(topology, set, HWLOC_CPUBIND_PROCESS) != 0 ||
            hwloc_bitmap_iszero(set))
            hwloc_bitmap_copy(set, hwloc_topology_get_allowed_cpuset(topology));
        cores.count = count_cores(topology, set);
        cores.binding = hash_set(set);
    }
    hwloc_bitmap_free(set);
    hwloc_topology_destroy(topology);
    return cores;
}

int cores_threads(const struct cores *cores, int sharing, int host_ranks) {
    int threads = cores->count / (sharing > 0 ? sharing : 1);
    if (cores->quota > 0 && host_ranks > 0 && cores->quota / host_ranks < threads)
        threads = (int)(cores->quota / host_ranks);
    return threads > 0 ? threads : 1;
}

int cores_for_rank(void) {
    const struct cores cores = cores_detect();
    MPI_Comm host;
    int host_ranks, sharing = 0;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    MPI_Comm_size(host, &host_ranks);
    uint64_t *bindings = malloc((size_t)host_ranks * sizeof *bindings);
    if (!bindings) {
        MPI_Abort(MPI_COMM_WORLD, STATUS_FAILED);
        return 1;
    }
    MPI_Allgather(&cores.binding, 1, MPI_UINT64_T, bindings, 1, MPI_UINT64_T, host);
    for (int i = 0; i < host_ranks; i++)
        sharing += bindings[i] == cores.binding;
    free(bindings);
    MPI_Comm_free(&host);
    return cores_threads(&cores, sharing, host_ranks);
}
