/* The interface of the native engine, called from Python through ctypes (runtime/native.py mirrors it).
 *
 * Nothing here reads files: Python has parsed and checked the .bullet file and passes the bytes of each tensor.
 * Every size, token id and position is checked again before it is used. */
#ifndef BULLET_H
#define BULLET_H

#include <stdint.h>

#define BULLET_API __attribute__((visibility("default")))

/* Raised whenever a struct or function below changes, so that a stale library is never called. */
#define BULLET_ABI 5

/* The results of both libraries; see train/native/train.h for the other one. */
enum bullet_error {
    BULLET_OK = 0,
    BULLET_TOKEN = -1,    /* a token id is outside the vocabulary, or there are no tokens */
    BULLET_FULL = -2,     /* the tokens do not fit into the capacity of the cache */
    BULLET_MEMORY = -3,   /* out of memory */
    BULLET_ARGUMENT = -4, /* sizes that do not fit each other, or unknown kernels: an error of the caller */
    BULLET_BUSY = -5,     /* another thread is using this cache */
    BULLET_NAN = -6,      /* weights (at load) or logits are not finite: the file is damaged */
};

enum bullet_type { BULLET_BQ4, BULLET_BQ8, BULLET_F16, BULLET_F32 };

struct bullet_shape {
    int32_t vocab_size, dim, n_layers, n_heads, n_kv_heads, hidden_dim, max_seq_len, tied_embeddings;
    double rope_theta, norm_eps;
};

/* A tensor as it is stored in the file; copied at load. */
struct bullet_tensor {
    const void *data;
    uint64_t bytes;
    int32_t type;   /* enum bullet_type */
    int32_t mapped; /* `data` is a mapped file: after reading, its pages may be released */
};

#define BULLET_RECENT 64 /* the penalties apply to this many last tokens */

/* The settings and the state of sampling; see runtime/sampling.py. */
struct bullet_sampler {
    const float *bias; /* [vocab_size], added to the logits before everything else by bullet_generate; or NULL */
    double temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    uint64_t state_high, state_low, step_high, step_low; /* PCG64, as numpy's bit_generator.state */
    int32_t top_k;
    int32_t recent_count; /* valid entries of `recent`, oldest first */
    int32_t recent[BULLET_RECENT];
    /* The akshara constraint (text/akshara.py): a combining mark only follows a character that it can belong to. Character classes are
     * bits of a mask. text_end: the class that the text so far ends in. For each token, [vocab_size] or NULL: required_end, the classes
     * that it may follow (0: any), and token_end, the class that it ends in. bullet_generate gives other tokens the logit -inf. */
    int32_t text_end;
    const uint8_t *required_end, *token_end;
};

struct bullet_model;
struct bullet_cache;

BULLET_API int32_t bullet_abi(void);

/* The name of the kernels with number `index`, in order of preference; NULL after the last. Only those that run on this processor. */
BULLET_API const char *bullet_kernels(int32_t index);

/* `tensors` in the order of ModelShape.tensors(). `kernels` is one of bullet_kernels' names, `turbo` chooses int8 activations.
 * BULLET_NAN: a weight or a scale is NaN or infinite. */
BULLET_API int32_t bullet_model_new(const struct bullet_shape *shape, const struct bullet_tensor *tensors, int32_t n_tensors,
                                    const char *kernels, int32_t turbo, struct bullet_model **out);
BULLET_API void bullet_model_free(struct bullet_model *model);
BULLET_API int64_t bullet_model_bytes(const struct bullet_model *model);

/* The keys and values of one sequence; used by one thread at a time. The model must outlive it. */
BULLET_API int32_t bullet_cache_new(const struct bullet_model *model, int64_t capacity, struct bullet_cache **out);
BULLET_API void bullet_cache_free(struct bullet_cache *cache);
BULLET_API int64_t bullet_cache_length(const struct bullet_cache *cache);
BULLET_API int64_t bullet_cache_bytes(const struct bullet_cache *cache);
/* Drop all positions from `length` on. */
BULLET_API int32_t bullet_cache_truncate(struct bullet_cache *cache, int64_t length);

/* Append n tokens. logits: float[n][vocab_size] if `all`, else float[vocab_size] after the last one. */
BULLET_API int32_t bullet_forward(struct bullet_cache *cache, const int32_t *tokens, int64_t n, int32_t all, int32_t threads,
                                  float *logits);

/* Append n tokens. hidden: float[n][dim], the states after the final norm, to which the output matrix would be applied. */
BULLET_API int32_t bullet_hidden(struct bullet_cache *cache, const int32_t *tokens, int64_t n, int32_t threads, float *hidden);

/* Logits of `batch` sequences of n tokens, each from position 0: float[batch][n][vocab_size]. */
BULLET_API int32_t bullet_score(const struct bullet_model *model, const int32_t *tokens, int64_t batch, int64_t n, int32_t threads,
                                float *logits);

/* Append n tokens, then sample up to `max` tokens (at least 1) into `out`. Ends early after one of `stops`, which is written too, and
 * when the cache is full. The last token written is not yet in the cache.
 * Returns the number of tokens written, or a negative bullet_error. */
BULLET_API int64_t bullet_generate(struct bullet_cache *cache, const int32_t *tokens, int64_t n, struct bullet_sampler *sampler,
                                   const int32_t *stops, int64_t n_stops, int32_t threads, int32_t *out, int64_t max);

/* Sample one token from logits float[vocab_size], which already include the bias; advances the random state of the sampler.
 * Returns the token id or a bullet_error. */
BULLET_API int32_t bullet_sample(const float *logits, int32_t vocab_size, struct bullet_sampler *sampler);

#endif
