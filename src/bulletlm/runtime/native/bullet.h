/* The native engine's interface, called from Python through ctypes (runtime/native.py mirrors it).
 *
 * Nothing here reads files: Python has parsed and checked the .bullet file and hands over the bytes of each tensor.
 * Every size, token id and position that comes in is checked again before it is used.
 */
#ifndef BULLET_H
#define BULLET_H

#include <stdint.h>

#define BULLET_API __attribute__((visibility("default")))

/* Raised whenever a struct or function below changes, so that a stale library is never called. */
#define BULLET_ABI 3

enum bullet_error {
    BULLET_OK = 0,
    BULLET_TOKEN = -1,    /* a token id is outside the vocabulary, or there is none */
    BULLET_FULL = -2,     /* the tokens do not fit into the cache's capacity */
    BULLET_MEMORY = -3,   /* out of memory */
    BULLET_ARGUMENT = -4, /* sizes that do not fit each other, an unknown path: a bug of the caller */
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
    int32_t type;
    int32_t mapped; /* the bytes are those of a file, unchanged: once read, their memory may be given back to the system */
};

#define BULLET_RECENT 64 /* the penalties look back this many tokens */

/* How the next token is chosen, and the state that choosing needs; see runtime/sampling.py. */
struct bullet_sampler {
    const float *bias; /* [vocab_size], added to the logits first of all by bullet_generate; or NULL */
    double temperature, top_p, min_p, repetition_penalty, presence_penalty;
    uint64_t state_high, state_low, step_high, step_low; /* PCG64, as numpy's bit_generator.state */
    int32_t top_k;
    int32_t recent_count; /* valid entries of `recent`, oldest first */
    int32_t recent[BULLET_RECENT];
    int32_t before; /* what the text so far ends in: a bit of `after` */
    /* [vocab_size] each, or NULL: what token i must come after (0: anything) and what it ends in, sets of bits.
     * bullet_generate never draws a token in the wrong place. */
    const uint8_t *after, *ends;
};

struct bullet_model;
struct bullet_cache;

BULLET_API int32_t bullet_abi(void);

/* The name of path `index` in order of preference, NULL after the last; only those that run on this processor. */
BULLET_API const char *bullet_path(int32_t index);

/* `tensors` in the order of ModelShape.tensors(). `path` is one of bullet_path's, `turbo` chooses int8 activations.
 * BULLET_NAN if a number or a scale is NaN or infinite. */
BULLET_API int32_t bullet_model_new(const struct bullet_shape *shape, const struct bullet_tensor *tensors, int32_t n_tensors,
                                    const char *path, int32_t turbo, struct bullet_model **out);
BULLET_API void bullet_model_free(struct bullet_model *model);
BULLET_API int64_t bullet_model_bytes(const struct bullet_model *model);

/* The keys and values of one sequence; used by one thread at a time. The model must outlive it. */
BULLET_API int32_t bullet_cache_new(const struct bullet_model *model, int64_t capacity, struct bullet_cache **out);
BULLET_API void bullet_cache_free(struct bullet_cache *cache);
BULLET_API int64_t bullet_cache_length(const struct bullet_cache *cache);
BULLET_API int64_t bullet_cache_bytes(const struct bullet_cache *cache);
/* Forget everything from position `length` on. */
BULLET_API int32_t bullet_cache_truncate(struct bullet_cache *cache, int64_t length);

/* Append n tokens. logits: float[n][vocab_size] if `all`, else float[vocab_size] after the last one. */
BULLET_API int32_t bullet_forward(struct bullet_cache *cache, const int32_t *tokens, int64_t n, int32_t all, int32_t threads,
                                  float *logits);

/* Append n tokens; what the output matrix would be applied to, after the last norm: float[n][dim]. */
BULLET_API int32_t bullet_hidden(struct bullet_cache *cache, const int32_t *tokens, int64_t n, int32_t threads, float *hidden);

/* Logits of `batch` sequences of n tokens, each from position 0: float[batch][n][vocab_size]. */
BULLET_API int32_t bullet_score(const struct bullet_model *model, const int32_t *tokens, int64_t batch, int64_t n, int32_t threads,
                                float *logits);

/* Append n tokens, then up to `max` sampled ones (at least 1), which go to `out`. Ends early after one of `stops`, which
 * is written too, and when the cache is full. The last token written is not yet in the cache.
 * Gives the number of tokens written, or a negative bullet_error. */
BULLET_API int64_t bullet_generate(struct bullet_cache *cache, const int32_t *tokens, int64_t n, struct bullet_sampler *sampler,
                                   const int32_t *stops, int64_t n_stops, int32_t threads, int32_t *out, int64_t max);

/* Choose one token from logits float[vocab_size], the bias being in them already; the sampler's random state moves on.
 * Gives the id or a bullet_error. */
BULLET_API int32_t bullet_sample(const float *logits, int32_t vocab_size, struct bullet_sampler *sampler);

#endif
