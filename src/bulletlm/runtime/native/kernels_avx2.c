/* The kernels for x86-64 processors with AVX2 (Intel from Haswell, AMD from Zen). */

#include <math.h>

#include "model.h"

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
const struct kernels kernels_avx2 = {"avx2", cpu_has_avx2_fma, 0, forward};
#endif
