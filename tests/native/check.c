/* Checks of the native engine without Python: for sanitizers, and for processors that are only emulated.
 *
 *     cc -O1 -g -fsanitize=address,undefined -pthread tests/native/check.c src/bulletlm/runtime/native/[a-z]*.c -lm -o check && ./check
 *
 * All kernels of the processor, with many shapes and weight types, against a forward pass in double written as plain loops. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/bulletlm/runtime/native/bullet.h"
#include "check.h"

/* float16 bits of a positive normal number, rounded down. */
static uint16_t to_half(double value) {
    int exponent;
    double fraction = frexp(value, &exponent);
    return (uint16_t)((exponent + 14) << 10 | ((int)(fraction * 2048) & 1023));
}

static double from_half(uint16_t half) {
    double magnitude = half & 0x7c00 ? ldexp((half & 1023) + 1024, ((half >> 10) & 31) - 25) : ldexp(half & 1023, -24);
    return half & 0x8000 ? -magnitude : magnitude;
}

/* Random weights of a type: the bytes of the file, and the values that they represent. */
struct weights {
    struct bullet_tensor tensor;
    double *values;
};

static struct weights make(int type, int rows, int cols) {
    static const struct {
        int block, bytes;
    } kinds[] = {{32, 18}, {32, 34}, {1, 2}, {1, 4}};
    size_t n = (size_t)rows * (size_t)cols, bytes = n / (size_t)kinds[type].block * (size_t)kinds[type].bytes;
    uint8_t *data = malloc(bytes), *at = data;
    double *values = malloc(n * sizeof *values), size = sqrt(3.0 / cols);
    for (size_t i = 0; i < n; i += (size_t)kinds[type].block, at += kinds[type].bytes) {
        if (type == BULLET_F32) {
            float value = rows == 1 ? (float)(0.5 + uniform()) : (float)((2 * uniform() - 1) * size);
            memcpy(at, &value, 4);
            values[i] = (double)value;
            continue;
        }
        uint16_t half = to_half(size * (0.5 + uniform()) / (type == BULLET_F16 ? 1 : type == BULLET_BQ4 ? 8 : 128));
        if (random_bits() & 1) half |= 0x8000;
        memcpy(at, &half, 2);
        if (type == BULLET_F16) values[i] = from_half(half);
        for (int j = 2; j < kinds[type].bytes && type != BULLET_F16; j++) {
            at[j] = (uint8_t)random_bits();
            if (type == BULLET_BQ8) {
                values[i + (size_t)j - 2] = (int8_t)at[j] * from_half(half);
            } else {
                values[i + (size_t)j - 2] = ((at[j] & 15) - 8) * from_half(half);
                values[i + (size_t)j + 14] = ((at[j] >> 4) - 8) * from_half(half);
            }
        }
    }
    return (struct weights){{data, bytes, type, 0}, values};
}

enum { EMBEDDING, PER_LAYER = 9 }; /* norm q k v o norm gate up down */

struct example {
    struct bullet_shape shape;
    struct weights *weights;
    struct bullet_tensor *tensors;
    int n;
};

static struct example example_of(struct bullet_shape s, int types) {
    struct example e = {s, malloc(sizeof(struct weights) * (size_t)(s.n_layers * PER_LAYER + 3)), NULL, 0};
    int kv = s.dim / s.n_heads * s.n_kv_heads, count = 0;
#define TYPE (types < 4 ? types : types == 4 ? count++ % 4 : (e.n && !(e.n == s.n_layers * PER_LAYER + 2) ? BULLET_BQ4 : BULLET_BQ8))
#define ADD(type, rows, cols) (e.weights[e.n] = make(type, rows, cols), e.n++)
    ADD(TYPE, s.vocab_size, s.dim);
    for (int i = 0; i < s.n_layers; i++) {
        ADD(BULLET_F32, 1, s.dim);
        ADD(TYPE, s.dim, s.dim);
        ADD(TYPE, kv, s.dim);
        ADD(TYPE, kv, s.dim);
        ADD(TYPE, s.dim, s.dim);
        ADD(BULLET_F32, 1, s.dim);
        ADD(TYPE, s.hidden_dim, s.dim);
        ADD(TYPE, s.hidden_dim, s.dim);
        ADD(TYPE, s.dim, s.hidden_dim);
    }
    ADD(BULLET_F32, 1, s.dim);
    if (!s.tied_embeddings) ADD(TYPE, s.vocab_size, s.dim);
    e.tensors = malloc(sizeof *e.tensors * (size_t)e.n);
    for (int i = 0; i < e.n; i++) e.tensors[i] = e.weights[i].tensor;
    return e;
}

static void example_free(struct example *e) {
    for (int i = 0; i < e->n; i++) {
        free((void *)(uintptr_t)e->weights[i].tensor.data);
        free(e->weights[i].values);
    }
    free(e->weights);
    free(e->tensors);
}

static void multiply(const double *w, int rows, int cols, const double *x, double *out) {
    for (int r = 0; r < rows; r++) {
        out[r] = 0;
        for (int c = 0; c < cols; c++) out[r] += w[(size_t)r * (size_t)cols + (size_t)c] * x[c];
    }
}

static void rms_norm(const double *x, const double *gain, int n, double eps, double *out) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    for (int i = 0; i < n; i++) out[i] = x[i] / sqrt(sum / n + eps) * gain[i];
}

static void rotate(double *head, int d, int position, double theta) {
    for (int i = 0; i < d / 2; i++) {
        double angle = position * pow(theta, -2.0 * i / d), a = head[2 * i], b = head[2 * i + 1];
        head[2 * i] = a * cos(angle) - b * sin(angle);
        head[2 * i + 1] = a * sin(angle) + b * cos(angle);
    }
}

/* docs/bullet-format.md, "The model": logits[n][vocab_size]. */
static void reference(const struct example *e, const int32_t *tokens, int n, double *logits) {
    const struct bullet_shape s = e->shape;
    const int d = s.dim / s.n_heads, kv = d * s.n_kv_heads, max_width = s.dim > s.hidden_dim ? s.dim : s.hidden_dim;
    double *keys = malloc(sizeof(double) * (size_t)(s.n_layers * n * kv)), *values = malloc(sizeof(double) * (size_t)(s.n_layers * n * kv));
    double *x = malloc(sizeof(double) * (size_t)s.dim), *a = malloc(sizeof(double) * (size_t)max_width);
    double *q = malloc(sizeof(double) * (size_t)max_width), *up = malloc(sizeof(double) * (size_t)max_width);
    double *mixed = malloc(sizeof(double) * (size_t)s.dim), *score = malloc(sizeof(double) * (size_t)n);
    for (int p = 0; p < n; p++) {
        memcpy(x, e->weights[EMBEDDING].values + (size_t)tokens[p] * (size_t)s.dim, sizeof(double) * (size_t)s.dim);
        for (int l = 0; l < s.n_layers; l++) {
            const struct weights *w = e->weights + 1 + l * PER_LAYER;
            double *k = keys + (size_t)(l * n * kv), *v = values + (size_t)(l * n * kv);
            rms_norm(x, w[0].values, s.dim, s.norm_eps, a);
            multiply(w[1].values, s.dim, s.dim, a, q);
            multiply(w[2].values, kv, s.dim, a, k + p * kv);
            multiply(w[3].values, kv, s.dim, a, v + p * kv);
            for (int h = 0; h < s.n_heads; h++) rotate(q + h * d, d, p, s.rope_theta);
            for (int h = 0; h < s.n_kv_heads; h++) rotate(k + p * kv + h * d, d, p, s.rope_theta);
            for (int h = 0; h < s.n_heads; h++) {
                const int shared = h / (s.n_heads / s.n_kv_heads) * d;
                double top = -1e300, sum = 0;
                for (int t = 0; t <= p; t++) {
                    score[t] = 0;
                    for (int i = 0; i < d; i++) score[t] += q[h * d + i] * k[t * kv + shared + i] / sqrt(d);
                    top = score[t] > top ? score[t] : top;
                }
                for (int t = 0; t <= p; t++) sum += score[t] = exp(score[t] - top);
                for (int i = 0; i < d; i++) {
                    mixed[h * d + i] = 0;
                    for (int t = 0; t <= p; t++) mixed[h * d + i] += score[t] / sum * v[t * kv + shared + i];
                }
            }
            multiply(w[4].values, s.dim, s.dim, mixed, a);
            for (int i = 0; i < s.dim; i++) x[i] += a[i];
            rms_norm(x, w[5].values, s.dim, s.norm_eps, a);
            multiply(w[6].values, s.hidden_dim, s.dim, a, q);
            multiply(w[7].values, s.hidden_dim, s.dim, a, up);
            for (int i = 0; i < s.hidden_dim; i++) q[i] = q[i] / (1 + exp(-q[i])) * up[i];
            multiply(w[8].values, s.dim, s.hidden_dim, q, a);
            for (int i = 0; i < s.dim; i++) x[i] += a[i];
        }
        rms_norm(x, e->weights[1 + s.n_layers * PER_LAYER].values, s.dim, s.norm_eps, a);
        multiply(e->weights[s.tied_embeddings ? 0 : e->n - 1].values, s.vocab_size, s.dim, a, logits + (size_t)p * (size_t)s.vocab_size);
    }
    free(keys), free(values), free(x), free(a), free(q), free(up), free(mixed), free(score);
}

static double max_error(const float *ours, const double *expected, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)ours[i] - expected[i]);
        if (!(off <= most)) most = off; /* true for NaN too */
    }
    return most;
}

static void check_example(const struct example *e, const char *kernels, int turbo, const double *expected, const int32_t *tokens, int n,
                          const char *name) {
    const size_t vocab = (size_t)e->shape.vocab_size, all = (size_t)n * vocab;
    float *logits = malloc(all * 4), *again = malloc(all * 8);
    struct bullet_model *model;
    struct bullet_cache *cache;
    int32_t result = bullet_model_new(&e->shape, e->tensors, e->n, kernels, turbo, &model);
    CHECK(result == 0, "%s %s: model %d", kernels, name, result);
    CHECK(bullet_cache_new(model, n, &cache) == 0, "cache");
    CHECK(bullet_forward(cache, tokens, n, 1, 1, logits) == 0, "forward");
    double error = max_error(logits, expected, all);
    CHECK(error < (turbo ? 2 : 0.005), "%s %s turbo=%d: logits are off by %g", kernels, name, turbo, error);

    CHECK(bullet_forward(cache, tokens, 1, 0, 1, again) == BULLET_FULL, "a full cache");
    CHECK(bullet_cache_truncate(cache, 0) == 0, "truncate");
    for (int i = 0; i < n; i++) CHECK(bullet_forward(cache, tokens + i, 1, 0, 1, again + (size_t)i * vocab) == 0, "decode");
    CHECK(memcmp(logits, again, all * 4) == 0, "%s %s turbo=%d: decoding differs from prefill", kernels, name, turbo);

    CHECK(bullet_cache_truncate(cache, n / 3) == 0, "truncate");
    CHECK(bullet_forward(cache, tokens + n / 3, n - n / 3, 1, 3, again) == 0, "threads");
    CHECK(memcmp(logits + (size_t)(n / 3) * vocab, again, (size_t)(n - n / 3) * vocab * 4) == 0, "%s %s: threads differ", kernels, name);

    int32_t *twice = malloc(sizeof(int32_t) * 2 * (size_t)n);
    memcpy(twice, tokens, sizeof(int32_t) * (size_t)n);
    memcpy(twice + n, tokens, sizeof(int32_t) * (size_t)n);
    CHECK(bullet_score(model, twice, 2, n, 2, again) == 0, "score");
    CHECK(memcmp(logits, again, all * 4) == 0 && memcmp(logits, again + all, all * 4) == 0, "%s %s: scores differ", kernels, name);

    struct bullet_sampler sampler = {
        .temperature = turbo ? 1 : 0, .top_p = 0.9, .min_p = 0.01, .repetition_penalty = 1.1, .top_k = 40, .state_low = 5, .step_low = 3};
    bullet_cache_truncate(cache, 0);
    int64_t written = bullet_generate(cache, tokens, 1, &sampler, tokens, 0, 1, twice, 2 * n);
    CHECK(written == n && bullet_cache_length(cache) == n, "%s %s: generated %d of %d", kernels, name, (int)written, n);
    for (int64_t i = 0; i < written; i++) CHECK(twice[i] >= 0 && twice[i] < e->shape.vocab_size, "an id outside the vocabulary");
    free(twice), free(logits), free(again);
    bullet_cache_free(cache);
    bullet_model_free(model);
}

static void check_refusals(void) {
    struct bullet_shape shape = {61, 64, 1, 4, 2, 64, 24, 1, 1e4, 1e-5};
    struct example e = example_of(shape, 5);
    struct bullet_model *model;
    struct bullet_cache *cache;
    CHECK(bullet_model_new(&shape, e.tensors, e.n, "nothing", 0, &model) == BULLET_ARGUMENT && !model, "unknown kernels");
    CHECK(bullet_model_new(&shape, e.tensors, e.n - 1, "portable", 0, &model) == BULLET_ARGUMENT, "too few tensors");
    struct bullet_shape other = shape;
    int32_t *fields[] = {&other.vocab_size, &other.dim,        &other.n_layers,   &other.n_heads,
                         &other.n_kv_heads, &other.hidden_dim, &other.max_seq_len};
    const int32_t bad[] = {0, -1, INT32_MIN, INT32_MAX};
    for (size_t f = 0; f < sizeof fields / sizeof *fields; f++)
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            other = shape;
            *fields[f] = bad[i];
            CHECK(bullet_model_new(&other, e.tensors, e.n, "portable", 0, &model) == BULLET_ARGUMENT, "field %d = %d", (int)f, bad[i]);
        }
    for (int i = 0; i < e.n; i++) {
        struct bullet_tensor right = e.tensors[i];
        e.tensors[i].bytes -= 1;
        CHECK(bullet_model_new(&shape, e.tensors, e.n, "portable", 0, &model) == BULLET_ARGUMENT, "bytes of tensor %d", i);
        e.tensors[i] = right;
        e.tensors[i].type = i % 2 ? 4 : -1;
        CHECK(bullet_model_new(&shape, e.tensors, e.n, "portable", 0, &model) == BULLET_ARGUMENT, "type of tensor %d", i);
        e.tensors[i] = right;
    }
    CHECK(bullet_model_new(&shape, e.tensors, e.n, "portable", 0, &model) == 0, "the right model");
    CHECK(bullet_cache_new(model, 0, &cache) == BULLET_ARGUMENT && bullet_cache_new(model, 25, &cache) == BULLET_ARGUMENT, "capacity");
    CHECK(bullet_cache_new(model, 24, &cache) == 0, "cache");
    float logits[61 * 2];
    const int32_t ids[] = {1, 61, -1, INT32_MIN, INT32_MAX};
    for (int i = 1; i < 5; i++) CHECK(bullet_forward(cache, ids + i, 1, 0, 1, logits) == BULLET_TOKEN, "id %d", ids[i]);
    CHECK(bullet_forward(cache, ids, 0, 0, 1, logits) == BULLET_TOKEN && bullet_forward(cache, ids, -5, 0, 1, logits) == BULLET_TOKEN,
          "count");
    CHECK(bullet_score(model, ids, 1, 25, 1, logits) == BULLET_FULL && bullet_score(model, ids, 0, 1, 1, logits) == BULLET_TOKEN, "batch");
    CHECK(bullet_score(model, ids, INT64_MAX, 2, 1, logits) == BULLET_ARGUMENT, "an overflow");
    CHECK(bullet_cache_truncate(cache, 1) == BULLET_ARGUMENT && bullet_cache_truncate(cache, -1) == BULLET_ARGUMENT, "truncate");
    struct bullet_sampler sampler = {.temperature = NAN, .top_p = 1, .repetition_penalty = 1};
    int32_t out[4];
    CHECK(bullet_generate(cache, ids, 1, &sampler, ids, 0, 1, out, 4) == BULLET_ARGUMENT, "temperature");
    sampler.temperature = 1, sampler.recent_count = 65;
    CHECK(bullet_generate(cache, ids, 1, &sampler, ids, 0, 1, out, 4) == BULLET_ARGUMENT, "recent");
    sampler.recent_count = 3; /* ids outside the vocabulary there are passed over */
    memcpy(sampler.recent, ids + 1, 3 * sizeof *ids);
    CHECK(bullet_generate(cache, ids, 1, &sampler, ids, 0, 1, out, 4) == 4, "generate");
    bullet_cache_free(cache);
    bullet_model_free(model);
    bullet_cache_free(NULL);
    bullet_model_free(NULL);
    example_free(&e);
}

int main(void) {
    static const struct bullet_shape shapes[] = {
        /* vocab dim layers heads kv hidden context tied theta eps */
        {50, 32, 1, 1, 1, 32, 24, 1, 1e4, 1e-5},     {33, 32, 2, 16, 4, 32, 70, 1, 500, 1e-5},  {70, 96, 2, 16, 1, 64, 40, 0, 1e4, 1e-3},
        {100, 128, 1, 1, 1, 288, 140, 1, 1e6, 1e-6}, {17, 32, 1, 2, 2, 1120, 30, 0, 1e4, 1e-5}, {1, 32, 1, 1, 1, 32, 20, 1, 1e4, 1e-5},
        {40, 160, 1, 1, 1, 64, 33, 1, 1e4, 1e-5},
    };
    static const char *const types[] = {"BQ4", "BQ8", "F16", "F32", "mixed", "standard"};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (int type = 0; type < 6; type++) {
            struct example e = example_of(shapes[i], type);
            const int n = shapes[i].max_seq_len;
            int32_t *tokens = malloc(sizeof(int32_t) * (size_t)n);
            double *expected = malloc(sizeof(double) * (size_t)n * (size_t)shapes[i].vocab_size);
            for (int t = 0; t < n; t++) tokens[t] = (int32_t)(random_bits() % (uint32_t)shapes[i].vocab_size);
            reference(&e, tokens, n, expected);
            char name[64];
            snprintf(name, sizeof name, "shape %d, %s", (int)i, types[type]);
            for (int32_t p = 0; bullet_kernels(p); p++)
                for (int turbo = 0; turbo < 2; turbo++) check_example(&e, bullet_kernels(p), turbo, expected, tokens, n, name);
            free(tokens), free(expected);
            example_free(&e);
        }
    }
    check_refusals();
    printf("kernels:");
    for (int32_t p = 0; bullet_kernels(p); p++) printf(" %s", bullet_kernels(p));
    printf("\n%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
