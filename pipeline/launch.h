/* What every computing verb starts with: the ranks agree on a path, a plan is made, the mesh is
 * arranged, the threads are started. */
#ifndef FPTQ_PIPELINE_LAUNCH_H
#define FPTQ_PIPELINE_LAUNCH_H

#include "kernels/team.h"
#include "pipeline/mesh.h"
#include "pipeline/plan.h"

struct launch {
    struct mesh mesh;
    struct plan plan;
    struct compute compute;
    int layer_begin, layer_end; /* of this rank's stage; equal for a rank left over */
};

/* Collective, after mesh_create of launch->mesh: the path that every rank has, the configured one
 * or the worst of the ranks' bests. */
enum status launch_agree_path(struct launch *launch, const struct config *config,
                              struct error *error);
/* Collective. The plan is for config's calibration samples of its sequence_length and for `needs`
 * (NULL: of one model in full precision); each rank needs `outside` bytes beside what the plan
 * counts, and a thread `scratch` bytes for other things than the layers. */
enum status launch_plan(struct launch *launch, const struct model *model,
                        const struct config *config, const struct plan_needs *needs,
                        int64_t outside, size_t scratch, struct error *error);
/* Say what runs how. */
void launch_log(const struct launch *launch, const struct model *model,
                const struct config *config);
/* Threads and mesh. */
void launch_end(struct launch *launch);

#endif
