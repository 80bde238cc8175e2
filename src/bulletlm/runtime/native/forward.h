/* The forward pass of one thread: a slice of tokens through all layers. Threads meet once a layer, when the keys and values
 * of all slices are in the cache; everything else a token needs is its own. */

static void norm_and_quantize(const struct slice *s, int32_t from, const float *gain) {
    const struct model *m = s->model;
    const struct work *w = s->work;
    const size_t dim = (size_t)m->shape.dim;
    for (size_t t = (size_t)from; t < (size_t)s->n; t++) {
        rms_norm(w->x + t * dim, gain, w->normed + t * dim, m->shape.dim, m->shape.norm_eps);
        quantize(w->normed + t * dim, w->act + t * (dim / BLOCK), m->shape.dim, m->turbo);
    }
}

/* out = matrix * (in of tokens `from` ... n); `act` is `in` quantised */
static void project(const struct slice *s, int32_t from, const struct matrix *m, const float *in, const struct act *act, float *out) {
    const size_t cols = (size_t)m->cols, first = (size_t)from, rows = round_up((size_t)m->rows, ROWS);
    matmul(m, in + first * cols, cols, act + first * (cols / BLOCK), cols / BLOCK, s->n - from, s->model->turbo, s->work->panel,
           out + first * rows, rows);
}

/* work->gate = silu(gate * normed) * (up * normed), and the same quantised in work->gated. A block of 32 at a time: what
 * is done between the products hides behind the weights, which keep coming in. */
static void gated(const struct slice *s, int32_t from, const struct layer *layer) {
    const struct model *m = s->model;
    const struct work *w = s->work;
    const size_t dim = (size_t)m->shape.dim, hidden = (size_t)m->shape.hidden_dim, first = (size_t)from;
    const float *in = w->normed + first * dim;
    const struct act *act = w->act + first * (dim / BLOCK);
    for (size_t row = 0; row < hidden; row += BLOCK) {
        matmul_rows(&layer->gate, (int32_t)row, in, dim, act, dim / BLOCK, s->n - from, m->turbo, w->panel, w->gate + first * hidden + row, hidden);
        matmul_rows(&layer->up, (int32_t)row, in, dim, act, dim / BLOCK, s->n - from, m->turbo, w->panel, w->up, BLOCK);
        for (size_t t = first; t < (size_t)s->n; t++) {
            float *gate = w->gate + t * hidden + row;
            silu_times(gate, w->up + (t - first) * BLOCK, BLOCK);
            quantize(gate, w->gated + (t * hidden + row) / BLOCK, BLOCK, m->turbo);
        }
    }
}

static void keys_and_values(const struct slice *s, int32_t layer) {
    const struct model *m = s->model;
    const struct work *w = s->work;
    const int32_t half = m->head_dim / 2;
    const size_t dim = (size_t)m->shape.dim, head_dim = (size_t)m->head_dim;
    const size_t kv_room = round_up(head_dim * (size_t)m->shape.n_kv_heads, ROWS);
    const float scale = (float)(1.0 / sqrt((double)m->head_dim));
    for (size_t t = 0; t < (size_t)s->n; t++) {
        const int64_t position = s->first + (int64_t)t;
        const float *rotation = w->rotation + t * head_dim;
        for (int32_t h = 0; h < m->shape.n_heads; h++) {
            float *query = w->query + t * dim + (size_t)h * head_dim;
            rotate(query, rotation, half);
            for (size_t d = 0; d < head_dim; d++) query[d] *= scale;
        }
        for (int32_t h = 0; h < m->shape.n_kv_heads; h++) {
            float *key = w->key + t * kv_room + (size_t)h * head_dim;
            rotate(key, rotation, half);
            store_key_value(m, page_head(m, s->cache->pages[position / PAGE], layer, h), (int32_t)(position % PAGE), key,
                            w->value + t * kv_room + (size_t)h * head_dim);
        }
    }
}

static void forward(const struct slice *s) {
    const struct model *m = s->model;
    const struct work *w = s->work;
    const struct bullet_shape *shape = &m->shape;
    const size_t dim = (size_t)shape->dim, head_dim = (size_t)m->head_dim;
    const int32_t group = shape->n_heads / shape->n_kv_heads;

    for (size_t t = 0; t < (size_t)s->n; t++) {
        matrix_row(&m->embedding, s->tokens[t], m->path->bq8_flip, w->x + t * dim);
        rotation_of(m, s->first + (int64_t)t, w->rotation + t * head_dim);
    }

    for (int32_t n = 0; n < shape->n_layers; n++) {
        const struct layer *layer = &m->layers[n];
        /* Behind the last keys and values only the tokens whose logits are wanted matter. */
        const int32_t from = n + 1 < shape->n_layers ? 0 : s->n - s->wanted;

        norm_and_quantize(s, 0, layer->attention_norm);
        project(s, 0, &layer->query, w->normed, w->act, w->query);
        project(s, 0, &layer->key, w->normed, w->act, w->key);
        project(s, 0, &layer->value, w->normed, w->act, w->value);
        keys_and_values(s, n);
        barrier_wait(s->barrier);

        for (size_t t = (size_t)from; t < (size_t)s->n; t++) {
            for (int32_t h = 0; h < shape->n_heads; h++)
                attend(m, s->cache->pages, n, h / group, w->query + t * dim + (size_t)h * head_dim, s->first + (int64_t)t + 1, w->one,
                       w->mixed + t * dim + (size_t)h * head_dim);
            quantize(w->mixed + t * dim, w->act + t * (dim / BLOCK), shape->dim, m->turbo);
        }
        project(s, from, &layer->output, w->mixed, w->act, w->normed);
        add_to(w->x + (size_t)from * dim, w->normed + (size_t)from * dim, (int32_t)((size_t)(s->n - from) * dim));

        norm_and_quantize(s, from, layer->mlp_norm);
        gated(s, from, layer);
        project(s, from, &layer->down, w->gate, w->gated, w->normed);
        add_to(w->x + (size_t)from * dim, w->normed + (size_t)from * dim, (int32_t)((size_t)(s->n - from) * dim));
    }

    const int32_t from = s->n - s->wanted;
    norm_and_quantize(s, from, m->final_norm);
    if (s->hidden) {
        memcpy(s->hidden, w->normed + (size_t)from * dim, (size_t)s->wanted * dim * sizeof *s->hidden);
        return;
    }
    matmul(&m->head, w->normed + (size_t)from * dim, dim, w->act + (size_t)from * (dim / BLOCK), dim / BLOCK, s->wanted, m->turbo, w->panel,
           s->logits, (size_t)shape->vocab_size);
}
