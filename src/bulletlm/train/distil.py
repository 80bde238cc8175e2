"""Distillation of the 4-bit model: the finished FP32 model teaches the model with rounded weights to predict what it predicts.

The student computes with fake-quantized weights. The loss is KL(teacher || student) at every position that counts, at
temperature 1 and without another term, so the student learns nothing except to imitate the teacher. Its exact ("latent")
weights are worse than the teacher and the rounded student. They leave this module only rounded (docs/quantization.md).
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bulletlm.config.schema import QatConfig, TrainConfig
from bulletlm.data.tokens import TokenFile
from bulletlm.hardware import keep_memory
from bulletlm.progress import Progress
from bulletlm.quant import calibrate
from bulletlm.quant.bq4 import Quantized, scales_of
from bulletlm.quant.fake_quant import FakeQuant
from bulletlm.shape import ModelShape
from bulletlm.train.backend.compute import Compute, compile_problem, compiled, denormals_are_zero, pick_device, run_layer
from bulletlm.train.backend.native import Trainer
from bulletlm.train.backend.plan import Capabilities, inspect_capabilities, pays_to_compile, run_flops
from bulletlm.train.batches import TrainingWindows, validation_batches
from bulletlm.train.checkpoint import remove_checkpoints
from bulletlm.train.guard.rollback import Diverged, find_trouble
from bulletlm.train.guard.stopping import be_nice
from bulletlm.train.loop import Run, StepResult, run_steps
from bulletlm.train.model import IGNORE, Transformer
from bulletlm.train.state import TrainState
from bulletlm.train.step import GradientBackend
from bulletlm.train.validation import check_target_count

WARMUP_STEPS = 10
"""Steps in which the learning rate rises to its peak."""

EMA_DECAY = 0.95
"""Decay per step of the moving average of the student's weights."""

CLIP_NORM = 1.0
"""Global norm down to which gradients are clipped, in nats per unit of weight."""

SAVE_EVERY_STEPS = 50
"""Steps between checkpoints. They take a minute or two."""

MOST_NOISE = 5e-4
"""A KL above this, in nats per token, is never taken for noise: a few held-out tokens say little, but it may still be real."""

NATIVE_SEQUENCES = 8
"""Sequences in one pass of the native library, at least: its threads take whole sequences. It is not a multiple of the number of threads
because the bytes of the result depend on the size of a pass, and must not depend on the number of threads."""

KEPT_CHECKPOINTS = 2
"""Number of checkpoints that are kept: the last one, and the one before it in case the last one is damaged."""

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(tokens, targets), int64 (B, T) -> sum of KL(teacher || student) over the positions that count, nats, with the student's gradients."""

Measure = Callable[[Tensor, Tensor], Tensor | float]
"""As Divergence, but without gradients."""


@dataclass(frozen=True, kw_only=True)
class DistilJob:
    """What is distilled, on which text, and where the files are.

    Attributes:
        shape: shape of the model.
        teacher: weights of the finished model, float32, by name.
        start: the same weights rounded to `types`; the student starts there.
        keep_scales: whether the student keeps the BQ4 scales of `start`; otherwise they follow the largest weight of each block.
        types: type of every tensor.
        config: number and size of the steps.
        train: settings of the training that made the teacher; the student takes optimizer settings, sequences per pass, threads,
            precision and pauses from it.
        seed: decides the order of the text.
        text: training tokens.
        held_out: tokens on which the KL is measured.
        run_dir: run folder, which exists; a file `stop` in it ends the work.
        checkpoints: folder for the checkpoints. Those that have the same `key` are continued, others are deleted.
        key: fingerprint of everything that decides the result.
        skip_noise: take no step if the KL of the start is `below_noise`.
    """

    shape: ModelShape
    teacher: Mapping[str, calibrate.Floats]
    start: Mapping[str, calibrate.Tensor]
    keep_scales: bool
    types: Mapping[str, str]
    config: QatConfig
    train: TrainConfig
    seed: int
    text: TokenFile
    held_out: TokenFile
    run_dir: Path
    checkpoints: Path
    key: str
    skip_noise: bool = False


@dataclass(frozen=True)
class Distilled:
    """The best rounded weights.

    Attributes:
        tensors: the weights as `write_bullet` takes them, by name.
        chosen: which weights they are: "start", "raw" (after the last step) or "ema" (their moving average).
        kl: held-out KL of each of these three, in nats per token; only of the start if no step was taken, or if the steps diverged.
        tokens: training tokens of all steps.
        problem: how the steps diverged, in words; None if they did not. The weights are those of the start then.
    """

    tensors: dict[str, calibrate.Tensor]
    chosen: str
    kl: dict[str, float]
    tokens: int
    problem: str | None = None


@dataclass
class DistilPosition:
    """The position of a distillation.

    Attributes:
        step: number of completed optimizer steps.
        kl: held-out KL of the start, in nats per token, under the name "start".
    """

    step: int = 0
    kl: dict[str, float] = field(default_factory=dict)

    def batch(self) -> int:
        """Number of the effective batch that the next step uses."""
        return self.step

    def optimizer_step(self) -> int:
        """Number of steps that the optimizers have taken."""
        return self.step

    def to_json(self) -> dict[str, Any]:
        """The entries of state.json, as JSON values."""
        return {"step": self.step, "kl": self.kl}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The position from the entries of state.json; other entries are ignored."""
        return cls(int(values["step"]), dict(values["kl"]))


@dataclass(frozen=True)
class TeacherBackend:
    """A `GradientBackend` in torch whose loss is the KL between teacher and student.

    Attributes:
        divergence: computes the loss.
        sequences_per_pass: sequences in one forward and backward pass.
        device: where both models are.
    """

    divergence: Divergence
    sequences_per_pass: int
    device: torch.device

    def pass_size(self, sequences: int) -> int:
        """Sequences in one pass; the last pass may have fewer."""
        return min(self.sequences_per_pass, sequences)

    def load_weights(self) -> None:
        """torch reads the weights themselves."""

    def accumulate_gradients(self, tokens: Tensor, targets: Tensor, count: float) -> float:
        """Add the gradients of (summed KL / count) to those of the student; tokens and targets int64 (B, T). Returns nats."""
        loss = self.divergence(tokens, targets) / count
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())


@dataclass(kw_only=True)
class Distillation(Run[DistilPosition]):
    """A distillation.

    Attributes:
        fake: rounds the weights of the student.
        problem: how the steps diverged, in words; None if they did not.
    """

    fake: FakeQuant
    problem: str | None = None

    title = "Distilling"
    of_what = " of QAT"

    def begin(self) -> str:
        """The KL before the first step, in words."""
        return f"KL {self.state.position.kl['start']:.5f} before"

    def learning_rate_share(self) -> float:
        """Linear warm-up, then linear to 0 after the last step."""
        step, steps = self.state.position.step, self.total_steps
        return min((step + 1) / (WARMUP_STEPS + 1), (steps - step) / steps)

    def step_weights(self) -> contextlib.AbstractContextManager[None]:
        """The rounded weights."""
        return self.fake.applied()

    def find_trouble(self, loss: float, grad_norm: float) -> str | None:
        """NaN or infinity."""
        return find_trouble(loss, grad_norm, (), 0, self.state.model.shape.vocab_size, 1)

    def recover(self, trouble: Diverged) -> bool:
        """End: the weights of the start are a good model, and only a lower learning rate would help."""
        self.problem = f"{trouble.problem} at step {self.state.position.step:,}"
        return False

    def record(self, result: StepResult) -> str:
        """The KL of the step, in words."""
        return f"KL {result.loss:.5f}, {self.begin()}"


@denormals_are_zero()
def distil(job: DistilJob, progress: Progress) -> Distilled:
    """Train the rounded weights for `job.config.steps` steps and return the best ones: those of the start, of the end, or their average.

    If the loss is no longer a number in a step, they are those of the start.

    Raises:
        Interrupted: SIGINT, SIGTERM, SIGHUP, a file `stop` in the run folder or a nearly full disk; a checkpoint was written first.
        BulletError: no checkpoint is intact, or the disk is full.
    """
    be_nice(job.train.nice)
    keep_memory()
    shape, config = job.shape, job.config
    device = pick_device(job.train.device)
    teacher, student = (_model(shape, job.teacher, device) for _ in range(2))
    sequences = max(1, round(config.tokens_per_step / shape.max_seq_len))
    steps = config.steps or 0
    backend, measure = choose_backend(teacher, student, job.train, sequences, steps * config.tokens_per_step, progress)
    fake = FakeQuant(student, job.types, _take_over(student, job.start) if job.keep_scales else None)

    def held_out_kl() -> float:
        with fake.applied():
            backend.load_weights()
            return _mean_over(measure, job.held_out, shape.max_seq_len, job.train.batch_size_per_device)

    settings = _student_settings(job, sequences)
    state = TrainState(student, settings, DistilPosition(), job.key)
    if not state.resume(job.checkpoints, f"delete {job.checkpoints} to start QAT again", functools.partial(_discard, progress), progress):
        state.position.kl["start"] = held_out_kl()
        if job.skip_noise and below_noise(state.position.kl["start"], len(job.held_out.tokens)):
            return Distilled(dict(job.start), "start", dict(state.position.kl), 0)
    run = Distillation(
        config=settings,
        total_steps=steps,
        run_dir=job.run_dir,
        checkpoints=job.checkpoints,
        state=state,
        backend=backend,
        windows=TrainingWindows(job.text, shape.max_seq_len, job.seed),
        progress=progress,
        fake=fake,
    )
    run_steps(run)
    kl, tokens = dict(state.position.kl), state.position.step * sequences * shape.max_seq_len
    if run.problem:
        return Distilled(dict(job.start), "start", kl, tokens, run.problem)
    candidates = {"start": dict(job.start), "raw": fake.quantized()}
    kl["raw"] = held_out_kl()
    assert state.ema
    with state.ema.applied(student):
        candidates["ema"] = fake.quantized()
        kl["ema"] = held_out_kl()
    chosen = min(kl, key=lambda name: kl[name])
    return Distilled(candidates[chosen], chosen, kl, tokens)


def below_noise(kl: float, tokens: int) -> bool:
    """Whether the loss that rounding costs cannot be measured on `tokens` held-out tokens.

    For small differences between two models, the variance of a token's loss difference is about twice the KL. The mean over n tokens
    then has a standard error of sqrt(2 kl / n), which is more than the KL itself if kl < 2 / n.

    Args:
        kl: of the rounded model from the exact one, in nats per token.
        tokens: number of held-out tokens.
    """
    return kl < min(2 / max(tokens, 1), MOST_NOISE)


def _student_settings(job: DistilJob, sequences: int) -> TrainConfig:
    """The settings of the teacher's training, except where the student's steps differ."""
    return job.train.model_copy(
        update={
            "optimizer": "adamw",
            "learning_rate": job.train.learning_rate * job.config.learning_rate_share,
            "weight_decay": 0.0,  # it would pull the weights away from the teacher's, across the edges of their rounding intervals
            "ema_decay": EMA_DECAY,
            "clip_grad_norm": CLIP_NORM,
            "batch_size_per_device": sequences,
            "gradient_accumulation_steps": 1,
            "save_every_steps": SAVE_EVERY_STEPS,
            "keep_checkpoints": KEPT_CHECKPOINTS,
        }
    )


def _discard(progress: Progress, folder: Path) -> None:
    """Delete the checkpoints of another distillation."""
    progress.log(f"starting QAT again: {folder} was trained with other settings or data")
    remove_checkpoints(folder.parent)


def _model(shape: ModelShape, tensors: Mapping[str, calibrate.Floats], device: torch.device) -> Transformer:
    model = Transformer(shape)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(np.array(tensors[name])))
    return model.to(device)


@torch.no_grad()
def _take_over(student: Transformer, start: Mapping[str, calibrate.Tensor]) -> dict[str, Tensor]:
    """Set the exact BQ4 weights of the student to those of `start`; returns their scales, float32 (..., n // 32) by name.

    A weight in the middle of its rounding interval changes its rounded value only after many gradients in one direction. The
    FP32 weight is often near the edge of the interval that calibration chose, or outside of it. From there the first noise
    would undo the calibration: on the demo's model that start ended worse than calibration alone.
    """
    scales = {}
    for name, weight in student.named_parameters():
        tensor = start[name]
        if isinstance(tensor, Quantized) and tensor.type == "BQ4":
            scales[name] = torch.from_numpy(scales_of(tensor.blocks).astype(np.float32)).to(weight.device)
            weight.copy_(torch.from_numpy(tensor.dequantize()))
    return scales


def choose_backend(
    teacher: Transformer,
    student: Transformer,
    train: TrainConfig,
    sequences: int,
    tokens: int,
    progress: Progress,
    capabilities: Capabilities | None = None,
) -> tuple[GradientBackend, Measure]:
    """What computes the loss and its gradients, and the function that measures the loss; load the weights before calling it.

    The native library if it can be used on this computer and `train.precision` does not ask for another one; otherwise torch.

    Args:
        teacher, student: models of one shape on one device.
        train: settings; see `DistilJob.train`.
        sequences: sequences in one step.
        tokens: training tokens of the whole distillation.
        progress: shows messages.
        capabilities: of the computer; None inspects this one.
    """
    device, at_once = teacher.rope.device, min(train.batch_size_per_device, sequences)
    capabilities = (capabilities or inspect_capabilities(device.type)).for_shape(teacher.shape)
    if train.precision in ("auto", "int8") and capabilities.distillation_problem is None:
        threads = train.threads or capabilities.machine.cores
        torch.set_num_threads(threads)
        trainer = Trainer(student, threads, teacher=teacher)
        at_once = max(at_once, min(NATIVE_SEQUENCES, sequences))
        return Compute(trainer.accumulate_gradients, trainer.load_weights, at_once, "native"), trainer.divergence
    divergence, measure = _divergences(teacher, student, train, at_once, tokens, progress, capabilities)
    return TeacherBackend(divergence, at_once, device), measure


def _divergences(
    teacher: Transformer,
    student: Transformer,
    train: TrainConfig,
    at_once: int,
    tokens: int,
    progress: Progress,
    capabilities: Capabilities,
) -> tuple[Divergence, Divergence]:
    """The loss in torch for training, with passes of `at_once` sequences, and the loss for measuring.

    The former is compiled if a run over `tokens` tokens is long enough for that to pay.
    """
    shape = teacher.shape
    torch.set_num_threads(train.threads or capabilities.machine.cores)
    floats = capabilities.best_float if train.precision == "auto" else "bf16" if train.precision == "bf16" else "fp32"
    teacher.compute_in(floats)
    student.compute_in(floats)
    eager = _divergence_with(teacher, student, run_layer, _divergence)
    # Training costs three passes (one forward, two backward); the teacher's forward pass is a fourth.
    if not pays_to_compile(train, capabilities.device, 4 / 3 * run_flops(shape, tokens)):
        return eager, eager
    graph = _divergence_with(teacher, student, compiled(run_layer), compiled(_divergence))
    trial = torch.arange(at_once * shape.max_seq_len).remainder(shape.vocab_size).view(at_once, -1)
    if problem := compile_problem(lambda: graph(trial, trial).backward(), student, capabilities):  # type: ignore[no-untyped-call]
        progress.log(f"QAT in eager mode, which is slower: {problem}")
        return eager, eager
    # Compiling for the smaller last batch of the held-out text would take longer than measuring all of it in eager mode.
    return graph, eager


def _divergence_with(teacher: Transformer, student: Transformer, layer: Callable[..., Tensor], head: Callable[..., Tensor]) -> Divergence:
    device = teacher.rope.device

    def divergence(tokens: Tensor, targets: Tensor) -> Tensor:
        tokens, counts = tokens.to(device), (targets != IGNORE).to(device)
        with torch.no_grad():
            taught = teacher.hidden(tokens, layer)
        return head(teacher, student, taught, student.hidden(tokens, layer), counts)

    return divergence


def _divergence(teacher: Transformer, student: Transformer, taught: Tensor, hidden: Tensor, counts: Tensor) -> Tensor:
    """Sum of KL(teacher || student) over the positions that count, in nats.

    Args:
        taught, hidden: output of the last layer of teacher and student, float (B, T, dim).
        counts: which positions count, bool (B, T).
    """
    with torch.no_grad():
        wanted = F.log_softmax(teacher.logits(taught).float(), dim=-1)
    got = F.log_softmax(student.logits(hidden).float(), dim=-1)
    return (F.kl_div(got, wanted, reduction="none", log_target=True).sum(-1) * counts).sum()


@torch.no_grad()
def _mean_over(measure: Measure, file: TokenFile, max_seq_len: int, at_once: int) -> float:
    """Mean KL over a whole token file, in nats per token."""
    total, count = 0.0, 0
    for tokens, targets in validation_batches(file, max_seq_len, at_once):
        total += float(measure(tokens, targets))
        count += int((targets != IGNORE).sum())
    check_target_count(count)
    return total / count
