/* fptq-pipeline plan CONFIG: what the job would do with these ranks. Started without mpirun it
 * plans for the ranks that run.stages and run.replicas ask for, or one. */
#include "pipeline/cores.h"
#include "pipeline/job.h"
#include "pipeline/memory.h"
#include "pipeline/mesh.h"
#include "pipeline/plan.h"

static enum status plan(const struct mesh *mesh, const struct config *config, int threads,
                        int64_t memory, struct error *error) {
    struct model model;
    enum status status = model_open(config->model.path, &model, error);
    if (status)
        return status;
    enum kernel_path path = kernel_path_best();
    if (*config->run.isa && !kernel_path_parse(config->run.isa, &path))
        status = error_set(error, STATUS_INPUT, "run.isa: no path \"%s\"", config->run.isa);
    const struct plan_rates rates = plan_rates_typical(path);
    const int asked = (config->run.stages ? config->run.stages : 1) *
                      (config->run.replicas ? config->run.replicas : 1);
    const int ranks = asked > mesh->size ? asked : mesh->size;
    struct plan made;
    if (!status)
        status =
            plan_make(&model, config, ranks, mesh->hosts, threads, memory, &rates, NULL, &made, error);
    if (!status)
        plan_print(&made, &model);
    model_close(&model);
    return status;
}

enum status job_plan(const struct config *config, const struct options *options,
                     struct error *error) {
    (void)options;
    struct mesh mesh;
    enum status status = mesh_agree(&mesh, mesh_create(&mesh, error), error);
    if (status)
        return status;
    int threads = config->run.threads ? config->run.threads : cores_for_rank();
    int64_t memory = memory_available();
    MPI_Allreduce(MPI_IN_PLACE, &threads, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, &memory, 1, MPI_INT64_T, MPI_MIN, MPI_COMM_WORLD);
    status = mesh_agree(&mesh, mesh.rank ? STATUS_OK : plan(&mesh, config, threads, memory, error),
                        error);
    mesh_destroy(&mesh);
    return status;
}
