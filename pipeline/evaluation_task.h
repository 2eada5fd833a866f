/* An evaluation set as token ids. Whatever the set is, it is a list of requests: what is the
 * log-probability of these tokens (the continuation) after those (the context)? A window of a text
 * is a context of one token and the rest of the window. */
#ifndef FPTQ_PIPELINE_EVALUATION_TASK_H
#define FPTQ_PIPELINE_EVALUATION_TASK_H

#include "io/evaluation.h"
#include "io/tokenizer.h"
#include "pipeline/architecture.h"
#include "pipeline/config.h"
#include "pipeline/mesh.h"

struct evaluation_request {
    int64_t item;
    int64_t context, continuation;               /* where they begin in ids */
    int64_t context_tokens, continuation_tokens; /* both at least 1 */
    int64_t characters;                          /* of the choice */
};

struct evaluation_task {
    enum evaluation_set set;
    int shots;
    int64_t window_tokens; /* of a text; 0 for items */
    int64_t item_count, request_count, id_count;
    int64_t truncated;                   /* requests that lost the beginning of their context */
    int64_t longest;                     /* tokens that the model sees of the longest request */
    struct evaluation_request *requests; /* in the order of the items, choices in order */
    int32_t *answers;                    /* (item_count) */
    int32_t *ids;
};

/* Read and tokenize. Context and continuation are encoded together, the continuation is what comes
 * after as many ids as the context alone has (as in lm-evaluation-harness; white space that the
 * context ends with moves to the continuation). A request sees at most the model's positions: the
 * beginning of a longer context is left out, and counted; a continuation for which that is not
 * enough is a STATUS_INPUT. */
enum status evaluation_task_create(enum evaluation_set set, const struct config *config,
                                   const struct model_shape *shape, struct tokenizer *tokenizer,
                                   struct evaluation_task *task, struct error *error);
/* Collective: what rank 0 has goes to all. */
enum status evaluation_task_share(const struct mesh *mesh, struct evaluation_task *task,
                                  struct error *error);
void evaluation_task_free(struct evaluation_task *task);

#endif
