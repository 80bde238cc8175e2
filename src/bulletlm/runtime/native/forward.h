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

/* out = matrix * (in of tokens `from` ... n), with `in` quantised in work->act already */
static void project(const struct slice *s, int32_t from, const struct matrix *m, const float *in, float *out) {
    const size_t cols = (size_t)m->cols, first = (size_t)from, rows = round_up((size_t)m->rows, ROWS);
    matmul(m, in + first * cols, cols, s->work->act + first * (cols / BLOCK), cols / BLOCK, s->n - from, s->model->turbo, s->work->panel,
           out + first * rows, rows);
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
        rotation_of(m, position, w->rotation);
        for (int32_t h = 0; h < m->shape.n_heads; h++) {
            float *query = w->query + t * dim + (size_t)h * head_dim;
            rotate(query, w->rotation, half);
            for (size_t d = 0; d < head_dim; d++) query[d] *= scale;
        }
        for (int32_t h = 0; h < m->shape.n_kv_heads; h++) {
            float *key = w->key + t * kv_room + (size_t)h * head_dim;
            rotate(key, w->rotation, half);
            store_key_value(m, page_head(m, s->cache->pages[position / PAGE], layer, h), (int32_t)(position % PAGE), key,
                            w->value + t * kv_room + (size_t)h * head_dim);
        }
    }
}

static void forward(const struct slice *s) {
    const struct model *m = s->model;
    const struct work *w = s->work;
    const struct bullet_shape *shape = &m->shape;
    const size_t dim = (size_t)shape->dim, hidden = (size_t)shape->hidden_dim, head_dim = (size_t)m->head_dim;
    const int32_t group = shape->n_heads / shape->n_kv_heads;

    for (int32_t t = 0; t < s->n; t++) matrix_row(&m->embedding, s->tokens[t], m->path->bq8_flip, w->x + (size_t)t * dim);

    for (int32_t n = 0; n < shape->n_layers; n++) {
        const struct layer *layer = &m->layers[n];
        /* Behind the last keys and values only the tokens whose logits are wanted matter. */
        const int32_t from = n + 1 < shape->n_layers ? 0 : s->n - s->wanted;

        norm_and_quantize(s, 0, layer->attention_norm);
        project(s, 0, &layer->query, w->normed, w->query);
        project(s, 0, &layer->key, w->normed, w->key);
        project(s, 0, &layer->value, w->normed, w->value);
        keys_and_values(s, n);
        barrier_wait(s->barrier);

        for (size_t t = (size_t)from; t < (size_t)s->n; t++) {
            for (int32_t h = 0; h < shape->n_heads; h++)
                attend(m, s->cache->pages, n, h / group, w->query + t * dim + (size_t)h * head_dim, s->first + (int64_t)t + 1, w->one,
                       w->mixed + t * dim + (size_t)h * head_dim);
            quantize(w->mixed + t * dim, w->act + t * (dim / BLOCK), shape->dim, m->turbo);
        }
        project(s, from, &layer->output, w->mixed, w->normed);
        add_to(w->x + (size_t)from * dim, w->normed + (size_t)from * dim, (int32_t)((size_t)(s->n - from) * dim));

        norm_and_quantize(s, from, layer->mlp_norm);
        project(s, from, &layer->gate, w->normed, w->gate);
        project(s, from, &layer->up, w->normed, w->up);
        for (size_t t = (size_t)from; t < (size_t)s->n; t++) {
            silu_times(w->gate + t * hidden, w->up + t * hidden, shape->hidden_dim);
            quantize(w->gate + t * hidden, w->act + t * (hidden / BLOCK), shape->hidden_dim, m->turbo);
        }
        project(s, from, &layer->down, w->gate, w->normed);
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
