/* Before a checkpoint is written: is the place fit for it, and clear of what an earlier run left?
 */
#ifndef FPTQ_IO_CHECKPOINT_PREPARE_H
#define FPTQ_IO_CHECKPOINT_PREPARE_H

#include <stdint.h>

#include "io/status.h"

/* `output` is NAME.h5. STATUS_INPUT when its name does not end in .h5, it is a folder, or its
 * folder is not there or not writable. Makes NAME.parts/, and removes the .h5 and .h5.tmp files in
 * it and NAME.h5.tmp; in the sharded layout they belong to a checkpoint of that name, whose NAME.h5
 * goes too. */
enum status checkpoint_prepare(const char *output, struct error *error);
/* Bytes of the files in NAME.parts/; 0 when there are none. */
int64_t checkpoint_parts_bytes(const char *output);

#endif
