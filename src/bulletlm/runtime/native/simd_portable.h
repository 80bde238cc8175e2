/* Dot products in plain C, in loops over sixteen rows that compilers turn into vectors: right everywhere, fast nowhere. */

typedef struct {
    float row[ROWS];
} lanes;

#define EACH_ROW for (int r = 0; r < ROWS; r++)

static inline lanes lanes_zero(void) { return (lanes){{0}}; }
static inline lanes lanes_load(const float *p) {
    lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void lanes_store(float *p, lanes v) { memcpy(p, &v, sizeof v); }
static inline lanes lanes_add(lanes a, lanes b) {
    EACH_ROW a.row[r] += b.row[r];
    return a;
}
static inline lanes lanes_i16(const int16_t *p) {
    lanes v;
    EACH_ROW v.row[r] = (float)p[r];
    return v;
}
static inline lanes lanes_f16(const uint8_t *p) {
    uint16_t half[ROWS];
    memcpy(half, p, sizeof half);
    lanes v;
    EACH_ROW v.row[r] = float_from_half(half[r]);
    return v;
}
static inline lanes lanes_fma(lanes acc, lanes a, float b) {
    EACH_ROW acc.row[r] += a.row[r] * b;
    return acc;
}

static inline lanes scaled(lanes acc, const int32_t *sums, const uint8_t *scales, float scale) {
    lanes s = lanes_f16(scales);
    EACH_ROW acc.row[r] += (float)sums[r] * (s.row[r] * scale);
    return acc;
}

static inline lanes dot_bq4(const uint8_t *tile, const uint8_t *scales, const struct act *x, int32_t blocks, bool turbo) {
    (void)turbo; /* wide holds the 8-bit numbers then */
    lanes acc = lanes_zero();
    for (int32_t b = 0; b < blocks; b++, tile += 256, scales += 32, x++) {
        int32_t sums[ROWS];
        EACH_ROW sums[r] = x->minus_8;
        for (int i = 0; i < 4; i++) {
            const int16_t *first = x->wide + 4 * i, *second = first + 16;
            uint32_t words[ROWS];
            memcpy(words, tile + 64 * i, sizeof words);
            EACH_ROW {
                int32_t w = (int32_t)(words[r] & 0x0f0f0f0f), v = (int32_t)(words[r] >> 4 & 0x0f0f0f0f);
                sums[r] += (w & 15) * first[0] + (w >> 8 & 15) * first[1] + (w >> 16 & 15) * first[2] + (w >> 24) * first[3];
                sums[r] += (v & 15) * second[0] + (v >> 8 & 15) * second[1] + (v >> 16 & 15) * second[2] + (v >> 24) * second[3];
            }
        }
        acc = scaled(acc, sums, scales, x->scale);
    }
    return acc;
}

static inline lanes dot_bq8(const uint8_t *tile, const uint8_t *scales, const struct act *x, int32_t blocks, bool turbo) {
    (void)turbo;
    lanes acc = lanes_zero();
    for (int32_t b = 0; b < blocks; b++, tile += 512, scales += 32, x++) {
        int32_t sums[ROWS] = {0};
        for (int i = 0; i < 8; i++) {
            const int16_t *a = x->wide + 4 * i;
            int8_t w[4 * ROWS];
            memcpy(w, tile + 64 * i, sizeof w);
            EACH_ROW sums[r] += w[4 * r] * a[0] + w[4 * r + 1] * a[1] + w[4 * r + 2] * a[2] + w[4 * r + 3] * a[3];
        }
        acc = scaled(acc, sums, scales, x->scale);
    }
    return acc;
}
