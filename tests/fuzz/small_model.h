/* A model for targets that read what belongs to one. */
#ifndef FPTQ_TESTS_FUZZ_SMALL_MODEL_H
#define FPTQ_TESTS_FUZZ_SMALL_MODEL_H

#include "pipeline/architecture.h"

/* LLaMA's, bf16, all weights zero: 1 layer, hidden 8, intermediate 10, 2 heads of 4, 1 KV head, 6
 * tokens, 16 positions, tied head. Written and opened at the first call; never closed. */
const struct model *fuzz_small_model(void);

#endif
