/* Everything between the matrix products: RMSNorm, exp, SiLU, RoPE, and quantization of activations.
 * Plain loops, which the compiler vectorizes for the instruction set of the file that includes this one. */

/* Adding 1.5 * 2^23 rounds x to the nearest integer, ties to even, and leaves it in the low bits, for |x| < 2^22. */
#define ROUND_MAGIC 12582912.0f
#define ROUND_MAGIC_BITS 0x4b400000u

static inline int32_t cvt_i32(float x) { return (int32_t)(bits_from_f32(x + ROUND_MAGIC) - ROUND_MAGIC_BITS); }

/* c ? a : b with bit operations. For the conditional operator gcc computes both branches to the end of the function for every vector;
 * one of them was a division with subnormal results, which took 150 cycles each. */
static inline float select_f32(bool c, float a, float b) {
    uint32_t mask = 0u - (uint32_t)c;
    return f32_from_bits((bits_from_f32(a) & mask) | (bits_from_f32(b) & ~mask));
}

/* e^x = 2^n * e^r, |r| <= ln(2) / 2, e^r by its Taylor polynomial of degree 6; relative error below 2.5e-7. Arguments are
 * limited to [-60, 88]. exp(-60) is about 1e-26: too small to change a sum with 1, and even times a scale far from the subnormal
 * numbers, which take 150 cycles each and which the attention of a trained model would otherwise produce in large numbers. */
static inline float exp_approx(float x) {
    x = select_f32(x < -60.0f, -60.0f, x);
    x = select_f32(x > 88.0f, 88.0f, x);
    float shifted = x * 1.44269504f + ROUND_MAGIC, n = shifted - ROUND_MAGIC;
    float r = x - n * 0.693145752f;
    r -= n * 1.42860677e-6f;
    float p = 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * f32_from_bits((bits_from_f32(shifted) - ROUND_MAGIC_BITS + 127) << 23);
}

/* The largest |x| of x[n]. Compared as integers, which have the same order and may be reordered by the compiler; NaN and infinity
 * compare as larger than every finite number. */
static inline float max_abs(const float *x, int32_t n) {
    uint32_t largest = 0;
    for (int32_t i = 0; i < n; i++) {
        uint32_t bits = bits_from_f32(x[i]) & 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return f32_from_bits(largest);
}

/* The factor from numbers up to `largest` to integers up to `limit`; *scale is the factor back. Damaged weights can lead to infinite
 * activations: the scale becomes NaN, which reaches the logits and is reported there. */
static inline float quantization_scale(float largest, float limit, float *scale) {
    if (!(largest <= 3.4e38f)) {
        *scale = f32_from_bits(0x7fc00000);
        return 0.0f;
    }
    if (largest < 1e-30f) {
        *scale = 0.0f;
        return 0.0f;
    }
    *scale = largest / limit;
    return limit / largest;
}

/* Where kernels want integer i of a block among the 16-bit ones. */
#ifndef Q16_ORDER
#define Q16_ORDER(i) (i)
#endif

/* x[n] -> out[n / 32]. */
static void quantize_blocks(const float *x, struct act_block *out, int32_t n, bool turbo) {
    for (; n > 0; n -= BLOCK, x += BLOCK, out++) {
        float factor = quantization_scale(max_abs(x, BLOCK), turbo ? 127.0f : 32639.0f, &out->scale);
        int32_t q[BLOCK], sum = 0;
        for (int i = 0; i < BLOCK; i++) {
            q[i] = factor == 0.0f ? 0 : cvt_i32(x[i] * factor);
            sum += q[i];
        }
        for (int i = 0; i < BLOCK; i++) out->q16[Q16_ORDER(i)] = (int16_t)q[i];
        if (turbo) {
            for (int i = 0; i < BLOCK; i++) out->high[i] = (int8_t)q[i];
        } else {
            for (int i = 0; i < BLOCK; i++) out->high[i] = (int8_t)((q[i] + 128) >> 8);
            for (int i = 0; i < BLOCK; i++) out->low[i] = (int8_t)(uint8_t)(q[i] & 255);
        }
        out->offset_bq4 = -8 * sum;
        out->offset_bq8 = -128 * sum;
    }
}

/* x[n] -> int16 out[n * stride], every stride-th element; returns the scale. */
static inline float quantize_i16(const float *x, int16_t *out, int32_t n, size_t stride) {
    float scale, factor = quantization_scale(max_abs(x, n), 32767.0f, &scale);
    for (int32_t i = 0; i < n; i++) out[(size_t)i * stride] = (int16_t)(factor == 0.0f ? 0 : cvt_i32(x[i] * factor));
    return scale;
}

/* out[n] = x / sqrt(mean(x^2) + eps) * gain. The sum of squares is in 16 partial sums, in the same order for every instruction set. */
static void rms_norm(const float *x, const float *gain, float *out, int32_t n, double eps) {
    float squares[ROWS] = {0};
    for (int32_t i = 0; i < n; i += ROWS)
        for (int r = 0; r < ROWS; r++) squares[r] += x[i + r] * x[i + r];
    double sum = 0;
    for (int r = 0; r < ROWS; r++) sum += (double)squares[r];
    float factor = (float)(1.0 / sqrt(sum / n + eps));
    for (int32_t i = 0; i < n; i++) out[i] = x[i] * factor * gain[i];
}

/* gate[n] = silu(gate) * up */
static void silu_multiply(float *gate, const float *up, int32_t n) {
    for (int32_t i = 0; i < n; i++) gate[i] = gate[i] / (1.0f + exp_approx(-gate[i])) * up[i];
}

/* x[n] += y[n] */
static void add_in_place(float *x, const float *y, int32_t n) {
    for (int32_t i = 0; i < n; i++) x[i] += y[i];
}

/* out[head_dim] = the cosines, then the sines, of a position. */
static void rope_at(const struct model *m, int64_t position, float *out) {
    int32_t half = m->head_dim / 2;
    const double *fine = m->rope_fine + position % m->rope_fine_count * m->head_dim;
    const double *coarse = m->rope_coarse + position / m->rope_fine_count * m->head_dim;
    for (int32_t i = 0; i < half; i++) {
        out[i] = (float)(fine[2 * i] * coarse[2 * i] - fine[2 * i + 1] * coarse[2 * i + 1]);
        out[half + i] = (float)(fine[2 * i] * coarse[2 * i + 1] + fine[2 * i + 1] * coarse[2 * i]);
    }
}

/* Rotate one head [head_dim] in place, half = head_dim / 2. Its elements were reordered at load: all first members of the pairs, then
 * all second ones (source_row in repack.c). */
static void apply_rope(float *head, const float *rope, int32_t half) {
    for (int32_t i = 0; i < half; i++) {
        float a = head[i], b = head[half + i], c = rope[i], s = rope[half + i];
        head[i] = a * c - b * s;
        head[half + i] = a * s + b * c;
    }
}
