/* Vectors of 16 lanes: AVX-512 VNNI. simd_avx2.h has the same functions for 8 lanes. */

#include <immintrin.h>

enum {
    LANES = 16,
    TILE_ROWS = 8,        /* rows of a register tile of matmul_int8 */
    PANEL = 32,           /* its columns: two vectors */
    F32_TILE_ROWS = 4,    /* rows of a register tile of matmul_f32 */
    F32_TILE_VECTORS = 4, /* its columns, in vectors */
};

typedef __m512 vf;  /* float[LANES] */
typedef __m512i vi; /* int32[LANES] */

static ALWAYS_INLINE vf zero_f32(void) { return _mm512_setzero_ps(); }
static ALWAYS_INLINE vf broadcast(float x) { return _mm512_set1_ps(x); }
static ALWAYS_INLINE vf load(const float *p) { return _mm512_loadu_ps(p); }
static ALWAYS_INLINE void store(float *p, vf x) { _mm512_storeu_ps(p, x); }
static ALWAYS_INLINE vf fmadd(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
/* The second operand if one of them is NaN. */
static ALWAYS_INLINE vf min_f32(vf a, vf b) { return _mm512_min_ps(a, b); }
static ALWAYS_INLINE vf max_f32(vf a, vf b) { return _mm512_max_ps(a, b); }
static ALWAYS_INLINE float reduce_add(vf x) { return _mm512_reduce_add_ps(x); }
static ALWAYS_INLINE float reduce_max(vf x) { return _mm512_reduce_max_ps(x); }

static ALWAYS_INLINE vi zero_i32(void) { return _mm512_setzero_si512(); }
static ALWAYS_INLINE vi broadcast_i32(int32_t x) { return _mm512_set1_epi32(x); }
static ALWAYS_INLINE vi load_i32(const void *p) { return _mm512_loadu_si512(p); }
static ALWAYS_INLINE void store_i32(void *p, vi x) { _mm512_storeu_si512(p, x); }
static ALWAYS_INLINE vi add_i32(vi a, vi b) { return _mm512_add_epi32(a, b); }
static ALWAYS_INLINE vi max_i32(vi a, vi b) { return _mm512_max_epi32(a, b); }
static ALWAYS_INLINE int32_t reduce_add_i32(vi x) { return _mm512_reduce_add_epi32(x); }
static ALWAYS_INLINE int32_t reduce_max_i32(vi x) { return _mm512_reduce_max_epi32(x); }
static ALWAYS_INLINE vi mul_i32(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
static ALWAYS_INLINE vi shift_right_8(vi x) { return _mm512_srai_epi32(x, 8); }
static ALWAYS_INLINE vi cast_i32(vf x) { return _mm512_castps_si512(x); }
static ALWAYS_INLINE vi abs_bits(vf x) { return _mm512_and_si512(cast_i32(x), _mm512_set1_epi32(0x7fffffff)); }
static ALWAYS_INLINE vi cvt_i32(vf x) { return _mm512_cvtps_epi32(x); }
static ALWAYS_INLINE vf cvt_f32(vi x) { return _mm512_cvtepi32_ps(x); }

enum { DOT_OFFSET = 128 };

/* c + the sum of the four products (b + DOT_OFFSET) * a of each lane. b: bytes with 128 added; a: signed bytes. */
static ALWAYS_INLINE vi dot_u8i8(vi c, vi b, vi a) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(c) : "v"(b), "v"(a)); /* not the intrinsic: gcc adds copies of c around it */
    return c;
}

/* c + the sum of the two products of 16-bit numbers of each lane. */
static ALWAYS_INLINE vi dot_i16(vi c, vi b, vi a) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(c) : "v"(b), "v"(a));
    return c;
}

/* LANES int32, within int16, as 16-bit numbers. */
static ALWAYS_INLINE void store_i16(int16_t *p, vi x) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(x)); }

/* Lane i of the result: the low halves of a[i] and b[i]. */
static ALWAYS_INLINE vi interleave_halves(vi a, vi b) {
    return _mm512_or_si512(_mm512_and_si512(a, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(b, 16));
}

/* The lanes of a, then those of b, within int16, as 2 LANES int16. */
static ALWAYS_INLINE vi narrow_i16(vi a, vi b) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(a)), _mm512_cvtepi32_epi16(b), 1);
}

static ALWAYS_INLINE vf sqrt_f32(vf x) { return _mm512_sqrt_ps(x); }

/* LANES int32, within int8, as bytes. */
static ALWAYS_INLINE void store_i8(int8_t *p, vi x) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(x)); }

/* Lane i of the result: the low bytes of a[i], b[i], c[i], d[i]. */
static ALWAYS_INLINE vi interleave_bytes(vi a, vi b, vi c, vi d) {
    const vi low_byte = _mm512_set1_epi32(0xff), low_half = _mm512_set1_epi32(0xffff);
    vi ab = _mm512_or_si512(_mm512_and_si512(a, low_byte), _mm512_slli_epi32(_mm512_and_si512(b, low_byte), 8));
    vi cd = _mm512_or_si512(_mm512_and_si512(c, low_byte), _mm512_slli_epi32(d, 8));
    return _mm512_or_si512(_mm512_and_si512(ab, low_half), _mm512_slli_epi32(cd, 16));
}

static ALWAYS_INLINE vf load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}

/* Rounded to nearest; ties away from zero. */
static ALWAYS_INLINE void store_bf16(uint16_t *p, vf x) {
    vi rounded = _mm512_srli_epi32(_mm512_add_epi32(cast_i32(x), _mm512_set1_epi32(0x8000)), 16);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(rounded));
}

static ALWAYS_INLINE vf swap_pairs(vf x) { return _mm512_permute_ps(x, 0xb1); }

/* 1 / x: the hardware's estimate and one Newton step, relative error below 2^-22. */
static ALWAYS_INLINE vf reciprocal(vf x) {
    vf y = _mm512_rcp14_ps(x);
    return _mm512_mul_ps(y, _mm512_fnmadd_ps(x, y, _mm512_set1_ps(2.0f)));
}

/* x * 2^n for an integral n. */
static ALWAYS_INLINE vf scale_pow2(vf x, vf n) { return _mm512_scalef_ps(x, n); }
static ALWAYS_INLINE vf round_f32(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

/* Stores groups of TILE_ROWS lanes, `stride` bytes apart. */
static ALWAYS_INLINE void store_row_groups(int8_t *p, int64_t stride, vi x) {
    _mm256_storeu_si256((__m256i *)p, _mm512_castsi512_si256(x));
    _mm256_storeu_si256((__m256i *)(p + stride), _mm512_extracti64x4_epi64(x, 1));
}

/* Transposes a square of LANES x LANES floats; rows are ld and ld_out floats apart. */
static ALWAYS_INLINE void transpose(const float *x, int64_t ld, float *out, int64_t ld_out) {
    vf a[16], b[16];
    UNROLL for (int i = 0; i < 16; i += 2) { /* pairs of rows, interleaved */
        const vf one = load(x + i * ld), two = load(x + (i + 1) * ld);
        a[i] = _mm512_unpacklo_ps(one, two);
        a[i + 1] = _mm512_unpackhi_ps(one, two);
    }
    UNROLL for (int i = 0; i < 16; i += 4) { /* groups of four rows: b[i + j] has column j of each quarter */
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
