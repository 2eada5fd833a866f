/* What a quantization method is, as data: nothing else in the program asks for its name. */
#ifndef FPTQ_PIPELINE_METHOD_H
#define FPTQ_PIPELINE_METHOD_H

#include <stdbool.h>

#include "pipeline/config.h"

struct method {
    int weight_bits, activation_bits; /* where the configuration leaves them to the method */
    unsigned policies;                /* bit of each enum policy_rule that it takes */
    enum policy_rule range_means;     /* what its policy = "range" is */
    /* Every site that a norm produces has SmoothQuant's scale. Else sites have FPTQ's, if their
     * policy equalizes. */
    bool smooths;
    enum rounding_rule rounding; /* GPTQ's whatever the configuration says; or as it says */
};

const struct method *method_of(const struct config_quantization *quantization);

/* In effect: the configuration's, or the method's own. weight: 4, in groups, or 8, one scale a row;
 * activation: 8, or 16 where activations are not quantized. */
int method_weight_bits(const struct config_quantization *quantization);
int method_activation_bits(const struct config_quantization *quantization);
/* How weights are rounded: the configuration's way, or the method's own. */
enum rounding_rule method_rounding(const struct config_quantization *quantization);
/* What chooses each site's policy, never "range" where the method means another by it. */
enum policy_rule method_policy_rule(const struct config_quantization *quantization);

#endif
