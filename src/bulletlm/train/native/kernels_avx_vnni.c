/* The pass for x86-64 processors with AVX-VNNI, which is VNNI without AVX-512 (Intel's Core from the 12th generation on). */

#include "trainer.h"

#if defined(__x86_64__) && KNOWS_AVX_VNNI
#include <cpuid.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define VPDPBUSD "%{vex%} vpdpbusd"
#include "simd_avx2.h"

#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

static bool supported(void) {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

const struct engine engine_avx_vnni = {"avx_vnni", supported, refresh, run};
#endif
