/* Checks of the training library without Python, for sanitizers:
 *
 *     make sanitize
 *
 * Shapes that are not multiples of any vector, in memory of exactly their size: no access outside, finite numbers, a loss of
 * log(vocabulary) for a random model, the same bytes with any number of threads, and errors for invalid arguments.
 * tests/train/test_native_pass.py compares the gradients with those of autograd. */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/bulletlm/train/native/train.h"
#include "check.h"

enum { MAX_TENSORS = 64 };

/* The number of elements of each tensor, in the order of the file; returns the number of tensors. */
static int sizes_of(const struct bullet_shape *s, size_t *sizes) {
    const size_t dim = (size_t)s->dim, hidden = (size_t)s->hidden_dim, vocabulary = (size_t)s->vocab_size;
    const size_t kv_dim = dim / (size_t)s->n_heads * (size_t)s->n_kv_heads;
    int n = 0;
    sizes[n++] = vocabulary * dim;
    for (int i = 0; i < s->n_layers; i++) {
        const size_t layer[] = {dim, dim * dim, kv_dim * dim, kv_dim * dim, dim * dim, dim, hidden * dim, hidden * dim, dim * hidden};
        for (size_t k = 0; k < sizeof layer / sizeof *layer; k++) sizes[n++] = layer[k];
    }
    sizes[n++] = dim;
    if (!s->tied_embeddings) sizes[n++] = vocabulary * dim;
    return n;
}

static int32_t *ids(size_t n, int32_t vocabulary, double ignored) {
    int32_t *out = malloc(n * sizeof *out);
    for (size_t i = 0; i < n; i++) out[i] = uniform() < ignored ? -1 : (int32_t)(uniform() * vocabulary);
    return out;
}

static void check(const char *kernels, struct bullet_shape shape, int64_t sequences, int64_t length) {
    size_t sizes[MAX_TENSORS];
    const int n = sizes_of(&shape, sizes);
    const size_t count = (size_t)(sequences * length);
    float *weights[MAX_TENSORS], *gradients[2][MAX_TENSORS];
    for (int i = 0; i < n; i++) {
        weights[i] = malloc(sizes[i] * 4);
        const int is_norm = sizes[i] == (size_t)shape.dim;
        for (size_t k = 0; k < sizes[i]; k++) weights[i][k] = is_norm ? 1.0f : (float)(0.1 * (uniform() - 0.5));
        for (int which = 0; which < 2; which++) gradients[which][i] = calloc(sizes[i], 4);
    }
    int32_t *tokens = ids(count, shape.vocab_size, 0), *targets = ids(count, shape.vocab_size, 0.1);
    size_t counted = 0;
    for (size_t i = 0; i < count; i++) counted += targets[i] >= 0;

    struct trainer *trainer;
    CHECK(bullet_trainer_new(&shape, kernels, &trainer) == BULLET_OK, "no trainer");
    const int32_t threads[] = {1, 3};
    double loss[2];
    for (int which = 0; which < 2; which++) {
        CHECK(bullet_trainer_load_weights(trainer, weights, threads[which]) == BULLET_OK, "refresh");
        const double scale = 1.0 / (double)count;
        CHECK(bullet_trainer_accumulate_gradients(trainer, tokens, targets, sequences, length, scale, gradients[which], threads[which],
                                                  loss + which) == BULLET_OK,
              "pass");
    }
    const double each = loss[0] / (double)counted;
    CHECK(fabs(each - log(shape.vocab_size)) < 0.5, "a loss of %g a token in a vocabulary of %d", each, shape.vocab_size);
    CHECK(loss[0] == loss[1], "a loss of %.17g with one thread and %.17g with three", loss[0], loss[1]);
    for (int i = 0; i < n; i++) {
        double norm = 0;
        for (size_t k = 0; k < sizes[i]; k++) norm += (double)gradients[0][i][k] * gradients[0][i][k];
        CHECK(norm > 0 && isfinite(norm), "tensor %d: its gradient has a squared norm of %g", i, norm);
        CHECK(memcmp(gradients[0][i], gradients[1][i], sizes[i] * 4) == 0, "tensor %d: the gradient differs with three threads", i);
    }

    const int32_t right = tokens[count - 1];
    for (int32_t wrong = -1; wrong <= shape.vocab_size; wrong += shape.vocab_size + 1) {
        tokens[count - 1] = wrong;
        CHECK(bullet_trainer_accumulate_gradients(trainer, tokens, targets, sequences, length, 1, gradients[0], 1, loss) == BULLET_TOKEN,
              "id %d is accepted", wrong);
    }
    tokens[count - 1] = right, targets[0] = -2;
    CHECK(bullet_trainer_accumulate_gradients(trainer, tokens, targets, sequences, length, 1, gradients[0], 1, loss) == BULLET_TOKEN,
          "target -2 is accepted");
    CHECK(bullet_trainer_accumulate_gradients(trainer, tokens, targets, 0, length, 1, gradients[0], 1, loss) == BULLET_ARGUMENT,
          "no sequences");
    CHECK(bullet_trainer_accumulate_gradients(trainer, tokens, targets, 1, shape.max_seq_len + 1, 1, gradients[0], 1, loss) ==
              BULLET_ARGUMENT,
          "too long");
    CHECK(bullet_trainer_accumulate_gradients(trainer, tokens, targets, INT64_MAX / 4, length, 1, gradients[0], 1, loss) == BULLET_ARGUMENT,
          "too many");
    CHECK(bullet_trainer_accumulate_gradients(trainer, tokens, targets, 1, length, 1, gradients[0], 0, loss) == BULLET_ARGUMENT,
          "no threads");
    bullet_trainer_free(trainer);
    free(tokens), free(targets);
    for (int i = 0; i < n; i++) free(weights[i]), free(gradients[0][i]), free(gradients[1][i]);
}

/* The same for distillation: the teacher has weights of its own. */
static void check_distil(const char *kernels, struct bullet_shape shape, int64_t sequences, int64_t length) {
    size_t sizes[MAX_TENSORS];
    const int n = sizes_of(&shape, sizes);
    const size_t count = (size_t)(sequences * length);
    float *weights[2][MAX_TENSORS], *gradients[2][MAX_TENSORS];
    for (int which = 0; which < 2; which++) {
        for (int i = 0; i < n; i++) {
            weights[which][i] = malloc(sizes[i] * 4);
            const int is_norm = sizes[i] == (size_t)shape.dim;
            for (size_t k = 0; k < sizes[i]; k++) weights[which][i][k] = is_norm ? 1.0f : (float)(0.1 * (uniform() - 0.5));
            gradients[which][i] = calloc(sizes[i], 4);
        }
    }
    int32_t *tokens = ids(count, shape.vocab_size, 0), *targets = ids(count, shape.vocab_size, 0.1);
    struct trainer *trainer;
    CHECK(bullet_trainer_new(&shape, kernels, &trainer) == BULLET_OK, "no trainer");
    double loss[3];
    CHECK(bullet_trainer_distil(trainer, tokens, targets, sequences, length, 1, NULL, 1, loss) == BULLET_ARGUMENT, "no teacher");
    const int32_t threads[] = {1, 3};
    for (int which = 0; which < 2; which++) {
        CHECK(bullet_trainer_load_teacher(trainer, weights[0], threads[which]) == BULLET_OK, "teacher");
        CHECK(bullet_trainer_load_weights(trainer, weights[1], threads[which]) == BULLET_OK, "refresh");
        CHECK(bullet_trainer_distil(trainer, tokens, targets, sequences, length, 1.0 / (double)count, gradients[which], threads[which],
                                    loss + which) == BULLET_OK,
              "pass");
    }
    CHECK(bullet_trainer_distil(trainer, tokens, targets, sequences, length, 1, NULL, 2, loss + 2) == BULLET_OK, "measured");
    CHECK(loss[0] > 0 && isfinite(loss[0]), "a KL of %g", loss[0]);
    CHECK(loss[0] == loss[1] && loss[0] == loss[2], "a KL of %.17g, %.17g and %.17g", loss[0], loss[1], loss[2]);
    for (int i = 0; i < n; i++) {
        double norm = 0;
        for (size_t k = 0; k < sizes[i]; k++) norm += (double)gradients[0][i][k] * gradients[0][i][k];
        CHECK(norm > 0 && isfinite(norm), "tensor %d: its gradient has a squared norm of %g", i, norm);
        CHECK(memcmp(gradients[0][i], gradients[1][i], sizes[i] * 4) == 0, "tensor %d: the gradient differs with three threads", i);
    }
    CHECK(bullet_trainer_load_weights(trainer, weights[0], 1) == BULLET_OK, "refresh");
    CHECK(bullet_trainer_distil(trainer, tokens, targets, sequences, length, 1, NULL, 2, loss) == BULLET_OK, "measured");
    CHECK(fabs(loss[0]) < 1e-3, "a KL of %g from itself", loss[0]);
    CHECK(bullet_trainer_accumulate_gradients(trainer, tokens, targets, sequences, length, 1, gradients[0], 1, loss) == BULLET_ARGUMENT,
          "cross-entropy with a teacher");
    bullet_trainer_free(trainer);
    free(tokens), free(targets);
    for (int which = 0; which < 2; which++)
        for (int i = 0; i < n; i++) free(weights[which][i]), free(gradients[which][i]);
}

static float *copy_of(const float *x, size_t n) {
    float *out = malloc(n * 4);
    memcpy(out, x, n * 4);
    return out;
}

/* Two steps of an AdamW tensor and of Muon's matrices of many shapes, with one thread and with three. */
static void check_optimizer(const char *kernels) {
    enum { N = 8 };
    const int64_t rows[N] = {33, 1, 1, 70, 64, 31, 96, 200}, columns[N] = {32, 96, 32, 64, 160, 128, 96, 32};
    struct bullet_parameter parameters[2][N];
    for (int i = 0; i < N; i++) {
        const size_t n = (size_t)(rows[i] * columns[i]);
        float *weight = malloc(n * 4), *gradient = malloc(n * 4), *zeros = calloc(n, 4);
        for (size_t k = 0; k < n; k++) weight[k] = (float)(uniform() - 0.5), gradient[k] = (float)(uniform() - 0.5);
        for (int which = 0; which < 2; which++) {
            parameters[which][i] = (struct bullet_parameter){copy_of(weight, n),
                                                             copy_of(gradient, n),
                                                             copy_of(zeros, n),
                                                             i < 2 ? copy_of(zeros, n) : NULL,
                                                             i % 2 ? copy_of(weight, n) : NULL,
                                                             rows[i],
                                                             columns[i],
                                                             0.01,
                                                             0.1};
        }
        free(weight), free(gradient), free(zeros);
    }
    const struct bullet_update update = {0.5, 0.9, 0.95, 1e-8, 0.1, 0.05, 0.95, 0.1};
    double norm[2];
    for (int which = 0; which < 2; which++) {
        const int32_t threads = which ? 3 : 1;
        CHECK(bullet_gradient_norm(kernels, parameters[which], N, threads, norm + which) == BULLET_OK, "norm");
        for (int step = 0; step < 2; step++)
            CHECK(bullet_optimizer_step(kernels, parameters[which], N, &update, threads) == BULLET_OK, "optimizer step");
    }
    CHECK(norm[0] == norm[1] && norm[0] > 0, "norms of %g and %g", norm[0], norm[1]);
    for (int i = 0; i < N; i++) {
        const struct bullet_parameter *one = &parameters[0][i], *other = &parameters[1][i];
        const size_t n = (size_t)(rows[i] * columns[i]);
        int finite = 1;
        for (size_t k = 0; k < n; k++) finite &= isfinite(one->weight[k]) && one->gradient[k] == 0;
        CHECK(finite, "parameter %d has a weight that is not finite, or a gradient that is not zero", i);
        CHECK(memcmp(one->weight, other->weight, n * 4) == 0, "parameter %d differs with three threads", i);
        CHECK(memcmp(one->first, other->first, n * 4) == 0, "the state of parameter %d differs with three threads", i);
    }
    struct bullet_parameter odd = parameters[0][3];
    odd.rows = 4, odd.columns = 40;
    CHECK(bullet_optimizer_step(kernels, &odd, 1, &update, 1) == BULLET_ARGUMENT, "a matrix with 40 columns");
    odd.columns = 1, odd.second = odd.first;
    CHECK(bullet_gradient_norm(kernels, &odd, 1, 1, norm) == BULLET_ARGUMENT, "four elements");
    CHECK(bullet_optimizer_step("abacus", parameters[0], N, &update, 1) == BULLET_ARGUMENT, "unknown kernels");
    CHECK(bullet_optimizer_step(kernels, parameters[0], N, &update, 0) == BULLET_ARGUMENT, "no threads");
    for (int which = 0; which < 2; which++) {
        for (int i = 0; i < N; i++) {
            struct bullet_parameter *p = &parameters[which][i];
            free(p->weight), free(p->gradient), free(p->first), free(p->second), free(p->average);
        }
    }
}

int main(void) {
    const char *kernels;
    for (int32_t i = 0; (kernels = bullet_optimizer_kernels(i)); i++) check_optimizer(kernels);
    for (int32_t i = 0; (kernels = bullet_distil_kernels(i)); i++) {
        check_distil(kernels, (struct bullet_shape){256, 64, 2, 2, 2, 128, 64, 1, 1e4, 1e-5}, 4, 64);
        check_distil(kernels, (struct bullet_shape){301, 96, 3, 8, 2, 160, 45, 0, 1e4, 1e-5}, 3, 45);
        check_distil(kernels, (struct bullet_shape){33, 32, 1, 1, 1, 32, 7, 1, 1e4, 1e-5}, 5, 3);
    }
    for (int32_t i = 0; (kernels = bullet_train_kernels(i)); i++) {
        /* vocab_size, dim, n_layers, n_heads, n_kv_heads, hidden_dim, max_seq_len, tied_embeddings */
        check(kernels, (struct bullet_shape){256, 64, 2, 2, 2, 128, 64, 1, 1e4, 1e-5}, 4, 64);
        check(kernels, (struct bullet_shape){301, 96, 3, 8, 2, 160, 45, 0, 1e4, 1e-5}, 3, 45);
        check(kernels, (struct bullet_shape){33, 32, 1, 1, 1, 32, 7, 1, 1e4, 1e-5}, 5, 3);
        check(kernels, (struct bullet_shape){100, 160, 1, 1, 1, 96, 300, 1, 5e5, 1e-6}, 1, 299);
        check(kernels, (struct bullet_shape){70, 96, 2, 16, 4, 64, 40, 0, 1e4, 1e-5}, 2, 2);
        struct trainer *trainer;
        const struct bullet_shape odd = {100, 60, 1, 1, 1, 96, 30, 1, 1e4, 1e-5};
        CHECK(bullet_trainer_new(&odd, kernels, &trainer) == BULLET_ARGUMENT, "a width of 60");
        CHECK(bullet_trainer_new(&odd, "abacus", &trainer) == BULLET_ARGUMENT, "unknown kernels");
        printf("%s ", kernels);
    }
    if (passed + failed == 0) printf("this processor has no kernels for the training pass: ");
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
