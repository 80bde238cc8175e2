/* The code of kernels_avx_vnni.c with the instruction as processors with AVX-512 know it: so that it can be tested on these too.
 * It is slower there than kernels_avx512.c, and only taken when it is asked for. */

#include "trainer.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define VPDPBUSD "vpdpbusd"
#include "simd_avx2.h"

#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

static bool supported(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

const struct engine engine_avx512_half = {"avx512_half", supported, refresh, run};
#endif
