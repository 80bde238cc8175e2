/* The data structures that all files of the engine share. */
#ifndef MODEL_H
#define MODEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "bullet.h"
#include "threads.h"

enum {
    BLOCK = 32,   /* inputs that share a scale */
    ROWS = 16,    /* outputs computed together: one lane each */
    PAGE = 64,    /* positions in one page of the cache; a multiple of ROWS */
    CHUNK = 96,   /* tokens that one thread takes through the layers together; a multiple of 6, the register tile of prefill */
    ALIGN = 64,
    HUGE_PAGE = 2 << 20, /* bytes; what the system maps in one step, if it is asked */
};

/* A weight matrix (rows = outputs, cols = inputs), repacked for reading from front to back.
 *
 * Rows are grouped by 16; a group is followed by the next without a gap but alignment. Within a group:
 *   BQ4  for each block of 32 inputs a tile of 256 bytes: 4 x 16 rows x 4 bytes of the file's block, in that order
 *        (so lane r of 64-byte vector i holds inputs 4i..4i+3 in its low and 16+4i..16+4i+3 in its high nibbles);
 *        then for each block 16 float16 scales.
 *   BQ8  the same with tiles of 512 bytes (vector i: inputs 4i..4i+3 of 16 rows), then the scales.
 *   F16, F32  for each input 16 numbers.
 * Rows past the end are zeros. */
struct matrix {
    enum bullet_type type;
    int32_t rows, cols;
    size_t group_bytes;
    size_t scales_at; /* where in a group the scales begin */
    const uint8_t *data;
};

struct layer {
    const float *attention_norm, *mlp_norm;
    struct matrix query, key, value, output, gate, up, down;
};

struct path;

struct model {
    struct bullet_shape shape;
    int32_t head_dim;
    int32_t head_room; /* head_dim rounded up to whole vectors of 16 */
    bool turbo;
    const struct path *path;
    struct matrix embedding, head;
    struct layer *layers;
    const float *final_norm;

    /* RoPE: the rotation of position p is coarse[p / fine_count] * fine[p % fine_count], complex numbers in double. */
    int32_t fine_count;
    double *fine, *coarse; /* [count][head_dim / 2][cos, sin] */

    /* Pages: for each layer and key/value head keys, their scales, values, their scales. */
    size_t key_scales_at, values_at, value_scales_at, head_bytes, page_bytes;

    uint8_t *arena; /* all matrices and norms */
    size_t arena_bytes;
};

/* 32 activations as integers. Exact mode: q = 256 * high + low, within +-32639. Turbo: q = high, within +-127.
 * One struct a block, not an array of each: everything that a tile needs is in neighbouring cache lines. */
struct act {
    int8_t high[BLOCK];
    int8_t low[BLOCK];
    float scale;
    int32_t minus_8;   /* -8 * sum(q): weights are stored unsigned, and this takes the offset back */
    int32_t minus_128; /* -128 * sum(q) */
    int32_t unused;
    int16_t wide[BLOCK]; /* q; for the paths that multiply 16-bit numbers */
};

/* The scratch memory of one thread; rooms for `tokens` tokens. Widths are rounded up to 16. */
struct work {
    int32_t tokens;
    float *x;       /* [tokens][dim] the residual stream */
    float *normed;  /* [tokens][dim] */
    float *query;   /* [tokens][dim] */
    float *key;     /* [tokens][kv_dim] */
    float *value;   /* [tokens][kv_dim] */
    float *mixed;   /* [tokens][dim] what attention gives */
    float *gate;    /* [tokens][hidden_dim] */
    float *up;      /* [tokens][32]: a block of the hidden layer */
    float *one;     /* [max(dim, head_room)] */
    float *rotation; /* [tokens][head_dim] cosines, then sines, of each position */
    struct act *act;   /* [tokens][dim / 32] the input of a matrix */
    struct act *gated; /* [tokens][hidden_dim / 32] that of `down` */
    uint8_t *panel;  /* PANEL_BYTES of unpacked weights */
    void *memory;
};

enum { PANEL_BLOCKS = 16, PANEL_BYTES = PANEL_BLOCKS * 2 * 1024 };

struct cache {
    const struct model *model;
    int64_t capacity, length;
    int64_t n_pages;
    uint8_t **pages;
    struct work *work;  /* for the calling thread */
    float *logits;      /* [vocab_size], for generate; made when first needed */
    atomic_flag busy;
};

/* What one thread does in a forward pass: n tokens from position `first`, whose logits after the last `wanted` go to `logits`. */
struct slice {
    const struct model *model;
    struct cache *cache;
    struct work *work;
    const int32_t *tokens;
    int64_t first;
    int32_t n, wanted;
    float *logits; /* [wanted][vocab_size] */
    float *hidden; /* [wanted][dim]: wanted instead of the logits, or NULL */
    struct barrier *barrier; /* NULL: this thread is alone */
};

/* One way to compute, for one kind of processor. */
struct path {
    const char *name;
    bool (*supported)(void);
    uint8_t bq8_flip; /* XORed into BQ8 bytes at load: 0x80 where the dot product takes unsigned weights */
    void (*forward)(const struct slice *slice);
};

extern const struct path *const paths[]; /* best first, NULL at the end */

/* repack.c */
size_t matrix_bytes(enum bullet_type type, int64_t rows, int64_t cols);
bool tensor_fits(const struct bullet_tensor *tensor, int64_t rows, int64_t cols);
bool tensor_is_finite(const struct bullet_tensor *tensor);
void matrix_pack(struct matrix *out, uint8_t *memory, const struct bullet_tensor *tensor, int32_t rows, int32_t cols, int32_t head_dim,
                 uint8_t bq8_flip);
void matrix_row(const struct matrix *m, int32_t row, uint8_t bq8_flip, float *out);

/* memory.c */
static inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
void *aligned_new(size_t bytes);
void give_back(const void *data, size_t bytes);
struct work *work_new(const struct model *model, int32_t tokens);
void work_free(struct work *work);
int32_t chunk_tokens(const struct model *model);
bool cache_reserve(struct cache *cache, int64_t positions);
void cache_pages_free(struct cache *cache);


/* sampling.c */
int32_t sample(const float *logits, int32_t vocab_size, struct bullet_sampler *sampler);
void remember(struct bullet_sampler *sampler, int32_t token);
void adjust(float *logits, int32_t vocab_size, const struct bullet_sampler *sampler);

static inline float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* float16 -> float32 for finite numbers (others are refused at load); right for subnormal ones, and vectorises. */
static inline float float_from_half(uint16_t half) {
    float magnitude = float_from_bits((uint32_t)(half & 0x7fff) << 13) * 0x1p112f;
    return float_from_bits(bits_of_float(magnitude) | (uint32_t)(half & 0x8000) << 16);
}

/* The memory of key/value head `head` of `layer` in a page. */
static inline uint8_t *page_head(const struct model *m, uint8_t *page, int32_t layer, int32_t head) {
    return page + ((size_t)layer * (size_t)m->shape.n_kv_heads + (size_t)head) * m->head_bytes;
}

#endif
