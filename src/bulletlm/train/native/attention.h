/* Causal attention of one head over one sequence, softmax(q k^T / sqrt(head_dim)) v, and its gradients, in float32.
 *
 * QUERY_BLOCK queries are computed together, with the keys up to the last of them; so no (length, length) matrix is stored. The
 * backward pass recomputes the probabilities from the log-sum-exp of each row (Dao et al. 2022, arXiv:2205.14135).
 * q, k, v, out and their gradients: float[padded_length][head_stride], head_stride = head_dim rounded up to 16, with zeros in the
 * padding of q, k and v. */

/* e^x: 2^n times a polynomial of degree 6 on |r| <= ln(2) / 2, relative error below 2.5e-7. Arguments below -87 count as -87, so that
 * no result is subnormal; arguments above 88 overflow. NaN stays NaN because max_f32 gives its second operand then. */
static ALWAYS_INLINE vf exp_approx(vf x) {
    x = max_f32(broadcast(-87.0f), x);
    const vf n = round_f32(x * broadcast(1.44269504f));
    vf r = fmadd(n, broadcast(-0.693145752f), x); /* ln(2) in two parts: the product with the first is exact */
    r = fmadd(n, broadcast(-1.42860677e-6f), r);
    vf y = broadcast(1.0f / 720);
    y = fmadd(y, r, broadcast(1.0f / 120));
    y = fmadd(y, r, broadcast(1.0f / 24));
    y = fmadd(y, r, broadcast(1.0f / 6));
    y = fmadd(y, r, broadcast(0.5f));
    y = fmadd(y, r, broadcast(1.0f));
    y = fmadd(y, r, broadcast(1.0f));
    return scale_pow2(y, n);
}

/* c = a b, or c += a b, for a tile of `rows` rows and `vectors` vectors of columns; a[r][k] is at a + r * a_row + k * a_step. */
static ALWAYS_INLINE void matmul_f32_tile(int rows, int vectors, float *c, int64_t c_row, const float *a, int64_t a_row, int64_t a_step,
                                          const float *b, int64_t b_row, int64_t depth, bool add) {
    vf sum[F32_TILE_ROWS][F32_TILE_VECTORS];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++)
        sum[r][v] = add ? load(c + r * c_row + v * LANES) : zero_f32();
    for (int64_t k = 0; k < depth; k++, a += a_step, b += b_row) {
        vf right[F32_TILE_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) right[v] = load(b + v * LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            const vf left = broadcast(a[r * a_row]);
            UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = fmadd(left, right[v], sum[r][v]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++) store(c + r * c_row + v * LANES, sum[r][v]);
}

/* `rows` rows of matmul_f32. */
static ALWAYS_INLINE void matmul_f32_rows(int rows, int64_t n, float *c, int64_t c_row, const float *a, int64_t a_row, int64_t a_step,
                                          const float *b, int64_t b_row, int64_t depth, bool add) {
    int64_t i = 0;
    for (; i + F32_TILE_VECTORS * LANES <= n; i += F32_TILE_VECTORS * LANES)
        matmul_f32_tile(rows, F32_TILE_VECTORS, c + i, c_row, a, a_row, a_step, b + i, b_row, depth, add);
    for (; i < n; i += LANES) matmul_f32_tile(rows, 1, c + i, c_row, a, a_row, a_step, b + i, b_row, depth, add);
}

/* c (m, n) = a (m, depth) b (depth, n), or c += a b; n is a multiple of LANES. c_row, a_row, b_row: floats from row to row;
 * a_step: floats from column to column of a, so that a may be a transposed matrix. */
static __attribute__((noinline)) void matmul_f32(int64_t m, int64_t n, int64_t depth, float *c, int64_t c_row, const float *a,
                                                 int64_t a_row, int64_t a_step, const float *b, int64_t b_row, bool add) {
    int64_t r = 0;
    for (; r + F32_TILE_ROWS <= m; r += F32_TILE_ROWS)
        matmul_f32_rows(F32_TILE_ROWS, n, c + r * c_row, c_row, a + r * a_row, a_row, a_step, b, b_row, depth, add);
    for (; r < m; r++) matmul_f32_rows(1, n, c + r * c_row, c_row, a + r * a_row, a_row, a_step, b, b_row, depth, add);
}

/* x (rows, columns) -> out (columns, rows); both are multiples of LANES. */
static void transpose_matrix(const float *x, int64_t rows, int64_t columns, float *out) {
    for (int64_t r = 0; r < rows; r += LANES) {
        for (int64_t c = 0; c < columns; c += LANES) transpose(x + r * columns + c, columns, out + c * rows + r, rows);
    }
}

/* 1 in the first `count` lanes, 0 in the others. */
static ALWAYS_INLINE vf lane_mask(int64_t count) {
    static const float ones[2 * 16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    return load(ones + 16 - (count < LANES ? count : LANES));
}

/* x[i] = exp(x[i] * scale - offset) for i < n, 0 for n <= i < padded_n; returns their sum. */
static ALWAYS_INLINE float exp_row(float *x, int64_t n, int64_t padded_n, float scale, float offset) {
    vf total = zero_f32();
    int64_t i = 0;
    for (; i < n; i += LANES) {
        vf y = fmadd(load(x + i), broadcast(scale), broadcast(-offset));
        if (n - i < LANES) /* the limit: scores behind the end may be larger than the maximum and overflow */
            y = exp_approx(min_f32(zero_f32(), y)) * lane_mask(n - i);
        else
            y = exp_approx(y);
        total += y;
        store(x + i, y);
    }
    for (; i < padded_n; i += LANES) store(x + i, zero_f32());
    return reduce_add(total);
}

/* out (n, head_stride) of one head with n tokens. log_sum_exp[t * lse_stride]: of the scaled scores of query t, for the backward pass.
 * scratch: [padded_length][head_stride] and [QUERY_BLOCK][padded_length] floats. */
static void attention_forward(const float *q, const float *k, const float *v, int64_t n, int64_t head_dim, int64_t head_stride, float *out,
                              float *log_sum_exp, int64_t lse_stride, float *scratch) {
    const int64_t padded_length = ROUND_UP(n, LANES);
    float *keys_t = scratch, *scores = keys_t + padded_length * head_stride;
    const float scale = 1.0f / sqrtf((float)head_dim);
    transpose_matrix(k, padded_length, head_stride, keys_t);
    for (int64_t first = 0; first < n; first += QUERY_BLOCK) {
        const int64_t queries = n - first < QUERY_BLOCK ? n - first : QUERY_BLOCK;
        const int64_t keys = first + queries, padded_keys = ROUND_UP(keys, LANES);
        matmul_f32(queries, padded_keys, head_dim, scores, padded_length, q + first * head_stride, head_stride, 1, keys_t, padded_length,
                   false);
        for (int64_t r = 0; r < queries; r++) {
            float *row = scores + r * padded_length, max = row[0];
            const int64_t visible = first + r + 1;
            vf lane_max = broadcast(row[0]);
            int64_t i = 0;
            for (; i + LANES <= visible; i += LANES) lane_max = max_f32(lane_max, load(row + i));
            max = reduce_max(lane_max);
            for (; i < visible; i++) max = row[i] > max ? row[i] : max;
            const float sum = exp_row(row, visible, padded_keys, scale, max * scale);
            log_sum_exp[(first + r) * lse_stride] = max * scale + logf(sum);
            const vf inverse = broadcast(1.0f / sum);
            for (i = 0; i < padded_keys; i += LANES) store(row + i, load(row + i) * inverse);
        }
        matmul_f32(queries, head_stride, keys, out + first * head_stride, head_stride, scores, padded_length, 1, v, head_stride, false);
    }
}

/* Gradients of one head from d_out (n, head_stride), that of its output: dq is written, dk and dv are added to, because several
 * query heads may share them. With P the probabilities: dV = P^T dO, dS = P * (dO V^T - rowsum(P * dO V^T)) / sqrt(head_dim),
 * dQ = dS K, dK = dS^T Q.
 * scratch: [2][padded_length][head_stride] and [2][QUERY_BLOCK][padded_length] floats. */
static void attention_backward(const float *q, const float *k, const float *v, int64_t n, int64_t head_dim, int64_t head_stride,
                               const float *d_out, const float *log_sum_exp, int64_t lse_stride, float *dq, float *dk, float *dv,
                               float *scratch) {
    const int64_t padded_length = ROUND_UP(n, LANES);
    float *keys_t = scratch, *values_t = keys_t + padded_length * head_stride;
    float *scores = values_t + padded_length * head_stride, *d_scores = scores + QUERY_BLOCK * padded_length;
    const float scale = 1.0f / sqrtf((float)head_dim);
    transpose_matrix(k, padded_length, head_stride, keys_t);
    transpose_matrix(v, padded_length, head_stride, values_t);
    for (int64_t first = 0; first < n; first += QUERY_BLOCK) {
        const int64_t queries = n - first < QUERY_BLOCK ? n - first : QUERY_BLOCK;
        const int64_t keys = first + queries, padded_keys = ROUND_UP(keys, LANES);
        matmul_f32(queries, padded_keys, head_dim, scores, padded_length, q + first * head_stride, head_stride, 1, keys_t, padded_length,
                   false);
        matmul_f32(queries, padded_keys, head_dim, d_scores, padded_length, d_out + first * head_stride, head_stride, 1, values_t,
                   padded_length, false);
        for (int64_t r = 0; r < queries; r++) {
            float *p = scores + r * padded_length, *ds = d_scores + r * padded_length;
            exp_row(p, first + r + 1, padded_keys, scale, log_sum_exp[(first + r) * lse_stride]);
            vf total = zero_f32();
            for (int64_t i = 0; i < padded_keys; i += LANES) total = fmadd(load(p + i), load(ds + i), total);
            const vf row_sum = broadcast(reduce_add(total));
            for (int64_t i = 0; i < padded_keys; i += LANES) store(ds + i, load(p + i) * (load(ds + i) - row_sum) * broadcast(scale));
        }
        matmul_f32(queries, head_stride, keys, dq + first * head_stride, head_stride, d_scores, padded_length, 1, k, head_stride, false);
        matmul_f32(keys, head_stride, queries, dk, head_stride, d_scores, 1, padded_length, q + first * head_stride, head_stride, true);
        matmul_f32(keys, head_stride, queries, dv, head_stride, scores, 1, padded_length, d_out + first * head_stride, head_stride, true);
    }
}
