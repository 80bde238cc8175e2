/* The kernels for WebAssembly with 128-bit vectors (every browser since 2023). */

#include <math.h>

#include "model.h"

#if defined(__wasm_simd128__)
#include "simd_wasm.h"

#include "kernels.h"

/* A browser without these vectors refuses the whole module, so the program that loads it has already checked. */
static bool supported(void) { return true; }

const struct kernels kernels_simd128 = {"simd128", supported, 0x80, forward};
#endif
