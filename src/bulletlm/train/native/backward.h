/* The backward pass of one layer over one sequence: the gradient of its input, and the output gradients of its weight groups, from which
 * weight_gradients.h computes the gradients of the weights. */

/* The gradient d_out (n, outputs) of a weight group's output, for n tokens from `token` on, in two forms:
 * codes (n, outputs) in w->codes, times the scales of the weights, for the gradient of the group's input, with scales[n] and sums[n];
 * bfloat16 in `stored`, for the gradient of the weights. */
static void quantize_output_grad(const struct trainer *t, const struct weight_group *g, const struct saved_input *in, const float *d_out,
                                 int64_t n, int64_t token, const struct output_grad *stored, struct workspace *w, float *scales,
                                 int32_t *sums) {
    const int64_t width = g->outputs;
    for (int64_t r = 0; r < n; r++, d_out += width) {
        const vf token_scale = broadcast(in->scales[token + r]);
        vi row_max = zero_i32();
        for (int64_t i = 0; i < width; i += LANES) {
            const vf d = load(d_out + i), scaled = d * load(g->scales + i);
            store_bf16(strip_at(stored->strips, t->tokens, token + r, i), d);
            update_column_max(w->column_max + stored->column_max + i, d, token_scale);
            row_max = max_i32(row_max, abs_bits(scaled));
            store(w->row + i, scaled);
        }
        quantize_stochastic(w->row, width, row_max, w->codes + r * width, scales + r, sums + r);
    }
}

/* d_out, d_in: [N][dim], the gradients of the layer's output and input, for the sequence that begins at first_token. */
static void layer_backward(struct trainer *t, struct layer *l, struct workspace *w, int64_t first_token, const float *d_out, float *d_in,
                           const struct layer_grads *grads) {
    const struct bullet_shape *s = &t->shape;
    const int64_t dim = s->dim, hidden = s->hidden_dim, width = l->qkv.outputs, length = t->length;
    const float *heads = l->heads + first_token / t->token_stride * heads_size(t);
    const int64_t norm_row = first_token / t->token_stride * dim;
    float scales[TOKEN_BLOCK];
    int32_t sums[TOKEN_BLOCK];
    for (int64_t start = 0; start < length; start += TOKEN_BLOCK) {
        const int64_t n = length - start < TOKEN_BLOCK ? length - start : TOKEN_BLOCK, token = first_token + start;
        const float *d_out_rows = d_out + token * dim;
        quantize_output_grad(t, &l->down, &l->down_in, d_out_rows, n, token, &grads->down, w, scales, sums);
        matmul_int8(left_row_major(w->codes, dim, sums, scales), n, l->down.backward, dim / 4, hidden, NULL, w->rows, hidden);
        /* SwiGLU. The same as quantize_output_grad for gate_up, but the gradient is computed on the way. */
        for (int64_t r = 0; r < n; r++) {
            const uint16_t *saved = l->gate_up_bf16 + (token + r) * 2 * hidden;
            const float *d_hidden = w->rows + r * hidden;
            float *column_max = w->column_max + grads->gate_up.column_max;
            const vf token_scale = broadcast(l->gate_up_in.scales[token + r]);
            vi row_max = zero_i32();
            for (int64_t i = 0; i < hidden; i += LANES) {
                const vf gate = load_bf16(saved + i), up = load_bf16(saved + hidden + i), d = load(d_hidden + i);
                const vf sigma = sigmoid(gate), silu = gate * sigma;
                const vf d_gate = d * up * fmadd(silu, broadcast(1.0f) - sigma, sigma), d_up = d * silu;
                store_bf16(strip_at(grads->gate_up.strips, t->tokens, token + r, i), d_gate);
                store_bf16(strip_at(grads->gate_up.strips, t->tokens, token + r, hidden + i), d_up);
                update_column_max(column_max + i, d_gate, token_scale);
                update_column_max(column_max + hidden + i, d_up, token_scale);
                const vf scaled_gate = d_gate * load(l->gate_up.scales + i), scaled_up = d_up * load(l->gate_up.scales + hidden + i);
                row_max = max_i32(row_max, max_i32(abs_bits(scaled_gate), abs_bits(scaled_up)));
                store(w->row + i, scaled_gate);
                store(w->row + hidden + i, scaled_up);
            }
            quantize_stochastic(w->row, 2 * hidden, row_max, w->codes + r * 2 * hidden, scales + r, sums + r);
        }
        matmul_int8(left_row_major(w->codes, 2 * hidden, sums, scales), n, l->gate_up.backward, hidden / 2, dim, NULL, w->dim_rows, dim);
        float *d_mid = t->residual_mid_grad + token * dim;
        norm_backward(dim, l->residual_mid + token * dim, n, t->weights[l->mlp_norm], l->mlp_rms + token, w->dim_rows, d_out_rows, d_mid,
                      grads->mlp_norm + norm_row);
        quantize_output_grad(t, &l->output, &l->output_in, d_mid, n, token, &grads->output, w, scales, sums);
        matmul_int8(left_row_major(w->codes, dim, sums, scales), n, l->output.backward, dim / 4, dim, NULL, w->dim_rows, dim);
        for (int64_t r = 0; r < n; r++) copy_heads(t, w->dim_rows + r * dim, w->attention, start + r, s->n_heads, true);
    }
    float *d_heads = w->d_heads;
    memset(heads_part(t, d_heads, 1), 0, (size_t)(2 * s->n_kv_heads * t->padded_length * t->padded_head_dim) * 4);
    for (int64_t h = 0; h < s->n_heads; h++) {
        const int64_t q = h * head_size(t), kv = h / (s->n_heads / s->n_kv_heads) * head_size(t);
        attention_backward(heads + q, heads_part(t, heads, 1) + kv, heads_part(t, heads, 2) + kv, length, t->head_dim, t->padded_head_dim,
                           w->attention + q, l->log_sum_exp + first_token * s->n_heads + h, s->n_heads, d_heads + q,
                           heads_part(t, d_heads, 1) + kv, heads_part(t, d_heads, 2) + kv, w->scratch);
    }
    for (int64_t start = 0; start < length; start += TOKEN_BLOCK) {
        const int64_t n = length - start < TOKEN_BLOCK ? length - start : TOKEN_BLOCK, token = first_token + start;
        for (int64_t r = 0; r < n; r++) {
            float *row = w->rows + r * width;
            memset(row, 0, (size_t)width * 4);
            for (int p = 0; p < 3; p++) copy_heads(t, row + l->qkv.first[p], heads_part(t, d_heads, p), start + r, n_heads_in(t, p), false);
            rotate_row(t, &l->qkv, row, start + r, -1.0f);
        }
        quantize_output_grad(t, &l->qkv, &l->qkv_in, w->rows, n, token, &grads->qkv, w, scales, sums);
        matmul_int8(left_row_major(w->codes, width, sums, scales), n, l->qkv.backward, width / 4, dim, NULL, w->dim_rows, dim);
        norm_backward(dim, l->residual_in + token * dim, n, t->weights[l->attention_norm], l->attention_rms + token, w->dim_rows,
                      t->residual_mid_grad + token * dim, d_in + token * dim, grads->attention_norm + norm_row);
    }
}
