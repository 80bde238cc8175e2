/* The whole computation for one path. A kernels_*.c file chooses the instruction set, includes its dot products, then this. */

#include "activation.h"
#include "matmul.h"
#include "attention.h"
#include "forward.h"
