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

/* One number for the whole content, and one for the tensors alone: sums over the manifest's lines,
 * all of them or those below a group (not the root's texts and attributes, which name files and
 * options). */
static enum status sum_manifest(const struct checkpoint *checkpoint, bool tensors_only,
                                char text[65], struct error *error) {
    struct digest *digest = digest_create();
    if (!digest)
        return error_set(error, STATUS_FAILED, "no memory for a checksum");
    for (size_t i = 0; i < checkpoint_line_count(checkpoint); i++) {
        const char *path = checkpoint_line_path(checkpoint, i);
        if (tensors_only && !strchr(path + 1, '/'))
            continue;
        const char *line[] = {checkpoint_line_sum(checkpoint, i), "  ", path, "\n"};
        for (int part = 0; part < 4; part++)
            digest_update(digest, line[part], strlen(line[part]));
    }
    digest_finish(digest, text);
    return STATUS_OK;
}

static enum status print_sums(const char *path, struct error *error) {
    struct checkpoint *checkpoint;
    char all[65], tensors[65];
    enum status status = checkpoint_open(path, &checkpoint, error);
    if (status)
        return status;
    status = sum_manifest(checkpoint, false, all, error);
    if (!status)
        status = sum_manifest(checkpoint, true, tensors, error);
    checkpoint_close(checkpoint);
    if (!status)
        log_plain("tensors: %s\nmanifest: %s\n", tensors, all);
    return status;
}

static enum status verify(const char *path, struct error *error) {
    int64_t checked = 0, bad = 0;
    enum status status = checkpoint_verify(path, report, NULL, &checked, &bad, error);
    if (!status && bad)
        status =
            error_set(error, STATUS_INPUT, "%s: %lld of %lld datasets are not as they were written",
                      path, (long long)bad, (long long)checked);
    if (!status)
        status = print_sums(path, error);
    if (!status)
        log_plain("%s: %lld datasets as they were written\n", path, (long long)checked);
    return status;
}

enum status job_verify(const struct options *options, struct error *error) {
    struct mesh mesh;
    enum status status = mesh_create(&mesh, error);
    status = mesh_agree(&mesh, status, error);
    if (status)
        return status;
    status = mesh_agree(&mesh, mesh.rank ? STATUS_OK : verify(options->argument, error), error);
    mesh_destroy(&mesh);
    return status;
}
