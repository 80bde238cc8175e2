/* Matrix products for distillation (distil.h): 16-bit integers, exact in int32 over BLOCK inputs, FP32 over the blocks.
 *
 * A weight is scale * code with one scale for each output and BLOCK inputs, |code| <= WEIGHT_MAX. WEIGHT_MAX is a multiple of 1 ... 8, so
 * the codes of a BQ4 block (multiples of its largest weight / 1 ... 8) are represented exactly. Other weights have an error of at most
 * 1 / (2 WEIGHT_MAX) of the largest of their block. An activation is scale * code with one scale for each row, |code| <= ACTIVATION_MAX.
 * BLOCK * WEIGHT_MAX * ACTIVATION_MAX < 2^31. docs/quantization.md has the measured error of a whole pass.
 *
 * The right side is stored in panels like that of matmul.h, with pairs instead of quads: int16[columns / PANEL][k / 2][PANEL][2]. */

enum { BLOCK = 32 };
#define WEIGHT_MAX 3360.0f
#define ACTIVATION_MAX 16383.0f

/* x[n] -> codes[n], rounded to nearest, and their scale. n is a multiple of LANES. */
static void quantize_exact(const float *x, int64_t n, int16_t *codes, float max_code, float *scale) {
    const float row_max = row_max_from_bits(row_max_bits(x, n));
    const vf inverse = broadcast(max_code / row_max);
    for (int64_t i = 0; i < n; i += LANES) store_i16(codes + i, cvt_i32(load(x + i) * inverse));
    *scale = row_max / max_code;
}

/* Row `output` of a weight group, x[inputs], into its panels; NULL is a row of zeros. */
static void quantize_exact_row(struct weight_group *g, const float *x, int64_t output) {
    const int64_t inputs = g->inputs, column = output % PANEL;
    int16_t *panel = g->exact.panels + output / PANEL * inputs * PANEL + column * 2;
    float *scales = g->exact.scales + output / PANEL * (inputs / BLOCK) * PANEL + column;
    for (int64_t block = 0; block < inputs / BLOCK; block++, scales += PANEL) {
        int16_t codes[BLOCK] = {0};
        *scales = 0;
        if (x) quantize_exact(x + block * BLOCK, BLOCK, codes, WEIGHT_MAX, scales);
        for (int i = 0; i < BLOCK; i += 2, panel += PANEL * 2) memcpy(panel, codes + i, 4);
    }
}

/* The weights of a group: float32 tensors in the order of the model file. */
static void quantize_exact_group(struct weight_group *g, const float *const *weights) {
    for (int p = 0; p < g->parts; p++) {
        for (int64_t row = 0; row < ROUND_UP(g->count[p], STRIP); row++)
            quantize_exact_row(g, row < g->count[p] ? weights[g->tensor[p]] + row * g->inputs : NULL, g->first[p] + row);
    }
}

/* out (n, outputs of g) = base + row_scales * codes (n, inputs of g) times the weights. base may be out, or NULL (0). */
static __attribute__((noinline)) void matmul_exact(const int16_t *codes, const float *row_scales, int64_t n, const struct weight_group *g,
                                                   const float *base, float *out) {
    const int64_t inputs = g->inputs, ld = g->outputs, blocks = inputs / BLOCK, panel_codes = inputs * PANEL;
    const int64_t tiles = (n + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t column = 0; column < ld; column += PANEL) {
        const int16_t *panels = g->exact.panels + column / PANEL * panel_codes;
        const float *panel_scales = g->exact.scales + column * blocks;
        for (int64_t first_row = 0; first_row < n; first_row += TILE_ROWS) {
            const int64_t count = n - first_row < TILE_ROWS ? n - first_row : TILE_ROWS;
            const int16_t *row[TILE_ROWS], *panel = panels;
            vf left[TILE_ROWS], right[TILE_ROWS]; /* the two vectors of a panel's columns */
            UNROLL for (int r = 0; r < TILE_ROWS; r++) {
                row[r] = codes + (first_row + (r < count ? r : count - 1)) * inputs; /* rows past the end repeat the last one */
                left[r] = right[r] = zero_f32();
            }
            /* Each tile of rows prefetches its share of the next panel. */
            const char *next = (const char *)(panels + panel_codes) + first_row / TILE_ROWS * (panel_codes * 2 / tiles);
            const int64_t prefetch_bytes = panel_codes * 2 / tiles / (inputs / 2);
            for (int64_t block = 0; block < blocks; block++) {
                vi a[TILE_ROWS], b[TILE_ROWS];
                UNROLL for (int r = 0; r < TILE_ROWS; r++) a[r] = b[r] = zero_i32();
                for (int64_t k = block * BLOCK; k < (block + 1) * BLOCK; k += 2, panel += PANEL * 2, next += prefetch_bytes) {
                    __builtin_prefetch(next);
                    const vi l = load_i32(panel), r_ = load_i32(panel + LANES * 2);
                    UNROLL for (int r = 0; r < TILE_ROWS; r++) {
                        int32_t two;
                        memcpy(&two, row[r] + k, 4);
                        const vi x = broadcast_i32(two);
                        a[r] = dot_i16(a[r], l, x);
                        b[r] = dot_i16(b[r], r_, x);
                    }
                }
                const vf left_scale = load(panel_scales + block * PANEL), right_scale = load(panel_scales + block * PANEL + LANES);
                UNROLL for (int r = 0; r < TILE_ROWS; r++) {
                    left[r] = fmadd(cvt_f32(a[r]), left_scale, left[r]);
                    right[r] = fmadd(cvt_f32(b[r]), right_scale, right[r]);
                }
            }
            UNROLL for (int r = 0; r < TILE_ROWS; r++) {
                if (r >= count) break;
                const vf scale = broadcast(row_scales[first_row + r]);
                const int64_t to = (first_row + r) * ld + column;
                vf x = left[r] * scale, y = right[r] * scale;
                if (base) x += load(base + to), y += load(base + to + LANES);
                store(out + to, x);
                store(out + to + LANES, y);
            }
        }
    }
}
