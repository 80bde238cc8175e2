/* Attention over the paged cache. For each page, layer and key/value head:
 *   keys    int16[64 / 16][head_dim][16]: sixteen positions are sixteen lanes, and one query number meets all of them
 *   values  int16[64][head_room]: a position's vector in one piece
 * and a float32 scale a position for each. 16 bits halve the memory of floats; their error is below that of the weights. */

/* Put the rotated key and the value of one position into the cache. */
static void store_key_value(const struct model *m, uint8_t *page_head_memory, int32_t position, const float *key, const float *value) {
    int16_t *keys = (int16_t *)(void *)page_head_memory + (size_t)(position / ROWS) * (size_t)m->head_dim * ROWS + position % ROWS;
    int16_t *values = (int16_t *)(void *)(page_head_memory + m->values_at) + (size_t)position * (size_t)m->head_room;
    ((float *)(void *)(page_head_memory + m->key_scales_at))[position] = quantize_16(key, keys, m->head_dim, ROWS);
    ((float *)(void *)(page_head_memory + m->value_scales_at))[position] = quantize_16(value, values, m->head_dim, 1);
}

/* query . key for 16 or 32 positions from `keys`: one or two tiles. Even and odd inputs are summed apart: the sums of a
 * fused multiply-add chain wait for each other. */
static ALWAYS_INLINE void score(const float *query, const int16_t *keys, int32_t head_dim, const int tiles, float *out) {
    lanes even[2] = {lanes_zero(), lanes_zero()}, odd[2] = {lanes_zero(), lanes_zero()};
    const size_t tile = (size_t)head_dim * ROWS;
    for (int32_t d = 0; d < head_dim; d += 2, keys += 2 * ROWS) {
        UNROLL for (int i = 0; i < tiles; i++) even[i] = lanes_fma(even[i], lanes_i16(keys + (size_t)i * tile), query[d]);
        UNROLL for (int i = 0; i < tiles; i++) odd[i] = lanes_fma(odd[i], lanes_i16(keys + (size_t)i * tile + ROWS), query[d + 1]);
    }
    UNROLL for (int i = 0; i < tiles; i++) lanes_store(out + i * ROWS, lanes_add(even[i], odd[i]));
}

/* out[0 ... 16 * vectors) += sum over positions of weight * value */
static ALWAYS_INLINE void mix(const float *weights, const int16_t *values, int32_t count, size_t room, const int vectors, float *out) {
    lanes acc[4];
    UNROLL for (int v = 0; v < vectors; v++) acc[v] = lanes_load(out + ROWS * v);
    for (int32_t t = 0; t < count; t++, values += room)
        UNROLL for (int v = 0; v < vectors; v++) acc[v] = lanes_fma(acc[v], lanes_i16(values + ROWS * v), weights[t]);
    UNROLL for (int v = 0; v < vectors; v++) lanes_store(out + ROWS * v, acc[v]);
}

/* One query head over `total` positions: out[head_dim] = softmax(query . keys) values. The query carries the scale already.
 * Page by page with a running maximum (Milakov and Gimelshein 2018, arXiv:1805.02867), so no buffer grows with the
 * context. `sums` has room for head_room floats. */
static void attend(const struct model *m, uint8_t *const *pages, int32_t layer, int32_t kv_head, const float *query, int64_t total,
                   float *sums, float *out) {
    float top = -INFINITY, norm = 0.0f;
    memset(sums, 0, (size_t)m->head_room * sizeof *sums);
    for (int64_t start = 0; start < total; start += PAGE) {
        const uint8_t *memory = page_head(m, pages[start / PAGE], layer, kv_head);
        const float *key_scales = (const float *)(const void *)(memory + m->key_scales_at);
        const float *value_scales = (const float *)(const void *)(memory + m->value_scales_at);
        const int32_t count = total - start < PAGE ? (int32_t)(total - start) : PAGE;

        /* Up to whole vectors; what is past the end gets the weight 0. */
        const int32_t whole = (int32_t)round_up((size_t)count, ROWS);
        float scores[PAGE] = {0}, tops[ROWS], norms[ROWS] = {0};
        for (int32_t t = 0; t < whole; t += 2 * ROWS) {
            const int16_t *keys = (const int16_t *)(const void *)memory + (size_t)t * (size_t)m->head_dim;
            if (whole - t > ROWS) {
                score(query, keys, m->head_dim, 2, scores + t);
            } else {
                score(query, keys, m->head_dim, 1, scores + t);
            }
        }
        for (int32_t t = 0; t < whole; t++) scores[t] *= key_scales[t];
        for (int32_t t = count; t < whole; t++) scores[t] = -INFINITY;

        memcpy(tops, scores, sizeof tops);
        for (int32_t t = ROWS; t < whole; t += ROWS)
            for (int r = 0; r < ROWS; r++) tops[r] = choose(scores[t + r] > tops[r], scores[t + r], tops[r]);
        float page_top = tops[0];
        for (int r = 1; r < ROWS; r++) page_top = tops[r] > page_top ? tops[r] : page_top;
        if (page_top > top) {
            float shrink = exp_of(top - page_top); /* of -inf: about 0, and there is nothing to shrink then */
            norm *= shrink;
            for (int32_t d = 0; d < m->head_room; d++) sums[d] *= shrink;
            top = page_top;
        }

        for (int32_t t = 0; t < whole; t++) scores[t] = exp_of(scores[t] - top);
        for (int32_t t = count; t < whole; t++) scores[t] = 0.0f;
        for (int32_t t = 0; t < whole; t += ROWS)
            for (int r = 0; r < ROWS; r++) norms[r] += scores[t + r];
        for (int r = 0; r < ROWS; r++) norm += norms[r];
        for (int32_t t = 0; t < whole; t++) scores[t] *= value_scales[t];
        const int16_t *values = (const int16_t *)(const void *)(memory + m->values_at);
        int32_t d = 0;
        for (; d + 64 <= m->head_room; d += 64) mix(scores, values + d, count, (size_t)m->head_room, 4, sums + d);
        for (; d < m->head_room; d += ROWS) mix(scores, values + d, count, (size_t)m->head_room, 1, sums + d);
    }
    for (int32_t d = 0; d < m->head_dim; d++) out[d] = sums[d] / norm;
}
