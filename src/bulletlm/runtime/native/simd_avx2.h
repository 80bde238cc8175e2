/* Sixteen-lane vectors and dot products with AVX2, FMA and F16C. A 256-bit vector holds eight rows x four inputs.
 *
 * maddubs multiplies unsigned weight bytes by signed activation bytes and adds pairs in 16 bits. With nibbles a pair is at most
 * 2 * 15 * 128, so the 8 pairs of a block fit into 16 bits (30720) and are widened once. BQ8 would overflow there: its bytes are widened
 * to 16 bits and multiplied with 16-bit activations (pmaddwd). */

#include <immintrin.h>

typedef struct {
    __m256 a, b; /* rows 0-7, rows 8-15 */
} f32x16;

static inline f32x16 f32x16_zero(void) { return (f32x16){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline f32x16 f32x16_load(const float *p) { return (f32x16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void f32x16_store(float *p, f32x16 v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}
static inline f32x16 f32x16_add(f32x16 x, f32x16 y) { return (f32x16){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline __m128i load16(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
static inline __m256i load32(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline f32x16 f32x16_from_i16(const int16_t *p) {
    return (f32x16){_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(load16(p))), _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(load16(p + 8)))};
}
static inline f32x16 f32x16_from_f16(const uint8_t *p) { return (f32x16){_mm256_cvtph_ps(load16(p)), _mm256_cvtph_ps(load16(p + 16))}; }
static inline f32x16 f32x16_fma(f32x16 acc, f32x16 x, float y) {
    __m256 broadcast = _mm256_set1_ps(y);
    return (f32x16){_mm256_fmadd_ps(x.a, broadcast, acc.a), _mm256_fmadd_ps(x.b, broadcast, acc.b)};
}

static inline __m256i broadcast_4(const void *p) { /* four bytes, or two 16-bit integers, for all rows */
    int32_t word;
    memcpy(&word, p, 4);
    return _mm256_set1_epi32(word);
}

/* acc + weight scales * activation scale * the integer sums. Decode and prefill both use it, so that they round alike. */
static inline f32x16 add_scaled(f32x16 acc, __m256i sums_a, __m256i sums_b, const uint8_t *scales, float scale) {
    f32x16 s = f32x16_from_f16(scales);
    __m256 broadcast = _mm256_set1_ps(scale);
    return (f32x16){_mm256_fmadd_ps(_mm256_cvtepi32_ps(sums_a), _mm256_mul_ps(s.a, broadcast), acc.a),
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums_b), _mm256_mul_ps(s.b, broadcast), acc.b)};
}

/* The integer sums of eight rows of a BQ4 tile, without the offset. */
static ALWAYS_INLINE __m256i dot_8_rows_bq4(const uint8_t *tile, const struct act_block *x, bool turbo) {
    const __m256i mask = _mm256_set1_epi8(0x0f), ones = _mm256_set1_epi16(1);
    __m256i high = _mm256_setzero_si256(), low = high;
    UNROLL for (int i = 0; i < 4; i++) {
        __m256i p = load32(tile + 64 * i);
        __m256i first = _mm256_and_si256(p, mask), second = _mm256_and_si256(_mm256_srli_epi16(p, 4), mask);
        high = _mm256_add_epi16(high, _mm256_maddubs_epi16(first, broadcast_4(x->high + 4 * i)));
        high = _mm256_add_epi16(high, _mm256_maddubs_epi16(second, broadcast_4(x->high + 16 + 4 * i)));
        if (!turbo) {
            low = _mm256_add_epi16(low, _mm256_maddubs_epi16(first, broadcast_4(x->low + 4 * i)));
            low = _mm256_add_epi16(low, _mm256_maddubs_epi16(second, broadcast_4(x->low + 16 + 4 * i)));
        }
    }
    __m256i sums = _mm256_madd_epi16(high, ones);
    return turbo ? sums : _mm256_add_epi32(_mm256_slli_epi32(sums, 8), _mm256_madd_epi16(low, ones));
}

static ALWAYS_INLINE f32x16 dot_bq4(const uint8_t *tile, const uint8_t *scales, const struct act_block *x, int32_t blocks, bool turbo) {
    f32x16 acc = f32x16_zero();
    for (int32_t b = 0; b < blocks; b++, tile += 256, scales += 32, x++) {
        UNROLL for (int i = 0; i < 4; i++) _mm_prefetch((const char *)tile + PREFETCH_BYTES + 64 * i, _MM_HINT_T0);
        __m256i offset = _mm256_set1_epi32(x->offset_bq4);
        __m256i sums_a = _mm256_add_epi32(dot_8_rows_bq4(tile, x, turbo), offset);
        __m256i sums_b = _mm256_add_epi32(dot_8_rows_bq4(tile + 32, x, turbo), offset);
        acc = add_scaled(acc, sums_a, sums_b, scales, x->scale);
    }
    return acc;
}

/* The integer sums of eight rows of a BQ8 tile. Of each row's four bytes, 0 and 2 are multiplied first, then 1 and 3: a shift by 8
 * widens every second byte. */
static ALWAYS_INLINE __m256i dot_8_rows_bq8(const uint8_t *tile, const struct act_block *x) {
    __m256i sums = _mm256_setzero_si256();
    UNROLL for (int i = 0; i < 8; i++) {
        __m256i p = load32(tile + 64 * i);
        __m256i broadcast = _mm256_broadcastq_epi64(_mm_loadl_epi64((const __m128i *)(const void *)(x->q16 + 4 * i)));
        __m256i even = _mm256_shuffle_epi8(broadcast, _mm256_set1_epi32(0x05040100));
        __m256i odd = _mm256_shuffle_epi8(broadcast, _mm256_set1_epi32(0x07060302));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_srai_epi16(_mm256_slli_epi16(p, 8), 8), even));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_srai_epi16(p, 8), odd));
    }
    return sums;
}

static ALWAYS_INLINE f32x16 dot_bq8(const uint8_t *tile, const uint8_t *scales, const struct act_block *x, int32_t blocks, bool turbo) {
    (void)turbo; /* q16 holds the 8-bit integers then */
    f32x16 acc = f32x16_zero();
    for (int32_t b = 0; b < blocks; b++, tile += 512, scales += 32, x++) {
        UNROLL for (int i = 0; i < 8; i++) _mm_prefetch((const char *)tile + PREFETCH_BYTES + 64 * i, _MM_HINT_T0);
        acc = add_scaled(acc, dot_8_rows_bq8(tile, x), dot_8_rows_bq8(tile + 32, x), scales, x->scale);
    }
    return acc;
}

/* Prefill: weights unpacked to 16 bits, int16[16 pairs of inputs][16 rows][2], times several tokens in one register tile. 4 tokens x 16
 * rows: 8 integer sums, 2 weights and 1 broadcast, of 16 registers; the float sums stay in memory. */
#define HAVE_DOT_TILE
enum { TILE_TOKENS = 4, UNPACKED_BYTES = 1024 };

/* The four bytes of each of eight rows -> two vectors of pairs of int16, 64 bytes apart. */
static inline void store_pairs(uint8_t *out, __m256i p, bool is_signed) {
    const __m256i first = _mm256_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9,
                                           -1, 12, -1, 13, -1);
    __m256i a = _mm256_shuffle_epi8(p, first), b = _mm256_shuffle_epi8(_mm256_srli_epi32(p, 16), first);
    if (is_signed) {
        a = _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8);
        b = _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8);
    }
    _mm256_store_si256((__m256i *)(void *)out, a);
    _mm256_store_si256((__m256i *)(void *)(out + 64), b);
}

static inline void unpack_bq4(uint8_t *out, const uint8_t *tile) {
    const __m256i mask = _mm256_set1_epi8(0x0f);
    for (int i = 0; i < 8; i++) { /* half i % 2 of vector i / 2 */
        __m256i p = load32(tile + 32 * i);
        uint8_t *at = out + 128 * (i / 2) + 32 * (i % 2);
        store_pairs(at, _mm256_and_si256(p, mask), false);
        store_pairs(at + 512, _mm256_and_si256(_mm256_srli_epi16(p, 4), mask), false);
    }
}

static inline void unpack_bq8(uint8_t *out, const uint8_t *tile) {
    for (int i = 0; i < 16; i++) store_pairs(out + 128 * (i / 2) + 32 * (i % 2), load32(tile + 32 * i), true);
}

/* out[t][16 g ...] += the products of `blocks` blocks, for each token t and row group g; weights[g] are unpacked tiles, scales[g] their
 * float16 scales. */
static ALWAYS_INLINE void dot_tile(const int tokens, const int groups, const uint8_t *const weights[2], const uint8_t *const scales[2],
                                   bool bq8, const struct act_block *x, size_t x_stride, int32_t blocks, bool turbo, float *out,
                                   size_t out_stride) {
    (void)turbo;
    for (int g = 0; g < groups; g++) {
        for (int32_t b = 0; b < blocks; b++) {
            __m256i sums[TILE_TOKENS][2];
            UNROLL for (int t = 0; t < tokens; t++) sums[t][0] = sums[t][1] = _mm256_setzero_si256();
            const uint8_t *w = weights[g] + (size_t)b * UNPACKED_BYTES;
            for (int i = 0; i < 16; i++) {
                __m256i w0 = load32(w + 64 * i), w1 = load32(w + 64 * i + 32);
                UNROLL for (int t = 0; t < tokens; t++) {
                    __m256i a = broadcast_4(x[(size_t)t * x_stride + (size_t)b].q16 + 2 * i);
                    sums[t][0] = _mm256_add_epi32(sums[t][0], _mm256_madd_epi16(w0, a));
                    sums[t][1] = _mm256_add_epi32(sums[t][1], _mm256_madd_epi16(w1, a));
                }
            }
            UNROLL for (int t = 0; t < tokens; t++) {
                const struct act_block *at = x + (size_t)t * x_stride + b;
                __m256i offset = _mm256_set1_epi32(bq8 ? 0 : at->offset_bq4);
                float *o = out + (size_t)t * out_stride + 16 * g;
                f32x16_store(o, add_scaled(f32x16_load(o), _mm256_add_epi32(sums[t][0], offset), _mm256_add_epi32(sums[t][1], offset),
                                           scales[g] + 32 * (size_t)b, at->scale));
            }
        }
    }
}
