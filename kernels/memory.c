#include "kernels/memory.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { LINE = 64, LARGE_PAGE = 2 << 20, LEAST_LARGE = 2 * LARGE_PAGE };

/* Only the whole large pages in it are asked for: it takes no more memory than small ones. */
void *memory_allocate(size_t bytes) {
    const size_t rounded = (bytes / LINE + 1) * LINE;
    if (bytes < LEAST_LARGE)
        return aligned_alloc(LINE, rounded);
    void *memory = NULL;
    if (posix_memalign(&memory, LARGE_PAGE, rounded) != 0)
        return NULL;
    madvise(memory, rounded / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE); /* a wish */
    return memory;
}
