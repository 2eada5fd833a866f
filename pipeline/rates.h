/* What the machine at hand does: the plan's rates, measured in a few seconds with the program's own
 * kernels on the shapes and types of a model. */
#ifndef FPTQ_PIPELINE_RATES_H
#define FPTQ_PIPELINE_RATES_H

#include "pipeline/mesh.h"
#include "pipeline/plan.h"

/* Collective. All ranks measure at once, each with `threads` threads, so that what they share (the
 * memory, the processor's heat) counts; the result, the same on all ranks, is their mean. Links
 * between neighbouring ranks are measured where there are several ranks; the disk with a file of at
 * most 32 MB beside the checkpoint, which is removed, where one can be written there; else, and for
 * clip_weights, `rates` keeps what the caller put there. Each figure is the best of its
 * repetitions: a short measurement that something else disturbs is wrong, not typical. */
enum status rates_measure(const struct mesh *mesh, const struct model *model,
                          const struct config *config, enum kernel_path path, int threads,
                          struct plan_rates *rates, struct error *error);

#endif
