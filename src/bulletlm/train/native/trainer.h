/* Data structures that all files of the training library share. docs/training-library.md has the equations and the layout.
 *
 * Notation in the comments: N = tokens of the micro-batch, sequences * token_stride; [a][b] is a row-major array. */
#ifndef TRAINER_H
#define TRAINER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../../runtime/native/common.h"
#include "../../runtime/native/threads.h"
#include "train.h"

/* Older compilers come with assemblers that do not have AVX-VNNI; the other kernels are built with them too. */
#if defined(__clang__)
#define HAVE_AVX_VNNI (__clang_major__ >= 12)
#else
#define HAVE_AVX_VNNI (__GNUC__ >= 11)
#endif

enum {
    TOKEN_BLOCK = 64, /* tokens that go through a matrix product together */
    STRIP = 32,       /* columns of an output gradient that are stored side by side; also the padding of a weight's outputs */
    GRAD_ROWS = 64,   /* rows of a weight whose gradient is one work item */
    QUERY_BLOCK = 16, /* queries whose attention is computed together */
};

/* Weights that are multiplied with the same input, side by side as columns of one matrix (inputs, outputs). Each part is padded
 * with zero columns to a multiple of STRIP. The int8 codes are stored twice, as panels for both directions (matmul.h). */
struct weight_group {
    int32_t inputs, outputs, parts;
    int32_t first[3], count[3]; /* first column and number of columns of each part, without its padding */
    int32_t tensor[3];          /* index of each part in the order of the model file */
    float *scales;              /* [outputs] */
    uint8_t *forward;           /* panels of the outputs, k = inputs */
    uint8_t *backward;          /* panels of the inputs, k = outputs */
    struct {
        int16_t *panels; /* panels of the outputs, k = inputs, in pairs */
        float *scales;   /* [outputs / PANEL][inputs / BLOCK][PANEL] */
    } exact;             /* instead of `forward`, for distillation (exact.h) */
};

/* How the products of a forward pass are computed, and what they save for the backward pass. */
enum pass_kind {
    INT8_PASS,    /* int8; saves its inputs */
    STUDENT_PASS, /* exact; saves its inputs in int8 */
    TEACHER_PASS, /* exact; saves nothing */
};

/* The input of a weight group as int8 codes, saved by the forward pass for the gradient of the weights. */
struct saved_input {
    uint8_t *panels; /* panels of the inputs, k = tokens */
    float *scales;   /* [N] */
};

/* The weights of a layer, and what its forward pass saves for the backward pass. */
struct layer {
    struct weight_group qkv, output, gate_up, down;
    int32_t attention_norm, mlp_norm; /* tensor indices */
    float *residual_in;               /* [N][dim]: the residual stream before the layer */
    float *residual_mid;              /* [N][dim]: after attention */
    float *attention_rms, *mlp_rms;   /* [N]: 1 / root mean square */
    float *heads;           /* [sequences][n_heads + 2 n_kv_heads][padded_length][padded_head_dim]: rotated queries and keys; values */
    float *log_sum_exp;     /* [N][n_heads]: of the scaled attention scores */
    uint16_t *gate_up_bf16; /* [N][2 hidden_dim]: the gate and up projections */
    struct saved_input qkv_in, output_in, gate_up_in, down_in;
};

/* The gradient of a weight group's output, stored until the gradient of the weights is computed from it. */
struct output_grad {
    uint16_t *strips;   /* [outputs / STRIP][N][STRIP], bfloat16 */
    int64_t column_max; /* index of its first column in workspace.column_max */
};

struct layer_grads {
    struct output_grad qkv, output, gate_up, down;
    float *attention_norm, *mlp_norm; /* [sequences][dim]: what each sequence adds to the gradients of the norm weights */
};

/* Scratch memory of one thread. "widest" is the largest row of a layer: max(2 hidden_dim, qkv outputs, dim). */
struct workspace {
    float *rows;          /* [TOKEN_BLOCK][widest], or [TOKEN_BLOCK / 2][padded_vocab] */
    float *dim_rows;      /* [TOKEN_BLOCK][dim] */
    int8_t *codes;        /* [TOKEN_BLOCK][widest], or [2][TOKEN_BLOCK / 2][padded_vocab] */
    int32_t *sums;        /* [TOKEN_BLOCK]: of the codes of each row */
    int16_t *exact_codes; /* [TOKEN_BLOCK][max(dim, hidden_dim)], for distillation, as the next two */
    float *exact_scales;  /* [TOKEN_BLOCK] */
    float *taught;        /* [TOKEN_BLOCK / 2][padded_vocab]: logits of the teacher */
    float *row;           /* [widest] */
    float *d_heads;       /* gradients of the queries, keys and values of a sequence, in the layout of layer.heads */
    float *attention;     /* [n_heads][padded_length][padded_head_dim]: the output of attention, or its gradient */
    float *scratch;       /* [2][padded_length][padded_head_dim], then [2][QUERY_BLOCK][padded_length]: for one head */
    int8_t *packed;       /* [GRAD_ROWS][N] */
    float *column_max;    /* [n_columns]: the largest |gradient * token scale| of each output column, as seen by this thread */
};

struct trainer {
    const struct kernels *kernels;
    struct bullet_shape shape;
    int32_t head_dim;
    int32_t padded_head_dim; /* head_dim rounded up to 16 */
    int32_t padded_vocab;    /* vocab_size rounded up to STRIP */
    int32_t final_norm;      /* tensor index */
    int64_t sequences, length;
    int64_t token_stride;  /* length rounded up to 4: tokens from one sequence to the next */
    int64_t padded_length; /* length rounded up to 16: rows of a head */
    int64_t tokens;        /* N = sequences * token_stride */
    int32_t threads;
    const float **weights; /* float32, in the order of the model file: the arguments of the last bullet_trainer_load_weights */
    struct layer *layers;
    struct weight_group head; /* the output matrix */
    bool distils;             /* a teacher was loaded; the next three are its weights, of the same shape */
    const float **teacher_weights;
    struct layer *teacher_layers; /* only their weights and tensor indices */
    struct weight_group teacher_head;
    float *rope; /* [length][2][head_dim]: cosines; sines with the sign of their element */

    float *output;         /* [N][dim]: the residual stream after the last layer */
    float *teacher_output; /* [N][dim]: the teacher's */
    float *final_rms;      /* [N] */
    struct saved_input head_in;
    float *residual_grad[2];  /* [N][dim]: the gradients of a layer's output and input, in turns */
    float *residual_mid_grad; /* [N][dim] */
    struct output_grad head_grad;
    struct layer_grads layer_grads[2]; /* two layers in turns: weight gradients of layer n + 1 overlap the backward pass of layer n */
    float *final_norm_grads;           /* [sequences][dim] */
    double *losses;                    /* [sequences] */
    int64_t n_columns;                 /* outputs of all output_grads together */
    struct workspace *workspaces;      /* [threads] */

    void *memory[2]; /* the weights; everything else */
    size_t bytes[2];
};

/* The arguments of one call, shared by its threads. */
struct call {
    struct trainer *trainer;
    const int32_t *tokens, *targets; /* [sequences][length] */
    float scale;
    float *const *gradients; /* in the order of the model file; NULL for a distillation that is only measured */
    atomic_int *next;        /* one counter of work items for each phase */
};

/* The computation, compiled for one instruction set. */
struct kernels {
    const char *name;
    bool trains; /* int8 products are fast enough for training, not only for distillation */
    bool (*supported)(void);
    void (*load_weights)(void *call, int32_t member, struct barrier *barrier);
    void (*accumulate_gradients)(void *call, int32_t member, struct barrier *barrier);
    void (*load_teacher)(void *call, int32_t member, struct barrier *barrier);
    void (*distil)(void *call, int32_t member, struct barrier *barrier);
};

#endif
