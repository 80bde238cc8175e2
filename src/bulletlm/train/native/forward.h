/* The forward pass of one sequence, and the gradient of the loss up to the output of the last layer. */

/* A layer: l->residual_in -> out, both [N][dim] and possibly the same, for the sequence that begins at first_token. It computes with
 * the weights of `from` and saves to `l`. tensors: float32, in the order of the model file. */
static void layer_forward(struct trainer *t, enum pass_kind kind, const struct layer *from, const float *const *tensors, struct layer *l,
                          struct workspace *w, int64_t first_token, float *out) {
    const struct bullet_shape *s = &t->shape;
    const int64_t dim = s->dim, hidden = s->hidden_dim, width = l->qkv.outputs, length = t->length;
    float *heads = l->heads + first_token / t->token_stride * heads_size(t);
    for (int64_t start = 0; start < length; start += TOKEN_BLOCK) {
        const int64_t n = length - start < TOKEN_BLOCK ? length - start : TOKEN_BLOCK, token = first_token + start;
        norm_forward(t, kind, w, l->residual_in + token * dim, n, tensors[from->attention_norm], l->attention_rms, &l->qkv_in, token);
        multiply(t, kind, w, &from->qkv, n, &l->qkv_in, token, NULL, w->rows);
        for (int64_t r = 0; r < n; r++) {
            float *row = w->rows + r * width;
            rotate_row(t, &l->qkv, row, start + r, 1.0f);
            for (int p = 0; p < 3; p++) copy_heads(t, row + l->qkv.first[p], heads_part(t, heads, p), start + r, n_heads_in(t, p), true);
        }
    }
    for (int64_t h = 0; h < s->n_heads; h++) {
        const int64_t q = h * head_size(t), kv = h / (s->n_heads / s->n_kv_heads) * head_size(t);
        attention_forward(heads + q, heads_part(t, heads, 1) + kv, heads_part(t, heads, 2) + kv, length, t->head_dim, t->padded_head_dim,
                          w->attention + q, l->log_sum_exp + first_token * s->n_heads + h, s->n_heads, w->scratch);
    }
    for (int64_t start = 0; start < length; start += TOKEN_BLOCK) {
        const int64_t n = length - start < TOKEN_BLOCK ? length - start : TOKEN_BLOCK, token = first_token + start;
        float *residual_mid = l->residual_mid + token * dim;
        for (int64_t r = 0; r < n; r++) {
            copy_heads(t, w->row, w->attention, start + r, s->n_heads, false);
            encode_row(kind, w, w->row, dim, r, &l->output_in, token);
        }
        multiply(t, kind, w, &from->output, n, &l->output_in, token, l->residual_in + token * dim, residual_mid);

        norm_forward(t, kind, w, residual_mid, n, tensors[from->mlp_norm], l->mlp_rms, &l->gate_up_in, token);
        multiply(t, kind, w, &from->gate_up, n, &l->gate_up_in, token, NULL, w->rows);
        for (int64_t r = 0; r < n; r++) {
            const float *gate = w->rows + r * 2 * hidden, *up = gate + hidden;
            uint16_t *saved = l->gate_up_bf16 + (token + r) * 2 * hidden;
            for (int64_t i = 0; i < hidden; i += LANES) {
                const vf g = load(gate + i), u = load(up + i);
                if (kind != TEACHER_PASS) {
                    store_bf16(saved + i, g);
                    store_bf16(saved + hidden + i, u);
                }
                store(w->row + i, g * sigmoid(g) * u);
            }
            encode_row(kind, w, w->row, hidden, r, &l->down_in, token);
        }
        multiply(t, kind, w, &from->down, n, &l->down_in, token, residual_mid, out + token * dim);
    }
}

/* The gradient of n tokens' logits, from `token` on, as codes for the product with the output matrix. */
struct logit_grads {
    float scales[TOKEN_BLOCK / 2];
    int32_t sums[TOKEN_BLOCK / 2], low_sums[TOKEN_BLOCK / 2];
};

/* Row r, d_logits[padded_vocab] with zeros in the padding, into `grads`, w->codes and t->head_grad; d_logits is overwritten.
 * token: the index of row 0. */
static void quantize_logit_grad(const struct trainer *t, struct workspace *w, struct logit_grads *grads, float *d_logits, int64_t r,
                                int64_t token) {
    const int64_t padded_vocab = t->padded_vocab;
    const vf token_scale = broadcast(t->head_in.scales[token + r]);
    int8_t *low_codes = w->codes + TOKEN_BLOCK / 2 * padded_vocab;
    vi row_max = zero_i32();
    for (int64_t i = 0; i < padded_vocab; i += LANES) {
        const vf d_logit = load(d_logits + i), scaled = d_logit * load(t->head.scales + i);
        store_bf16(strip_at(t->head_grad.strips, t->tokens, token + r, i), d_logit);
        update_column_max(w->column_max + t->head_grad.column_max + i, d_logit, token_scale);
        row_max = max_i32(row_max, abs_bits(scaled));
        store(d_logits + i, scaled);
    }
    int32_t high_low_sums[2];
    quantize_high_low(d_logits, padded_vocab, row_max, w->codes + r * padded_vocab, low_codes + r * padded_vocab, grads->scales + r,
                      high_low_sums);
    grads->sums[r] = high_low_sums[0], grads->low_sums[r] = high_low_sums[1];
}

/* The gradients of n tokens' logits through the output matrix and the final norm: t->residual_grad[0], and d_norm[dim] +=. */
static void head_backward(struct trainer *t, struct workspace *w, const struct logit_grads *grads, int64_t n, int64_t token,
                          float *d_norm) {
    const int64_t dim = t->shape.dim, padded_vocab = t->padded_vocab;
    const int8_t *low_codes = w->codes + TOKEN_BLOCK / 2 * padded_vocab;
    matmul_int8(left_row_major(w->codes, padded_vocab, grads->sums, grads->scales), n, t->head.backward, padded_vocab / 4, dim, NULL,
                w->dim_rows, dim);
    matmul_int8_add(left_row_major(low_codes, padded_vocab, grads->low_sums, grads->scales), n, t->head.backward, padded_vocab / 4, dim,
                    NULL, 1.0f / LOW_BYTE_STEPS, w->dim_rows, w->dim_rows, dim);
    norm_backward(dim, t->output + token * dim, n, t->weights[t->final_norm], t->final_rms + token, w->dim_rows, NULL,
                  t->residual_grad[0] + token * dim, d_norm);
}

/* The largest of logits[padded_vocab], whose padding is set to a number that counts as 0 in the softmax. */
static float logit_max(const struct trainer *t, float *logits) {
    for (int64_t i = t->shape.vocab_size; i < t->padded_vocab; i++) logits[i] = -1e30f;
    vf lane_max = load(logits);
    for (int64_t i = LANES; i < t->padded_vocab; i += LANES) lane_max = max_f32(lane_max, load(logits + i));
    return reduce_max(lane_max);
}

/* Final norm, logits and cross-entropy of the sequence that begins at first_token; returns its summed loss in nats.
 * Also the first step of the backward pass, while the logits are in the cache: their gradient goes to t->head_grad (for the output
 * matrix), through the output matrix and the norm to t->residual_grad[0], and d_norm[dim] += the gradient of the final norm's weight.
 * Half a TOKEN_BLOCK at a time, because the rows are as long as the vocabulary. targets: [length]. */
static double head_forward(struct trainer *t, struct call *call, struct workspace *w, int64_t first_token, const int32_t *targets,
                           float *d_norm) {
    const int64_t dim = t->shape.dim, padded_vocab = t->padded_vocab, vocab = t->shape.vocab_size, length = t->length;
    struct logit_grads grads;
    double loss = 0;
    for (int64_t start = 0; start < length; start += TOKEN_BLOCK / 2) {
        const int64_t n = length - start < TOKEN_BLOCK / 2 ? length - start : TOKEN_BLOCK / 2, token = first_token + start;
        norm_forward(t, INT8_PASS, w, t->output + token * dim, n, t->weights[t->final_norm], t->final_rms, &t->head_in, token);
        multiply(t, INT8_PASS, w, &t->head, n, &t->head_in, token, NULL, w->rows);
        for (int64_t r = 0; r < n; r++) {
            float *logits = w->rows + r * padded_vocab;
            const int32_t target = targets[start + r];
            const float max = logit_max(t, logits), target_logit = target < 0 ? 0 : logits[target];
            vf total = zero_f32();
            for (int64_t i = 0; i < padded_vocab; i += LANES) {
                const vf e = exp_approx(load(logits + i) - broadcast(max));
                total += e;
                store(logits + i, e);
            }
            const float sum = reduce_add(total);
            if (target >= 0) loss += (double)(logf(sum) + max - target_logit);
            /* e - sum before the division: e / sum - 1 would lose the last digits where the prediction is right. */
            if (target >= 0) logits[target] -= sum;
            const vf factor = broadcast(target < 0 ? 0.0f : call->scale / sum);
            for (int64_t i = 0; i < padded_vocab; i += LANES) store(logits + i, load(logits + i) * factor);
            for (int64_t i = vocab; i < padded_vocab; i++) logits[i] = 0;
            quantize_logit_grad(t, w, &grads, logits, r, token);
        }
        head_backward(t, w, &grads, n, token, d_norm);
    }
    return loss;
}

/* The embeddings of sequence s, into the residual stream before the first layer. */
static void embed_sequence(struct trainer *t, const struct call *call, int64_t s, const float *embedding) {
    const int64_t dim = t->shape.dim;
    float *to = t->layers[0].residual_in + s * t->token_stride * dim;
    for (int64_t i = 0; i < t->length; i++) memcpy(to + i * dim, embedding + call->tokens[s * t->length + i] * dim, (size_t)dim * 4);
}

/* Sequence s through all layers: t->output, and everything that the backward pass needs. */
static void layers_forward(struct trainer *t, enum pass_kind kind, const struct call *call, struct workspace *w, int64_t s) {
    const int32_t layers = t->shape.n_layers;
    embed_sequence(t, call, s, t->weights[0]);
    for (int32_t n = 0; n < layers; n++) {
        struct layer *l = t->layers + n;
        layer_forward(t, kind, l, t->weights, l, w, s * t->token_stride, n + 1 < layers ? l[1].residual_in : t->output);
    }
}

/* Sequence s through all layers, the loss, and the gradient of the last layer's output. */
static void sequence_forward(struct trainer *t, struct call *call, struct workspace *w, int64_t s) {
    const int64_t dim = t->shape.dim;
    layers_forward(t, INT8_PASS, call, w, s);
    memset(t->final_norm_grads + s * dim, 0, (size_t)dim * 4);
    t->losses[s] = head_forward(t, call, w, s * t->token_stride, call->targets + s * t->length, t->final_norm_grads + s * dim);
}
