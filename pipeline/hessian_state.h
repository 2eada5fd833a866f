/* The Hessians' part of an interrupted run's state (pipeline/resume.h): for each layer and rank a
 * record "hessian-LLLLL-GGGG-RRRRR" of its sums with the exact set of blocks in them.
 *
 * Sums are not idempotent, so no block may be added twice. A new run takes, for each layer, records
 * whose sets have nothing in common, those of the latest generation first; the first replica of the
 * layer's stage holds their sums, all replicas know the set, and a window is passed again unless
 * every layer has all of it. Ranks may save at any time between chunks. When the first replica has
 * saved a layer, older records of it are removed: what they had is in its sums. */
#ifndef FPTQ_PIPELINE_HESSIAN_STATE_H
#define FPTQ_PIPELINE_HESSIAN_STATE_H

#include "pipeline/hessian.h"
#include "pipeline/mesh.h"

struct hessian_place {
    const char *output, *owner; /* the checkpoint, the sum of the fingerprint */
    int generation;
    const struct mesh *mesh;
};

/* Collective. found: take what is there up, else there is nothing. finished (layers of the model):
 * theirs are dropped. done: bits of windows that all layers have ranges of; those whose blocks are
 * not all there are cleared. */
enum status hessian_state_open(struct hessians *hessians, const struct hessian_place *place,
                               bool found, const bool *finished, uint8_t *done,
                               struct error *error);
/* Save this rank's layers: when it is time (at most 2% of the time goes into it), or now. */
enum status hessian_state_save_when_due(struct hessians *hessians,
                                        const struct hessian_place *place, struct error *error);
enum status hessian_state_save(struct hessians *hessians, const struct hessian_place *place,
                               struct error *error);
/* Collective over the replicas of a stage: all get the sums over all. STATUS_FAILED (on some) where
 * one is too large. Nothing is saved after it. */
enum status hessian_state_reduce(struct hessians *hessians, const struct mesh *mesh,
                                 struct error *error);

#endif
