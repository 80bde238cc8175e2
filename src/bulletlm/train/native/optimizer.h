/* Data structures of the optimizer: optimizer.c prepares them, update.h and orthogonalize.h compute with them. */
#ifndef OPTIMIZER_H
#define OPTIMIZER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../../runtime/native/common.h"
#include "../../runtime/native/threads.h"
#include "train.h"

enum {
    UPDATE_CHUNK = 1 << 15, /* elements of a parameter that are one work item, except in Muon, where the matrix is one */
    MATRIX_PADDING = 32,    /* rows of Muon's scratch matrices are a multiple of this: the widest panel of orthogonalize.h */
};

/* Vectors of 16-bit integers for a matrix product, each with a scale. */
struct vectors {
    uint8_t *panels; /* int16 [vectors / PANEL][elements / 2][PANEL][2] */
    float *scales;   /* [vectors] */
};

/* Scratch memory of one thread, for the largest matrix: `rows` rounded up to MATRIX_PADDING; `shorter` of both sides. */
struct muon_workspace {
    float *x;                           /* [rows][columns]: the matrix that becomes orthogonal */
    float *gram, *product, *polynomial; /* [shorter][shorter]: symmetric, only panels on and above the diagonal are used */
    float *inverse_scales;              /* [longer] */
    struct vectors rows, columns;       /* those of x */
    struct vectors left, right, third;  /* those of symmetric matrices */
};

/* Part of a parameter. */
struct update_item {
    int64_t parameter, first, count; /* elements */
    double cost;                     /* relative time: expensive items start first */
};

/* The arguments of one call, shared by its threads. */
struct update_call {
    const struct bullet_parameter *parameters;
    const struct bullet_update *update;
    const struct update_item *items;
    int64_t n_items;
    atomic_llong next;
    double *squares;                   /* [n_items]: sums of squares, if the norm is wanted */
    struct muon_workspace *workspaces; /* [threads] */
};

/* The optimizer, compiled for one instruction set. */
struct optimizer_kernels {
    const char *name;
    bool (*supported)(void);
    void (*norm)(void *call, int32_t member, struct barrier *barrier);
    void (*update)(void *call, int32_t member, struct barrier *barrier);
};

#endif
