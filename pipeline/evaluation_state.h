/* Taking up an interrupted evaluation: what is scored is kept in NAME.parts/ beside NAME, the file
 * of --json, until that is written.
 *
 * A record "scores-SET-RRRRR" has the requests of a set that rank RRRRR of a last stage has scored,
 * each with what every model made of it; "layer-LLLL-scores-SET-RRRRR" the same with layer LLLL of
 * the checkpoint alone. A new run, with any number of ranks, joins a set's records into
 * "scores-SET-joined" before a rank writes one of its own, and computes the rest: a score does not
 * depend on what else is computed. A record that is damaged is left out with a warning. */
#ifndef FPTQ_PIPELINE_EVALUATION_STATE_H
#define FPTQ_PIPELINE_EVALUATION_STATE_H

#include "io/checkpoint_read.h"
#include "pipeline/evaluate.h"

/* What the run is: all that decides the scores. */
struct evaluation_state_run {
    const struct mesh *mesh;
    const struct config *config;
    const struct model *model;
    const struct checkpoint *checkpoint; /* that is evaluated, or NULL */
    enum kernel_path path;
    const struct evaluation_task *tasks; /* (task_count) */
    int task_count, model_count;
    const char *output; /* the file of --json */
    bool restart;       /* forget what an interrupted run left */
};

/* A request with its scores; those of a model that there is not are zero. */
struct evaluation_state_entry {
    int64_t request;
    struct evaluation_score scores[EVALUATION_MODELS_MAX];
};

struct evaluation_state {
    const struct mesh *mesh;
    const char *output; /* NULL: nothing is kept, and all below does nothing */
    int model_count;
    char owner[65];                         /* sum of the fingerprint */
    int lock;                               /* rank 0's lock on NAME.parts, or -1 */
    const struct evaluation_task *task;     /* the set that is evaluated */
    int layer;                              /* of the checkpoint, alone; or -1 */
    struct evaluation_state_entry *entries; /* (entry_count) that this rank has scored */
    int64_t entry_count;
    double next_save, save_seconds; /* of timing_now(); that the last save took */
};

/* Collective. Takes up what an interrupted run of the same fingerprint left, or begins a state;
 * evaluation_state_close is due in any case. With run->output NULL, or no regular file, nothing is
 * kept. STATUS_INPUT when another run writes this file, or what is there is another run's and
 * restart is false: what differs is named. */
enum status evaluation_state_open(struct evaluation_state *state,
                                  const struct evaluation_state_run *run, struct error *error);
/* Rank 0 removes the state when the results are written, or when nothing was scored. */
void evaluation_state_close(struct evaluation_state *state, bool written);

/* Collective, before a set, with one layer of the checkpoint alone or (-1) all: done
 * (request_count) are the requests that were scored before, on all ranks; scores (model_count) are
 * theirs on rank 0, and stay as they are on the others. */
enum status evaluation_state_begin(struct evaluation_state *state,
                                   const struct evaluation_task *task, int layer,
                                   const struct evaluation_scores *scores, bool *done,
                                   struct error *error);
/* This rank has scored a request: scores (model_count) have it. */
void evaluation_state_add(struct evaluation_state *state, const struct evaluation_scores *scores,
                          int64_t request);
/* Save what this rank has scored: when it is time (at most 2% of the time goes into it), or now. */
enum status evaluation_state_save_when_due(struct evaluation_state *state, struct error *error);
enum status evaluation_state_save(struct evaluation_state *state, struct error *error);

#endif
