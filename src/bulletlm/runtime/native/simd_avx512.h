/* Sixteen-lane vectors and dot products with AVX-512 VNNI. A 512-bit vector holds sixteen rows x four inputs; vpdpbusd multiplies unsigned
 * weight bytes by signed activation bytes, 64 products in one instruction.
 *
 * A 16-bit activation takes two of them (q = 256 * high + low). Widening the weights to 16 bits for vpdpwssd would cost more: for 128
 * weights 4 masks and shifts + 4 products instead of 2 masks + 4 products. High nibbles are not shifted down: as unsigned bytes they are
 * 16 times too large, and one exact shift of the finished sum corrects that. */

#include <immintrin.h>

typedef __m512 f32x16; /* one float for each row */

static inline f32x16 f32x16_zero(void) { return _mm512_setzero_ps(); }
static inline f32x16 f32x16_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void f32x16_store(float *p, f32x16 v) { _mm512_storeu_ps(p, v); }
static inline f32x16 f32x16_add(f32x16 a, f32x16 b) { return _mm512_add_ps(a, b); }
static inline f32x16 f32x16_from_i16(const int16_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p)));
}
static inline f32x16 f32x16_from_f16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
static inline f32x16 f32x16_fma(f32x16 acc, f32x16 a, float b) { return _mm512_fmadd_ps(a, _mm512_set1_ps(b), acc); }

static inline __m512i load64(const uint8_t *p) { return _mm512_load_si512((const void *)p); }
static inline __m512i broadcast_4(const int8_t *p) { /* four activations, for all rows */
    int32_t word;
    memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
}

/* sums + weights * the four activations at p. Assembler, because gcc emits two instructions for the intrinsic and a broadcast; with one,
 * "exact" is as fast as "turbo". */
static ALWAYS_INLINE __m512i dot_four(__m512i sums, __m512i weights, const int8_t *p) {
    typedef struct {
        int8_t x[4];
    } four_bytes;
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(weights), "m"(*(const four_bytes *)(const void *)p));
    return sums;
}

/* acc + weight scales * activation scale * the integer sums. Decode and prefill both use it, so that they round alike. */
static inline f32x16 add_scaled(f32x16 acc, __m512i sums, const uint8_t *scales, float scale) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(f32x16_from_f16(scales), _mm512_set1_ps(scale)), acc);
}

/* A BQ4 tile: four vectors of low nibbles, and four of high nibbles in their place, which are 16 times too large. */
struct nibbles {
    __m512i low[4], high[4];
};

/* once += low nibbles * the first 16 activations at q; times16 += high nibbles * the other 16. */
static ALWAYS_INLINE void dot_nibbles(__m512i *once, __m512i *times16, const struct nibbles *w, const int8_t *q) {
    UNROLL for (int i = 0; i < 4; i++) {
        *once = dot_four(*once, w->low[i], q + 4 * i);
        *times16 = dot_four(*times16, w->high[i], q + 16 + 4 * i);
    }
}

static ALWAYS_INLINE f32x16 dot_bq4(const uint8_t *tile, const uint8_t *scales, const struct act_block *x, int32_t blocks, bool turbo) {
    const __m512i low_mask = _mm512_set1_epi8(0x0f), high_mask = _mm512_set1_epi8((char)0xf0);
    f32x16 acc = f32x16_zero();
    for (int32_t b = 0; b < blocks; b++, tile += 256, scales += 32, x++) {
        struct nibbles w;
        UNROLL for (int i = 0; i < 4; i++) _mm_prefetch((const char *)tile + PREFETCH_BYTES + 64 * i, _MM_HINT_T0);
        UNROLL for (int i = 0; i < 4; i++) {
            const __m512i pairs = load64(tile + 64 * i);
            w.low[i] = _mm512_and_si512(pairs, low_mask);
            w.high[i] = _mm512_and_si512(pairs, high_mask);
        }
        __m512i once = _mm512_setzero_si512(), times16 = once;
        dot_nibbles(&once, &times16, &w, x->high);
        if (!turbo) {
            once = _mm512_slli_epi32(once, 8);
            times16 = _mm512_slli_epi32(times16, 8);
            dot_nibbles(&once, &times16, &w, x->low);
        }
        __m512i sums = _mm512_add_epi32(_mm512_add_epi32(once, _mm512_set1_epi32(x->offset_bq4)), _mm512_srai_epi32(times16, 4));
        acc = add_scaled(acc, sums, scales, x->scale);
    }
    return acc;
}

static ALWAYS_INLINE f32x16 dot_bq8(const uint8_t *tile, const uint8_t *scales, const struct act_block *x, int32_t blocks, bool turbo) {
    f32x16 acc = f32x16_zero();
    for (int32_t b = 0; b < blocks; b++, tile += 512, scales += 32, x++) {
        __m512i even = _mm512_setzero_si512(), odd = even;
        for (int i = 0; i < 4; i++) {
            even = dot_four(even, load64(tile + 128 * i), x->high + 8 * i);
            odd = dot_four(odd, load64(tile + 128 * i + 64), x->high + 8 * i + 4);
            _mm_prefetch((const char *)tile + PREFETCH_BYTES + 128 * i, _MM_HINT_T0);
            _mm_prefetch((const char *)tile + PREFETCH_BYTES + 128 * i + 64, _MM_HINT_T0);
        }
        __m512i sums = _mm512_add_epi32(even, odd);
        if (!turbo) {
            even = _mm512_slli_epi32(sums, 8);
            odd = _mm512_setzero_si512();
            for (int i = 0; i < 4; i++) {
                even = dot_four(even, load64(tile + 128 * i), x->low + 8 * i);
                odd = dot_four(odd, load64(tile + 128 * i + 64), x->low + 8 * i + 4);
            }
            sums = _mm512_add_epi32(even, odd);
        }
        acc = add_scaled(acc, _mm512_add_epi32(sums, _mm512_set1_epi32(x->offset_bq8)), scales, x->scale);
    }
    return acc;
}

/* Prefill: weights as unsigned bytes (a BQ8 tile, or a BQ4 tile unpacked to the same form) times several tokens in one register tile.
 * 6 tokens x 2 row groups: 12 integer sums, 12 float sums, 2 weights, 2 scales and 1 broadcast, of 32 registers. */
#define HAVE_DOT_TILE
enum { TILE_TOKENS = 6, UNPACKED_BYTES = 512 };

static inline void unpack_bq4(uint8_t *out, const uint8_t *tile) {
    const __m512i mask = _mm512_set1_epi8(0x0f);
    for (int i = 0; i < 4; i++) {
        __m512i p = load64(tile + 64 * i);
        _mm512_store_si512((void *)(out + 64 * i), _mm512_and_si512(p, mask));
        _mm512_store_si512((void *)(out + 256 + 64 * i), _mm512_and_si512(_mm512_srli_epi16(p, 4), mask));
    }
}

static inline void unpack_bq8(uint8_t *out, const uint8_t *tile) { memcpy(out, tile, 512); }

/* out[t][16 g ...] += the products of `blocks` blocks, for each token t and row group g; weights[g] are unpacked tiles, scales[g] their
 * float16 scales. */
static ALWAYS_INLINE void dot_tile(const int tokens, const int groups, const uint8_t *const weights[2], const uint8_t *const scales[2],
                                   bool bq8, const struct act_block *x, size_t x_stride, int32_t blocks, bool turbo, float *out,
                                   size_t out_stride) {
    f32x16 acc[TILE_TOKENS][2];
    UNROLL for (int t = 0; t < tokens; t++) UNROLL for (int g = 0; g < groups; g++)
        acc[t][g] = f32x16_load(out + (size_t)t * out_stride + 16 * g);
    for (int32_t b = 0; b < blocks; b++) {
        __m512i sums[TILE_TOKENS][2];
        UNROLL for (int t = 0; t < tokens; t++) UNROLL for (int g = 0; g < groups; g++) sums[t][g] = _mm512_setzero_si512();
        for (int i = 0; i < 8; i++) {
            __m512i w[2];
            UNROLL for (int g = 0; g < groups; g++) w[g] = load64(weights[g] + 512 * (size_t)b + 64 * i);
            UNROLL for (int t = 0; t < tokens; t++) {
                __m512i a = broadcast_4(x[(size_t)t * x_stride + (size_t)b].high + 4 * i);
                UNROLL for (int g = 0; g < groups; g++) sums[t][g] = _mm512_dpbusd_epi32(sums[t][g], w[g], a);
            }
        }
        if (!turbo) {
            UNROLL for (int t = 0; t < tokens; t++) UNROLL for (int g = 0; g < groups; g++)
                sums[t][g] = _mm512_slli_epi32(sums[t][g], 8);
            for (int i = 0; i < 8; i++) {
                __m512i w[2];
                UNROLL for (int g = 0; g < groups; g++) w[g] = load64(weights[g] + 512 * (size_t)b + 64 * i);
                UNROLL for (int t = 0; t < tokens; t++) {
                    __m512i a = broadcast_4(x[(size_t)t * x_stride + (size_t)b].low + 4 * i);
                    UNROLL for (int g = 0; g < groups; g++) sums[t][g] = _mm512_dpbusd_epi32(sums[t][g], w[g], a);
                }
            }
        }
        UNROLL for (int t = 0; t < tokens; t++) {
            const struct act_block *at = x + (size_t)t * x_stride + b;
            __m512i offset = _mm512_set1_epi32(bq8 ? at->offset_bq8 : at->offset_bq4);
            UNROLL for (int g = 0; g < groups; g++)
                acc[t][g] = add_scaled(acc[t][g], _mm512_add_epi32(sums[t][g], offset), scales[g] + 32 * (size_t)b, at->scale);
        }
    }
    UNROLL for (int t = 0; t < tokens; t++) UNROLL for (int g = 0; g < groups; g++)
        f32x16_store(out + (size_t)t * out_stride + 16 * g, acc[t][g]);
}
