/* Small helpers that both libraries use (runtime/native and train/native). */
#ifndef COMMON_H
#define COMMON_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* n rounded up to a multiple, for any integer type; n is not negative. Evaluates `multiple` more than once. */
#define ROUND_UP(n, multiple) (((n) + (multiple) - 1) / (multiple) * (multiple))

enum { ALIGN_BYTES = 64 }; /* a cache line, and the widest vector */

static inline float f32_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_from_f32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

#if defined(__x86_64__)
static inline bool cpu_has_avx2_fma(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

/* AVX-512 VNNI, with the instructions for bytes, words and short vectors. */
static inline bool cpu_has_avx512_vnni(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}
#endif

#endif
