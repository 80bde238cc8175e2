/* Attention over the paged cache. For each page, layer and key/value head:
 *   keys    int16[64 / 16][head_dim][16]: sixteen positions are sixteen lanes, so one element of the query is multiplied with all
 *   values  int16[64][padded_head_dim]
 * and for each position a float32 scale of its key and one of its value. int16 takes half the memory of float32, and its rounding error
 * is smaller than that of the weights. */

/* Sums of sixteen lanes that fit into the registers, 4 or 2; results do not depend on it. */
#ifndef REGISTER_SUMS
#define REGISTER_SUMS 4
#endif

/* Store the rotated key and the value [head_dim] of one position (0 ... 63) of a page. */
static void store_key_value(const struct model *m, uint8_t *head_memory, int32_t position, const float *key, const float *value) {
    int16_t *keys = (int16_t *)(void *)head_memory + (size_t)(position / ROWS) * (size_t)m->head_dim * ROWS + position % ROWS;
    int16_t *values = (int16_t *)(void *)(head_memory + m->values_offset) + (size_t)position * (size_t)m->padded_head_dim;
    ((float *)(void *)(head_memory + m->key_scales_offset))[position] = quantize_i16(key, keys, m->head_dim, ROWS);
    ((float *)(void *)(head_memory + m->value_scales_offset))[position] = quantize_i16(value, values, m->head_dim, 1);
}

/* out[16 * tiles] = query . key for 16 or 32 positions (tiles = 1 or 2), without the scales of the keys. Even and odd elements have
 * separate sums, because the multiply-adds of one sum wait for each other. */
static ALWAYS_INLINE void score_tiles(const float *query, const int16_t *keys, int32_t head_dim, const int tiles, float *out) {
    f32x16 even[2] = {f32x16_zero(), f32x16_zero()}, odd[2] = {f32x16_zero(), f32x16_zero()};
    const size_t tile = (size_t)head_dim * ROWS;
    for (int32_t d = 0; d < head_dim; d += 2, keys += 2 * ROWS) {
        UNROLL for (int i = 0; i < tiles; i++) even[i] = f32x16_fma(even[i], f32x16_from_i16(keys + (size_t)i * tile), query[d]);
        UNROLL for (int i = 0; i < tiles; i++)
            odd[i] = f32x16_fma(odd[i], f32x16_from_i16(keys + (size_t)i * tile + ROWS), query[d + 1]);
    }
    UNROLL for (int i = 0; i < tiles; i++) f32x16_store(out + i * ROWS, f32x16_add(even[i], odd[i]));
}

/* out[16 * vectors] += the sum over `count` positions of weight * value; values: rows of `stride` int16. */
static ALWAYS_INLINE void accumulate_values(const float *weights, const int16_t *values, int32_t count, size_t stride, const int vectors,
                                            float *out) {
    f32x16 acc[REGISTER_SUMS];
    UNROLL for (int v = 0; v < vectors; v++) acc[v] = f32x16_load(out + ROWS * v);
    for (int32_t t = 0; t < count; t++, values += stride)
        UNROLL for (int v = 0; v < vectors; v++) acc[v] = f32x16_fma(acc[v], f32x16_from_i16(values + ROWS * v), weights[t]);
    UNROLL for (int v = 0; v < vectors; v++) f32x16_store(out + ROWS * v, acc[v]);
}

/* One query head over n_positions: out[head_dim] = softmax(query . keys) values. The query is already multiplied by 1 / sqrt(head_dim).
 * Page by page with a running maximum (Milakov and Gimelshein 2018, arXiv:1805.02867), so no buffer grows with the context.
 * accumulator: scratch, [padded_head_dim]. */
static void attend_head(const struct model *m, uint8_t *const *pages, int32_t layer, int32_t kv_head, const float *query,
                        int64_t n_positions, float *accumulator, float *out) {
    float max_score = -INFINITY, sum = 0.0f;
    memset(accumulator, 0, (size_t)m->padded_head_dim * sizeof *accumulator);
    for (int64_t start = 0; start < n_positions; start += PAGE_POSITIONS) {
        const uint8_t *memory = head_in_page(m, pages[start / PAGE_POSITIONS], layer, kv_head);
        const float *key_scales = (const float *)(const void *)(memory + m->key_scales_offset);
        const float *value_scales = (const float *)(const void *)(memory + m->value_scales_offset);
        const int32_t count = n_positions - start < PAGE_POSITIONS ? (int32_t)(n_positions - start) : PAGE_POSITIONS;

        /* Whole vectors; positions past the end get the weight 0. */
        const int32_t padded_count = (int32_t)ROUND_UP((size_t)count, ROWS);
        float scores[PAGE_POSITIONS] = {0}, lane_max[ROWS], lane_sum[ROWS] = {0};
        for (int32_t t = 0; t < padded_count;) {
            const int16_t *keys = (const int16_t *)(const void *)memory + (size_t)t * (size_t)m->head_dim;
            if (REGISTER_SUMS >= 4 && padded_count - t > ROWS) {
                score_tiles(query, keys, m->head_dim, 2, scores + t);
                t += 2 * ROWS;
            } else {
                score_tiles(query, keys, m->head_dim, 1, scores + t);
                t += ROWS;
            }
        }
        for (int32_t t = 0; t < padded_count; t++) scores[t] *= key_scales[t];
        for (int32_t t = count; t < padded_count; t++) scores[t] = -INFINITY;

        memcpy(lane_max, scores, sizeof lane_max);
        for (int32_t t = ROWS; t < padded_count; t += ROWS)
            for (int r = 0; r < ROWS; r++) lane_max[r] = select_f32(scores[t + r] > lane_max[r], scores[t + r], lane_max[r]);
        float page_max = lane_max[0];
        for (int r = 1; r < ROWS; r++) page_max = lane_max[r] > page_max ? lane_max[r] : page_max;
        if (page_max > max_score) {
            float rescale = exp_approx(max_score - page_max); /* on the first page max_score is -inf and the sums are 0 */
            sum *= rescale;
            for (int32_t d = 0; d < m->padded_head_dim; d++) accumulator[d] *= rescale;
            max_score = page_max;
        }

        for (int32_t t = 0; t < padded_count; t += ROWS)
            for (int r = 0; r < ROWS; r++) scores[t + r] = exp_approx(scores[t + r] - max_score);
        for (int32_t t = count; t < padded_count; t++) scores[t] = 0.0f;
        for (int32_t t = 0; t < padded_count; t += ROWS)
            for (int r = 0; r < ROWS; r++) lane_sum[r] += scores[t + r];
        for (int r = 0; r < ROWS; r++) sum += lane_sum[r];
        for (int32_t t = 0; t < padded_count; t++) scores[t] *= value_scales[t];
        const int16_t *values = (const int16_t *)(const void *)(memory + m->values_offset);
        int32_t d = 0;
        for (; d + REGISTER_SUMS * ROWS <= m->padded_head_dim; d += REGISTER_SUMS * ROWS)
            accumulate_values(scores, values + d, count, (size_t)m->padded_head_dim, REGISTER_SUMS, accumulator + d);
        for (; d < m->padded_head_dim; d += ROWS)
            accumulate_values(scores, values + d, count, (size_t)m->padded_head_dim, 1, accumulator + d);
    }
    for (int32_t d = 0; d < m->head_dim; d++) out[d] = accumulator[d] / sum;
}
