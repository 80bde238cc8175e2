/* Orthogonalization of a matrix by polynomials of its singular values (train/muon.py has the reference and the coefficients' origin),
 * with products of 16-bit integers.
 *
 * Every vector of a product has its own scale, chosen so that its norm becomes INTEGER_NORM. By the inequality of Cauchy and Schwarz no
 * sum of products then exceeds about 2^30, so int32 sums are exact, whatever their order. The relative error of a vector is about
 * 0.3 sqrt(length) / 32767, a tenth of that of bfloat16, and the products are as fast.
 *
 * Products of symmetric matrices that commute are symmetric: only the panels on and above the diagonal are computed. */

#define INTEGER_NORM 32767.0f

/* ---- packing ---- */

/* The scales of n vectors from the sums of their squares, which become 1 / scale; vectors of zeros get 0 for both. */
static void scales_of(float *squares, int64_t n, float *scales) {
    for (int64_t i = 0; i < n; i++) {
        const float norm = sqrtf(squares[i]);
        scales[i] = norm / INTEGER_NORM;
        squares[i] = norm > 0 ? INTEGER_NORM / norm : 0;
    }
}

static ALWAYS_INLINE vi scaled_i32(const float *x, vf factor) { return cvt_i32(load(x) * factor); }

/* The bytes between panels of vectors with this number of pairs of elements. */
static ALWAYS_INLINE int64_t panel_bytes(int64_t pairs) { return pairs * PANEL * 4; }

/* PANEL rows x[row ...][ld], as the vectors of one panel, columns first ... first + count - 1; `count` is a multiple of 2 LANES. */
static void pack_rows(const float *x, int64_t ld, const float *inverse_scales, int64_t first, int64_t count, uint8_t *panel) {
    float block[LANES * LANES];
    for (int64_t column = first; column < first + count; column += 2 * LANES) {
        for (int64_t start = 0; start < PANEL; start += LANES) {
            for (int64_t r = 0; r < LANES; r++) {
                const float *from = x + (start + r) * ld + column;
                const vf factor = broadcast(inverse_scales[start + r]);
                store_i32(block + r * LANES, narrow_i16(scaled_i32(from, factor), scaled_i32(from + LANES, factor)));
            }
            transpose(block, LANES, (float *)(panel + panel_bytes(column / 2)) + start, PANEL);
        }
    }
}

/* PANEL columns of x (count, ld), as the vectors of one panel; `pair` is the place of the first two rows. */
static void pack_columns(const float *x, int64_t ld, const float *inverse_scales, int64_t count, uint8_t *panel, int64_t pair) {
    for (int64_t r = 0; r < count; r += 2, x += 2 * ld, pair++) {
        for (int64_t c = 0; c < PANEL; c += LANES) {
            const vf factor = load(inverse_scales + c);
            store_i32(panel + panel_bytes(pair) + 4 * c, interleave_halves(scaled_i32(x + c, factor), scaled_i32(x + ld + c, factor)));
        }
    }
}

/* The rows and the columns of x (rows, columns) as vectors; returns the Frobenius norm of x. inverse_scales: scratch. */
static float pack_matrix(const float *x, int64_t rows, int64_t columns, float *inverse_scales, const struct vectors *row_vectors,
                         const struct vectors *column_vectors) {
    double squares = 0;
    for (int64_t r = 0; r < rows; r++) {
        vf total = zero_f32();
        for (int64_t c = 0; c < columns; c += LANES) total = fmadd(load(x + r * columns + c), load(x + r * columns + c), total);
        inverse_scales[r] = reduce_add(total);
        squares += inverse_scales[r];
    }
    scales_of(inverse_scales, rows, row_vectors->scales);
    for (int64_t r = 0; r < rows; r += PANEL)
        pack_rows(x + r * columns, columns, inverse_scales + r, 0, columns, row_vectors->panels + r / PANEL * panel_bytes(columns / 2));
    memset(inverse_scales, 0, (size_t)columns * 4);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < columns; c += LANES) {
            const vf y = load(x + r * columns + c);
            store(inverse_scales + c, fmadd(y, y, load(inverse_scales + c)));
        }
    }
    scales_of(inverse_scales, columns, column_vectors->scales);
    for (int64_t c = 0; c < columns; c += PANEL)
        pack_columns(x + c, columns, inverse_scales + c, rows, column_vectors->panels + c / PANEL * panel_bytes(rows / 2), 0);
    return (float)sqrt(squares);
}

/* The vectors of a symmetric matrix x (n, n). inverse_scales: scratch. */
static void pack_symmetric(const float *x, int64_t n, float *inverse_scales, const struct vectors *out) {
    memset(inverse_scales, 0, (size_t)n * 4);
    for (int64_t r = 0; r < n; r++) {
        vf total = zero_f32();
        const int64_t diagonal = r / PANEL * PANEL;
        for (int64_t c = diagonal; c < n; c += LANES) {
            const vf square = load(x + r * n + c) * load(x + r * n + c);
            total += square;
            if (c >= diagonal + PANEL) store(inverse_scales + c, load(inverse_scales + c) + square);
        }
        inverse_scales[r] += reduce_add(total);
    }
    scales_of(inverse_scales, n, out->scales);
    for (int64_t r = 0; r < n; r += PANEL) {
        for (int64_t c = r; c < n; c += PANEL)
            pack_columns(x + r * n + c, n, inverse_scales + c, PANEL, out->panels + c / PANEL * panel_bytes(n / 2), r / 2);
        pack_rows(x + r * n, n, inverse_scales + r, r + PANEL, n - r - PANEL, out->panels + r / PANEL * panel_bytes(n / 2));
    }
}

/* ---- products ---- */

/* The products of TILE_ROWS vectors of one panel with the PANEL vectors of another. */
struct tile {
    vi left[TILE_ROWS], right[TILE_ROWS]; /* the two vectors of a row's columns */
};

/* `left` is at the first of the TILE_ROWS vectors. */
static ALWAYS_INLINE struct tile tile_product(const uint8_t *left, const uint8_t *right, int64_t pairs) {
    struct tile t;
    UNROLL for (int r = 0; r < TILE_ROWS; r++) t.left[r] = t.right[r] = zero_i32();
    for (int64_t k = 0; k < pairs; k++, left += PANEL * 4, right += PANEL * 4) {
        const vi a = load_i32(right), b = load_i32(right + LANES * 4);
        UNROLL for (int r = 0; r < TILE_ROWS; r++) {
            int32_t two;
            memcpy(&two, left + 4 * r, 4);
            const vi x = broadcast_i32(two);
            t.left[r] = dot_i16(t.left[r], a, x);
            t.right[r] = dot_i16(t.right[r], b, x);
        }
    }
    return t;
}

/* What becomes of a product: out = factor * product + base_factor * base. base may be out, or NULL (0). */
struct combination {
    float factor, base_factor;
    const float *base;
    float *out;
};

/* Rows first ... last - 1 of the product of two lists of vectors, and the columns of one panel. */
static __attribute__((noinline)) void panel_product(const struct vectors *left, const struct vectors *right, int64_t pairs, int64_t first,
                                                    int64_t last, int64_t column, int64_t ld, const struct combination *to) {
    const uint8_t *panel = right->panels + column / PANEL * panel_bytes(pairs);
    const vf scale_a = load(right->scales + column) * broadcast(to->factor);
    const vf scale_b = load(right->scales + column + LANES) * broadcast(to->factor);
    const vf base_factor = broadcast(to->base_factor);
    for (int64_t row = first; row < last; row += TILE_ROWS) {
        const struct tile t = tile_product(left->panels + row / PANEL * panel_bytes(pairs) + row % PANEL * 4, panel, pairs);
        UNROLL for (int r = 0; r < TILE_ROWS; r++) {
            const vf scale = broadcast(left->scales[row + r]);
            const int64_t at = (row + r) * ld + column;
            vf a = cvt_f32(t.left[r]) * scale * scale_a, b = cvt_f32(t.right[r]) * scale * scale_b;
            if (to->base) a = fmadd(base_factor, load(to->base + at), a), b = fmadd(base_factor, load(to->base + at + LANES), b);
            store(to->out + at, a);
            store(to->out + at + LANES, b);
        }
    }
}

/* Replace the block of panel `column` on the diagonal of x (n, n) by the mean of itself and its transpose: different rounding of both would
 * grow from step to step. */
static void symmetrize(float *x, int64_t n, int64_t column) {
    float other[LANES * LANES];
    for (int64_t r = column; r < column + PANEL; r += LANES) {
        for (int64_t c = r; c < column + PANEL; c += LANES) {
            transpose(x + c * n + r, n, other, LANES);
            for (int64_t i = 0; i < LANES; i++) {
                float *at = x + (r + i) * n + c;
                store(at, broadcast(0.5f) * (load(at) + load(other + i * LANES)));
            }
            if (c > r) transpose(x + r * n + c, n, x + c * n + r, n);
        }
    }
}

/* The product of two symmetric matrices that commute, or the Gram matrix of vectors; (n, n), panels on and above the diagonal. */
static void symmetric_product(const struct vectors *left, const struct vectors *right, int64_t n, int64_t pairs, float factor,
                              float base_factor, const float *base, float *out) {
    const struct combination to = {factor, base_factor, base, out};
    for (int64_t column = 0; column < n; column += PANEL) {
        panel_product(left, right, pairs, 0, column + PANEL, column, n, &to);
        symmetrize(out, n, column);
    }
}

/* ---- polynomials of symmetric matrices ---- */

/* out = a x + b y + diagonal * identity. */
static void combine(int64_t n, float *out, float a, const float *x, float b, const float *y, float diagonal) {
    for (int64_t r = 0; r < n; r++) {
        for (int64_t at = r * n + r / PANEL * PANEL; at < (r + 1) * n; at += LANES)
            store(out + at, fmadd(broadcast(a), load(x + at), broadcast(b) * load(y + at)));
        out[r * n + r] += diagonal;
    }
}

/* The Frobenius norm. */
static float symmetric_norm(const float *x, int64_t n) {
    double total = 0;
    for (int64_t r = 0; r < n; r++) {
        vf on = zero_f32(), above = zero_f32();
        const int64_t diagonal = r / PANEL * PANEL;
        for (int64_t c = diagonal; c < n; c += LANES) {
            const vf y = load(x + r * n + c);
            if (c < diagonal + PANEL)
                on = fmadd(y, y, on);
            else
                above = fmadd(y, y, above);
        }
        total += reduce_add(on) + 2.0 * reduce_add(above);
    }
    return (float)sqrt(total);
}

/* The coefficients of a x + b x^3 + c x^5. */
struct polynomial {
    float a, b, c;
};

static const struct polynomial square_polynomials[] = {
    {7.7110f, -22.1138f, 16.2487f},
    {3.2153f, -2.4112f, 0.5013f},
    {2.2183f, -1.5940f, 0.4107f},
};
static const struct polynomial wide_polynomials[] = {
    {7.3625f, -20.7434f, 15.1606f},
    {2.9175f, -2.1824f, 0.4755f},
    {2.0463f, -1.4295f, 0.3934f},
};
enum { POLYNOMIALS = 3 };

/* gram := R = X X^T / largest^2, packed in w->left too; product := b R + c R^2. If `largest` is given, R is X X^T and not 0, and
 * `largest` becomes the 8-norm of the singular values, |R^2|^(1/4), which is at least the largest one. */
static void start_polynomial(struct muon_workspace *w, int64_t n, struct polynomial p, float *largest) {
    float *gram = w->gram, *product = w->product;
    if (largest == NULL) {
        pack_symmetric(gram, n, w->inverse_scales, &w->left);
        symmetric_product(&w->left, &w->left, n, n / 2, p.c, p.b, gram, product);
        return;
    }
    const float norm = symmetric_norm(gram, n);
    combine(n, gram, 1 / norm, gram, 0, gram, 0);
    pack_symmetric(gram, n, w->inverse_scales, &w->left);
    symmetric_product(&w->left, &w->left, n, n / 2, 1, 0, NULL, product);
    const float again = sqrtf(symmetric_norm(product, n));
    *largest = sqrtf(norm) * sqrtf(again);
    combine(n, gram, 1 / again, gram, 0, gram, 0);
    combine(n, product, p.b, gram, p.c / (again * again), product, 0);
    for (int64_t i = 0; i < n; i++) w->left.scales[i] /= again;
}

/* For a matrix X whose longer side is at least twice the shorter, n, and R = X X^T in w->gram: w->polynomial := Q such that Q X, divided by
 * the result, which is the 8-norm of the singular values, has singular values near 1. Every step replaces Q by P Q and R by P R P with
 * P = a + D, D = b R + c R^2. The eigenvalues of R are squares, so the small ones are lost easily. They are kept because only products
 * that are small where R is small are computed in integers: P R P = a^2 R + 2 a V + V D with V = R D. */
static float polynomial_of_gram(struct muon_workspace *w, int64_t n) {
    float largest = 1;
    for (int step = 0; step < POLYNOMIALS; step++) {
        const struct polynomial p = wide_polynomials[step];
        start_polynomial(w, n, p, step ? NULL : &largest);
        pack_symmetric(w->product, n, w->inverse_scales, &w->right);
        if (step == 0) {
            combine(n, w->polynomial, 1, w->product, 0, w->product, p.a);
        } else {
            pack_symmetric(w->polynomial, n, w->inverse_scales, &w->third);
            symmetric_product(&w->right, &w->third, n, n / 2, 1, p.a, w->polynomial, w->polynomial);
        }
        if (step + 1 == POLYNOMIALS) break;
        symmetric_product(&w->left, &w->right, n, n / 2, 1, 0, NULL, w->product);
        pack_symmetric(w->product, n, w->inverse_scales, &w->left);
        combine(n, w->gram, p.a * p.a, w->gram, 2 * p.a, w->product, 0);
        symmetric_product(&w->left, &w->right, n, n / 2, 1, 1, w->gram, w->gram);
    }
    return largest;
}

/* Replace w->x (rows, columns) by the matrix with the same singular vectors and singular values near 1. wide: one side, without padding,
 * is at least twice as long as the other. */
static void orthogonalize(struct muon_workspace *w, int64_t rows, int64_t columns, bool wide) {
    const bool tall = rows > columns;
    const int64_t n = tall ? columns : rows, longer = tall ? rows : columns;
    const struct vectors *shorter_side = tall ? &w->columns : &w->rows;
    const struct combination to = {1, 0, NULL, w->x};
    if (wide) {
        const float norm = pack_matrix(w->x, rows, columns, w->inverse_scales, &w->rows, &w->columns);
        if (!(norm > 0)) return;
        symmetric_product(shorter_side, shorter_side, n, longer / 2, 1 / norm / norm, 0, NULL, w->gram);
        const float largest = norm * polynomial_of_gram(w, n);
        pack_symmetric(w->polynomial, n, w->inverse_scales, &w->third);
        struct combination last = to;
        last.factor = 1 / largest;
        for (int64_t column = 0; column < columns; column += PANEL)
            panel_product(tall ? &w->rows : &w->third, tall ? &w->third : &w->columns, n / 2, 0, rows, column, columns, &last);
        return;
    }
    for (int step = 0; step < POLYNOMIALS; step++) {
        const struct polynomial p = square_polynomials[step];
        float norm = pack_matrix(w->x, rows, columns, w->inverse_scales, &w->rows, &w->columns), largest = 1;
        if (!(norm > 0)) return;
        if (step) norm = 1;
        symmetric_product(shorter_side, shorter_side, n, longer / 2, 1 / norm / norm, 0, NULL, w->gram);
        start_polynomial(w, n, p, step ? NULL : &largest);
        largest *= norm;
        pack_symmetric(w->product, n, w->inverse_scales, &w->right);
        struct combination next = to;
        next.factor = 1 / largest, next.base_factor = p.a / largest, next.base = w->x;
        for (int64_t column = 0; column < columns; column += PANEL)
            panel_product(tall ? &w->rows : &w->right, tall ? &w->right : &w->columns, n / 2, 0, rows, column, columns, &next);
    }
}
