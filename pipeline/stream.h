/* The stream: sequences of tokens pass through the stages in chunks, so that a stage works on one
 * chunk while the stage before it works on the next. Calibration and evaluation both are visitors
 * of it.
 *
 * Packing. Where sequences are short, a chunk can hold pieces of several.
 *
 * Waves. A stage that cannot hold all its layers lets the chunks of a wave of sequences pass
 * several times, each time through other layers: their weights are loaded once for a wave, not for
 * a chunk. In between the hidden states are kept in memory or in a scratch file. */
#ifndef FPTQ_PIPELINE_STREAM_H
#define FPTQ_PIPELINE_STREAM_H

#include "pipeline/mesh.h"
#include "pipeline/stage.h"
#include "pipeline/stream_order.h"
#include "pipeline/timing.h"

/* What a stage does in waves. */
struct stream_waves {
    int passes; /* of a chunk through this stage; 0, 1: all layers at once, the rest unused */
    const char *folder; /* of the scratch file for hidden states; NULL: they stay in memory */
    /* Before a pass's first chunk: load its layers. */
    enum status (*enter)(void *context, int pass, struct error *error);
};

struct stream_work {
    struct stream_text text;
    int64_t width;     /* floats that pass from stage to stage for each token */
    const char *label; /* for the progress */
    struct stream_waves waves;
    /* Let a chunk pass through this stage: hidden f32 (tokens of the chunk, width) is changed in
     * place. ids: the chunk's, on its first pass through the first stage, where hidden is
     * undefined; else NULL. */
    enum status (*visit)(void *context, const struct stream_chunk *chunk, const int32_t *ids,
                         float *hidden, const struct stage_hook *hook, struct error *error);
    /* After a chunk was passed on or kept, which took `seconds` with all waiting; NULL: nothing to
     * do. */
    enum status (*passed)(void *context, const struct stream_chunk *chunk, double seconds,
                          struct error *error);
    void *context;
};

/* Collective; ranks left over take part and visit nothing. Sequences of a replica come in the order
 * of the list, chunks in ascending position. *tokens (may be NULL): how many this rank's replica
 * computed. */
enum status stream_run(struct mesh *mesh, const struct stream_work *work, struct timing *timing,
                       int64_t *tokens, struct error *error);

#endif
