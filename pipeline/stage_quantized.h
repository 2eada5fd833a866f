/* Layers of a stage from a checkpoint: integer products for what is quantized. */
#ifndef FPTQ_PIPELINE_STAGE_QUANTIZED_H
#define FPTQ_PIPELINE_STAGE_QUANTIZED_H

#include "pipeline/quantized_model.h"
#include "pipeline/stage.h"

/* Of stage->quantized: a layer's linears, norms and what is done to its activations. Linears whose
 * activations are not quantized multiply floats in the stage's precision: by the 4-bit levels, or
 * by 8-bit ones brought to floats. */
enum status stage_load_quantized_layer(struct stage *stage, int layer, struct error *error);
/* The embedding and its norm. */
enum status stage_load_quantized_embedding(struct stage *stage, struct error *error);

#endif
