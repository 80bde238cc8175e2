"""Tests int8 gradients: they are close to float64, unbiased and reproducible, and a model learns with them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.shape import ModelShape
from bulletlm.train import int8
from bulletlm.train.model import Transformer

needs_exact_products = pytest.mark.skipif(not int8.products_are_exact(), reason="torch's int8 products saturate on this CPU")

SHAPE = ModelShape(vocab_size=300, dim=64, n_layers=2, n_heads=2, n_kv_heads=1, hidden_dim=128, max_seq_len=16)


def random(*extents: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(extents).astype(np.float32))


def products(x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, two_bytes: bool = False) -> list[torch.Tensor]:
    """dx and dW; y is FP32's."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = int8.linear(x, weight, two_bytes)
    torch.testing.assert_close(y, torch.nn.functional.linear(x, weight), rtol=0, atol=0, equal_nan=True)
    y.backward(gradient)
    return [x.grad, weight.grad]


def exact_products(x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    x, weight, gradient = x.double(), weight.double(), gradient.double()
    rows = gradient.flatten(0, -2)
    return [gradient @ weight, rows.T @ x.flatten(0, -2)]


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b).norm() / b.norm())


@needs_exact_products
def test_products_are_near_those_of_float64() -> None:
    case = random(3, 40, 96), random(64, 96, seed=1), random(3, 40, 64, seed=2)
    for got, expected in zip(products(*case), exact_products(*case), strict=True):
        assert got.dtype == torch.float32 and got.shape == expected.shape
        assert error(got, expected) < 0.02


@needs_exact_products
def test_small_gradients_beside_a_large_one_are_unbiased() -> None:
    """The gradients of logits are like this; rounded to nearest, all the small ones would become 0."""
    weight = random(64, 32, seed=4)
    gradient = 1e-3 * random(2000, 64, seed=5).abs()
    gradient[:, 0] = -1
    case = random(2000, 32, seed=3), weight, gradient
    small = gradient[:, 1:].double() @ weight[1:].double()
    # The contribution of the large one is known exactly; the rest of the result is that of the small ones.
    large = -(weight[0] / weight[0].abs().max() * 127).round().double() * weight[0].abs().max() / 127
    one_byte, two_bytes = products(*case)[0] - large, products(*case, two_bytes=True)[0] - large
    assert error(one_byte.mean(0), small.mean(0)) < 0.1
    assert error(two_bytes, small) < 0.1 < 1 < error(one_byte, small)


@pytest.mark.parametrize("end", [-int8.LARGEST, int8.LARGEST])
def test_the_largest_code_stays_itself(end: int) -> None:
    """For one number in 200,000 the noise is near enough to a half to make 128 of 127, and 128 as int8 is -128."""
    exact = torch.full((4_000_000,), float(end))
    assert (int8._round_stochastically(exact, random(4_000_000, seed=1)) == end).all()


@given(st.integers(0, 2**32 - 1), st.floats(-127, 127, width=32))
def test_a_number_is_rounded_to_one_of_its_two_neighbours(seed: int, value: float) -> None:
    rounded = int8._round_stochastically(torch.full((4096,), value), random(4096, seed=seed)).float()
    assert ((rounded - value).abs() < 1 + 1e-4).all()
    # The mean of 4,096 numbers has a standard error of at most 1/128.
    assert abs(float(rounded.mean()) - value) < 6 / 128


@needs_exact_products
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 300]), st.floats(-30, 30))
def test_the_error_of_every_factor_is_within_its_bound(seed: int, columns: int, exponent: float) -> None:
    """The bounds that the module states, as shares of the scale of a row: 1/2 to nearest, 1 stochastically, 1/254 in two bytes."""
    x = random(5, columns, seed=seed) * 2.0**exponent
    codes, scale = int8._round_to_nearest(x)
    assert ((codes * scale.double() - x.double()).abs() <= (0.5 + 1e-4) * scale.double()).all()
    for two_bytes, bound in ((False, 1), (True, 1 / int8.LOW_CODES)):
        # Multiplied with the identity a product is its first factor after rounding.
        rounded = int8._product(x, torch.eye(columns, dtype=torch.int8), two_bytes)
        assert ((rounded.double() - x.double()).abs() <= (bound + 1e-4) * scale.double()).all()


@needs_exact_products
@pytest.mark.parametrize("value", [0.0, 1e-38, 1e30])
def test_numbers_at_the_ends_of_the_range(value: float) -> None:
    case = torch.full((8, 32), value), torch.full((32, 32), 1e-3), torch.full((8, 32), 1e-3)
    for got, expected in zip(products(*case), exact_products(*case), strict=True):
        assert torch.allclose(got.double(), expected, rtol=0.02, atol=1e-37)


@needs_exact_products
def test_nan_is_not_hidden() -> None:
    x = random(8, 32)
    x[3, 5] = float("nan")
    _, dw = products(x, random(16, 32, seed=1), random(8, 16, seed=2))
    assert not torch.isfinite(dw[:, 5]).any()


@needs_exact_products
def test_the_same_numbers_give_the_same_bytes() -> None:
    case = random(64, 64), random(32, 64, seed=1), random(64, 32, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(products(*case), products(*case), strict=True))


@needs_exact_products
def test_a_model_learns_as_in_fp32() -> None:
    tokens = torch.from_numpy(np.random.default_rng(3).integers(0, 300, (16, 17)))
    losses = {}
    for precision in ("fp32", "int8-gradients"):
        model = Transformer(SHAPE)
        model.initialize(5)
        model.compute_in(precision)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        curve = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = model.loss(tokens[:, :-1], tokens[:, 1:]) / 256
            loss.backward()
            optimizer.step()
            curve.append(float(loss.detach()))
        losses[precision] = np.array(curve)
    exact, rounded = losses.values()
    assert exact[-1] < 3
    assert exact[0] == rounded[0], "only gradients are rounded"
    assert 0 < np.abs(rounded - exact).max() < 0.05
