/* The functions of bullet.h. All arguments are checked here; the other files rely on it. */

#include <math.h>
#include <stdlib.h>

#include "model.h"
#include "shape.h"

extern const struct kernels kernels_avx512, kernels_avx2, kernels_neon_dot, kernels_neon, kernels_simd128, kernels_portable;

/* In order of preference. */
static const struct kernels *const all_kernels[] = {
#if defined(__x86_64__)
    &kernels_avx512,
    &kernels_avx2,
#elif defined(__aarch64__)
    &kernels_neon_dot,
    &kernels_neon,
#elif defined(__wasm_simd128__)
    &kernels_simd128,
#endif
#if !defined(__wasm_simd128__) /* another module has these, for browsers that refuse the first one */
    &kernels_portable,
#endif
    NULL,
};

int32_t bullet_abi(void) { return BULLET_ABI; }

const char *bullet_kernels(int32_t index) {
    for (const struct kernels *const *k = all_kernels; *k; k++)
        if ((*k)->supported() && index-- == 0) return (*k)->name;
    return NULL;
}

static const struct kernels *find_kernels(const char *name) {
    for (const struct kernels *const *k = all_kernels; *k; k++)
        if ((*k)->supported() && strcmp((*k)->name, name) == 0) return *k;
    return NULL;
}

/* A tensor of the model: its destination and the shape that it must have. */
struct tensor_slot {
    struct matrix *matrix; /* NULL for a norm */
    const float **norm;    /* NULL for a matrix */
    int32_t rows, cols, head_dim;
};

/* Fill out[n_layers * 9 + 3] in the order of the file (ModelShape.tensors()); returns the number of tensors. */
static int32_t list_slots(struct model *m, struct tensor_slot *out) {
    const struct bullet_shape *s = &m->shape;
    const int32_t kv_dim = m->head_dim * s->n_kv_heads;
    int32_t n = 0;
    out[n++] = (struct tensor_slot){&m->embedding, NULL, s->vocab_size, s->dim, 0};
    for (int32_t i = 0; i < s->n_layers; i++) {
        struct layer *layer = &m->layers[i];
        out[n++] = (struct tensor_slot){NULL, &layer->attention_norm, 1, s->dim, 0};
        out[n++] = (struct tensor_slot){&layer->query, NULL, s->dim, s->dim, m->head_dim};
        out[n++] = (struct tensor_slot){&layer->key, NULL, kv_dim, s->dim, m->head_dim};
        out[n++] = (struct tensor_slot){&layer->value, NULL, kv_dim, s->dim, 0};
        out[n++] = (struct tensor_slot){&layer->output, NULL, s->dim, s->dim, 0};
        out[n++] = (struct tensor_slot){NULL, &layer->mlp_norm, 1, s->dim, 0};
        out[n++] = (struct tensor_slot){&layer->gate, NULL, s->hidden_dim, s->dim, 0};
        out[n++] = (struct tensor_slot){&layer->up, NULL, s->hidden_dim, s->dim, 0};
        out[n++] = (struct tensor_slot){&layer->down, NULL, s->dim, s->hidden_dim, 0};
    }
    out[n++] = (struct tensor_slot){NULL, &m->final_norm, 1, s->dim, 0};
    if (!s->tied_embeddings) out[n++] = (struct tensor_slot){&m->head, NULL, s->vocab_size, s->dim, 0};
    return n;
}

/* Check all tensors, then repack them into one allocation. */
static int32_t load_tensors(struct model *m, const struct bullet_tensor *tensors, int32_t n_tensors) {
    struct tensor_slot *slots = calloc((size_t)m->shape.n_layers * 9 + 3, sizeof *slots);
    if (slots == NULL) return BULLET_MEMORY;
    int32_t result = BULLET_OK;
    if (list_slots(m, slots) != n_tensors) result = BULLET_ARGUMENT;
    size_t total = 0;
    for (int32_t i = 0; result == BULLET_OK && i < n_tensors; i++) {
        const struct tensor_slot *p = &slots[i];
        if (!tensor_fits(&tensors[i], p->rows, p->cols) || (p->norm && tensors[i].type != BULLET_F32))
            result = BULLET_ARGUMENT;
        else
            total += p->norm ? ROUND_UP((size_t)p->cols * 4, ALIGN_BYTES)
                             : matrix_bytes((enum bullet_type)tensors[i].type, p->rows, p->cols);
    }
    if (result == BULLET_OK) {
        m->arena_bytes = total + 8192; /* room for prefetching beyond the last weights */
        /* Only full huge pages are mapped as such. */
        if (m->arena_bytes > HUGE_PAGE_BYTES) m->arena_bytes = ROUND_UP(m->arena_bytes, HUGE_PAGE_BYTES);
        m->arena = alloc_aligned(m->arena_bytes);
        if (m->arena == NULL) result = BULLET_MEMORY;
    }
    uint8_t *at = m->arena;
    for (int32_t i = 0; result == BULLET_OK && i < n_tensors; i++) {
        const struct tensor_slot *p = &slots[i];
        if (!tensor_is_finite(&tensors[i])) {
            result = BULLET_NAN;
        } else if (p->norm) {
            memcpy(at, tensors[i].data, (size_t)p->cols * 4);
            *p->norm = (const float *)(const void *)at;
            at += ROUND_UP((size_t)p->cols * 4, ALIGN_BYTES);
        } else {
            matrix_pack(p->matrix, at, &tensors[i], p->rows, p->cols, p->head_dim, m->kernels->bq8_xor);
            at += matrix_bytes(p->matrix->type, p->rows, p->cols);
        }
        if (tensors[i].mapped) release_file_pages(tensors[i].data, tensors[i].bytes);
    }
    if (result == BULLET_OK && m->shape.tied_embeddings) m->head = m->embedding;
    free(slots);
    return result;
}

/* Cosines and sines of positions 0, step, 2 * step ...: double[count][head_dim / 2][2], or NULL. */
static double *new_rope_table(const struct model *m, int32_t count, int32_t step) {
    double *table = malloc((size_t)count * (size_t)m->head_dim * sizeof *table);
    if (table == NULL) return NULL;
    for (int32_t i = 0; i < m->head_dim / 2; i++) {
        double frequency = pow(m->shape.rope_theta, -2.0 * i / m->head_dim);
        for (int32_t p = 0; p < count; p++) {
            double *at = table + (size_t)p * (size_t)m->head_dim + 2 * i;
            at[0] = cos((double)p * step * frequency);
            at[1] = sin((double)p * step * frequency);
        }
    }
    return table;
}

/* About sqrt(max_seq_len) entries in each table. */
static int32_t make_rope_tables(struct model *m) {
    m->rope_fine_count = 1;
    while (m->rope_fine_count * m->rope_fine_count < m->shape.max_seq_len) m->rope_fine_count *= 2;
    m->rope_fine = new_rope_table(m, m->rope_fine_count, 1);
    m->rope_coarse = new_rope_table(m, (m->shape.max_seq_len + m->rope_fine_count - 1) / m->rope_fine_count, m->rope_fine_count);
    return m->rope_fine && m->rope_coarse ? BULLET_OK : BULLET_MEMORY;
}

static void set_page_offsets(struct model *m) {
    const size_t scales = PAGE_POSITIONS * sizeof(float);
    m->key_scales_offset = (size_t)PAGE_POSITIONS * (size_t)m->head_dim * sizeof(int16_t);
    m->values_offset = ROUND_UP(m->key_scales_offset + scales, ALIGN_BYTES);
    m->value_scales_offset = m->values_offset + (size_t)PAGE_POSITIONS * (size_t)m->padded_head_dim * sizeof(int16_t);
    m->head_bytes = ROUND_UP(m->value_scales_offset + scales, ALIGN_BYTES);
    m->page_bytes = m->head_bytes * (size_t)m->shape.n_kv_heads * (size_t)m->shape.n_layers;
}

int32_t bullet_model_new(const struct bullet_shape *shape, const struct bullet_tensor *tensors, int32_t n_tensors, const char *kernels,
                         int32_t turbo, struct bullet_model **out) {
    *out = NULL;
    const struct kernels *chosen = find_kernels(kernels);
    if (chosen == NULL || !shape_is_valid(shape)) return BULLET_ARGUMENT;
    struct model *m = calloc(1, sizeof *m);
    if (m == NULL) return BULLET_MEMORY;
    m->shape = *shape;
    m->kernels = chosen;
    m->turbo = turbo != 0;
    m->head_dim = shape->dim / shape->n_heads;
    m->padded_head_dim = (int32_t)ROUND_UP((size_t)m->head_dim, ROWS);
    set_page_offsets(m);
    m->layers = calloc((size_t)shape->n_layers, sizeof *m->layers);
    int32_t result = m->layers ? load_tensors(m, tensors, n_tensors) : BULLET_MEMORY;
    if (result == BULLET_OK) result = make_rope_tables(m);
    if (result == BULLET_OK)
        *out = (struct bullet_model *)m;
    else
        bullet_model_free((struct bullet_model *)m);
    return result;
}

void bullet_model_free(struct bullet_model *model) {
    struct model *m = (struct model *)model;
    if (m == NULL) return;
    free(m->arena);
    free(m->layers);
    free(m->rope_fine);
    free(m->rope_coarse);
    free(m);
}

int64_t bullet_model_bytes(const struct bullet_model *model) { return (int64_t)((const struct model *)model)->arena_bytes; }

int32_t bullet_cache_new(const struct bullet_model *model, int64_t capacity, struct bullet_cache **out) {
    *out = NULL;
    const struct model *m = (const struct model *)model;
    if (capacity < 1 || capacity > m->shape.max_seq_len) return BULLET_ARGUMENT;
    struct cache *c = calloc(1, sizeof *c);
    if (c == NULL) return BULLET_MEMORY;
    c->model = m;
    c->capacity = capacity;
    atomic_flag_clear(&c->busy);
    c->workspace = workspace_new(m, 1);
    if (c->workspace == NULL) {
        free(c);
        return BULLET_MEMORY;
    }
    *out = (struct bullet_cache *)c;
    return BULLET_OK;
}

void bullet_cache_free(struct bullet_cache *cache) {
    struct cache *c = (struct cache *)cache;
    if (c == NULL) return;
    cache_pages_free(c);
    free(c->logits);
    workspace_free(c->workspace);
    free(c);
}

int64_t bullet_cache_length(const struct bullet_cache *cache) { return ((const struct cache *)cache)->length; }

int64_t bullet_cache_bytes(const struct bullet_cache *cache) {
    const struct cache *c = (const struct cache *)cache;
    return c->n_pages * (int64_t)c->model->page_bytes;
}

static bool try_lock(struct cache *c) { return !atomic_flag_test_and_set_explicit(&c->busy, memory_order_acquire); }
static void unlock(struct cache *c) { atomic_flag_clear_explicit(&c->busy, memory_order_release); }

int32_t bullet_cache_truncate(struct bullet_cache *cache, int64_t length) {
    struct cache *c = (struct cache *)cache;
    if (!try_lock(c)) return BULLET_BUSY;
    int32_t result = length < 0 || length > c->length ? BULLET_ARGUMENT : BULLET_OK;
    if (result == BULLET_OK) c->length = length;
    unlock(c);
    return result;
}

static bool tokens_are_valid(const struct model *m, const int32_t *tokens, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= m->shape.vocab_size) return false;
    return n > 0;
}

static void run_slice(void *context, int32_t member, struct barrier *barrier) {
    struct slice *slice = (struct slice *)context + member;
    slice->barrier = barrier;
    slice->model->kernels->forward(slice);
}

/* Append n tokens, whose ids are valid. logits: [n][vocab_size] if `all`, else [vocab_size] of the last one; or hidden: [n][dim].
 * Several threads take consecutive slices of the tokens, at most a chunk each, until all tokens are done. */
static int32_t append(struct cache *c, const int32_t *tokens, int64_t n, bool all, int32_t threads, float *logits, float *hidden) {
    const struct model *m = c->model;
    if (n > c->capacity - c->length) return BULLET_FULL;
    if (!cache_reserve(c, n)) return BULLET_MEMORY;
    const int32_t chunk = n == 1 ? 1 : n < chunk_tokens(m) ? (int32_t)n : chunk_tokens(m);
    if (c->workspace->tokens < chunk) {
        struct workspace *larger = workspace_new(m, chunk);
        if (larger == NULL) return BULLET_MEMORY;
        workspace_free(c->workspace);
        c->workspace = larger;
    }

    enum { MAX_THREADS = 64, MIN_THREAD_TOKENS = 12 }; /* with fewer tokens, starting a thread costs more time than it saves */
    struct slice slices[MAX_THREADS];
    struct workspace *workspaces[MAX_THREADS] = {c->workspace};
    int64_t max_useful = n / MIN_THREAD_TOKENS;
    int32_t n_threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    if (n_threads > max_useful) n_threads = max_useful > 1 ? (int32_t)max_useful : 1;
    for (int32_t i = 1; i < n_threads; i++) {
        workspaces[i] = workspace_new(m, chunk);
        if (workspaces[i] == NULL) n_threads = i; /* continue with fewer threads */
    }

    for (int64_t done = 0; done < n;) {
        int64_t remaining = n - done, step = remaining < (int64_t)chunk * n_threads ? remaining : (int64_t)chunk * n_threads;
        const int64_t share = (step + n_threads - 1) / n_threads;
        int32_t n_slices = 0;
        for (int64_t at = 0; at < step; at += share, n_slices++) {
            const int32_t count = (int32_t)(step - at < share ? step - at : share);
            const bool last = done + at + count == n;
            slices[n_slices] = (struct slice){
                .model = m,
                .cache = c,
                .workspace = workspaces[n_slices],
                .tokens = tokens + done + at,
                .first_position = c->length + done + at,
                .n = count,
                .n_outputs = all ? count : (int32_t)last,
                .logits = all && logits ? logits + (size_t)(done + at) * (size_t)m->shape.vocab_size : logits,
                .hidden = hidden ? hidden + (size_t)(done + at) * (size_t)m->shape.dim : NULL,
            };
        }
        if (n_slices == 1) {
            run_slice(slices, 0, NULL);
        } else if (!run_team(n_slices, run_slice, slices)) {
            n_threads = 1; /* the system has no threads left: continue on this one */
            continue;
        }
        done += step;
    }
    for (int32_t i = 1; i < MAX_THREADS && workspaces[i]; i++) workspace_free(workspaces[i]);
    c->length += n;
    return BULLET_OK;
}

int32_t bullet_forward(struct bullet_cache *cache, const int32_t *tokens, int64_t n, int32_t all, int32_t threads, float *logits) {
    struct cache *c = (struct cache *)cache;
    if (!tokens_are_valid(c->model, tokens, n)) return BULLET_TOKEN;
    if (!try_lock(c)) return BULLET_BUSY;
    int32_t result = append(c, tokens, n, all != 0, threads, logits, NULL);
    unlock(c);
    return result;
}

int32_t bullet_hidden(struct bullet_cache *cache, const int32_t *tokens, int64_t n, int32_t threads, float *hidden) {
    struct cache *c = (struct cache *)cache;
    if (!tokens_are_valid(c->model, tokens, n)) return BULLET_TOKEN;
    if (!try_lock(c)) return BULLET_BUSY;
    int32_t result = append(c, tokens, n, true, threads, NULL, hidden);
    unlock(c);
    return result;
}

/* A bullet_score call, shared by its threads. */
struct score_job {
    const struct bullet_model *model;
    const int32_t *tokens;
    int64_t batch, n;
    float *logits;
    atomic_llong next;
    atomic_int result;
};

/* One thread of bullet_score: takes sequences until none is left. */
static void score_worker(void *context, int32_t member, struct barrier *barrier) {
    (void)member, (void)barrier;
    struct score_job *s = context;
    const struct model *m = (const struct model *)s->model;
    struct bullet_cache *cache;
    int32_t result = bullet_cache_new(s->model, s->n, &cache);
    for (int64_t i; result == BULLET_OK && (i = atomic_fetch_add(&s->next, 1)) < s->batch;) {
        struct cache *c = (struct cache *)cache;
        c->length = 0;
        result = append(c, s->tokens + i * s->n, s->n, true, 1, s->logits + (size_t)(i * s->n) * (size_t)m->shape.vocab_size, NULL);
    }
    if (result != BULLET_OK) atomic_store(&s->result, result);
    bullet_cache_free(cache);
}

int32_t bullet_score(const struct bullet_model *model, const int32_t *tokens, int64_t batch, int64_t n, int32_t threads, float *logits) {
    const struct model *m = (const struct model *)model;
    if (batch < 1 || n < 1) return BULLET_TOKEN;
    if (n > m->shape.max_seq_len) return BULLET_FULL;
    if (batch > INT64_MAX / 8 / n / m->shape.vocab_size) return BULLET_ARGUMENT;
    if (!tokens_are_valid(m, tokens, batch * n)) return BULLET_TOKEN;
    struct score_job s = {.model = model, .tokens = tokens, .batch = batch, .n = n, .logits = logits};
    atomic_init(&s.next, 0);
    atomic_init(&s.result, BULLET_OK);
    const int32_t n_threads = threads < 1 ? 1 : threads > batch ? (int32_t)batch : threads;
    if (n_threads == 1 || !run_team(n_threads, score_worker, &s)) score_worker(&s, 0, NULL);
    return atomic_load(&s.result);
}

static bool sampler_is_valid(const struct bullet_sampler *s) {
    return s->temperature >= 0 && s->top_p >= 0 && s->min_p >= 0 && s->min_p <= 1 && s->repetition_penalty > 0 &&
           isfinite(s->presence_penalty) && isfinite(s->frequency_penalty) && s->top_k >= 0 && s->recent_count >= 0 &&
           s->recent_count <= BULLET_RECENT;
}

int64_t bullet_generate(struct bullet_cache *cache, const int32_t *tokens, int64_t n, struct bullet_sampler *sampler, const int32_t *stops,
                        int64_t n_stops, int32_t threads, int32_t *out, int64_t max) {
    struct cache *c = (struct cache *)cache;
    if (!sampler_is_valid(sampler) || n_stops < 0 || max < 1) return BULLET_ARGUMENT;
    if (!tokens_are_valid(c->model, tokens, n)) return BULLET_TOKEN;
    if (!try_lock(c)) return BULLET_BUSY;
    if (c->logits == NULL) c->logits = alloc_aligned((size_t)c->model->shape.vocab_size * sizeof *c->logits);
    int64_t written = 0, result = c->logits ? BULLET_OK : BULLET_MEMORY;
    while (result == BULLET_OK) {
        result = append(c, tokens, n, false, threads, c->logits, NULL);
        if (result != BULLET_OK) break;
        mask_logits(c->logits, c->model->shape.vocab_size, sampler);
        const int32_t token = sample(c->logits, c->model->shape.vocab_size, sampler);
        if (token < 0) {
            result = token;
            break;
        }
        out[written++] = token;
        bool stop = false;
        for (int64_t i = 0; i < n_stops; i++) stop |= stops[i] == token;
        if (stop) break;
        record_token(sampler, token);
        if (written == max || c->length == c->capacity) break;
        tokens = &out[written - 1];
        n = 1;
    }
    unlock(c);
    return result == BULLET_OK ? written : result;
}

int32_t bullet_sample(const float *logits, int32_t vocab_size, struct bullet_sampler *sampler) {
    if (vocab_size < 1 || !sampler_is_valid(sampler)) return BULLET_ARGUMENT;
    return sample(logits, vocab_size, sampler);
}
