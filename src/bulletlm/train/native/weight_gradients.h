/* Gradients of the weights: sums over all tokens of the micro-batch, computed when the output gradients of all sequences are stored. */

/* out[n] = the maxima of columns first ... first + n - 1 over all threads. */
static void merge_column_max(const struct trainer *t, int64_t first, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i += LANES) {
        vi max_bits = zero_i32();
        for (int32_t m = 0; m < t->threads; m++) max_bits = max_i32(max_bits, load_i32(t->workspaces[m].column_max + first + i));
        store_i32(out + i, max_bits);
    }
}

/* GRAD_ROWS rows of the gradient of part p of a group, from `row` on: d_weight (rows, inputs) += output gradient^T . input. */
static void weight_gradient(struct trainer *t, struct call *call, const struct weight_group *g, const struct saved_input *in, int p,
                            int64_t row, const struct output_grad *grad, struct workspace *w) {
    const int64_t n = g->count[p] - row < GRAD_ROWS ? g->count[p] - row : GRAD_ROWS, quads = t->tokens / 4;
    float column_max[STRIP], scales[GRAD_ROWS];
    int32_t sums[GRAD_ROWS];
    float *d_weight = call->gradients[g->tensor[p]] + row * g->inputs;
    for (int64_t i = 0; i < n; i += STRIP) {
        const int64_t column = g->first[p] + row + i;
        merge_column_max(t, grad->column_max + column, STRIP, column_max);
        quantize_strip(strip_at(grad->strips, t->tokens, 0, column), t->tokens, in->scales, column_max, w->packed + i * t->tokens,
                       scales + i, sums + i);
    }
    matmul_int8_add(left_packed(w->packed, quads, sums, scales), n, in->panels, quads, g->inputs, NULL, 1.0f, d_weight, d_weight,
                    g->inputs);
}

/* Work items of a weight with this number of outputs. */
static int64_t n_items(int64_t outputs) { return (outputs + GRAD_ROWS - 1) / GRAD_ROWS; }

/* Do work item number `item` of a group's gradients, if the group has that many; returns how many it has. */
static int64_t group_gradient(struct trainer *t, struct call *call, const struct weight_group *g, const struct saved_input *in,
                              const struct output_grad *grad, int64_t item, struct workspace *w) {
    int64_t before = 0;
    for (int p = 0; p < g->parts; p++) {
        const int64_t items = n_items(g->count[p]);
        if (item >= before && item < before + items) weight_gradient(t, call, g, in, p, (item - before) * GRAD_ROWS, grad, w);
        before += items;
    }
    return before;
}

/* Work items of a layer until none is left; `next` counts them over all groups. */
static void layer_weight_gradients(struct trainer *t, struct call *call, struct layer *l, const struct layer_grads *grads, atomic_int *next,
                                   struct workspace *w) {
    for (;;) {
        int64_t item = atomic_fetch_add(next, 1);
        item -= group_gradient(t, call, &l->down, &l->down_in, &grads->down, item, w);
        if (item < 0) continue;
        item -= group_gradient(t, call, &l->gate_up, &l->gate_up_in, &grads->gate_up, item, w);
        if (item < 0) continue;
        item -= group_gradient(t, call, &l->qkv, &l->qkv_in, &grads->qkv, item, w);
        if (item < 0) continue;
        item -= group_gradient(t, call, &l->output, &l->output_in, &grads->output, item, w);
        if (item >= 0) return;
    }
}

/* gradient[dim] += sequence_grads[sequences][dim], in the order of the sequences, so that the sum does not depend on the threads. */
static void add_norm_gradients(const struct trainer *t, const float *sequence_grads, float *gradient) {
    const int64_t dim = t->shape.dim;
    for (int64_t s = 0; s < t->sequences; s++) {
        for (int64_t i = 0; i < dim; i += LANES) store(gradient + i, load(gradient + i) + load(sequence_grads + s * dim + i));
    }
}

/* PANEL columns, from `column` on, of the gradient of the embedding: each token adds its row of d_in [N][dim] to its row of the matrix. */
static void embedding_gradient(struct trainer *t, struct call *call, const float *d_in, int64_t column) {
    const int64_t dim = t->shape.dim;
    for (int64_t s = 0; s < t->sequences; s++) {
        const float *from = d_in + s * t->token_stride * dim + column;
        for (int64_t i = 0; i < t->length; i++, from += dim) {
            float *to = call->gradients[0] + call->tokens[s * t->length + i] * dim + column;
            for (int64_t k = 0; k < PANEL; k += LANES) store(to + k, load(to + k) + load(from + k));
        }
    }
}

/* Gradients of the weights of layer n; n = n_layers: those of the output matrix and the final norm. Thread 0 adds those of the norms. */
static void weight_gradients(struct trainer *t, struct call *call, int32_t n, int32_t member, atomic_int *next) {
    struct workspace *w = t->workspaces + member;
    if (n == t->shape.n_layers) {
        for (int64_t item; (item = atomic_fetch_add(next, 1)) < n_items(t->shape.vocab_size);)
            group_gradient(t, call, &t->head, &t->head_in, &t->head_grad, item, w);
        if (member == 0) add_norm_gradients(t, t->final_norm_grads, call->gradients[t->final_norm]);
        return;
    }
    struct layer *l = t->layers + n;
    const struct layer_grads *grads = t->layer_grads + n % 2;
    layer_weight_gradients(t, call, l, grads, next, w);
    if (member == 0) {
        add_norm_gradients(t, grads->mlp_norm, call->gradients[l->mlp_norm]);
        add_norm_gradients(t, grads->attention_norm, call->gradients[l->attention_norm]);
    }
}
