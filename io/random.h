/* Random numbers that are the same on every machine: SplitMix64 (Steele, Lea, Flood, "Fast
 * splittable pseudorandom number generators", OOPSLA 2014): a counter in steps of the golden ratio,
 * and a mixing function (Stafford's variant 13). */
#ifndef FPTQ_IO_RANDOM_H
#define FPTQ_IO_RANDOM_H

#include <stdint.h>

struct random_state {
    uint64_t counter; /* start it with the seed */
};

static inline uint64_t random_next(struct random_state *state) {
    uint64_t z = state->counter += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Uniform in [0, limit), without bias: a draw from the incomplete last cycle of 2^64 mod limit
 * values is thrown away. limit >= 1. */
static inline uint64_t random_below(struct random_state *state, uint64_t limit) {
    uint64_t excess = (UINT64_MAX % limit + 1) % limit; /* 2^64 mod limit */
    for (;;) {
        uint64_t value = random_next(state);
        if (value <= UINT64_MAX - excess)
            return value % limit;
    }
}

#endif
