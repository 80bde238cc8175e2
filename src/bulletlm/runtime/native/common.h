/* What a kernels_*.c file includes before it chooses its instructions. */

#include <math.h>

#include "model.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* Bytes that weights are asked for ahead of their use; processors' own prefetchers stop at each 4 KB page. */
#define PREFETCH 4096
