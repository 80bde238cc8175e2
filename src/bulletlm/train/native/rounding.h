/* Quantization to int8 codes with one scale for each row, x ~ scale * code (docs/training-library.md).
 *
 * Three ways: to nearest (weights and activations), stochastic (gradients; unbiased), and in a high and a low byte (the gradient of
 * the logits). Every function also gives the sum of the codes of a row, which matmul.h needs. */

#define MAX_CODE 127.0f
/* For rows of bfloat16: rounding to bfloat16 may have made a number larger than the measured maximum, by 1/256 at most. */
#define MAX_CODE_BF16 126.5f
#define LOW_BYTE_STEPS 254.0f /* steps of the low byte in one step of the high byte */
#define MIN_ROW_MAX 1e-30f    /* smaller rows become zeros; keeps 1 / scale finite */
#define GOLDEN (-1640531527)  /* 2^32 / golden ratio: Fibonacci hashing (Knuth, The Art of Computer Programming, vol. 3, 6.4) */

/* A pseudo-random number in (-1/2, 1/2) for each lane, a hash of the bits of `source`. The range is a little smaller than 1 so that
 * 127 plus noise never rounds to 128. */
static ALWAYS_INLINE vf hash_noise(vf source) {
    return cvt_f32(shift_right_8(mul_i32(cast_i32(source), broadcast_i32(GOLDEN)))) * broadcast(0x1p-24f - 0x1p-37f);
}

/* The largest of 16 or 8 magnitudes given as bits, but at least MIN_ROW_MAX. Compared as integers, NaN and infinity are larger than
 * every finite number, so they reach the scale and the result. */
static ALWAYS_INLINE float row_max_from_bits(vi bits) {
    float x = f32_from_bits((uint32_t)reduce_max_i32(bits));
    return x < MIN_ROW_MAX ? MIN_ROW_MAX : x;
}

/* x[n] -> for each lane the bits of the largest |x|. */
static ALWAYS_INLINE vi row_max_bits(const float *x, int64_t n) {
    vi max_bits = zero_i32();
    for (int64_t i = 0; i < n; i += LANES) max_bits = max_i32(max_bits, abs_bits(load(x + i)));
    return max_bits;
}

/* x[n] -> codes[n], rounded to nearest; their scale and their sum. n is a multiple of LANES, here and below. */
static void quantize_nearest(const float *x, int64_t n, int8_t *codes, float *scale, int32_t *sum) {
    const float row_max = row_max_from_bits(row_max_bits(x, n));
    const vf inverse = broadcast(MAX_CODE / row_max);
    vi total = zero_i32();
    for (int64_t i = 0; i < n; i += LANES) {
        const vi code = cvt_i32(load(x + i) * inverse);
        total = add_i32(total, code);
        store_i8(codes + i, code);
    }
    *scale = row_max * (1.0f / MAX_CODE);
    *sum = reduce_add_i32(total);
}

/* x[n] -> codes[n] with stochastic rounding; `max_bits` as row_max_bits gives it, for the whole row. */
static void quantize_stochastic(const float *x, int64_t n, vi max_bits, int8_t *codes, float *scale, int32_t *sum) {
    const float row_max = row_max_from_bits(max_bits);
    const vf inverse = broadcast(MAX_CODE / row_max);
    vi total = zero_i32();
    for (int64_t i = 0; i < n; i += LANES) {
        const vf exact = load(x + i);
        const vi code = cvt_i32(fmadd(exact, inverse, hash_noise(exact)));
        total = add_i32(total, code);
        store_i8(codes + i, code);
    }
    *scale = row_max * (1.0f / MAX_CODE);
    *sum = reduce_add_i32(total);
}

/* x[n] ~ scale * (high + low / LOW_BYTE_STEPS): the high byte to nearest, the low byte with stochastic rounding.
 * sums[2]: of the high and of the low codes. */
static void quantize_high_low(const float *x, int64_t n, vi max_bits, int8_t *high_codes, int8_t *low_codes, float *scale, int32_t *sums) {
    const float row_max = row_max_from_bits(max_bits);
    const vf inverse = broadcast(MAX_CODE / row_max);
    vi high_total = zero_i32(), low_total = zero_i32();
    for (int64_t i = 0; i < n; i += LANES) {
        const vf source = load(x + i), exact = source * inverse;
        const vi high = cvt_i32(exact);
        const vi low = cvt_i32(fmadd(exact - cvt_f32(high), broadcast(LOW_BYTE_STEPS), hash_noise(source)));
        high_total = add_i32(high_total, high), low_total = add_i32(low_total, low);
        store_i8(high_codes + i, high);
        store_i8(low_codes + i, low);
    }
    *scale = row_max * (1.0f / MAX_CODE);
    sums[0] = reduce_add_i32(high_total), sums[1] = reduce_add_i32(low_total);
}

/* Four rows of n codes, `ld` bytes apart, become k = 4 quad ... 4 quad + 3 of the panels of n columns (k = 4 quads in all). */
static void pack_four_rows(const int8_t *rows, int64_t ld, int64_t n, uint8_t *panels, int64_t quads, int64_t quad) {
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

/* The codes of n tokens (n, width), `ld` bytes apart, into `saved`, from `first_token` on, which is a multiple of 4. If n is not,
 * the rows up to the next multiple are set to zero and stored too. */
static void save_input(int8_t *rows, int64_t ld, int64_t n, int64_t width, struct saved_input *saved, int64_t first_token, int64_t tokens) {
    if (n % 4) memset(rows + n * ld, 0, (size_t)((4 - n % 4) * ld));
    for (int64_t t = 0; t < n; t += 4) pack_four_rows(rows + t * ld, ld, width, saved->panels, tokens / 4, (first_token + t) / 4);
}

/* The place of a token and a column in output_grad.strips. */
static ALWAYS_INLINE uint16_t *strip_at(uint16_t *strips, int64_t tokens, int64_t token, int64_t column) {
    return strips + (column / STRIP * tokens + token) * STRIP + column % STRIP;
}

/* The left operand of a weight's gradient: a strip [tokens][STRIP] times the scales of its tokens' saved inputs, transposed, with
 * stochastic rounding and one scale for each of the STRIP columns. out: the layout of left_packed (matmul.h).
 * column_max, scales, sums: [STRIP]. */
static void quantize_strip(const uint16_t *strip, int64_t tokens, const float *token_scales, const float *column_max, int8_t *out,
                           float *scales, int32_t *sums) {
    vf inverse[STRIP / LANES];
    vi total[STRIP / LANES];
    /* Written so that NaN stays. */
    for (int i = 0; i < STRIP; i++) scales[i] = (column_max[i] < MIN_ROW_MAX ? MIN_ROW_MAX : column_max[i]) * (1.0f / MAX_CODE_BF16);
    UNROLL for (int v = 0; v < STRIP / LANES; v++) {
        inverse[v] = broadcast(1.0f) / load(scales + v * LANES);
        total[v] = zero_i32();
    }
    for (int64_t t = 0; t < tokens; t += 4, strip += 4 * STRIP, out += TILE_ROWS * 4) {
        UNROLL for (int v = 0; v < STRIP / LANES; v++) {
            vi code[4];
            UNROLL for (int r = 0; r < 4; r++) {
                const vf source = load_bf16(strip + r * STRIP + v * LANES) * broadcast(token_scales[t + r]);
                code[r] = cvt_i32(fmadd(source, inverse[v], hash_noise(source)));
                total[v] = add_i32(total[v], code[r]);
            }
            store_row_groups(out + v * LANES * tokens, tokens * TILE_ROWS, interleave_bytes(code[0], code[1], code[2], code[3]));
        }
    }
    UNROLL for (int v = 0; v < STRIP / LANES; v++) store_i32(sums + v * LANES, total[v]);
}

/* column_max[LANES] = max(column_max, |x * scale|), compared as bits like row_max_from_bits. */
static ALWAYS_INLINE void update_column_max(float *column_max, vf x, vf scale) {
    store_i32(column_max, max_i32(load_i32(column_max), abs_bits(x * scale)));
}
