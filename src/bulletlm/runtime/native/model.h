/* Data structures that all files of the engine share. docs/kernel.md has an overview.
 *
 * Notation in the comments: [a][b] is a row-major array. */
#ifndef MODEL_H
#define MODEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "bullet.h"
#include "common.h"
#include "threads.h"

enum {
    BLOCK = 32,          /* inputs that share a scale */
    ROWS = 16,           /* outputs computed together, one in each lane: a row group */
    PAGE_POSITIONS = 64, /* positions in a page of the cache; a multiple of ROWS */
    CHUNK_TOKENS = 96,   /* tokens that one thread takes through the layers together; a multiple of 6, the register tile of prefill */
#if defined(__wasm__)
    HUGE_PAGE_BYTES = ALIGN_BYTES, /* there are none, so sizes and addresses need no rounding to them */
#else
    HUGE_PAGE_BYTES = 2 << 20,
#endif
    PREFETCH_BYTES = 4096, /* how far ahead weights are prefetched in software; hardware prefetchers stop at each 4 KB page */
    PANEL_BLOCKS = 16,     /* blocks of inputs that prefill unpacks at a time, for two row groups */
    PANEL_BYTES = PANEL_BLOCKS * 2 * 1024,
};

/* A weight matrix (rows = outputs, cols = inputs), repacked so that it is read front to back.
 *
 * Rows are in groups of 16, one group after the other, each aligned to ALIGN_BYTES. Within a group:
 *   BQ4  for each block of 32 inputs a tile of 256 bytes: [4][16 rows][4 bytes of the file's block], so that lane r of 64-byte vector i
 *        holds inputs 4i ... 4i + 3 in its low nibbles and 16 + 4i ... 16 + 4i + 3 in its high nibbles;
 *        after the tiles, float16 scales [blocks][16 rows].
 *   BQ8  the same with tiles of 512 bytes: vector i holds inputs 4i ... 4i + 3 of 16 rows.
 *   F16, F32  [inputs][16 rows].
 * Rows past the end are zeros. */
struct matrix {
    enum bullet_type type;
    int32_t rows, cols;
    size_t group_bytes;
    size_t scales_offset; /* bytes from the start of a group to its scales */
    const uint8_t *data;
};

struct layer {
    const float *attention_norm, *mlp_norm; /* [dim] */
    struct matrix query, key, value, output, gate, up, down;
};

struct kernels;

struct model {
    struct bullet_shape shape;
    int32_t head_dim;
    int32_t padded_head_dim; /* head_dim rounded up to 16 */
    bool turbo;
    const struct kernels *kernels;
    struct matrix embedding, head; /* head: the output matrix */
    struct layer *layers;
    const float *final_norm; /* [dim] */

    /* RoPE: the rotation of position p is the product of the complex numbers rope_coarse[p / rope_fine_count] and
     * rope_fine[p % rope_fine_count], in double: two small tables instead of one for every position. */
    int32_t rope_fine_count;
    double *rope_fine, *rope_coarse; /* [count][head_dim / 2][cos, sin] */

    /* A page of the cache: for each layer and key/value head the keys, their scales, the values, their scales (attention.h). */
    size_t key_scales_offset, values_offset, value_scales_offset, head_bytes, page_bytes;

    uint8_t *arena; /* all matrices and norms */
    size_t arena_bytes;
};

/* A block of 32 activations as integers q, x = scale * q. Exact mode: q = 256 * high + low, |q| <= 32639. Turbo: q = high, |q| <= 127.
 * One struct for each block, so that everything a tile needs is in neighbouring cache lines. */
struct act_block {
    int8_t high[BLOCK];
    int8_t low[BLOCK];
    float scale;
    int32_t offset_bq4; /* -8 * sum(q): corrects for weights that are stored with 8 added */
    int32_t offset_bq8; /* -128 * sum(q) */
    int32_t unused;
    int16_t q16[BLOCK]; /* q, for kernels that multiply 16-bit integers, in their order (Q16_ORDER) */
};

/* Scratch memory of one thread, for `tokens` tokens. kv_dim is rounded up to 16. */
struct workspace {
    int32_t tokens;
    float *residual;              /* [tokens][dim] the residual stream */
    float *normed;                /* [tokens][dim] */
    float *query;                 /* [tokens][dim] */
    float *key;                   /* [tokens][kv_dim] */
    float *value;                 /* [tokens][kv_dim] */
    float *attention_out;         /* [tokens][dim] */
    float *gate;                  /* [tokens][hidden_dim] */
    float *up;                    /* [tokens][32]: one block of the hidden layer */
    float *accumulator;           /* [max(dim, padded_head_dim)]: attention of one head */
    float *rope;                  /* [tokens][head_dim]: cosines, then sines, of each position */
    struct act_block *act;        /* [tokens][dim / 32]: the input of a matrix */
    struct act_block *hidden_act; /* [tokens][hidden_dim / 32]: the input of `down` */
    uint8_t *panel;               /* [PANEL_BYTES]: unpacked weights */
    void *memory;
};

struct cache {
    const struct model *model;
    int64_t capacity, length; /* positions */
    int64_t n_pages;
    uint8_t **pages;
    struct workspace *workspace; /* of the calling thread */
    float *logits;               /* [vocab_size], for bullet_generate; allocated when first needed */
    atomic_flag busy;
};

/* The part of a forward pass that one thread does: n tokens from first_position on, with results for the last n_outputs of them. */
struct slice {
    const struct model *model;
    struct cache *cache;
    struct workspace *workspace;
    const int32_t *tokens;
    int64_t first_position;
    int32_t n, n_outputs;
    float *logits;           /* [n_outputs][vocab_size] */
    float *hidden;           /* [n_outputs][dim]: written instead of the logits, unless NULL */
    struct barrier *barrier; /* NULL: this thread is alone */
};

/* The computation, compiled for one instruction set. */
struct kernels {
    const char *name;
    bool (*supported)(void);
    uint8_t bq8_xor; /* XORed into BQ8 bytes at load: 0x80 where the dot product takes unsigned weights */
    void (*forward)(const struct slice *slice);
};

/* repack.c */
size_t matrix_bytes(enum bullet_type type, int64_t rows, int64_t cols);
bool tensor_fits(const struct bullet_tensor *tensor, int64_t rows, int64_t cols);
bool tensor_is_finite(const struct bullet_tensor *tensor);
void matrix_pack(struct matrix *out, uint8_t *memory, const struct bullet_tensor *tensor, int32_t rows, int32_t cols, int32_t head_dim,
                 uint8_t bq8_xor);
void matrix_row(const struct matrix *m, int32_t row, uint8_t bq8_xor, float *out);

/* memory.c */
void *alloc_aligned(size_t bytes);
void release_file_pages(const void *data, size_t bytes);
struct workspace *workspace_new(const struct model *model, int32_t tokens);
void workspace_free(struct workspace *workspace);
int32_t chunk_tokens(const struct model *model);
bool cache_reserve(struct cache *cache, int64_t positions);
void cache_pages_free(struct cache *cache);

/* sampling.c */
int32_t sample(const float *logits, int32_t vocab_size, struct bullet_sampler *sampler);
void record_token(struct bullet_sampler *sampler, int32_t token);
void mask_logits(float *logits, int32_t vocab_size, const struct bullet_sampler *sampler);

/* float16 -> float32 for finite numbers, subnormal ones included (NaN and infinity are refused at load). Plain arithmetic, so that
 * compilers vectorize it. */
static inline float f32_from_f16(uint16_t half) {
    float magnitude = f32_from_bits((uint32_t)(half & 0x7fff) << 13) * 0x1p112f;
    return f32_from_bits(bits_from_f32(magnitude) | (uint32_t)(half & 0x8000) << 16);
}

/* The memory of key/value head `head` of `layer` in a page. */
static inline uint8_t *head_in_page(const struct model *m, uint8_t *page, int32_t layer, int32_t head) {
    return page + ((size_t)layer * (size_t)m->shape.n_kv_heads + (size_t)head) * m->head_bytes;
}

#endif
