/* One step of AdamW and Muon with clipping, weight decay and the moving average of the weights. Every item of work reads and writes each
 * of its tensors once. */

/* The sum of squares of n floats, n a multiple of 32. */
static double sum_of_squares(const float *x, int64_t n) {
    vf total[4] = {zero_f32(), zero_f32(), zero_f32(), zero_f32()};
    for (int64_t i = 0; i < n; i += 32) {
        UNROLL for (int v = 0; v < 32 / LANES; v++) {
            const vf y = load(x + i + v * LANES);
            total[v] = fmadd(y, y, total[v]);
        }
    }
    double sum = 0;
    for (int v = 0; v < 4; v++) sum += reduce_add(total[v]);
    return sum;
}

/* bullet_gradient_norm, one thread of it. */
static void gradient_squares(void *context, int32_t member, struct barrier *barrier) {
    (void)member, (void)barrier;
    struct update_call *call = context;
    for (int64_t i; (i = atomic_fetch_add(&call->next, 1)) < call->n_items;) {
        const struct update_item *item = call->items + i;
        call->squares[i] = sum_of_squares(call->parameters[item->parameter].gradient + item->first, item->count);
    }
}

/* x + weight * (target - x). */
static ALWAYS_INLINE vf lerp(vf x, vf target, vf weight) { return fmadd(weight, target - x, x); }

static ALWAYS_INLINE void update_average(float *average, vf weight, vf share) {
    if (average) store(average, lerp(load(average), weight, share));
}

/* m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2,
 * weight = (1 - rate decay) weight - rate m / correction1 / (sqrt(v / correction2) + eps) (Loshchilov & Hutter 2019, arXiv:1711.05101). */
static void update_adamw(const struct bullet_parameter *p, const struct bullet_update *u, int64_t first, int64_t count) {
    const vf scale = broadcast((float)u->gradient_scale), share = broadcast((float)u->average_weight);
    const vf keep1 = broadcast((float)(1 - u->beta1)), beta2 = broadcast((float)u->beta2), keep2 = broadcast((float)(1 - u->beta2));
    const vf decayed = broadcast((float)(1 - p->learning_rate * p->weight_decay));
    const vf rate = broadcast((float)(p->learning_rate / u->correction1)), eps = broadcast((float)u->eps);
    const vf root = broadcast((float)(1 / sqrt(u->correction2)));
    for (int64_t i = first; i < first + count; i += LANES) {
        const vf g = load(p->gradient + i) * scale;
        const vf m = lerp(load(p->first + i), g, keep1), v = fmadd(keep2 * g, g, beta2 * load(p->second + i));
        const vf weight = load(p->weight + i) * decayed - rate * m / fmadd(sqrt_f32(v), root, eps);
        store(p->gradient + i, zero_f32());
        store(p->first + i, m);
        store(p->second + i, v);
        store(p->weight + i, weight);
        update_average(p->average ? p->average + i : NULL, weight, share);
    }
}

/* momentum = beta momentum + (1 - beta) g; the update is the orthogonalized (1 - beta) g + beta momentum times 0.2 sqrt(longer side), so
 * that its elements have a root mean square of 0.2 (Liu et al. 2025, arXiv:2502.16982). */
static void update_muon(const struct bullet_parameter *p, const struct bullet_update *u, struct muon_workspace *w) {
    const int64_t rows = ROUND_UP(p->rows, MATRIX_PADDING), count = p->rows * p->columns;
    const vf scale = broadcast((float)u->gradient_scale), beta = broadcast((float)u->momentum), keep = broadcast((float)(1 - u->momentum));
    for (int64_t i = 0; i < count; i += LANES) {
        const vf g = load(p->gradient + i) * scale, momentum = lerp(load(p->first + i), g, keep);
        store(p->gradient + i, zero_f32());
        store(p->first + i, momentum);
        store(w->x + i, lerp(g, momentum, beta));
    }
    memset(w->x + count, 0, (size_t)(rows * p->columns - count) * 4);
    orthogonalize(w, rows, p->columns, p->rows >= 2 * p->columns || p->columns >= 2 * p->rows);
    const double longer = (double)(p->rows > p->columns ? p->rows : p->columns);
    const vf rate = broadcast((float)(-0.2 * sqrt(longer) * p->learning_rate)), share = broadcast((float)u->average_weight);
    const vf decayed = broadcast((float)(1 - p->learning_rate * p->weight_decay));
    for (int64_t i = 0; i < count; i += LANES) {
        const vf weight = fmadd(rate, load(w->x + i), load(p->weight + i) * decayed);
        store(p->weight + i, weight);
        update_average(p->average ? p->average + i : NULL, weight, share);
    }
}

/* bullet_optimizer_step, one thread of it. */
static void update_parameters(void *context, int32_t member, struct barrier *barrier) {
    (void)barrier;
    struct update_call *call = context;
    const unsigned saved_mxcsr = _mm_getcsr();
    _mm_setcsr(saved_mxcsr | 0x8040); /* subnormal numbers are zero: they are slow */
    for (int64_t i; (i = atomic_fetch_add(&call->next, 1)) < call->n_items;) {
        const struct update_item *item = call->items + i;
        const struct bullet_parameter *p = call->parameters + item->parameter;
        if (p->second)
            update_adamw(p, call->update, item->first, item->count);
        else
            update_muon(p, call->update, call->workspaces + member);
    }
    _mm_setcsr(saved_mxcsr);
}
