/* The two entry points of the computation. Each kernels_*.c chooses its instruction set, includes its vectors (simd_*.h), then this. */

#include <math.h>

#include "trainer.h"

#include "rounding.h"
#include "matmul.h"
#include "attention.h"
#include "blocks.h"
#include "weights.h"
#include "forward.h"
#include "backward.h"
#include "weight_gradients.h"

/* bullet_trainer_load_weights, one thread of it. */
static void load_weights(void *context, int32_t member, struct barrier *barrier) {
    (void)member, (void)barrier;
    struct call *call = context;
    struct trainer *t = call->trainer;
    const int32_t layers = t->shape.n_layers;
    /* Item 0 is the output matrix: it may be as large as several layers, so it must not start last. */
    for (int32_t item; (item = atomic_fetch_add(call->next, 1)) < 4 * layers + 1;) {
        if (item == 0) {
            quantize_group(t, &t->head);
            continue;
        }
        struct layer *l = t->layers + (item - 1) / 4;
        struct weight_group *groups[4] = {&l->gate_up, &l->down, &l->qkv, &l->output};
        quantize_group(t, groups[(item - 1) % 4]);
    }
}

/* bullet_trainer_accumulate_gradients, one thread of it. Threads take work items from one counter for each phase and meet at a barrier
 * once a layer: the backward pass through layer n over all sequences, then the gradients of the weights of layer n + 1. The barrier
 * before layer n makes the stored gradients of layer n + 1 complete; those of layer n go to the other half of layer_grads. */
static void accumulate_gradients(void *context, int32_t member, struct barrier *barrier) {
    struct call *call = context;
    struct trainer *t = call->trainer;
    struct workspace *w = t->workspaces + member;
    const int64_t dim = t->shape.dim, sequences = t->sequences;
    const int32_t layers = t->shape.n_layers;
    const unsigned saved_mxcsr = _mm_getcsr();
    /* Flush-to-zero and denormals-are-zero: attention probabilities are full of subnormal numbers, which are slow. */
    _mm_setcsr(saved_mxcsr | 0x8040);
    atomic_int *next = call->next;

    memset(w->column_max, 0, (size_t)t->n_columns * 4);
    for (int64_t s; (s = atomic_fetch_add(next, 1)) < sequences;) sequence_forward(t, call, w, s);
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
    _mm_setcsr(saved_mxcsr);
}
