/* The path for every processor. */

#include "common.h"

#include "simd_portable.h"

#include "kernels.h"

static bool supported(void) { return true; }

const struct path path_portable = {"portable", supported, 0, forward};
