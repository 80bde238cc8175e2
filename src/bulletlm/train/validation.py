"""Validation during training, and keeping the best weights."""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from bulletlm.data.tokens import TokenFile
from bulletlm.errors import BulletError
from bulletlm.quant.fake_quant import FakeQuant
from bulletlm.train.batches import validation_batches
from bulletlm.train.checkpoint import Checkpoint, save_checkpoint
from bulletlm.train.distributed.group import SINGLE_PROCESS, ProcessGroup
from bulletlm.train.log.diagnostics import activation_rms
from bulletlm.train.model import IGNORE, Transformer
from bulletlm.train.state import TrainState


@torch.no_grad()
def validate(model: Transformer, file: TokenFile, batch_size: int, group: ProcessGroup = SINGLE_PROCESS) -> tuple[float, int]:
    """Sum of the next-token losses in nats over the whole file, and how many tokens they are of.

    Every process of the group takes its share of the batches; all get the sum.
    """
    nats, count, device = 0.0, 0, model.rope.device
    for tokens, targets in validation_batches(file, model.shape.max_seq_len, batch_size, group.rank, group.size):
        losses = model.loss(tokens.to(device), targets.to(device), reduction="none").cpu()
        nats += float(losses.double().sum())
        count += int((targets != IGNORE).sum())
    nats, tokens_judged = group.sum(nats, count)
    if not tokens_judged:
        raise BulletError("the validation set has no token to be judged on: raise data.val_tokens")
    return nats, int(tokens_judged)


@dataclass(frozen=True)
class Grid:
    """The weights of the model file, and from which share of the run on it is they that are trained; never where None."""

    fake: FakeQuant
    start: float | None

    def first_step(self, total_steps: int) -> int:
        """Steps of the run before those that train on the grid."""
        return total_steps if self.start is None else math.ceil(round(self.start * total_steps, 6))


def evaluate(
    state: TrainState, file: TokenFile, batch_size: int, group: ProcessGroup, grid: Grid | None = None
) -> tuple[dict[str, float], str, float]:
    """Validate every kind of weights that could be exported.

    val/loss_bq4 is the loss of the better ones rounded to nearest, without calibration: with bits that `bullet build` writes where
    the run trains on the grid or calibration is "none", and a little more than that of the calibrated file otherwise.

    Returns:
        the values of the "eval" event of metrics.jsonl, losses in nats a token and bpb in bits a byte of the text that counts;
        which weights, "raw" or "ema", are the better ones; and their loss, rounded if rounded ones are what the run is to export.
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
    on_grid = grid is not None and grid.start is not None
    for which in kinds:
        measure(which, exact, contextlib.nullcontext())
        if grid and on_grid:
            measure(which, rounded, grid.fake.applied())
    deciding = rounded if on_grid else exact
    best = min(deciding, key=lambda which: deciding[which])
    if grid and not on_grid:
        measure(best, rounded, grid.fake.applied())
    values = {"val/loss": exact["raw"]}
    if "ema" in exact:
        values["val/loss_ema"] = exact["ema"]
    if rounded:
        values["val/loss_bq4"] = rounded[best]
    values["val/bpb"] = deciding[best] * count / math.log(2) / max(1, file.info.get("learned_bytes", file.info["bytes"]))
    tokens, _ = next(validation_batches(file, state.model.shape.max_seq_len, batch_size))
    values["activation_rms"] = activation_rms(state.model, tokens.to(state.model.rope.device))
    return values, best, deciding[best]


def keep_best(state: TrainState, loss: float, weights: str, tokens_seen: int, checkpoints: Path | None, grid: Grid | None = None) -> bool:
    """Note this evaluation in the position; where it is the best so far, write its weights to `checkpoints`/best.

    A run that trains on the grid keeps them rounded: what they were before rounding is of no use to anybody but its optimiser.

    Args:
        checkpoints: None where another process writes.

    Returns:
        whether it is the best.
    """
    position = state.position
    position.evaluated_step = position.step
    if position.best_loss is not None and loss >= position.best_loss:
        position.worse_in_a_row += 1
        return False
    position.best_loss, position.best_step, position.best_weights = loss, position.step, weights
    position.worse_in_a_row = 0
    if checkpoints is None:
        return True
    facts = {"key": state.key, "step": position.step, "val_loss": loss, "weights": weights, "tokens_seen": tokens_seen}
    tensors = state.weights(weights)
    if grid and grid.start is not None:
        facts["qat_start"] = grid.start
        tensors = grid.fake.rounded(tensors)
    save_checkpoint(checkpoints / "best", Checkpoint({"model": tensors}, facts))
    return True
