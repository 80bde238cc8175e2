/* The forward pass of one thread: a slice of tokens through all layers. Threads meet at a barrier once a layer, when the keys and values
 * of all slices are in the cache; nothing else is shared between tokens. runtime/engine.py is the same computation in numpy. */

/* workspace->normed and ->act of tokens from ... n - 1. gain: [dim]. */
static void norm_and_quantize(const struct slice *s, int32_t from, const float *gain) {
    const struct model *m = s->model;
    const struct workspace *w = s->workspace;
    const size_t dim = (size_t)m->shape.dim;
    for (size_t t = (size_t)from; t < (size_t)s->n; t++) {
        rms_norm(w->residual + t * dim, gain, w->normed + t * dim, m->shape.dim, m->shape.norm_eps);
        quantize_blocks(w->normed + t * dim, w->act + t * (dim / BLOCK), m->shape.dim, m->turbo);
    }
}

/* out[t][rows rounded up to 16] = matrix * in[t] for tokens from ... n - 1; `act` is `in`, quantized. */
static void project(const struct slice *s, int32_t from, const struct matrix *m, const float *in, const struct act_block *act, float *out) {
    const size_t cols = (size_t)m->cols, first = (size_t)from, rows = ROUND_UP((size_t)m->rows, ROWS);
    matmul(m, in + first * cols, cols, act + first * (cols / BLOCK), cols / BLOCK, s->n - from, s->model->turbo, s->workspace->panel,
           out + first * rows, rows);
}

/* workspace->gate = silu(gate * normed) * (up * normed), and ->hidden_act, the same quantized. A block of 32 outputs at a time: this
 * short work between the products overlaps with loading the next weights. */
static void gate_and_up(const struct slice *s, int32_t from, const struct layer *layer) {
    const struct model *m = s->model;
    const struct workspace *w = s->workspace;
    const size_t dim = (size_t)m->shape.dim, hidden = (size_t)m->shape.hidden_dim, first = (size_t)from;
    const float *in = w->normed + first * dim;
    const struct act_block *act = w->act + first * (dim / BLOCK);
    for (size_t row = 0; row < hidden; row += BLOCK) {
        matmul_rows(&layer->gate, (int32_t)row, in, dim, act, dim / BLOCK, s->n - from, m->turbo, w->panel, w->gate + first * hidden + row,
                    hidden);
        matmul_rows(&layer->up, (int32_t)row, in, dim, act, dim / BLOCK, s->n - from, m->turbo, w->panel, w->up, BLOCK);
        for (size_t t = first; t < (size_t)s->n; t++) {
            float *gate = w->gate + t * hidden + row;
            silu_multiply(gate, w->up + (t - first) * BLOCK, BLOCK);
            quantize_blocks(gate, w->hidden_act + (t * hidden + row) / BLOCK, BLOCK, m->turbo);
        }
    }
}

/* Rotate and scale the queries; rotate the keys and store keys and values in the cache. */
static void keys_and_values(const struct slice *s, int32_t layer) {
    const struct model *m = s->model;
    const struct workspace *w = s->workspace;
    const int32_t half = m->head_dim / 2;
    const size_t dim = (size_t)m->shape.dim, head_dim = (size_t)m->head_dim;
    const size_t padded_kv_dim = ROUND_UP(head_dim * (size_t)m->shape.n_kv_heads, ROWS);
    const float scale = (float)(1.0 / sqrt((double)m->head_dim));
    for (size_t t = 0; t < (size_t)s->n; t++) {
        const int64_t position = s->first_position + (int64_t)t;
        const float *rope = w->rope + t * head_dim;
        for (int32_t h = 0; h < m->shape.n_heads; h++) {
            float *query = w->query + t * dim + (size_t)h * head_dim;
            apply_rope(query, rope, half);
            for (size_t d = 0; d < head_dim; d++) query[d] *= scale;
        }
        for (int32_t h = 0; h < m->shape.n_kv_heads; h++) {
            float *key = w->key + t * padded_kv_dim + (size_t)h * head_dim;
            apply_rope(key, rope, half);
            store_key_value(m, head_in_page(m, s->cache->pages[position / PAGE_POSITIONS], layer, h), (int32_t)(position % PAGE_POSITIONS),
                            key, w->value + t * padded_kv_dim + (size_t)h * head_dim);
        }
    }
}

/* struct kernels.forward */
static void forward(const struct slice *s) {
    const struct model *m = s->model;
    const struct workspace *w = s->workspace;
    const struct bullet_shape *shape = &m->shape;
    const size_t dim = (size_t)shape->dim, head_dim = (size_t)m->head_dim;
    const int32_t group = shape->n_heads / shape->n_kv_heads;

    for (size_t t = 0; t < (size_t)s->n; t++) {
        matrix_row(&m->embedding, s->tokens[t], m->kernels->bq8_xor, w->residual + t * dim);
        rope_at(m, s->first_position + (int64_t)t, w->rope + t * head_dim);
    }

    for (int32_t n = 0; n < shape->n_layers; n++) {
        const struct layer *layer = &m->layers[n];
        /* After the keys and values of the last layer, only tokens with outputs are needed. */
        const int32_t from = n + 1 < shape->n_layers ? 0 : s->n - s->n_outputs;

        norm_and_quantize(s, 0, layer->attention_norm);
        project(s, 0, &layer->query, w->normed, w->act, w->query);
        project(s, 0, &layer->key, w->normed, w->act, w->key);
        project(s, 0, &layer->value, w->normed, w->act, w->value);
        keys_and_values(s, n);
        barrier_wait(s->barrier);

        for (size_t t = (size_t)from; t < (size_t)s->n; t++) {
            for (int32_t h = 0; h < shape->n_heads; h++)
                attend_head(m, s->cache->pages, n, h / group, w->query + t * dim + (size_t)h * head_dim, s->first_position + (int64_t)t + 1,
                            w->accumulator, w->attention_out + t * dim + (size_t)h * head_dim);
            quantize_blocks(w->attention_out + t * dim, w->act + t * (dim / BLOCK), shape->dim, m->turbo);
        }
        project(s, from, &layer->output, w->attention_out, w->act, w->normed);
        add_in_place(w->residual + (size_t)from * dim, w->normed + (size_t)from * dim, (int32_t)((size_t)(s->n - from) * dim));

        norm_and_quantize(s, from, layer->mlp_norm);
        gate_and_up(s, from, layer);
        project(s, from, &layer->down, w->gate, w->hidden_act, w->normed);
        add_in_place(w->residual + (size_t)from * dim, w->normed + (size_t)from * dim, (int32_t)((size_t)(s->n - from) * dim));
    }

    const int32_t from = s->n - s->n_outputs;
    norm_and_quantize(s, from, m->final_norm);
    if (s->hidden) {
        memcpy(s->hidden, w->normed + (size_t)from * dim, (size_t)s->n_outputs * dim * sizeof *s->hidden);
        return;
    }
    matmul(&m->head, w->normed + (size_t)from * dim, dim, w->act + (size_t)from * (dim / BLOCK), dim / BLOCK, s->n_outputs, m->turbo,
           w->panel, s->logits, (size_t)shape->vocab_size);
}
