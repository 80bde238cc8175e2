/* The training pass for x86-64 processors with AVX-512 VNNI (Intel from Ice Lake, AMD from Zen 4). */

#include "optimizer.h"
#include "trainer.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,prefer-vector-width=512")
#endif

#include "simd_avx512.h"

#include "kernels.h"
#include "orthogonalize.h"
#include "update.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

const struct kernels kernels_avx512 = {"avx512_vnni", true, cpu_has_avx512_vnni, load_weights, accumulate_gradients, load_teacher, distil};
const struct optimizer_kernels optimizer_avx512 = {"avx512_vnni", cpu_has_avx512_vnni, gradient_squares, update_parameters};
#endif
