"""Tests fake quantization: torch and numpy round to the same bits, gradients pass through, and the model's own weights are restored."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bulletlm.quant import fake_quant
from bulletlm.quant.bq4 import Quantized, dequantize_bq4, dequantize_bq8, quantize_bq4, quantize_bq8, scales_of
from bulletlm.quant.calibrate import dequantize, round_plainly
from bulletlm.quant.fake_quant import FakeQuant, round_to

EXACT = {"BQ4": lambda w: dequantize_bq4(quantize_bq4(w)), "BQ8": lambda w: dequantize_bq8(quantize_bq8(w))}


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def rounded(type: str, weights: np.ndarray) -> np.ndarray:
    out = torch.full(weights.shape, torch.nan)
    round_to(type, torch.from_numpy(weights), out)
    return out.numpy()


def awkward(seed: int, rows: int) -> np.ndarray:
    """Blocks with ties for the largest, equal steps, zeros of both signs, numbers near every limit of float16 and float32."""
    random = np.random.default_rng(seed)
    w = random.standard_normal((rows, 32)).astype(np.float32)
    w *= np.float32(10) ** random.integers(-44, 4, (rows, 1)).astype(np.float32)
    coarse = random.random((rows, 1)) < 0.4  # few distinct values: ties of x and -x, and halves of steps
    w = np.where(coarse, np.round(w / np.abs(w).max(1, keepdims=True).clip(1e-30) * 4) * w[:, :1], w)
    w[random.random((rows, 32)) < 0.1] = 0
    w[random.random((rows, 32)) < 0.05] = -0.0
    w[random.random(rows) < 0.05] = 0
    return w.astype(np.float32)


@pytest.mark.parametrize("type", ["BQ4", "BQ8"])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 300))
def test_it_rounds_as_the_file_does(type: str, seed: int, rows: int) -> None:
    weights = awkward(seed, rows)
    assert_same_bits(rounded(type, weights), EXACT[type](weights))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-6e4, 6e4, width=32), min_size=32, max_size=32))
def test_any_block_rounds_as_the_file_does(values: list[float]) -> None:
    weights = np.array([values], np.float32)
    assert_same_bits(rounded("BQ4", weights), EXACT["BQ4"](weights))
    assert_same_bits(rounded("BQ8", weights), EXACT["BQ8"](weights))
    assert_same_bits(rounded("F16", weights), weights.astype(np.float16).astype(np.float32))


def test_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = awkward(1, 1000).reshape(250, 128)
    whole = rounded("BQ4", weights)
    monkeypatch.setattr(fake_quant, "BLOCKS_AT_ONCE", 7)
    assert_same_bits(rounded("BQ4", weights), whole)
    assert_same_bits(whole, EXACT["BQ4"](weights))


def test_what_no_file_can_hold_is_not_finite() -> None:
    weights = awkward(2, 3)
    weights[1, 5], weights[2, 0] = np.nan, 1e9
    assert np.isfinite(rounded("BQ4", weights)).all(axis=1).tolist() == [True, False, False]


class Two(nn.Module):
    """Two matrices and a gain, named like a model's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(64, 32, bias=False), nn.Linear(32, 96, bias=False)
        self.gain = nn.Parameter(torch.ones(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x * self.gain)))


TYPES = {"first.weight": "BQ4", "second.weight": "BQ8", "gain": "F32"}


def values_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: weight.detach().numpy().copy() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("fixed", [False, True])
def test_inside_the_block_the_model_is_what_the_file_will_hold(fixed: bool) -> None:
    model = Two()
    before = values_of(model)
    scales = {"first.weight": torch.rand(32, 2).sub(0.5).mul(0.1).half().float()} if fixed else None
    fake = FakeQuant(model, TYPES, scales)
    with fake.applied():
        inside = values_of(model)
    for name, weight in values_of(model).items():
        assert_same_bits(weight, before[name])
        assert (inside[name] == before[name]).all() == (name == "gain")
    for name, tensor in fake.quantized().items():
        assert_same_bits(dequantize(tensor), inside[name])
        if not fixed:
            assert_same_bits(dequantize(round_plainly(before[name], TYPES[name])), inside[name])
    if scales:
        tensor = fake.quantized()["first.weight"]
        assert isinstance(tensor, Quantized)
        np.testing.assert_array_equal(scales_of(tensor.blocks), scales["first.weight"].numpy())
        steps = before["first.weight"].reshape(32, 2, 32) / scales["first.weight"].numpy()[..., None]
        nearest = np.clip(np.rint(steps), -8, 7) * scales["first.weight"].numpy()[..., None]
        np.testing.assert_allclose(inside["first.weight"], nearest.reshape(32, 64), rtol=1e-6)


def test_gradients_are_those_of_the_rounded_weights_and_go_to_the_exact_ones() -> None:
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    model, rounded_model = Two(), Two()
    fake = FakeQuant(model, TYPES)
    with torch.no_grad():
        for name, weight in rounded_model.named_parameters():
            weight.copy_(torch.from_numpy(dequantize(fake.quantized()[name])))
    rounded_model(x).square().sum().backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = values_of(model)
    with fake.applied():
        for part in (x[:2], x[2:]):
            model(part).square().sum().backward()
    gradients = dict(rounded_model.named_parameters())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name].grad)
    optimizer.step()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach(), torch.from_numpy(before[name]) - 1e-3 * weight.grad)


def test_a_failure_inside_gives_the_weights_back() -> None:
    model = Two()
    before = values_of(model)
    with pytest.raises(RuntimeError), FakeQuant(model, TYPES).applied():
        raise RuntimeError
    for name, weight in values_of(model).items():
        assert_same_bits(weight, before[name])
