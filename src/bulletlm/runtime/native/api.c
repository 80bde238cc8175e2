/* The functions of bullet.h: everything that comes in is checked here, and the other files trust it. */

#include <math.h>
#include <stdlib.h>

#include "model.h"

extern const struct path path_avx512, path_avx2, path_neon_dot, path_neon, path_portable;

const struct path *const paths[] = {
#if defined(__x86_64__)
    &path_avx512,
    &path_avx2,
#elif defined(__aarch64__)
    &path_neon_dot,
    &path_neon,
#endif
    &path_portable,
    NULL,
};

int32_t bullet_abi(void) { return BULLET_ABI; }

const char *bullet_path(int32_t index) {
    for (const struct path *const *p = paths; *p; p++)
        if ((*p)->supported() && index-- == 0) return (*p)->name;
    return NULL;
}

static const struct path *find_path(const char *name) {
    for (const struct path *const *p = paths; *p; p++)
        if ((*p)->supported() && strcmp((*p)->name, name) == 0) return *p;
    return NULL;
}

static bool shape_is_sound(const struct bullet_shape *s) {
    return s->vocab_size >= 1 && s->vocab_size <= 1 << 20 && s->dim >= BLOCK && s->dim <= 1 << 16 && s->dim % BLOCK == 0 &&
           s->n_layers >= 1 && s->n_layers <= 1 << 10 && s->n_heads >= 1 && s->dim % s->n_heads == 0 && s->dim / s->n_heads % 2 == 0 &&
           s->n_kv_heads >= 1 && s->n_heads % s->n_kv_heads == 0 && s->hidden_dim >= BLOCK && s->hidden_dim <= 1 << 18 &&
           s->hidden_dim % BLOCK == 0 && s->max_seq_len >= 1 && s->max_seq_len <= 1 << 20 && s->rope_theta > 0 && s->norm_eps > 0;
}

/* A tensor of the model: where it goes, and what it must look like. */
struct place {
    struct matrix *matrix; /* or NULL, and then a norm: */
    const float **norm;
    int32_t rows, cols, head_dim;
};

/* All tensors in the order of the file (ModelShape.tensors()). */
static int32_t list_places(struct model *m, struct place *out) {
    const struct bullet_shape *s = &m->shape;
    const int32_t kv_dim = m->head_dim * s->n_kv_heads;
    int32_t n = 0;
    out[n++] = (struct place){&m->embedding, NULL, s->vocab_size, s->dim, 0};
    for (int32_t i = 0; i < s->n_layers; i++) {
        struct layer *layer = &m->layers[i];
        out[n++] = (struct place){NULL, &layer->attention_norm, 1, s->dim, 0};
        out[n++] = (struct place){&layer->query, NULL, s->dim, s->dim, m->head_dim};
        out[n++] = (struct place){&layer->key, NULL, kv_dim, s->dim, m->head_dim};
        out[n++] = (struct place){&layer->value, NULL, kv_dim, s->dim, 0};
        out[n++] = (struct place){&layer->output, NULL, s->dim, s->dim, 0};
        out[n++] = (struct place){NULL, &layer->mlp_norm, 1, s->dim, 0};
        out[n++] = (struct place){&layer->gate, NULL, s->hidden_dim, s->dim, 0};
        out[n++] = (struct place){&layer->up, NULL, s->hidden_dim, s->dim, 0};
        out[n++] = (struct place){&layer->down, NULL, s->dim, s->hidden_dim, 0};
    }
    out[n++] = (struct place){NULL, &m->final_norm, 1, s->dim, 0};
    if (!s->tied_embeddings) out[n++] = (struct place){&m->head, NULL, s->vocab_size, s->dim, 0};
    return n;
}

static int32_t load_tensors(struct model *m, const struct bullet_tensor *tensors, int32_t n_tensors) {
    struct place *places = calloc((size_t)m->shape.n_layers * 9 + 3, sizeof *places);
    if (places == NULL) return BULLET_MEMORY;
    int32_t result = BULLET_OK;
    if (list_places(m, places) != n_tensors) result = BULLET_ARGUMENT;
    size_t total = 0;
    for (int32_t i = 0; result == BULLET_OK && i < n_tensors; i++) {
        const struct place *p = &places[i];
        if (!tensor_fits(&tensors[i], p->rows, p->cols) || (p->norm && tensors[i].type != BULLET_F32)) result = BULLET_ARGUMENT;
        else total += p->norm ? round_up((size_t)p->cols * 4, ALIGN) : matrix_bytes((enum bullet_type)tensors[i].type, p->rows, p->cols);
    }
    if (result == BULLET_OK) {
        m->arena_bytes = total + 8192; /* prefetching ahead of the last weights stays inside */
        if (m->arena_bytes > HUGE_PAGE) m->arena_bytes = round_up(m->arena_bytes, HUGE_PAGE); /* only whole ones are mapped so */
        m->arena = aligned_new(m->arena_bytes);
        if (m->arena == NULL) result = BULLET_MEMORY;
    }
    uint8_t *at = m->arena;
    for (int32_t i = 0; result == BULLET_OK && i < n_tensors; i++) {
        const struct place *p = &places[i];
        if (!tensor_is_finite(&tensors[i])) {
            result = BULLET_NAN;
        } else if (p->norm) {
            memcpy(at, tensors[i].data, (size_t)p->cols * 4);
            *p->norm = (const float *)(const void *)at;
            at += round_up((size_t)p->cols * 4, ALIGN);
        } else {
            matrix_pack(p->matrix, at, &tensors[i], p->rows, p->cols, p->head_dim, m->path->bq8_flip);
            at += matrix_bytes(p->matrix->type, p->rows, p->cols);
        }
        if (tensors[i].mapped) give_back(tensors[i].data, tensors[i].bytes);
    }
    if (result == BULLET_OK && m->shape.tied_embeddings) m->head = m->embedding;
    free(places);
    return result;
}

/* Rotations of positions 0, step, 2 * step ... */
static double *rotations(const struct model *m, int32_t count, int32_t step) {
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

static int32_t make_rotations(struct model *m) {
    m->fine_count = 1;
    while (m->fine_count * m->fine_count < m->shape.max_seq_len) m->fine_count *= 2;
    m->fine = rotations(m, m->fine_count, 1);
    m->coarse = rotations(m, (m->shape.max_seq_len + m->fine_count - 1) / m->fine_count, m->fine_count);
    return m->fine && m->coarse ? BULLET_OK : BULLET_MEMORY;
}

static void lay_out_pages(struct model *m) {
    const size_t scales = PAGE * sizeof(float);
    m->key_scales_at = (size_t)PAGE * (size_t)m->head_dim * sizeof(int16_t);
    m->values_at = round_up(m->key_scales_at + scales, ALIGN);
    m->value_scales_at = m->values_at + (size_t)PAGE * (size_t)m->head_room * sizeof(int16_t);
    m->head_bytes = round_up(m->value_scales_at + scales, ALIGN);
    m->page_bytes = m->head_bytes * (size_t)m->shape.n_kv_heads * (size_t)m->shape.n_layers;
}

int32_t bullet_model_new(const struct bullet_shape *shape, const struct bullet_tensor *tensors, int32_t n_tensors, const char *path,
                         int32_t turbo, struct bullet_model **out) {
    *out = NULL;
    const struct path *chosen = find_path(path);
    if (chosen == NULL || !shape_is_sound(shape)) return BULLET_ARGUMENT;
    struct model *m = calloc(1, sizeof *m);
    if (m == NULL) return BULLET_MEMORY;
    m->shape = *shape;
    m->path = chosen;
    m->turbo = turbo != 0;
    m->head_dim = shape->dim / shape->n_heads;
    m->head_room = (int32_t)round_up((size_t)m->head_dim, ROWS);
    lay_out_pages(m);
    m->layers = calloc((size_t)shape->n_layers, sizeof *m->layers);
    int32_t result = m->layers ? load_tensors(m, tensors, n_tensors) : BULLET_MEMORY;
    if (result == BULLET_OK) result = make_rotations(m);
    if (result == BULLET_OK) *out = (struct bullet_model *)m;
    else bullet_model_free((struct bullet_model *)m);
    return result;
}

void bullet_model_free(struct bullet_model *model) {
    struct model *m = (struct model *)model;
    if (m == NULL) return;
    free(m->arena);
    free(m->layers);
    free(m->fine);
    free(m->coarse);
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
    c->work = work_new(m, 1);
    if (c->work == NULL) {
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
    work_free(c->work);
    free(c);
}

int64_t bullet_cache_length(const struct bullet_cache *cache) { return ((const struct cache *)cache)->length; }

int64_t bullet_cache_bytes(const struct bullet_cache *cache) {
    const struct cache *c = (const struct cache *)cache;
    return c->n_pages * (int64_t)c->model->page_bytes;
}

static bool enter(struct cache *c) { return !atomic_flag_test_and_set_explicit(&c->busy, memory_order_acquire); }
static void leave(struct cache *c) { atomic_flag_clear_explicit(&c->busy, memory_order_release); }

int32_t bullet_cache_truncate(struct bullet_cache *cache, int64_t length) {
    struct cache *c = (struct cache *)cache;
    if (!enter(c)) return BULLET_BUSY;
    int32_t result = length < 0 || length > c->length ? BULLET_ARGUMENT : BULLET_OK;
    if (result == BULLET_OK) c->length = length;
    leave(c);
    return result;
}

static bool tokens_are_sound(const struct model *m, const int32_t *tokens, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= m->shape.vocab_size) return false;
    return n > 0;
}

static void run_slice(void *context, int32_t member, struct barrier *barrier) {
    struct slice *slice = (struct slice *)context + member;
    slice->barrier = barrier;
    slice->model->path->forward(slice);
}

/* Append n tokens with sound ids; logits after the last one, or after all; or, after all, the hidden states instead. */
static int32_t append(struct cache *c, const int32_t *tokens, int64_t n, bool all, int32_t threads, float *logits, float *hidden) {
    const struct model *m = c->model;
    if (n > c->capacity - c->length) return BULLET_FULL;
    if (!cache_reserve(c, n)) return BULLET_MEMORY;
    const int32_t room = n == 1 ? 1 : n < chunk_tokens(m) ? (int32_t)n : chunk_tokens(m);
    if (c->work->tokens < room) {
        struct work *bigger = work_new(m, room);
        if (bigger == NULL) return BULLET_MEMORY;
        work_free(c->work);
        c->work = bigger;
    }

    enum { MOST = 64, WORTH_A_THREAD = 12 }; /* tokens: with fewer, starting a thread costs more than it brings */
    struct slice slices[MOST];
    struct work *works[MOST] = {c->work};
    int64_t useful = n / WORTH_A_THREAD;
    int32_t team = threads < 1 ? 1 : threads > MOST ? MOST : threads;
    if (team > useful) team = useful > 1 ? (int32_t)useful : 1;
    for (int32_t i = 1; i < team; i++) {
        works[i] = work_new(m, room);
        if (works[i] == NULL) team = i; /* fewer threads then */
    }

    for (int64_t done = 0; done < n;) {
        int64_t left = n - done, now = left < (int64_t)room * team ? left : (int64_t)room * team;
        const int64_t share = (now + team - 1) / team;
        int32_t members = 0;
        for (int64_t at = 0; at < now; at += share, members++) {
            const int32_t count = (int32_t)(now - at < share ? now - at : share);
            const bool last = done + at + count == n;
            slices[members] = (struct slice){.model = m, .cache = c, .work = works[members], .tokens = tokens + done + at,
                                             .first = c->length + done + at, .n = count, .wanted = all ? count : last ? 1 : 0,
                                             .logits = all && logits ? logits + (size_t)(done + at) * (size_t)m->shape.vocab_size : logits,
                                             .hidden = hidden ? hidden + (size_t)(done + at) * (size_t)m->shape.dim : NULL};
        }
        if (members == 1) {
            run_slice(slices, 0, NULL);
        } else if (!run_team(members, run_slice, slices)) {
            team = 1; /* no threads to be had */
            continue;
        }
        done += now;
    }
    for (int32_t i = 1; i < MOST && works[i]; i++) work_free(works[i]);
    c->length += n;
    return BULLET_OK;
}

int32_t bullet_forward(struct bullet_cache *cache, const int32_t *tokens, int64_t n, int32_t all, int32_t threads, float *logits) {
    struct cache *c = (struct cache *)cache;
    if (!tokens_are_sound(c->model, tokens, n)) return BULLET_TOKEN;
    if (!enter(c)) return BULLET_BUSY;
    int32_t result = append(c, tokens, n, all != 0, threads, logits, NULL);
    leave(c);
    return result;
}

int32_t bullet_hidden(struct bullet_cache *cache, const int32_t *tokens, int64_t n, int32_t threads, float *hidden) {
    struct cache *c = (struct cache *)cache;
    if (!tokens_are_sound(c->model, tokens, n)) return BULLET_TOKEN;
    if (!enter(c)) return BULLET_BUSY;
    int32_t result = append(c, tokens, n, true, threads, NULL, hidden);
    leave(c);
    return result;
}

struct scoring {
    const struct bullet_model *model;
    const int32_t *tokens;
    int64_t batch, n;
    float *logits;
    atomic_llong next;
    atomic_int result;
};

/* Take sequences until none is left. */
static void score_some(void *context, int32_t member, struct barrier *barrier) {
    (void)member, (void)barrier;
    struct scoring *s = context;
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
    if (!tokens_are_sound(m, tokens, batch * n)) return BULLET_TOKEN;
    struct scoring s = {.model = model, .tokens = tokens, .batch = batch, .n = n, .logits = logits};
    atomic_init(&s.next, 0);
    atomic_init(&s.result, BULLET_OK);
    const int32_t team = threads < 1 ? 1 : threads > batch ? (int32_t)batch : threads;
    if (team == 1 || !run_team(team, score_some, &s)) score_some(&s, 0, NULL);
    return atomic_load(&s.result);
}

static bool sampler_is_sound(const struct bullet_sampler *s) {
    return s->temperature >= 0 && s->top_p >= 0 && s->min_p >= 0 && s->min_p <= 1 && s->repetition_penalty > 0 && isfinite(s->presence_penalty) && s->top_k >= 0 &&
           s->recent_count >= 0 && s->recent_count <= BULLET_RECENT;
}

int64_t bullet_generate(struct bullet_cache *cache, const int32_t *tokens, int64_t n, struct bullet_sampler *sampler, const int32_t *stops,
                        int64_t n_stops, int32_t threads, int32_t *out, int64_t max) {
    struct cache *c = (struct cache *)cache;
    if (!sampler_is_sound(sampler) || n_stops < 0 || max < 1) return BULLET_ARGUMENT;
    if (!tokens_are_sound(c->model, tokens, n)) return BULLET_TOKEN;
    if (!enter(c)) return BULLET_BUSY;
    if (c->logits == NULL) c->logits = aligned_new((size_t)c->model->shape.vocab_size * sizeof *c->logits);
    int64_t written = 0, result = c->logits ? BULLET_OK : BULLET_MEMORY;
    while (result == BULLET_OK) {
        result = append(c, tokens, n, false, threads, c->logits, NULL);
        if (result != BULLET_OK) break;
        adjust(c->logits, c->model->shape.vocab_size, sampler);
        const int32_t token = sample(c->logits, c->model->shape.vocab_size, sampler);
        if (token < 0) {
            result = token;
            break;
        }
        out[written++] = token;
        bool stop = false;
        for (int64_t i = 0; i < n_stops; i++) stop |= stops[i] == token;
        if (stop) break;
        remember(sampler, token);
        if (written == max || c->length == c->capacity) break;
        tokens = &out[written - 1];
        n = 1;
    }
    leave(c);
    return result == BULLET_OK ? written : result;
}

int32_t bullet_sample(const float *logits, int32_t vocab_size, struct bullet_sampler *sampler) {
    if (vocab_size < 1 || !sampler_is_sound(sampler)) return BULLET_ARGUMENT;
    return sample(logits, vocab_size, sampler);
}
