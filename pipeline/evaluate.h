/* Evaluation: the requests of a set stream through the stages as windows of calibration do, the
 * last stage scores them, rank 0 has the results. The same bits for any number of ranks. */
#ifndef FPTQ_PIPELINE_EVALUATE_H
#define FPTQ_PIPELINE_EVALUATE_H

#include "pipeline/evaluation_task.h"
#include "pipeline/head.h"
#include "pipeline/timing.h"

/* What a model makes of a request. */
struct evaluation_score {
    double log_likelihood; /* sum of log p over the continuation's tokens */
    double equal_top;      /* how many of them are the most likely token */
};

/* The results of one set, on rank 0. */
struct evaluation_scores {
    struct evaluation_score *requests; /* (request_count) */
    int64_t tokens;                    /* that were computed */
    double seconds;
};

/* A number with the standard error of its mean (NaN where there is one item). */
struct evaluation_metric {
    const char *name; /* "perplexity", "acc", "acc_norm" */
    double value, standard_error;
};
enum { EVALUATION_METRICS_MAX = 2 };

/* Collective. head: loaded on the last stages; else not looked at. scores->requests is allocated on
 * every rank, the caller frees it. STATUS_INPUT where a log-probability is not finite. */
enum status evaluate_run(struct mesh *mesh, const struct plan *plan, struct stage *stage,
                         struct head *head, const struct evaluation_task *task,
                         struct evaluation_scores *scores, struct timing *timing,
                         struct error *error);

/* The choice of an item: the first of the largest log-likelihoods, or of the largest ones for each
 * character. first: the item's first request. */
int evaluation_choose(const struct evaluation_task *task, const struct evaluation_score *requests,
                      int64_t first, bool normalized);
/* The set's metrics; returns how many. Perplexity of a text: exp of the mean over windows of each
 * window's mean, its error by the delta method. acc, acc_norm (log-likelihood for each character of
 * the choice): share of items whose choice is right. lambada: acc when every token of the last word
 * is the most likely one, and the perplexity of the last words. */
int evaluation_metrics(const struct evaluation_task *task, const struct evaluation_score *requests,
                       struct evaluation_metric metrics[EVALUATION_METRICS_MAX]);

#endif
