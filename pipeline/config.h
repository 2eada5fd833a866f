/* The configuration: what a TOML file and `--set section.key=value` say, checked and with defaults.
 *
 * One table (config_key_at) drives parsing, defaults, checks, --set, --help and the texts below. */
#ifndef FPTQ_PIPELINE_CONFIG_H
#define FPTQ_PIPELINE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/checkpoint.h"
#include "io/evaluation.h"
#include "io/status.h"
#include "kernels/equalize.h"
#include "kernels/number.h"
#include "kernels/quantize.h"

enum quantization_method { METHOD_FPTQ, METHOD_RTN, METHOD_SMOOTHQUANT, METHOD_GPTQ };
enum policy_rule {
    POLICY_BY_RANGE, /* the method's own choice */
    POLICY_BY_ERROR,
    POLICY_ALL_STATIC, /* every site alike */
    POLICY_ALL_EQUALIZED,
    POLICY_ALL_DYNAMIC,
    POLICY_ALL_EQUALIZED_DYNAMIC
};
enum clip_rule { CLIP_NONE, CLIP_MSE, CLIP_OUTPUT };
enum static_scale_rule { STATIC_SCALE_MAXIMUM, STATIC_SCALE_LEAST_SQUARES };
enum spill_rule { SPILL_AUTO, SPILL_NEVER, SPILL_ALWAYS };
enum rotation_rule { ROTATION_NONE, ROTATION_HADAMARD };
enum rounding_rule { ROUNDING_NEAREST, ROUNDING_GPTQ };
enum evaluation_bos { EVALUATION_BOS_AUTO, EVALUATION_BOS_ALWAYS, EVALUATION_BOS_NEVER };
enum cache_kind { CACHE_MODEL, CACHE_INT8 };
enum sensitivity_kind { SENSITIVITY_NONE, SENSITIVITY_LINEARS, SENSITIVITY_LAYERS };
enum run_precision { PRECISION_AUTO, PRECISION_BF16, PRECISION_F32 };

struct config_model {
    char *path;    /* resolved, see config_parse */
    char *written; /* as the user wrote it */
};

struct config_calibration {
    char **data; /* (data_count) paths or globs, resolved; NULL with random_tokens */
    char **written;
    int data_count;
    bool random_tokens; /* data = "random-tokens" */
    int64_t samples;
    int64_t sequence_length; /* tokens */
    int64_t chunk_tokens;    /* tokens in a microbatch; does not change any result */
    uint64_t seed;
    int64_t sample_tokens; /* rows of each site that are kept, where something needs them */
    char *ranges;          /* a checkpoint whose ranges are taken (saved_ranges.h); or NULL */
};

struct config_quantization {
    enum quantization_method method;
    int weight_bits, activation_bits; /* 0: the method's own, see pipeline/method.h */
    int64_t group_size;               /* 0: the whole row */
    bool symmetric;
    enum quantize_range range;   /* symmetric only */
    enum number_type scale_type; /* NUMBER_F16 or NUMBER_F32 */
    float v0, v1;                /* thresholds of the three-way choice */
    enum policy_rule policy;
    float tolerance; /* POLICY_BY_ERROR only */
    enum equalization equalization;
    float c;                     /* EQUALIZE_LOG1P only */
    float alpha;                 /* METHOD_SMOOTHQUANT only */
    enum rotation_rule rotation; /* of the residual stream */
    enum clip_rule clip;
    enum static_scale_rule static_scale;
    enum rounding_rule rounding; /* of weights; method_rounding() is in effect */
    bool act_order;              /* ROUNDING_GPTQ only, and: */
    float damping;
};

struct config_output {
    char *checkpoint; /* NAME.h5, against the working directory */
    enum checkpoint_layout layout;
    enum checkpoint_compression compression;
};

struct config_evaluation {
    char *sets[EVALUATION_SET_COUNT]; /* resolved paths; NULL: not evaluated */
    char *checkpoint;                 /* a quantized model to compare; or NULL */
    bool full_precision;              /* evaluate the model itself, too */
    enum cache_kind kv_cache;         /* of the checkpoint */
    enum sensitivity_kind sensitivity;
    int64_t sequence_length; /* tokens of a window; 0: the model's positions, at most 2048 */
    int64_t windows, limit;  /* 0: all */
    int shots;
    enum evaluation_bos bos;
};

struct config_run {
    int threads, stages, replicas; /* 0: automatic */
    int layers_held;               /* in a rank's memory at once; 0: automatic */
    int64_t wave;                  /* windows of a wave; 0: automatic */
    enum spill_rule spill;
    int64_t memory_limit; /* bytes for each host; 0: automatic */
    char isa[16];         /* a name of kernels/path.h; "": automatic */
    enum run_precision precision;
    int64_t time_limit;  /* seconds; 0: none */
    int64_t stall_limit; /* seconds; 0: none */
};

struct config {
    struct config_model model;
    struct config_calibration calibration;
    struct config_quantization quantization;
    struct config_output output;
    struct config_evaluation evaluation;
    struct config_run run;
};

/* Parse `text`, the content of the configuration file `name`, then the `overrides` in order, each
 * "section.key=value" (value in TOML; a bare word counts as a string). Relative paths of model and
 * data are taken from the folder of `name`; those given by an override, from the working directory.
 * Opens no file, so all ranks can parse a broadcast text alike.
 * STATUS_INPUT: "NAME:LINE: ..." for the file's faults (not TOML, unknown section or key with the
 * nearest known one, wrong type, out of range, word not known, required key missing, what this
 * version does not do yet); STATUS_USAGE: the same for an override. On failure *config is all zero.
 * config_free releases the strings. */
enum status config_parse(struct config *config, const char *text, size_t length, const char *name,
                         const char *const *overrides, int override_count, struct error *error);
/* The same for evaluation: at least one set is required, calibration data and output are not. */
enum status config_parse_evaluation(struct config *config, const char *text, size_t length,
                                    const char *name, const char *const *overrides,
                                    int override_count, struct error *error);
/* A text of config_canonical_text, whose paths stay as they are written there. */
enum status config_parse_content(struct config *config, const char *text, size_t length,
                                 const char *name, struct error *error);
void config_free(struct config *config);

/* TOML text of what decides the checkpoint's content (for its dataset /config_toml): model,
 * calibration, quantization, precision; paths as the user wrote them. Keys in the table's order and
 * every value present, so equal settings give equal bytes. */
enum status config_canonical_text(const struct config *config, char **text, struct error *error);
/* TOML text of every key as effective, paths resolved (for /run and the log). It parses back. */
enum status config_full_text(const struct config *config, char **text, struct error *error);

/* "fptq", "rtn", "smoothquant", "gptq" */
const char *config_method_name(const struct config *config);
/* "none", "hadamard" */
const char *config_rotation_name(const struct config *config);
/* Whether something is decided by measuring on a sample of the activations
 * (pipeline/site_sample.h). */
bool config_needs_sample(const struct config *config);
/* The format of the weights, for kernels/quantize. */
struct quantize_format config_weight_format(const struct config *config);

enum config_type {
    CONFIG_INTEGER, /* int or int64_t, by `size` */
    CONFIG_FLOAT,   /* float */
    CONFIG_BOOLEAN, /* bool */
    CONFIG_CHOICE,  /* an enum: the index in `choices` */
    CONFIG_WORD,    /* char[size]: one of `choices`; "" for the first, "auto" */
    CONFIG_INPUT,   /* char *, a path to read, resolved; may be missing */
    CONFIG_FILE,    /* char *, a path to write, against the working directory */
    CONFIG_MODEL,   /* struct config_model */
    CONFIG_DATA,    /* struct config_calibration: data, written, data_count, random_tokens */
    CONFIG_BYTES,   /* int64_t from an integer, "6GiB", "500MB" */
    CONFIG_SECONDS, /* int64_t from an integer, "90s", "30m", "2h", "1d" */
};

struct config_key {
    const char *section, *key;
    enum config_type type;
    size_t offset, size;         /* of the field in struct config */
    const char *default_text;    /* in TOML; NULL: required (CONFIG_INPUT: none) */
    double minimum, maximum;     /* numbers only, both included */
    const char *const *choices;  /* NULL-ended, in the order of the enum */
    unsigned long not_available; /* bit i: choices[i] is a valid word, not built yet; for a path:
                                    1: none is built */
    bool decides_content;        /* is part of config_canonical_text */
    const char *help;            /* one line */
};

int config_key_count(void);
const struct config_key *config_key_at(int index);
/* The values that a key takes in this version, for people: "an integer, 0 to 65536",
 * "\"fptq\", \"rtn\"", "a path in quotes". */
void config_key_values(const struct config_key *key, char *text, size_t size);

#endif
