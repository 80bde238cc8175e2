/* The kernels for 64-bit ARM processors with the dot product instruction (Cortex-A76 and later, Apple, Graviton 2). */

#include <math.h>

#include "model.h"

#if defined(__aarch64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#include <arm_neon.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

static inline int32x4_t dot4(int32x4_t acc, int8x16_t w, int8x16_t x) { return vdotq_s32(acc, w, x); }
#define dot4_lane(acc, w, x, lane) vdotq_laneq_s32(acc, w, x, lane)

#include "simd_neon.h"

#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

static bool supported(void) {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & 1 << 20) != 0; /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
    return true; /* every 64-bit Apple processor that runs macOS has it */
#else
    return false;
#endif
}

const struct kernels kernels_neon_dot = {"neon-dot", supported, 0, forward};
#endif
