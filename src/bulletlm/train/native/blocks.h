/* What forward and backward pass share between the matrix products: RMSNorm, rotary embedding, sigmoid, and the layout of heads. */

/* Row r of the inputs of a product, x[inputs], as codes in w; token: the index of row 0. */
static ALWAYS_INLINE void encode_row(enum pass_kind kind, struct workspace *w, const float *x, int64_t inputs, int64_t r,
                                     const struct saved_input *saved, int64_t token) {
    if (kind != TEACHER_PASS) quantize_nearest(x, inputs, w->codes + r * inputs, saved->scales + token + r, w->sums + r);
    if (kind != INT8_PASS) quantize_exact(x, inputs, w->exact_codes + r * inputs, ACTIVATION_MAX, w->exact_scales + r);
}

/* out (n, outputs of g) = base + the n encoded rows times the weights; base may be NULL (0). */
static void multiply(const struct trainer *t, enum pass_kind kind, struct workspace *w, const struct weight_group *g, int64_t n,
                     struct saved_input *saved, int64_t token, const float *base, float *out) {
    const int64_t inputs = g->inputs, outputs = g->outputs;
    if (kind != TEACHER_PASS) save_input(w->codes, inputs, n, inputs, saved, token, t->tokens);
    if (kind != INT8_PASS)
        matmul_exact(w->exact_codes, w->exact_scales, n, g, base, out);
    else if (base)
        matmul_int8_add(left_row_major(w->codes, inputs, w->sums, saved->scales + token), n, g->forward, inputs / 4, outputs, g->scales,
                        1.0f, base, out, outputs);
    else
        matmul_int8(left_row_major(w->codes, inputs, w->sums, saved->scales + token), n, g->forward, inputs / 4, outputs, g->scales, out,
                    outputs);
}

/* RMSNorm of n tokens x (n, dim), encoded in w for a product; inverse_rms[token]: 1 / root mean square. `token` is the index of the
 * first one. */
static void norm_forward(const struct trainer *t, enum pass_kind kind, struct workspace *w, const float *x, int64_t n, const float *weight,
                         float *inverse_rms, const struct saved_input *saved, int64_t token) {
    const int64_t dim = t->shape.dim;
    float *row = w->row;
    for (int64_t r = 0; r < n; r++, x += dim) {
        vf squares = zero_f32();
        for (int64_t i = 0; i < dim; i += LANES) squares = fmadd(load(x + i), load(x + i), squares);
        const float inverse = 1.0f / sqrtf(reduce_add(squares) / (float)dim + (float)t->shape.norm_eps);
        for (int64_t i = 0; i < dim; i += LANES) store(row + i, load(x + i) * broadcast(inverse) * load(weight + i));
        encode_row(kind, w, row, dim, r, saved, token);
        inverse_rms[token + r] = inverse;
    }
}

/* Backward pass of RMSNorm over n tokens (n, dim): dx = dx_add + (g - x_hat * mean(g * x_hat)) / rms with x_hat = x / rms,
 * g = d_out * weight; d_weight[dim] += d_out * x_hat. dx_add is the gradient through the residual connection, or NULL. */
static void norm_backward(int64_t dim, const float *x, int64_t n, const float *weight, const float *inverse_rms, const float *d_out,
                          const float *dx_add, float *dx, float *d_weight) {
    for (int64_t r = 0; r < n; r++, x += dim, d_out += dim, dx += dim) {
        const vf inverse = broadcast(inverse_rms[r]);
        vf total = zero_f32();
        for (int64_t i = 0; i < dim; i += LANES) {
            const vf x_hat = load(x + i) * inverse, d = load(d_out + i);
            store(d_weight + i, fmadd(d, x_hat, load(d_weight + i)));
            total = fmadd(d * load(weight + i), x_hat, total);
        }
        const vf mean = broadcast(reduce_add(total) / (float)dim);
        for (int64_t i = 0; i < dim; i += LANES) {
            const vf x_hat = load(x + i) * inverse;
            const vf d_norm = (load(d_out + i) * load(weight + i) - x_hat * mean) * inverse;
            if (dx_add)
                store(dx + i, load(dx_add + i) + d_norm);
            else
                store(dx + i, d_norm);
        }
        if (dx_add) dx_add += dim;
    }
}

/* Rotate n heads x (n, head_dim) in place; direction -1 rotates back, which is also the gradient. rope: [2][head_dim] of the position. */
static void rotate(float *x, int64_t n, int64_t head_dim, const float *rope, float direction) {
    const vf sign = broadcast(direction);
    for (int64_t h = 0; h < n; h++, x += head_dim) {
        int64_t i = 0;
        for (; i + LANES <= head_dim; i += LANES) {
            const vf y = load(x + i);
            store(x + i, fmadd(swap_pairs(y), sign * load(rope + head_dim + i), y * load(rope + i)));
        }
        for (; i < head_dim; i += 2) {
            const float even = x[i], odd = x[i + 1], cosine = rope[i], sine = direction * rope[head_dim + i + 1];
            x[i] = even * cosine - odd * sine;
            x[i + 1] = odd * cosine + even * sine;
        }
    }
}

/* Rotate the queries and keys in a row of the qkv group's output. */
static void rotate_row(const struct trainer *t, const struct weight_group *qkv, float *row, int64_t position, float direction) {
    const float *rope = t->rope + position * 2 * t->head_dim;
    rotate(row + qkv->first[0], t->shape.n_heads, t->head_dim, rope, direction);
    rotate(row + qkv->first[1], t->shape.n_kv_heads, t->head_dim, rope, direction);
}

/* ---- heads: queries (part 0), keys (1) and values (2) of a sequence, [heads of all parts][padded_length][padded_head_dim] ---- */

static int64_t n_heads_in(const struct trainer *t, int part) { return part ? t->shape.n_kv_heads : t->shape.n_heads; }

/* Floats of one head, and of all heads of a sequence. */
static int64_t head_size(const struct trainer *t) { return t->padded_length * t->padded_head_dim; }
static int64_t heads_size(const struct trainer *t) { return (t->shape.n_heads + 2 * t->shape.n_kv_heads) * head_size(t); }

/* The first head of a part. */
static ALWAYS_INLINE float *heads_part(const struct trainer *t, const float *heads, int part) {
    const int64_t before = part ? t->shape.n_heads + (part - 1) * t->shape.n_kv_heads : 0;
    return (float *)heads + before * head_size(t);
}

/* Copy between n heads side by side in a row, [n][head_dim], and row `position` of n heads, [n][padded_length][padded_head_dim]. */
static void copy_heads(const struct trainer *t, float *row, float *heads, int64_t position, int64_t n, bool from_row) {
    float *head = heads + position * t->padded_head_dim;
    for (int64_t h = 0; h < n; h++, row += t->head_dim, head += head_size(t))
        memcpy(from_row ? head : row, from_row ? row : head, (size_t)t->head_dim * 4);
}

/* 1 / (1 + e^-x). The lower limit keeps e^-x finite. */
static ALWAYS_INLINE vf sigmoid(vf x) { return reciprocal(broadcast(1.0f) + exp_approx(zero_f32() - max_f32(broadcast(-87.0f), x))); }
