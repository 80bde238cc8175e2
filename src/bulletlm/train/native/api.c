/* What Python calls: memory, checks, threads. */

#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "trainer.h"

#define API __attribute__((visibility("default")))

/* Raised whenever a function below changes, so that a stale library is never called. */
#define ABI 2

enum { OK = 0, MEMORY = -1, ARGUMENT = -2, TOKEN = -3 };
/* More might overflow a sum of products in int32, of 127 * 128 each. */
enum { MOST_SUMMED = 1 << 17, MOST_TOKENS = 1 << 16 };

#if defined(__x86_64__)
extern const struct engine engine_avx512, engine_avx_vnni, engine_avx512_half;
static const struct engine *const engines[] = {
    &engine_avx512,
#if KNOWS_AVX_VNNI
    &engine_avx_vnni,
#endif
    &engine_avx512_half, NULL,
};
#else
static const struct engine *const engines[] = {NULL};
#endif

/* The first one that this processor can run, or that of a name. */
static const struct engine *find_engine(const char *name) {
    for (const struct engine *const *e = engines; *e; e++) {
        if ((name == NULL || strcmp(name, (*e)->name) == 0) && (*e)->supported()) return *e;
    }
    return NULL;
}

API int32_t bullet_train_abi(void) { return ABI; }

/* The instructions with number i of those that this processor has, the best first; NULL behind the last. */
API const char *bullet_train_path(int32_t i) {
    for (const struct engine *const *e = engines; *e; e++) {
        if ((*e)->supported() && i-- == 0) return (*e)->name;
    }
    return NULL;
}

static int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

/* Memory that is handed out in order; without a base it is only measured. */
struct arena {
    char *base;
    size_t used;
};

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
enum { GAP = 256 }; /* bytes behind each piece that nobody may touch */
#else
enum { GAP = 0 };
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

static void *take(struct arena *a, int64_t count, size_t size) {
    char *at = a->base ? a->base + a->used : NULL;
    const size_t bytes = (size_t)count * size, room = (size_t)round_up((int64_t)bytes + GAP, ALIGN);
    a->used += room;
    if (at) ASAN_POISON_MEMORY_REGION(at + bytes, room - bytes);
    return at;
}

#define TAKE(pointer, count) (pointer) = take(a, (count), sizeof *(pointer))

/* Zeros; NULL where there is no room. */
static void *new_memory(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(memory, bytes, MADV_HUGEPAGE); /* a third fewer cycles in large products; nothing is lost where it is refused */
#endif
    return memory;
}

static void free_memory(struct trainer *t, int which) {
    if (t->memory[which] == NULL) return;
    ASAN_UNPOISON_MEMORY_REGION(t->memory[which], t->bytes[which]);
    munmap(t->memory[which], t->bytes[which]);
    t->memory[which] = NULL;
}

static bool lay_out(struct trainer *t, int which, void (*layout)(struct trainer *t, struct arena *a)) {
    free_memory(t, which);
    struct arena measured = {NULL, 0};
    layout(t, &measured);
    void *memory = new_memory(measured.used);
    if (memory == NULL) return false;
    t->memory[which] = memory, t->bytes[which] = measured.used;
    struct arena arena = {memory, 0};
    layout(t, &arena);
    return true;
}

/* ---- weights ---- */

static void describe(struct group *g, int64_t inputs, int parts, const int32_t *counts, const int32_t *tensors) {
    *g = (struct group){.inputs = (int32_t)inputs, .parts = parts};
    for (int p = 0; p < parts; p++) {
        g->first[p] = g->outputs, g->count[p] = counts[p], g->tensor[p] = tensors[p];
        g->outputs += (int32_t)round_up(counts[p], 32);
    }
}

static void take_group(struct arena *a, struct group *g) {
    TAKE(g->scales, g->outputs);
    TAKE(g->forward, (int64_t)g->inputs * g->outputs);
    TAKE(g->backward, (int64_t)g->inputs * g->outputs);
}

static void take_weights(struct trainer *t, struct arena *a) {
    for (int32_t n = 0; n < t->shape.n_layers; n++) {
        struct layer *l = t->layers + n;
        take_group(a, &l->qkv), take_group(a, &l->output), take_group(a, &l->gate_up), take_group(a, &l->down);
    }
    take_group(a, &t->head);
}

/* ---- activations ---- */

static void take_kept(struct trainer *t, struct arena *a, struct kept *kept, int64_t inputs) {
    TAKE(kept->panels, t->tokens * inputs);
    TAKE(kept->scales, t->tokens);
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static void take_slope(struct trainer *t, struct arena *a, struct slope *slope, int64_t outputs) {
    TAKE(slope->strips, t->tokens * outputs);
    slope->largest = t->columns;
    t->columns += outputs;
}

static void take_activations(struct trainer *t, struct arena *a) {
    const int64_t n = t->tokens, dim = t->shape.dim, hidden = t->shape.hidden_dim, qkv = t->layers[0].qkv.outputs;
    const int64_t head = t->wide * t->head_room, heads = (t->shape.n_heads + 2 * t->shape.n_kv_heads) * head;
    for (int32_t i = 0; i < t->shape.n_layers; i++) {
        struct layer *l = t->layers + i;
        TAKE(l->input, n * dim), TAKE(l->middle, n * dim);
        TAKE(l->attention_rms, n), TAKE(l->mlp_rms, n);
        TAKE(l->heads, t->sequences * heads), TAKE(l->log_sums, n * t->shape.n_heads);
        TAKE(l->gates, n * 2 * hidden);
        take_kept(t, a, &l->attention_in, dim), take_kept(t, a, &l->output_in, dim);
        take_kept(t, a, &l->mlp_in, dim), take_kept(t, a, &l->down_in, hidden);
    }
    TAKE(t->rope, t->length * 2 * t->head_dim);
    TAKE(t->output, n * dim), TAKE(t->final_rms, n);
    take_kept(t, a, &t->head_in, dim);
    TAKE(t->gradient[0], n * dim), TAKE(t->gradient[1], n * dim), TAKE(t->middle_gradient, n * dim);
    t->columns = 0;
    take_slope(t, a, &t->head_slope, t->vocabulary);
    for (int i = 0; i < 2; i++) {
        struct slopes *s = t->slopes + i;
        take_slope(t, a, &s->qkv, qkv), take_slope(t, a, &s->output, dim);
        take_slope(t, a, &s->gate_up, 2 * hidden), take_slope(t, a, &s->down, dim);
        TAKE(s->attention_norm, t->sequences * dim), TAKE(s->mlp_norm, t->sequences * dim);
    }
    TAKE(t->final_norm_parts, t->sequences * dim);
    TAKE(t->losses, t->sequences);
    TAKE(t->workspaces, t->threads);

    const int64_t widest = larger(larger(2 * hidden, qkv), dim), half = BLOCK_ROWS / 2 * t->vocabulary;
    for (int32_t i = 0; i < t->threads; i++) {
        struct workspace w;
        TAKE(w.rows, larger(BLOCK_ROWS * widest, half));
        TAKE(w.more_rows, BLOCK_ROWS * dim);
        TAKE(w.bytes, larger(BLOCK_ROWS * widest, 2 * half));
        TAKE(w.line, widest);
        TAKE(w.heads[0], heads), TAKE(w.heads[1], t->shape.n_heads * head);
        TAKE(w.attention, 2 * head + 2 * MOST_QUERIES * t->wide);
        TAKE(w.packed, WORK_ROWS * n);
        TAKE(w.largest, t->columns);
        if (a->base) t->workspaces[i] = w;
    }
}

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

static bool fit(struct trainer *t, int64_t sequences, int64_t length, int32_t threads) {
    if (t->memory[1] && t->sequences == sequences && t->length == length && t->threads == threads) return true;
    t->sequences = sequences, t->length = length, t->threads = threads;
    t->padded = round_up(length, 4), t->wide = round_up(length, 16);
    t->tokens = sequences * t->padded;
    if (!lay_out(t, 1, take_activations)) return false;
    fill_rope(t);
    return true;
}

/* ---- the interface ---- */

API void bullet_trainer_free(struct trainer *t) {
    if (t == NULL) return;
    free_memory(t, 0), free_memory(t, 1);
    free(t->layers), free(t->weights);
    free(t);
}

/* A trainer for models of a shape, with the instructions of a name or, if that is NULL, the best. */
API int32_t bullet_trainer_new(const struct bullet_shape *s, const char *path, struct trainer **out) {
    const struct engine *engine = find_engine(path);
    if (engine == NULL || s->n_layers < 1 || s->dim < 32 || s->dim % 32 || s->hidden_dim < 32 || s->hidden_dim % 32 || s->n_heads < 1 ||
        s->dim % s->n_heads || s->n_kv_heads < 1 || s->n_heads % s->n_kv_heads || s->dim / s->n_heads % 2 || s->vocab_size < 1 || s->vocab_size > MOST_SUMMED ||
        s->hidden_dim > MOST_SUMMED / 2 || s->dim > MOST_SUMMED / 4)
        return ARGUMENT;
    struct trainer *t = calloc(1, sizeof *t);
    if (t == NULL) return MEMORY;
    t->shape = *s, t->engine = engine;
    t->head_dim = s->dim / s->n_heads, t->head_room = (int32_t)round_up(t->head_dim, 16);
    t->vocabulary = (int32_t)round_up(s->vocab_size, 32);
    const int32_t kv_dim = t->head_dim * s->n_kv_heads, dim = s->dim, hidden = s->hidden_dim;
    t->final_norm = 1 + 9 * s->n_layers;
    t->weights = calloc((size_t)t->final_norm + 2, sizeof *t->weights);
    t->layers = calloc((size_t)s->n_layers, sizeof *t->layers);
    if (t->layers == NULL || t->weights == NULL) return bullet_trainer_free(t), MEMORY;
    /* The order of the file: embedding; of each layer norm, query, key, value, output, norm, gate, up, down; norm, output matrix. */
    for (int32_t n = 0, first = 1; n < s->n_layers; n++, first += 9) {
        struct layer *l = t->layers + n;
        l->attention_norm = first, l->mlp_norm = first + 5;
        describe(&l->qkv, dim, 3, (int32_t[]){dim, kv_dim, kv_dim}, (int32_t[]){first + 1, first + 2, first + 3});
        describe(&l->output, dim, 1, (int32_t[]){dim}, (int32_t[]){first + 4});
        describe(&l->gate_up, dim, 2, (int32_t[]){hidden, hidden}, (int32_t[]){first + 6, first + 7});
        describe(&l->down, hidden, 1, (int32_t[]){dim}, (int32_t[]){first + 8});
    }
    describe(&t->head, dim, 1, (int32_t[]){s->vocab_size}, (int32_t[]){s->tied_embeddings ? 0 : t->final_norm + 1});
    if (!lay_out(t, 0, take_weights)) return bullet_trainer_free(t), MEMORY;
    *out = t;
    return OK;
}

static bool run_phases(struct trainer *t, struct pass *pass, int32_t threads, void (*job)(void *, int32_t, struct barrier *)) {
    atomic_int *next = calloc((size_t)(2 * t->shape.n_layers + 4), sizeof *next);
    if (next == NULL) return false;
    pass->next = next;
    const bool complete = run_team(threads, job, pass);
    free(next);
    return complete;
}

/* Round the weights, float32 in the order of the file, and keep their addresses for the passes that follow. */
API int32_t bullet_trainer_refresh(struct trainer *t, float *const *weights, int32_t threads) {
    if (threads < 1) return ARGUMENT;
    memcpy(t->weights, weights, (size_t)(t->final_norm + 2 - !!t->shape.tied_embeddings) * sizeof *t->weights);
    struct pass pass = {.trainer = t};
    return run_phases(t, &pass, threads, t->engine->refresh) ? OK : MEMORY;
}

/* Add scale * the gradient of the summed loss to `gradients`, and give that loss, nats; a target of -1 does not count. */
API int32_t bullet_trainer_pass(struct trainer *t, const int32_t *tokens, const int32_t *targets, int64_t sequences, int64_t length,
                                double scale, float *const *gradients, int32_t threads, double *loss) {
    if (sequences < 1 || length < 1 || length > t->shape.max_seq_len || threads < 1 || sequences > MOST_TOKENS / round_up(length, 4))
        return ARGUMENT;
    for (int64_t i = 0; i < sequences * length; i++) {
        if (tokens[i] < 0 || tokens[i] >= t->shape.vocab_size || targets[i] < -1 || targets[i] >= t->shape.vocab_size) return TOKEN;
    }
    if (!fit(t, sequences, length, threads)) return MEMORY;
    struct pass pass = {.trainer = t, .tokens = tokens, .targets = targets, .scale = (float)scale, .gradients = gradients};
    if (!run_phases(t, &pass, threads, t->engine->run)) return MEMORY;
    *loss = 0;
    for (int64_t s = 0; s < sequences; s++) *loss += t->losses[s];
    return OK;
}
