"""Tests the native training pass against autograd in FP32: every gradient, also for unusual shapes; equal inputs give equal bytes."""

import ctypes
import dataclasses
import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bulletlm.config.schema import TrainConfig
from bulletlm.data.tokens import TokenFile
from bulletlm.errors import ConfigError, DataError
from bulletlm.hardware import inspect_machine
from bulletlm.quant.fake_quant import FakeQuant
from bulletlm.runtime.native import ARGUMENT, Unavailable, c_shape
from bulletlm.shape import ModelShape
from bulletlm.train.backend import compute, native
from bulletlm.train.backend.compute import set_up
from bulletlm.train.backend.native import Trainer, why_not
from bulletlm.train.backend.plan import ComputePlan
from bulletlm.train.batches import TrainingWindows
from bulletlm.train.model import IGNORE, Transformer
from bulletlm.train.step import accumulate

needs_library = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(autouse=True, params=[None] if why_not() else native.paths())
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with every instruction set that this CPU supports."""
    monkeypatch.setattr(compute, "Trainer", functools.partial(Trainer, path=request.param))


SHAPE = ModelShape(vocab_size=300, dim=64, n_layers=2, n_heads=2, n_kv_heads=1, hidden_dim=128, max_seq_len=32)
SHAPES = {
    "shared keys and values": SHAPE,
    "as many keys and values": dataclasses.replace(SHAPE, n_heads=4, n_kv_heads=4),
    "an output matrix of its own": dataclasses.replace(SHAPE, tied_embeddings=False),
    "odd context, odd vocabulary": dataclasses.replace(SHAPE, vocab_size=301, max_seq_len=45),
    "narrow heads, odd widths": dataclasses.replace(SHAPE, dim=96, n_heads=8, n_kv_heads=2, hidden_dim=160, max_seq_len=23),
    "wide heads, one layer": dataclasses.replace(SHAPE, dim=160, n_layers=1, n_heads=1, max_seq_len=70),
    "a long context": dataclasses.replace(SHAPE, max_seq_len=300),
}


def made(shape: ModelShape) -> Transformer:
    model = Transformer(shape)
    model.initialize(5)
    return model


def batch(shape: ModelShape, sequences: int = 6, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.from_numpy(np.random.default_rng(seed).integers(0, shape.vocab_size, (sequences, shape.max_seq_len + 1)))
    targets = ids[:, 1:].clone()
    targets[0, 3:9] = IGNORE
    targets[1] = IGNORE
    return ids[:, :-1], targets


def learn(model: Transformer, precision: str, *batches: tuple[torch.Tensor, torch.Tensor], threads: int = 1) -> dict[str, torch.Tensor]:
    """Gradients by name, and the loss."""
    model.zero_grad()
    way = set_up(ComputePlan(False, precision, threads, 4), model)  # type: ignore[arg-type]
    way.load_weights()
    count = sum(int((targets != IGNORE).sum()) for _, targets in batches)
    loss = sum(way.accumulate_gradients(*each, count) for each in batches)
    torch.set_num_threads(1)
    return {name: weight.grad.clone() for name, weight in model.named_parameters()} | {"loss": torch.tensor([loss])}


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def assert_near(rounded: dict[str, torch.Tensor], exact: dict[str, torch.Tensor], most: float = 0.1) -> None:
    assert rounded.keys() == exact.keys()
    for name, gradient in exact.items():
        assert error(rounded[name], gradient) < most, name
        assert torch.cosine_similarity(rounded[name].double().flatten(), gradient.double().flatten(), 0) > 0.995, name
    assert error(rounded["loss"], exact["loss"]) < 1e-3


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.skipif(not inspect_machine().has_int8, reason="this CPU has neither AVX-512 VNNI nor AVX-VNNI")
def test_the_library_works_on_a_cpu_that_has_the_instructions() -> None:
    assert why_not() is None
    if "avx512_vnni" in inspect_machine().instruction_sets:
        assert native.paths()[0] == "avx512_vnni" and "avx512_half" in native.paths()


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    native.library.cache_clear()
    try:
        monkeypatch.setattr("bulletlm.runtime.native.EXTENSION_SUFFIXES", [])
        assert str(why_not()).startswith("the native training library cannot be used (it was not built")
        with pytest.raises(Unavailable, match="it was not built"):
            compute.Trainer(made(SHAPE), 1)
    finally:
        native.library.cache_clear()


@needs_library
@pytest.mark.parametrize(
    ("name", "size", "most"), [("vocab_size", 131_073, "131,072"), ("hidden_dim", 65_568, "65,536"), ("dim", 32_800, "32,768")]
)
def test_a_model_whose_sums_would_overflow_is_refused(name: str, size: int, most: str) -> None:
    """Also by the shape alone, so that a run with automatic precision does not choose int8."""
    shape = dataclasses.replace(ModelShape(64, 32, 1, 1, 1, 32, 8), **{name: size})
    problem = f"int8 is for models with a {name} of up to {most}, and this one has {size:,}"
    assert native.shape_problem(shape) == problem
    if name != "dim":  # such a model would take gigabytes
        with pytest.raises(ConfigError, match=f"^train.precision: {problem}; train with --precision=fp32$"):
            compute.Trainer(Transformer(shape), 1)


@needs_library
@pytest.mark.parametrize(("name", "size"), native.MAX_SHAPE.items())
def test_the_limits_of_the_shape_are_those_of_the_library(name: str, size: int) -> None:
    """One step above each limit the library refuses the arguments; at the limit there may still be too little memory."""
    least = ModelShape(64, 32, 1, 1, 1, 32, 8)
    for change, refused in ((0, False), (32, True)):
        shape = dataclasses.replace(least, **{name: size + change})
        handle = ctypes.c_void_p()
        result = native.library().bullet_trainer_new(ctypes.byref(c_shape(shape)), None, ctypes.byref(handle))
        native.library().bullet_trainer_free(handle)
        assert (result == ARGUMENT) == refused, (name, change)


@needs_library
def test_a_library_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    native.library.cache_clear()
    monkeypatch.setattr(native, "ABI", native.ABI + 1)
    assert "is of another version: install bulletlm again" in str(why_not())
    native.library.cache_clear()


@needs_library
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradients_are_near_those_of_fp32(shape: ModelShape) -> None:
    model = made(shape)
    exact, rounded = (learn(model, precision, batch(shape)) for precision in ("fp32", "int8"))
    assert_near(rounded, exact)
    assert error(rounded["layers.0.mlp.up_proj.weight"], exact["layers.0.mlp.up_proj.weight"]) > 1e-4, "it must round"


@needs_library
def test_gradients_of_a_model_that_has_learned_are_near_those_of_fp32() -> None:
    """Its activations and attention are uneven; those of a random model are not."""
    model, (tokens, targets) = made(SHAPE), batch(SHAPE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(tokens, targets)
        loss.backward()
        optimizer.step()
    assert loss.detach() / (targets != IGNORE).sum() < 3
    other = batch(SHAPE, seed=2)  # text that the model has memorized has almost no gradient
    assert_near(learn(model, "int8", other), learn(model, "fp32", other))


@needs_library
@pytest.mark.parametrize("length", [2, 15, 31])
def test_a_part_of_the_context(length: int) -> None:
    model = made(SHAPE)
    tokens, _ = batch(SHAPE)
    part = tokens[:, :length], tokens[:, 1 : length + 1]
    assert_near(learn(model, "int8", part), learn(model, "fp32", part))


@needs_library
def test_two_micro_batches_are_one() -> None:
    """Batches of other shapes in between have no effect."""
    model, (tokens, targets) = made(SHAPE), batch(SHAPE)
    whole = learn(model, "int8", (tokens, targets))
    halves = learn(model, "int8", (tokens[:2], targets[:2]), (tokens[2:], targets[2:]))
    assert_near(halves, whole)
    assert_near(halves, learn(model, "fp32", (tokens, targets)))
    trainer = compute.Trainer(model, 1)
    trainer.load_weights()
    found = []
    for each in (tokens, tokens[:1, :9], tokens[:, :9], tokens):
        model.zero_grad()
        trainer.accumulate_gradients(each, each, each.numel())
        found.append([weight.grad.clone() for weight in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[-1], strict=True))


@needs_library
def test_more_tokens_than_c_takes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(SHAPE)
    whole = learn(model, "int8", batch(SHAPE))
    monkeypatch.setattr(native, "MAX_TOKENS", 80)
    assert_near(learn(model, "int8", batch(SHAPE)), whole)


@needs_library
@pytest.mark.parametrize("shape", [SHAPE, SHAPES["odd context, odd vocabulary"]], ids=["even", "odd"])
def test_the_same_bytes_with_any_number_of_threads(shape: ModelShape) -> None:
    model = made(shape)
    first = learn(model, "int8", batch(shape))
    assert all(same(learn(model, "int8", batch(shape), threads=threads), first) for threads in (1, 2, 3))


@needs_library
def test_gradients_are_added_to_what_is_there() -> None:
    model = made(SHAPE)
    once = learn(model, "int8", batch(SHAPE))
    trainer = compute.Trainer(model, 1)
    trainer.load_weights()
    trainer.accumulate_gradients(*batch(SHAPE), float((batch(SHAPE)[1] != IGNORE).sum()))
    for name, weight in model.named_parameters():
        assert error(weight.grad, 2 * once[name]) < 1e-5, name


@needs_library
def test_ignored_targets_have_no_gradient() -> None:
    tokens, targets = batch(SHAPE)
    found = learn(made(SHAPE), "int8", (tokens, torch.full_like(targets, IGNORE)), (tokens[:1], targets[:1]))
    assert_near(found, learn(made(SHAPE), "fp32", (tokens[:1], targets[:1])))
    model = made(SHAPE)
    trainer = compute.Trainer(model, 1)
    trainer.load_weights()
    assert trainer.accumulate_gradients(tokens, torch.full_like(targets, IGNORE), 1.0) == 0
    assert not any(weight.grad.any() for weight in model.parameters())


@needs_library
def test_changed_weights_count_after_they_are_loaded() -> None:
    model, (tokens, targets) = made(SHAPE), batch(SHAPE)
    trainer = compute.Trainer(model, 1)
    trainer.load_weights()
    trainer.accumulate_gradients(tokens, targets, 1.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.25)
    trainer.load_weights()
    model.zero_grad()
    trainer.accumulate_gradients(tokens, targets, float((targets != IGNORE).sum()))
    found = [weight.grad.clone() for weight in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(found, learn(model, "int8", (tokens, targets)).values(), strict=False))


@needs_library
def test_weights_on_the_grid_are_what_it_computes_with(tokens_dir: Path) -> None:
    """`accumulate` loads the weights, and fake quantization replaces their memory."""
    config = TrainConfig(batch_size_per_device=4, gradient_accumulation_steps=2)
    windows = TrainingWindows(TokenFile(np.arange(5000, dtype=np.uint16) % 300, None, {}), SHAPE.max_seq_len, 1)
    results = []
    for on_grid in (True, False):
        model = made(SHAPE)
        fake = FakeQuant(model, {name: "BQ4" if len(extents) == 2 else "F32" for name, extents in SHAPE.tensors().items()})
        way = set_up(ComputePlan(False, "int8", 1, 4), model)
        accumulate(config, windows, 0, way)  # with the exact weights
        model.zero_grad()
        if on_grid:
            with fake.applied():
                loss = accumulate(config, windows, 1, way)
        else:
            with torch.no_grad():
                for name, weight in fake.rounded({name: weight.detach() for name, weight in model.named_parameters()}).items():
                    model.get_parameter(name).copy_(weight)
            loss = accumulate(config, windows, 1, way)
        results.append((loss, [weight.grad.clone() for weight in model.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


@needs_library
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("wrong", [300, 10**6, -2])
def test_an_id_outside_the_vocabulary_is_one_line(which: int, wrong: int) -> None:
    pair = batch(SHAPE)
    pair[which][5, 31] = wrong
    with pytest.raises(DataError, match="a token id is outside the vocabulary of 300"):
        learn(made(SHAPE), "int8", pair)


@needs_library
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", SHAPE.tensors())
def test_a_weight_that_is_not_finite_shows_in_the_loss(name: str, value: float) -> None:
    model = made(SHAPE)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[70 % model.get_parameter(name).numel()] = value
    assert not torch.isfinite(learn(model, "int8", batch(SHAPE))["loss"])


@needs_library
def test_scores_and_gates_beyond_what_an_exponential_holds() -> None:
    """Also for a key after the query: e^x was infinite there, and 0 times infinity is NaN."""
    model = made(dataclasses.replace(SHAPE, max_seq_len=45))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "gate_proj.weight")):
                weight.mul_(100)
    scores = []
    model.layers[0].attention.q_proj.register_forward_hook(lambda _module, _inputs, out: scores.append(float(out.detach().abs().max())))
    exact, rounded = (learn(model, precision, batch(model.shape)) for precision in ("fp32", "int8"))
    assert scores[0] > 20, "a score is a sum of 32 products of two such numbers / sqrt(32)"
    assert all(torch.isfinite(gradient).all() for gradient in rounded.values())
    assert error(rounded["loss"], exact["loss"]) < 0.02


@needs_library
def test_a_model_learns_as_in_fp32() -> None:
    tokens, targets = batch(SHAPE, 16)
    curves = []
    for precision in ("fp32", "int8"):
        model = made(SHAPE)
        way = set_up(ComputePlan(False, precision, 1, 16), model)  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            way.load_weights()
            losses.append(way.accumulate_gradients(tokens, targets, float((targets != IGNORE).sum())))
            optimizer.step()
        curves.append(np.array(losses))
    assert curves[0][-1] < 4
    assert np.abs(curves[0] - curves[1]).max() < 0.05
