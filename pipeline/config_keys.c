#include <math.h>
#include <stdio.h>
#include <string.h>

#include "pipeline/config.h"

static const char *const method_words[] = {"fptq", "rtn", "smoothquant", "gptq", NULL};
static const char *const range_words[] = {"amax/7.5", "amax/7", NULL};
static const char *const scale_type_words[] = {"f32", "f16", NULL}; /* enum number_type */
static const char *const policy_words[] = {
    "range", "error", "static", "equalized", "dynamic", "equalized-dynamic", NULL};
static const char *const equalization_words[] = {"log2", "log1p", NULL};
static const char *const rotation_words[] = {"none", "hadamard", NULL};
static const char *const clip_words[] = {"none", "mse", "output", NULL};
static const char *const static_scale_words[] = {"maximum", "least-squares", NULL};
static const char *const rounding_words[] = {"nearest", "gptq", NULL};
static const char *const layout_words[] = {"single", "sharded", NULL};
static const char *const compression_words[] = {"none", "zstd", NULL};
static const char *const bos_words[] = {"auto", "always", "never", NULL};
static const char *const spill_words[] = {"auto", "never", "always", NULL};
static const char *const cache_words[] = {"model", "int8", NULL};
static const char *const sensitivity_words[] = {"none", "linears", "layers", NULL};
static const char *const precision_words[] = {"auto", "bf16", "f32", NULL};
static const char *const isa_words[] = {"auto",        "portable", "avx2", "avx512",
                                        "avx512-bf16", "amx",      NULL};

#define FIELD(name)                                                                                \
    .offset = offsetof(struct config, name), .size = sizeof(((struct config *)NULL)->name)

static const struct config_key keys[] = {
    {"model", "path", CONFIG_MODEL, FIELD(model), .decides_content = true,
     .help = "folder with config.json and *.safetensors, or a GGUF file"},

    {"calibration", "data", CONFIG_DATA, FIELD(calibration), .decides_content = true,
     .help = "files or globs (.jsonl.zst, .jsonl, .txt), or \"random-tokens\""},
    {"calibration", "samples", CONFIG_INTEGER, FIELD(calibration.samples), "128", 1, 1e7,
     .decides_content = true, .help = "windows of text the model sees"},
    {"calibration", "sequence_length", CONFIG_INTEGER, FIELD(calibration.sequence_length), "2048",
     1, 1048576, .decides_content = true, .help = "tokens in a window"},
    {"calibration", "chunk_tokens", CONFIG_INTEGER, FIELD(calibration.chunk_tokens), "256", 1,
     1048576, .help = "tokens passed from stage to stage at once; changes no result"},
    {"calibration", "seed", CONFIG_INTEGER, FIELD(calibration.seed), "0", 0, 0x1p62,
     .decides_content = true, .help = "chooses the documents"},
    {"calibration", "sample_tokens", CONFIG_INTEGER, FIELD(calibration.sample_tokens), "512", 1,
     65536, .decides_content = true,
     .help = "tokens whose activations are kept, for what is decided by measuring"},
    {"calibration", "ranges", CONFIG_INPUT, FIELD(calibration.ranges),
     .help = "a checkpoint of the model whose ranges are taken: no text is needed, nor calibrated"},

    {"quantization", "method", CONFIG_CHOICE, FIELD(quantization.method), "\"fptq\"",
     .choices = method_words, .decides_content = true,
     .help = "rtn: nothing but rounding; smoothquant: W8A8; gptq: W4A16"},
    {"quantization", "weight_bits", CONFIG_INTEGER, FIELD(quantization.weight_bits), "0", 0, 16,
     .decides_content = true, .help = "4, in groups; 8, one scale a row; 0: the method's own"},
    {"quantization", "activation_bits", CONFIG_INTEGER, FIELD(quantization.activation_bits), "0", 0,
     16, .decides_content = true, .help = "8; 16: not quantized; 0: the method's own"},
    {"quantization", "group_size", CONFIG_INTEGER, FIELD(quantization.group_size), "128", 0, 65536,
     .decides_content = true, .help = "4-bit weights that share a scale; 0: the whole row"},
    {"quantization", "symmetric", CONFIG_BOOLEAN, FIELD(quantization.symmetric), "false",
     .decides_content = true, .help = "4-bit weights without zero points"},
    {"quantization", "range", CONFIG_CHOICE, FIELD(quantization.range), "\"amax/7.5\"",
     .choices = range_words, .decides_content = true,
     .help = "scale of symmetric weights: integers -8..7, or -7..7"},
    {"quantization", "scale_type", CONFIG_CHOICE, FIELD(quantization.scale_type), "\"f16\"",
     .choices = scale_type_words, .decides_content = true,
     .help = "how scales of weights are stored"},
    {"quantization", "v0", CONFIG_FLOAT, FIELD(quantization.v0), "15.0", 0, INFINITY,
     .decides_content = true, .help = "activations up to this range: one static scale"},
    {"quantization", "v1", CONFIG_FLOAT, FIELD(quantization.v1), "150.0", 0, INFINITY,
     .decides_content = true,
     .help = "between v0 and v1: equalized; from v1 on: dynamic, one scale per token"},
    {"quantization", "policy", CONFIG_CHOICE, FIELD(quantization.policy), "\"range\"",
     .choices = policy_words, .decides_content = true,
     .help =
         "range: by v0 and v1 (not fptq: dynamic); error: by measuring; or one treatment for all "
         "activations"},
    {"quantization", "tolerance", CONFIG_FLOAT, FIELD(quantization.tolerance), "0.1", 0, 1,
     .decides_content = true,
     .help = "for policy = \"error\": the cheapest treatment within (1 + tolerance) of the best "
             "error is taken"},
    {"quantization", "equalization", CONFIG_CHOICE, FIELD(quantization.equalization), "\"log2\"",
     .choices = equalization_words, .decides_content = true,
     .help = "log2: m / log2(2 + m), as published; log1p: m / log(1 + c m)"},
    {"quantization", "c", CONFIG_FLOAT, FIELD(quantization.c), "1.0", 1e-6, 1e6,
     .decides_content = true, .help = "for equalization = \"log1p\""},
    {"quantization", "alpha", CONFIG_FLOAT, FIELD(quantization.alpha), "0.5", 0, 1,
     .decides_content = true,
     .help = "for method = \"smoothquant\": how much of the range goes into the weights"},
    {"quantization", "rotation", CONFIG_CHOICE, FIELD(quantization.rotation), "\"none\"",
     .choices = rotation_words, .decides_content = true,
     .help = "hadamard: the residual stream is rotated, which spreads what stands out over its "
             "channels (not bloom)"},
    {"quantization", "clip", CONFIG_CHOICE, FIELD(quantization.clip), "\"none\"",
     .choices = clip_words, .decides_content = true,
     .help =
         "4-bit weights' ranges narrowed where that lessens, mse: |w - w'|^2.4, output: the error "
         "of the outputs"},
    {"quantization", "static_scale", CONFIG_CHOICE, FIELD(quantization.static_scale), "\"maximum\"",
     .choices = static_scale_words, .decides_content = true,
     .help = "scale of static activations: of their largest value, or of least squared error"},
    {"quantization", "rounding", CONFIG_CHOICE, FIELD(quantization.rounding), "\"nearest\"",
     .choices = rounding_words, .decides_content = true,
     .help = "gptq: columns make up for the errors of those before (method gptq: always)"},
    {"quantization", "act_order", CONFIG_BOOLEAN, FIELD(quantization.act_order), "false",
     .decides_content = true, .help = "for GPTQ: columns of the largest activations first"},
    {"quantization", "damping", CONFIG_FLOAT, FIELD(quantization.damping), "0.01", 0, 1,
     .decides_content = true,
     .help = "for GPTQ: added to the Hessian's diagonal, in shares of its mean"},

    {"output", "checkpoint", CONFIG_FILE, FIELD(output.checkpoint),
     .help = "the HDF5 file to write, NAME.h5"},
    {"output", "layout", CONFIG_CHOICE, FIELD(output.layout), "\"single\"", .choices = layout_words,
     .help = "one file, or a small one with links to a file per layer"},
    {"output", "compression", CONFIG_CHOICE, FIELD(output.compression), "\"none\"",
     .choices = compression_words,
     .help = "zstd: about 17% smaller, needs the HDF5 filter to read"},

    {"evaluation", "wikitext2", CONFIG_INPUT, FIELD(evaluation.sets[EVALUATION_WIKITEXT2]),
     .help = "perplexity of wiki.test.raw"},
    {"evaluation", "ptb", CONFIG_INPUT, FIELD(evaluation.sets[EVALUATION_PTB]),
     .help = "perplexity of ptb.test.txt"},
    {"evaluation", "piqa", CONFIG_INPUT, FIELD(evaluation.sets[EVALUATION_PIQA]),
     .help = "folder with valid.jsonl and valid-labels.lst"},
    {"evaluation", "hellaswag", CONFIG_INPUT, FIELD(evaluation.sets[EVALUATION_HELLASWAG]),
     .help = "hellaswag_val.jsonl"},
    {"evaluation", "arc_easy", CONFIG_INPUT, FIELD(evaluation.sets[EVALUATION_ARC_EASY]),
     .help = "ARC-Easy-Test.jsonl"},
    {"evaluation", "mmlu", CONFIG_INPUT, FIELD(evaluation.sets[EVALUATION_MMLU]),
     .help = "folder with test/SUBJECT_test.csv and dev/SUBJECT_dev.csv"},
    {"evaluation", "lambada", CONFIG_INPUT, FIELD(evaluation.sets[EVALUATION_LAMBADA]),
     .help = ".jsonl or .txt file of texts whose last word is asked for"},
    {"evaluation", "winogrande", CONFIG_INPUT, FIELD(evaluation.sets[EVALUATION_WINOGRANDE]),
     .help = ".jsonl file, dev.jsonl"},
    {"evaluation", "sequence_length", CONFIG_INTEGER, FIELD(evaluation.sequence_length), "0", 0,
     1048576, .help = "tokens in a window of a text; 0: the model's positions, at most 2048"},
    {"evaluation", "windows", CONFIG_INTEGER, FIELD(evaluation.windows), "0", 0, 1e9,
     .help = "windows of each text; 0: all"},
    {"evaluation", "limit", CONFIG_INTEGER, FIELD(evaluation.limit), "0", 0, 1e9,
     .help = "items of each set; 0: all"},
    {"evaluation", "shots", CONFIG_INTEGER, FIELD(evaluation.shots), "0", 0, 100,
     .help = "answered questions before each one of mmlu"},
    {"evaluation", "bos", CONFIG_CHOICE, FIELD(evaluation.bos), "\"auto\"", .choices = bos_words,
     .help = "the token that begins a text; auto: as the tokenizer does before a text, none before "
             "items"},
    {"evaluation", "checkpoint", CONFIG_INPUT, FIELD(evaluation.checkpoint),
     .help = "a checkpoint of the model, evaluated beside it in integer arithmetic"},
    {"evaluation", "full_precision", CONFIG_BOOLEAN, FIELD(evaluation.full_precision), "true",
     .help = "evaluate the model itself; false: the checkpoint alone"},
    {"evaluation", "kv_cache", CONFIG_CHOICE, FIELD(evaluation.kv_cache), "\"model\"",
     .choices = cache_words,
     .help = "keys and values of the checkpoint; int8: one scale for each token and head"},
    {"evaluation", "sensitivity", CONFIG_CHOICE, FIELD(evaluation.sensitivity), "\"none\"",
     .choices = sensitivity_words,
     .help = "linears: the error of each output of the checkpoint's linears; layers: texts with "
             "one layer of it at a time"},

    {"run", "threads", CONFIG_INTEGER, FIELD(run.threads), "0", 0, 4096,
     .help = "threads of each rank; 0: the cores it is bound to"},
    {"run", "stages", CONFIG_INTEGER, FIELD(run.stages), "0", 0, 65536,
     .help = "pipeline stages, each with a slice of the layers; 0: planned"},
    {"run", "replicas", CONFIG_INTEGER, FIELD(run.replicas), "0", 0, 65536,
     .help = "copies of the pipeline, each with a share of the data; 0: planned"},
    {"run", "memory_limit", CONFIG_BYTES, FIELD(run.memory_limit), "0", 0, 0x1p60,
     .help = "memory to use on each host; 0: what the host or job has"},
    {"run", "layers_held", CONFIG_INTEGER, FIELD(run.layers_held), "0", 0, 65536,
     .help = "layers in a rank's memory at once; 0: all of its stage if they fit, else planned"},
    {"run", "wave", CONFIG_INTEGER, FIELD(run.wave), "0", 0, 1e7,
     .help = "windows that pass through the layers held before the next are loaded; 0: planned"},
    {"run", "spill", CONFIG_CHOICE, FIELD(run.spill), "\"auto\"", .choices = spill_words,
     .help = "never, always: a wave's hidden states in memory, in a file beside the checkpoint"},
    {"run", "isa", CONFIG_WORD, FIELD(run.isa), "\"auto\"", .choices = isa_words,
     .help = "instructions to use; auto: the best that all ranks have"},
    {"run", "precision", CONFIG_CHOICE, FIELD(run.precision), "\"auto\"",
     .choices = precision_words, .decides_content = true,
     .help = "arithmetic of calibration; auto: as the model's weights are"},
    {"run", "time_limit", CONFIG_SECONDS, FIELD(run.time_limit), "0", 0, 1e9,
     .help = "save the state and stop within this time; 0: none"},
    {"run", "stall_limit", CONFIG_SECONDS, FIELD(run.stall_limit), "3600", 0, 1e9,
     .help = "end the job when a rank waits this long for another; 0: never"},
};

int config_key_count(void) {
    return (int)(sizeof keys / sizeof keys[0]);
}

const struct config_key *config_key_at(int index) {
    return &keys[index];
}

static void choices_text(const struct config_key *key, char *text, size_t size) {
    size_t used = 0;
    for (int i = 0; key->choices[i] && used < size; i++)
        if (!(key->not_available >> i & 1u))
            used += (size_t)snprintf(text + used, size - used, "%s\"%s\"", used > 0 ? ", " : "",
                                     key->choices[i]);
}

void config_key_values(const struct config_key *key, char *text, size_t size) {
    switch (key->type) {
    case CONFIG_INTEGER:
        if (key->maximum >= 0x1p53)
            snprintf(text, size, "an integer from %.0f on", key->minimum);
        else
            snprintf(text, size, "an integer, %.0f to %.0f", key->minimum, key->maximum);
        break;
    case CONFIG_FLOAT:
        if (isinf(key->maximum))
            snprintf(text, size, "a number from %g on", key->minimum);
        else
            snprintf(text, size, "a number, %g to %g", key->minimum, key->maximum);
        break;
    case CONFIG_BOOLEAN:
        snprintf(text, size, "true or false");
        break;
    case CONFIG_CHOICE:
    case CONFIG_WORD:
        choices_text(key, text, size);
        break;
    case CONFIG_INPUT:
    case CONFIG_FILE:
    case CONFIG_MODEL:
        snprintf(text, size, "a path in quotes");
        break;
    case CONFIG_DATA:
        snprintf(text, size, "a list of paths in quotes, or \"random-tokens\"");
        break;
    case CONFIG_BYTES:
        snprintf(text, size, "bytes, or a text like \"6GiB\", \"500MB\"");
        break;
    case CONFIG_SECONDS:
        snprintf(text, size, "seconds, or a text like \"90s\", \"30m\", \"2h\", \"1d\"");
        break;
    }
}
