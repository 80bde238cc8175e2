/* The kernels for every processor, in plain C. */

#include <math.h>

#include "model.h"

#include "simd_portable.h"

#include "kernels.h"

static bool supported(void) { return true; }

const struct kernels kernels_portable = {"portable", supported, 0, forward};
