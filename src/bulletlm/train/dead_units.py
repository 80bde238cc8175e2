"""Units that weight decay has set to zero: training cannot move them, so a new training gives them random weights.

A unit is a neuron of an MLP, a pair of dimensions of an attention head in which queries and keys are compared, or a dimension of its
values. What a unit computes is a product of weights. Where every factor is almost zero, the gradient of each of them is almost zero too.
"""

import torch
from torch import Tensor

from bulletlm.train.model import Attention, Layer, SwiGLU, Transformer

DEAD = 1e-6
"""A unit is dead if the product of the norms of its weights is less than this share of that of a new model, on average."""


def restart_dead_units(model: Transformer, seed: int) -> int:
    """Give dead units the weights of a new model, except for one factor, which becomes zero.

    So the model computes what it did before, but the gradient of that factor is no longer zero.

    Args:
        model: its weights are changed in place.
        seed: decides the random weights.

    Returns:
        The number of dead units.
    """
    new = Transformer(model.shape).to(next(model.parameters()).device)
    new.initialize(seed)
    count = 0
    with torch.no_grad():
        for layer, fresh in zip(model.layers, new.layers, strict=True):
            assert isinstance(layer, Layer) and isinstance(fresh, Layer)
            count += _restart_neurons(layer.mlp, fresh.mlp) + _restart_heads(layer.attention, fresh.attention)
    return count


def _restart_neurons(mlp: SwiGLU, new: SwiGLU) -> int:
    gate, up, down = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight
    dead = _strength(mlp) < DEAD * _strength(new).mean()
    gate[dead], up[dead] = new.gate_proj.weight[dead], new.up_proj.weight[dead]
    down[:, dead] = 0
    return int(dead.sum())


def _strength(mlp: SwiGLU) -> Tensor:
    """The product of the norms of each neuron's weights, (hidden_dim,)."""
    product: Tensor = mlp.gate_proj.weight.norm(dim=1) * mlp.up_proj.weight.norm(dim=1) * mlp.down_proj.weight.norm(dim=0)
    return product


def _restart_heads(attention: Attention, new: Attention) -> int:
    (q, k, v, o), (_, new_k, new_v, _) = _heads(attention), _heads(new)
    pairs, values = _strengths(attention)
    new_pairs, new_values = _strengths(new)
    dead = pairs < DEAD * new_pairs.mean()
    k[dead] = new_k[dead]
    q.transpose(1, 2)[dead] = 0
    count = int(dead.sum())
    dead = values < DEAD * new_values.mean()
    v[dead] = new_v[dead]
    o.transpose(1, 2)[dead] = 0
    return count + int(dead.sum())


def _heads(attention: Attention) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views of the matrices by unit; several query heads can share the keys and values of one head (H of them, each with G queries).

    The position turns dimensions 2i and 2i + 1 of queries and keys into each other, so the two are one unit.

    Returns:
        q (H, G, D / 2, 2 dim), k (H, D / 2, 2 dim), v (H, D, dim), o (H, G, D, dim).
    """
    shape = attention.shape
    heads, queries, size = shape.n_kv_heads, shape.n_heads // shape.n_kv_heads, shape.head_dim
    return (
        attention.q_proj.weight.view(heads, queries, size // 2, -1),
        attention.k_proj.weight.view(heads, size // 2, -1),
        attention.v_proj.weight.view(heads, size, -1),
        attention.o_proj.weight.T.view(heads, queries, size, -1),
    )


def _strengths(attention: Attention) -> tuple[Tensor, Tensor]:
    """The product of the norms of each unit's weights: (H, D / 2) of queries and keys, (H, D) of values and outputs."""
    q, k, v, o = _heads(attention)
    return q.norm(dim=3).amax(dim=1) * k.norm(dim=2), o.norm(dim=3).amax(dim=1) * v.norm(dim=2)
