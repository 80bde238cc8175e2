"""Tests the native distillation pass against torch in FP32: KL and every gradient, with every instruction set of this CPU."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bulletlm.config.schema import TrainConfig
from bulletlm.errors import DataError
from bulletlm.progress import SilentProgress
from bulletlm.quant.fake_quant import FakeQuant
from bulletlm.shape import ModelShape
from bulletlm.train import distil
from bulletlm.train.backend import native
from bulletlm.train.backend.compute import Compute
from bulletlm.train.backend.native import Trainer, why_no_distillation
from bulletlm.train.distil import TeacherBackend, choose_backend
from bulletlm.train.model import IGNORE, Transformer
from machines import MACHINES, capabilities

pytestmark = pytest.mark.skipif(why_no_distillation() is not None, reason=str(why_no_distillation()))

SHAPE = ModelShape(vocab_size=300, dim=64, n_layers=2, n_heads=2, n_kv_heads=1, hidden_dim=128, max_seq_len=32)
SHAPES = {
    "grouped heads": SHAPE,
    "as many keys and values": dataclasses.replace(SHAPE, n_heads=4, n_kv_heads=4),
    "untied": dataclasses.replace(SHAPE, tied_embeddings=False),
    "odd context, odd vocabulary": dataclasses.replace(SHAPE, vocab_size=301, max_seq_len=45),
    "odd widths, untied": dataclasses.replace(
        SHAPE, dim=96, n_heads=8, n_kv_heads=2, hidden_dim=160, max_seq_len=23, tied_embeddings=False
    ),
    "one layer, wide heads": dataclasses.replace(SHAPE, dim=160, n_layers=1, n_heads=1, max_seq_len=70),
}
PRECISIONS = ("fp32", "native")

Batch = tuple[Tensor, Tensor]
Result = dict[str, Tensor]


@pytest.fixture(autouse=True, params=[None] if why_no_distillation() else native.distillation_paths())
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distil, "Trainer", functools.partial(Trainer, path=request.param))


@functools.cache
def taught(shape: ModelShape) -> Transformer:
    """A model with clear preferences: its logits have a standard deviation of about 2."""
    model = Transformer(shape)
    model.initialize(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(6)
    return model


def rounded(shape: ModelShape) -> Transformer:
    """The teacher with matrices rounded to BQ4, and with other norms."""
    teacher, student = taught(shape), Transformer(shape)
    student.load_state_dict(teacher.state_dict())
    types = {name: "BQ4" if weight.dim() > 1 else "F32" for name, weight in student.named_parameters()}
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        weights = FakeQuant(student, types).rounded({name: weight.detach() for name, weight in student.named_parameters()})
        for name, weight in student.named_parameters():
            weight.copy_(weights[name] if weight.dim() > 1 else weight + 0.05 * torch.randn(weight.shape, generator=noise))
    return student


def batch(shape: ModelShape, sequences: int = 5) -> Batch:
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, shape.vocab_size, (sequences, shape.max_seq_len + 1)))
    targets = ids[:, 1:].clone()
    targets[0, 3:9] = IGNORE
    targets[1] = IGNORE
    return ids[:, :-1], targets


def learn(student: Transformer, precision: str, *batches: Batch, threads: int = 1) -> Result:
    """The gradients by name, the mean KL as computed with them ("loss") and without ("measured")."""
    shape = student.shape
    config = TrainConfig(precision="fp32" if precision == "fp32" else "auto", threads=threads, compile="off", batch_size_per_device=5)
    backend, measure = choose_backend(taught(shape), student, config, 5, 1000, SilentProgress(), capabilities(MACHINES["vnni"]))
    torch.set_num_threads(1)
    assert isinstance(backend, TeacherBackend if precision == "fp32" else Compute)
    student.zero_grad(set_to_none=True)
    backend.load_weights()
    count = sum(int((targets != IGNORE).sum()) for _, targets in batches)
    loss = sum(backend.accumulate_gradients(*each, count) for each in batches)
    gradients = {name: weight.grad.clone() for name, weight in student.named_parameters() if weight.grad is not None}
    with torch.no_grad():
        measured = sum(float(measure(*each)) for each in batches) / count
    for name, weight in student.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=0, atol=0, equal_nan=True, msg="measuring leaves gradients alone")
    return gradients | {"loss": torch.tensor(loss), "measured": torch.tensor(measured)}


def error(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def same(a: Result, b: Result) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_it_is_the_divergence_and_its_gradients(shape: ModelShape) -> None:
    """The KL to a thousandth, or 1e-6 nats; int8 in the backward pass costs a few percent of each gradient."""
    exact, native = (learn(rounded(shape), precision, batch(shape)) for precision in PRECISIONS)
    assert exact["loss"] > 0.003, "as much as 4 bits usually cost"
    for name in ("loss", "measured"):
        assert float(native[name]) == pytest.approx(float(exact[name]), rel=1e-3, abs=1e-6)
    for name in exact.keys() - {"loss", "measured"}:
        assert error(native[name], exact[name]) < 0.1, name
        assert torch.cosine_similarity(native[name].double().flatten(), exact[name].double().flatten(), 0) > 0.995, name


def test_its_predictions_are_much_more_exact_than_int8() -> None:
    """A teacher with noise of 1/1000 in its weights: KL of 1e-5, which a pass with 8-bit weights or activations would drown."""
    shape = SHAPES["odd widths, untied"]
    student, noise = Transformer(shape), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for mine, other in zip(student.parameters(), taught(shape).parameters(), strict=True):
            mine.copy_(other * (1 + 1e-3 * torch.randn(other.shape, generator=noise)))
    exact, native = (float(learn(student, precision, batch(shape))["loss"]) for precision in PRECISIONS)
    assert 1e-7 < exact < 1e-4
    assert native == pytest.approx(exact, rel=0.05)


def test_a_student_like_its_teacher_has_nothing_to_learn() -> None:
    student = Transformer(SHAPE)
    student.load_state_dict(taught(SHAPE).state_dict())
    found = learn(student, "native", batch(SHAPE))
    assert all(abs(float(found[name])) < 1e-7 for name in ("loss", "measured"))
    assert all(found[name].abs().max() < 1e-7 for name in found)


@pytest.mark.parametrize("shape", [SHAPE, SHAPES["odd context, odd vocabulary"]], ids=["even", "odd"])
def test_the_same_bytes_with_any_number_of_threads(shape: ModelShape) -> None:
    student = rounded(shape)
    first = learn(student, "native", batch(shape))
    assert all(same(learn(student, "native", batch(shape), threads=threads), first) for threads in (2, 3))


def test_positions_count_but_the_ids_of_targets_do_not() -> None:
    student, (tokens, targets) = rounded(SHAPE), batch(SHAPE)
    other = torch.where(targets == IGNORE, targets, (targets + 7) % SHAPE.vocab_size)
    first = learn(student, "native", (tokens, targets))
    assert same(learn(student, "native", (tokens, other)), first)
    assert not torch.equal(learn(student, "native", (tokens, tokens))["loss"], first["loss"])
    apart = learn(student, "native", (tokens[:2], targets[:2]), (tokens[2:], targets[2:]))
    assert float(apart["loss"]) == pytest.approx(float(first["loss"]), rel=1e-6)


def test_weights_that_change_count_after_they_are_loaded() -> None:
    student = rounded(SHAPE)
    trainer = distil.Trainer(student, 1, teacher=taught(SHAPE))
    trainer.load_weights()
    before = trainer.divergence(*batch(SHAPE))
    with torch.no_grad():
        student.final_norm.weight.mul_(1.1)
        student.layers[0].mlp.up_proj.weight.mul_(1.1)
    trainer.load_weights()
    count = int((batch(SHAPE)[1] != IGNORE).sum())
    assert before != trainer.divergence(*batch(SHAPE)) == pytest.approx(count * float(learn(student, "native", batch(SHAPE))["loss"]))


@pytest.mark.parametrize("wrong", [300, 10**6, -2])
def test_an_id_outside_the_vocabulary_is_one_line(wrong: int) -> None:
    for which in (0, 1):
        pair = batch(SHAPE)
        pair[which][4, 31] = wrong
        with pytest.raises(DataError, match="a token id is outside the vocabulary of 300"):
            learn(rounded(SHAPE), "native", pair)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", SHAPE.tensors())
def test_a_weight_that_is_not_finite_shows_in_the_loss(name: str, value: float) -> None:
    student = rounded(SHAPE)
    with torch.no_grad():
        student.get_parameter(name).view(-1)[70 % student.get_parameter(name).numel()] = value
    assert not torch.isfinite(learn(student, "native", batch(SHAPE))["loss"])


def test_what_computes_follows_the_machine_and_the_precision(tmp_path: Path) -> None:
    found = {}
    for name, machine in MACHINES.items():
        for precision in ("auto", "fp32", "bf16"):
            config = TrainConfig(precision=precision, threads=1, compile="off")  # type: ignore[arg-type]
            backend, _ = choose_backend(taught(SHAPE), rounded(SHAPE), config, 8, 1000, SilentProgress(), capabilities(machine))
            found[name, precision] = type(backend)
    for (name, precision), kind in found.items():
        assert kind is (Compute if precision == "auto" and "avx2" in MACHINES[name].instruction_sets else TeacherBackend), (name, precision)
    taught(SHAPE).compute_in("fp32")
