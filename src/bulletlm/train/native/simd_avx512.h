/* Vectors of 16 numbers, for x86-64 processors with AVX-512 VNNI. */

#include <immintrin.h>

enum {
    LANES = 16,
    ROWS = 8,   /* rows of a tile of the int8 product */
    PANEL = 32, /* its columns: two vectors */
    A_ROWS = 4, /* rows of a tile of attention's products */
    A_VECTORS = 4,
};

typedef __m512 vf;
typedef __m512i vi;

static ALWAYS_INLINE vf zero(void) { return _mm512_setzero_ps(); }
static ALWAYS_INLINE vf all(float x) { return _mm512_set1_ps(x); }
static ALWAYS_INLINE vf load(const float *p) { return _mm512_loadu_ps(p); }
static ALWAYS_INLINE void store(float *p, vf x) { _mm512_storeu_ps(p, x); }
static ALWAYS_INLINE vf fma_(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
/* If one is NaN, the second. */
static ALWAYS_INLINE vf min_(vf a, vf b) { return _mm512_min_ps(a, b); }
static ALWAYS_INLINE vf max_(vf a, vf b) { return _mm512_max_ps(a, b); }
static ALWAYS_INLINE float sum_of(vf x) { return _mm512_reduce_add_ps(x); }
static ALWAYS_INLINE float max_of(vf x) { return _mm512_reduce_max_ps(x); }

static ALWAYS_INLINE vi zeros(void) { return _mm512_setzero_si512(); }
static ALWAYS_INLINE vi all_int(int32_t x) { return _mm512_set1_epi32(x); }
static ALWAYS_INLINE vi load_int(const void *p) { return _mm512_loadu_si512(p); }
static ALWAYS_INLINE void store_int(void *p, vi x) { _mm512_storeu_si512(p, x); }
static ALWAYS_INLINE vi add_int(vi a, vi b) { return _mm512_add_epi32(a, b); }
static ALWAYS_INLINE vi max_int(vi a, vi b) { return _mm512_max_epi32(a, b); }
static ALWAYS_INLINE int32_t sum_of_int(vi x) { return _mm512_reduce_add_epi32(x); }
static ALWAYS_INLINE int32_t max_of_int(vi x) { return _mm512_reduce_max_epi32(x); }
static ALWAYS_INLINE vi multiply_int(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
static ALWAYS_INLINE vi shift_right_8(vi x) { return _mm512_srai_epi32(x, 8); }
static ALWAYS_INLINE vi bits_of(vf x) { return _mm512_castps_si512(x); }
static ALWAYS_INLINE vi magnitude(vf x) { return _mm512_and_si512(bits_of(x), _mm512_set1_epi32(0x7fffffff)); }
static ALWAYS_INLINE vi nearest(vf x) { return _mm512_cvtps_epi32(x); }
static ALWAYS_INLINE vf to_float(vi x) { return _mm512_cvtepi32_ps(x); }

/* c + the sums of four products of each lane: b unsigned, a signed bytes. */
static ALWAYS_INLINE vi dot(vi c, vi b, vi a) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(c) : "v"(b), "v"(a)); /* gcc copies c to and fro if it may choose */
    return c;
}

/* The numbers of a vector, which fit, as bytes. */
static ALWAYS_INLINE void store_bytes(int8_t *p, vi x) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(x)); }

/* Four vectors' low bytes, interleaved: lane i holds a[i], b[i], c[i], d[i]. */
static ALWAYS_INLINE vi interleave(vi a, vi b, vi c, vi d) {
    const vi low = _mm512_set1_epi32(0xff), two = _mm512_set1_epi32(0xffff);
    vi ab = _mm512_or_si512(_mm512_and_si512(a, low), _mm512_slli_epi32(_mm512_and_si512(b, low), 8));
    vi cd = _mm512_or_si512(_mm512_and_si512(c, low), _mm512_slli_epi32(d, 8));
    return _mm512_or_si512(_mm512_and_si512(ab, two), _mm512_slli_epi32(cd, 16));
}

static ALWAYS_INLINE vf load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}

/* Rounded to nearest, halves up. */
static ALWAYS_INLINE void store_bf16(uint16_t *p, vf x) {
    vi rounded = _mm512_srli_epi32(_mm512_add_epi32(bits_of(x), _mm512_set1_epi32(0x8000)), 16);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(rounded));
}

static ALWAYS_INLINE vf swap_pairs(vf x) { return _mm512_permute_ps(x, 0xb1); }

/* 1 / x to the last bit but one. */
static ALWAYS_INLINE vf reciprocal(vf x) {
    vf y = _mm512_rcp14_ps(x);
    return _mm512_mul_ps(y, _mm512_fnmadd_ps(x, y, _mm512_set1_ps(2.0f)));
}

/* x * 2^n of a whole number n. */
static ALWAYS_INLINE vf scale_by_power(vf x, vf n) { return _mm512_scalef_ps(x, n); }
static ALWAYS_INLINE vf whole(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

/* The lanes of groups of ROWS, each group `apart` bytes after the one before. */
static ALWAYS_INLINE void store_groups(int8_t *p, int64_t apart, vi x) {
    _mm256_storeu_si256((__m256i *)p, _mm512_castsi512_si256(x));
    _mm256_storeu_si256((__m256i *)(p + apart), _mm512_extracti64x4_epi64(x, 1));
}

/* A square of LANES x LANES numbers, turned. */
static ALWAYS_INLINE void transpose(const float *x, int64_t ld, float *out, int64_t ld_out) {
    vf a[16], b[16];
    UNROLL for (int i = 0; i < 16; i += 2) { /* pairs of rows, number by number */
        const vf one = load(x + i * ld), two = load(x + (i + 1) * ld);
        a[i] = _mm512_unpacklo_ps(one, two);
        a[i + 1] = _mm512_unpackhi_ps(one, two);
    }
    UNROLL for (int i = 0; i < 16; i += 4) { /* fours: b[i + j] has column j of each quarter */
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm512_shuffle_ps(a[i + j], a[i + 2 + j], 0x44);
            b[i + 2 * j + 1] = _mm512_shuffle_ps(a[i + j], a[i + 2 + j], 0xee);
        }
    }
    UNROLL for (int j = 0; j < 4; j++) {
        const vf low = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x88), high = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x88);
        const vf low_odd = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xdd), high_odd = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xdd);
        store(out + j * ld_out, _mm512_shuffle_f32x4(low, high, 0x88));
        store(out + (8 + j) * ld_out, _mm512_shuffle_f32x4(low, high, 0xdd));
        store(out + (4 + j) * ld_out, _mm512_shuffle_f32x4(low_odd, high_odd, 0x88));
        store(out + (12 + j) * ld_out, _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd));
    }
}
