"""Validation during training, and keeping the best weights."""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bulletlm.data.tokens import TokenFile
from bulletlm.errors import BulletError
from bulletlm.progress import Progress
from bulletlm.quant.fake_quant import FakeQuant
from bulletlm.train.batches import validation_batches
from bulletlm.train.checkpoint import CHECKPOINT_FILES, Checkpoint, load_checkpoint, save_checkpoint, step_folder
from bulletlm.train.distributed.group import SINGLE_PROCESS, ProcessGroup
from bulletlm.train.log.diagnostics import activation_rms
from bulletlm.train.model import IGNORE, Transformer
from bulletlm.train.state import TrainPosition, TrainState


@torch.no_grad()
def validate(model: Transformer, file: TokenFile, batch_size: int, group: ProcessGroup = SINGLE_PROCESS) -> tuple[float, int]:
    """Loss of the model over a whole token file. Every process of the group reads its share of the batches.

    Args:
        model: on its device.
        file: the tokens.
        batch_size: sequences in one forward pass.

    Returns:
        sum of the next-token losses in nats, and the number of targets; both over all processes of the group.

    Raises:
        BulletError: no token of the file counts as a target.
        ProcessLost: another process has ended or does not answer.
    """
    nats, count, device = 0.0, 0, model.rope.device
    for tokens, targets in validation_batches(file, model.shape.max_seq_len, batch_size, group.rank, group.size):
        losses = model.loss(tokens.to(device), targets.to(device), reduction="none").cpu()
        nats += float(losses.double().sum())
        count += int((targets != IGNORE).sum())
    nats, total = group.sum(nats, count)
    check_target_count(int(total))
    return nats, int(total)


def check_target_count(count: int) -> None:
    """Refuse a validation set without targets.

    Raises:
        BulletError: `count` is 0.
    """
    if not count:
        raise BulletError("no token of the validation set counts for the loss: raise data.val_tokens")


@dataclass(frozen=True)
class Grid:
    """The rounding of the model file.

    Attributes:
        fake: rounds the weights of the model to the types of the file.
        start: share of the steps after which the model computes with rounded weights; None if it never does.
    """

    fake: FakeQuant
    start: float | None

    def first_step(self, total_steps: int) -> int:
        """Number of the first step, from 0, that computes with rounded weights; `total_steps` if none does."""
        return total_steps if self.start is None else math.ceil(round(self.start * total_steps, 6))


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation measured.

    Attributes:
        values: for the "eval" event of metrics.jsonl; losses in nats per token, bpb in bits per byte of the text that counts.
        best: the weights with the lower loss, "raw" or "ema".
        loss: their loss in nats per token; with rounded weights if the run exports rounded weights.
    """

    values: dict[str, float]
    best: str
    loss: float


def evaluate(
    state: TrainState[Any], file: TokenFile, batch_size: int, group: ProcessGroup = SINGLE_PROCESS, grid: Grid | None = None
) -> Evaluation:
    """Validate all weights that could be exported: raw and averaged, exact and rounded.

    val/loss_bq4 is the loss of the better weights rounded to nearest, without calibration. `bullet build` writes exactly these
    weights if the run trains with rounded weights or calibration is "none"; calibrated weights have a slightly lower loss.

    Args:
        state: the run; unchanged afterwards.
        file: the validation tokens.
        batch_size: sequences in one forward pass.
        group: the processes that share the work.
        grid: the rounding of the model file; None if it has no BQ4 weights.

    Raises:
        BulletError: no token of the file counts as a target.
        ProcessLost: another process has ended or does not answer.
    """
    exact: dict[str, float] = {}
    rounded: dict[str, float] = {}
    count = 0

    def measure(which: str, losses: dict[str, float], block: contextlib.AbstractContextManager[None]) -> None:
        nonlocal count
        with state.ema.applied(state.model) if state.ema and which == "ema" else contextlib.nullcontext(), block:
            nats, count = validate(state.model, file, batch_size, group)
        losses[which] = nats / count

    kinds = ("raw", "ema") if state.ema else ("raw",)
    exports_rounded = grid is not None and grid.start is not None
    for which in kinds:
        measure(which, exact, contextlib.nullcontext())
        if grid and exports_rounded:
            measure(which, rounded, grid.fake.applied())
    deciding = rounded if exports_rounded else exact
    best = min(deciding, key=lambda which: deciding[which])
    if grid and not exports_rounded:
        measure(best, rounded, grid.fake.applied())
    values = {"val/loss": exact["raw"]}
    if "ema" in exact:
        values["val/loss_ema"] = exact["ema"]
    if rounded:
        values["val/loss_bq4"] = rounded[best]
    values["val/bpb"] = deciding[best] * count / math.log(2) / max(1, file.info.get("learned_bytes", file.info["bytes"]))
    tokens, _ = next(validation_batches(file, state.model.shape.max_seq_len, batch_size))
    values["activation_rms"] = activation_rms(state.model, tokens.to(state.model.rope.device))
    return Evaluation(values, best, deciding[best])


def keep_best(
    state: TrainState[TrainPosition], found: Evaluation, tokens_seen: int, checkpoints: Path | None, grid: Grid | None = None
) -> bool:
    """Record an evaluation in the position. If it is the best so far, write its weights to `checkpoints`/best.

    A run that trains with rounded weights keeps them rounded, because the exact weights are only of use to its optimizer.

    Args:
        state: the run that was evaluated.
        found: the evaluation.
        tokens_seen: training tokens so far.
        checkpoints: folder with the checkpoints; None if another process writes.
        grid: the rounding of the model file; None if it has no BQ4 weights.

    Returns:
        whether it is the best so far.

    Raises:
        BulletError: the disk is full or not writable.
    """
    position = state.position
    position.evaluated_step = position.step
    if position.best_loss is not None and found.loss >= position.best_loss:
        position.worse_in_a_row += 1
        return False
    position.best_loss, position.best_step, position.best_weights = found.loss, position.step, found.best
    position.worse_in_a_row = 0
    if checkpoints is None:
        return True
    _save_best(state, state.weights(found.best), tokens_seen, checkpoints, grid)
    return True


def _save_best(
    state: TrainState[TrainPosition], tensors: dict[str, torch.Tensor], tokens_seen: int, checkpoints: Path, grid: Grid | None
) -> None:
    """Write `tensors`, the best weights according to the position, to `checkpoints`/best."""
    best = state.position
    facts = {
        "key": state.key,
        "step": best.best_step,
        "val_loss": best.best_loss,
        "weights": best.best_weights,
        "tokens_seen": tokens_seen,
    }
    if grid and grid.start is not None:
        facts["qat_start"] = grid.start
        tensors = grid.fake.rounded(tensors)
    save_checkpoint(checkpoints / "best", Checkpoint({"model": tensors}, facts))


def refuse_damaged_best(checkpoints: Path, key: str) -> None:
    """Do not train from the beginning over `checkpoints`/best if that is damaged or belongs to another run.

    Raises:
        BulletError: it is.
    """
    folder = checkpoints / "best"
    problem = _problem(folder, key)
    if problem and _exists(folder):
        raise BulletError(
            f"{problem}, and there is no checkpoint to write it again: restore the folder from a copy, use the weights in export/npy if "
            "they are still there (bullet build), or train again with --restart"
        )


def restore_best(state: TrainState[TrainPosition], tokens_per_step: int, checkpoints: Path, grid: Grid | None, progress: Progress) -> None:
    """Check `checkpoints`/best of a resumed run. If it is damaged or missing, write it again from the checkpoint of its step.

    If there is no such checkpoint and the folder is missing, the best weights are lost: the position forgets them, so that the run
    keeps the best weights from now on.

    Args:
        state: the run, as restored from its newest checkpoint.
        tokens_per_step: training tokens of a step.
        checkpoints: folder with the checkpoints.
        grid: the rounding of the model file; None if it has no BQ4 weights.
        progress: receives a message about what was done.

    Raises:
        BulletError: the folder is damaged and no checkpoint has its weights, or the disk is full.
    """
    position, folder = state.position, checkpoints / "best"
    if position.best_loss is None:
        return  # the first evaluation is still to come, or will be repeated
    problem = _problem(folder, state.key)
    if problem is None:
        return
    source = step_folder(checkpoints, position.best_step)
    if _problem(source, state.key) is None:
        weights = load_checkpoint(source).tensors["model" if position.best_weights == "raw" else "ema"]
        _save_best(state, weights, position.best_step * tokens_per_step, checkpoints, grid)
        progress.log(f"{problem}; {folder} was written again from {source.name}", "warning")
        return
    lost = f"the best weights (step {position.best_step:,}, validation loss {position.best_loss:.4f}) are lost"
    if _exists(folder):
        raise BulletError(
            f"{problem}, and no other checkpoint has its weights: restore the folder from a copy, or delete it to continue without "
            f"training again ({lost}, and the weights from step {position.step:,} on are used)"
        )
    progress.log(f"{problem}; {lost}; the best weights from step {position.step:,} on are used instead", "warning")
    position.best_loss, position.best_step = None, -1


def _problem(folder: Path, key: str) -> str | None:
    """Why a checkpoint folder cannot be used for the run with this key, in words; None if it can."""
    try:
        return None if load_checkpoint(folder).state.get("key") == key else f"{folder} belongs to another run"
    except BulletError as error:
        return str(error)


def _exists(folder: Path) -> bool:
    return any((folder / name).exists() for name in CHECKPOINT_FILES)
