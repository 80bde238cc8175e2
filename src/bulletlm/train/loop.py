"""The training loop, top to bottom.

One optimiser step = `gradient_accumulation_steps` forward and backward passes, clipping, the optimiser, EMA.
Everything that decides the result is a function of the configuration, the seed, the tokens and the step
number, so a run that was stopped, killed or lost its power continues as if nothing had happened.
"""

import contextlib
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bulletlm.config import TrainConfig
from bulletlm.data.tokens import TokenFile, open_tokens
from bulletlm.errors import BulletError, Interrupted
from bulletlm.machine import inspect_machine, keep_memory
from bulletlm.model import IGNORE, Llama
from bulletlm.progress import Progress
from bulletlm.shape import ModelShape
from bulletlm.train.batches import TrainingWindows, validation_batches
from bulletlm.train.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    step_folder,
)
from bulletlm.train.ema import EMA
from bulletlm.train.metrics import MetricsLog
from bulletlm.train.optimizer import build_optimizers, optimizer_tensors, restore_optimizers, set_learning_rate
from bulletlm.train.schedule import count_steps, learning_rate, warmup_length

COMPILE_FROM_FLOPS = 3e14
"""torch.compile costs 20-40 s and saves about a sixth: it pays from roughly this much arithmetic on."""


@dataclass
class Position:
    """Where a run is; together with the tensors this is all that a checkpoint holds."""

    step: int = 0
    evaluated_step: int = -1
    best_step: int = -1
    best_loss: float | None = None
    best_weights: str = "raw"
    worse_in_a_row: int = 0


@dataclass(frozen=True)
class TrainResult:
    """What the run folder now holds under checkpoints/best."""

    steps: int
    best_step: int
    best_loss: float
    best_weights: str
    tokens_seen: int
    stopped_early: bool


def train(config: TrainConfig, shape: ModelShape, seed: int, tokens_dir: Path, run_dir: Path, key: str, progress: Progress) -> TrainResult:
    """Train to the end of the schedule, or from the newest good checkpoint on.

    Args:
        key: fingerprint of everything that decides the result; checkpoints of another key are refused.

    Raises:
        Interrupted: SIGINT or SIGTERM; a checkpoint was written first.
        BulletError: the data does not fit the model, the loss is no longer a number, the disk is full.
    """
    keep_memory()
    machine = inspect_machine()
    torch.set_num_threads(config.threads or machine.cores)
    train_tokens, val_tokens = open_tokens(tokens_dir, "train"), open_tokens(tokens_dir, "val")
    windows = TrainingWindows(train_tokens, shape.max_seq_len, seed)
    total_steps, reason = count_steps(config, windows.count)
    tokens_per_step = config.batch_size_per_device * config.gradient_accumulation_steps * shape.max_seq_len

    model = Llama(shape)
    model.initialise(seed)
    optimizers = build_optimizers(model, config)
    ema = EMA(model, config.ema_decay) if config.ema_decay else None
    position = _resume(run_dir / "checkpoints", key, model, optimizers, ema, progress)

    bf16 = config.precision == "bf16" or (config.precision == "auto" and machine.has_bf16)
    flops = 6.0 * shape.n_parameters * tokens_per_step * total_steps
    compiled = config.compile == "on" or (config.compile == "auto" and flops > COMPILE_FROM_FLOPS and machine.compiler is not None)
    loss_of = torch.compile(model.loss, dynamic=False) if compiled else model.loss
    progress.say(
        f"{shape.n_parameters / 1e6:.2f}M parameters, {len(train_tokens.tokens):,} training tokens, {reason}, "
        f"{tokens_per_step:,} tokens a step, {'bf16' if bf16 else 'fp32'}{', compiled' if compiled else ''}"
    )
    if warmup_length(config, total_steps) < config.warmup_steps:
        progress.say(f"warm-up cut from {config.warmup_steps:,} to {warmup_length(config, total_steps):,} steps: a fifth of this run")

    metrics = MetricsLog(run_dir / "metrics.jsonl", position.step, position.evaluated_step)

    def save() -> None:
        metrics.sync()
        tensors = {"model": _weights(model), "optimizer": optimizer_tensors(optimizers, model)}
        if ema:
            tensors["ema"] = ema.average
        save_checkpoint(
            step_folder(run_dir / "checkpoints", position.step), Checkpoint(tensors, {"key": key, "position": asdict(position)})
        )
        prune_checkpoints(run_dir / "checkpoints", config.keep_checkpoints)

    def evaluate() -> float:
        """Validate raw and averaged weights, keep the best; returns the better loss."""
        n_bytes = max(1, val_tokens.info["bytes"])
        losses = {"raw": validate(model, val_tokens, config.batch_size_per_device, bf16)}
        if ema:
            with ema.applied(model):
                losses["ema"] = validate(model, val_tokens, config.batch_size_per_device, bf16)
        weights = min(losses, key=lambda name: losses[name][0])
        nats, count = losses[weights]
        loss = nats / count
        if not math.isfinite(loss):
            raise _diverged(position.step, config)
        better = position.best_loss is None or loss < position.best_loss
        if better:
            position.best_loss, position.best_step, position.best_weights = loss, position.step, weights
            position.worse_in_a_row = 0
            chosen = ema.average if ema and weights == "ema" else _weights(model)
            state = {
                "key": key,
                "step": position.step,
                "val_loss": loss,
                "weights": weights,
                "tokens_seen": position.step * tokens_per_step,
            }
            save_checkpoint(run_dir / "checkpoints" / "best", Checkpoint({"model": chosen}, state))
        else:
            position.worse_in_a_row += 1
        position.evaluated_step = position.step
        values = {"val/loss": losses["raw"][0] / count, "val/bpb": nats / math.log(2) / n_bytes, "best": better}
        if ema:
            values["val/loss_ema"] = losses["ema"][0] / count
        metrics.write("eval", position.step, **values)
        return loss

    note, stopped_early = "", False
    started, started_step, last_time = time.monotonic(), position.step, time.monotonic()
    with _stop_requested() as stop, progress.task("Training", total_steps) as bar, contextlib.closing(metrics):
        bar.advance(position.step)
        while True:
            at_end = position.step >= total_steps
            if (at_end or (position.step and position.step % config.eval_every_steps == 0)) and position.evaluated_step != position.step:
                save()
                note = f"val {evaluate():.3f}"
                stopped_early = bool(config.patience_early_stop) and position.worse_in_a_row >= config.patience_early_stop
            if at_end or stopped_early:
                break
            if stop():
                save()
                raise Interrupted(f"stopped at step {position.step:,} of {total_steps:,}; saved: the same command continues from here")

            lr = learning_rate(config, position.step, total_steps)
            set_learning_rate(optimizers, lr / config.learning_rate)
            loss = _accumulate(config, windows, position.step, loss_of, bf16)
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm, foreach=True))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise _diverged(position.step, config)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
            position.step += 1
            if ema:
                ema.update(model, position.step)

            now = time.monotonic()
            values = {"train/loss": loss, "lr": lr, "grad_norm": norm, "tokens_per_s": round(tokens_per_step / (now - last_time), 1)}
            metrics.write("train", position.step, tokens=position.step * tokens_per_step, seconds=round(now - started, 3), **values)
            last_time = now
            speed = tokens_per_step * (position.step - started_step) / (now - started)
            bar.advance(1, f"loss {loss:.3f}  {note}  {speed:,.0f} tokens/s")
            if position.step % config.save_every_steps == 0:
                save()
        metrics.write("end", position.step, reason="early stop" if stopped_early else "end of schedule")
        save()
    assert position.best_loss is not None
    return TrainResult(
        steps=position.step,
        best_step=position.best_step,
        best_loss=position.best_loss,
        best_weights=position.best_weights,
        tokens_seen=position.step * tokens_per_step,
        stopped_early=stopped_early,
    )


def _weights(model: Llama) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters()}


@torch.no_grad()
def validate(model: Llama, file: TokenFile, batch_size: int, bf16: bool) -> tuple[float, int]:
    """Sum of the next-token losses in nats over the whole file, and how many tokens they are of."""
    nats, count = 0.0, 0
    for tokens, targets in validation_batches(file, model.shape.max_seq_len, batch_size):
        with _autocast(bf16):
            losses = model.loss(tokens, targets, reduction="none")
        nats += float(losses.double().sum())
        count += int((targets != IGNORE).sum())
    if not count:
        raise BulletError("the validation set has no token to be judged on: raise data.val_tokens")
    return nats, count


def _accumulate(config: TrainConfig, windows: TrainingWindows, step: int, loss_of: Callable[..., Tensor], bf16: bool) -> float:
    """Forward and backward over one effective batch; returns its mean loss.

    Each micro-batch is divided by the number of target tokens of the whole batch, so that the sum of the
    gradients is that of one large batch, however unevenly the targets are spread.
    """
    size, passes = config.batch_size_per_device, config.gradient_accumulation_steps
    batches = [windows.batch((step * passes + n) * size, size) for n in range(passes)]
    count = max(1, sum(int((targets != IGNORE).sum()) for _, targets in batches))
    total = 0.0
    for tokens, targets in batches:
        with _autocast(bf16):
            loss = loss_of(tokens, targets) / count
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def _resume(
    checkpoints: Path, key: str, model: Llama, optimizers: list[torch.optim.Optimizer], ema: EMA | None, progress: Progress
) -> Position:
    """Load the newest checkpoint that is whole; a damaged one is reported and the one before is used."""
    for _, folder in reversed(list_checkpoints(checkpoints)):
        try:
            checkpoint = load_checkpoint(folder)
        except BulletError as error:
            progress.say(f"{error}; falling back to the checkpoint before it")
            shutil.rmtree(folder)
            continue
        if checkpoint.state["key"] != key:
            raise BulletError(f"{folder} was trained with other settings or data: choose another --name, or train anew with --restart")
        position = Position(**checkpoint.state["position"])
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(checkpoint.tensors["model"][name])
        restore_optimizers(optimizers, model, checkpoint.tensors["optimizer"], position.step)
        if ema:
            ema.average = checkpoint.tensors["ema"]
        progress.say(f"resuming from {folder}")
        return position
    return Position()


@contextlib.contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a flag that the loop reads between steps; a second one stops at once."""
    received: list[int] = []
    previous: dict[signal.Signals, Any] = {}

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
        yield lambda: bool(received)
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


def _autocast(bf16: bool) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()


def _diverged(step: int, config: TrainConfig) -> BulletError:
    lower = config.learning_rate / 3
    return BulletError(f"the loss is no longer a number at step {step:,}: lower the learning rate, for example --lr={lower:.1g}")
