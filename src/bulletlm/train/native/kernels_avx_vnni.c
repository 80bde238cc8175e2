/* The training pass for x86-64 processors with AVX-VNNI, which is VNNI without AVX-512 (Intel Core from the 12th generation). */

#include "optimizer.h"
#include "trainer.h"

#if defined(__x86_64__) && HAVE_AVX_VNNI
#include <cpuid.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define VPDPBUSD "%{vex%} vpdpbusd"
#define VPDPWSSD "%{vex%} vpdpwssd"
#include "simd_avx2.h"

#include "kernels.h"
#include "orthogonalize.h"
#include "update.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

static bool supported(void) {
    unsigned a, b, c, d;
    return cpu_has_avx2_fma() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

const struct kernels kernels_avx_vnni = {"avx_vnni", true, supported, load_weights, accumulate_gradients, load_teacher, distil};
const struct optimizer_kernels optimizer_avx_vnni = {"avx_vnni", supported, gradient_squares, update_parameters};
#endif
