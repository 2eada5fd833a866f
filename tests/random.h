/* Fresh random inputs for the tests, from a seed that is printed. FPTQ_TEST_SEED repeats a run. */
#ifndef FPTQ_TESTS_RANDOM_H
#define FPTQ_TESTS_RANDOM_H

#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct random {
    uint64_t state;
};

static inline struct random random_start(void) {
    const char *given = getenv("FPTQ_TEST_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const uint64_t seed = given != NULL
                              ? strtoull(given, NULL, 10)
                              : (uint64_t)now.tv_sec * 1000000007u + (uint64_t)now.tv_nsec;
    printf("FPTQ_TEST_SEED=%" PRIu64 "\n", seed);
    return (struct random){.state = seed};
}

/* splitmix64 (Steele, Lea and Flood 2014) */
static inline uint64_t random_bits(struct random *random) {
    uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* low .. high, both included */
static inline int64_t random_integer(struct random *random, int64_t low, int64_t high) {
    return low + (int64_t)(random_bits(random) % (uint64_t)(high - low + 1));
}

/* uniform in [0, 1) */
static inline double random_uniform(struct random *random) {
    return (double)(random_bits(random) >> 11) * 0x1p-53;
}

/* standard normal (Box and Muller 1958) */
static inline float random_normal(struct random *random) {
    const double radius = sqrt(-2.0 * log(1.0 - random_uniform(random)));
    return (float)(radius * cos(6.283185307179586 * random_uniform(random)));
}

#endif
