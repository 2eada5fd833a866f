/* fptq-pipeline: read the command line and the configuration, and do what the verb says. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/config.h"
#include "pipeline/job.h"
#include "pipeline/log.h"
#include "pipeline/options.h"
#include "pipeline/stop.h"

enum { CONFIG_LENGTH_MAX = 1 << 20 };

/* Before MPI_Init: is this the process that speaks? The launcher tells the rank. */
static bool launched_as_first(void) {
    static const char *const variables[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                            "SLURM_PROCID"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const char *rank = getenv(variables[i]);
        if (rank)
            return strcmp(rank, "0") == 0;
    }
    return true;
}

static enum status read_config_file(const char *name, char *text, int *length,
                                    struct error *error) {
    *length = 0;
    FILE *file = fopen(name, "rb");
    if (!file)
        return error_set(error, STATUS_INPUT, "%s: %m", name);
    const size_t bytes = fread(text, 1, CONFIG_LENGTH_MAX, file);
    enum status status = STATUS_OK;
    if (ferror(file))
        status = error_set(error, STATUS_INPUT, "%s: %m", name);
    else if (bytes == CONFIG_LENGTH_MAX)
        status = error_set(error, STATUS_INPUT, "%s: too long for a configuration file", name);
    fclose(file);
    *length = (int)bytes;
    return status;
}

/* Collective. Rank 0 reads the file, so that it needs to be on one host only; all parse it. */
static enum status load_config(const struct options *options, int rank, struct config *config,
                               struct error *error) {
    *config = (struct config){0};
    struct {
        enum status status;
        int length;
    } found = {STATUS_OK, 0};
    char *text = malloc(CONFIG_LENGTH_MAX);
    if (!text) {
        MPI_Abort(MPI_COMM_WORLD, STATUS_FAILED);
        return STATUS_FAILED;
    }
    if (rank == 0)
        found.status = read_config_file(options->argument, text, &found.length, error);
    MPI_Bcast(&found, (int)sizeof found, MPI_BYTE, 0, MPI_COMM_WORLD);
    enum status status = found.status;
    if (status == STATUS_OK) {
        MPI_Bcast(text, found.length, MPI_BYTE, 0, MPI_COMM_WORLD);
        status = (options->verb == VERB_EVAL ? config_parse_evaluation : config_parse)(
            config, text, (size_t)found.length, options->argument, options->overrides,
            options->override_count, error);
    } else {
        MPI_Bcast(error, (int)sizeof *error, MPI_BYTE, 0, MPI_COMM_WORLD);
    }
    free(text);
    return status;
}

static enum status run_verb(const struct options *options, int rank, struct error *error) {
    if (options->verb == VERB_VERIFY)
        return job_verify(options, error);
    if (options->verb == VERB_REPORT)
        return job_report(options, error);
    struct config config;
    enum status status = load_config(options, rank, &config, error);
    if (status == STATUS_OK)
        status = options->verb == VERB_PLAN   ? job_plan(&config, options, error)
                 : options->verb == VERB_EVAL ? job_evaluate(&config, options, error)
                                              : job_quantize(&config, options, error);
    config_free(&config);
    return status;
}

static int finish(struct options *options, enum status status, const struct error *error) {
    if (status != STATUS_OK)
        log_report_error(error);
    log_flush();
    options_free(options);
    return (int)status;
}

int main(int argc, char **argv) {
    struct options options;
    struct error error = {0};
    log_set_speaker(launched_as_first());
    enum status status = options_parse(&options, argc, argv, &error);
    if (status != STATUS_OK)
        return finish(&options, status, &error);
    if (options.help || options.version) {
        (options.help ? options_print_help(&options) : options_print_version());
        return finish(&options, STATUS_OK, NULL);
    }
    log_set_level(options.level);

    if (options.verb == VERB_QUANTIZE || options.verb == VERB_EVAL)
        stop_install_signals();
    int provided, rank;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    log_set_speaker(rank == 0);
    status = run_verb(&options, rank, &error);
    const int exit_status = finish(&options, status, &error);
    MPI_Finalize();
    return exit_status;
}
