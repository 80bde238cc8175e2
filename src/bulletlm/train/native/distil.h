/* Distillation: the loss KL(teacher || student) of each token, with exact products (exact.h), and its gradient up to the output of the
 * student's last layer. The backward pass from there is that of backward.h. */

/* Sequence s through the layers of the teacher: t->teacher_output. The first layer of the student is the scratch memory. */
static void teacher_forward(struct trainer *t, const struct call *call, struct workspace *w, int64_t s) {
    const int32_t layers = t->shape.n_layers;
    struct layer *scratch = t->layers;
    embed_sequence(t, call, s, t->teacher_weights[0]);
    for (int32_t n = 0; n < layers; n++)
        layer_forward(t, TEACHER_PASS, t->teacher_layers + n, t->teacher_weights, scratch, w, s * t->token_stride,
                      n + 1 < layers ? scratch->residual_in : t->teacher_output);
}

/* KL(softmax(teacher) || softmax(logits)) in nats, both [padded_vocab] with -1e30 in the padding.
 * logits = scale * d(KL) / d(logits) = scale * (softmax(logits) - softmax(teacher)), with zeros in the padding; teacher is overwritten. */
static double divergence(const struct trainer *t, float *teacher, float *logits, float scale) {
    const int64_t padded_vocab = t->padded_vocab;
    const vf teacher_max = broadcast(logit_max(t, teacher)), max = broadcast(logit_max(t, logits));
    vf teacher_total = zero_f32(), total = zero_f32(), weighted = zero_f32();
    for (int64_t i = 0; i < padded_vocab; i += LANES) {
        const vf taught = load(teacher + i) - teacher_max, got = load(logits + i) - max;
        const vf p = exp_approx(taught), q = exp_approx(got);
        teacher_total += p, total += q, weighted = fmadd(p, taught - got, weighted);
        store(teacher + i, p);
        store(logits + i, q);
    }
    const float teacher_sum = reduce_add(teacher_total), sum = reduce_add(total);
    const vf teacher_factor = broadcast(-scale / teacher_sum), factor = broadcast(scale / sum);
    for (int64_t i = 0; i < padded_vocab; i += LANES)
        store(logits + i, fmadd(load(logits + i), factor, load(teacher + i) * teacher_factor));
    for (int64_t i = t->shape.vocab_size; i < padded_vocab; i++) logits[i] = 0;
    return (double)reduce_add(weighted) / teacher_sum + log((double)sum) - log((double)teacher_sum);
}

/* Final norms, logits and KL of the sequence that begins at first_token; returns its KL in nats, summed over the targets that count.
 * If gradients are wanted, also the first step of the backward pass, as head_forward (forward.h). targets: [length]. */
static double head_distil(struct trainer *t, const struct call *call, struct workspace *w, int64_t first_token, const int32_t *targets,
                          float *d_norm) {
    const int64_t dim = t->shape.dim, padded_vocab = t->padded_vocab, length = t->length;
    struct logit_grads grads;
    double loss = 0;
    for (int64_t start = 0; start < length; start += TOKEN_BLOCK / 2) {
        const int64_t n = length - start < TOKEN_BLOCK / 2 ? length - start : TOKEN_BLOCK / 2, token = first_token + start;
        norm_forward(t, TEACHER_PASS, w, t->teacher_output + token * dim, n, t->teacher_weights[t->final_norm], t->final_rms, &t->head_in,
                     token);
        multiply(t, TEACHER_PASS, w, &t->teacher_head, n, &t->head_in, token, NULL, w->taught);
        norm_forward(t, STUDENT_PASS, w, t->output + token * dim, n, t->weights[t->final_norm], t->final_rms, &t->head_in, token);
        multiply(t, STUDENT_PASS, w, &t->head, n, &t->head_in, token, NULL, w->rows);
        for (int64_t r = 0; r < n; r++) {
            const bool counts = targets[start + r] >= 0;
            float *logits = w->rows + r * padded_vocab;
            const double kl = divergence(t, w->taught + r * padded_vocab, logits, counts ? call->scale : 0.0f);
            if (counts) loss += kl;
            if (call->gradients) quantize_logit_grad(t, w, &grads, logits, r, token);
        }
        if (call->gradients) head_backward(t, w, &grads, n, token, d_norm);
    }
    return loss;
}

/* Sequence s through both models, the loss, and the gradient of the last layer's output. */
static void sequence_distil(struct trainer *t, struct call *call, struct workspace *w, int64_t s) {
    const int64_t dim = t->shape.dim;
    teacher_forward(t, call, w, s);
    layers_forward(t, STUDENT_PASS, call, w, s);
    memset(t->final_norm_grads + s * dim, 0, (size_t)dim * 4);
    t->losses[s] = head_distil(t, call, w, s * t->token_stride, call->targets + s * t->length, t->final_norm_grads + s * dim);
}
