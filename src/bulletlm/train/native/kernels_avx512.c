/* The pass for x86-64 processors with AVX-512 VNNI (Intel from Ice Lake, AMD from Zen 4). */

#include "trainer.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,prefer-vector-width=512")
#endif

#include "simd_avx512.h"

#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

static bool supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

const struct engine engine_avx512 = {"avx512_vnni", supported, refresh, run};
#endif
