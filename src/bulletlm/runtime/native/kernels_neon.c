/* The kernels for 64-bit ARM processors without the dot product instruction (Cortex-A53, A72: Raspberry Pi 3 and 4). */

#include <math.h>

#include "model.h"

#if defined(__aarch64__)
#include <arm_neon.h>

/* acc[row] += the sum of four products. A product fits into 16 bits (128 * 128), a sum of two does not. */
static inline int32x4_t dot4(int32x4_t acc, int8x16_t w, int8x16_t x) {
    int16x8_t first = vmull_s8(vget_low_s8(w), vget_low_s8(x)), second = vmull_high_s8(w, x);
    return vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(first), vpaddlq_s16(second)));
}
#define dot4_lane(acc, w, x, lane) dot4(acc, w, vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), lane)))

#include "simd_neon.h"

#include "kernels.h"

static bool supported(void) { return true; }

const struct kernels kernels_neon = {"neon", supported, 0, forward};
#endif
