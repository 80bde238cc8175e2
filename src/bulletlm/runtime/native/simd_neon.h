/* Sixteen-lane vectors and dot products with NEON. A 128-bit vector holds four rows x four inputs; its bytes are signed, and nibbles fit.
 * The file that includes this defines dot4 (sdot, or widening products and pairwise sums) and dot4_lane, which takes the four inputs of
 * all rows from one lane of x. */

typedef struct {
    float32x4_t v[4]; /* four rows each */
} f32x16;

#define EACH_VECTOR UNROLL for (int j = 0; j < 4; j++)

static inline f32x16 f32x16_zero(void) {
    f32x16 r;
    EACH_VECTOR r.v[j] = vdupq_n_f32(0);
    return r;
}
static inline f32x16 f32x16_load(const float *p) {
    f32x16 r;
    EACH_VECTOR r.v[j] = vld1q_f32(p + 4 * j);
    return r;
}
static inline void f32x16_store(float *p, f32x16 a) { EACH_VECTOR vst1q_f32(p + 4 * j, a.v[j]); }
static inline f32x16 f32x16_add(f32x16 a, f32x16 b) {
    EACH_VECTOR a.v[j] = vaddq_f32(a.v[j], b.v[j]);
    return a;
}
static inline f32x16 f32x16_from_i16(const int16_t *p) {
    f32x16 r;
    EACH_VECTOR r.v[j] = vcvtq_f32_s32(vmovl_s16(vld1_s16(p + 4 * j)));
    return r;
}
static inline f32x16 f32x16_from_f16(const uint8_t *p) {
    f32x16 r;
    EACH_VECTOR r.v[j] = vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p + 8 * j)));
    return r;
}
static inline f32x16 f32x16_fma(f32x16 acc, f32x16 a, float b) {
    EACH_VECTOR acc.v[j] = vfmaq_n_f32(acc.v[j], a.v[j], b);
    return acc;
}

static inline int8x16_t broadcast_4(const int8_t *p) { /* four activations, for all rows */
    int32_t word;
    memcpy(&word, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

/* acc + weight scales * activation scale * the integer sums. Decode and prefill both use it, so that they round alike. */
static inline f32x16 add_scaled(f32x16 acc, const int32x4_t sums[4], const uint8_t *scales, float scale) {
    f32x16 s = f32x16_from_f16(scales);
    EACH_VECTOR acc.v[j] = vfmaq_f32(acc.v[j], vcvtq_f32_s32(sums[j]), vmulq_n_f32(s.v[j], scale));
    return acc;
}

static ALWAYS_INLINE f32x16 dot_bq4(const uint8_t *tile, const uint8_t *scales, const struct act_block *x, int32_t blocks, bool turbo) {
    const uint8x16_t mask = vdupq_n_u8(15);
    f32x16 acc = f32x16_zero();
    for (int32_t b = 0; b < blocks; b++, tile += 256, scales += 32, x++) {
        int32x4_t high[4], low[4];
        EACH_VECTOR high[j] = low[j] = vdupq_n_s32(0);
        UNROLL for (int i = 0; i < 4; i++) {
            const int8x16_t h0 = broadcast_4(x->high + 4 * i), h1 = broadcast_4(x->high + 16 + 4 * i);
            const int8x16_t l0 = broadcast_4(x->low + 4 * i), l1 = broadcast_4(x->low + 16 + 4 * i);
            EACH_VECTOR {
                uint8x16_t p = vld1q_u8(tile + 64 * i + 16 * j);
                int8x16_t first = vreinterpretq_s8_u8(vandq_u8(p, mask)), second = vreinterpretq_s8_u8(vshrq_n_u8(p, 4));
                high[j] = dot4(dot4(high[j], first, h0), second, h1);
                if (!turbo) low[j] = dot4(dot4(low[j], first, l0), second, l1);
            }
        }
        EACH_VECTOR {
            if (!turbo) high[j] = vaddq_s32(vshlq_n_s32(high[j], 8), low[j]);
            high[j] = vaddq_s32(high[j], vdupq_n_s32(x->offset_bq4));
        }
        acc = add_scaled(acc, high, scales, x->scale);
    }
    return acc;
}

static ALWAYS_INLINE f32x16 dot_bq8(const uint8_t *tile, const uint8_t *scales, const struct act_block *x, int32_t blocks, bool turbo) {
    f32x16 acc = f32x16_zero();
    for (int32_t b = 0; b < blocks; b++, tile += 512, scales += 32, x++) {
        int32x4_t high[4], low[4];
        EACH_VECTOR high[j] = low[j] = vdupq_n_s32(0);
        UNROLL for (int i = 0; i < 8; i++) {
            const int8x16_t h = broadcast_4(x->high + 4 * i), l = broadcast_4(x->low + 4 * i);
            EACH_VECTOR {
                int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(tile + 64 * i + 16 * j));
                high[j] = dot4(high[j], w, h);
                if (!turbo) low[j] = dot4(low[j], w, l);
            }
        }
        if (!turbo) EACH_VECTOR high[j] = vaddq_s32(vshlq_n_s32(high[j], 8), low[j]);
        acc = add_scaled(acc, high, scales, x->scale);
    }
    return acc;
}

/* Prefill: weights as signed bytes (a BQ8 tile, or a BQ4 tile unpacked to the same form) times several tokens in one register tile.
 * 4 tokens x 16 rows: 16 integer sums, 4 weights and 4 activations, of 32 registers. The high and low bytes of the activations are summed
 * one after the other, and the float sums stay in memory. */
#define HAVE_DOT_TILE
enum { TILE_TOKENS = 4, UNPACKED_BYTES = 512 };

static inline void unpack_bq4(uint8_t *out, const uint8_t *tile) {
    for (int i = 0; i < 256; i += 16) {
        uint8x16_t p = vld1q_u8(tile + i);
        vst1q_u8(out + i, vandq_u8(p, vdupq_n_u8(15)));
        vst1q_u8(out + 256 + i, vshrq_n_u8(p, 4));
    }
}

static inline void unpack_bq8(uint8_t *out, const uint8_t *tile) { memcpy(out, tile, 512); }

/* sums[t] += a block of weights times the high or the low bytes of token t; tokens are `stride` bytes apart. */
static ALWAYS_INLINE void dot_bytes(int32x4_t sums[TILE_TOKENS][4], const int tokens, const uint8_t *w, const int8_t *bytes,
                                    size_t stride) {
    for (int half = 0; half < 2; half++, w += 256, bytes += 16) {
        int8x16_t x[TILE_TOKENS], rows[4];
        UNROLL for (int t = 0; t < tokens; t++) x[t] = vld1q_s8(bytes + (size_t)t * stride);
        /* The empty asm keeps gcc from loading all weights first, which would leave no registers for the sums. */
#define FOUR_INPUTS(i)                                                                                            \
    do {                                                                                                          \
        __asm__ volatile("" ::: "memory");                                                                        \
        EACH_VECTOR rows[j] = vreinterpretq_s8_u8(vld1q_u8(w + 64 * (i) + 16 * j));                               \
        UNROLL for (int t = 0; t < tokens; t++) EACH_VECTOR sums[t][j] = dot4_lane(sums[t][j], rows[j], x[t], i); \
    } while (0)
        FOUR_INPUTS(0);
        FOUR_INPUTS(1);
        FOUR_INPUTS(2);
        FOUR_INPUTS(3);
#undef FOUR_INPUTS
    }
}

/* out[t][16 g ...] += the products of `blocks` blocks, for each token t and row group g; weights[g] are unpacked tiles, scales[g] their
 * float16 scales. */
static ALWAYS_INLINE void dot_tile(const int tokens, const int groups, const uint8_t *const weights[2], const uint8_t *const scales[2],
                                   bool bq8, const struct act_block *x, size_t x_stride, int32_t blocks, bool turbo, float *out,
                                   size_t out_stride) {
    for (int g = 0; g < groups; g++) {
        for (int32_t b = 0; b < blocks; b++) {
            const uint8_t *w = weights[g] + (size_t)b * UNPACKED_BYTES;
            int32x4_t sums[TILE_TOKENS][4];
            UNROLL for (int t = 0; t < tokens; t++) EACH_VECTOR sums[t][j] = vdupq_n_s32(0);
            dot_bytes(sums, tokens, w, x[b].high, x_stride * sizeof *x);
            if (!turbo) {
                UNROLL for (int t = 0; t < tokens; t++) EACH_VECTOR sums[t][j] = vshlq_n_s32(sums[t][j], 8);
                dot_bytes(sums, tokens, w, x[b].low, x_stride * sizeof *x);
            }
            UNROLL for (int t = 0; t < tokens; t++) {
                const struct act_block *at = x + (size_t)t * x_stride + b;
                if (!bq8) EACH_VECTOR sums[t][j] = vaddq_s32(sums[t][j], vdupq_n_s32(at->offset_bq4));
                float *o = out + (size_t)t * out_stride + 16 * g;
                f32x16_store(o, add_scaled(f32x16_load(o), sums[t], scales[g] + 32 * (size_t)b, at->scale));
            }
        }
    }
}
