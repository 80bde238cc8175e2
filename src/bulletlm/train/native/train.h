/* The interface of the training library, called from Python through ctypes (train/backend/native.py mirrors it).
 *
 * Shapes and error codes are those of bullet.h. Every size, token id and target is checked before it is used. */
#ifndef TRAIN_H
#define TRAIN_H

#include "../../runtime/native/bullet.h"

/* Raised whenever a function below changes, so that a stale library is never called. */
#define BULLET_TRAIN_ABI 5

struct trainer;

BULLET_API int32_t bullet_train_abi(void);

/* The name of the kernels with number `index`, in order of preference; NULL after the last. Only those that run on this processor. */
BULLET_API const char *bullet_train_kernels(int32_t index);

/* The same for distillation, which also has kernels for processors without VNNI. */
BULLET_API const char *bullet_distil_kernels(int32_t index);

/* A trainer for models of a shape. `kernels` is one of bullet_distil_kernels' names, or NULL for the first.
 * BULLET_ARGUMENT: the shape is not supported, or this processor does not have these kernels. BULLET_MEMORY: out of memory. */
BULLET_API int32_t bullet_trainer_new(const struct bullet_shape *shape, const char *kernels, struct trainer **out);
BULLET_API void bullet_trainer_free(struct trainer *trainer);

/* Quantize the weights: float32, contiguous, in the order of ModelShape.tensors(). Embedding and norms are read from these addresses
 * in the calls that follow, so the memory must stay valid until the next call of this function. */
BULLET_API int32_t bullet_trainer_load_weights(struct trainer *trainer, float *const *weights, int32_t threads);

/* Add scale * d(loss) / d(weight) to `gradients` (float32, shapes and order of the weights) and write the loss in nats, summed over
 * the targets. tokens, targets: int32[sequences][length]; targets of -1 do not count.
 * The results do not depend on the number of threads. */
BULLET_API int32_t bullet_trainer_accumulate_gradients(struct trainer *trainer, const int32_t *tokens, const int32_t *targets,
                                                       int64_t sequences, int64_t length, double scale, float *const *gradients,
                                                       int32_t threads, double *loss);

/* Turn the trainer into one for distillation: its student learns the predictions of a teacher, a model of the same shape. `weights` as
 * for bullet_trainer_load_weights; embedding and norms are read from these addresses until the trainer is freed. The student's weights
 * must be loaded after this call. bullet_trainer_accumulate_gradients then returns BULLET_ARGUMENT. */
BULLET_API int32_t bullet_trainer_load_teacher(struct trainer *trainer, float *const *weights, int32_t threads);

/* As bullet_trainer_accumulate_gradients, with the loss KL(teacher || student) in nats, summed over the targets that are not -1; which
 * id a target has makes no difference. Weights are rounded to 13 bits at most (BQ4 weights not at all) and activations to 15 bits in
 * the predictions (exact.h). gradients may be NULL: then only the loss is computed.
 * BULLET_ARGUMENT: no teacher was loaded. */
BULLET_API int32_t bullet_trainer_distil(struct trainer *trainer, const int32_t *tokens, const int32_t *targets, int64_t sequences,
                                         int64_t length, double scale, float *const *gradients, int32_t threads, double *loss);

/* ---- optimizer: needs AVX2 only. `kernels` is one of bullet_optimizer_kernels' names, or NULL for the first. ---- */

/* As bullet_train_kernels. */
BULLET_API const char *bullet_optimizer_kernels(int32_t index);

/* A float32 matrix (rows, columns), contiguous, with its gradient and its state. The number of elements is a multiple of 32. */
struct bullet_parameter {
    float *weight, *gradient;
    float *first;   /* AdamW: running mean of the gradients; Muon: momentum */
    float *second;  /* AdamW: running mean of their squares; NULL: this matrix is Muon's, and `columns` is a multiple of 32 */
    float *average; /* moving average of the weights, or NULL */
    int64_t rows, columns;
    double learning_rate, weight_decay;
};

/* What all parameters of a step share. */
struct bullet_update {
    double gradient_scale; /* gradients are multiplied by this first (clipping) */
    double beta1, beta2, eps;
    double correction1, correction2; /* AdamW: 1 - beta^step */
    double momentum;
    double average_weight; /* average += average_weight * (new weight - average) */
};

/* The global norm of the gradients. */
BULLET_API int32_t bullet_gradient_norm(const char *kernels, const struct bullet_parameter *parameters, int64_t n, int32_t threads,
                                        double *norm);

/* One step of AdamW and Muon with decoupled weight decay and the moving average; the gradients become zero. The results of both
 * functions do not depend on the number of threads. */
BULLET_API int32_t bullet_optimizer_step(const char *kernels, const struct bullet_parameter *parameters, int64_t n,
                                         const struct bullet_update *update, int32_t threads);

#endif
