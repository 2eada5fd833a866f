#include "kernels/log_likelihood.h"

#include <math.h>

#include "kernels/math_functions.h"

struct addition {
    const struct row_functions *functions;
    struct log_likelihood *state;
    float *logits;
    int64_t stride, first, count;
};

void log_likelihood_start(struct log_likelihood *state, int32_t target) {
    *state = (struct log_likelihood){
        .softmax = {-INFINITY, 0.0f, 0.0f},
        .target_logit = NAN,
        .top_logit = -INFINITY,
        .target = target,
        .top = -1,
    };
}

static void add_rows(void *context, int64_t begin, int64_t end, int thread) {
    const struct addition *addition = context;
    (void)thread;
    for (int64_t row = begin; row < end; row++) {
        struct log_likelihood *state = &addition->state[row];
        float *logits = addition->logits + row * addition->stride;
        for (int64_t i = 0; i < addition->count; i++)
            if (logits[i] > state->top_logit) {
                state->top_logit = logits[i];
                state->top = (int32_t)(addition->first + i);
            }
        const int64_t target = state->target - addition->first;
        if (target >= 0 && target < addition->count)
            state->target_logit = logits[target];
        addition->functions->softmax(&state->softmax, logits, addition->count, 1.0f, 0.0f, 0);
    }
}

void log_likelihood_add(const struct compute *compute, struct log_likelihood *state, float *logits,
                        int64_t stride, int64_t tokens, int64_t first, int64_t count) {
    struct addition addition = {rows_of_path(compute->path), state, logits, stride, first, count};
    team_for(compute->team, tokens, 4, add_rows, &addition);
}

double log_likelihood_value(const struct log_likelihood *state) {
    return ((double)state->target_logit - (double)state->softmax.largest) -
           math_log((double)state->softmax.total);
}
