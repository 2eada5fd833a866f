#include "pipeline/launch.h"

#include <stdlib.h>

#include "pipeline/cores.h"
#include "pipeline/log.h"
#include "pipeline/memory.h"
#include "pipeline/stage.h"

/* The best path of this rank; the environment's FPTQ_ISA can hold it back, so that one machine can
 * play several unlike ones. */
static enum kernel_path best_path(void) {
    const enum kernel_path best = kernel_path_best();
    enum kernel_path held = best;
    const char *name = getenv("FPTQ_ISA");
    return name && kernel_path_parse(name, &held) && held < best ? held : best;
}

enum status launch_agree_path(struct launch *launch, const struct config *config,
                              struct error *error) {
    const struct mesh *mesh = &launch->mesh;
    const char *isa = config->run.isa;
    enum kernel_path path = best_path();
    enum status status = STATUS_OK;
    if (*isa && (!kernel_path_parse(isa, &path) || !kernel_path_supported(path)))
        status = error_set(
            error, STATUS_INPUT,
            "run.isa is \"%s\", which the processor of rank %d does not have (its best is %s)", isa,
            mesh->rank, kernel_path_name(kernel_path_best()));
    status = mesh_agree(mesh, status, error);
    if (status)
        return status;
    int level = (int)path;
    MPI_Allreduce(MPI_IN_PLACE, &level, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    launch->compute.path = (enum kernel_path)level;
    int unlike = launch->compute.path != path, unlike_ranks;
    MPI_Reduce(&unlike, &unlike_ranks, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
    if (mesh->rank == 0 && unlike_ranks)
        log_info(
            "processors are unlike: %d of %d ranks could do better than path %s, which all have",
            unlike_ranks, mesh->size, kernel_path_name(launch->compute.path));
    return STATUS_OK;
}

/* Ranks may have unlike hosts: the plan is made with the least memory and threads of any. */
enum status launch_plan(struct launch *launch, const struct model *model,
                        const struct config *config, const struct plan_needs *needs,
                        int64_t outside, size_t scratch, struct error *error) {
    struct mesh *mesh = &launch->mesh;
    struct plan *plan = &launch->plan;
    int threads = config->run.threads ? config->run.threads : cores_for_rank();
    int64_t memory = memory_available();
    MPI_Allreduce(MPI_IN_PLACE, &threads, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, &memory, 1, MPI_INT64_T, MPI_MIN, MPI_COMM_WORLD);
    struct config within = *config; /* a view: it owns nothing */
    if (within.run.memory_limit)
        memory = within.run.memory_limit;
    memory -= outside * ((mesh->size + mesh->hosts - 1) / mesh->hosts);
    within.run.memory_limit = memory > 0 ? memory : 1;
    const struct plan_rates rates = plan_rates_typical(launch->compute.path);
    enum status status = mesh_agree(mesh,
                                    plan_make(model, &within, mesh->size, mesh->hosts, threads,
                                              within.run.memory_limit, &rates, needs, plan, error),
                                    error);
    if (!status)
        status = mesh_agree(mesh, mesh_arrange(mesh, plan->stages, plan->replicas, error), error);
    if (status)
        return status;
    mesh->layers = model->shape.layers;
    /* A stage waits for the one before it while that has passes to make through its layers: twice
     * the time of a wave, since it is an estimate. */
    if (mesh->stall_limit > 0)
        mesh->stall_limit += 2 * plan->stages * plan->seconds_wave;
    if (mesh->stage >= 0) {
        launch->layer_begin = slice_begin(model->shape.layers, plan->stages, mesh->stage);
        launch->layer_end = slice_begin(model->shape.layers, plan->stages, mesh->stage + 1);
    }
    const size_t layers = stage_scratch_bytes(model, plan->chunk_tokens, plan->sequence_length);
    launch->compute.team = team_create(threads, layers > scratch ? layers : scratch);
    status = launch->compute.team
                 ? STATUS_OK
                 : error_set(error, STATUS_FAILED, "rank %d cannot start %d threads", mesh->rank,
                             threads);
    return mesh_agree(mesh, status, error);
}

void launch_log(const struct launch *launch, const struct model *model,
                const struct config *config) {
    const struct plan *plan = &launch->plan;
    log_info(
        "%s: %s, %d layers; %d rank(s) as %d stage(s) x %d replica(s), %d thread(s) each, path %s",
        config->model.path, model->shape.model_type, model->shape.layers, launch->mesh.size,
        plan->stages, plan->replicas, plan->threads, kernel_path_name(launch->compute.path));
    if (plan->wave)
        log_info("layers do not all fit into memory: %d at once, waves of %lld window(s), hidden "
                 "states in %s",
                 plan->layers_held, (long long)plan->wave,
                 plan->spills ? "a scratch file" : "memory");
    const int idle = launch->mesh.size - plan->stages * plan->replicas;
    if (idle)
        log_warning("%d of %d ranks have no work: stages x replicas is %d", idle, launch->mesh.size,
                    plan->stages * plan->replicas);
}

void launch_end(struct launch *launch) {
    if (launch->compute.team)
        team_destroy(launch->compute.team);
    mesh_destroy(&launch->mesh);
}
