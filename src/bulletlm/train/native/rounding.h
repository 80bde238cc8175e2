/* Rounding to int8 with one scale a row, as bulletlm/train/int8.py does it. */

#define LARGEST 127.0f
#define LARGEST_HALF 126.5f  /* of bfloat16, which may be 1/512 larger than what was measured before rounding */
#define DIGIT 254.0f         /* steps of a second digit in one of the first */
#define GOLDEN (-1640531527) /* 2^32 / golden ratio: Fibonacci hashing (Knuth, The Art of Computer Programming, vol. 3, 6.4) */

/* Within +-1/2 and decided by the bits of `source`; a little less than 1/2, or 127 and a half would be rounded to 128. */
static ALWAYS_INLINE vf noise(vf source) {
    return to_float(shift_right_8(multiply_int(bits_of(source), all_int(GOLDEN)))) * all(0x1p-24f - 0x1p-37f);
}

static ALWAYS_INLINE float as_float(int32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* The larger of the magnitudes in `bits` and 1e-30. As integers infinity and NaN are the largest of all, so they are not lost. */
static ALWAYS_INLINE float largest_of(vi bits) {
    float x = as_float(max_of_int(bits));
    return x < 1e-30f ? 1e-30f : x;
}

static ALWAYS_INLINE vi largest_in(const float *x, int64_t n) {
    vi most = zeros();
    for (int64_t i = 0; i < n; i += LANES) most = max_int(most, magnitude(load(x + i)));
    return most;
}

/* n numbers, rounded to nearest: steps, their size, their sum. */
static void round_nearest(const float *x, int64_t n, int8_t *out, float *scale, int32_t *sum) {
    const float largest = largest_of(largest_in(x, n));
    const vf inverse = all(LARGEST / largest);
    vi total = zeros();
    for (int64_t i = 0; i < n; i += LANES) {
        const vi step = nearest(load(x + i) * inverse);
        total = add_int(total, step);
        store_bytes(out + i, step);
    }
    *scale = largest * (1.0f / LARGEST);
    *sum = sum_of_int(total);
}

/* The same, right in the mean; `most` holds magnitudes among which the largest is. */
static void round_dithered(const float *x, int64_t n, vi most, int8_t *out, float *scale, int32_t *sum) {
    const float largest = largest_of(most);
    const vf inverse = all(LARGEST / largest);
    vi total = zeros();
    for (int64_t i = 0; i < n; i += LANES) {
        const vf exact = load(x + i);
        const vi step = nearest(fma_(exact, inverse, noise(exact)));
        total = add_int(total, step);
        store_bytes(out + i, step);
    }
    *scale = largest * (1.0f / LARGEST);
    *sum = sum_of_int(total);
}

/* In two digits: the second one counts 1 / DIGIT of the first. */
static void round_in_two(const float *x, int64_t n, vi most, int8_t *first, int8_t *second, float *scale, int32_t *sums) {
    const float largest = largest_of(most);
    const vf inverse = all(LARGEST / largest);
    vi total = zeros(), rest = zeros();
    for (int64_t i = 0; i < n; i += LANES) {
        const vf source = load(x + i), exact = source * inverse;
        const vi step = nearest(exact);
        const vi finer = nearest(fma_(exact - to_float(step), all(DIGIT), noise(source)));
        total = add_int(total, step), rest = add_int(rest, finer);
        store_bytes(first + i, step);
        store_bytes(second + i, finer);
    }
    *scale = largest * (1.0f / LARGEST);
    sums[0] = sum_of_int(total), sums[1] = sum_of_int(rest);
}

/* Four rows of n signed bytes, `ld` apart, as numbers `quad` * 4 ... + 3 of n columns in panels of k = 4 * quads. */
static void pack_quad(const int8_t *rows, int64_t ld, int64_t n, uint8_t *panels, int64_t quads, int64_t quad) {
    const __m128i offset = _mm_set1_epi8(-128);
    for (int64_t i = 0; i < n; i += 16) {
        __m128i row[4];
        for (int r = 0; r < 4; r++) row[r] = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(rows + r * ld + i)), offset);
        const __m128i ab = _mm_unpacklo_epi8(row[0], row[1]), cd = _mm_unpacklo_epi8(row[2], row[3]);
        const __m128i ef = _mm_unpackhi_epi8(row[0], row[1]), gh = _mm_unpackhi_epi8(row[2], row[3]);
        __m128i *to = (__m128i *)(panels + ((i / PANEL * quads + quad) * PANEL + i % PANEL) * 4);
        _mm_storeu_si128(to, _mm_unpacklo_epi16(ab, cd));
        _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(ab, cd));
        _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(ef, gh));
        _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(ef, gh));
    }
}

/* `n` rows that begin at token `at`, a multiple of 4; rows that are missing from the last four count as zeros. */
static void pack_rows(int8_t *rows, int64_t ld, int64_t n, int64_t width, struct kept *kept, int64_t at, int64_t tokens) {
    if (n % 4) memset(rows + n * ld, 0, (size_t)((4 - n % 4) * ld));
    for (int64_t t = 0; t < n; t += 4) pack_quad(rows + t * ld, ld, width, kept->panels, tokens / 4, (at + t) / 4);
}

/* Gradients that wait for their product with the activations: bfloat16, STRIP columns of all tokens together. */
static ALWAYS_INLINE uint16_t *strip_at(uint16_t *strips, int64_t tokens, int64_t token, int64_t column) {
    return strips + (column / STRIP * tokens + token) * STRIP + column % STRIP;
}

/* The left side of a weight's gradient: a strip of the gradient, each number times its token's scale, dithered with one scale a
 * column, in the order of `by_columns`. */
static void pack_strip(const uint16_t *strip, int64_t tokens, const float *token_scales, const float *largest, int8_t *out, float *scales,
                       int32_t *sums) {
    vf inverse[STRIP / LANES];
    vi total[STRIP / LANES];
    for (int i = 0; i < STRIP; i++) scales[i] = (largest[i] < 1e-30f ? 1e-30f : largest[i]) * (1.0f / LARGEST_HALF); /* NaN stays */
    UNROLL for (int v = 0; v < STRIP / LANES; v++) {
        inverse[v] = all(1.0f) / load(scales + v * LANES);
        total[v] = zeros();
    }
    for (int64_t t = 0; t < tokens; t += 4, strip += 4 * STRIP, out += ROWS * 4) {
        UNROLL for (int v = 0; v < STRIP / LANES; v++) {
            vi step[4];
            UNROLL for (int r = 0; r < 4; r++) {
                const vf source = load_bf16(strip + r * STRIP + v * LANES) * all(token_scales[t + r]);
                step[r] = nearest(fma_(source, inverse[v], noise(source)));
                total[v] = add_int(total[v], step[r]);
            }
            store_groups(out + v * LANES * tokens, tokens * ROWS, interleave(step[0], step[1], step[2], step[3]));
        }
    }
    UNROLL for (int v = 0; v < STRIP / LANES; v++) store_int(sums + v * LANES, total[v]);
}

/* largest[i] = max(largest[i], |x[i] * scale|), as bits: see largest_of. */
static ALWAYS_INLINE void note_largest(float *largest, vf x, vf scale) {
    store_int(largest, max_int(load_int(largest), magnitude(x * scale)));
}
