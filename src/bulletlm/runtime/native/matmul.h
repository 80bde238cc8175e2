/* Matrix products: one token (decode) reads each weight once from far away; many tokens (prefill) unpack weights into the
 * nearest cache and use them for all. Both sum in the same order, so their results are equal to the last bit. */

static ALWAYS_INLINE lanes dot_float(const uint8_t *w, const float *x, int32_t cols, bool half) {
    lanes acc[4] = {lanes_zero(), lanes_zero(), lanes_zero(), lanes_zero()}; /* cols is a multiple of 32 */
    for (int32_t k = 0; k < cols; k += 4) {
        UNROLL for (int i = 0; i < 4; i++) {
            const uint8_t *at = w + (size_t)(k + i) * (half ? 32 : 64);
            acc[i] = lanes_fma(acc[i], half ? lanes_f16(at) : lanes_load((const float *)(const void *)at), x[k + i]);
        }
    }
    return lanes_add(lanes_add(acc[0], acc[1]), lanes_add(acc[2], acc[3]));
}

/* The outputs of one row group for one token; `plain` are its activations as floats, `act` as integers. */
static ALWAYS_INLINE lanes dot_group(const struct matrix *m, const uint8_t *group, const float *plain, const struct act *act, bool turbo) {
    switch (m->type) {
        case BULLET_BQ4:
            return turbo ? dot_bq4(group, group + m->scales_at, act, m->cols / BLOCK, true)
                         : dot_bq4(group, group + m->scales_at, act, m->cols / BLOCK, false);
        case BULLET_BQ8:
            return turbo ? dot_bq8(group, group + m->scales_at, act, m->cols / BLOCK, true)
                         : dot_bq8(group, group + m->scales_at, act, m->cols / BLOCK, false);
        case BULLET_F16:
            return dot_float(group, plain, m->cols, true);
        default:
            return dot_float(group, plain, m->cols, false);
    }
}

/* Some rows of the last group may be padding: only real ones are written. */
static inline void store_rows(float *out, lanes sums, int32_t rows) {
    if (rows >= ROWS) {
        lanes_store(out, sums);
    } else {
        float all[ROWS];
        lanes_store(all, sums);
        memcpy(out, all, (size_t)rows * sizeof *out);
    }
}

#ifdef DOT_MANY
/* Two row groups (or one) of a blocked matrix for n tokens. */
static void dot_groups(const struct matrix *m, int32_t first_row, const struct act *act, size_t act_step, int32_t n, bool turbo,
                       uint8_t *panel, float *out, size_t out_step) {
    const bool bq8 = m->type == BULLET_BQ8;
    const size_t tile_bytes = bq8 ? 512 : 256;
    const int32_t blocks = m->cols / BLOCK, rows = m->rows - first_row < 2 * ROWS ? m->rows - first_row : 2 * ROWS;
    const int groups = rows > ROWS ? 2 : 1;
    const uint8_t *group = m->data + (size_t)(first_row / ROWS) * m->group_bytes;
    float sums[CHUNK][2 * ROWS];
    memset(sums, 0, (size_t)n * sizeof sums[0]);

    for (int32_t start = 0; start < blocks; start += PANEL_BLOCKS) {
        const int32_t here = blocks - start < PANEL_BLOCKS ? blocks - start : PANEL_BLOCKS;
        const uint8_t *weights[2], *scales[2];
        for (int g = 0; g < groups; g++) {
            uint8_t *to = panel + g * PANEL_BLOCKS * UNPACKED_BYTES;
            for (int32_t b = 0; b < here; b++) {
                const uint8_t *tile = group + (size_t)g * m->group_bytes + (size_t)(start + b) * tile_bytes;
                if (bq8) {
                    unpack_bq8(to + (size_t)b * UNPACKED_BYTES, tile);
                } else {
                    unpack_bq4(to + (size_t)b * UNPACKED_BYTES, tile);
                }
            }
            weights[g] = to;
            scales[g] = group + (size_t)g * m->group_bytes + m->scales_at + (size_t)start * ROWS * 2;
        }
        int32_t t = 0;
        for (; t < n; t += TILE_TOKENS) {
            const struct act *x = act + (size_t)t * act_step + start;
            /* The counts are constants in each call, so that the sums live in registers. */
#define TILE(count)                                                                                                        \
    do {                                                                                                                   \
        if (turbo && groups == 2)                                                                                          \
            dot_tile(count, 2, weights, scales, bq8, x, act_step, here, true, sums[t], 2 * ROWS);                          \
        else if (turbo)                                                                                                    \
            dot_tile(count, 1, weights, scales, bq8, x, act_step, here, true, sums[t], 2 * ROWS);                          \
        else if (groups == 2)                                                                                              \
            dot_tile(count, 2, weights, scales, bq8, x, act_step, here, false, sums[t], 2 * ROWS);                         \
        else                                                                                                               \
            dot_tile(count, 1, weights, scales, bq8, x, act_step, here, false, sums[t], 2 * ROWS);                         \
    } while (0)
            if (n - t >= TILE_TOKENS) {
                TILE(TILE_TOKENS);
                continue;
            }
            for (; t < n; t++) {
                x = act + (size_t)t * act_step + start;
                TILE(1);
            }
#undef TILE
        }
    }
    for (int32_t t = 0; t < n; t++) memcpy(out + (size_t)t * out_step, sums[t], (size_t)rows * sizeof *out);
}
#endif

/* Rows `row` ... row + 31 (or fewer: the last ones) of m * x[t] for n tokens, from out[t] on. plain[t][plain_step],
 * act[t][act_step] and out[t][out_step] are the tokens' rows. */
static ALWAYS_INLINE void matmul_rows(const struct matrix *m, int32_t row, const float *plain, size_t plain_step, const struct act *act,
                                      size_t act_step, int32_t n, bool turbo, uint8_t *panel, float *out, size_t out_step) {
#ifdef DOT_MANY
    if (n > 1 && (m->type == BULLET_BQ4 || m->type == BULLET_BQ8)) {
        dot_groups(m, row, act, act_step, n, turbo, panel, out, out_step);
        return;
    }
#else
    (void)panel;
#endif
    for (int32_t end = row + 2 * ROWS; row < end && row < m->rows; row += ROWS, out += ROWS) {
        const uint8_t *group = m->data + (size_t)(row / ROWS) * m->group_bytes;
        for (int32_t t = 0; t < n; t++)
            store_rows(out + (size_t)t * out_step, dot_group(m, group, plain + (size_t)t * plain_step, act + (size_t)t * act_step, turbo),
                       m->rows - row);
    }
}

/* out[t][rows] = m * x[t] for n tokens */
static void matmul(const struct matrix *m, const float *plain, size_t plain_step, const struct act *act, size_t act_step, int32_t n,
                   bool turbo, uint8_t *panel, float *out, size_t out_step) {
    for (int32_t row = 0; row < m->rows; row += 2 * ROWS)
        matmul_rows(m, row, plain, plain_step, act, act_step, n, turbo, panel, out + row, out_step);
}
