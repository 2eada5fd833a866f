/* What the checkpoint holds besides the layers, and putting it together: the root's attributes and
 * texts, embedding with its norm, final norm and head, and /run. */
#ifndef FPTQ_PIPELINE_CHECKPOINT_ROOT_H
#define FPTQ_PIPELINE_CHECKPOINT_ROOT_H

#include "io/sample.h"
#include "pipeline/mesh.h"
#include "pipeline/plan.h"

struct checkpoint_root {
    const struct config *config;
    const struct model *model;
    const struct plan *plan;
    enum kernel_path path;
    const struct sample_windows *windows;
    const char *tokenizer_digest; /* "" with random tokens */
};

/* Before the work: can the output be written, is there room on the disk? */
enum status checkpoint_root_prepare(const struct config *config, const struct plan *plan,
                                    struct error *error);
/* Every rank calls it; the parts are shared out: "root" and "run" by rank 0, "embedding" by the
 * first stage, "head" by the last (those two are kept when they are there). Not collective. */
enum status checkpoint_root_write(const struct checkpoint_root *root, const struct mesh *mesh,
                                  struct error *error);
/* One rank: the checkpoint of all parts. */
enum status checkpoint_root_assemble(const struct checkpoint_root *root, const struct watch *watch,
                                     struct error *error);

#endif
