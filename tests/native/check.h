/* Shared by the checks of C code: counters, and pseudo-random numbers that are the same in every run. */

#include <stdint.h>
#include <stdio.h>

static int passed, failed;

#define CHECK(condition, ...)                      \
    do {                                           \
        if (condition) {                           \
            passed++;                              \
        } else {                                   \
            failed++;                              \
            printf("%s:%d: ", __FILE__, __LINE__); \
            printf(__VA_ARGS__);                   \
            printf("\n");                          \
        }                                          \
    } while (0)

static uint64_t seed = 88172645463325252u;

static uint32_t random_bits(void) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (uint32_t)(seed >> 32);
}

static double uniform(void) { return random_bits() / 4294967296.0; }
