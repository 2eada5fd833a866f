/* The order of the stream: which chunks a rank has, and what it does for each. No messages and no
 * clock here, so that the program (pipeline/stream.c) and the simulator (pipeline/simulate.c) both
 * follow it. */
#ifndef FPTQ_PIPELINE_STREAM_ORDER_H
#define FPTQ_PIPELINE_STREAM_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "io/status.h"
#include "pipeline/timing.h"

/* The tokens of `head`, then those of `tail` (which may be none): at least one together. */
struct stream_sequence {
    const int32_t *head, *tail;
    int64_t head_tokens, tail_tokens;
    int64_t group; /* replica group % replicas works on it */
    /* The first position whose result is wanted. Tokens before it are left out where the sequence
     * before it (on its replica) begins with the same ones: their keys and values are there still.
     */
    int64_t wanted;
};

/* Token `position` of a sequence. */
int32_t stream_token(const struct stream_sequence *sequence, int64_t position);

/* Tokens of one sequence. */
struct stream_piece {
    int64_t sequence, position, tokens;
};

struct stream_chunk {
    int64_t sequence, position; /* of its first token */
    int64_t tokens;             /* of all its pieces */
    const struct stream_piece *pieces;
    int64_t piece_count; /* 1 where they are not packed */
    bool last;           /* the (last) piece is the last of its sequence */
    int pass;            /* how often it has passed through this stage before */
    bool leaves;         /* it does not pass again */
    int64_t place;       /* among the chunks of its wave */
};

/* What passes, cut how. */
struct stream_text {
    const struct stream_sequence *sequences; /* the same on all ranks */
    int64_t count, chunk_tokens;
    bool packed; /* fill chunks up with pieces of the next sequences */
    /* Sequences of a replica in a wave, on all stages where one has several passes; or 0. */
    int64_t wave;
};

/* The chunks of one rank: those of its replica, in order, once for each pass of a wave. Those of a
 * pass are the same on all its stages, however often they pass through each. */
struct stream_order {
    int passes;                  /* of a chunk through this rank's stage, >= 1 */
    struct stream_chunk *chunks; /* (count) */
    struct stream_piece *pieces; /* (piece_count) */
    int64_t count, piece_count;
    int64_t tokens;      /* each token once */
    int64_t wave_chunks; /* of the largest wave; 0 without waves */
};

/* STATUS_FAILED when memory runs out; stream_order_free is due in any case. */
enum status stream_order_create(const struct stream_text *text, int replica, int replicas,
                                int passes, struct stream_order *order, struct error *error);
void stream_order_free(struct stream_order *order);

/* Buffer k % STREAM_RING belongs to chunk k: while k is computed in its own, k + 1 is received into
 * the next and k - 1 may still be on its way out of the one before. */
enum { STREAM_RING = 3 };

/* What a rank does for chunk k, in this order. Before the first chunk it does STREAM_EXPECT for
 * chunk -1; after the last it waits until all that it sent is on its way. */
enum stream_act {
    STREAM_ENTER,  /* load the layers of the pass */
    STREAM_AWAIT,  /* wait for chunk k */
    STREAM_CLEAR,  /* wait until chunk k - 2 is sent, whose buffer is the next */
    STREAM_EXPECT, /* begin to receive chunk k + 1 */
    STREAM_READ,   /* take up the hidden states of the pass before */
    STREAM_VISIT,  /* compute */
    STREAM_KEEP,   /* keep the hidden states for the next pass */
    STREAM_SEND,   /* begin to send */
    STREAM_ACT_COUNT
};

/* Whether it does so at this stage of so many; k from -1 on. */
bool stream_order_has(const struct stream_order *order, int64_t k, enum stream_act act, int stage,
                      int stages);
/* Where its time counts. */
enum section stream_act_section(enum stream_act act);

#endif
