/* The computation for one instruction set. Each kernels_*.c chooses the instruction set, includes its vectors and dot products
 * (simd_*.h), then this; so there is no function pointer inside a forward pass. */

#include "activation.h"
#include "matmul.h"
#include "attention.h"
#include "forward.h"
