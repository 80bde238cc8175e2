/* Sixteen-lane vectors and dot products in plain C; compilers vectorize the loops over the rows. For processors without other kernels,
 * and the shortest example of what a simd_*.h defines. */

typedef struct {
    float row[ROWS];
} f32x16;

#define EACH_ROW for (int r = 0; r < ROWS; r++)

static inline f32x16 f32x16_zero(void) { return (f32x16){{0}}; }
static inline f32x16 f32x16_load(const float *p) {
    f32x16 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void f32x16_store(float *p, f32x16 v) { memcpy(p, &v, sizeof v); }
static inline f32x16 f32x16_add(f32x16 a, f32x16 b) {
    EACH_ROW a.row[r] += b.row[r];
    return a;
}
static inline f32x16 f32x16_from_i16(const int16_t *p) {
    f32x16 v;
    EACH_ROW v.row[r] = (float)p[r];
    return v;
}
static inline f32x16 f32x16_from_f16(const uint8_t *p) {
    uint16_t half[ROWS];
    memcpy(half, p, sizeof half);
    f32x16 v;
    EACH_ROW v.row[r] = f32_from_f16(half[r]);
    return v;
}
static inline f32x16 f32x16_fma(f32x16 acc, f32x16 a, float b) {
    EACH_ROW acc.row[r] += a.row[r] * b;
    return acc;
}

/* acc + weight scales * activation scale * the integer sums. */
static inline f32x16 add_scaled(f32x16 acc, const int32_t *sums, const uint8_t *scales, float scale) {
    f32x16 s = f32x16_from_f16(scales);
    EACH_ROW acc.row[r] += (float)sums[r] * (s.row[r] * scale);
    return acc;
}

/* The outputs of a row group for one token: `blocks` tiles, their float16 scales [blocks][16], and the activations x[blocks]. */
static inline f32x16 dot_bq4(const uint8_t *tile, const uint8_t *scales, const struct act_block *x, int32_t blocks, bool turbo) {
    (void)turbo; /* q16 holds the 8-bit integers then */
    f32x16 acc = f32x16_zero();
    for (int32_t b = 0; b < blocks; b++, tile += 256, scales += 32, x++) {
        int32_t sums[ROWS];
        EACH_ROW sums[r] = x->offset_bq4;
        for (int i = 0; i < 4; i++) {
            const int16_t *first = x->q16 + 4 * i, *second = first + 16;
            uint32_t words[ROWS];
            memcpy(words, tile + 64 * i, sizeof words);
            EACH_ROW {
                int32_t w = (int32_t)(words[r] & 0x0f0f0f0f), v = (int32_t)(words[r] >> 4 & 0x0f0f0f0f);
                sums[r] += (w & 15) * first[0] + (w >> 8 & 15) * first[1] + (w >> 16 & 15) * first[2] + (w >> 24) * first[3];
                sums[r] += (v & 15) * second[0] + (v >> 8 & 15) * second[1] + (v >> 16 & 15) * second[2] + (v >> 24) * second[3];
            }
        }
        acc = add_scaled(acc, sums, scales, x->scale);
    }
    return acc;
}

static inline f32x16 dot_bq8(const uint8_t *tile, const uint8_t *scales, const struct act_block *x, int32_t blocks, bool turbo) {
    (void)turbo;
    f32x16 acc = f32x16_zero();
    for (int32_t b = 0; b < blocks; b++, tile += 512, scales += 32, x++) {
        int32_t sums[ROWS] = {0};
        for (int i = 0; i < 8; i++) {
            const int16_t *a = x->q16 + 4 * i;
            int8_t w[4 * ROWS];
            memcpy(w, tile + 64 * i, sizeof w);
            EACH_ROW sums[r] += w[4 * r] * a[0] + w[4 * r + 1] * a[1] + w[4 * r + 2] * a[2] + w[4 * r + 3] * a[3];
        }
        acc = add_scaled(acc, sums, scales, x->scale);
    }
    return acc;
}
