/* Sampling of the next token: the steps of runtime/sampling.py in the same order and with the same random numbers. */

#include <math.h>
#include <stdlib.h>

#include "model.h"

/* `value` is the logit after the penalties. */
struct candidate {
    double value;
    int32_t id;
};

/* A double in [0, 1) from PCG64 (O'Neill 2014), numpy's default generator: 128-bit LCG, XSL-RR output, top 53 bits. */
static double uniform_double(struct bullet_sampler *s) {
    const unsigned __int128 multiplier = (unsigned __int128)2549297995355413924u << 64 | 4865540595714422341u;
    unsigned __int128 state = (unsigned __int128)s->state_high << 64 | s->state_low;
    unsigned __int128 step = (unsigned __int128)s->step_high << 64 | s->step_low;
    state = state * multiplier + step;
    s->state_high = (uint64_t)(state >> 64);
    s->state_low = (uint64_t)state;
    uint64_t folded = s->state_high ^ s->state_low;
    unsigned rotation = (unsigned)(s->state_high >> 58);
    folded = folded >> rotation | folded << (-rotation & 63);
    return (double)(folded >> 11) * 0x1p-53;
}

/* Append a token to the recent ones, for the penalties and the akshara constraint. */
void record_token(struct bullet_sampler *s, int32_t token) {
    if (s->recent_count == BULLET_RECENT) {
        memmove(s->recent, s->recent + 1, sizeof s->recent - sizeof *s->recent);
        s->recent_count--;
    }
    s->recent[s->recent_count++] = token;
    if (s->token_end) s->text_end = s->token_end[token];
}

/* Add the bias, and give tokens that must not follow the text so far the logit -inf. logits: [vocab_size]. */
void mask_logits(float *logits, int32_t vocab_size, const struct bullet_sampler *s) {
    for (int32_t i = 0; s->bias && i < vocab_size; i++) logits[i] += s->bias[i];
    for (int32_t i = 0; s->required_end && i < vocab_size; i++)
        if (s->required_end[i] && !(s->required_end[i] & s->text_end)) logits[i] = -INFINITY;
}

static bool ranks_before(struct candidate a, struct candidate b) { return a.value > b.value || (a.value == b.value && a.id < b.id); }

static int compare_rank(const void *a, const void *b) {
    /* Ids differ, so no two candidates are equal. */
    return ranks_before(*(const struct candidate *)a, *(const struct candidate *)b) ? -1 : 1;
}

/* Restore a heap with the lowest-ranked candidate at its root, after a change of the root. */
static void sift_down(struct candidate *heap, size_t n) {
    for (size_t i = 0, child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && ranks_before(heap[child], heap[child + 1])) child++;
        if (!ranks_before(heap[i], heap[child])) return;
        struct candidate other = heap[i];
        heap[i] = heap[child];
        heap[child] = other;
    }
}

/* The logit of a recent token that occurs `count` times, after the penalties. */
static double penalize(double value, int32_t count, const struct bullet_sampler *s) {
    value = value > 0 ? value / s->repetition_penalty : value * s->repetition_penalty;
    return value - s->presence_penalty - s->frequency_penalty * count;
}

/* heap[n_kept] = the highest-ranked candidates, best first. A heap of the best so far with the worst of them at its root: most of the
 * vocabulary is rejected by one comparison in float32. `penalized`: replacements for some logits, by id. */
static void select_top(const float *logits, int32_t vocab_size, const struct candidate *penalized, size_t n_penalized,
                       struct candidate *heap, size_t n_kept) {
    size_t n = 0, next = 0;
    float threshold = -INFINITY;
    for (int32_t id = 0; id < vocab_size; id++) {
        struct candidate c = {logits[id], id};
        if (next < n_penalized && penalized[next].id == id) {
            c = penalized[next++];
        } else if (logits[id] < threshold) {
            continue;
        }
        if (n < n_kept) { /* sift up */
            size_t i = n++;
            for (; i > 0 && ranks_before(heap[(i - 1) / 2], c); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
            heap[i] = c;
        } else if (ranks_before(c, heap[0])) {
            heap[0] = c;
            sift_down(heap, n);
        }
        /* Rounded down, because a threshold that is too high would reject a better candidate. */
        if (n == n_kept) threshold = (float)heap[0].value;
        if (n == n_kept && (double)threshold > heap[0].value) threshold = nextafterf(threshold, -INFINITY);
    }
    qsort(heap, n, sizeof *heap, compare_rank);
}

static int compare_id(const void *a, const void *b) {
    int32_t x = ((const struct candidate *)a)->id, y = ((const struct candidate *)b)->id;
    return (x > y) - (x < y);
}

/* out[return value] = the recent tokens, each once, by id, with their logits after the penalties. */
static size_t penalize_recent(const float *logits, int32_t vocab_size, const struct bullet_sampler *s, struct candidate *out) {
    if (s->repetition_penalty == 1 && s->presence_penalty == 0 && s->frequency_penalty == 0) return 0;
    size_t n = 0;
    for (int32_t i = 0; i < s->recent_count; i++) {
        int32_t id = s->recent[i];
        if (id >= 0 && id < vocab_size) out[n++] = (struct candidate){(double)logits[id], id};
    }
    qsort(out, n, sizeof *out, compare_id);
    size_t unique = 0;
    for (size_t i = 0, next; i < n; i = next) {
        for (next = i + 1; next < n && out[next].id == out[i].id;) next++;
        out[unique++] = (struct candidate){penalize(out[i].value, (int32_t)(next - i), s), out[i].id};
    }
    return unique;
}

/* The highest logit, the lowest id among equals. Returns NaN if any logit is NaN; comparisons alone would not find it. */
static struct candidate argmax(const float *logits, int32_t vocab_size, const struct candidate *penalized, size_t n_penalized) {
    struct candidate best = {-INFINITY, vocab_size};
    int32_t from = 0;
    for (size_t i = 0; i <= n_penalized; i++) {
        int32_t to = i < n_penalized ? penalized[i].id : vocab_size;
        float max = -INFINITY;
        int32_t at = to;
        for (int32_t id = from; id < to; id++) {
            if (!(logits[id] <= max)) {
                max = logits[id];
                at = id;
                if (isnan(max)) return (struct candidate){NAN, id};
            }
        }
        if (at < to && max > best.value) best = (struct candidate){max, at};
        if (i < n_penalized && (isnan(penalized[i].value) || penalized[i].value > best.value)) best = penalized[i];
        if (isnan(best.value)) return best;
        from = to + 1;
    }
    return best;
}

/* Sample a token from logits [vocab_size]; returns its id, BULLET_NAN or BULLET_MEMORY. */
int32_t sample(const float *logits, int32_t vocab_size, struct bullet_sampler *s) {
    struct candidate penalized[BULLET_RECENT];
    size_t n_penalized = penalize_recent(logits, vocab_size, s, penalized);
    struct candidate best = argmax(logits, vocab_size, penalized, n_penalized);
    if (!isfinite(best.value)) return BULLET_NAN;
    if (s->temperature == 0) return best.id;

    size_t n_kept = s->top_k > 0 && s->top_k < vocab_size ? (size_t)s->top_k : (size_t)vocab_size;
    struct candidate *candidates = malloc(n_kept * sizeof *candidates);
    double *cumulative = malloc(n_kept * sizeof *cumulative);
    int32_t chosen = BULLET_MEMORY;
    if (candidates && cumulative) {
        select_top(logits, vocab_size, penalized, n_penalized, candidates, n_kept);

        /* top_p and min_p use the probabilities at temperature 1 after top_k, relative to that of the best candidate. */
        size_t n_min_p = 0, n_top_p = 0;
        double sum = 0;
        for (size_t i = 0; i < n_kept; i++) {
            double likelihood = exp(candidates[i].value - best.value);
            n_min_p += likelihood >= s->min_p;
            cumulative[i] = sum += likelihood;
        }
        if (s->top_p < 1) {
            while (n_top_p < n_kept && cumulative[n_top_p] < s->top_p * sum) n_top_p++;
            n_kept = n_min_p < n_top_p + 1 ? n_min_p : n_top_p + 1;
        } else {
            n_kept = n_min_p;
        }

        sum = 0;
        for (size_t i = 0; i < n_kept; i++) cumulative[i] = sum += exp((candidates[i].value - best.value) / s->temperature);
        double target = uniform_double(s) * sum;
        size_t index = 0;
        while (index + 1 < n_kept && cumulative[index] <= target) index++;
        chosen = candidates[index].id;
    }
    free(candidates);
    free(cumulative);
    return chosen;
}
