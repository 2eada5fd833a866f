#include "pipeline/layer_part.h"

#include <stdio.h>

void layer_part_name(int layer, char name[32]) {
    snprintf(name, 32, "layer-%05d", layer);
}
