/* Memory: aligned, in few pieces, and only as much as is used. */

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model.h"

enum { WORK_BYTES = 64 << 20 };

/* Aligned to 64 bytes; free() frees it. Large pieces ask for huge pages, which spare the address translation some work. */
void *aligned_new(size_t bytes) {
    void *memory;
    bool huge = bytes >= HUGE_PAGE;
    if (posix_memalign(&memory, huge ? HUGE_PAGE : ALIGN, bytes ? bytes : 1)) return NULL;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (huge) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return memory;
}

/* The whole pages of a part of a mapped file; they come back from the file if somebody reads them again. */
void give_back(const void *data, size_t bytes) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t start = ((uintptr_t)data + page - 1) / page * page, end = ((uintptr_t)data + bytes) / page * page;
    if (start < end) madvise((void *)start, end - start, MADV_DONTNEED);
}

/* Two passes over one list of arrays: the first adds up their sizes, the second hands out the places. */
static size_t lay_out(struct work *w, const struct model *m, uint8_t *memory) {
    size_t at = 0, tokens = (size_t)w->tokens;
    size_t dim = (size_t)m->shape.dim, hidden = (size_t)m->shape.hidden_dim, room = (size_t)m->head_room;
    size_t kv = round_up((size_t)m->head_dim * (size_t)m->shape.n_kv_heads, ROWS);
    float **const arrays[] = {&w->x, &w->normed, &w->query, &w->key, &w->value, &w->mixed, &w->gate, &w->up, &w->one, &w->rotation};
    const size_t floats[] = {tokens * dim, tokens * dim, tokens * dim,    tokens * kv,           tokens * kv,
                             tokens * dim, tokens * hidden, tokens * BLOCK,  dim > room ? dim : room, tokens * (size_t)m->head_dim};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        if (memory) *arrays[i] = (float *)(void *)(memory + at);
        at = round_up(at + floats[i] * sizeof(float), ALIGN);
    }
    if (memory) w->act = (struct act *)(void *)(memory + at);
    at = round_up(at + tokens * (dim / BLOCK) * sizeof(struct act), ALIGN);
    if (memory) w->gated = (struct act *)(void *)(memory + at);
    at = round_up(at + tokens * (hidden / BLOCK) * sizeof(struct act), ALIGN);
    if (memory) w->panel = memory + at;
    return at + PANEL_BYTES;
}

struct work *work_new(const struct model *model, int32_t tokens) {
    struct work *work = calloc(1, sizeof *work);
    if (work == NULL) return NULL;
    work->tokens = tokens;
    work->memory = aligned_new(lay_out(work, model, NULL));
    if (work->memory == NULL) {
        free(work);
        return NULL;
    }
    lay_out(work, model, work->memory);
    return work;
}

void work_free(struct work *work) {
    if (work == NULL) return;
    free(work->memory);
    free(work);
}

/* Tokens that one thread takes through the layers together: fewer where the layers are very wide. */
int32_t chunk_tokens(const struct model *model) {
    struct work one = {.tokens = 1};
    size_t fit = WORK_BYTES / lay_out(&one, model, NULL);
    return fit >= CHUNK ? CHUNK : fit > 6 ? (int32_t)fit : 6;
}

/* Pages of the cache that are allocated in one piece: enough to fill a huge page. */
static int64_t pages_together(const struct model *model) { return (int64_t)((HUGE_PAGE + model->page_bytes - 1) / model->page_bytes); }

/* Make the pages for `positions` more positions. */
bool cache_reserve(struct cache *cache, int64_t positions) {
    int64_t needed = (cache->length + positions + PAGE - 1) / PAGE;
    if (needed <= cache->n_pages) return true;
    uint8_t **pages = realloc(cache->pages, (size_t)needed * sizeof *pages);
    if (pages == NULL) return false;
    cache->pages = pages;
    const size_t page_bytes = cache->model->page_bytes;
    const int64_t together = pages_together(cache->model), most = (cache->capacity + PAGE - 1) / PAGE;
    for (int64_t n; (n = cache->n_pages) < needed; cache->n_pages++) {
        if (n % together == 0) {
            pages[n] = aligned_new((size_t)(most - n < together ? most - n : together) * page_bytes);
            if (pages[n] == NULL) return false;
        } else {
            pages[n] = pages[n - 1] + page_bytes;
        }
        memset(pages[n], 0, page_bytes);
    }
    return true;
}

void cache_pages_free(struct cache *cache) {
    for (int64_t i = 0; i < cache->n_pages; i += pages_together(cache->model)) free(cache->pages[i]);
    free(cache->pages);
}
