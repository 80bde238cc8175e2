"""Tests that units that weight decay has set to zero can learn again, and that nothing else changes."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from bulletlm.shape import ModelShape
from bulletlm.train.dead_units import restart_dead_units
from bulletlm.train.model import Transformer

SHAPE = ModelShape(vocab_size=50, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=32, max_seq_len=16)
SHAPES = {"shared keys": SHAPE, "own keys": dataclasses.replace(SHAPE, n_kv_heads=4, tied_embeddings=False)}


def model_of(shape: ModelShape) -> Transformer:
    model = Transformer(shape)
    model.initialize(1)
    return model


def weaken(model: Transformer) -> int:
    """Shrink three neurons of layer 0, two dimensions of values, and one pair of queries and keys; returns the number of units."""
    layer, shape = model.layers[0], model.shape
    mlp, attention = layer.mlp, layer.attention
    queries, size = shape.n_heads // shape.n_kv_heads, shape.head_dim
    with torch.no_grad():
        for unit in (0, 5, 31):
            mlp.gate_proj.weight[unit] *= 1e-4
            mlp.up_proj.weight[unit] *= 1e-4
            mlp.down_proj.weight[:, unit] *= 1e-4
        for unit in (1, 6):  # of the second head of keys
            attention.v_proj.weight[size + unit] *= 1e-4
            for query in range(queries):
                attention.o_proj.weight[:, (queries + query) * size + unit] *= 1e-4
        for unit in (2, 3):
            attention.k_proj.weight[size + unit] *= 1e-4
            for query in range(queries):
                attention.q_proj.weight[(queries + query) * size + unit] *= 1e-4
    return 3 + 2 + 1


@pytest.mark.parametrize("name", SHAPES)
def test_dead_units_get_gradients_and_the_model_computes_the_same(name: str) -> None:
    model = model_of(SHAPES[name])
    ids = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(0))

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        return {key: weight.grad.clone() for key, weight in model.named_parameters() if weight.grad is not None}

    units = weaken(model)
    before, old = model(ids).detach(), {key: weight.detach().clone() for key, weight in model.named_parameters()}
    dead = gradients()
    assert restart_dead_units(model, seed=2) == units
    torch.testing.assert_close(model(ids), before, rtol=1e-5, atol=1e-5)
    alive = gradients()
    neuron, size = "layers.0.mlp.down_proj.weight", model.shape.head_dim
    assert alive[neuron][:, 5].norm() > 1e3 * dead[neuron][:, 5].norm()
    query = "layers.0.attention.q_proj.weight"
    row = model.shape.n_heads // model.shape.n_kv_heads * size + 2
    assert alive[query][row].norm() > 1e3 * dead[query][row].norm()
    changed = {key: int((weight != old[key]).any(dim=-1).sum()) for key, weight in model.named_parameters()}
    assert changed["layers.0.mlp.gate_proj.weight"] == 3 and changed["layers.0.attention.k_proj.weight"] == 2
    assert not any(count for key, count in changed.items() if not key.startswith("layers.0.") or "norm" in key)


@pytest.mark.parametrize("name", SHAPES)
def test_a_model_without_dead_units_is_left_as_it_is(name: str) -> None:
    """Also if one neuron is much stronger than all others, as in large models."""
    model = model_of(SHAPES[name])
    with torch.no_grad():
        model.layers[1].mlp.up_proj.weight[3] *= 1e6
    old = {key: weight.detach().clone() for key, weight in model.named_parameters()}
    assert restart_dead_units(model, seed=2) == 0
    assert all(torch.equal(weight, old[key]) for key, weight in model.named_parameters())


def test_the_new_weights_depend_on_the_seed_only() -> None:
    models = [model_of(SHAPE) for _ in range(3)]
    for model, seed in zip(models, (2, 2, 3), strict=True):
        weaken(model)
        restart_dead_units(model, seed)
    first, same, other = (model.layers[0].mlp.gate_proj.weight for model in models)
    assert torch.equal(first, same) and not torch.equal(first, other)
