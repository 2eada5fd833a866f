/* Evaluation: the requests of a set stream through the stages as windows of calibration do, the
 * last stage scores them, rank 0 has the results. A model in full precision and a quantized one can
 * go side by side, in one stream. The same bits for any number of ranks. */
#ifndef FPTQ_PIPELINE_EVALUATE_H
#define FPTQ_PIPELINE_EVALUATE_H

#include "pipeline/evaluation_task.h"
#include "pipeline/head.h"
#include "pipeline/plan.h"
#include "pipeline/sensitivity.h"
#include "pipeline/stop.h"
#include "pipeline/timing.h"

/* A model that is evaluated: this rank's part of it. */
struct evaluation_model {
    const char *name; /* "full precision", or the checkpoint's method */
    struct stage stage;
    struct head head; /* on the last stages; else not looked at */
};
enum { EVALUATION_MODELS_MAX = 2 };

/* What a model makes of a request. */
struct evaluation_score {
    double log_likelihood; /* sum of log p over the continuation's tokens */
    double equal_top;      /* how many of them are the most likely token */
    /* Of a text, where the model goes beside one in full precision: sums over the tokens */
    double divergence; /* of KL(full precision || model), */
    double same_top;   /* of those to which both think the same token most likely */
};

/* A model's results of one set, on rank 0. */
struct evaluation_scores {
    struct evaluation_score *requests; /* (request_count) */
    int64_t tokens;                    /* that this run computed */
    double seconds; /* of the wall time, in proportion to what each model computed */
    bool compared;  /* divergence and same_top are there */
};

/* A number with the standard error of its mean (NaN where there is one item). */
struct evaluation_metric {
    const char *name; /* "perplexity", "acc", "acc_norm", "kl_divergence", "same_top" */
    double value, standard_error;
};
enum { EVALUATION_METRICS_MAX = 3 };

struct evaluation_state;

/* What is evaluated, and with what. */
struct evaluation_work {
    struct mesh *mesh;
    const struct plan *plan;
    struct evaluation_model *models; /* (model_count) the one in full precision first, if there are
                                        two */
    int model_count;
    const struct evaluation_task *task;
    struct sensitivity *sensitivity; /* of the two, whose sums are added to; NULL: not wanted */
    struct evaluation_state *state;  /* that is gone on with and kept (evaluation_state.h); NULL:
                                        everything is computed, as sensitivity's sums need it */
    int layer; /* the only one that is the checkpoint's, as the state then says; or -1 */
    const struct stop *stop;
    struct timing *timing;
};

/* Collective. scores (model_count): their requests are allocated on every rank, the caller frees
 * them. STATUS_STOPPED when it was to stop: what is done is in the state. STATUS_INPUT where a
 * log-probability is not finite. */
enum status evaluate_run(const struct evaluation_work *work, struct evaluation_scores *scores,
                         struct error *error);

/* The choice of an item: the first of the largest log-likelihoods, or of the largest ones for each
 * character. first: the item's first request. */
int evaluation_choose(const struct evaluation_task *task, const struct evaluation_score *requests,
                      int64_t first, bool normalized);
/* The set's metrics; returns how many. Perplexity of a text: exp of the mean over windows of each
 * window's mean, its error by the delta method. acc, acc_norm (log-likelihood for each character of
 * the choice): share of items whose choice is right. lambada: acc when every token of the last word
 * is the most likely one, and the perplexity of the last words. Of a text that was compared also
 * the mean over windows of each one's mean divergence, and of its share of tokens with same_top. */
int evaluation_metrics(const struct evaluation_task *task, const struct evaluation_scores *scores,
                       struct evaluation_metric metrics[EVALUATION_METRICS_MAX]);

#endif
