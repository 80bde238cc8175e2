/* The pass through all layers and back, for one kind of processor: each kernels_*.c includes this after its vectors. */

#include <math.h>

#include "trainer.h"

#include "rounding.h"
#include "matmul.h"
#include "attention.h"

/* ---- weights, once per optimiser step ---- */

/* Outputs first ... first + 3 of a weight (n, inputs), rounded, into the panels of its group; those from n on are zeros. */
static void take_weight(struct group *g, const float *weight, int64_t n, int64_t column, int64_t first, int8_t *rows) {
    const int64_t inputs = g->inputs, quads = inputs / 4;
    memset(rows, 0, (size_t)(4 * inputs));
    for (int64_t r = 0; r < 4; r++) {
        const int64_t output = first + r, at = column + output;
        float scale = 0;
        int32_t sum;
        if (output < n) round_nearest(weight + output * inputs, inputs, rows + r * inputs, &scale, &sum);
        g->scales[at] = scale;
        uint8_t *to = g->forward + (at / PANEL * quads * PANEL + at % PANEL) * 4;
        for (int64_t k = 0; k < quads; k++, to += PANEL * 4) {
            uint32_t four;
            memcpy(&four, rows + r * inputs + 4 * k, 4);
            four ^= 0x80808080u;
            memcpy(to, &four, 4);
        }
    }
    pack_quad(rows, inputs, inputs, g->backward, g->outputs / 4, (column + first) / 4);
}

static void take_group(struct trainer *t, struct group *g) {
    int8_t rows[4 * g->inputs];
    for (int p = 0; p < g->parts; p++) {
        for (int64_t first = 0; first < up_to(g->count[p], 32); first += 4)
            take_weight(g, t->weights[g->tensor[p]], g->count[p], g->first[p], first, rows);
    }
}

static void refresh(void *context, int32_t member, struct barrier *barrier) {
    (void)member, (void)barrier;
    struct pass *pass = context;
    struct trainer *t = pass->trainer;
    const int32_t layers = t->shape.n_layers;
    /* The head last but handed out first: it may be as large as several layers. */
    for (int32_t work; (work = atomic_fetch_add(pass->next, 1)) < 4 * layers + 1;) {
        if (work == 0) {
            take_group(t, &t->head);
            continue;
        }
        struct layer *l = t->layers + (work - 1) / 4;
        struct group *groups[4] = {&l->gate_up, &l->down, &l->qkv, &l->output};
        take_group(t, groups[(work - 1) % 4]);
    }
}

/* ---- pieces ---- */

/* n rows of x (dim) / root mean square * weight, rounded into `bytes` and kept; `at` is the first one's token. */
static void norm(const struct trainer *t, const float *x, int64_t n, const float *weight, float *rms, struct kept *kept, int64_t at,
                 int8_t *bytes, float *line, int32_t *sums) {
    const int64_t dim = t->shape.dim;
    for (int64_t r = 0; r < n; r++, x += dim) {
        vf squares = zero();
        for (int64_t i = 0; i < dim; i += LANES) squares = fma_(load(x + i), load(x + i), squares);
        const float inverse = 1.0f / sqrtf(sum_of(squares) / (float)dim + (float)t->shape.norm_eps);
        for (int64_t i = 0; i < dim; i += LANES) store(line + i, load(x + i) * all(inverse) * load(weight + i));
        round_nearest(line, dim, bytes + r * dim, kept->scales + at + r, sums + r);
        rms[at + r] = inverse;
    }
    pack_rows(bytes, dim, n, dim, kept, at, t->tokens);
}

/* n rows of the gradient of x from that of norm(x): out = before + ...; weight_gradient += ... */
static void norm_backward(int64_t dim, const float *x, int64_t n, const float *weight, const float *rms, const float *gradient,
                          const float *before, float *out, float *weight_gradient) {
    for (int64_t r = 0; r < n; r++, x += dim, gradient += dim, out += dim) {
        const vf inverse = all(rms[r]);
        vf total = zero();
        for (int64_t i = 0; i < dim; i += LANES) {
            const vf hat = load(x + i) * inverse, g = load(gradient + i);
            store(weight_gradient + i, fma_(g, hat, load(weight_gradient + i)));
            total = fma_(g * load(weight + i), hat, total);
        }
        const vf mean = all(sum_of(total) / (float)dim);
        for (int64_t i = 0; i < dim; i += LANES) {
            const vf hat = load(x + i) * inverse;
            const vf slope = (load(gradient + i) * load(weight + i) - hat * mean) * inverse;
            if (before)
                store(out + i, load(before + i) + slope);
            else
                store(out + i, slope);
        }
        if (before) before += dim;
    }
}

/* Rotate n heads of a row, or back. `rope` is [2][head_dim]: cosines, and sines with the signs of their pair. */
static void rotate(float *x, int64_t n, int64_t head_dim, const float *rope, float direction) {
    const vf sign = all(direction);
    for (int64_t h = 0; h < n; h++, x += head_dim) {
        int64_t i = 0;
        for (; i + LANES <= head_dim; i += LANES) {
            const vf y = load(x + i);
            store(x + i, fma_(swap_pairs(y), sign * load(rope + head_dim + i), y * load(rope + i)));
        }
        for (; i < head_dim; i += 2) {
            const float even = x[i], odd = x[i + 1], cosine = rope[i], sine = direction * rope[head_dim + i + 1];
            x[i] = even * cosine - odd * sine;
            x[i + 1] = odd * cosine + even * sine;
        }
    }
}

static void rotate_row(const struct trainer *t, const struct group *qkv, float *row, int64_t position, float direction) {
    const float *rope = t->rope + position * 2 * t->head_dim;
    rotate(row + qkv->first[0], t->shape.n_heads, t->head_dim, rope, direction);
    rotate(row + qkv->first[1], t->shape.n_kv_heads, t->head_dim, rope, direction);
}

/* Queries, keys and values of a sequence, or gradients of them, lie head by head, (wide, head_room) each. */
static int64_t heads_in(const struct trainer *t, int part) { return part ? t->shape.n_kv_heads : t->shape.n_heads; }

static int64_t heads_size(const struct trainer *t) { return (t->shape.n_heads + 2 * t->shape.n_kv_heads) * t->wide * t->head_room; }

/* The first head of part 0 (queries), 1 (keys) or 2 (values). */
static ALWAYS_INLINE float *heads_of(const struct trainer *t, const float *heads, int part) {
    const int64_t before = part ? t->shape.n_heads + (part - 1) * t->shape.n_kv_heads : 0;
    return (float *)heads + before * t->wide * t->head_room;
}

/* Between n heads side by side in a row, and token `at` of heads that lie one after the other. */
static void copy_heads(const struct trainer *t, float *row, float *heads, int64_t at, int64_t n, bool from_row) {
    float *head = heads + at * t->head_room;
    for (int64_t h = 0; h < n; h++, row += t->head_dim, head += t->wide * t->head_room)
        memcpy(from_row ? head : row, from_row ? row : head, (size_t)t->head_dim * 4);
}

static ALWAYS_INLINE vf sigmoid(vf x) { return reciprocal(all(1.0f) + exponential(zero() - max_(all(-87.0f), x))); }

/* ---- forward ---- */

static void layer_forward(struct trainer *t, struct layer *l, struct workspace *w, int64_t first, float *out) {
    const struct bullet_shape *s = &t->shape;
    const int64_t dim = s->dim, hidden = s->hidden_dim, width = l->qkv.outputs, length = t->length;
    float *heads = l->heads + first / t->padded * heads_size(t);
    int32_t sums[BLOCK_ROWS];
    for (int64_t top = 0; top < length; top += BLOCK_ROWS) {
        const int64_t n = length - top < BLOCK_ROWS ? length - top : BLOCK_ROWS, at = first + top;
        norm(t, l->input + at * dim, n, t->weights[l->attention_norm], l->attention_rms, &l->attention_in, at, w->bytes, w->line, sums);
        multiply(by_rows(w->bytes, dim, sums, l->attention_in.scales + at), n, l->qkv.forward, dim / 4, width, l->qkv.scales, w->rows,
                 width);
        for (int64_t r = 0; r < n; r++) {
            float *row = w->rows + r * width;
            rotate_row(t, &l->qkv, row, top + r, 1.0f);
            for (int p = 0; p < 3; p++) copy_heads(t, row + l->qkv.first[p], heads_of(t, heads, p), top + r, heads_in(t, p), true);
        }
    }
    for (int64_t h = 0; h < s->n_heads; h++) {
        const int64_t shared = h / (s->n_heads / s->n_kv_heads) * t->wide * t->head_room, own = h * t->wide * t->head_room;
        attend(heads + own, heads_of(t, heads, 1) + shared, heads_of(t, heads, 2) + shared, length, t->head_dim, t->head_room,
               w->heads[1] + own, l->log_sums + first * s->n_heads + h, s->n_heads, w->attention);
    }
    for (int64_t top = 0; top < length; top += BLOCK_ROWS) {
        const int64_t n = length - top < BLOCK_ROWS ? length - top : BLOCK_ROWS, at = first + top;
        float *middle = l->middle + at * dim;
        for (int64_t r = 0; r < n; r++) {
            copy_heads(t, w->line, w->heads[1], top + r, s->n_heads, false);
            round_nearest(w->line, dim, w->bytes + r * dim, l->output_in.scales + at + r, sums + r);
        }
        pack_rows(w->bytes, dim, n, dim, &l->output_in, at, t->tokens);
        multiply_onto(by_rows(w->bytes, dim, sums, l->output_in.scales + at), n, l->output.forward, dim / 4, dim, l->output.scales, 1.0f,
                      l->input + at * dim, middle, dim);

        norm(t, middle, n, t->weights[l->mlp_norm], l->mlp_rms, &l->mlp_in, at, w->bytes, w->line, sums);
        multiply(by_rows(w->bytes, dim, sums, l->mlp_in.scales + at), n, l->gate_up.forward, dim / 4, 2 * hidden, l->gate_up.scales,
                 w->rows, 2 * hidden);
        for (int64_t r = 0; r < n; r++) {
            const float *gate = w->rows + r * 2 * hidden, *up = gate + hidden;
            uint16_t *kept = l->gates + (at + r) * 2 * hidden;
            for (int64_t i = 0; i < hidden; i += LANES) {
                const vf g = load(gate + i), u = load(up + i);
                store_bf16(kept + i, g);
                store_bf16(kept + hidden + i, u);
                store(w->line + i, g * sigmoid(g) * u);
            }
            round_nearest(w->line, hidden, w->bytes + r * hidden, l->down_in.scales + at + r, sums + r);
        }
        pack_rows(w->bytes, hidden, n, hidden, &l->down_in, at, t->tokens);
        multiply_onto(by_rows(w->bytes, hidden, sums, l->down_in.scales + at), n, l->down.forward, hidden / 4, dim, l->down.scales, 1.0f,
                      middle, out + at * dim, dim);
    }
}

/* Logits, loss and the gradient of the last layer's output; returns the summed loss of the sequence. */
static double head_forward(struct trainer *t, struct pass *pass, struct workspace *w, int64_t first, const int32_t *targets,
                           float *norm_part) {
    const int64_t dim = t->shape.dim, vocabulary = t->vocabulary, real = t->shape.vocab_size, length = t->length;
    const float *norm_weight = t->weights[t->final_norm];
    int8_t *second = w->bytes + BLOCK_ROWS / 2 * vocabulary;
    float scales[BLOCK_ROWS / 2];
    int32_t sums[BLOCK_ROWS], more_sums[BLOCK_ROWS / 2];
    double loss = 0;
    for (int64_t top = 0; top < length; top += BLOCK_ROWS / 2) {
        const int64_t n = length - top < BLOCK_ROWS / 2 ? length - top : BLOCK_ROWS / 2, at = first + top;
        norm(t, t->output + at * dim, n, norm_weight, t->final_rms, &t->head_in, at, w->bytes, w->line, sums);
        multiply(by_rows(w->bytes, dim, sums, t->head_in.scales + at), n, t->head.forward, dim / 4, vocabulary, t->head.scales, w->rows,
                 vocabulary);
        for (int64_t r = 0; r < n; r++) {
            float *logits = w->rows + r * vocabulary;
            const int32_t target = targets[top + r];
            for (int64_t i = real; i < vocabulary; i++) logits[i] = -1e30f;
            vf high = load(logits);
            for (int64_t i = LANES; i < vocabulary; i += LANES) high = max_(high, load(logits + i));
            const float most = max_of(high);
            const float wanted = target < 0 ? 0 : logits[target];
            vf total = zero();
            for (int64_t i = 0; i < vocabulary; i += LANES) {
                const vf e = exponential(load(logits + i) - all(most));
                total += e;
                store(logits + i, e);
            }
            const float sum = sum_of(total);
            if (target >= 0) loss += (double)(logf(sum) + most - wanted);
            /* In one number, so that rounding leaves little of it where the prediction is right. */
            if (target >= 0) logits[target] -= sum;
            const vf share = all(target < 0 ? 0.0f : pass->scale / sum), token_scale = all(t->head_in.scales[at + r]);
            for (int64_t i = real; i < vocabulary; i++) logits[i] = 0;
            vi largest = zeros();
            for (int64_t i = 0; i < vocabulary; i += LANES) {
                const vf p = load(logits + i) * share, scaled = p * load(t->head.scales + i);
                store_bf16(strip_at(t->head_slope.strips, t->tokens, at + r, i), p);
                note_largest(w->largest + t->head_slope.largest + i, p, token_scale);
                largest = max_int(largest, magnitude(scaled));
                store(logits + i, scaled);
            }
            int32_t both[2];
            round_in_two(logits, vocabulary, largest, w->bytes + r * vocabulary, second + r * vocabulary, scales + r, both);
            sums[r] = both[0], more_sums[r] = both[1];
        }
        multiply(by_rows(w->bytes, vocabulary, sums, scales), n, t->head.backward, vocabulary / 4, dim, NULL, w->more_rows, dim);
        multiply_onto(by_rows(second, vocabulary, more_sums, scales), n, t->head.backward, vocabulary / 4, dim, NULL, 1.0f / DIGIT,
                      w->more_rows, w->more_rows, dim);
        norm_backward(dim, t->output + at * dim, n, norm_weight, t->final_rms + at, w->more_rows, NULL, t->gradient[0] + at * dim,
                      norm_part);
    }
    return loss;
}

/* ---- backward ---- */

/* n rows of the gradient x of what a group puts out: times the scales of its weights and dithered into w->bytes, for the gradient of
 * its input, and as they are into `slope`, for that of its weights. */
static void take_gradient(const struct trainer *t, const struct group *g, const struct kept *in, const float *x, int64_t n, int64_t at,
                          const struct slope *slope, struct workspace *w, float *scales, int32_t *sums) {
    const int64_t width = g->outputs;
    for (int64_t r = 0; r < n; r++, x += width) {
        const vf token_scale = all(in->scales[at + r]);
        vi largest = zeros();
        for (int64_t i = 0; i < width; i += LANES) {
            const vf y = load(x + i), scaled = y * load(g->scales + i);
            store_bf16(strip_at(slope->strips, t->tokens, at + r, i), y);
            note_largest(w->largest + slope->largest + i, y, token_scale);
            largest = max_int(largest, magnitude(scaled));
            store(w->line + i, scaled);
        }
        round_dithered(w->line, width, largest, w->bytes + r * width, scales + r, sums + r);
    }
}

static void layer_backward(struct trainer *t, struct layer *l, struct workspace *w, int64_t first, const float *gradient, float *out,
                           const struct slopes *to) {
    const struct bullet_shape *s = &t->shape;
    const int64_t dim = s->dim, hidden = s->hidden_dim, width = l->qkv.outputs, length = t->length;
    const float *heads = l->heads + first / t->padded * heads_size(t);
    const int64_t part = first / t->padded * dim;
    float scales[BLOCK_ROWS];
    int32_t sums[BLOCK_ROWS];
    for (int64_t top = 0; top < length; top += BLOCK_ROWS) {
        const int64_t n = length - top < BLOCK_ROWS ? length - top : BLOCK_ROWS, at = first + top;
        const float *g = gradient + at * dim;
        take_gradient(t, &l->down, &l->down_in, g, n, at, &to->down, w, scales, sums);
        multiply(by_rows(w->bytes, dim, sums, scales), n, l->down.backward, dim / 4, hidden, NULL, w->rows, hidden);
        for (int64_t r = 0; r < n; r++) {
            const uint16_t *gates = l->gates + (at + r) * 2 * hidden;
            const float *back = w->rows + r * hidden;
            float *largest_gates = w->largest + to->gate_up.largest;
            const vf token_scale = all(l->mlp_in.scales[at + r]);
            vi largest = zeros();
            for (int64_t i = 0; i < hidden; i += LANES) {
                const vf x = load_bf16(gates + i), up = load_bf16(gates + hidden + i), b = load(back + i);
                const vf sigma = sigmoid(x), silu = x * sigma;
                const vf to_gate = b * up * fma_(silu, all(1.0f) - sigma, sigma), to_up = b * silu;
                store_bf16(strip_at(to->gate_up.strips, t->tokens, at + r, i), to_gate);
                store_bf16(strip_at(to->gate_up.strips, t->tokens, at + r, hidden + i), to_up);
                note_largest(largest_gates + i, to_gate, token_scale);
                note_largest(largest_gates + hidden + i, to_up, token_scale);
                const vf one = to_gate * load(l->gate_up.scales + i), other = to_up * load(l->gate_up.scales + hidden + i);
                largest = max_int(largest, max_int(magnitude(one), magnitude(other)));
                store(w->line + i, one);
                store(w->line + hidden + i, other);
            }
            round_dithered(w->line, 2 * hidden, largest, w->bytes + r * 2 * hidden, scales + r, sums + r);
        }
        multiply(by_rows(w->bytes, 2 * hidden, sums, scales), n, l->gate_up.backward, hidden / 2, dim, NULL, w->more_rows, dim);
        float *middle = t->middle_gradient + at * dim;
        norm_backward(dim, l->middle + at * dim, n, t->weights[l->mlp_norm], l->mlp_rms + at, w->more_rows, g, middle,
                      to->mlp_norm + part);
        take_gradient(t, &l->output, &l->output_in, middle, n, at, &to->output, w, scales, sums);
        multiply(by_rows(w->bytes, dim, sums, scales), n, l->output.backward, dim / 4, dim, NULL, w->more_rows, dim);
        for (int64_t r = 0; r < n; r++) copy_heads(t, w->more_rows + r * dim, w->heads[1], top + r, s->n_heads, true);
    }
    float *gradients = w->heads[0];
    memset(heads_of(t, gradients, 1), 0, (size_t)(2 * s->n_kv_heads * t->wide * t->head_room) * 4);
    for (int64_t h = 0; h < s->n_heads; h++) {
        const int64_t shared = h / (s->n_heads / s->n_kv_heads) * t->wide * t->head_room, own = h * t->wide * t->head_room;
        attend_backward(heads + own, heads_of(t, heads, 1) + shared, heads_of(t, heads, 2) + shared, length, t->head_dim, t->head_room,
                        w->heads[1] + own, l->log_sums + first * s->n_heads + h, s->n_heads, gradients + own,
                        heads_of(t, gradients, 1) + shared, heads_of(t, gradients, 2) + shared, w->attention);
    }
    for (int64_t top = 0; top < length; top += BLOCK_ROWS) {
        const int64_t n = length - top < BLOCK_ROWS ? length - top : BLOCK_ROWS, at = first + top;
        for (int64_t r = 0; r < n; r++) {
            float *row = w->rows + r * width;
            memset(row, 0, (size_t)width * 4);
            for (int p = 0; p < 3; p++) copy_heads(t, row + l->qkv.first[p], heads_of(t, gradients, p), top + r, heads_in(t, p), false);
            rotate_row(t, &l->qkv, row, top + r, -1.0f);
        }
        take_gradient(t, &l->qkv, &l->attention_in, w->rows, n, at, &to->qkv, w, scales, sums);
        multiply(by_rows(w->bytes, width, sums, scales), n, l->qkv.backward, width / 4, dim, NULL, w->more_rows, dim);
        norm_backward(dim, l->input + at * dim, n, t->weights[l->attention_norm], l->attention_rms + at, w->more_rows,
                      t->middle_gradient + at * dim, out + at * dim, to->attention_norm + part);
    }
}

/* ---- gradients of the weights ---- */

/* The largest numbers of columns first ... first + n, over all threads. */
static void merge_largest(const struct trainer *t, int64_t first, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i += LANES) {
        vi most = zeros();
        for (int32_t m = 0; m < t->threads; m++) most = max_int(most, load_int(t->workspaces[m].largest + first + i));
        store_int(out + i, most);
    }
}

/* WORK_ROWS outputs of part p of a group, from `row` on. */
static void weight_gradient(struct trainer *t, struct pass *pass, const struct group *g, const struct kept *in, int p, int64_t row,
                            const struct slope *slope, struct workspace *w) {
    const int64_t n = g->count[p] - row < WORK_ROWS ? g->count[p] - row : WORK_ROWS, quads = t->tokens / 4;
    float largest[STRIP], scales[WORK_ROWS];
    int32_t sums[WORK_ROWS];
    float *out = pass->gradients[g->tensor[p]] + row * g->inputs;
    for (int64_t i = 0; i < n; i += STRIP) {
        const int64_t column = g->first[p] + row + i;
        merge_largest(t, slope->largest + column, STRIP, largest);
        pack_strip(strip_at(slope->strips, t->tokens, 0, column), t->tokens, in->scales, largest, w->packed + i * t->tokens, scales + i, sums + i);
    }
    multiply_onto(by_columns(w->packed, quads, sums, scales), n, in->panels, quads, g->inputs, NULL, 1.0f, out, out, g->inputs);
}

static int64_t pieces_of(int64_t outputs) { return (outputs + WORK_ROWS - 1) / WORK_ROWS; }

/* Piece number `work` of the gradients of a group's weights, if it has so many; returns how many it has. */
static int64_t group_gradient(struct trainer *t, struct pass *pass, const struct group *g, const struct kept *in, const struct slope *slope,
                              int64_t work, struct workspace *w) {
    int64_t before = 0;
    for (int p = 0; p < g->parts; p++) {
        const int64_t pieces = pieces_of(g->count[p]);
        if (work >= before && work < before + pieces)
            weight_gradient(t, pass, g, in, p, (work - before) * WORK_ROWS, slope, w);
        before += pieces;
    }
    return before;
}

static void layer_weights(struct trainer *t, struct pass *pass, struct layer *l, const struct slopes *from, atomic_int *next,
                          struct workspace *w) {
    for (;;) {
        int64_t work = atomic_fetch_add(next, 1);
        work -= group_gradient(t, pass, &l->down, &l->down_in, &from->down, work, w);
        if (work < 0) continue;
        work -= group_gradient(t, pass, &l->gate_up, &l->mlp_in, &from->gate_up, work, w);
        if (work < 0) continue;
        work -= group_gradient(t, pass, &l->qkv, &l->attention_in, &from->qkv, work, w);
        if (work < 0) continue;
        work -= group_gradient(t, pass, &l->output, &l->output_in, &from->output, work, w);
        if (work >= 0) return;
    }
}

/* Adds the sequences' parts of the gradient of a norm, in their order. */
static void add_norm(const struct trainer *t, const float *parts, float *gradient) {
    const int64_t dim = t->shape.dim;
    for (int64_t s = 0; s < t->sequences; s++) {
        for (int64_t i = 0; i < dim; i += LANES) store(gradient + i, load(gradient + i) + load(parts + s * dim + i));
    }
}

/* What tokens add to PANEL columns of their rows of the embedding. */
static void embedding_columns(struct trainer *t, struct pass *pass, const float *gradient, int64_t column) {
    const int64_t dim = t->shape.dim;
    for (int64_t s = 0; s < t->sequences; s++) {
        const float *from = gradient + s * t->padded * dim + column;
        for (int64_t i = 0; i < t->length; i++, from += dim) {
            float *to = pass->gradients[0] + pass->tokens[s * t->length + i] * dim + column;
            for (int64_t k = 0; k < PANEL; k += LANES) store(to + k, load(to + k) + load(from + k));
        }
    }
}

/* ---- all of it ---- */

/* A sequence through all layers, and the gradient of the last one's output. */
static void sequence_forward(struct trainer *t, struct pass *pass, struct workspace *w, int64_t s) {
    const int64_t dim = t->shape.dim, first = s * t->padded;
    const int32_t layers = t->shape.n_layers;
    for (int64_t i = 0; i < t->length; i++)
        memcpy(t->layers[0].input + (first + i) * dim, t->weights[0] + pass->tokens[s * t->length + i] * dim, (size_t)dim * 4);
    for (int32_t n = 0; n < layers; n++) layer_forward(t, t->layers + n, w, first, n + 1 < layers ? t->layers[n + 1].input : t->output);
    memset(t->final_norm_parts + s * dim, 0, (size_t)dim * 4);
    t->losses[s] = head_forward(t, pass, w, first, pass->targets + s * t->length, t->final_norm_parts + s * dim);
}

/* The gradients of the weights of layer n, or of the head above the last one. */
static void weights_of(struct trainer *t, struct pass *pass, int32_t n, int32_t member, atomic_int *next) {
    struct workspace *w = t->workspaces + member;
    if (n == t->shape.n_layers) {
        for (int64_t work; (work = atomic_fetch_add(next, 1)) < pieces_of(t->shape.vocab_size);)
            group_gradient(t, pass, &t->head, &t->head_in, &t->head_slope, work, w);
        if (member == 0) add_norm(t, t->final_norm_parts, pass->gradients[t->final_norm]);
        return;
    }
    struct layer *l = t->layers + n;
    const struct slopes *from = t->slopes + n % 2;
    layer_weights(t, pass, l, from, next, w);
    if (member == 0) {
        add_norm(t, from->mlp_norm, pass->gradients[l->mlp_norm]);
        add_norm(t, from->attention_norm, pass->gradients[l->attention_norm]);
    }
}

static void run(void *context, int32_t member, struct barrier *barrier) {
    struct pass *pass = context;
    struct trainer *t = pass->trainer;
    struct workspace *w = t->workspaces + member;
    const int64_t dim = t->shape.dim, count = t->sequences;
    const int32_t layers = t->shape.n_layers;
    const unsigned control = _mm_getcsr();
    _mm_setcsr(control | 0x8040); /* numbers next to zero are zero: attention is full of them, and they are slow */
    atomic_int *next = pass->next;

    memset(w->largest, 0, (size_t)t->columns * 4);
    for (int64_t s; (s = atomic_fetch_add(next, 1)) < count;) sequence_forward(t, pass, w, s);
    for (int32_t n = layers - 1; n >= 0; n--) {
        const struct slopes *to = t->slopes + n % 2;
        const float *gradient = t->gradient[(layers - 1 - n) % 2];
        float *out = t->gradient[(layers - n) % 2];
        barrier_wait(barrier);
        if (n + 2 < layers) memset(w->largest + to->qkv.largest, 0, (size_t)(to->down.largest - to->qkv.largest + dim) * 4);
        next++;
        for (int64_t s; (s = atomic_fetch_add(next, 1)) < count;) {
            memset(to->mlp_norm + s * dim, 0, (size_t)dim * 4);
            memset(to->attention_norm + s * dim, 0, (size_t)dim * 4);
            layer_backward(t, t->layers + n, w, s * t->padded, gradient, out, to);
        }
        weights_of(t, pass, n + 1, member, ++next);
    }
    barrier_wait(barrier);
    weights_of(t, pass, 0, member, ++next);
    next++;
    for (int64_t work; (work = atomic_fetch_add(next, 1)) < dim / PANEL;)
        embedding_columns(t, pass, t->gradient[layers % 2], work * PANEL);
    _mm_setcsr(control);
}
