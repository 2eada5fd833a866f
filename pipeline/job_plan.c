/* fptq-pipeline plan CONFIG: what the job would do with these ranks. Started without mpirun it
 * plans for the ranks that run.stages and run.replicas ask for, or one; with --simulate for the
 * ranks that are simulated, on as many hosts as this one would take. */
#include "pipeline/cores.h"
#include "pipeline/job.h"
#include "pipeline/json_file.h"
#include "pipeline/log.h"
#include "pipeline/memory.h"
#include "pipeline/mesh.h"
#include "pipeline/method.h"
#include "pipeline/plan_report.h"
#include "pipeline/rates.h"
#include "pipeline/simulate_report.h"

struct planning {
    struct mesh mesh;
    const struct config *config;
    const struct options *options;
    struct model model;
    int threads;    /* of a rank */
    int64_t memory; /* of a host */
    struct plan_rates rates;
    struct plan plan;
};

/* Collective. */
static enum status find_rates(struct planning *planning, struct error *error) {
    const struct config *config = planning->config;
    enum kernel_path path = kernel_path_best();
    enum status status = STATUS_OK;
    if (*config->run.isa && !kernel_path_parse(config->run.isa, &path))
        status = error_set(error, STATUS_INPUT, "run.isa: no path \"%s\"", config->run.isa);
    else if (planning->options->measure && !kernel_path_supported(path))
        status = error_set(error, STATUS_INPUT,
                           "run.isa is \"%s\", which cannot be measured: the processor of rank %d "
                           "does not have it",
                           config->run.isa, planning->mesh.rank);
    status = mesh_agree(&planning->mesh, status, error);
    if (status)
        return status;
    int level = (int)path;
    MPI_Allreduce(MPI_IN_PLACE, &level, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    planning->rates = plan_rates_typical((enum kernel_path)level);
    return planning->options->measure
               ? rates_measure(&planning->mesh, &planning->model, config, (enum kernel_path)level,
                               planning->threads, &planning->rates, error)
               : STATUS_OK;
}

static enum status make(struct planning *planning, struct error *error) {
    const struct config *config = planning->config;
    const struct mesh *mesh = &planning->mesh;
    const int asked = (config->run.stages ? config->run.stages : 1) *
                      (config->run.replicas ? config->run.replicas : 1);
    int ranks = asked > mesh->size ? asked : mesh->size, hosts = mesh->hosts;
    if (planning->options->simulate && config->calibration.ranges)
        return error_set(error, STATUS_INPUT,
                         "--simulate plays the calibration, which calibration.ranges leaves out");
    if (planning->options->simulate) {
        const int each = (mesh->size + mesh->hosts - 1) / mesh->hosts;
        ranks = planning->options->simulate;
        hosts = (ranks + each - 1) / each;
    }
    return plan_make(&planning->model, config, ranks, hosts, planning->threads, planning->memory,
                     &planning->rates, NULL, &planning->plan, error);
}

static enum status show(const struct planning *planning, struct error *error) {
    const struct plan *plan = &planning->plan;
    const struct options *options = planning->options;
    const struct simulation_costs costs =
        simulation_costs_of(&planning->model, planning->config, plan, &planning->rates);
    struct simulation simulation;
    enum status status = STATUS_OK;
    plan_print(plan, &planning->model, &planning->rates);
    if (method_rounding(&planning->config->quantization) == ROUNDING_GPTQ ||
        config_needs_sample(planning->config))
        log_info("the times have no part for GPTQ's Hessians and for measuring at the outputs");
    if (options->simulate)
        status = simulate(&costs, plan, NULL, &simulation, error);
    if (!status && options->simulate)
        status = simulation_print(&costs, plan, &simulation, error);
    if (status || !options->json)
        return status;
    json_t *root = plan_json(plan, &planning->rates);
    if (root && options->simulate)
        json_object_set_new(root, "simulation", simulation_json(&simulation));
    status = root ? json_file_write(root, options->json, 9, error)
                  : error_set(error, STATUS_FAILED, "%s: out of memory", options->json);
    json_decref(root);
    return status;
}

static enum status run(struct planning *planning, struct error *error) {
    const struct mesh *mesh = &planning->mesh;
    enum status status =
        mesh_agree(mesh, model_open(planning->config->model.path, &planning->model, error), error);
    if (!status)
        status = find_rates(planning, error);
    if (!status && mesh->rank == 0) {
        status = make(planning, error);
        if (!status)
            status = show(planning, error);
    }
    return mesh_agree(mesh, status, error);
}

enum status job_plan(const struct config *config, const struct options *options,
                     struct error *error) {
    struct planning planning = {
        .config = config,
        .options = options,
        .threads = config->run.threads ? config->run.threads : cores_for_rank(),
        .memory = memory_available(),
    };
    enum status status = mesh_agree(&planning.mesh, mesh_create(&planning.mesh, error), error);
    if (status)
        return status;
    MPI_Allreduce(MPI_IN_PLACE, &planning.threads, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, &planning.memory, 1, MPI_INT64_T, MPI_MIN, MPI_COMM_WORLD);
    status = run(&planning, error);
    model_close(&planning.model);
    mesh_destroy(&planning.mesh);
    return status;
}
