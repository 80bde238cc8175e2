/* Distillation for x86-64 processors with AVX2 and FMA and without VNNI. Training itself is not faster than in torch there. */

#include "trainer.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#include "simd_avx2.h"

#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

const struct kernels kernels_avx2 = {"avx2", false, cpu_has_avx2_fma, load_weights, accumulate_gradients, load_teacher, distil};
#endif
