/* The optimizer functions of train.h: checks of the arguments, work items, scratch memory, threads. */

#include <math.h>
#include <stdlib.h>

#include "optimizer.h"
#include "trainer.h"

#if defined(__x86_64__)
extern const struct optimizer_kernels optimizer_avx512, optimizer_avx_vnni, optimizer_avx512_half, optimizer_avx2;
static const struct optimizer_kernels *const all_kernels[] = {
    &optimizer_avx512,
#if HAVE_AVX_VNNI
    &optimizer_avx_vnni,
#endif
    &optimizer_avx2,     &optimizer_avx512_half, NULL,
};
#else
static const struct optimizer_kernels *const all_kernels[] = {NULL};
#endif

/* The kernels of that name, or the first if it is NULL; NULL if this processor does not have them. */
static const struct optimizer_kernels *find_kernels(const char *name) {
    for (const struct optimizer_kernels *const *k = all_kernels; *k; k++) {
        if ((name == NULL || strcmp(name, (*k)->name) == 0) && (*k)->supported()) return *k;
    }
    return NULL;
}

const char *bullet_optimizer_kernels(int32_t index) {
    for (const struct optimizer_kernels *const *k = all_kernels; *k; k++) {
        if ((*k)->supported() && index-- == 0) return (*k)->name;
    }
    return NULL;
}

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

static bool valid(const struct bullet_parameter *p) {
    const int64_t most = 1 << 20;
    return p->rows >= 1 && p->rows <= most && p->columns >= 1 && p->columns <= most && p->rows * p->columns % 32 == 0 &&
           (p->second || p->columns % 32 == 0);
}

static int by_cost(const void *a, const void *b) {
    const struct update_item *x = a, *y = b;
    if (x->cost != y->cost) return x->cost < y->cost ? 1 : -1;
    if (x->parameter != y->parameter) return x->parameter < y->parameter ? -1 : 1;
    return x->first < y->first ? -1 : 1;
}

/* The work items of a call, expensive ones first; with `whole`, a matrix of Muon is one. NULL: out of memory. */
static struct update_item *divide(const struct bullet_parameter *parameters, int64_t n, bool whole, int64_t *n_items) {
    *n_items = 0;
    for (int64_t i = 0; i < n; i++) *n_items += parameters[i].rows * parameters[i].columns / UPDATE_CHUNK + 1;
    struct update_item *items = calloc((size_t)*n_items, sizeof *items);
    if (items == NULL) return NULL;
    *n_items = 0;
    for (int64_t i = 0; i < n; i++) {
        const struct bullet_parameter *p = parameters + i;
        const int64_t count = p->rows * p->columns, one = whole && !p->second ? count : UPDATE_CHUNK;
        const double cost = (double)one * (whole && !p->second ? (double)min_i64(p->rows, p->columns) : 1);
        for (int64_t first = 0; first < count; first += one)
            items[(*n_items)++] = (struct update_item){i, first, min_i64(one, count - first), cost};
    }
    qsort(items, (size_t)*n_items, sizeof *items, by_cost);
    return items;
}

/* The next `bytes` of a block of memory; with NULL, only counts them. */
static void *take(char *base, size_t *used, int64_t bytes) {
    void *at = base ? base + *used : NULL;
    *used += ROUND_UP((size_t)bytes, ALIGN_BYTES);
    return at;
}

static void take_vectors(struct vectors *v, char *base, size_t *used, int64_t vectors, int64_t elements) {
    v->panels = take(base, used, vectors * elements * 2);
    v->scales = take(base, used, vectors * 4);
}

/* Scratch memory for the largest of Muon's matrices. */
static void place(struct muon_workspace *w, char *base, size_t *used, const struct bullet_parameter *parameters, int64_t n) {
    int64_t elements = 0, shorter = 0, longer = 0;
    for (int64_t i = 0; i < n; i++) {
        if (parameters[i].second) continue;
        const int64_t rows = ROUND_UP(parameters[i].rows, MATRIX_PADDING), columns = parameters[i].columns;
        elements = max_i64(elements, rows * columns);
        shorter = max_i64(shorter, min_i64(rows, columns)), longer = max_i64(longer, max_i64(rows, columns));
    }
    w->x = take(base, used, elements * 4);
    w->gram = take(base, used, shorter * shorter * 4);
    w->product = take(base, used, shorter * shorter * 4);
    w->polynomial = take(base, used, shorter * shorter * 4);
    w->inverse_scales = take(base, used, longer * 4);
    struct vectors *const sides[] = {&w->rows, &w->columns}, *const symmetric[] = {&w->left, &w->right, &w->third};
    for (int i = 0; i < 2; i++) {
        sides[i]->panels = take(base, used, elements * 2);
        sides[i]->scales = take(base, used, longer * 4);
    }
    for (int i = 0; i < 3; i++) take_vectors(symmetric[i], base, used, shorter, shorter);
}

int32_t bullet_gradient_norm(const char *kernels, const struct bullet_parameter *parameters, int64_t n, int32_t threads, double *norm) {
    const struct optimizer_kernels *found = find_kernels(kernels);
    if (found == NULL || threads < 1) return BULLET_ARGUMENT;
    for (int64_t i = 0; i < n; i++) {
        if (!valid(parameters + i)) return BULLET_ARGUMENT;
    }
    struct update_call call = {.parameters = parameters};
    struct update_item *items = divide(parameters, n, false, &call.n_items);
    call.items = items, call.squares = calloc((size_t)call.n_items + 1, sizeof *call.squares);
    const bool done = items && call.squares && run_team(threads, found->norm, &call);
    *norm = 0;
    for (int64_t i = 0; done && i < call.n_items; i++) *norm += call.squares[i];
    *norm = sqrt(*norm);
    free(items), free(call.squares);
    return done ? BULLET_OK : BULLET_MEMORY;
}

int32_t bullet_optimizer_step(const char *kernels, const struct bullet_parameter *parameters, int64_t n, const struct bullet_update *update,
                              int32_t threads) {
    const struct optimizer_kernels *found = find_kernels(kernels);
    if (found == NULL || threads < 1) return BULLET_ARGUMENT;
    for (int64_t i = 0; i < n; i++) {
        if (!valid(parameters + i)) return BULLET_ARGUMENT;
    }
    struct update_call call = {.parameters = parameters, .update = update};
    struct update_item *items = divide(parameters, n, true, &call.n_items);
    size_t bytes = 0;
    place(&(struct muon_workspace){0}, NULL, &bytes, parameters, n);
    call.items = items, call.workspaces = calloc((size_t)threads, sizeof *call.workspaces);
    char *memory = aligned_alloc(ALIGN_BYTES, bytes * (size_t)threads + ALIGN_BYTES);
    bool done = items && call.workspaces && memory;
    for (int32_t i = 0; done && i < threads; i++) {
        size_t used = 0;
        place(call.workspaces + i, memory + bytes * (size_t)i, &used, parameters, n);
    }
    done = done && run_team(threads, found->update, &call);
    free(items), free(call.workspaces), free(memory);
    return done ? BULLET_OK : BULLET_MEMORY;
}
