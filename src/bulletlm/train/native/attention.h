/* Causal softmax(q k^T / sqrt(head_dim)) v of one head over one sequence, and its gradients, in float. Some queries are taken
 * together, and keys after the last of them left out. */

/* e^x for x up to 88, and of -87 for what is less: 2^n times a polynomial of degree 6. */
static ALWAYS_INLINE vf exponential(vf x) {
    x = max_(all(-87.0f), x); /* in this order NaN stays */
    const vf n = whole(x * all(1.44269504f));
    vf rest = fma_(n, all(-0.693145752f), x);
    rest = fma_(n, all(-1.42860677e-6f), rest);
    vf y = all(1.0f / 720);
    y = fma_(y, rest, all(1.0f / 120));
    y = fma_(y, rest, all(1.0f / 24));
    y = fma_(y, rest, all(1.0f / 6));
    y = fma_(y, rest, all(0.5f));
    y = fma_(y, rest, all(1.0f));
    y = fma_(y, rest, all(1.0f));
    return scale_by_power(y, n);
}

/* A tile of c (rows x vectors) = or += a b; a[r][k] lies at a + r * a_row + k * a_step. */
static ALWAYS_INLINE void attention_tile(int rows, int vectors, float *c, int64_t c_row, const float *a, int64_t a_row, int64_t a_step,
                                         const float *b, int64_t b_row, int64_t depth, bool added) {
    vf sum[A_ROWS][A_VECTORS];
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = added ? load(c + r * c_row + v * LANES) : zero();
    }
    for (int64_t k = 0; k < depth; k++, a += a_step, b += b_row) {
        vf right[A_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) right[v] = load(b + v * LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            const vf left = all(a[r * a_row]);
            UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = fma_(left, right[v], sum[r][v]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < vectors; v++) store(c + r * c_row + v * LANES, sum[r][v]);
    }
}

static ALWAYS_INLINE void attention_rows(int rows, int64_t n, float *c, int64_t c_row, const float *a, int64_t a_row, int64_t a_step,
                                         const float *b, int64_t b_row, int64_t depth, bool added) {
    int64_t i = 0;
    for (; i + A_VECTORS * LANES <= n; i += A_VECTORS * LANES)
        attention_tile(rows, A_VECTORS, c + i, c_row, a, a_row, a_step, b + i, b_row, depth, added);
    for (; i < n; i += LANES) attention_tile(rows, 1, c + i, c_row, a, a_row, a_step, b + i, b_row, depth, added);
}

/* c (m, n) = or += a (m, depth) b (depth, n); n is a multiple of LANES. */
static __attribute__((noinline)) void attention_product(int64_t m, int64_t n, int64_t depth, float *c, int64_t c_row, const float *a,
                                                        int64_t a_row, int64_t a_step, const float *b, int64_t b_row, bool added) {
    int64_t r = 0;
    for (; r + A_ROWS <= m; r += A_ROWS)
        attention_rows(A_ROWS, n, c + r * c_row, c_row, a + r * a_row, a_row, a_step, b, b_row, depth, added);
    for (; r < m; r++) attention_rows(1, n, c + r * c_row, c_row, a + r * a_row, a_row, a_step, b, b_row, depth, added);
}

static int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

/* x (wide, room), turned: (room, wide). */
static void turn(const float *x, int64_t wide, int64_t room, float *out) {
    for (int64_t t = 0; t < wide; t += LANES) {
        for (int64_t i = 0; i < room; i += LANES) transpose(x + t * room + i, room, out + i * wide + t, wide);
    }
}

/* 1 for the first `count` lanes, 0 for the others. */
static ALWAYS_INLINE vf first_lanes(int64_t count) {
    static const float ones[2 * 16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    return load(ones + 16 - (count < LANES ? count : LANES));
}

/* exp(x * scale - limit) of the first n of `wide` numbers, and 0 for the others; returns their sum. */
static ALWAYS_INLINE float exponentials(float *x, int64_t n, int64_t wide, float scale, float limit) {
    vf total = zero();
    int64_t i = 0;
    for (; i < n; i += LANES) {
        vf y = fma_(load(x + i), all(scale), all(-limit));
        if (n - i < LANES)
            y = exponential(min_(zero(), y)) * first_lanes(n - i); /* what is behind may be larger than the largest */
        else
            y = exponential(y);
        total += y;
        store(x + i, y);
    }
    for (; i < wide; i += LANES) store(x + i, zero());
    return sum_of(total);
}

/* out (n, room) of queries, keys and values (wide, room), zeros where there is no token or no number of the head. `log_sums`, `heads`
 * numbers apart, are for the backward pass. */
static void attend(const float *q, const float *k, const float *v, int64_t n, int64_t head_dim, int64_t room, float *out, float *log_sums,
                   int64_t heads, float *work) {
    const int64_t wide = up_to(n, LANES);
    float *keys = work, *scores = keys + wide * room;
    const float scale = 1.0f / sqrtf((float)head_dim);
    turn(k, wide, room, keys);
    for (int64_t top = 0; top < n; top += MOST_QUERIES) {
        const int64_t count = n - top < MOST_QUERIES ? n - top : MOST_QUERIES, end = up_to(top + count, LANES);
        attention_product(count, end, head_dim, scores, wide, q + top * room, room, 1, keys, wide, false);
        for (int64_t r = 0; r < count; r++) {
            float *row = scores + r * wide, most = row[0];
            const int64_t seen = top + r + 1;
            vf high = all(row[0]);
            int64_t i = 0;
            for (; i + LANES <= seen; i += LANES) high = max_(high, load(row + i));
            most = max_of(high);
            for (; i < seen; i++) most = row[i] > most ? row[i] : most;
            const float sum = exponentials(row, seen, end, scale, most * scale);
            log_sums[(top + r) * heads] = most * scale + logf(sum);
            const vf inverse = all(1.0f / sum);
            for (i = 0; i < end; i += LANES) store(row + i, load(row + i) * inverse);
        }
        attention_product(count, room, top + count, out + top * room, room, scores, wide, 1, v, room, false);
    }
}

/* The gradients of a head, (n, room): dq, and what is added to dk and dv, from that of its output. */
static void attend_backward(const float *q, const float *k, const float *v, int64_t n, int64_t head_dim, int64_t room,
                            const float *gradient, const float *log_sums, int64_t heads, float *dq, float *dk, float *dv, float *work) {
    const int64_t wide = up_to(n, LANES);
    float *keys = work, *values = keys + wide * room, *scores = values + wide * room, *slopes = scores + MOST_QUERIES * wide;
    const float scale = 1.0f / sqrtf((float)head_dim);
    turn(k, wide, room, keys);
    turn(v, wide, room, values);
    for (int64_t top = 0; top < n; top += MOST_QUERIES) {
        const int64_t count = n - top < MOST_QUERIES ? n - top : MOST_QUERIES, all_keys = top + count, end = up_to(all_keys, LANES);
        attention_product(count, end, head_dim, scores, wide, q + top * room, room, 1, keys, wide, false);
        attention_product(count, end, head_dim, slopes, wide, gradient + top * room, room, 1, values, wide, false);
        for (int64_t r = 0; r < count; r++) {
            float *p = scores + r * wide, *s = slopes + r * wide;
            exponentials(p, top + r + 1, end, scale, log_sums[(top + r) * heads]);
            vf total = zero();
            for (int64_t i = 0; i < end; i += LANES) total = fma_(load(p + i), load(s + i), total);
            const vf mean = all(sum_of(total));
            for (int64_t i = 0; i < end; i += LANES) store(s + i, load(p + i) * (load(s + i) - mean) * all(scale));
        }
        attention_product(count, room, all_keys, dq + top * room, room, slopes, wide, 1, k, room, false);
        attention_product(all_keys, room, count, dk, room, slopes, 1, wide, q + top * room, room, true);
        attention_product(all_keys, room, count, dv, room, scores, 1, wide, gradient + top * room, room, true);
    }
}
