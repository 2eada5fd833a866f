/* What no single key shows: what goes together, and what settings mean together. */
#include "pipeline/config_internal.h"
#include "pipeline/method.h"

enum status config_check_model(const struct config *config, const struct config_origin *origin,
                               struct error *error) {
    if (config->model.path)
        return STATUS_OK;
    return config_fault(origin, error, "the key path of [model] is missing: %s",
                        config_find_key("model", "path")->help);
}

static enum status check_method(const struct config_quantization *quantization,
                                const struct config_origin *origin, struct error *error) {
    const struct method *method = method_of(quantization);
    const struct config_key *policy = config_find_key("quantization", "policy");
    const int weight_bits = method_weight_bits(quantization);
    const int activation_bits = method_activation_bits(quantization);
    if (weight_bits != 4 && weight_bits != 8)
        return config_fault(origin, error, "quantization.weight_bits is %d, but must be 4, 8 or 0",
                            weight_bits);
    if (weight_bits != 4 && method_rounding(quantization) == ROUNDING_GPTQ)
        return config_fault(origin, error,
                            "quantization.weight_bits is %d, but GPTQ's rounding is for 4 bits",
                            weight_bits);
    if (weight_bits == 8 && quantization->clip != CLIP_NONE)
        return config_fault(origin, error, "quantization.clip = \"%s\" is for 4-bit weights",
                            config_find_key("quantization", "clip")->choices[quantization->clip]);
    if (activation_bits != 8 && activation_bits != 16)
        return config_fault(origin, error,
                            "quantization.activation_bits is %d, but must be 8, 16 or 0",
                            activation_bits);
    if (quantization->policy == POLICY_BY_ERROR && activation_bits == 16)
        return config_fault(
            origin, error,
            "quantization.policy = \"error\" chooses how activations are quantized, but "
            "activation_bits is 16");
    if (method->policies >> quantization->policy & 1u)
        return STATUS_OK;
    struct config_key taken = *policy;
    char words[200];
    taken.not_available = ~(unsigned long)method->policies;
    config_key_values(&taken, words, sizeof words);
    return config_fault(
        origin, error, "quantization.policy = \"%s\" is not for method = \"%s\", which takes %s",
        policy->choices[quantization->policy],
        config_find_key("quantization", "method")->choices[quantization->method], words);
}

/* What cannot be had from ranges alone. */
static enum status check_ranges(const struct config *config, const struct config_origin *origin,
                                struct error *error) {
    const struct config_quantization *quantization = &config->quantization;
    const char *needs = method_rounding(quantization) == ROUNDING_GPTQ ? "GPTQ's rounding"
                        : quantization->policy == POLICY_BY_ERROR      ? "policy = \"error\""
                        : quantization->clip == CLIP_OUTPUT            ? "clip = \"output\""
                        : quantization->rotation != ROTATION_NONE      ? "rotation"
                        : quantization->static_scale == STATIC_SCALE_LEAST_SQUARES
                            ? "static_scale = \"least-squares\""
                            : NULL;
    if (!config->calibration.ranges || !needs)
        return STATUS_OK;
    return config_fault(origin, error,
                        "calibration.ranges takes nothing but ranges from a checkpoint, and %s "
                        "needs more of the activations: calibrate instead, or do without it",
                        needs);
}

enum status config_check_quantization(const struct config *config,
                                      const struct config_origin *origin, struct error *error) {
    const struct config_quantization *quantization = &config->quantization;
    const struct config_calibration *calibration = &config->calibration;
    if (!config->output.checkpoint)
        return config_fault(origin, error, "the key checkpoint of [output] is missing: %s",
                            config_find_key("output", "checkpoint")->help);
    if (!calibration->random_tokens && !calibration->data && !calibration->ranges)
        return config_fault(origin, error, "the key data of [calibration] is missing: %s",
                            config_find_key("calibration", "data")->help);
    if (quantization->v0 > quantization->v1)
        return config_fault(origin, error, "quantization.v0 (%g) is above quantization.v1 (%g)",
                            (double)quantization->v0, (double)quantization->v1);
    const enum status status = check_method(quantization, origin, error);
    return status ? status : check_ranges(config, origin, error);
}

enum status config_check_evaluation(const struct config *config, const struct config_origin *origin,
                                    struct error *error) {
    const struct config_evaluation *evaluation = &config->evaluation;
    bool some = false;
    for (int set = 0; set < EVALUATION_SET_COUNT; set++)
        some |= evaluation->sets[set] != NULL;
    if (!some)
        return config_fault(origin, error,
                            "[evaluation] names no set: give wikitext2 = \"FILE\" or "
                            "another (--help lists them)");
    if (!evaluation->full_precision && !evaluation->checkpoint)
        return config_fault(
            origin, error,
            "evaluation.full_precision is false, and there is no evaluation.checkpoint: "
            "nothing to evaluate");
    if (evaluation->kv_cache == CACHE_INT8 && !evaluation->checkpoint)
        return config_fault(
            origin, error,
            "evaluation.kv_cache is \"int8\", which is for a checkpoint, and there is no "
            "evaluation.checkpoint");
    if (evaluation->sensitivity &&
        (!evaluation->checkpoint || !evaluation->full_precision ||
         !(evaluation->sets[EVALUATION_WIKITEXT2] || evaluation->sets[EVALUATION_PTB])))
        return config_fault(
            origin, error,
            "evaluation.sensitivity = \"%s\" compares evaluation.checkpoint with "
            "the model (full_precision) on a text (wikitext2, ptb): one of them is "
            "missing",
            config_find_key("evaluation", "sensitivity")->choices[evaluation->sensitivity]);
    if (evaluation->sequence_length == 1)
        return config_fault(origin, error,
                            "evaluation.sequence_length is 1: a window of one token "
                            "predicts nothing");
    return STATUS_OK;
}

const char *config_rotation_name(const struct config *config) {
    return config_find_key("quantization", "rotation")->choices[config->quantization.rotation];
}

const char *config_method_name(const struct config *config) {
    return config_find_key("quantization", "method")->choices[config->quantization.method];
}

bool config_needs_sample(const struct config *config) {
    return config->quantization.policy == POLICY_BY_ERROR ||
           config->quantization.clip == CLIP_OUTPUT ||
           config->quantization.static_scale == STATIC_SCALE_LEAST_SQUARES;
}

struct quantize_format config_weight_format(const struct config *config) {
    const struct config_quantization *quantization = &config->quantization;
    const int bits = method_weight_bits(quantization);
    return (struct quantize_format){.group_size = bits == 8 ? 0 : quantization->group_size,
                                    .symmetric = bits == 8 || quantization->symmetric,
                                    .range = quantization->range,
                                    .scale_type = quantization->scale_type,
                                    .bits = bits};
}
