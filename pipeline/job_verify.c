/* `verify`: rank 0 reads the checkpoint; the others learn what came of it. */
#include <inttypes.h>
#include <mpi.h>

#include "io/checkpoint.h"
#include "pipeline/job.h"
#include "pipeline/log.h"

static void report_fault(void *context, const char *dataset, const char *what) {
    (void)context;
    log_plain("%s: %s\n", dataset, what);
}

static enum status verify(const char *path, struct error *error) {
    int64_t checked = 0, bad = 0;
    const enum status status = checkpoint_verify(path, report_fault, NULL, &checked, &bad, error);
    if (status != STATUS_OK)
        return status;
    if (bad > 0)
        return error_set(error, STATUS_INPUT,
                         "%s: %" PRId64 " of %" PRId64 " datasets are not what was written", path,
                         bad, checked);
    log_plain("%s: all %" PRId64 " datasets are what was written\n", path, checked);
    return STATUS_OK;
}

enum status job_verify(const struct options *options, struct error *error) {
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    enum status status = rank == 0 ? verify(options->argument, error) : STATUS_OK;
    MPI_Bcast(&status, (int)sizeof status, MPI_BYTE, 0, MPI_COMM_WORLD);
    if (status != STATUS_OK)
        MPI_Bcast(error, (int)sizeof *error, MPI_BYTE, 0, MPI_COMM_WORLD);
    return status;
}
