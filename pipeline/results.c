#include "pipeline/results.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/checkpoint_prepare.h"
#include "pipeline/memory.h"
#include "pipeline/report.h"

enum { HOST_LENGTH = 64 };

/* Rank 0's view of all ranks. */
struct gathered {
    int *counts, *offsets; /* (ranks) bytes of site results */
    struct site_result *sites;
    int site_count;
    struct report_site *rows;
    int64_t *peaks;             /* (ranks) */
    char (*hosts)[HOST_LENGTH]; /* (ranks) */
    struct report_memory *memory;
    struct report_section sections[SECTION_COUNT];
};

enum status results_create(struct results *results, int layers, struct error *error) {
    results->count = 0;
    results->capacity = layers * SITE_COUNT;
    results->sites = calloc((size_t)results->capacity + 1, sizeof *results->sites);
    return results->sites ? STATUS_OK : error_set(error, STATUS_FAILED, "no memory for results");
}

void results_add(struct results *results, const struct site_result *result) {
    if (results->count < results->capacity)
        results->sites[results->count++] = *result;
}

void results_free(struct results *results) {
    free(results->sites);
    memset(results, 0, sizeof *results);
}

static int by_layer_and_site(const void *left, const void *right) {
    const struct site_result *a = left, *b = right;
    return a->layer != b->layer ? a->layer - b->layer : a->site - b->site;
}

static enum status gather_sites(const struct results *results, const struct mesh *mesh,
                                struct gathered *all, struct error *error) {
    const int bytes = results->count * (int)sizeof *results->sites;
    int total = 0;
    MPI_Gather(&bytes, 1, MPI_INT, all->counts, 1, MPI_INT, 0, MPI_COMM_WORLD);
    for (int rank = 0; mesh->rank == 0 && rank < mesh->size; rank++) {
        all->offsets[rank] = total;
        total += all->counts[rank];
    }
    enum status status = STATUS_OK;
    if (mesh->rank == 0) {
        all->site_count = total / (int)sizeof *all->sites;
        all->sites = malloc((size_t)total + 1);
        all->rows = calloc((size_t)all->site_count + 1, sizeof *all->rows);
        if (!all->sites || !all->rows)
            status = error_set(error, STATUS_FAILED, "no memory for the report");
    }
    status = mesh_agree(mesh, status, error);
    if (status)
        return status;
    MPI_Gatherv(results->sites, bytes, MPI_BYTE, all->sites, all->counts, all->offsets, MPI_BYTE, 0,
                MPI_COMM_WORLD);
    if (mesh->rank)
        return STATUS_OK;
    qsort(all->sites, (size_t)all->site_count, sizeof *all->sites, by_layer_and_site);
    for (int i = 0; i < all->site_count; i++) {
        const struct site_result *site = &all->sites[i];
        all->rows[i] = (struct report_site){site->layer,
                                            site_name((enum site)site->site),
                                            site->range,
                                            (enum input_policy)site->policy,
                                            site->weight_error,
                                            site->damping,
                                            {0}};
        memcpy(all->rows[i].errors, site->errors, sizeof site->errors);
    }
    return STATUS_OK;
}

static void gather_memory(const struct mesh *mesh, struct gathered *all) {
    const int64_t peak = memory_peak();
    char host[HOST_LENGTH] = "";
    gethostname(host, sizeof host - 1);
    MPI_Gather(&peak, 1, MPI_INT64_T, all->peaks, 1, MPI_INT64_T, 0, MPI_COMM_WORLD);
    MPI_Gather(host, HOST_LENGTH, MPI_CHAR, all->hosts, HOST_LENGTH, MPI_CHAR, 0, MPI_COMM_WORLD);
    for (int rank = 0; mesh->rank == 0 && rank < mesh->size; rank++)
        all->memory[rank] = (struct report_memory){all->hosts[rank], all->peaks[rank]};
}

static void gather_sections(const struct mesh *mesh, const struct timing *timing,
                            struct gathered *all) {
    double least[SECTION_COUNT], most[SECTION_COUNT], sum[SECTION_COUNT], processor[SECTION_COUNT];
    MPI_Reduce(timing->seconds, least, SECTION_COUNT, MPI_DOUBLE, MPI_MIN, 0, MPI_COMM_WORLD);
    MPI_Reduce(timing->seconds, most, SECTION_COUNT, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    MPI_Reduce(timing->seconds, sum, SECTION_COUNT, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    MPI_Reduce(timing->processor, processor, SECTION_COUNT, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    for (int i = 0; mesh->rank == 0 && i < SECTION_COUNT; i++)
        all->sections[i] = (struct report_section){section_name((enum section)i), least[i],
                                                   sum[i] / mesh->size, most[i], processor[i]};
}

/* Bytes of the checkpoint: the file, and in the sharded layout its parts. */
static int64_t checkpoint_bytes(const struct config *config) {
    struct stat file;
    int64_t bytes = stat(config->output.checkpoint, &file) ? 0 : (int64_t)file.st_size;
    if (config->output.layout == CHECKPOINT_SHARDED)
        bytes += checkpoint_parts_bytes(config->output.checkpoint);
    return bytes;
}

/* Where a Hessian was not positive with the damping that the configuration gives. */
static void tell_damping(const struct report *report, const struct config *config) {
    const double given = (double)config->quantization.damping;
    for (int i = 0; i < report->site_count; i++)
        if (report->sites[i].damping > given)
            log_warning(
                "layer %d, %s: GPTQ's damping had to be raised to %g for a positive Hessian",
                report->sites[i].layer, report->sites[i].site, report->sites[i].damping);
}

static enum status show(const struct results_run *run, const struct mesh *mesh,
                        const struct gathered *all, const struct options *options,
                        struct error *error) {
    const struct config *config = run->config;
    const struct report report = {
        .method = config_method_name(config),
        .model = config->model.path,
        .checkpoint = config->output.checkpoint,
        .path = kernel_path_name(run->path),
        .ranks = mesh->size,
        .hosts = mesh->hosts,
        .stages = mesh->stages,
        .replicas = mesh->replicas,
        .threads = run->plan->threads,
        .samples = run->plan->samples,
        .sequence_length = run->plan->sequence_length,
        .checkpoint_bytes = checkpoint_bytes(config),
        .seconds = run->seconds,
        .sites = all->rows,
        .site_count = all->site_count,
        .sections = all->sections,
        .section_count = SECTION_COUNT,
        .memory = all->memory,
    };
    report_print(&report);
    tell_damping(&report, config);
    return options->json ? report_write_json(&report, options->json, error) : STATUS_OK;
}

enum status results_report(const struct results *results, const struct mesh *mesh,
                           const struct results_run *run, const struct options *options,
                           struct error *error) {
    const size_t ranks = (size_t)mesh->size;
    struct gathered all = {.counts = calloc(ranks, sizeof *all.counts),
                           .offsets = calloc(ranks, sizeof *all.offsets),
                           .peaks = calloc(ranks, sizeof *all.peaks),
                           .hosts = calloc(ranks, sizeof *all.hosts),
                           .memory = calloc(ranks, sizeof *all.memory)};
    enum status status = all.counts && all.offsets && all.peaks && all.hosts && all.memory
                             ? STATUS_OK
                             : error_set(error, STATUS_FAILED, "no memory for the report");
    status = mesh_agree(mesh, status, error);
    if (!status)
        status = gather_sites(results, mesh, &all, error);
    if (!status) {
        gather_memory(mesh, &all);
        gather_sections(mesh, run->timing, &all);
        status =
            mesh_agree(mesh, mesh->rank ? STATUS_OK : show(run, mesh, &all, options, error), error);
    }
    free(all.counts);
    free(all.offsets);
    free(all.sites);
    free(all.rows);
    free(all.peaks);
    free(all.hosts);
    free(all.memory);
    return status;
}
