/* Aligned memory, the workspaces of threads, and the pages of the cache. */

#include <stdlib.h>
#if !defined(__wasm__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "model.h"

enum { MAX_WORKSPACE_BYTES = 64 << 20 };

/* Aligned to 64 bytes, to be freed by free(); or NULL. Large blocks ask for huge pages, which need fewer address translations. */
void *alloc_aligned(size_t bytes) {
    void *memory;
    bool huge = bytes >= HUGE_PAGE_BYTES;
    if (posix_memalign(&memory, huge ? HUGE_PAGE_BYTES : ALIGN_BYTES, bytes ? bytes : 1)) return NULL;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (huge) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return memory;
}

/* Release the physical memory of the pages that lie fully inside a range of a mapped file. Reading them again loads them from the file. */
void release_file_pages(const void *data, size_t bytes) {
#if defined(__wasm__)
    (void)data, (void)bytes; /* files are not mapped */
#else
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t start = ((uintptr_t)data + page - 1) / page * page, end = ((uintptr_t)data + bytes) / page * page;
    if (start < end) madvise((void *)start, end - start, MADV_DONTNEED);
#endif
}

/* Returns the bytes that the arrays of a workspace need; sets their pointers too if `memory` is not NULL. */
static size_t place_arrays(struct workspace *w, const struct model *m, uint8_t *memory) {
    size_t at = 0, tokens = (size_t)w->tokens;
    size_t dim = (size_t)m->shape.dim, hidden = (size_t)m->shape.hidden_dim, padded_head_dim = (size_t)m->padded_head_dim;
    size_t kv = ROUND_UP((size_t)m->head_dim * (size_t)m->shape.n_kv_heads, ROWS);
    const struct {
        float **array;
        size_t floats;
    } arrays[] = {
        {&w->residual, tokens * dim},
        {&w->normed, tokens * dim},
        {&w->query, tokens * dim},
        {&w->key, tokens * kv},
        {&w->value, tokens * kv},
        {&w->attention_out, tokens * dim},
        {&w->gate, tokens * hidden},
        {&w->up, tokens * BLOCK},
        {&w->accumulator, dim > padded_head_dim ? dim : padded_head_dim},
        {&w->rope, tokens * (size_t)m->head_dim},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        if (memory) *arrays[i].array = (float *)(void *)(memory + at);
        at = ROUND_UP(at + arrays[i].floats * sizeof(float), ALIGN_BYTES);
    }
    if (memory) w->act = (struct act_block *)(void *)(memory + at);
    at = ROUND_UP(at + tokens * (dim / BLOCK) * sizeof(struct act_block), ALIGN_BYTES);
    if (memory) w->hidden_act = (struct act_block *)(void *)(memory + at);
    at = ROUND_UP(at + tokens * (hidden / BLOCK) * sizeof(struct act_block), ALIGN_BYTES);
    if (memory) w->panel = memory + at;
    return at + PANEL_BYTES;
}

struct workspace *workspace_new(const struct model *model, int32_t tokens) {
    struct workspace *workspace = calloc(1, sizeof *workspace);
    if (workspace == NULL) return NULL;
    workspace->tokens = tokens;
    workspace->memory = alloc_aligned(place_arrays(workspace, model, NULL));
    if (workspace->memory == NULL) {
        free(workspace);
        return NULL;
    }
    place_arrays(workspace, model, workspace->memory);
    return workspace;
}

void workspace_free(struct workspace *workspace) {
    if (workspace == NULL) return;
    free(workspace->memory);
    free(workspace);
}

/* CHUNK_TOKENS, or fewer if the layers are so wide that a workspace would exceed MAX_WORKSPACE_BYTES. */
int32_t chunk_tokens(const struct model *model) {
    struct workspace single = {.tokens = 1};
    size_t fit = MAX_WORKSPACE_BYTES / place_arrays(&single, model, NULL);
    return fit >= CHUNK_TOKENS ? CHUNK_TOKENS : fit > 6 ? (int32_t)fit : 6;
}

/* Pages of the cache that are allocated together: enough to fill a huge page. */
static int64_t pages_per_allocation(const struct model *model) {
    return (int64_t)((HUGE_PAGE_BYTES + model->page_bytes - 1) / model->page_bytes);
}

/* Allocate the pages for `positions` more positions; false if out of memory. */
bool cache_reserve(struct cache *cache, int64_t positions) {
    int64_t needed = (cache->length + positions + PAGE_POSITIONS - 1) / PAGE_POSITIONS;
    if (needed <= cache->n_pages) return true;
    uint8_t **pages = realloc(cache->pages, (size_t)needed * sizeof *pages);
    if (pages == NULL) return false;
    cache->pages = pages;
    const size_t page_bytes = cache->model->page_bytes;
    const int64_t per_allocation = pages_per_allocation(cache->model), max_pages = (cache->capacity + PAGE_POSITIONS - 1) / PAGE_POSITIONS;
    for (int64_t n; (n = cache->n_pages) < needed; cache->n_pages++) {
        if (n % per_allocation == 0) {
            pages[n] = alloc_aligned((size_t)(max_pages - n < per_allocation ? max_pages - n : per_allocation) * page_bytes);
            if (pages[n] == NULL) return false;
        } else {
            pages[n] = pages[n - 1] + page_bytes;
        }
        memset(pages[n], 0, page_bytes);
    }
    return true;
}

void cache_pages_free(struct cache *cache) {
    for (int64_t i = 0; i < cache->n_pages; i += pages_per_allocation(cache->model)) free(cache->pages[i]);
    free(cache->pages);
}
