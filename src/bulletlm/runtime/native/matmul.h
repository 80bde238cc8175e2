/* Matrix products. One token (decode) reads each weight once; many tokens (prefill) unpack some weights into the first-level cache and
 * use them for all tokens. Both sum in the same order, so their results are equal bit by bit.
 *
 * Activations come in two forms: x_f32, float[tokens][x_stride], and act, struct act_block[tokens][act_stride]. */

/* The outputs of a row group of an F16 or F32 matrix for one token; four sums, because multiply-adds of one sum wait for each other. */
static ALWAYS_INLINE f32x16 dot_rows_float(const uint8_t *w, const float *x, int32_t cols, bool half) {
    f32x16 acc[4] = {f32x16_zero(), f32x16_zero(), f32x16_zero(), f32x16_zero()}; /* cols is a multiple of 32 */
    for (int32_t k = 0; k < cols; k += 4) {
        UNROLL for (int i = 0; i < 4; i++) {
            const uint8_t *w_k = w + (size_t)(k + i) * (half ? 32 : 64);
            acc[i] = f32x16_fma(acc[i], half ? f32x16_from_f16(w_k) : f32x16_load((const float *)(const void *)w_k), x[k + i]);
        }
    }
    return f32x16_add(f32x16_add(acc[0], acc[1]), f32x16_add(acc[2], acc[3]));
}

/* The outputs of one row group for one token. */
static ALWAYS_INLINE f32x16 dot_row_group(const struct matrix *m, const uint8_t *group, const float *x_f32, const struct act_block *act,
                                          bool turbo) {
    switch (m->type) {
        case BULLET_BQ4:
            return turbo ? dot_bq4(group, group + m->scales_offset, act, m->cols / BLOCK, true)
                         : dot_bq4(group, group + m->scales_offset, act, m->cols / BLOCK, false);
        case BULLET_BQ8:
            return turbo ? dot_bq8(group, group + m->scales_offset, act, m->cols / BLOCK, true)
                         : dot_bq8(group, group + m->scales_offset, act, m->cols / BLOCK, false);
        case BULLET_F16:
            return dot_rows_float(group, x_f32, m->cols, true);
        default:
            return dot_rows_float(group, x_f32, m->cols, false);
    }
}

/* Write at most `rows` outputs: the last row group may have padding. */
static inline void store_rows(float *out, f32x16 sums, int32_t rows) {
    if (rows >= ROWS) {
        f32x16_store(out, sums);
    } else {
        float padded[ROWS];
        f32x16_store(padded, sums);
        memcpy(out, padded, (size_t)rows * sizeof *out);
    }
}

#ifdef HAVE_DOT_TILE
/* Up to 32 rows from first_row on of a BQ4 or BQ8 matrix for n <= CHUNK_TOKENS tokens: out[t][rows], rows of out_stride floats.
 * panel: scratch, [PANEL_BYTES]. */
static void dot_row_groups(const struct matrix *m, int32_t first_row, const struct act_block *act, size_t act_stride, int32_t n, bool turbo,
                           uint8_t *panel, float *out, size_t out_stride) {
    const bool bq8 = m->type == BULLET_BQ8;
    const size_t tile_bytes = bq8 ? 512 : 256;
    const int32_t blocks = m->cols / BLOCK, rows = m->rows - first_row < 2 * ROWS ? m->rows - first_row : 2 * ROWS;
    const int groups = rows > ROWS ? 2 : 1;
    const uint8_t *group = m->data + (size_t)(first_row / ROWS) * m->group_bytes;
    float sums[CHUNK_TOKENS][2 * ROWS];
    memset(sums, 0, (size_t)n * sizeof sums[0]);

    for (int32_t start = 0; start < blocks; start += PANEL_BLOCKS) {
        const int32_t n_blocks = blocks - start < PANEL_BLOCKS ? blocks - start : PANEL_BLOCKS;
        const uint8_t *weights[2], *scales[2];
        for (int g = 0; g < groups; g++) {
            uint8_t *to = panel + g * PANEL_BLOCKS * UNPACKED_BYTES;
            for (int32_t b = 0; b < n_blocks; b++) {
                const uint8_t *tile = group + (size_t)g * m->group_bytes + (size_t)(start + b) * tile_bytes;
                if (bq8) {
                    unpack_bq8(to + (size_t)b * UNPACKED_BYTES, tile);
                } else {
                    unpack_bq4(to + (size_t)b * UNPACKED_BYTES, tile);
                }
            }
            weights[g] = to;
            scales[g] = group + (size_t)g * m->group_bytes + m->scales_offset + (size_t)start * ROWS * 2;
        }
        int32_t t = 0;
        for (; t < n; t += TILE_TOKENS) {
            const struct act_block *x = act + (size_t)t * act_stride + start;
            /* The counts are constants in each call, so that the compiler keeps the sums in registers. */
#define TILE(count)                                                                                      \
    do {                                                                                                 \
        if (turbo && groups == 2)                                                                        \
            dot_tile(count, 2, weights, scales, bq8, x, act_stride, n_blocks, true, sums[t], 2 * ROWS);  \
        else if (turbo)                                                                                  \
            dot_tile(count, 1, weights, scales, bq8, x, act_stride, n_blocks, true, sums[t], 2 * ROWS);  \
        else if (groups == 2)                                                                            \
            dot_tile(count, 2, weights, scales, bq8, x, act_stride, n_blocks, false, sums[t], 2 * ROWS); \
        else                                                                                             \
            dot_tile(count, 1, weights, scales, bq8, x, act_stride, n_blocks, false, sums[t], 2 * ROWS); \
    } while (0)
            if (n - t >= TILE_TOKENS) {
                TILE(TILE_TOKENS);
                continue;
            }
            for (; t < n; t++) {
                x = act + (size_t)t * act_stride + start;
                TILE(1);
            }
#undef TILE
        }
    }
    for (int32_t t = 0; t < n; t++) memcpy(out + (size_t)t * out_stride, sums[t], (size_t)rows * sizeof *out);
}
#endif

/* Rows `row` ... row + 31 of the matrix, or up to its last one, times n tokens: out[t][0 ...], rows of out_stride floats. */
static ALWAYS_INLINE void matmul_rows(const struct matrix *m, int32_t row, const float *x_f32, size_t x_stride, const struct act_block *act,
                                      size_t act_stride, int32_t n, bool turbo, uint8_t *panel, float *out, size_t out_stride) {
#ifdef HAVE_DOT_TILE
    if (n > 1 && (m->type == BULLET_BQ4 || m->type == BULLET_BQ8)) {
        dot_row_groups(m, row, act, act_stride, n, turbo, panel, out, out_stride);
        return;
    }
#else
    (void)panel;
#endif
    for (int32_t end = row + 2 * ROWS; row < end && row < m->rows; row += ROWS, out += ROWS) {
        const uint8_t *group = m->data + (size_t)(row / ROWS) * m->group_bytes;
        for (int32_t t = 0; t < n; t++)
            store_rows(out + (size_t)t * out_stride,
                       dot_row_group(m, group, x_f32 + (size_t)t * x_stride, act + (size_t)t * act_stride, turbo), m->rows - row);
    }
}

/* out[t][m->rows] = m * x[t] for n tokens */
static void matmul(const struct matrix *m, const float *x_f32, size_t x_stride, const struct act_block *act, size_t act_stride, int32_t n,
                   bool turbo, uint8_t *panel, float *out, size_t out_stride) {
    for (int32_t row = 0; row < m->rows; row += 2 * ROWS)
        matmul_rows(m, row, x_f32, x_stride, act, act_stride, n, turbo, panel, out + row, out_stride);
}
