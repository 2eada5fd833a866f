/* Before a checkpoint is written: is the place fit for it, and clear of what an earlier run left?
 */
#ifndef FPTQ_IO_CHECKPOINT_PREPARE_H
#define FPTQ_IO_CHECKPOINT_PREPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "io/status.h"

/* `output` is NAME.h5. STATUS_INPUT when its name does not end in .h5, it is a folder, its folder
 * is not there or not writable, or its disk has no room for `bytes` (what is in NAME.parts/
 * counts). Makes NAME.parts/. */
enum status checkpoint_prepare(const char *output, int64_t bytes, struct error *error);
/* Remove what earlier runs left in NAME.parts/: temporary files alone, or everything. Parts may
 * belong to a checkpoint of that name in the sharded layout, whose NAME.h5 then goes too. */
enum status checkpoint_clear(const char *output, bool temporary_only, int *removed,
                             struct error *error);
/* Bytes of the files in NAME.parts/; 0 when there are none. */
int64_t checkpoint_parts_bytes(const char *output);

#endif
