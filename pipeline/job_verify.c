/* fptq-pipeline verify CHECKPOINT: every dataset against the manifest. Rank 0 does it. */
#include <string.h>

#include "io/checkpoint_read.h"
#include "io/digest.h"
#include "pipeline/job.h"
#include "pipeline/mesh.h"

static void report(void *context, const char *dataset, const char *what) {
    (void)context;
    log_plain("%s: %s\n", dataset, what);
}

/* One number for all the content: the sum over the manifest's lines. */
static enum status manifest_digest(const char *path, char text[65], struct error *error) {
    struct checkpoint *checkpoint;
    const enum status status = checkpoint_open(path, &checkpoint, error);
    if (status)
        return status;
    struct digest *digest = digest_create();
    if (!digest) {
        checkpoint_close(checkpoint);
        return error_set(error, STATUS_FAILED, "no memory for a checksum");
    }
    for (size_t i = 0; i < checkpoint_line_count(checkpoint); i++) {
        const char *line[] = {checkpoint_line_sum(checkpoint, i), "  ",
                              checkpoint_line_path(checkpoint, i), "\n"};
        for (int part = 0; part < 4; part++)
            digest_update(digest, line[part], strlen(line[part]));
    }
    digest_finish(digest, text);
    checkpoint_close(checkpoint);
    return STATUS_OK;
}

static enum status verify(const char *path, struct error *error) {
    int64_t checked = 0, bad = 0;
    char digest[65];
    enum status status = checkpoint_verify(path, report, NULL, &checked, &bad, error);
    if (!status && bad)
        status =
            error_set(error, STATUS_INPUT, "%s: %lld of %lld datasets are not as they were written",
                      path, (long long)bad, (long long)checked);
    if (!status)
        status = manifest_digest(path, digest, error);
    if (status)
        return status;
    log_plain("manifest: %s\n%s: %lld datasets as they were written\n", digest, path,
              (long long)checked);
    return STATUS_OK;
}

enum status job_verify(const struct options *options, struct error *error) {
    struct mesh mesh;
    enum status status = mesh_agree(&mesh, mesh_create(&mesh, error), error);
    if (status)
        return status;
    status = mesh_agree(&mesh, mesh.rank ? STATUS_OK : verify(options->argument, error), error);
    mesh_destroy(&mesh);
    return status;
}
