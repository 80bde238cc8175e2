/* The 256-bit code of kernels_avx_vnni.c with the AVX-512 encoding of its dot product, so that it can be tested on processors that
 * have AVX-512 but not AVX-VNNI. Slower there than kernels_avx512.c, so it is only used when it is asked for by name. */

#include "optimizer.h"
#include "trainer.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define VPDPBUSD "vpdpbusd"
#define VPDPWSSD "vpdpwssd"
#include "simd_avx2.h"

#include "kernels.h"
#include "orthogonalize.h"
#include "update.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

static bool supported(void) { return cpu_has_avx2_fma() && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"); }

const struct kernels kernels_avx512_half = {"avx512_half", true, supported, load_weights, accumulate_gradients, load_teacher, distil};
const struct optimizer_kernels optimizer_avx512_half = {"avx512_half", supported, gradient_squares, update_parameters};
#endif
