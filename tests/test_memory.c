#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/memory.h"

/* Every byte asked for is there, and the address is what vector loads want. */
static void memory_is_aligned_and_whole(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 64, 4095, (4 << 20) - 1, 4 << 20, (7 << 20) + 5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *memory = memory_allocate(sizes[i]);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % 64, 0);
        memset(memory, 0x5a, sizes[i]);
        for (size_t byte = 0; byte < sizes[i]; byte += 61)
            assert_int_equal(memory[byte], 0x5a);
        free(memory);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_aligned_and_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
