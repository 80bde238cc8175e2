/* The forward pass of one sequence, and the gradient of the loss up to the output of the last layer. */

/* A layer: l->residual_in -> out, both [N][dim], for the sequence that begins at first_token. */
static void layer_forward(struct trainer *t, struct layer *l, struct workspace *w, int64_t first_token, float *out) {
    const struct bullet_shape *s = &t->shape;
    const int64_t dim = s->dim, hidden = s->hidden_dim, width = l->qkv.outputs, length = t->length;
    float *heads = l->heads + first_token / t->token_stride * heads_size(t);
    int32_t sums[TOKEN_BLOCK];
    for (int64_t start = 0; start < length; start += TOKEN_BLOCK) {
        const int64_t n = length - start < TOKEN_BLOCK ? length - start : TOKEN_BLOCK, token = first_token + start;
        norm_forward(t, l->residual_in + token * dim, n, t->weights[l->attention_norm], l->attention_rms, &l->qkv_in, token, w->codes,
                     w->row, sums);
        matmul_int8(left_row_major(w->codes, dim, sums, l->qkv_in.scales + token), n, l->qkv.forward, dim / 4, width, l->qkv.scales,
                    w->rows, width);
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
            quantize_nearest(w->row, dim, w->codes + r * dim, l->output_in.scales + token + r, sums + r);
        }
        save_input(w->codes, dim, n, dim, &l->output_in, token, t->tokens);
        matmul_int8_add(left_row_major(w->codes, dim, sums, l->output_in.scales + token), n, l->output.forward, dim / 4, dim,
                        l->output.scales, 1.0f, l->residual_in + token * dim, residual_mid, dim);

        norm_forward(t, residual_mid, n, t->weights[l->mlp_norm], l->mlp_rms, &l->gate_up_in, token, w->codes, w->row, sums);
        matmul_int8(left_row_major(w->codes, dim, sums, l->gate_up_in.scales + token), n, l->gate_up.forward, dim / 4, 2 * hidden,
                    l->gate_up.scales, w->rows, 2 * hidden);
        for (int64_t r = 0; r < n; r++) {
            const float *gate = w->rows + r * 2 * hidden, *up = gate + hidden;
            uint16_t *saved = l->gate_up_bf16 + (token + r) * 2 * hidden;
            for (int64_t i = 0; i < hidden; i += LANES) {
                const vf g = load(gate + i), u = load(up + i);
                store_bf16(saved + i, g);
                store_bf16(saved + hidden + i, u);
                store(w->row + i, g * sigmoid(g) * u);
            }
            quantize_nearest(w->row, hidden, w->codes + r * hidden, l->down_in.scales + token + r, sums + r);
        }
        save_input(w->codes, hidden, n, hidden, &l->down_in, token, t->tokens);
        matmul_int8_add(left_row_major(w->codes, hidden, sums, l->down_in.scales + token), n, l->down.forward, hidden / 4, dim,
                        l->down.scales, 1.0f, residual_mid, out + token * dim, dim);
    }
}

/* Final norm, logits and cross-entropy of the sequence that begins at first_token; returns its summed loss in nats.
 * Also the first step of the backward pass, while the logits are in the cache: their gradient goes to t->head_grad (for the output
 * matrix), through the output matrix and the norm to t->residual_grad[0], and d_norm[dim] += the gradient of the final norm's weight.
 * Half a TOKEN_BLOCK at a time, because the rows are as long as the vocabulary. targets: [length]. */
static double head_forward(struct trainer *t, struct call *call, struct workspace *w, int64_t first_token, const int32_t *targets,
                           float *d_norm) {
    const int64_t dim = t->shape.dim, padded_vocab = t->padded_vocab, vocab = t->shape.vocab_size, length = t->length;
    const float *norm_weight = t->weights[t->final_norm];
    int8_t *low_codes = w->codes + TOKEN_BLOCK / 2 * padded_vocab;
    float scales[TOKEN_BLOCK / 2];
    int32_t sums[TOKEN_BLOCK], low_sums[TOKEN_BLOCK / 2];
    double loss = 0;
    for (int64_t start = 0; start < length; start += TOKEN_BLOCK / 2) {
        const int64_t n = length - start < TOKEN_BLOCK / 2 ? length - start : TOKEN_BLOCK / 2, token = first_token + start;
        norm_forward(t, t->output + token * dim, n, norm_weight, t->final_rms, &t->head_in, token, w->codes, w->row, sums);
        matmul_int8(left_row_major(w->codes, dim, sums, t->head_in.scales + token), n, t->head.forward, dim / 4, padded_vocab,
                    t->head.scales, w->rows, padded_vocab);
        for (int64_t r = 0; r < n; r++) {
            float *logits = w->rows + r * padded_vocab;
            const int32_t target = targets[start + r];
            for (int64_t i = vocab; i < padded_vocab; i++) logits[i] = -1e30f;
            vf lane_max = load(logits);
            for (int64_t i = LANES; i < padded_vocab; i += LANES) lane_max = max_f32(lane_max, load(logits + i));
            const float max = reduce_max(lane_max);
            const float target_logit = target < 0 ? 0 : logits[target];
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
            const vf factor = broadcast(target < 0 ? 0.0f : call->scale / sum), token_scale = broadcast(t->head_in.scales[token + r]);
            for (int64_t i = vocab; i < padded_vocab; i++) logits[i] = 0;
            vi row_max = zero_i32();
            for (int64_t i = 0; i < padded_vocab; i += LANES) {
                const vf d_logit = load(logits + i) * factor, scaled = d_logit * load(t->head.scales + i);
                store_bf16(strip_at(t->head_grad.strips, t->tokens, token + r, i), d_logit);
                update_column_max(w->column_max + t->head_grad.column_max + i, d_logit, token_scale);
                row_max = max_i32(row_max, abs_bits(scaled));
                store(logits + i, scaled);
            }
            int32_t high_low_sums[2];
            quantize_high_low(logits, padded_vocab, row_max, w->codes + r * padded_vocab, low_codes + r * padded_vocab, scales + r,
                              high_low_sums);
            sums[r] = high_low_sums[0], low_sums[r] = high_low_sums[1];
        }
        matmul_int8(left_row_major(w->codes, padded_vocab, sums, scales), n, t->head.backward, padded_vocab / 4, dim, NULL, w->dim_rows,
                    dim);
        matmul_int8_add(left_row_major(low_codes, padded_vocab, low_sums, scales), n, t->head.backward, padded_vocab / 4, dim, NULL,
                        1.0f / LOW_BYTE_STEPS, w->dim_rows, w->dim_rows, dim);
        norm_backward(dim, t->output + token * dim, n, norm_weight, t->final_rms + token, w->dim_rows, NULL,
                      t->residual_grad[0] + token * dim, d_norm);
    }
    return loss;
}

/* Sequence s through all layers, the loss, and the gradient of the last layer's output. */
static void sequence_forward(struct trainer *t, struct call *call, struct workspace *w, int64_t s) {
    const int64_t dim = t->shape.dim, first_token = s * t->token_stride;
    const int32_t layers = t->shape.n_layers;
    for (int64_t i = 0; i < t->length; i++)
        memcpy(t->layers[0].residual_in + (first_token + i) * dim, t->weights[0] + call->tokens[s * t->length + i] * dim, (size_t)dim * 4);
    for (int32_t n = 0; n < layers; n++)
        layer_forward(t, t->layers + n, w, first_token, n + 1 < layers ? t->layers[n + 1].residual_in : t->output);
    memset(t->final_norm_grads + s * dim, 0, (size_t)dim * 4);
    t->losses[s] = head_forward(t, call, w, first_token, call->targets + s * t->length, t->final_norm_grads + s * dim);
}
