/* Vectors of 8 lanes: AVX2 and FMA, with or without 256-bit VNNI. The file that includes this defines VPDPBUSD and VPDPWSSD, the
 * assembler names of its dot products, or neither on a CPU without them.
 * simd_avx512.h has the same functions for 16 lanes. */

#include <immintrin.h>

enum {
    LANES = 8,
    TILE_ROWS = 4,        /* rows of a register tile of matmul_int8 */
    PANEL = 16,           /* its columns: two vectors */
    F32_TILE_ROWS = 4,    /* rows of a register tile of matmul_f32 */
    F32_TILE_VECTORS = 2, /* its columns, in vectors */
};

typedef __m256 vf;  /* float[LANES] */
typedef __m256i vi; /* int32[LANES] */

static ALWAYS_INLINE vf zero_f32(void) { return _mm256_setzero_ps(); }
static ALWAYS_INLINE vf broadcast(float x) { return _mm256_set1_ps(x); }
static ALWAYS_INLINE vf load(const float *p) { return _mm256_loadu_ps(p); }
static ALWAYS_INLINE void store(float *p, vf x) { _mm256_storeu_ps(p, x); }
static ALWAYS_INLINE vf fmadd(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
/* The second operand if one of them is NaN. */
static ALWAYS_INLINE vf min_f32(vf a, vf b) { return _mm256_min_ps(a, b); }
static ALWAYS_INLINE vf max_f32(vf a, vf b) { return _mm256_max_ps(a, b); }

static ALWAYS_INLINE float reduce_add(vf x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

static ALWAYS_INLINE float reduce_max(vf x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

static ALWAYS_INLINE vi zero_i32(void) { return _mm256_setzero_si256(); }
static ALWAYS_INLINE vi broadcast_i32(int32_t x) { return _mm256_set1_epi32(x); }
static ALWAYS_INLINE vi load_i32(const void *p) { return _mm256_loadu_si256(p); }
static ALWAYS_INLINE void store_i32(void *p, vi x) { _mm256_storeu_si256(p, x); }
static ALWAYS_INLINE vi add_i32(vi a, vi b) { return _mm256_add_epi32(a, b); }
static ALWAYS_INLINE vi max_i32(vi a, vi b) { return _mm256_max_epi32(a, b); }

static ALWAYS_INLINE int32_t reduce_add_i32(vi x) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

static ALWAYS_INLINE int32_t reduce_max_i32(vi x) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

static ALWAYS_INLINE vi mul_i32(vi a, vi b) { return _mm256_mullo_epi32(a, b); }
static ALWAYS_INLINE vi shift_right_8(vi x) { return _mm256_srai_epi32(x, 8); }
static ALWAYS_INLINE vi cast_i32(vf x) { return _mm256_castps_si256(x); }
static ALWAYS_INLINE vi abs_bits(vf x) { return _mm256_and_si256(cast_i32(x), _mm256_set1_epi32(0x7fffffff)); }
static ALWAYS_INLINE vi cvt_i32(vf x) { return _mm256_cvtps_epi32(x); }
static ALWAYS_INLINE vf cvt_f32(vi x) { return _mm256_cvtepi32_ps(x); }

#ifdef VPDPBUSD
enum { DOT_OFFSET = 128 };

/* c + the sum of the four products (b + DOT_OFFSET) * a of each lane. b: bytes with 128 added; a: signed bytes. */
static ALWAYS_INLINE vi dot_u8i8(vi c, vi b, vi a) {
    __asm__(VPDPBUSD " %2, %1, %0" : "+x"(c) : "x"(b), "x"(a));
    return c;
}

/* c + the sum of the two products of 16-bit numbers of each lane. */
static ALWAYS_INLINE vi dot_i16(vi c, vi b, vi a) {
    __asm__(VPDPWSSD " %2, %1, %0" : "+x"(c) : "x"(b), "x"(a));
    return c;
}
#else
enum { DOT_OFFSET = 0 };

/* As above, for codes within +-127. |b| * (a with the sign of b): the sum of two products is at most 2 * 128 * 127, which int16 holds. */
static ALWAYS_INLINE vi dot_u8i8(vi c, vi b, vi a) {
    const vi code = _mm256_xor_si256(b, _mm256_set1_epi8(-128));
    const vi pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(a, code));
    return _mm256_add_epi32(c, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* c + the sum of the two products of 16-bit numbers of each lane. */
static ALWAYS_INLINE vi dot_i16(vi c, vi b, vi a) { return _mm256_add_epi32(c, _mm256_madd_epi16(b, a)); }
#endif

/* Lane i of the result: the low halves of a[i] and b[i]. */
static ALWAYS_INLINE vi interleave_halves(vi a, vi b) {
    return _mm256_or_si256(_mm256_and_si256(a, _mm256_set1_epi32(0xffff)), _mm256_slli_epi32(b, 16));
}

/* The lanes of a, then those of b, within int16, as 2 LANES int16. */
static ALWAYS_INLINE vi narrow_i16(vi a, vi b) { return _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8); }

static ALWAYS_INLINE vf sqrt_f32(vf x) { return _mm256_sqrt_ps(x); }

/* LANES int32, within int16, as 16-bit numbers. */
static ALWAYS_INLINE void store_i16(int16_t *p, vi x) {
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
}

/* LANES int32, within int8, as bytes. */
static ALWAYS_INLINE void store_i8(int8_t *p, vi x) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(words, words));
}

/* Lane i of the result: the low bytes of a[i], b[i], c[i], d[i]. */
static ALWAYS_INLINE vi interleave_bytes(vi a, vi b, vi c, vi d) {
    const vi low_byte = _mm256_set1_epi32(0xff), low_half = _mm256_set1_epi32(0xffff);
    vi ab = _mm256_or_si256(_mm256_and_si256(a, low_byte), _mm256_slli_epi32(_mm256_and_si256(b, low_byte), 8));
    vi cd = _mm256_or_si256(_mm256_and_si256(c, low_byte), _mm256_slli_epi32(d, 8));
    return _mm256_or_si256(_mm256_and_si256(ab, low_half), _mm256_slli_epi32(cd, 16));
}

/* Stores groups of TILE_ROWS lanes, `stride` bytes apart. */
static ALWAYS_INLINE void store_row_groups(int8_t *p, int64_t stride, vi x) {
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(x));
    _mm_storeu_si128((__m128i *)(p + stride), _mm256_extracti128_si256(x, 1));
}

static ALWAYS_INLINE vf load_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}

/* Rounded to nearest; ties away from zero. */
static ALWAYS_INLINE void store_bf16(uint16_t *p, vf x) {
    const vi rounded = _mm256_srli_epi32(_mm256_add_epi32(cast_i32(x), _mm256_set1_epi32(0x8000)), 16);
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)));
}

static ALWAYS_INLINE vf swap_pairs(vf x) { return _mm256_permute_ps(x, 0xb1); }

/* 1 / x: the hardware's estimate and one Newton step, relative error below 2^-22. */
static ALWAYS_INLINE vf reciprocal(vf x) {
    const vf y = _mm256_rcp_ps(x);
    return _mm256_mul_ps(y, _mm256_fnmadd_ps(x, y, _mm256_set1_ps(2.0f)));
}

/* x * 2^n for an integral n from -126 to 127. */
static ALWAYS_INLINE vf scale_pow2(vf x, vf n) {
    const vi exponent = _mm256_slli_epi32(_mm256_add_epi32(cvt_i32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(exponent));
}

static ALWAYS_INLINE vf round_f32(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

/* Transposes a square of LANES x LANES floats; rows are ld and ld_out floats apart. */
static ALWAYS_INLINE void transpose(const float *x, int64_t ld, float *out, int64_t ld_out) {
    vf a[8], b[8];
    UNROLL for (int i = 0; i < 8; i += 2) { /* pairs of rows, interleaved */
        const vf one = load(x + i * ld), two = load(x + (i + 1) * ld);
        a[i] = _mm256_unpacklo_ps(one, two);
        a[i + 1] = _mm256_unpackhi_ps(one, two);
    }
    UNROLL for (int i = 0; i < 8; i += 4) { /* groups of four rows: b[i + j] has column j of each half */
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
