/* Vectors of 8 numbers, for x86-64 processors with AVX2, FMA and 256-bit VNNI; VPDPBUSD is how its instruction is written. */

#include <immintrin.h>

enum {
    LANES = 8,
    ROWS = 4,   /* rows of a tile of the int8 product */
    PANEL = 16, /* its columns: two vectors */
    A_ROWS = 4, /* rows of a tile of attention's products */
    A_VECTORS = 2,
};

typedef __m256 vf;
typedef __m256i vi;

static ALWAYS_INLINE vf zero(void) { return _mm256_setzero_ps(); }
static ALWAYS_INLINE vf all(float x) { return _mm256_set1_ps(x); }
static ALWAYS_INLINE vf load(const float *p) { return _mm256_loadu_ps(p); }
static ALWAYS_INLINE void store(float *p, vf x) { _mm256_storeu_ps(p, x); }
static ALWAYS_INLINE vf fma_(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
/* If one is NaN, the second. */
static ALWAYS_INLINE vf min_(vf a, vf b) { return _mm256_min_ps(a, b); }
static ALWAYS_INLINE vf max_(vf a, vf b) { return _mm256_max_ps(a, b); }

static ALWAYS_INLINE float sum_of(vf x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

static ALWAYS_INLINE float max_of(vf x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

static ALWAYS_INLINE vi zeros(void) { return _mm256_setzero_si256(); }
static ALWAYS_INLINE vi all_int(int32_t x) { return _mm256_set1_epi32(x); }
static ALWAYS_INLINE vi load_int(const void *p) { return _mm256_loadu_si256(p); }
static ALWAYS_INLINE void store_int(void *p, vi x) { _mm256_storeu_si256(p, x); }
static ALWAYS_INLINE vi add_int(vi a, vi b) { return _mm256_add_epi32(a, b); }
static ALWAYS_INLINE vi max_int(vi a, vi b) { return _mm256_max_epi32(a, b); }

static ALWAYS_INLINE int32_t sum_of_int(vi x) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

static ALWAYS_INLINE int32_t max_of_int(vi x) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

static ALWAYS_INLINE vi multiply_int(vi a, vi b) { return _mm256_mullo_epi32(a, b); }
static ALWAYS_INLINE vi shift_right_8(vi x) { return _mm256_srai_epi32(x, 8); }
static ALWAYS_INLINE vi bits_of(vf x) { return _mm256_castps_si256(x); }
static ALWAYS_INLINE vi magnitude(vf x) { return _mm256_and_si256(bits_of(x), _mm256_set1_epi32(0x7fffffff)); }
static ALWAYS_INLINE vi nearest(vf x) { return _mm256_cvtps_epi32(x); }
static ALWAYS_INLINE vf to_float(vi x) { return _mm256_cvtepi32_ps(x); }

/* c + the sums of four products of each lane: b unsigned, a signed bytes. */
static ALWAYS_INLINE vi dot(vi c, vi b, vi a) {
    __asm__(VPDPBUSD " %2, %1, %0" : "+x"(c) : "x"(b), "x"(a));
    return c;
}

/* The numbers of a vector, which fit, as bytes. */
static ALWAYS_INLINE void store_bytes(int8_t *p, vi x) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(words, words));
}

/* Four vectors' low bytes, interleaved: lane i holds a[i], b[i], c[i], d[i]. */
static ALWAYS_INLINE vi interleave(vi a, vi b, vi c, vi d) {
    const vi low = _mm256_set1_epi32(0xff), two = _mm256_set1_epi32(0xffff);
    vi ab = _mm256_or_si256(_mm256_and_si256(a, low), _mm256_slli_epi32(_mm256_and_si256(b, low), 8));
    vi cd = _mm256_or_si256(_mm256_and_si256(c, low), _mm256_slli_epi32(d, 8));
    return _mm256_or_si256(_mm256_and_si256(ab, two), _mm256_slli_epi32(cd, 16));
}

/* The lanes of groups of ROWS, each group `apart` bytes after the one before. */
static ALWAYS_INLINE void store_groups(int8_t *p, int64_t apart, vi x) {
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(x));
    _mm_storeu_si128((__m128i *)(p + apart), _mm256_extracti128_si256(x, 1));
}

static ALWAYS_INLINE vf load_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}

/* Rounded to nearest, halves up. */
static ALWAYS_INLINE void store_bf16(uint16_t *p, vf x) {
    const vi rounded = _mm256_srli_epi32(_mm256_add_epi32(bits_of(x), _mm256_set1_epi32(0x8000)), 16);
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)));
}

static ALWAYS_INLINE vf swap_pairs(vf x) { return _mm256_permute_ps(x, 0xb1); }

/* 1 / x to the last bit but one. */
static ALWAYS_INLINE vf reciprocal(vf x) {
    const vf y = _mm256_rcp_ps(x);
    return _mm256_mul_ps(y, _mm256_fnmadd_ps(x, y, _mm256_set1_ps(2.0f)));
}

/* x * 2^n of a whole number n from -126 to 127. */
static ALWAYS_INLINE vf scale_by_power(vf x, vf n) {
    const vi exponent = _mm256_slli_epi32(_mm256_add_epi32(nearest(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(exponent));
}

static ALWAYS_INLINE vf whole(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

/* A square of LANES x LANES numbers, turned. */
static ALWAYS_INLINE void transpose(const float *x, int64_t ld, float *out, int64_t ld_out) {
    vf a[8], b[8];
    UNROLL for (int i = 0; i < 8; i += 2) { /* pairs of rows, number by number */
        const vf one = load(x + i * ld), two = load(x + (i + 1) * ld);
        a[i] = _mm256_unpacklo_ps(one, two);
        a[i + 1] = _mm256_unpackhi_ps(one, two);
    }
    UNROLL for (int i = 0; i < 8; i += 4) { /* fours: b[i + j] has column j of each half */
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm256_shuffle_ps(a[i + j], a[i + 2 + j], 0x44);
            b[i + 2 * j + 1] = _mm256_shuffle_ps(a[i + j], a[i + 2 + j], 0xee);
        }
    }
    UNROLL for (int j = 0; j < 4; j++) {
        store(out + j * ld_out, _mm256_permute2f128_ps(b[j], b[4 + j], 0x20));
        store(out + (4 + j) * ld_out, _mm256_permute2f128_ps(b[j], b[4 + j], 0x31));
    }
}
