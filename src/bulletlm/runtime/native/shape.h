/* The check of a model's shape that both libraries make. */
#ifndef SHAPE_H
#define SHAPE_H

#include <stdbool.h>

#include "bullet.h"

/* Sizes that fit each other, within limits that keep products of two of them far from overflow. */
static inline bool shape_is_valid(const struct bullet_shape *s) {
    return s->vocab_size >= 1 && s->vocab_size <= 1 << 20 && s->dim >= 32 && s->dim <= 1 << 16 && s->dim % 32 == 0 && s->n_layers >= 1 &&
           s->n_layers <= 1 << 10 && s->n_heads >= 1 && s->dim % s->n_heads == 0 && s->dim / s->n_heads % 2 == 0 && s->n_kv_heads >= 1 &&
           s->n_heads % s->n_kv_heads == 0 && s->hidden_dim >= 32 && s->hidden_dim <= 1 << 18 && s->hidden_dim % 32 == 0 &&
           s->max_seq_len >= 1 && s->max_seq_len <= 1 << 20 && s->rope_theta > 0 && s->norm_eps > 0;
}

#endif
