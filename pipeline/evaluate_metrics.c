#include <math.h>

#include "kernels/math_functions.h"
#include "pipeline/evaluate.h"

/* exp for results within the range of double, from our own power. */
static double exponential(double x) {
    return x > 700 ? INFINITY : math_pow(2.0, x * MATH_LOG2_E);
}

/* Mean and standard error of the mean, in the order of the items. */
struct moments {
    double count, sum, squares;
};

static void moments_add(struct moments *moments, double value) {
    moments->count += 1;
    moments->sum += value;
    moments->squares += value * value;
}

static double moments_mean(const struct moments *moments) {
    return moments->sum / moments->count;
}

static double moments_error(const struct moments *moments) {
    const double mean = moments_mean(moments);
    const double variance = moments->squares / moments->count - mean * mean;
    return moments->count > 1 ? sqrt((variance > 0 ? variance : 0) / (moments->count - 1)) : NAN;
}

static struct evaluation_metric mean_metric(const char *name, const struct moments *moments) {
    return (struct evaluation_metric){name, moments_mean(moments), moments_error(moments)};
}

/* Of negative log-likelihoods. */
static struct evaluation_metric perplexity_metric(const struct moments *moments) {
    const double perplexity = exponential(moments_mean(moments));
    return (struct evaluation_metric){"perplexity", perplexity,
                                      perplexity * moments_error(moments)};
}

int evaluation_choose(const struct evaluation_task *task, const struct evaluation_score *requests,
                      int64_t first, bool normalized) {
    const int64_t item = task->requests[first].item;
    double largest = -INFINITY;
    int choice = 0;
    for (int64_t i = first; i < task->request_count && task->requests[i].item == item; i++) {
        const double characters = normalized ? (double)task->requests[i].characters : 1.0;
        const double value = requests[i].log_likelihood / characters;
        if (value > largest) {
            largest = value;
            choice = (int)(i - first);
        }
    }
    return choice;
}

/* Of the windows of a text. */
static int text_metrics(const struct evaluation_task *task, const struct evaluation_scores *scores,
                        struct evaluation_metric *metrics) {
    struct moments loss = {0}, divergence = {0}, same = {0};
    for (int64_t i = 0; i < task->request_count; i++) {
        const struct evaluation_score *score = &scores->requests[i];
        const double tokens = (double)task->requests[i].continuation_tokens;
        moments_add(&loss, -score->log_likelihood / tokens);
        moments_add(&divergence, score->divergence / tokens);
        moments_add(&same, score->same_top / tokens);
    }
    metrics[0] = perplexity_metric(&loss);
    metrics[1] = mean_metric("kl_divergence", &divergence);
    metrics[2] = mean_metric("same_top", &same);
    return scores->compared ? 3 : 1;
}

/* Of last words: one request for each item. */
static int word_metrics(const struct evaluation_task *task, const struct evaluation_score *requests,
                        struct evaluation_metric *metrics) {
    struct moments loss = {0}, right = {0};
    for (int64_t i = 0; i < task->request_count; i++) {
        moments_add(&loss, -requests[i].log_likelihood);
        moments_add(&right, requests[i].equal_top == (double)task->requests[i].continuation_tokens);
    }
    metrics[0] = mean_metric("acc", &right);
    metrics[1] = perplexity_metric(&loss);
    return 2;
}

int evaluation_metrics(const struct evaluation_task *task, const struct evaluation_scores *scores,
                       struct evaluation_metric metrics[EVALUATION_METRICS_MAX]) {
    const struct evaluation_score *requests = scores->requests;
    if (task->window_tokens)
        return text_metrics(task, scores, metrics);
    if (task->set == EVALUATION_LAMBADA)
        return word_metrics(task, requests, metrics);
    /* The choices of winogrande are in the contexts, those of mmlu of one length. */
    const bool lengths = task->set != EVALUATION_WINOGRANDE && task->set != EVALUATION_MMLU;
    struct moments plain = {0}, normalized = {0};
    for (int64_t i = 0; i < task->request_count; i++) {
        const int64_t item = task->requests[i].item;
        if (i && task->requests[i - 1].item == item)
            continue;
        moments_add(&plain, evaluation_choose(task, requests, i, false) == task->answers[item]);
        moments_add(&normalized, evaluation_choose(task, requests, i, true) == task->answers[item]);
    }
    metrics[0] = mean_metric("acc", &plain);
    metrics[1] = mean_metric("acc_norm", &normalized);
    return lengths ? 2 : 1;
}
