/* Forward and backward pass of a Llama over a micro-batch, its matrix products in int8: what all files share.
 *
 * The arithmetic is that of bulletlm/train/int8.py: in every product both factors are int8 times one scale a row, weights and
 * activations rounded to nearest, gradients so that they are right in the mean; sums are exact. Everything else is float, but for
 * what waits between forward and backward for its second use, which is bfloat16 where it is large.
 *
 * A product multiplies rows of signed bytes with columns of unsigned ones, 128 more than what they mean; each row starts at
 * -128 times its own sum, which takes that away again. Columns are stored in panels of PANEL, four numbers of a column together:
 * [column / PANEL][k / 4][column % PANEL][k % 4].
 *
 * A thread takes whole sequences through the layers, so that what it works on stays in its caches. The gradients of a layer's
 * weights, whose sums go over all sequences, follow when all threads are done with it: while some still go back through the layer
 * below, others begin with them. No sum depends on the number of threads. */
#ifndef TRAINER_H
#define TRAINER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../../runtime/native/bullet.h"
#include "../../runtime/native/threads.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* Assemblers of the time of older compilers do not know AVX-VNNI; the rest is built with them too. */
#if defined(__clang__)
#define KNOWS_AVX_VNNI (__clang_major__ >= 12)
#else
#define KNOWS_AVX_VNNI (__GNUC__ >= 11)
#endif

enum {
    BLOCK_ROWS = 64,   /* tokens that go through a product together */
    STRIP = 32,        /* columns of a gradient that are stored together */
    WORK_ROWS = 64,    /* outputs of a weight whose gradients are one piece of work */
    MOST_QUERIES = 16, /* whose attention is computed together */
    ALIGN = 64,
};

/* Weights that are multiplied with the same input, side by side: `inputs` x `outputs`, each part padded to 32 outputs. */
struct group {
    int32_t inputs, outputs, parts;
    int32_t first[3], count[3]; /* of the parts: column, and how many there are */
    int32_t tensor[3];          /* number of the weight in the order of the file */
    float *scales;              /* [outputs] */
    uint8_t *forward;           /* panels of outputs, k = inputs */
    uint8_t *backward;          /* panels of inputs, k = outputs */
};

/* What the products with a group's weights keep for the gradient of the weights. N = tokens. */
struct kept {
    uint8_t *panels; /* the input, rounded: panels of inputs, k = tokens */
    float *scales;   /* [N] */
};

struct layer {
    struct group qkv, output, gate_up, down;
    int32_t attention_norm, mlp_norm; /* numbers of the tensors */
    float *input;                     /* [N][dim] */
    float *middle;                    /* [N][dim], after attention */
    float *attention_rms, *mlp_rms;   /* [N], 1 / root mean square */
    float *heads; /* [sequences][n_heads + 2 n_kv_heads][wide][head_room]: queries and keys, rotated, and values */
    float *log_sums;                  /* [N][n_heads]: of the exponentials of the scores */
    uint16_t *gates;                  /* [N][2 hidden_dim], bfloat16: gate, up */
    struct kept attention_in, output_in, mlp_in, down_in;
};

/* The gradient of what a group puts out, which waits for its product with the group's input. */
struct slope {
    uint16_t *strips; /* [outputs / STRIP][N][STRIP], bfloat16 */
    int64_t largest;  /* where the largest numbers of its columns stand in workspace.largest */
};

/* All of a layer. */
struct slopes {
    struct slope qkv, output, gate_up, down;
    float *attention_norm, *mlp_norm; /* [sequences][dim]: what each sequence adds to the gradients of the norms */
};

/* What a thread works in. */
struct workspace {
    float *rows;      /* [BLOCK_ROWS][widest of a layer's inputs and outputs], or [BLOCK_ROWS / 2][vocabulary] */
    float *more_rows; /* [BLOCK_ROWS][dim] */
    int8_t *bytes;    /* as rows, but twice where it is the vocabulary */
    float *line;      /* [widest] */
    float *heads[2];  /* gradients of queries, keys and values, as layer.heads; of what attention puts out, [n_heads] of that */
    float *attention; /* [2][wide][head_room], [2][MOST_QUERIES][wide] */
    int8_t *packed;   /* [WORK_ROWS][N] */
    float *largest;   /* [outputs of all slopes]: the largest magnitudes in the columns of gradients */
};

struct trainer {
    const struct engine *engine;
    struct bullet_shape shape;
    int32_t head_dim, head_room, vocabulary; /* head_room: rounded up to 16; vocabulary: to 32 */
    int32_t final_norm; /* number of the tensor */
    int64_t sequences, length;
    int64_t padded, wide, tokens; /* length rounded up to 4 and to 16; N = tokens = sequences * padded */
    int32_t threads;
    const float **weights; /* in the order of the file: what `refresh` was called with last */
    struct layer *layers;
    struct group head;
    float *rope; /* [length][2][head_dim]: what a rotation multiplies with: cosines, sines with signs */

    float *output;    /* [N][dim]: of the last layer */
    float *final_rms; /* [N] */
    struct kept head_in;
    float *gradient[2];     /* [N][dim]: of a layer's output and input */
    float *middle_gradient; /* [N][dim] */
    struct slope head_slope;
    struct slopes slopes[2];   /* of a layer, and of the one above it, whose weights' turn it is at the same time */
    float *final_norm_parts; /* [sequences][dim], as in slopes */
    double *losses;          /* [sequences] */
    int64_t columns;         /* of all slopes */
    struct workspace *workspaces;

    void *memory[2]; /* of the weights; of the rest */
    size_t bytes[2];
};

/* One call. */
struct pass {
    struct trainer *trainer;
    const int32_t *tokens, *targets;
    float scale;
    float *const *gradients;
    atomic_int *next; /* counters of work that is handed out, one for every phase */
};

struct engine {
    const char *name;
    bool (*supported)(void);
    void (*refresh)(void *pass, int32_t member, struct barrier *barrier);
    void (*run)(void *pass, int32_t member, struct barrier *barrier);
};

#endif
