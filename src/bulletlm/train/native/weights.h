/* Quantization of the weights, once for each optimizer step. */

/* Rows first ... first + 3 of a weight float[n][inputs] into both panels of its group, at columns column + first ...; rows from n on are
 * padding and become zeros. codes: scratch, [4][inputs]; forward: whether the forward panels are needed. */
static void quantize_four_rows(struct weight_group *g, const float *weight, int64_t n, int64_t column, int64_t first, int8_t *codes,
                               bool forward) {
    const int64_t inputs = g->inputs, quads = inputs / 4;
    memset(codes, 0, (size_t)(4 * inputs));
    for (int64_t r = 0; r < 4; r++) {
        const int64_t row = first + r, output = column + row;
        float scale = 0;
        int32_t sum;
        if (row < n) quantize_nearest(weight + row * inputs, inputs, codes + r * inputs, &scale, &sum);
        g->scales[output] = scale;
        if (!forward) continue;
        uint8_t *to = g->forward + (output / PANEL * quads * PANEL + output % PANEL) * 4;
        for (int64_t k = 0; k < quads; k++, to += PANEL * 4) {
            uint32_t four;
            memcpy(&four, codes + r * inputs + 4 * k, 4);
            four ^= 0x80808080u; /* + 128 each: the right side of a product is unsigned (matmul.h) */
            memcpy(to, &four, 4);
        }
    }
    pack_four_rows(codes, inputs, inputs, g->backward, g->outputs / 4, (column + first) / 4);
}

static void quantize_group(struct trainer *t, struct weight_group *g) {
    int8_t codes[4 * g->inputs];
    for (int p = 0; p < g->parts; p++) {
        for (int64_t first = 0; first < ROUND_UP(g->count[p], STRIP); first += 4)
            quantize_four_rows(g, t->weights[g->tensor[p]], g->count[p], g->first[p], first, codes, !t->distils);
    }
}
