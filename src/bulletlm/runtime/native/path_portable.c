/* The path for every processor. */

#include "common.h"

#include "dot_portable.h"

#include "path.h"

static bool supported(void) { return true; }

const struct path path_portable = {"portable", supported, 0, forward};
