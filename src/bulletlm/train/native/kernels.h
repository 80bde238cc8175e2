/* The entry points of the computation. Each kernels_*.c chooses its instruction set, includes its vectors (simd_*.h), then this. */

#include <math.h>

#include "trainer.h"

#include "rounding.h"
#include "matmul.h"
#include "exact.h"
#include "attention.h"
#include "blocks.h"
#include "weights.h"
#include "forward.h"
#include "distil.h"
#include "backward.h"
#include "weight_gradients.h"

/* Weight group number `item` of a model; NULL after the last. Number 0 is the output matrix: it may be as large as several layers, so
 * work on it must not start last. */
static struct weight_group *numbered_group(struct weight_group *head, struct layer *layers, int32_t n_layers, int32_t item) {
    if (item == 0) return head;
    if (item > 4 * n_layers) return NULL;
    struct layer *l = layers + (item - 1) / 4;
    struct weight_group *groups[4] = {&l->gate_up, &l->down, &l->qkv, &l->output};
    return groups[(item - 1) % 4];
}

/* bullet_trainer_load_weights, one thread of it. */
static void load_weights(void *context, int32_t member, struct barrier *barrier) {
    (void)member, (void)barrier;
    struct call *call = context;
    struct trainer *t = call->trainer;
    for (struct weight_group *g; (g = numbered_group(&t->head, t->layers, t->shape.n_layers, atomic_fetch_add(call->next, 1)));) {
        quantize_group(t, g);
        if (t->distils) quantize_exact_group(g, t->weights);
    }
}

/* bullet_trainer_load_teacher, one thread of it. */
static void load_teacher(void *context, int32_t member, struct barrier *barrier) {
    (void)member, (void)barrier;
    struct call *call = context;
    struct trainer *t = call->trainer;
    for (struct weight_group *g;
         (g = numbered_group(&t->teacher_head, t->teacher_layers, t->shape.n_layers, atomic_fetch_add(call->next, 1)));)
        quantize_exact_group(g, t->teacher_weights);
}

/* The forward pass of one sequence, with the gradient of the last layer's output. */
typedef void sequence_pass(struct trainer *t, struct call *call, struct workspace *w, int64_t s);

/* A pass over the micro-batch, one thread of it. Threads take work items from one counter for each phase and meet at a barrier
 * once a layer: the backward pass through layer n over all sequences, then the gradients of the weights of layer n + 1. The barrier
 * before layer n makes the stored gradients of layer n + 1 complete; those of layer n go to the other half of layer_grads. */
static void run_pass(struct call *call, int32_t member, struct barrier *barrier, sequence_pass *forward) {
    struct trainer *t = call->trainer;
    struct workspace *w = t->workspaces + member;
    const int64_t dim = t->shape.dim, sequences = t->sequences;
    const int32_t layers = t->shape.n_layers;
    atomic_int *next = call->next;

    memset(w->column_max, 0, (size_t)t->n_columns * 4);
    for (int64_t s; (s = atomic_fetch_add(next, 1)) < sequences;) forward(t, call, w, s);
    if (call->gradients == NULL) return;
    for (int32_t n = layers - 1; n >= 0; n--) {
        const struct layer_grads *grads = t->layer_grads + n % 2;
        const float *d_out = t->residual_grad[(layers - 1 - n) % 2];
        float *d_in = t->residual_grad[(layers - n) % 2];
        barrier_wait(barrier);
        if (n + 2 < layers)
            memset(w->column_max + grads->qkv.column_max, 0, (size_t)(grads->down.column_max - grads->qkv.column_max + dim) * 4);
        next++;
        for (int64_t s; (s = atomic_fetch_add(next, 1)) < sequences;) {
            memset(grads->mlp_norm + s * dim, 0, (size_t)dim * 4);
            memset(grads->attention_norm + s * dim, 0, (size_t)dim * 4);
            layer_backward(t, t->layers + n, w, s * t->token_stride, d_out, d_in, grads);
        }
        weight_gradients(t, call, n + 1, member, ++next);
    }
    barrier_wait(barrier);
    weight_gradients(t, call, 0, member, ++next);
    next++;
    for (int64_t item; (item = atomic_fetch_add(next, 1)) < dim / PANEL;)
        embedding_gradient(t, call, t->residual_grad[layers % 2], item * PANEL);
}

/* run_pass with flush-to-zero and denormals-are-zero: attention probabilities are full of subnormal numbers, which are slow. */
static void run_pass_without_denormals(struct call *call, int32_t member, struct barrier *barrier, sequence_pass *forward) {
    const unsigned saved_mxcsr = _mm_getcsr();
    _mm_setcsr(saved_mxcsr | 0x8040);
    run_pass(call, member, barrier, forward);
    _mm_setcsr(saved_mxcsr);
}

/* bullet_trainer_accumulate_gradients, one thread of it. */
static void accumulate_gradients(void *call, int32_t member, struct barrier *barrier) {
    run_pass_without_denormals(call, member, barrier, sequence_forward);
}

/* bullet_trainer_distil, one thread of it. */
static void distil(void *call, int32_t member, struct barrier *barrier) {
    run_pass_without_denormals(call, member, barrier, sequence_distil);
}
