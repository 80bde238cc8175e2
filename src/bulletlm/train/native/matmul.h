/* Matrix products of int8 codes, exact in int32: left (rows, k) of signed codes times right (k, columns).
 *
 * The dot product instruction takes unsigned bytes on one side, so the right codes are stored with 128 added; each sum starts at
 * -128 times the sum of its left row, which takes that off again (-DOT_OFFSET times: kernels without that instruction take the 128 off
 * themselves). The right side is stored in panels of PANEL columns, four values of
 * k together: uint8[columns / PANEL][k / 4][PANEL][4]. "quads" is k / 4. */

/* The left side: rows in groups of TILE_ROWS. Codes 4q ... 4q + 3 of row r of group g are at data + g * group + r * row + q * step. */
struct left_operand {
    const int8_t *data;
    int64_t group, row, step; /* bytes */
    const int32_t *sums;      /* [rows]: of the codes */
    const float *scales;      /* [rows] */
};

/* int8[rows][ld]. */
static struct left_operand left_row_major(const int8_t *data, int64_t ld, const int32_t *sums, const float *scales) {
    return (struct left_operand){data, TILE_ROWS * ld, ld, 4, sums, scales};
}

/* int8[rows / TILE_ROWS][quads][TILE_ROWS][4], as quantize_strip writes it. */
static struct left_operand left_packed(const int8_t *data, int64_t quads, const int32_t *sums, const float *scales) {
    return (struct left_operand){data, TILE_ROWS * 4 * quads, 4, TILE_ROWS * 4, sums, scales};
}

/* out (n, columns) = base + factor * row scale * column scale * (a . panels). `columns` is a multiple of PANEL; column_scales may be
 * NULL (1); base may be out, or NULL (0). out and base have rows of `ld` floats. */
static ALWAYS_INLINE void matmul_int8_inlined(struct left_operand a, int64_t n, const uint8_t *panels, int64_t quads, int64_t columns,
                                              const float *column_scales, float factor, const float *base, float *out, int64_t ld) {
    const int64_t panel_bytes = quads * PANEL * 4, prefetch_bytes = PANEL * 4 / ((n + TILE_ROWS - 1) / TILE_ROWS);
    for (int64_t column = 0; column < columns; column += PANEL, panels += panel_bytes) {
        vf left_scale = broadcast(1.0f), right_scale = broadcast(1.0f);
        if (column_scales) left_scale = load(column_scales + column), right_scale = load(column_scales + column + LANES);
        for (int64_t first_row = 0; first_row < n; first_row += TILE_ROWS) {
            const int64_t count = n - first_row < TILE_ROWS ? n - first_row : TILE_ROWS;
            const int8_t *group = a.data + first_row / TILE_ROWS * a.group, *row[TILE_ROWS];
            vi left[TILE_ROWS], right[TILE_ROWS]; /* the two vectors of a panel's columns */
            UNROLL for (int r = 0; r < TILE_ROWS; r++) {
                const int64_t valid = r < count ? r : count - 1; /* rows past the end repeat the last one and are not stored */
                row[r] = group + valid * a.row;
                left[r] = right[r] = broadcast_i32(-DOT_OFFSET * a.sums[first_row + valid]);
            }
            const uint8_t *panel = panels;
            /* Each tile of rows prefetches its share of the next panel, so that the panel is in the cache when it is needed. */
            const uint8_t *next = panels + panel_bytes + first_row / TILE_ROWS * prefetch_bytes * quads;
            int64_t offset = 0;
            for (int64_t part = 0, k = 0; part < TILE_ROWS; part++) {
                if (part < count) {
                    __builtin_prefetch(out + (first_row + part) * ld + column, 1);
                    __builtin_prefetch(out + (first_row + part) * ld + column + LANES, 1);
                }
                for (; k < quads * (part + 1) / TILE_ROWS; k++, offset += a.step, panel += PANEL * 4, next += prefetch_bytes) {
                    __builtin_prefetch(next);
                    const vi l = load_i32(panel), r_ = load_i32(panel + LANES * 4);
                    UNROLL for (int r = 0; r < TILE_ROWS; r++) {
                        int32_t four;
                        memcpy(&four, row[r] + offset, 4);
                        const vi x = broadcast_i32(four);
                        left[r] = dot_u8i8(left[r], l, x);
                        right[r] = dot_u8i8(right[r], r_, x);
                    }
                }
            }
            UNROLL for (int r = 0; r < TILE_ROWS; r++) {
                if (r >= count) break;
                const vf scale = broadcast(a.scales[first_row + r] * factor);
                const int64_t to = (first_row + r) * ld + column;
                vf x = cvt_f32(left[r]) * scale * left_scale, y = cvt_f32(right[r]) * scale * right_scale;
                if (base) x += load(base + to), y += load(base + to + LANES);
                store(out + to, x);
                store(out + to + LANES, y);
            }
        }
    }
}

/* out (n, columns) = row scale * column scale * (a . panels). */
static __attribute__((noinline)) void matmul_int8(struct left_operand a, int64_t n, const uint8_t *panels, int64_t quads, int64_t columns,
                                                  const float *column_scales, float *out, int64_t ld) {
    matmul_int8_inlined(a, n, panels, quads, columns, column_scales, 1.0f, NULL, out, ld);
}

/* out (n, columns) = base + factor * row scale * column scale * (a . panels). */
static __attribute__((noinline)) void matmul_int8_add(struct left_operand a, int64_t n, const uint8_t *panels, int64_t quads,
                                                      int64_t columns, const float *column_scales, float factor, const float *base,
                                                      float *out, int64_t ld) {
    matmul_int8_inlined(a, n, panels, quads, columns, column_scales, factor, base, out, ld);
}
