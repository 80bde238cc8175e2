/* Products of int8 rows with panels of uint8 columns. */

/* The left side: rows in groups of ROWS; four numbers of row r of group g lie at data + g * group + r * row + k / 4 * step. */
struct left {
    const int8_t *data;
    int64_t group, row, step;
    const int32_t *sums;  /* of each row */
    const float *scales;  /* of each row */
};

/* Row after row, `ld` bytes apart. */
static struct left by_rows(const int8_t *data, int64_t ld, const int32_t *sums, const float *scales) {
    return (struct left){data, ROWS * ld, ld, 4, sums, scales};
}

/* As `pack_columns` leaves them: [row / ROWS][k / 4][row % ROWS][k % 4]. */
static struct left by_columns(const int8_t *data, int64_t quads, const int32_t *sums, const float *scales) {
    return (struct left){data, ROWS * 4 * quads, 4, ROWS * 4, sums, scales};
}

/* out (n, columns) = base + factor * left . right, every number times its row's and its column's scale (NULL: 1).
 * `quads` is k / 4, `columns` a multiple of PANEL, `ld` that of out and base; base may be out, or NULL for zeros. */
static ALWAYS_INLINE void multiply_inlined(struct left a, int64_t n, const uint8_t *panels, int64_t quads, int64_t columns,
                                           const float *column_scales, float factor, const float *base,
                                           float *out, int64_t ld) {
    const int64_t panel_bytes = quads * PANEL * 4, ahead = PANEL * 4 / ((n + ROWS - 1) / ROWS);
    for (int64_t column = 0; column < columns; column += PANEL, panels += panel_bytes) {
        vf left_scale = all(1.0f), right_scale = all(1.0f);
        if (column_scales) left_scale = load(column_scales + column), right_scale = load(column_scales + column + LANES);
        for (int64_t top = 0; top < n; top += ROWS) {
            const int64_t count = n - top < ROWS ? n - top : ROWS;
            const int8_t *group = a.data + top / ROWS * a.group, *row[ROWS];
            vi left[ROWS], right[ROWS];
            UNROLL for (int r = 0; r < ROWS; r++) {
                const int64_t real = r < count ? r : count - 1;
                row[r] = group + real * a.row;
                left[r] = right[r] = all_int(-128 * a.sums[top + real]);
            }
            const uint8_t *panel = panels;
            /* A part of the next panel for each tile of this one: it is there when its turn comes. */
            const uint8_t *next = panels + panel_bytes + top / ROWS * ahead * quads;
            int64_t at = 0;
            for (int64_t part = 0, k = 0; part < ROWS; part++) {
                if (part < count) {
                    __builtin_prefetch(out + (top + part) * ld + column, 1);
                    __builtin_prefetch(out + (top + part) * ld + column + LANES, 1);
                }
                for (; k < quads * (part + 1) / ROWS; k++, at += a.step, panel += PANEL * 4, next += ahead) {
                __builtin_prefetch(next);
                    const vi l = load_int(panel), r_ = load_int(panel + LANES * 4);
                    UNROLL for (int r = 0; r < ROWS; r++) {
                        int32_t four;
                        memcpy(&four, row[r] + at, 4);
                        const vi x = all_int(four);
                        left[r] = dot(left[r], l, x);
                        right[r] = dot(right[r], r_, x);
                    }
                }
            }
            UNROLL for (int r = 0; r < ROWS; r++) {
                if (r >= count) break;
                const vf scale = all(a.scales[top + r] * factor);
                const int64_t to = (top + r) * ld + column;
                vf x = to_float(left[r]) * scale * left_scale, y = to_float(right[r]) * scale * right_scale;
                if (base) x += load(base + to), y += load(base + to + LANES);
                store(out + to, x);
                store(out + to + LANES, y);
            }
        }
    }
}

static __attribute__((noinline)) void multiply(struct left a, int64_t n, const uint8_t *panels, int64_t quads, int64_t columns,
                                               const float *column_scales, float *out, int64_t ld) {
    multiply_inlined(a, n, panels, quads, columns, column_scales, 1.0f, NULL, out, ld);
}

static __attribute__((noinline)) void multiply_onto(struct left a, int64_t n, const uint8_t *panels, int64_t quads, int64_t columns,
                                                    const float *column_scales, float factor, const float *base, float *out, int64_t ld) {
    multiply_inlined(a, n, panels, quads, columns, column_scales, factor, base, out, ld);
}
