"""Distillation on the grid: the finished model teaches the model with the rounded weights to predict what it predicts itself.

The student computes with fake-quantised weights, the loss is KL(teacher || student) at every position that counts, at
temperature 1 and without any other term, so nothing is learned but to be the teacher in 4 bits. Its exact ("latent") weights are
worse than both teacher and rounded student, and only ever leave this module rounded (docs/quantization.md).
"""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bulletlm.config.schema import QatConfig, TrainConfig
from bulletlm.data.tokens import TokenFile
from bulletlm.errors import BulletError, Interrupted
from bulletlm.hardware import inspect_machine, keep_memory
from bulletlm.progress import Progress
from bulletlm.quant import calibrate
from bulletlm.quant.bq4 import Quantized, scales_of
from bulletlm.quant.fake_quant import FakeQuant
from bulletlm.shape import ModelShape
from bulletlm.train.backend.autotune import best_floats, compile_problem, pays_to_compile, run_flops
from bulletlm.train.backend.compute import compiled, denormals_are_zero, pick_device, run_layer
from bulletlm.train.batches import TrainingWindows, validation_batches
from bulletlm.train.checkpoint import Checkpoint, checkpoint_size, list_checkpoints, newest_checkpoint, save_checkpoint, step_folder
from bulletlm.train.ema import EMA
from bulletlm.train.guard.stopping import Waiting, be_nice, disk_is_low, stop_requested
from bulletlm.train.int8 import products_are_exact
from bulletlm.train.model import IGNORE, Transformer
from bulletlm.train.optimizer import build_optimizers, optimizer_tensors, restore_optimizers, set_learning_rate

WARMUP_STEPS = 10
EMA_DECAY = 0.95
CLIP_NORM = 1.0

SAVE_EVERY_STEPS = 50
"""Steps between checkpoints: a minute or two of work."""

KEEP = 2
"""Checkpoints: the last one, and the one before it should that be damaged."""


Divergence = Callable[[Tensor, Tensor], Tensor]
"""(tokens, targets), int64 (B, T) -> sum of KL(teacher || student) over the positions that count, nats, with the student's gradients."""


@dataclass(frozen=True)
class Distilled:
    """`tensors`: what write_bullet takes. `chosen`: "start", "raw" or "ema". `kl`: held-out KL in nats of those tried, by that name."""

    tensors: dict[str, calibrate.Tensor]
    chosen: str
    kl: dict[str, float]
    tokens: int


@denormals_are_zero()
def distil(
    shape: ModelShape,
    teacher_weights: Mapping[str, calibrate.Floats],
    start: Mapping[str, calibrate.Tensor],
    keep_scales: bool,
    types: Mapping[str, str],
    config: QatConfig,
    train: TrainConfig,
    seed: int,
    text: TokenFile,
    held_out: TokenFile,
    checkpoints: Path,
    key: str,
    progress: Progress,
) -> Distilled:
    """Train the rounded weights for `config.steps` steps and take the best: those of the start, of the end, or their average.

    Args:
        shape: of the model.
        teacher_weights: the finished weights, float32.
        start: the same rounded, where the student starts.
        keep_scales: the student keeps the BQ4 scales of `start`; otherwise they follow the largest weight of each block.
        types: the type of every tensor.
        config: length and size of steps.
        train: what the teacher was trained with: optimiser settings, sequences at once, threads, precision, when to pause.
        seed: decides the order of the text.
        text: training tokens.
        held_out: tokens on which the KL is measured.
        checkpoints: a folder in the run folder's; what is there already is continued if it has the same `key`.
        key: fingerprint of everything that decides the result.
        progress: shows the bar.

    Raises:
        Interrupted: SIGINT, SIGTERM, a file `stop` in the run folder or little room on its disk; a checkpoint was written first.
        BulletError: the loss is no longer a number, no checkpoint is whole, or the disk is full.
    """
    be_nice(train.nice)
    keep_memory()
    device = pick_device(train.device)
    teacher, student = (_model(shape, teacher_weights, device) for _ in range(2))
    sequences = max(1, round(config.tokens_per_step / shape.max_seq_len))
    at_once = min(train.batch_size_per_device, sequences)
    divergence, measured = _divergences(teacher, student, train, at_once, config.steps * config.tokens_per_step, progress)
    fake = FakeQuant(student, types, _take_over(student, start) if keep_scales else None)
    settings = train.model_copy(update={"optimizer": "adamw", "learning_rate": train.learning_rate * config.learning_rate_share})
    optimizers = build_optimizers(student, settings)
    average = EMA(student, EMA_DECAY)
    windows = TrainingWindows(text, shape.max_seq_len, seed)
    step, kl = 0, dict[str, float]()
    if found := _resume(checkpoints, key, progress):
        step, kl = int(found.state["step"]), dict(found.state["kl"])
        student.load_state_dict(found.tensors["model"])
        restore_optimizers(optimizers, student, found.tensors["optimizer"], step)
        average.average = {name: tensor.to(device) for name, tensor in found.tensors["ema"].items()}
    else:
        kl["start"] = _measure(measured, fake, held_out, shape.max_seq_len, train.batch_size_per_device)

    size = checkpoint_size(student)

    def save() -> None:
        tensors = {
            "model": {name: weight.detach() for name, weight in student.named_parameters()},
            "optimizer": optimizer_tensors(optimizers, student),
            "ema": average.average,
        }
        save_checkpoint(step_folder(checkpoints, step), Checkpoint(tensors, {"key": key, "step": step, "kl": kl}))
        for _, folder in list_checkpoints(checkpoints)[:-KEEP]:
            shutil.rmtree(folder)

    waiting = Waiting(train)
    with stop_requested(checkpoints.parents[1] / "stop") as stop, progress.task("Distilling", config.steps) as bar:
        bar.advance(step, f"KL {kl['start']:.5f} before")
        while step < config.steps:
            low = disk_is_low(checkpoints.parents[1], size)
            if stop() or low:
                save()
                why = f" ({low}: free some space)" if low else ""
                raise Interrupted(f"stopped at step {step:,} of {config.steps:,} of QAT{why}; saved: the same command continues from here")
            if waiting.pause(waiting.reason() is not None, save, progress):
                continue
            set_learning_rate(optimizers, _share(step, config.steps))
            with fake.applied():
                loss = _accumulate(divergence, windows, step, sequences, at_once)
            norm = float(torch.nn.utils.clip_grad_norm_(student.parameters(), CLIP_NORM, foreach=True))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise BulletError(
                    f"QAT: the loss is no longer a number at step {step:,}: lower its learning rate, "
                    f"for example --learning-rate-share={config.learning_rate_share / 4:g}"
                )
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
            step += 1
            average.update(student, step)
            bar.advance(1, f"KL {loss:.5f}, {kl['start']:.5f} before")
            if step % SAVE_EVERY_STEPS == 0 and step < config.steps:
                save()
    candidates = {"start": dict(start), "raw": fake.quantized()}
    kl["raw"] = _measure(measured, fake, held_out, shape.max_seq_len, train.batch_size_per_device)
    with average.applied(student):
        candidates["ema"] = fake.quantized()
        kl["ema"] = _measure(measured, fake, held_out, shape.max_seq_len, train.batch_size_per_device)
    chosen = min(kl, key=lambda name: kl[name])
    return Distilled(candidates[chosen], chosen, kl, step * sequences * shape.max_seq_len)


def _model(shape: ModelShape, tensors: Mapping[str, calibrate.Floats], device: torch.device) -> Transformer:
    model = Transformer(shape)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(np.array(tensors[name])))
    return model.to(device)


@torch.no_grad()
def _take_over(student: Transformer, start: Mapping[str, calibrate.Tensor]) -> dict[str, Tensor]:
    """Give the student the BQ4 weights of `start` as its exact ones; returns their scales.

    In the middle of its step a weight needs a lasting push to be rounded otherwise. From where FP32 has it, often far from what
    calibration chose, the first noise would undo that choice: on the demo's model that start ended worse than calibration alone.
    """
    scales = {}
    for name, weight in student.named_parameters():
        tensor = start[name]
        if isinstance(tensor, Quantized) and tensor.type == "BQ4":
            scales[name] = torch.from_numpy(scales_of(tensor.blocks).astype(np.float32)).to(weight.device)
            weight.copy_(torch.from_numpy(tensor.dequantize()))
    return scales


def _share(step: int, steps: int) -> float:
    """Learning rate of step 0 ... steps - 1 as a share of its peak: linear warm-up, then linear to 0 after the last step."""
    return min((step + 1) / (WARMUP_STEPS + 1), (steps - step) / steps)


def _divergences(
    teacher: Transformer, student: Transformer, train: TrainConfig, at_once: int, tokens: int, progress: Progress
) -> tuple[Divergence, Divergence]:
    """The loss to train with, `at_once` sequences a pass, compiled where `tokens` are worth it; and the one to measure with.

    Predictions are never made in int8: its own noise is as large as what a 4-bit model has left to learn. In the gradients it
    is lost in that of the text. Rounding them saves time only where it is compiled.
    """
    machine, device, shape = inspect_machine(), teacher.rope.device.type, teacher.shape
    torch.set_num_threads(train.threads or machine.cores)
    floats = best_floats(machine, device) if train.precision == "auto" else "bf16" if train.precision == "bf16" else "fp32"
    teacher.compute_in(floats)
    student.compute_in(floats)
    eager = _divergence_with(teacher, student, run_layer, _divergence)
    # The teacher's pass comes to the three (one forward, two backward) of training.
    if not pays_to_compile(train, device, 4 / 3 * run_flops(shape, tokens)):
        return eager, eager
    if train.precision in ("auto", "int8") and floats == "fp32" and device == "cpu" and machine.has_int8 and products_are_exact():
        student.compute_in("int8-gradients")
    graph = _divergence_with(teacher, student, compiled(run_layer), compiled(_divergence))
    trial = torch.arange(at_once * shape.max_seq_len).remainder(shape.vocab_size).view(at_once, -1)
    if problem := compile_problem(lambda: graph(trial, trial).backward(), student, machine):  # type: ignore[no-untyped-call]
        progress.log(f"QAT in eager mode, which is slower: {problem}")
        student.compute_in(floats)
        return eager, eager
    # Compiling for the last, smaller batch of the held-out text would take longer than reading all of it.
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
    """Sum over the positions that count of KL(teacher || student), nats, from what the last layer of both leaves."""
    with torch.no_grad():
        wanted = F.log_softmax(teacher.logits(taught).float(), dim=-1)
    got = F.log_softmax(student.logits(hidden).float(), dim=-1)
    return (F.kl_div(got, wanted, reduction="none", log_target=True).sum(-1) * counts).sum()


def _accumulate(divergence: Divergence, windows: TrainingWindows, step: int, sequences: int, at_once: int) -> float:
    """Gradients of the mean KL over one effective batch, and that mean."""
    batches = [windows.batch(step * sequences + n, min(at_once, sequences - n)) for n in range(0, sequences, at_once)]
    count = max(1, sum(int((targets != IGNORE).sum()) for _, targets in batches))
    total = 0.0
    for tokens, targets in batches:
        loss = divergence(tokens, targets) / count
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


@torch.no_grad()
def _measure(divergence: Divergence, fake: FakeQuant, file: TokenFile, max_seq_len: int, at_once: int) -> float:
    """Mean KL over a whole token file, nats a token."""
    total, count = 0.0, 0
    with fake.applied():
        for tokens, targets in validation_batches(file, max_seq_len, at_once):
            total += float(divergence(tokens, targets))
            count += int((targets != IGNORE).sum())
    if not count:
        raise BulletError("the validation set has no token to be judged on: raise data.val_tokens")
    return total / count


def _resume(checkpoints: Path, key: str, progress: Progress) -> Checkpoint | None:
    """The newest checkpoint if it belongs to this work; those of another one are of no use any more."""
    found = newest_checkpoint(checkpoints, f"delete {checkpoints} to start QAT anew", progress)
    if not found:
        return None
    folder, checkpoint = found
    if checkpoint.state["key"] != key:
        progress.log(f"starting QAT anew: {folder} was trained with other settings or data")
        shutil.rmtree(checkpoints)
        return None
    progress.log(f"resuming from {folder}")
    return checkpoint
