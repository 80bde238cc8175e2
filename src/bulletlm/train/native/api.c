/* The functions of train.h: checks of the arguments, memory, threads. */

#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "../../runtime/native/shape.h"
#include "trainer.h"

enum {
    MAX_SUMMED = 1 << 17, /* terms of an int32 sum of products of codes, 127 * 128 each */
    MAX_TOKENS = 1 << 16, /* in a micro-batch, padding included: the gradients of the weights are sums over them */
};

#if defined(__x86_64__)
extern const struct kernels kernels_avx512, kernels_avx_vnni, kernels_avx512_half, kernels_avx2;
static const struct kernels *const all_kernels[] = {
    &kernels_avx512,
#if HAVE_AVX_VNNI
    &kernels_avx_vnni,
#endif
    &kernels_avx512_half, &kernels_avx2, NULL,
};
#else
static const struct kernels *const all_kernels[] = {NULL};
#endif

/* The kernels of that name, or the first if it is NULL; NULL if this processor does not have them. */
static const struct kernels *find_kernels(const char *name) {
    for (const struct kernels *const *k = all_kernels; *k; k++) {
        if ((name == NULL || strcmp(name, (*k)->name) == 0) && (*k)->supported()) return *k;
    }
    return NULL;
}

int32_t bullet_train_abi(void) { return BULLET_TRAIN_ABI; }

const char *bullet_train_kernels(int32_t index) {
    for (const struct kernels *const *k = all_kernels; *k; k++) {
        if ((*k)->trains && (*k)->supported() && index-- == 0) return (*k)->name;
    }
    return NULL;
}

const char *bullet_distil_kernels(int32_t index) {
    for (const struct kernels *const *k = all_kernels; *k; k++) {
        if ((*k)->supported() && index-- == 0) return (*k)->name;
    }
    return NULL;
}

/* ---- memory: one mapping for the weights and one for everything else, each divided into arrays ---- */

/* With base NULL, only counts the bytes. */
struct arena {
    char *base;
    size_t used;
};

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
enum { GUARD_BYTES = 256 }; /* after each array, poisoned */
#else
enum { GUARD_BYTES = 0 };
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

/* The next `count` elements of `size` bytes of an arena. */
static void *take(struct arena *a, int64_t count, size_t size) {
    char *at = a->base ? a->base + a->used : NULL;
    const size_t bytes = (size_t)count * size, padded = ROUND_UP(bytes + GUARD_BYTES, ALIGN_BYTES);
    a->used += padded;
    if (at) ASAN_POISON_MEMORY_REGION(at + bytes, padded - bytes);
    return at;
}

#define TAKE(pointer, count) (pointer) = take(a, (count), sizeof *(pointer))

/* Zeroed memory, or NULL. */
static void *map_memory(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(memory, bytes, MADV_HUGEPAGE); /* a third fewer cycles in large products; a refusal does no harm */
#endif
    return memory;
}

static void unmap_memory(struct trainer *t, int which) {
    if (t->memory[which] == NULL) return;
    ASAN_UNPOISON_MEMORY_REGION(t->memory[which], t->bytes[which]);
    munmap(t->memory[which], t->bytes[which]);
    t->memory[which] = NULL;
}

/* Replace mapping `which` by one of the size that `place` needs: called once to count, once to set the pointers. */
static bool allocate(struct trainer *t, int which, void (*place)(struct trainer *t, struct arena *a)) {
    unmap_memory(t, which);
    struct arena counted = {NULL, 0};
    place(t, &counted);
    void *memory = map_memory(counted.used);
    if (memory == NULL) return false;
    t->memory[which] = memory, t->bytes[which] = counted.used;
    struct arena arena = {memory, 0};
    place(t, &arena);
    return true;
}

static void describe_group(struct weight_group *g, int64_t inputs, int parts, const int32_t *counts, const int32_t *tensors) {
    *g = (struct weight_group){.inputs = (int32_t)inputs, .parts = parts};
    for (int p = 0; p < parts; p++) {
        g->first[p] = g->outputs, g->count[p] = counts[p], g->tensor[p] = tensors[p];
        g->outputs += ROUND_UP(counts[p], STRIP);
    }
}

static void place_exact(struct arena *a, struct weight_group *g) {
    TAKE(g->exact.panels, (int64_t)g->inputs * g->outputs);
    TAKE(g->exact.scales, (int64_t)g->inputs / 32 * g->outputs);
}

static void place_group(const struct trainer *t, struct arena *a, struct weight_group *g) {
    TAKE(g->scales, g->outputs);
    TAKE(g->backward, (int64_t)g->inputs * g->outputs);
    if (t->distils)
        place_exact(a, g);
    else
        TAKE(g->forward, (int64_t)g->inputs * g->outputs);
}

static void place_weights(struct trainer *t, struct arena *a) {
    for (int32_t n = 0; n < t->shape.n_layers; n++) {
        struct layer *l = t->layers + n;
        place_group(t, a, &l->qkv), place_group(t, a, &l->output), place_group(t, a, &l->gate_up), place_group(t, a, &l->down);
    }
    place_group(t, a, &t->head);
    if (!t->distils) return;
    for (int32_t n = 0; n < t->shape.n_layers; n++) {
        struct layer *l = t->teacher_layers + n;
        place_exact(a, &l->qkv), place_exact(a, &l->output), place_exact(a, &l->gate_up), place_exact(a, &l->down);
    }
    place_exact(a, &t->teacher_head);
}

static void place_saved_input(struct trainer *t, struct arena *a, struct saved_input *saved, int64_t inputs) {
    TAKE(saved->panels, t->tokens * inputs);
    TAKE(saved->scales, t->tokens);
}

static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

static void place_output_grad(struct trainer *t, struct arena *a, struct output_grad *grad, int64_t outputs) {
    TAKE(grad->strips, t->tokens * outputs);
    grad->column_max = t->n_columns;
    t->n_columns += outputs;
}

static void place_activations(struct trainer *t, struct arena *a) {
    const int64_t n = t->tokens, dim = t->shape.dim, hidden = t->shape.hidden_dim, qkv = t->layers[0].qkv.outputs;
    const int64_t head = t->padded_length * t->padded_head_dim, heads = (t->shape.n_heads + 2 * t->shape.n_kv_heads) * head;
    for (int32_t i = 0; i < t->shape.n_layers; i++) {
        struct layer *l = t->layers + i;
        TAKE(l->residual_in, n * dim), TAKE(l->residual_mid, n * dim);
        TAKE(l->attention_rms, n), TAKE(l->mlp_rms, n);
        TAKE(l->heads, t->sequences * heads), TAKE(l->log_sum_exp, n * t->shape.n_heads);
        TAKE(l->gate_up_bf16, n * 2 * hidden);
        place_saved_input(t, a, &l->qkv_in, dim), place_saved_input(t, a, &l->output_in, dim);
        place_saved_input(t, a, &l->gate_up_in, dim), place_saved_input(t, a, &l->down_in, hidden);
    }
    TAKE(t->rope, t->length * 2 * t->head_dim);
    TAKE(t->output, n * dim), TAKE(t->final_rms, n);
    if (t->distils) TAKE(t->teacher_output, n * dim);
    place_saved_input(t, a, &t->head_in, dim);
    TAKE(t->residual_grad[0], n * dim), TAKE(t->residual_grad[1], n * dim), TAKE(t->residual_mid_grad, n * dim);
    t->n_columns = 0;
    place_output_grad(t, a, &t->head_grad, t->padded_vocab);
    for (int i = 0; i < 2; i++) {
        struct layer_grads *s = t->layer_grads + i;
        place_output_grad(t, a, &s->qkv, qkv), place_output_grad(t, a, &s->output, dim);
        place_output_grad(t, a, &s->gate_up, 2 * hidden), place_output_grad(t, a, &s->down, dim);
        TAKE(s->attention_norm, t->sequences * dim), TAKE(s->mlp_norm, t->sequences * dim);
    }
    TAKE(t->final_norm_grads, t->sequences * dim);
    TAKE(t->losses, t->sequences);
    TAKE(t->workspaces, t->threads);

    const int64_t widest = max_i64(max_i64(2 * hidden, qkv), dim), half_block = TOKEN_BLOCK / 2 * t->padded_vocab;
    for (int32_t i = 0; i < t->threads; i++) {
        struct workspace w = {0};
        if (t->distils) {
            TAKE(w.exact_codes, TOKEN_BLOCK * max_i64(dim, hidden)), TAKE(w.exact_scales, TOKEN_BLOCK);
            TAKE(w.taught, half_block);
        }
        TAKE(w.sums, TOKEN_BLOCK);
        TAKE(w.rows, max_i64(TOKEN_BLOCK * widest, half_block));
        TAKE(w.dim_rows, TOKEN_BLOCK * dim);
        TAKE(w.codes, max_i64(TOKEN_BLOCK * widest, 2 * half_block));
        TAKE(w.row, widest);
        TAKE(w.d_heads, heads), TAKE(w.attention, t->shape.n_heads * head);
        TAKE(w.scratch, 2 * head + 2 * QUERY_BLOCK * t->padded_length);
        TAKE(w.packed, GRAD_ROWS * n);
        TAKE(w.column_max, t->n_columns);
        if (a->base) t->workspaces[i] = w;
    }
}

/* Each pair of elements has the same cosine; its sine is -sin for the first and sin for the second (rotate in blocks.h). */
static void fill_rope(struct trainer *t) {
    for (int64_t position = 0; position < t->length; position++) {
        float *cosines = t->rope + position * 2 * t->head_dim, *sines = cosines + t->head_dim;
        for (int32_t i = 0; i < t->head_dim; i += 2) {
            const double angle = (double)position * pow(t->shape.rope_theta, -(double)i / t->head_dim);
            cosines[i] = cosines[i + 1] = (float)cos(angle);
            sines[i + 1] = (float)sin(angle);
            sines[i] = -sines[i + 1];
        }
    }
}

/* Memory for micro-batches of this size. */
static bool resize(struct trainer *t, int64_t sequences, int64_t length, int32_t threads) {
    if (t->memory[1] && t->sequences == sequences && t->length == length && t->threads == threads) return true;
    t->sequences = sequences, t->length = length, t->threads = threads;
    t->token_stride = ROUND_UP(length, 4), t->padded_length = ROUND_UP(length, 16);
    t->tokens = sequences * t->token_stride;
    if (!allocate(t, 1, place_activations)) return false;
    fill_rope(t);
    return true;
}

/* ---- the functions of train.h ---- */

void bullet_trainer_free(struct trainer *t) {
    if (t == NULL) return;
    unmap_memory(t, 0), unmap_memory(t, 1);
    free(t->layers), free(t->weights), free(t->teacher_layers), free(t->teacher_weights);
    free(t);
}

int32_t bullet_trainer_new(const struct bullet_shape *s, const char *kernels, struct trainer **out) {
    const struct kernels *found = find_kernels(kernels);
    /* Every matrix product must fit into int32: the longest sums are over dim, 2 hidden_dim, the qkv outputs (at most 3 dim, and
     * padding) and the vocabulary. */
    if (found == NULL || !shape_is_valid(s) || s->vocab_size > MAX_SUMMED || s->hidden_dim > MAX_SUMMED / 2 || s->dim > MAX_SUMMED / 4)
        return BULLET_ARGUMENT;
    struct trainer *t = calloc(1, sizeof *t);
    if (t == NULL) return BULLET_MEMORY;
    t->shape = *s, t->kernels = found;
    t->head_dim = s->dim / s->n_heads, t->padded_head_dim = ROUND_UP(t->head_dim, 16);
    t->padded_vocab = ROUND_UP(s->vocab_size, STRIP);
    const int32_t kv_dim = t->head_dim * s->n_kv_heads, dim = s->dim, hidden = s->hidden_dim;
    t->final_norm = 1 + 9 * s->n_layers;
    t->weights = calloc((size_t)t->final_norm + 2, sizeof *t->weights);
    t->layers = calloc((size_t)s->n_layers, sizeof *t->layers);
    if (t->layers == NULL || t->weights == NULL) return bullet_trainer_free(t), BULLET_MEMORY;
    /* The order of the file: embedding; for each layer norm, query, key, value, output, norm, gate, up, down; final norm; output matrix,
     * unless it is the embedding. */
    for (int32_t n = 0, first = 1; n < s->n_layers; n++, first += 9) {
        struct layer *l = t->layers + n;
        l->attention_norm = first, l->mlp_norm = first + 5;
        describe_group(&l->qkv, dim, 3, (int32_t[]){dim, kv_dim, kv_dim}, (int32_t[]){first + 1, first + 2, first + 3});
        describe_group(&l->output, dim, 1, (int32_t[]){dim}, (int32_t[]){first + 4});
        describe_group(&l->gate_up, dim, 2, (int32_t[]){hidden, hidden}, (int32_t[]){first + 6, first + 7});
        describe_group(&l->down, hidden, 1, (int32_t[]){dim}, (int32_t[]){first + 8});
    }
    describe_group(&t->head, dim, 1, (int32_t[]){s->vocab_size}, (int32_t[]){s->tied_embeddings ? 0 : t->final_norm + 1});
    if (!allocate(t, 0, place_weights)) return bullet_trainer_free(t), BULLET_MEMORY;
    *out = t;
    return BULLET_OK;
}

/* Run `job` on all threads, with a counter of work items for each of its phases. */
static bool run_phases(struct trainer *t, struct call *call, int32_t threads, void (*job)(void *, int32_t, struct barrier *)) {
    atomic_int *next = calloc((size_t)(2 * t->shape.n_layers + 4), sizeof *next);
    if (next == NULL) return false;
    call->next = next;
    const bool complete = run_team(threads, job, call);
    free(next);
    return complete;
}

static size_t n_tensors(const struct trainer *t) { return (size_t)(t->final_norm + 2 - !!t->shape.tied_embeddings); }

int32_t bullet_trainer_load_weights(struct trainer *t, float *const *weights, int32_t threads) {
    if (threads < 1) return BULLET_ARGUMENT;
    memcpy(t->weights, weights, n_tensors(t) * sizeof *t->weights);
    struct call call = {.trainer = t};
    return run_phases(t, &call, threads, t->kernels->load_weights) ? BULLET_OK : BULLET_MEMORY;
}

int32_t bullet_trainer_load_teacher(struct trainer *t, float *const *weights, int32_t threads) {
    if (threads < 1) return BULLET_ARGUMENT;
    if (!t->distils) {
        const size_t layers = (size_t)t->shape.n_layers;
        t->teacher_layers = calloc(layers, sizeof *t->teacher_layers);
        t->teacher_weights = calloc(n_tensors(t), sizeof *t->teacher_weights);
        if (t->teacher_layers == NULL || t->teacher_weights == NULL) return BULLET_MEMORY;
        memcpy(t->teacher_layers, t->layers, layers * sizeof *t->layers);
        t->teacher_head = t->head;
        t->distils = true;
        unmap_memory(t, 1); /* its size depends on `distils` */
        if (!allocate(t, 0, place_weights)) return BULLET_MEMORY;
    }
    memcpy(t->teacher_weights, weights, n_tensors(t) * sizeof *t->teacher_weights);
    struct call call = {.trainer = t};
    return run_phases(t, &call, threads, t->kernels->load_teacher) ? BULLET_OK : BULLET_MEMORY;
}

/* One pass over a micro-batch: the arguments of train.h, checked, and the threads that do `job`. */
static int32_t run_pass(struct call call, int64_t sequences, int64_t length, int32_t threads, double *loss,
                        void (*job)(void *, int32_t, struct barrier *)) {
    struct trainer *t = call.trainer;
    if (sequences < 1 || length < 1 || length > t->shape.max_seq_len || threads < 1 || sequences > MAX_TOKENS / ROUND_UP(length, 4))
        return BULLET_ARGUMENT;
    for (int64_t i = 0; i < sequences * length; i++) {
        if (call.tokens[i] < 0 || call.tokens[i] >= t->shape.vocab_size || call.targets[i] < -1 || call.targets[i] >= t->shape.vocab_size)
            return BULLET_TOKEN;
    }
    if (!resize(t, sequences, length, threads)) return BULLET_MEMORY;
    if (!run_phases(t, &call, threads, job)) return BULLET_MEMORY;
    *loss = 0;
    for (int64_t s = 0; s < sequences; s++) *loss += t->losses[s];
    return BULLET_OK;
}

int32_t bullet_trainer_accumulate_gradients(struct trainer *t, const int32_t *tokens, const int32_t *targets, int64_t sequences,
                                            int64_t length, double scale, float *const *gradients, int32_t threads, double *loss) {
    if (t->distils) return BULLET_ARGUMENT;
    const struct call call = {.trainer = t, .tokens = tokens, .targets = targets, .scale = (float)scale, .gradients = gradients};
    return run_pass(call, sequences, length, threads, loss, t->kernels->accumulate_gradients);
}

int32_t bullet_trainer_distil(struct trainer *t, const int32_t *tokens, const int32_t *targets, int64_t sequences, int64_t length,
                              double scale, float *const *gradients, int32_t threads, double *loss) {
    if (!t->distils) return BULLET_ARGUMENT;
    const struct call call = {.trainer = t, .tokens = tokens, .targets = targets, .scale = (float)scale, .gradients = gradients};
    return run_pass(call, sequences, length, threads, loss, t->kernels->distil);
}
