/* Everything between the matrix products: norms, exp, SiLU, RoPE, and rounding activations to integers.
 * Plain loops; the compiler makes vectors of them for the processor of the path that includes this file. */

/* Round to the nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves the integer in the low bits. */
#define ROUNDER 12582912.0f
#define ROUNDER_BITS 0x4b400000u

static inline int32_t to_nearest(float x) { return (int32_t)(bits_of_float(x + ROUNDER) - ROUNDER_BITS); }

/* c ? a : b by bits. From the conditional operator gcc makes branches, follows each to its end, and computes all of them
 * for every vector; one was a division that gave subnormal numbers, which cost 150 cycles each time. */
static inline float choose(bool c, float a, float b) {
    uint32_t mask = 0u - (uint32_t)c;
    return float_from_bits((bits_of_float(a) & mask) | (bits_of_float(b) & ~mask));
}

/* exp to 2 units in the last place: e^x = 2^n * e^r with |r| <= ln(2) / 2. Above 88 it gives 1e38. Below -60 it gives about 1e-26:
 * no sum with 1 notices that, and times a scale it is still far from the subnormal numbers, which cost 150 cycles each and
 * of which the attention of a trained model would be full. */
static inline float exp_of(float x) {
    x = choose(x < -60.0f, -60.0f, x);
    x = choose(x > 88.0f, 88.0f, x);
    float shifted = x * 1.44269504f + ROUNDER, n = shifted - ROUNDER;
    float r = x - n * 0.693145752f;
    r -= n * 1.42860677e-6f;
    float p = 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * float_from_bits((bits_of_float(shifted) - ROUNDER_BITS + 127) << 23);
}

/* The largest |x|. As integers, because the order is the same and the compiler may reorder them; NaN and infinity come
 * out as what is above the largest finite number. */
static inline float largest(const float *x, int32_t n) {
    uint32_t top = 0;
    for (int32_t i = 0; i < n; i++) {
        uint32_t bits = bits_of_float(x[i]) & 0x7fffffff;
        top = bits > top ? bits : top;
    }
    return float_from_bits(top);
}

/* The factor that takes numbers up to `top` to integers up to `limit`, and the factor back. Damaged weights can make
 * infinities; they become NaN here, stay it to the logits, and are reported there. */
static inline float integer_scale(float top, float limit, float *back) {
    if (!(top <= 3.4e38f)) {
        *back = float_from_bits(0x7fc00000);
        return 0.0f;
    }
    if (top < 1e-30f) {
        *back = 0.0f;
        return 0.0f;
    }
    *back = top / limit;
    return limit / top;
}

/* float32[n] -> n / 32 blocks of integers. */
static void quantize(const float *x, struct act *out, int32_t n, bool turbo) {
    for (; n > 0; n -= BLOCK, x += BLOCK, out++) {
        float factor = integer_scale(largest(x, BLOCK), turbo ? 127.0f : 32639.0f, &out->scale);
        int32_t q[BLOCK], sum = 0;
        for (int i = 0; i < BLOCK; i++) {
            q[i] = factor == 0.0f ? 0 : to_nearest(x[i] * factor);
            sum += q[i];
        }
        for (int i = 0; i < BLOCK; i++) out->wide[i] = (int16_t)q[i];
        if (turbo) {
            for (int i = 0; i < BLOCK; i++) out->high[i] = (int8_t)q[i];
        } else {
            for (int i = 0; i < BLOCK; i++) out->high[i] = (int8_t)((q[i] + 128) >> 8);
            for (int i = 0; i < BLOCK; i++) out->low[i] = (int8_t)(uint8_t)(q[i] & 255);
        }
        out->minus_8 = -8 * sum;
        out->minus_128 = -128 * sum;
    }
}

/* float32[n] -> int16[n], `step` apart; gives the scale. */
static inline float quantize_16(const float *x, int16_t *out, int32_t n, size_t step) {
    float back, factor = integer_scale(largest(x, n), 32767.0f, &back);
    for (int32_t i = 0; i < n; i++) out[(size_t)i * step] = (int16_t)(factor == 0.0f ? 0 : to_nearest(x[i] * factor));
    return back;
}

/* x / sqrt(mean(x^2) + eps) * gain */
static void rms_norm(const float *x, const float *gain, float *out, int32_t n, double eps) {
    float squares[ROWS] = {0};
    for (int32_t i = 0; i < n; i += ROWS)
        for (int r = 0; r < ROWS; r++) squares[r] += x[i + r] * x[i + r];
    double sum = 0;
    for (int r = 0; r < ROWS; r++) sum += (double)squares[r];
    float factor = (float)(1.0 / sqrt(sum / n + eps));
    for (int32_t i = 0; i < n; i++) out[i] = x[i] * factor * gain[i];
}

/* gate = silu(gate) * up */
static void silu_times(float *gate, const float *up, int32_t n) {
    for (int32_t i = 0; i < n; i++) gate[i] = gate[i] / (1.0f + exp_of(-gate[i])) * up[i];
}

static void add_to(float *x, const float *y, int32_t n) {
    for (int32_t i = 0; i < n; i++) x[i] += y[i];
}

/* The cosines, then the sines, of a position. */
static void rotation_of(const struct model *m, int64_t position, float *out) {
    int32_t half = m->head_dim / 2;
    const double *fine = m->fine + position % m->fine_count * m->head_dim, *coarse = m->coarse + position / m->fine_count * m->head_dim;
    for (int32_t i = 0; i < half; i++) {
        out[i] = (float)(fine[2 * i] * coarse[2 * i] - fine[2 * i + 1] * coarse[2 * i + 1]);
        out[half + i] = (float)(fine[2 * i] * coarse[2 * i + 1] + fine[2 * i + 1] * coarse[2 * i]);
    }
}

/* Rotate one head in place. Its rows were reordered at load: all first members of the pairs, then all second ones. */
static void rotate(float *head, const float *rotation, int32_t half) {
    for (int32_t i = 0; i < half; i++) {
        float a = head[i], b = head[half + i], c = rotation[i], s = rotation[half + i];
        head[i] = a * c - b * s;
        head[half + i] = a * s + b * c;
    }
}
