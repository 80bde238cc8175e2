"""The training loop, top to bottom.

One optimiser step = `gradient_accumulation_steps` forward and backward passes, clipping, the optimiser, EMA.
Everything that decides the result is a function of the configuration, the seed, the tokens and the step
number, so a run that was stopped, killed or lost its power continues as if nothing had happened.
"""

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bulletlm.config.schema import TrainConfig
from bulletlm.data.tokens import open_tokens
from bulletlm.errors import Interrupted
from bulletlm.progress import Progress
from bulletlm.quant.fake_quant import FakeQuant
from bulletlm.shape import ModelShape
from bulletlm.train.backend.autotune import choose_compute
from bulletlm.train.backend.compute import denormals_are_zero, pick_device
from bulletlm.train.batches import TrainingWindows
from bulletlm.train.checkpoint import list_checkpoints
from bulletlm.train.distributed.group import SINGLE_PROCESS, ProcessGroup
from bulletlm.train.guard.rollback import LOSS_HISTORY_STEPS, LR_BACKOFF, find_trouble, prune_checkpoints, roll_back
from bulletlm.train.guard.stopping import Waiting, be_nice, disk_is_low, stop_requested
from bulletlm.train.log.diagnostics import UPDATE_RATIO_EVERY_STEPS, copy_matrices, memory_mb, update_ratio
from bulletlm.train.log.metrics import MetricsLog
from bulletlm.train.log.samples import SamplePrompts, answers
from bulletlm.train.log.trackers import open_trackers
from bulletlm.train.optimizer import set_learning_rate
from bulletlm.train.schedule import count_steps, learning_rate, warmup_length
from bulletlm.train.state import TrainState
from bulletlm.train.step import accumulate, clip, forget_gradients, update
from bulletlm.train.validation import Grid, evaluate, keep_best


@dataclass(frozen=True)
class TrainResult:
    """What the run folder now holds under checkpoints/best."""

    steps: int
    best_step: int
    best_loss: float
    best_weights: str
    tokens_seen: int
    stopped_early: bool


@denormals_are_zero()
def train(
    config: TrainConfig,
    shape: ModelShape,
    seed: int,
    tokens_dir: Path,
    run_dir: Path,
    key: str,
    progress: Progress,
    group: ProcessGroup = SINGLE_PROCESS,
    types: Mapping[str, str] | None = None,
    qat_start: float | None = None,
    samples: SamplePrompts | None = None,
) -> TrainResult:
    """Train to the end of the schedule, or from the newest good checkpoint on.

    Args:
        key: fingerprint of everything that decides the result; checkpoints of another key are refused.
        group: the processes that share every step; each calls this, and the first writes the files.
        types: the types of the model file; where there is BQ4 among them, its loss is logged as val/loss_bq4.
        qat_start: share of the steps after which the weights are fake-quantised to `types`. The best weights are then those
            that are best when rounded, and kept rounded.
        samples: prompts that are answered at every evaluation.

    Raises:
        Interrupted: SIGINT, SIGTERM, a file `stop` in the run folder or little room on its disk; a checkpoint was written first.
        BulletError: the data does not fit the model, training does not get stable, the disk is full.
    """
    train_tokens, val_tokens = open_tokens(tokens_dir, "train"), open_tokens(tokens_dir, "val")
    windows = TrainingWindows(train_tokens, shape.max_seq_len, seed)
    total_steps, reason = count_steps(config, windows.count)
    tokens_per_step = config.batch_size_per_device * config.gradient_accumulation_steps * shape.max_seq_len

    be_nice(config.nice)
    state = TrainState(config, shape, seed, key, pick_device(config.device))
    grid = Grid(FakeQuant(state.model, types), qat_start) if types and "BQ4" in types.values() else None
    on_grid_from = grid.first_step(total_steps) if grid else total_steps
    checkpoints = run_dir / "checkpoints"
    if group.is_main:
        state.resume(checkpoints, progress)
    state.copy_from_main(group)
    compute = choose_compute(config, state.model, tokens_per_step * total_steps, checkpoints, progress, group)
    progress.log(
        f"{shape.n_parameters / 1e6:.2f}M parameters, {len(train_tokens.tokens):,} training tokens, {reason}, "
        f"{tokens_per_step:,} tokens a step, {compute.description}{group.description}"
    )
    if warmup_length(config, total_steps) < config.warmup_steps:
        progress.log(f"warm-up cut from {config.warmup_steps:,} to {warmup_length(config, total_steps):,} steps: a fifth of this run")

    trackers = open_trackers(config.track, run_dir) if group.is_main else []
    metrics = MetricsLog(run_dir / "metrics.jsonl" if group.is_main else None, state.position, trackers)
    waiting = Waiting(config)

    def save() -> None:
        if group.is_main:
            metrics.sync()
            state.save(checkpoints)
            prune_checkpoints(checkpoints, config.keep_checkpoints, state.position.step, config.eval_every_steps)

    def recover(problem: str, learnt: bool = False) -> None:
        step = state.position.step
        forget_gradients(state)
        learnt = group.sum(learnt or not state.is_finite())[0] > 0
        if group.is_main:
            roll_back(state, checkpoints, problem, learnt, config, progress)
            metrics.rewind(state.position)
        state.copy_from_main(group)
        bar.advance(state.position.step - step)

    note, trained, seconds = "", 0, 0.0
    with contextlib.closing(metrics), stop_requested(run_dir / "stop") as stop, progress.task("Training", total_steps) as bar:
        bar.advance(state.position.step)
        if not list_checkpoints(checkpoints):
            save()
        while True:
            position = state.position
            at_end = position.step >= total_steps
            if (at_end or (position.step and position.step % config.eval_every_steps == 0)) and position.evaluated_step != position.step:
                save()
                measured, weights, val_loss = evaluate(state, val_tokens, config.batch_size_per_device, group, grid)
                if not all(map(math.isfinite, measured.values())):
                    recover("the validation loss is no longer a number", learnt=True)
                    continue
                best_folder = checkpoints if group.is_main else None
                better = keep_best(state, val_loss, weights, position.step * tokens_per_step, best_folder, grid)
                metrics.write("eval", position.step, **measured, best=better, memory_mb=memory_mb())
                for prompt, answer in answers(state.weights(weights), shape, samples) if samples else ():
                    metrics.write("sample", position.step, prompt=prompt, answer=answer)
                    progress.log(f"  step {position.step:,}: {prompt} -> {answer}")
                note = f"val {val_loss:.3f}  {measured['val/bpb']:.3f} bits/byte"
                if "val/loss_bq4" in measured:
                    note = f"4-bit {measured['val/loss_bq4']:.3f}  {note}"
            stopped_early = bool(config.patience_early_stop) and position.worse_in_a_row >= config.patience_early_stop
            if at_end or stopped_early:
                break
            low, wait = disk_is_low(run_dir, state.size()), waiting.reason()
            stop_now, pause = (wishes > 0 for wishes in group.sum(bool(stop() or low), bool(wait)))
            if stop_now:
                save()
                why = f" ({low}: free some space)" if low else ""
                raise Interrupted(f"stopped at step {position.step:,} of {total_steps:,}{why}; saved: the same command continues from here")
            if waiting.pause(pause, save, progress):
                continue

            started = time.monotonic()
            lr = learning_rate(config, position.step, total_steps) * LR_BACKOFF[position.backoff_level]
            set_learning_rate(state.optimizers, lr / config.learning_rate)
            on_grid = grid is not None and position.step >= on_grid_from
            if state.ema:
                # Weights that knew nothing of the grid would weigh on a slow average for thousands of steps.
                state.ema.start = on_grid_from if on_grid else 0
                if position.step == state.ema.start:
                    state.ema.restart(state.model)
            with grid.fake.applied() if grid and on_grid else contextlib.nullcontext():
                loss = accumulate(config, windows, position.batch(), compute, group)
            group.sum_gradients(state.model.parameters())
            norm = clip(state, config.clip_grad_norm)
            if problem := find_trouble(loss, norm, position.recent_losses, config.spike_threshold, shape.vocab_size):
                recover(problem)
                continue
            values = {"train/loss": loss, "lr": lr, "grad_norm": norm}
            if (position.step + 1) % UPDATE_RATIO_EVERY_STEPS:
                update(state)
            else:
                before = copy_matrices(state.model)
                update(state)
                values["update_ratio"] = update_ratio(before, state.model)
                if group.sum(not math.isfinite(values["update_ratio"]))[0]:
                    bar.advance(1)
                    recover("the weights are no longer numbers", learnt=True)
                    continue
            position.recent_losses = [*position.recent_losses, loss][-LOSS_HISTORY_STEPS:]

            took = time.monotonic() - started
            trained, seconds = trained + tokens_per_step, seconds + took
            speed = {"tokens_per_s": round(tokens_per_step / took, 1), "seconds": round(seconds, 3)}
            metrics.write("train", position.step, tokens=position.step * tokens_per_step, **values, **speed)
            bar.advance(1, f"loss {loss:.3f}  {note}  lr {lr:.1e}  {trained / seconds:,.0f} tokens/s  {memory_mb():,.0f} MB")
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
