/* The path for x86-64 processors with AVX2 (Intel from Haswell, AMD from Zen). */

#include "common.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#include "simd_avx2.h"

#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

/* Every processor with AVX2 has F16C. */
static bool supported(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

const struct path path_avx2 = {"avx2", supported, 0, forward};
#endif
