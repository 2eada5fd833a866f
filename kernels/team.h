/* A team of threads that run one task together. The caller is thread 0 and works too. */
#ifndef FPTQ_KERNELS_TEAM_H
#define FPTQ_KERNELS_TEAM_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/path.h"

struct team;

/* What every kernel that runs in parallel takes: which instructions, which threads. */
struct compute {
    enum kernel_path path;
    struct team *team;
};

/* Start `threads` - 1 threads (threads >= 1), each with `scratch_bytes` of 64-byte aligned scratch
 * memory (the caller too). Idle threads sleep (after a short spin), so that many ranks may share a
 * core. Returns NULL when threads or memory cannot be had. */
struct team *team_create(int threads, size_t scratch_bytes);
void team_destroy(struct team *team);
int team_size(const struct team *team);
/* The scratch memory of one thread; valid until the team is destroyed. */
void *team_scratch(const struct team *team, int thread);
size_t team_scratch_bytes(const struct team *team);

/* Call task(context, begin, end, thread) until [0, count) is covered by pieces of at most `grain`
 * items; pieces are handed out as threads become free. Returns when all are done. Which thread
 * takes which piece varies: a task's result must not depend on it. */
void team_for(struct team *team, int64_t count, int64_t grain,
              void (*task)(void *context, int64_t begin, int64_t end, int thread), void *context);

#endif
