"""Tests the native optimizer against torch's AdamW and clipping, and against singular value decompositions in float64."""

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bulletlm.config.schema import TrainConfig
from bulletlm.shape import ModelShape
from bulletlm.train.backend.native import optimizer_paths, optimizer_problem
from bulletlm.train.muon import SQUARE_POLYNOMIALS, WIDE_POLYNOMIALS, Muon
from bulletlm.train.native_optimizer import NativeOptimizer
from bulletlm.train.state import TrainPosition, TrainState, initial_state
from bulletlm.train.step import clip, update

pytestmark = pytest.mark.skipif(optimizer_problem() is not None, reason=str(optimizer_problem()))
PATHS = [] if optimizer_problem() else optimizer_paths()
SHAPE = ModelShape(vocab_size=301, dim=96, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=160, max_seq_len=16)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def started(path: str | None, optimizer: str = "muon", **settings: float) -> TrainState[TrainPosition]:
    """A state whose steps `path` takes; None: torch."""
    config = TrainConfig(optimizer=optimizer, weight_decay=0.3, learning_rate=0.01, ema_decay=0.9, **settings)
    state = initial_state(config, SHAPE, 1, torch.device("cpu"))
    state.native = NativeOptimizer(state.model, state.optimizers, path) if path else None
    return state


def take_steps(state: TrainState[TrainPosition], steps: range, limit: float = 1.0) -> list[float]:
    """Steps with random gradients that depend on the number of the step only; returns their norms."""
    norms = []
    for step in steps:
        random = torch.Generator().manual_seed(step)
        for weight in state.model.parameters():
            weight.grad = 0.03 * torch.randn(weight.shape, generator=random)
        norms.append(clip(state, limit))
        update(state)
    return norms


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("limit", [1.0, 1e9], ids=["clipped", "not clipped"])
def test_adamw_clipping_and_average_are_torchs(path: str, limit: float) -> None:
    ours, theirs = started(path, "adamw"), started(None, "adamw")
    assert take_steps(ours, range(5), limit) == pytest.approx(take_steps(theirs, range(5), limit), rel=1e-6)
    expected = theirs.checkpoint().tensors
    for file, tensors in ours.checkpoint().tensors.items():
        assert tensors.keys() == expected[file].keys()
        for name, tensor in tensors.items():
            assert distance(tensor, expected[file][name]) < 2e-6, name
    assert not any(weight.grad.any() for weight in ours.model.parameters() if weight.grad is not None)


def by_singular_values(gradient: Tensor) -> Tensor:
    """`muon.orthogonalize` of one matrix from its definition: the polynomials, applied to the singular values over their 8-norm."""
    u, s, v = torch.linalg.svd(gradient.double(), full_matrices=False)
    s = s / s.pow(8).sum().pow(1 / 8)
    for a, b, c in SQUARE_POLYNOMIALS if max(gradient.shape) < 2 * min(gradient.shape) else WIDE_POLYNOMIALS:
        s = a * s + b * s**3 + c * s**5
    result: Tensor = u @ torch.diag(s) @ v
    return result


class OneMatrix(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())


def muon_update(gradient: Tensor, path: str | None) -> Tensor:
    """The first update of Muon for a gradient, without decay, divided by its factor."""
    model = OneMatrix(torch.zeros_like(gradient))
    model.weight.grad = gradient.clone()
    optimizer = Muon([model.weight], lr=1.0, weight_decay=0.0, momentum=0.0)
    if path:
        NativeOptimizer(model, [optimizer], path).step()
    else:
        optimizer.step()
    return -model.weight.detach() / (0.2 * math.sqrt(max(gradient.shape)))


@settings(max_examples=40, deadline=None)
@given(
    path=st.sampled_from([*PATHS, None]),
    rows=st.integers(1, 200),
    columns=st.integers(1, 6).map(lambda n: 32 * n),
    decades=st.sampled_from([0, 1, 3]),
    size=st.sampled_from([1e-12, 1e-3, 1.0, 1e6]),
)
def test_muon_moves_singular_values_as_its_polynomials_say(path: str | None, rows: int, columns: int, decades: float, size: float) -> None:
    """Whatever the shape and the size of the gradient, and where rows differ in size."""
    random = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * columns))
    gradient = size * random * torch.logspace(0, -decades, rows)[:, None]
    assert distance(muon_update(gradient, path).double(), by_singular_values(gradient)) < 0.02


@pytest.mark.parametrize("path", [*PATHS, None])
def test_muon_survives_matrices_without_full_rank(path: str | None) -> None:
    assert not muon_update(torch.zeros(32, 64), path).any()
    for rows, columns in ((64, 64), (64, 256), (256, 64)):
        random = torch.Generator().manual_seed(1)
        gradient = torch.randn(rows, 2, generator=random) @ torch.randn(2, columns, generator=random)
        gradient[5] = 0
        values = torch.linalg.svdvals(muon_update(gradient, path))
        assert values[:2].sub(1).abs().max() < 0.1
        assert values[2:].max() < 0.1


@pytest.mark.parametrize("path", PATHS)
def test_a_run_can_change_between_torch_and_the_library(path: str) -> None:
    """The state has the same names and shapes; after some steps of one, the other continues."""
    mixed, torchs = started(path), started(None)
    take_steps(mixed, range(2))
    take_steps(torchs, range(2))
    theirs = started(None)
    theirs.restore(mixed.checkpoint())
    take_steps(theirs, range(2, 4))
    mixed.restore(theirs.checkpoint())
    take_steps(mixed, range(4, 6))
    take_steps(torchs, range(2, 6))
    start, expected = started(None).checkpoint().tensors, torchs.checkpoint().tensors
    for file, tensors in mixed.checkpoint().tensors.items():
        assert tensors.keys() == expected[file].keys()
        for name, tensor in tensors.items():
            begun = start[file][name] if name in start.get(file, {}) else 0
            assert distance(tensor - begun, expected[file][name] - begun) < 0.02, name


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_number_of_threads_does_not_change_a_byte(path: str, optimizer: str) -> None:
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        state = started(path, optimizer)
        norms = take_steps(state, range(3))
        results.append((norms, state.checkpoint().tensors))
    for norms, tensors in results[1:]:
        assert norms == results[0][0]
        for file, named in tensors.items():
            assert all(torch.equal(tensor, results[0][1][file][name]) for name, tensor in named.items())


@settings(max_examples=40, deadline=None)
@given(
    path=st.sampled_from(PATHS),
    optimizer=st.sampled_from(["adamw", "muon"]),
    rate=st.sampled_from([1e-9, 1e-3, 1.0]),
    decay=st.sampled_from([0.0, 9.9]),
    betas=st.sampled_from([(0.0, 0.0), (0.9, 0.95), (0.999, 0.9999)]),
    eps=st.sampled_from([1e-12, 1e-8, 0.9]),
    ema=st.sampled_from([0.0, 0.9999]),
    limit=st.sampled_from([1e-6, 1.0, 1e9]),
    size=st.sampled_from([0.0, 1e-6, 1.0, 1e6]),
)
def test_settings_at_their_limits_give_what_torch_gives(
    path: str,
    optimizer: str,
    rate: float,
    decay: float,
    betas: tuple[float, float],
    eps: float,
    ema: float,
    limit: float,
    size: float,
) -> None:
    """Finite weights, and those of torch: within float32 for AdamW, within the rounding of its integers for Muon."""
    changes = {"learning_rate": rate, "muon_learning_rate": rate, "weight_decay": decay, "betas": betas, "eps": eps, "ema_decay": ema}
    config = TrainConfig(optimizer=optimizer, **changes)  # type: ignore[arg-type]
    shape = dataclasses.replace(SHAPE, vocab_size=33, dim=32, n_layers=1, n_heads=2, n_kv_heads=1, hidden_dim=64, max_seq_len=8)
    results = []
    for native in (True, False):
        state = initial_state(config, shape, 1, torch.device("cpu"))
        state.native = NativeOptimizer(state.model, state.optimizers, path) if native else None
        norms = []
        for step in range(3):
            random = torch.Generator().manual_seed(step)
            for weight in state.model.parameters():
                weight.grad = size * torch.randn(weight.shape, generator=random)
            norms.append(clip(state, limit))
            update(state)
        results.append((norms, state.checkpoint().tensors))
    (norms, tensors), (expected_norms, expected) = results
    assert norms == pytest.approx(expected_norms, rel=1e-6)
    for file in ("model", "ema") if ema else ("model",):
        for name, tensor in tensors[file].items():
            assert tensor.isfinite().all(), name
            by_muon = optimizer == "muon" and tensor.dim() == 2 and name.startswith("layers.")
            assert distance(tensor, expected[file][name]) < (0.03 if by_muon else 1e-4), name


def test_the_norm_of_a_large_matrix() -> None:
    """More than 2^25 elements, as the embedding of 65,536 tokens in a model of width 1024 has."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros((1 << 15) + 32, 1 << 10))
    model.weight.grad = torch.zeros_like(model.weight)
    model.weight.grad[-1, -1] = 2.0
    assert NativeOptimizer(model, [torch.optim.AdamW(model.parameters())]).clip(1.0) == 2.0


def test_unknown_instruction_sets_are_refused() -> None:
    state = started(PATHS[0])
    state.native = NativeOptimizer(state.model, state.optimizers, "none")
    with pytest.raises(RuntimeError, match="rejected"):
        take_steps(state, range(1))
