#include "pipeline/method.h"

enum {
    RANGE = 1u << POLICY_BY_RANGE,
    STATIC = 1u << POLICY_ALL_STATIC,
    EQUALIZED = 1u << POLICY_ALL_EQUALIZED,
    DYNAMIC = 1u << POLICY_ALL_DYNAMIC,
    EQUALIZED_DYNAMIC = 1u << POLICY_ALL_EQUALIZED_DYNAMIC,
    MEASURED = 1u << POLICY_BY_ERROR,
};

const struct method *method_of(const struct config_quantization *quantization) {
    static const struct method methods[] = {
        [METHOD_FPTQ] = {.weight_bits = 4,
                         .activation_bits = 8,
                         .policies =
                             RANGE | MEASURED | STATIC | EQUALIZED | DYNAMIC | EQUALIZED_DYNAMIC,
                         .range_means = POLICY_BY_RANGE},
        [METHOD_RTN] = {.weight_bits = 4,
                        .activation_bits = 8,
                        .policies = RANGE | STATIC | DYNAMIC,
                        .range_means = POLICY_ALL_DYNAMIC},
        [METHOD_SMOOTHQUANT] = {.weight_bits = 8,
                                .activation_bits = 8,
                                .policies = RANGE | STATIC | DYNAMIC,
                                .range_means = POLICY_ALL_DYNAMIC,
                                .smooths = true},
        [METHOD_GPTQ] = {.weight_bits = 4,
                         .activation_bits = 16,
                         .policies = RANGE | STATIC | DYNAMIC,
                         .range_means = POLICY_ALL_DYNAMIC,
                         .rounding = ROUNDING_GPTQ},
    };
    return &methods[quantization->method];
}

int method_weight_bits(const struct config_quantization *quantization) {
    return quantization->weight_bits ? quantization->weight_bits
                                     : method_of(quantization)->weight_bits;
}

int method_activation_bits(const struct config_quantization *quantization) {
    return quantization->activation_bits ? quantization->activation_bits
                                         : method_of(quantization)->activation_bits;
}

enum rounding_rule method_rounding(const struct config_quantization *quantization) {
    return method_of(quantization)->rounding == ROUNDING_GPTQ ? ROUNDING_GPTQ
                                                              : quantization->rounding;
}

enum policy_rule method_policy_rule(const struct config_quantization *quantization) {
    return quantization->policy == POLICY_BY_RANGE ? method_of(quantization)->range_means
                                                   : quantization->policy;
}
