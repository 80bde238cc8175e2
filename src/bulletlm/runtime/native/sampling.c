/* Choosing the next token: runtime/sampling.py step by step, in the same order and with the same random numbers. */

#include <math.h>
#include <stdlib.h>

#include "model.h"

/* A candidate; `value` is the logit after the penalty. */
struct choice {
    double value;
    int32_t id;
};

/* PCG64 (O'Neill 2014), as numpy's default generator: 128-bit LCG, XSL-RR output, top 53 bits. */
static double random_unit(struct bullet_sampler *s) {
    const unsigned __int128 multiplier = (unsigned __int128)2549297995355413924u << 64 | 4865540595714422341u;
    unsigned __int128 state = (unsigned __int128)s->state_high << 64 | s->state_low;
    unsigned __int128 step = (unsigned __int128)s->step_high << 64 | s->step_low;
    state = state * multiplier + step;
    s->state_high = (uint64_t)(state >> 64);
    s->state_low = (uint64_t)state;
    uint64_t mixed = s->state_high ^ s->state_low;
    unsigned turn = (unsigned)(s->state_high >> 58);
    mixed = mixed >> turn | mixed << (-turn & 63);
    return (double)(mixed >> 11) * 0x1p-53;
}

void remember(struct bullet_sampler *s, int32_t token) {
    if (s->recent_count == BULLET_RECENT) {
        memmove(s->recent, s->recent + 1, sizeof s->recent - sizeof *s->recent);
        s->recent_count--;
    }
    s->recent[s->recent_count++] = token;
    if (s->ends) s->before = s->ends[token];
}

/* The bias, and minus infinity for tokens that do not fit the text so far. */
void adjust(float *logits, int32_t vocab_size, const struct bullet_sampler *s) {
    for (int32_t i = 0; s->bias && i < vocab_size; i++) logits[i] += s->bias[i];
    for (int32_t i = 0; s->after && i < vocab_size; i++)
        if (s->after[i] && !(s->after[i] & s->before)) logits[i] = -INFINITY;
}

static bool better(struct choice a, struct choice b) { return a.value > b.value || (a.value == b.value && a.id < b.id); }

static int best_first(const void *a, const void *b) {
    return better(*(const struct choice *)a, *(const struct choice *)b) ? -1 : 1; /* ids differ, so no two are equal */
}

/* Restore the heap whose worst choice is at its root, after a change there. */
static void sink(struct choice *heap, size_t n) {
    for (size_t i = 0, child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(heap[child], heap[child + 1])) child++;
        if (!better(heap[i], heap[child])) return;
        struct choice other = heap[i];
        heap[i] = heap[child];
        heap[child] = other;
    }
}

/* The logit of a token that is among the recent ones. */
static double penalised(double value, const struct bullet_sampler *s) {
    return (value > 0 ? value / s->repetition_penalty : value * s->repetition_penalty) - s->presence_penalty;
}

/* The `keep` best of all, best first: a heap of the best so far, whose root is the worst of them. Most of the vocabulary
 * is turned away by one comparison in float. */
static void likeliest(const float *logits, int32_t vocab_size, const struct choice *changed, size_t n_changed, struct choice *heap,
                      size_t keep) {
    size_t n = 0, next = 0;
    float bar = -INFINITY;
    for (int32_t id = 0; id < vocab_size; id++) {
        struct choice c = {logits[id], id};
        if (next < n_changed && changed[next].id == id) {
            c = changed[next++];
        } else if (logits[id] < bar) {
            continue;
        }
        if (n < keep) { /* sift up */
            size_t i = n++;
            for (; i > 0 && better(heap[(i - 1) / 2], c); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
            heap[i] = c;
        } else if (better(c, heap[0])) {
            heap[0] = c;
            sink(heap, n);
        }
        if (n == keep) bar = (float)heap[0].value; /* may round up by half a step: */
        if (n == keep && (double)bar > heap[0].value) bar = nextafterf(bar, -INFINITY);
    }
    qsort(heap, n, sizeof *heap, best_first);
}

static int by_id(const void *a, const void *b) {
    int32_t x = ((const struct choice *)a)->id, y = ((const struct choice *)b)->id;
    return (x > y) - (x < y);
}

/* The recent tokens, each once and by id, with their penalised logits. */
static size_t penalise(const float *logits, int32_t vocab_size, const struct bullet_sampler *s, struct choice *out) {
    if (s->repetition_penalty == 1 && s->presence_penalty == 0) return 0;
    size_t n = 0;
    for (int32_t i = 0; i < s->recent_count; i++) {
        int32_t id = s->recent[i];
        if (id >= 0 && id < vocab_size) out[n++] = (struct choice){penalised((double)logits[id], s), id};
    }
    qsort(out, n, sizeof *out, by_id);
    size_t unique = 0;
    for (size_t i = 0; i < n; i++)
        if (unique == 0 || out[unique - 1].id != out[i].id) out[unique++] = out[i];
    return unique;
}

/* The highest logit of all, the lowest id among equals. NaN is never the highest, so it is looked for apart. */
static struct choice highest(const float *logits, int32_t vocab_size, const struct choice *changed, size_t n_changed) {
    struct choice best = {-INFINITY, vocab_size};
    int32_t from = 0;
    for (size_t i = 0; i <= n_changed; i++) {
        int32_t to = i < n_changed ? changed[i].id : vocab_size;
        float top = -INFINITY;
        int32_t at = to;
        for (int32_t id = from; id < to; id++) {
            if (!(logits[id] <= top)) {
                top = logits[id];
                at = id;
                if (isnan(top)) return (struct choice){NAN, id};
            }
        }
        if (at < to && top > best.value) best = (struct choice){top, at};
        if (i < n_changed && (isnan(changed[i].value) || changed[i].value > best.value)) best = changed[i];
        if (isnan(best.value)) return best;
        from = to + 1;
    }
    return best;
}

int32_t sample(const float *logits, int32_t vocab_size, struct bullet_sampler *s) {
    struct choice changed[BULLET_RECENT];
    size_t n_changed = penalise(logits, vocab_size, s, changed);
    struct choice best = highest(logits, vocab_size, changed, n_changed);
    if (!isfinite(best.value)) return BULLET_NAN;
    if (s->temperature == 0) return best.id;

    size_t keep = s->top_k > 0 && s->top_k < vocab_size ? (size_t)s->top_k : (size_t)vocab_size;
    struct choice *choices = malloc(keep * sizeof *choices);
    double *reached = malloc(keep * sizeof *reached);
    int32_t chosen = BULLET_MEMORY;
    if (choices && reached) {
        likeliest(logits, vocab_size, changed, n_changed, choices, keep);

        /* top_p and min_p, both on the probabilities at temperature 1 of what top_k left; of the best: 1 */
        size_t above = 0, within = 0;
        double sum = 0;
        for (size_t i = 0; i < keep; i++) {
            double likelihood = exp(choices[i].value - best.value);
            above += likelihood >= s->min_p;
            reached[i] = sum += likelihood;
        }
        if (s->top_p < 1) {
            while (within < keep && reached[within] < s->top_p * sum) within++;
            keep = above < within + 1 ? above : within + 1;
        } else {
            keep = above;
        }

        sum = 0;
        for (size_t i = 0; i < keep; i++) reached[i] = sum += exp((choices[i].value - best.value) / s->temperature);
        double aim = random_unit(s) * sum;
        size_t drawn = 0;
        while (drawn + 1 < keep && reached[drawn] <= aim) drawn++;
        chosen = choices[drawn].id;
    }
    free(choices);
    free(reached);
    return chosen;
}
