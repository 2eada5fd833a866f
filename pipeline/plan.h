/* The plan: how many stages and replicas, which layers each stage has, and what that costs. Made
 * from the model's shapes and file headers alone. */
#ifndef FPTQ_PIPELINE_PLAN_H
#define FPTQ_PIPELINE_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "io/status.h"
#include "kernels/path.h"
#include "pipeline/architecture.h"
#include "pipeline/config.h"
#include "pipeline/slice.h"

/* Rates used for estimates: typical ones, or measured (pipeline/rates.h). They decide nothing but
 * the choice of stages and replicas, never a byte of the result. */
struct plan_rates {
    /* A thread's, while all of the rank's work: */
    double flops_per_thread;  /* dense products on the path in use */
    double attention_flops;   /* attention's products, with all that is between */
    double elementwise_bytes; /* norms, activations, sums: what they read and write */
    double quantize_weights;  /* quantize */
    double clip_weights;      /* search for ranges, and the same */
    /* A rank's: */
    double load_bytes;    /* reading and decoding weights */
    double write_weights; /* compress, hash, write */
    double link_bytes;    /* between two ranks */
    double link_seconds;  /* of a message, however short */
    bool multiplies_bf16; /* the path's products are of bf16 numbers */
    bool measured;        /* for the model's own type of weights, and its format */
    bool link_measured, write_measured;
};

struct plan {
    int ranks, hosts, threads;
    int stages, replicas;
    int64_t samples, sequence_length, chunk_tokens;
    int64_t microbatches; /* of the busiest replica */
    /* Where not all layers of a stage fit: waves (pipeline/stream.h). */
    int layers_held;       /* of a stage at once: all of the largest, or fewer */
    int passes;            /* of a wave through the largest stage; 1: no waves */
    int64_t wave;          /* windows of a replica in a wave; 0: no waves */
    bool spills;           /* hidden states between passes lie in a scratch file, not in memory */
    int64_t scratch_bytes; /* of the scratch files of all ranks */
    int64_t state_bytes;   /* of the files that an interrupted run goes on from, at most */
    double seconds_wave;   /* a wave through a stage */
    double idle_share;     /* of the pipeline, filling and draining and uneven stages */
    double seconds_load, seconds_calibrate, seconds_quantize;
    int64_t memory_rank; /* bytes, of the rank that needs most */
    int64_t memory_host; /* of a host's ranks: weights that its replicas share count once */
    int64_t memory_weights, memory_cache, memory_buffers, memory_base; /* what it is made of */
    int64_t memory_hidden;                                             /* hidden states of a wave */
    int64_t memory_hessians; /* the same, for GPTQ; a factor of one takes the others' place later */
    int64_t memory_limit;    /* per host: from the configuration, or what the host has */
    int64_t traffic_bytes;   /* between stages, in all */
    int64_t checkpoint_bytes; /* upper estimate, without compression */
    double flops;             /* of calibration, in all */
};

/* What a job needs beside one model in full precision. */
struct plan_needs {
    int models;          /* that pass together: each has its keys and values and its work space;
                            0: none, nothing is calibrated */
    int64_t layer_bytes; /* of weights: how much more a layer takes, or how much less */
    bool quantizes;      /* calibrates and quantizes: Hessians where GPTQ needs them */
};

/* Passes of a wave through a stage with `layers` layers; pass p has layers slice_begin(layers,
 * passes, p) and on. */
int plan_stage_passes(const struct plan *plan, int layers);

struct plan_rates plan_rates_typical(enum kernel_path path);

/* Choose stages and replicas that take the least estimated time under the memory limit of a host
 * (`host_memory` bytes, which its ranks share), and of plans within 2% of that the one that needs
 * least memory; or take what the configuration forces. Where no choice has all layers in memory,
 * the stages work in waves. STATUS_INPUT with the reason where nothing works:
 * more ranks than work, forced values that do not fit, too little memory, a sequence longer than
 * the model's positions. needs: NULL for one model in full precision, that is quantized, without
 * calibration where calibration.ranges is given. */
enum status plan_make(const struct model *model, const struct config *config, int ranks, int hosts,
                      int threads, int64_t host_memory, const struct plan_rates *rates,
                      const struct plan_needs *needs, struct plan *plan, struct error *error);

/* flop of one token through one layer's linears, and through attention at `position`; bytes that
 * all else in the layer reads and writes. */
double plan_layer_flops(const struct model *model);
double plan_attention_flops(const struct model *model, int64_t position);
double plan_elementwise_bytes(const struct model *model);
/* Bytes one layer's weights take in memory when loaded for `precision`. */
int64_t plan_layer_bytes(const struct model *model, int layer, enum run_precision precision);

#endif
