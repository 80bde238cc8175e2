"""Validation during training, and keeping the best weights."""

import contextlib
import math
from pathlib import Path

import torch

from bulletlm.data.tokens import TokenFile
from bulletlm.errors import BulletError
from bulletlm.model import IGNORE, Llama
from bulletlm.train.batches import validation_batches
from bulletlm.train.checkpoint import Checkpoint, save_checkpoint
from bulletlm.train.state import TrainState
from bulletlm.train.team import ALONE, Team


@torch.no_grad()
def validate(model: Llama, file: TokenFile, batch_size: int, team: Team = ALONE) -> tuple[float, int]:
    """Sum of the next-token losses in nats over the whole file, and how many tokens they are of.

    Every process of the team takes its share of the batches; all get the sum.
    """
    nats, count, device = 0.0, 0, model.rope.device
    for tokens, targets in validation_batches(file, model.shape.max_seq_len, batch_size, team.rank, team.size):
        losses = model.loss(tokens.to(device), targets.to(device), reduction="none").cpu()
        nats += float(losses.double().sum())
        count += int((targets != IGNORE).sum())
    nats, count = (sums := team.sum(nats, count))[0], int(sums[1])
    if not count:
        raise BulletError("the validation set has no token to be judged on: raise data.val_tokens")
    return nats, count


def evaluate(state: TrainState, file: TokenFile, batch_size: int, team: Team) -> tuple[dict[str, float], str]:
    """Validate every kind of weights that could be exported.

    Returns:
        the values of the "eval" event of metrics.jsonl, losses in nats a token and bpb in bits a byte of text; and which
        weights, "raw" or "ema", have the lowest loss.
    """
    losses = {}
    for which in ("raw", "ema") if state.ema else ("raw",):
        with state.ema.applied(state.model) if state.ema and which == "ema" else contextlib.nullcontext():
            nats, count = validate(state.model, file, batch_size, team)
        losses[which] = nats / count
    best = min(losses, key=lambda which: losses[which])
    values = {"val/loss": losses["raw"]}
    if "ema" in losses:
        values["val/loss_ema"] = losses["ema"]
    values["val/bpb"] = losses[best] * count / math.log(2) / max(1, file.info["bytes"])
    return values, best


def keep_best(state: TrainState, loss: float, weights: str, tokens_seen: int, checkpoints: Path | None) -> bool:
    """Note this evaluation in the position; where it is the best so far, write its weights to `checkpoints`/best.

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
    save_checkpoint(checkpoints / "best", Checkpoint({"model": state.weights(weights)}, facts))
    return True
