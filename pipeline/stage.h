/* A stage: a slice of the model's layers, and the forward pass of a chunk through those of them
 * that are held: all, or a few at once where memory is short. */
#ifndef FPTQ_PIPELINE_STAGE_H
#define FPTQ_PIPELINE_STAGE_H

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/w4a8.h"
#include "pipeline/architecture.h"
#include "pipeline/config.h"
#include "pipeline/fold.h"

struct quantized_model;

/* A linear multiplies floats by `weight`, or int8 activations by `integer` (whose data is then not
 * NULL). */
struct stage_linear {
    struct matmul_weight weight; /* (out, in): the mapped file, or `owned` */
    struct w4a8_weight integer;  /* (out, in), in `owned` */
    void *owned;                 /* decoded, reordered, folded or packed copy; NULL when mapped */
    float *scales;               /* of 4-bit levels in `weight`, or NULL */
    int8_t *zero_points;
    float *bias; /* (out), or NULL */
};

struct stage_norm {
    float *weight, *bias; /* (hidden); bias NULL for RMS */
};

struct stage_layer {
    struct stage_linear linears[LINEARS_MAX]; /* by the architecture's order */
    struct stage_norm norms[NORM_COUNT];
    float *divisors[SITE_COUNT]; /* (channels) what activations are divided by first, or NULL */
    struct w4a8_quantization inputs[SITE_COUNT]; /* of activations that integer products read */
    float *multipliers[SITE_COUNT];              /* (channels) of `inputs`, or NULL */
    void *cache; /* keys and values of the sequence being worked on */
};

struct stage {
    const struct model *model;
    /* One layer of this stage among the layers of another one, which has the same ones: a pass
     * takes all layers but `alone` from there, with this stage's caches. NULL: all layers are its
     * own. */
    const struct stage *others;
    int alone;
    const struct quantized_model *quantized; /* its checkpoint, where the layers are of that */
    const struct compute *compute;
    enum run_precision precision;
    int layer_begin, layer_end;
    int held_begin, held_end;   /* the layers that are loaded */
    struct stage_layer *layers; /* (room), [layer - held_begin] */
    int room;
    /* Where decoded weights lie that replicas of this host share, each of which decodes some; data
     * NULL: each has its own. */
    struct stage_share {
        unsigned char *data;
        int member, members;
    } share;
    struct {
        void *data; /* (vocabulary, hidden) of the checkpoint; NULL: the model's own */
        enum number_type type;
    } embedding;
    struct stage_norm embedding_norm; /* of the first stage, where the model has one */
    int64_t chunk_tokens, context;
    struct attention_shape attention;
    bool int8_cache;     /* keys and values are rounded to int8, a scale for each token and head */
    float *rope_table;   /* (context, head_dim), or NULL */
    float *alibi_slopes; /* (heads), or NULL */
    /* (T, .) work space, T = chunk_tokens */
    float *normed, *projected[ROLE_COUNT], *attended;
    struct matmul_packed packed;
    struct w4a8_input input;
    /* Of stage_observe_rotated: else NULL. */
    const struct rotation *rotation;
    float *rotated;                                   /* (T, hidden) */
    float *ones;                                      /* (hidden) */
    size_t bytes_weights, bytes_cache, bytes_buffers; /* what is allocated or mapped */
};

/* A norm outside the layers, by the architecture's name for it. */
enum status stage_norm_load(const struct model *model, const char *name, struct stage_norm *norm,
                            struct error *error);
void stage_norm_free(struct stage_norm *norm);
/* output (T, hidden) of input (T, hidden), which may be output. */
void stage_norm_apply(const struct model *model, const struct compute *compute,
                      const struct stage_norm *norm, float *output, const float *input,
                      int64_t tokens);

/* A stage of layers [layer_begin, layer_end) (may be none) of the model or, with `quantized` (else
 * NULL), of its checkpoint, in integer arithmetic where that is quantized, with work space and
 * caches for `room` of them at once; none is held. Sequences of up to `context` tokens pass in
 * chunks of up to chunk_tokens. */
enum status stage_open(const struct model *model, const struct quantized_model *quantized,
                       const struct compute *compute, int layer_begin, int layer_end, int room,
                       int64_t chunk_tokens, int64_t context, enum run_precision precision,
                       struct stage *stage, struct error *error);
/* Load layers [begin, end) of it, at most `room`, in the place of those that are held, whose memory
 * is given back: 16- and 32-bit tensors are used where they are mapped; block formats and permuted
 * rows are decoded once, in parallel. Block formats become bf16, or f32 with PRECISION_F32. A
 * sequence passes through them from its first chunk on. On failure stage_free is due. */
enum status stage_hold(struct stage *stage, int begin, int end, struct error *error);
/* Hold the layers of pass `pass` of `passes` (pipeline/plan.h), and let the system read the mapped
 * weights of the next pass ahead of their use. */
enum status stage_enter_pass(struct stage *stage, int passes, int pass, struct error *error);
/* Bytes of stage_share for layers [begin, end) held at once; 0: nothing is decoded. */
size_t stage_share_bytes(const struct model *model, int begin, int end,
                         enum run_precision precision);
/* Let observers see of the sites that norms produce what the linears of the rotated model read
 * there (pipeline/weights.h), while this one computes as it is; the other sites are the same in
 * both. rotation NULL: nothing changes. Its `compute` must be the stage's. */
enum status stage_observe_rotated(struct stage *stage, const struct rotation *rotation,
                                  struct error *error);
/* stage_open with all layers held; nothing is left of it on failure. */
enum status stage_load(const struct model *model, const struct quantized_model *quantized,
                       const struct compute *compute, int layer_begin, int layer_end,
                       int64_t chunk_tokens, int64_t context, enum run_precision precision,
                       struct stage *stage, struct error *error);
void stage_free(struct stage *stage);

/* Scratch each thread of the team needs for stages of this model. */
size_t stage_scratch_bytes(const struct model *model, int64_t chunk_tokens, int64_t context);

/* Called between a layer's parts, so that messages make progress while we compute. */
struct stage_hook {
    void (*call)(void *context);
    void *context;
};

/* What is seen of a site's activations as they pass. */
struct stage_observer {
    /* (layers of the stage, model_layer_channels): the per-channel absolute maxima of every site
     * are raised to what the chunk has; NULL: not wanted. */
    float *maxima;
    /* x f32 (T, channels of the site): what its linears read. NULL: not wanted. */
    void (*site)(void *context, int layer, enum site site, const float *x, int64_t position,
                 int64_t tokens);
    /* The same when its linears have read it: their products are in stage->projected. hidden f32
     * (T, hidden): what the norm that made x has read, where one did. NULL: not wanted. */
    void (*products)(void *context, int layer, enum site site, const float *x, const float *hidden,
                     int64_t tokens);
    void *context;
};

/* Pass a chunk through the layers that are held: hidden f32 (T, hidden) is changed in place; its
 * tokens stand at positions position .. position + T - 1 of the sequence whose earlier chunks
 * passed before. observer, hook: may be NULL. */
void stage_forward(struct stage *stage, float *hidden, int64_t position, int64_t tokens,
                   const struct stage_observer *observer, const struct stage_hook *hook);

/* Some tokens of one sequence, at positions position .. position + tokens - 1 of it. */
struct stage_piece {
    int64_t position, tokens;
};
/* The same for several pieces at once, whose tokens follow each other in hidden and are at most
 * chunk_tokens together; as if they passed one after the other (a piece at position 0 begins
 * another sequence). An observer is told the first piece's position. */
void stage_forward_pieces(struct stage *stage, float *hidden, const struct stage_piece *pieces,
                          int64_t count, const struct stage_observer *observer,
                          const struct stage_hook *hook);

/* What the linears of a held layer make of a site's activations x f32 (T, channels), which may be
 * changed: each one's (T, out) goes to stage->projected[its role]. */
void stage_read_site(struct stage *stage, int layer, enum site site, float *x, int64_t tokens);

/* Replace a held layer's weights by folded f32 copies, its biases and norms by folded ones; what
 * cannot be folded is divided at run time: the model's function stays (pipeline/fold.h). */
enum status stage_fold_layer(struct stage *stage, int layer, const struct fold_layer *fold,
                             struct error *error);

/* hidden f32 (T, hidden) of token ids, from the model's embedding and its norm; for the stage that
 * has layer 0. */
enum status stage_embed(const struct stage *stage, const int32_t *ids, int64_t tokens,
                        float *hidden, struct error *error);

/* logits f32 (T, vocabulary) of the last layer's hidden (T, hidden): final norm and head. For
 * comparisons with other programs; allocates what it needs. */
enum status stage_logits(const struct model *model, const struct compute *compute,
                         enum run_precision precision, const float *hidden, int64_t tokens,
                         float *logits, struct error *error);

#endif
