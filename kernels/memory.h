/* Memory for large arrays. */
#ifndef FPTQ_KERNELS_MEMORY_H
#define FPTQ_KERNELS_MEMORY_H

#include <stddef.h>

/* `bytes` (or a few more), aligned to 64 bytes; from some MiB on in large pages where the system
 * has them, since products of matrices touch so many pages that looking them up takes a tenth of
 * their time. To be given to free(). NULL when memory runs out. */
void *memory_allocate(size_t bytes);

#endif
