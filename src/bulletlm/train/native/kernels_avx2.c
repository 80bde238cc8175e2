/* Distillation and optimizer for x86-64 processors with AVX2 and FMA and without VNNI. Training passes are not faster than in torch there. */

#include "optimizer.h"
#include "trainer.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#include "simd_avx2.h"

#include "kernels.h"
#include "orthogonalize.h"
#include "update.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

const struct kernels kernels_avx2 = {"avx2", false, cpu_has_avx2_fma, load_weights, accumulate_gradients, load_teacher, distil};
const struct optimizer_kernels optimizer_avx2 = {"avx2", cpu_has_avx2_fma, gradient_squares, update_parameters};
#endif
