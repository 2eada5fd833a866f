/* The simulator: what a job's ranks would do, event by event, without doing it. It follows the
 * order of pipeline/stream_order.h and the shares of pipeline/quantize_team.h, as the program does,
 * with times computed from a plan's rates. One process plays thousands of ranks.
 *
 * What is simulated: loading, calibration, the reduction of ranges, quantization and the writing of
 * the parts. What is not: reading the text, GPTQ's Hessians, the samples of measured policies, what
 * rank 0 does alone (the embedding, assembling the checkpoint), and links that several messages
 * share: each pair of neighbours has its own. */
#ifndef FPTQ_PIPELINE_SIMULATE_H
#define FPTQ_PIPELINE_SIMULATE_H

#include "pipeline/plan.h"
#include "pipeline/timing.h"

/* Seconds, unless it says otherwise. */
struct simulation_costs {
    int layers;
    double token;     /* of a token through a layer, but for its attention */
    double token_key; /* of its attention, for each position that it sees */
    int64_t window;   /* of positions that it sees at most; 0: all before it */
    double layer_load;
    double token_keep;    /* to put a token's hidden state aside, or to take it up again */
    double message;       /* until a message arrives, however short */
    double token_message; /* what a token in it adds */
    int64_t token_bytes;  /* of a message */
    double layer_reduce;  /* to pass a layer's ranges on to one other replica */
    int linear_count;
    int64_t linear_weights[LINEARS_MAX]; /* how many */
    double quantize_linear[LINEARS_MAX], write_linear[LINEARS_MAX];
    double send_linear[LINEARS_MAX]; /* from a replica to the one that writes */
};

struct simulation_costs simulation_costs_of(const struct model *model, const struct config *config,
                                            const struct plan *plan,
                                            const struct plan_rates *rates);

struct simulation {
    double seconds;           /* in all */
    double seconds_calibrate; /* of these, from the end of loading to the last rank's last chunk */
    double rank_seconds[SECTION_COUNT]; /* of all ranks together; SECTION_WAIT: all waiting */
    double calibrate_wait;              /* rank-seconds of these, in calibration */
    double idle_share;     /* of the pipeline, as the plan's: of the time without loading */
    int64_t messages;      /* of hidden states */
    int64_t traffic_bytes; /* in them */
    int64_t events;
};

/* Told of every span of time that a rank spends: `stage` of a replica, from begin to end. A rank's
 * spans come in order and leave no gap. */
struct simulation_observer {
    void (*span)(void *context, int stage, int replica, enum section section, double begin,
                 double end);
    void *context;
};

/* Of the plan are used: stages, replicas, samples, sequence_length, chunk_tokens, layers_held and
 * wave. observer: may be NULL. STATUS_FAILED when memory runs out. */
enum status simulate(const struct simulation_costs *costs, const struct plan *plan,
                     const struct simulation_observer *observer, struct simulation *simulation,
                     struct error *error);

#endif
