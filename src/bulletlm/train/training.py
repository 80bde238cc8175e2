"""Training on text: what the loop needs besides the steps, which are evaluation, rollback, metrics and samples."""

import contextlib
import math
import shlex
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bulletlm.config.schema import TrainConfig
from bulletlm.data.tokens import TokenFile, open_tokens
from bulletlm.errors import BulletError
from bulletlm.formats.npy import read_npy
from bulletlm.progress import Progress, format_duration
from bulletlm.quant.fake_quant import FakeQuant
from bulletlm.shape import ModelShape
from bulletlm.terminal import printable
from bulletlm.train.backend.choose import choose_compute
from bulletlm.train.backend.compute import denormals_are_zero, pick_device
from bulletlm.train.batches import TrainingWindows
from bulletlm.train.checkpoint import list_checkpoints, load_checkpoint
from bulletlm.train.distributed.group import SINGLE_PROCESS, ProcessGroup
from bulletlm.train.extend import EARLIER, Extension, extend, keep_the_better
from bulletlm.train.guard.rollback import (
    LEVEL_STEPS,
    LOSS_HISTORY_STEPS,
    LR_BACKOFF,
    Diverged,
    Hopeless,
    find_trouble,
    may_roll_back_to,
    return_to_good,
    roll_back,
)
from bulletlm.train.guard.stopping import be_nice
from bulletlm.train.log.diagnostics import memory_mb
from bulletlm.train.log.metrics import MetricsLog
from bulletlm.train.log.samples import SamplePrompts, answers
from bulletlm.train.log.trackers import open_trackers
from bulletlm.train.loop import Run, StepResult, run_steps
from bulletlm.train.schedule import decay_start, last_step, learning_rate, sequences_per_step, warmup_length
from bulletlm.train.state import TrainPosition, TrainState, initial_state
from bulletlm.train.step import clear_gradients
from bulletlm.train.validation import Grid, evaluate, keep_best, refuse_damaged_best, restore_best

FINISH = "finish"
"""File in the run folder that ends the training after the present step; the best weights become the model."""

CLEAR_DELAY = 2.0
"""Ratio of the expected to the planned time of a training from which on it is reported."""

LEAST_TIMED_SECONDS = 20.0
"""Steps that take this long together show how fast the machine is now."""

CLEAR_RISE = 0.01
"""Rise of the validation loss above its lowest value, relative to it, that is no chance."""


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What is trained, on which text, and where the files are.

    Attributes:
        config: settings of the training.
        shape: shape of the model.
        seed: decides the initial weights and the order of the text.
        tokens_dir: folder with train.bin, val.bin and index.json.
        run_dir: run folder; receives checkpoints/ and metrics.jsonl.
        key: fingerprint of everything that decides the result. A checkpoint with another key is refused.
        types: type of every tensor in the model file. If BQ4 is among them, evaluations log the loss in those types as val/loss_bq4.
        qat_start: share of the steps after which the model computes with weights rounded to `types`. The weights that are best
            when rounded are then kept, rounded. None: the whole run computes with exact weights.
        start: folder of .npy tensors (`formats.npy`) with the initial weights; None: random weights. The context of the model there
            may differ.
        extension: how the run differs from the one whose checkpoints are in the run folder, if it continues that one; only the main
            process needs to know.
        planned_seconds: time for which the training was planned, if it was; only the main process needs to know. A training that turns
            out to take clearly longer says so.
    """

    config: TrainConfig
    shape: ModelShape
    seed: int
    tokens_dir: Path
    run_dir: Path
    key: str
    types: Mapping[str, str] | None = None
    qat_start: float | None = None
    start: Path | None = None
    extension: Extension | None = None
    planned_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The job as JSON values, with absolute paths."""
        paths = {"tokens_dir": str(self.tokens_dir.resolve()), "run_dir": str(self.run_dir.resolve())}
        types = None if self.types is None else dict(self.types)
        start = None if self.start is None else str(self.start.resolve())
        plain = {"seed": self.seed, "key": self.key, "types": types, "qat_start": self.qat_start, "start": start}
        return {"config": self.config.model_dump(mode="json"), "shape": self.shape.to_dict(), **plain, **paths}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The job from what `to_json` returned."""
        paths = {name: Path(values[name]) for name in ("tokens_dir", "run_dir", "start") if values[name] is not None}
        return cls(**{**values, "config": TrainConfig(**values["config"]), "shape": ModelShape(**values["shape"]), **paths})


@dataclass(frozen=True)
class TrainResult:
    """What a finished run left in checkpoints/best of the run folder.

    Attributes:
        steps: optimizer steps of the run.
        best_step: step of the best weights.
        best_loss: their validation loss in nats per token.
        best_weights: which weights they are, "raw" or "ema".
        tokens_seen: training tokens of all steps.
        stopped_early: whether train.patience_early_stop ended the run.
    """

    steps: int
    best_step: int
    best_loss: float
    best_weights: str
    tokens_seen: int
    stopped_early: bool


@denormals_are_zero()
def train(job: TrainJob, progress: Progress, group: ProcessGroup = SINGLE_PROCESS, samples: SamplePrompts | None = None) -> TrainResult:
    """Train to the end of the schedule, from the newest checkpoint if the run folder has any.

    A training that diverges at the lowest learning rate too ends with its best weights, and says so.

    Args:
        job: what is trained.
        progress: shows bar and messages.
        group: the processes that share every step. Each of them calls this function; only the main process writes files.
        samples: prompts that are answered at every evaluation.

    Raises:
        Interrupted: SIGINT, SIGTERM, SIGHUP, a file `stop` in the run folder or a nearly full disk; a checkpoint was written first.
        BulletError: the data does not fit the model, training keeps diverging and no validation was better than the start, or the disk
            is full.
    """
    config, shape, checkpoints = job.config, job.shape, job.run_dir / "checkpoints"
    train_tokens, val_tokens = open_tokens(job.tokens_dir, "train"), open_tokens(job.tokens_dir, "val")
    windows = TrainingWindows(train_tokens, shape.max_seq_len, job.seed)
    tokens_per_step = sequences_per_step(config) * shape.max_seq_len

    be_nice(config.nice)
    weights = read_npy(job.start)[1] if job.start and group.is_main else None  # the other processes get the state of the main one
    state = initial_state(config, shape, job.seed, pick_device(config.device), job.key, weights)
    grid = Grid(FakeQuant(state.model, job.types), job.qat_start) if job.types and "BQ4" in job.types.values() else None
    if group.is_main:
        _resume(job, state, tokens_per_step, grid, progress)
    state.copy_from_main(group)
    total_steps, reason = last_step(config, windows.count, state.position.schedule_start)
    compute = choose_compute(config, state.model, tokens_per_step * total_steps, checkpoints, progress, group)
    progress.log(
        f"{shape.n_parameters / 1e6:.2f}M parameters, {len(train_tokens.tokens):,} training tokens, {reason}, "
        f"{tokens_per_step:,} tokens a step, {compute.description}, {state.optimizer_description}{group.description}"
    )
    if (warmup := warmup_length(config, total_steps - state.position.schedule_start)) < config.warmup_steps:
        progress.log(f"warm-up shortened from {config.warmup_steps:,} to {warmup:,} steps, a fifth of this run")

    trackers = open_trackers(config.track, job.run_dir) if group.is_main else []
    metrics = MetricsLog(job.run_dir / "metrics.jsonl" if group.is_main else None, state.position, trackers)
    with contextlib.closing(metrics):
        run = TextTraining(
            config=config,
            total_steps=total_steps,
            run_dir=job.run_dir,
            checkpoints=checkpoints,
            state=state,
            backend=compute,
            windows=windows,
            progress=progress,
            group=group,
            val_tokens=val_tokens,
            tokens_per_step=tokens_per_step,
            metrics=metrics,
            grid=grid,
            samples=samples,
            trained_start=job.start is not None,
            planned_seconds=job.planned_seconds,
        )
        run.replace_lost_best()
        run_steps(run)
        run.finish()
    return run.result()


def _resume(job: TrainJob, state: TrainState[TrainPosition], tokens_per_step: int, grid: Grid | None, progress: Progress) -> None:
    """In the main process: continue `state` from the newest checkpoint, or prepare it for its first step.

    Raises:
        BulletError: the checkpoints belong to another run, or those that are needed are damaged.
    """
    checkpoints = job.run_dir / "checkpoints"
    if job.extension:
        extend(state, job.extension, checkpoints, progress)
    if state.resume(checkpoints, "train again with --restart", _refuse, progress):
        restore_best(state, tokens_per_step, checkpoints, grid, progress)
        return
    refuse_damaged_best(checkpoints, job.key)
    if job.start and (units := state.restart_dead_units(job.seed)):
        progress.log(f"{units:,} neurons and dimensions of heads that weight decay had set to zero get random weights, so that they learn")


_NOT_IMPROVED = (
    "no step was better than the model from which the run started (validation loss {loss:.4f}): its weights are kept, and the model file "
    "is made from them. More text of this kind or a lower --learning-rate may help"
)


def _refuse(folder: Path) -> None:
    raise BulletError(f"{folder} was trained with other settings or data: choose another --name, or train again with --restart")


def overfitting(position: TrainPosition, loss: float, epochs: float) -> str | None:
    """One line if the validation loss has turned up while the model still fits its training text better; None otherwise.

    It has turned up if it is clearly above its lowest value, or above it for the second time in a row. Text that was not yet read
    twice cannot have been learned by heart: an early rise comes from the learning rate, above all in a run that starts from a model.

    Args:
        position: of the run, after the evaluation.
        loss: validation loss of the evaluation, nats per token.
        epochs: how many times the text has been read since the weights that the run started with.
    """
    if epochs <= 1:
        return None
    if not position.worse_in_a_row or position.best_loss is None or not position.recent_losses:
        return None
    training = statistics.median(position.recent_losses[-LEVEL_STEPS:])
    if training >= position.best_loss or not (position.worse_in_a_row > 1 or loss > (1 + CLEAR_RISE) * position.best_loss):
        return None
    return (
        f"over-fitting: validation loss rose from {position.best_loss:.3f} (step {position.best_step:,}) to {loss:.3f} while the training "
        f"loss fell to {training:.3f}, so the model learns its text by heart; the best weights are kept. More text, fewer epochs or a "
        "smaller model prevent it"
    )


@dataclass(kw_only=True)
class TextTraining(Run[TrainPosition]):
    """A training on text.

    Attributes:
        val_tokens: the validation text.
        tokens_per_step: training tokens in one effective batch.
        metrics: receives every event.
        grid: rounds the weights to the types of the model file; None if that has no BQ4 weights.
        samples: prompts that are answered at every evaluation.
        trained_start: whether the initial weights are those of a trained model, which are evaluated too.
        note: the last evaluation, in words.
        overfitting_named: whether the rise of the validation loss has been reported.
        planned_seconds: time for which the training was planned; None if it was not, or after the delay has been reported.
        timed_steps: steps of this process, which took `seconds`.
        stopped_early: whether train.patience_early_stop ended the run.
        gave_up: whether the run ended because it kept diverging.
        hopeless: what happened then, in the main process.
    """

    val_tokens: TokenFile
    tokens_per_step: int
    metrics: MetricsLog
    grid: Grid | None
    samples: SamplePrompts | None
    trained_start: bool = False
    note: str = ""
    overfitting_named: bool = False
    planned_seconds: float | None = None
    timed_steps: int = 0
    seconds: float = 0.0
    stopped_early: bool = False
    gave_up: bool = False
    hopeless: Hopeless | None = None

    title = "Training"

    @property
    def decay_start(self) -> int | None:
        """The step at which the learning rate begins to fall, from which a longer run could continue; None without such a step."""
        start = self.state.position.schedule_start
        step = decay_start(self.config, self.total_steps - start)
        return None if step is None else start + step

    def begin(self) -> str:
        """Write a first checkpoint, to which a rollback can return."""
        if not list_checkpoints(self.checkpoints):
            self.save()
        return ""

    def evaluate(self) -> bool:
        """Validate every train.eval_every_steps steps and after the last one.

        The run ends early when the validation loss stops improving, or when there is a file `finish` in the run folder. A trained model
        from which the run starts is validated too, so that its weights stay the best ones if training does not help.
        """
        position, config = self.state.position, self.config
        requested = self.group.sum(self.group.is_main and position.step > 0 and (self.run_dir / FINISH).exists())[0] > 0
        at_end = requested or position.step >= self.total_steps
        due = at_end or (position.step % config.eval_every_steps == 0 and (position.step > 0 or self.trained_start))
        if position.step == self.decay_start and position.step < self.total_steps:
            self.save()
        if due and position.evaluated_step != position.step:
            self.save()
            self._validate()
        self.stopped_early = bool(config.patience_early_stop) and position.worse_in_a_row >= config.patience_early_stop
        if not (at_end or self.stopped_early):
            return False
        reason = "finished on request" if requested else "early stop" if self.stopped_early else "end of schedule"
        self.metrics.write("end", position.step, reason=reason)
        self.save()
        return True

    def finish(self) -> None:
        """After the last step: keep the better weights of an extended run, and say what the user should know about the end."""
        position, progress = self.state.position, self.progress
        if self.group.is_main:
            if self.stopped_early:
                progress.log(self.early_stop())
            keep_the_better(self.state, self.checkpoints, progress)
            if self.hopeless:
                progress.log(self.early_end(self.hopeless), "warning")
            if self.trained_start and position.best_step == 0:
                progress.log(_NOT_IMPROVED.format(loss=position.best_loss), "warning")
            (self.run_dir / FINISH).unlink(missing_ok=True)
        if self.gave_up:
            self.state.copy_from_main(self.group)

    def early_stop(self) -> str:
        """A line about the end of a run that train.patience_early_stop ended."""
        position = self.state.position
        return (
            f"the training ends at step {position.step:,} of {self.total_steps:,}: the validation loss has not fallen for "
            f"{position.worse_in_a_row} validations (train.patience_early_stop); the best weights, of step {position.best_step:,}, are kept"
        )

    def replace_lost_best(self) -> None:
        """Evaluate the current weights if the best weights of an earlier evaluation were lost (see `restore_best`)."""
        position = self.state.position
        if position.best_loss is None and position.evaluated_step >= 0:
            worse_in_a_row = position.worse_in_a_row
            self._validate()
            position.worse_in_a_row = worse_in_a_row  # a run that was stopped early stays stopped

    def _epochs(self) -> float:
        """How many times the text has been read under the schedule of this run."""
        per_step = sequences_per_step(self.config)
        return self.state.position.optimizer_step() * per_step / self.windows.count

    def _validate(self) -> None:
        state, step = self.state, self.state.position.step
        found = evaluate(state, self.val_tokens, self.config.batch_size_per_device, self.group, self.grid)
        values = found.values
        if not all(map(math.isfinite, values.values())):
            raise Diverged("the validation loss is no longer a number", in_weights=True)
        better = keep_best(state, found, step * self.tokens_per_step, self.checkpoints if self.group.is_main else None, self.grid)
        self.metrics.write("eval", step, **values, best=better, memory_mb=memory_mb())
        if (line := overfitting(state.position, found.loss, self._epochs())) and not self.overfitting_named:
            self.overfitting_named = True
            self.progress.log(line, "warning")
        for prompt, answer in answers(state.weights(found.best), state.model.shape, self.samples) if self.samples else ():
            self.metrics.write("sample", step, prompt=prompt, answer=answer)
            self.progress.log(f"  step {step:,}: {prompt} -> {answer}")
        self.note = f"val {found.loss:.3f}  {values['val/bpb']:.3f} bits/byte"
        if "val/loss_bq4" in values:
            self.note = f"4-bit {values['val/loss_bq4']:.3f}  {self.note}"

    def _learning_rate(self, step: int) -> float:
        start = self.state.position.schedule_start
        return learning_rate(self.config, step - start, self.total_steps - start) * LR_BACKOFF[self.state.position.backoff_level]

    def learning_rate_share(self) -> float:
        """The schedule, lowered after rollbacks."""
        return self._learning_rate(self.state.position.step) / self.config.learning_rate

    def step_weights(self) -> contextlib.AbstractContextManager[None]:
        """The weights of the model; from qat.start on rounded to the types of the model file."""
        state, grid = self.state, self.grid
        first = grid.first_step(self.total_steps) if grid else self.total_steps
        rounded = grid is not None and state.position.step >= first
        if state.ema:
            # The average restarts with the rounding: a slow one would keep weights that were trained without it for thousands of steps.
            state.ema.start = first if rounded else state.position.schedule_start
            if state.position.step == state.ema.start:
                state.ema.restart(state.model)
        return grid.fake.applied() if grid and rounded else contextlib.nullcontext()

    def find_trouble(self, loss: float, grad_norm: float) -> str | None:
        """NaN, infinity, or a jump of the loss."""
        config, recent = self.config, self.state.position.recent_losses
        vocabulary = self.state.model.shape.vocab_size
        return find_trouble(loss, grad_norm, recent, config.spike_threshold, vocabulary, sequences_per_step(config))

    def recover(self, trouble: Diverged) -> bool:
        """Return to the last good checkpoint in every process of the group; if that does not help any more, end with the best weights."""
        clear_gradients(self.state)
        in_weights = self.group.sum(trouble.in_weights or not self.state.is_finite())[0] > 0
        if self.group.is_main:
            try:
                roll_back(self.state, self.checkpoints, Diverged(trouble.problem, in_weights), self.config, self.progress)
                self.metrics.rewind(self.state.position)
            except Hopeless as hopeless:
                self._give_up(hopeless)
        self.gave_up = self.group.broadcast_object(self.hopeless is not None)
        self.state.copy_from_main(self.group)
        return not self.gave_up

    def _give_up(self, hopeless: Hopeless) -> None:
        """End the run with its best weights. The state becomes a sound one, because a longer run may continue from it.

        Raises:
            Hopeless: no validation was better than the start.
        """
        if not self._has_learned():
            raise Hopeless(f"{hopeless.problem}, and no validation was better than the start", hopeless.advice)
        self.hopeless = hopeless
        self.metrics.write("end", self.state.position.step, reason="diverged")
        try:
            return_to_good(self.state, self.checkpoints, self.config, self.progress)
        except Hopeless:  # all other checkpoints are damaged
            best = load_checkpoint(self.checkpoints / "best").tensors["model"]
            self.state.load_weights({name: tensor.numpy() for name, tensor in best.items()})

    def _has_learned(self) -> bool:
        """Whether there are weights that are better than those with which the run started, or those of the run that it continues."""
        position = self.state.position
        if (self.checkpoints / EARLIER / "state.json").is_file():
            return True
        if position.best_loss is None or position.best_step <= 0:
            return False
        return self.trained_start or position.best_loss < math.log(self.state.model.shape.vocab_size)

    def early_end(self, hopeless: Hopeless) -> str:
        """A line about the end of a run that kept diverging."""
        position = self.state.position
        return (
            f"{hopeless.problem}: the training ends here, and the model is made from the best weights so far, of step "
            f"{position.best_step:,} (validation loss {position.best_loss:.4f}). For a better one, {hopeless.advice}"
        )

    def record(self, result: StepResult) -> str:
        """Write the event of the step that was just completed."""
        position, loss = self.state.position, result.loss
        position.recent_losses = [*position.recent_losses, loss][-LOSS_HISTORY_STEPS:]
        self.timed_steps, self.seconds = self.timed_steps + 1, self.seconds + result.seconds
        if line := self._delay():
            self.planned_seconds = None
            self.progress.log(line, "warning")
        rate = self._learning_rate(position.step - 1)
        values = {"train/loss": loss, "lr": rate, "grad_norm": result.grad_norm}
        if result.update_ratio is not None:
            values["update_ratio"] = result.update_ratio
        speed = {"tokens_per_s": round(self.tokens_per_step / result.seconds, 1), "seconds": round(self.seconds, 3)}
        self.metrics.write("train", position.step, tokens=position.step * self.tokens_per_step, **values, **speed)
        tokens_per_s = self.timed_steps * self.tokens_per_step / self.seconds
        return f"loss {loss:.3f}  {self.note}  lr {rate:.1e}  {tokens_per_s:,.0f} tokens/s  {memory_mb():,.0f} MB"

    def _delay(self) -> str | None:
        """One line if the steps of this process show that the training takes clearly longer than planned; None otherwise."""
        if self.planned_seconds is None or not self.group.is_main or self.seconds < LEAST_TIMED_SECONDS:
            return None
        steps = self.total_steps - self.state.position.schedule_start
        expected = steps * self.seconds / self.timed_steps
        if expected < CLEAR_DELAY * self.planned_seconds:
            return None
        return (
            f"the training takes about {format_duration(expected)} and not {format_duration(self.planned_seconds)} as planned: this "
            "machine is slower than when it was measured, perhaps because other programs use it. To end the training sooner and make the "
            f"model from the best weights until then: touch {shlex.quote(printable(str(self.run_dir / FINISH)))}"
        )

    def keeps(self, step: int) -> bool:
        """Whether a rollback may return to the checkpoint of `step`, or a longer run may continue from it."""
        start = self.state.position.schedule_start
        return (
            step == self.decay_start
            or (step == start and start > 0)
            or may_roll_back_to(step, self.state.position.step, self.config.eval_every_steps)
        )

    def flush(self) -> None:
        """Write the metrics to disk."""
        self.metrics.sync()

    def result(self) -> TrainResult:
        """The result, after the last step."""
        position = self.state.position
        assert position.best_loss is not None
        return TrainResult(
            steps=position.step,
            best_step=position.best_step,
            best_loss=position.best_loss,
            best_weights=position.best_weights,
            tokens_seen=position.step * self.tokens_per_step,
            stopped_early=self.stopped_early,
        )
