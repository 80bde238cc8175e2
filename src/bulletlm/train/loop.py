"""The training loop. Training on text (training.py) and distillation (distil.py) both run it.

One optimizer step = forward and backward passes over an effective batch, clipping, optimizer update, moving average.
Everything that decides the result is a function of the configuration, the seed, the tokens and the step number. A run that
was stopped or killed therefore continues with the same bits as one that was not interrupted.
"""

import contextlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic

from bulletlm.config.schema import TrainConfig
from bulletlm.errors import Interrupted
from bulletlm.progress import Progress
from bulletlm.train.batches import TrainingWindows
from bulletlm.train.checkpoint import prune_checkpoints
from bulletlm.train.distributed.group import SINGLE_PROCESS, ProcessGroup
from bulletlm.train.guard.rollback import Diverged
from bulletlm.train.guard.stopping import Pause, disk_is_low, stop_requested
from bulletlm.train.log.diagnostics import UPDATE_RATIO_EVERY_STEPS, copy_matrices, update_ratio
from bulletlm.train.optimizer import set_learning_rate
from bulletlm.train.state import AnyPosition, TrainState
from bulletlm.train.step import GradientBackend, accumulate, clip, update


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one optimizer step measured.

    Attributes:
        loss: mean loss of the effective batch, in nats per token.
        grad_norm: global norm of its gradient before clipping.
        update_ratio: norm of the change over the norm of the weights; None in steps that do not measure it.
        seconds: how long the step took.
    """

    loss: float
    grad_norm: float
    update_ratio: float | None
    seconds: float


@dataclass(kw_only=True)
class Run(ABC, Generic[AnyPosition]):
    """The parts of a training. The methods are what differs between training on text and distillation.

    Attributes:
        config: settings of the steps, of checkpoints and of pauses.
        total_steps: length of the run in optimizer steps.
        run_dir: the run folder, in which a file `stop` ends the run.
        checkpoints: folder for the checkpoints.
        state: what changes from step to step.
        backend: computes the gradients.
        windows: the training text.
        progress: shows bar and messages.
        group: the processes that share every step.
    """

    config: TrainConfig
    total_steps: int
    run_dir: Path
    checkpoints: Path
    state: TrainState[AnyPosition]
    backend: GradientBackend
    windows: TrainingWindows
    progress: Progress
    group: ProcessGroup = SINGLE_PROCESS

    title: ClassVar[str]
    """Title of the progress bar."""
    of_what: ClassVar[str] = ""
    """Follows the number of steps in messages: " of QAT"."""

    @abstractmethod
    def begin(self) -> str:
        """Called once before the first step; returns the text beside the progress bar."""

    def evaluate(self) -> bool:
        """Evaluate if an evaluation is due; returns whether the run is complete.

        Raises:
            Diverged: the evaluation shows that the weights are damaged.
        """
        return self.state.position.step >= self.total_steps

    @abstractmethod
    def learning_rate_share(self) -> float:
        """Learning rate of the next step as a share of its peak."""

    @abstractmethod
    def step_weights(self) -> contextlib.AbstractContextManager[None]:
        """Context in which the model has the weights with which the next step computes."""

    @abstractmethod
    def find_trouble(self, loss: float, grad_norm: float) -> str | None:
        """What is wrong with the loss (nats per token) or the gradient norm of a step, in words; None if nothing is."""

    @abstractmethod
    def recover(self, trouble: Diverged) -> bool:
        """Return to a sound state; returns whether the run goes on from there. If it does not, the best weights so far are its result.

        Raises:
            BulletError: there are no weights that could be the result.
        """

    @abstractmethod
    def record(self, result: StepResult) -> str:
        """Log the step that was just completed; returns the text beside the progress bar."""

    def keeps(self, step: int) -> bool:
        """Whether the checkpoint of `step` may still be needed although there are enough newer ones."""
        return False

    def flush(self) -> None:
        """Write logs to disk; called before every checkpoint."""

    def save(self) -> None:
        """Write a checkpoint and delete those that are no longer needed. Only the main process writes.

        Raises:
            BulletError: the disk is full or not writable.
        """
        if self.group.is_main:
            self.flush()
            self.state.save(self.checkpoints)
            prune_checkpoints(self.checkpoints, self.config.keep_checkpoints, self.keeps)


def run_steps(run: Run[Any]) -> None:
    """Take optimizer steps until the run is complete or cannot go on, from wherever its state is.

    Raises:
        Interrupted: SIGINT, SIGTERM, SIGHUP, a file `stop` in the run folder or a nearly full disk; a checkpoint was written first.
        BulletError: training diverges before there are weights to keep, or the disk is full.
    """
    config, state, group = run.config, run.state, run.group
    pause = Pause(config)
    with stop_requested(run.run_dir / "stop") as stop, run.progress.task(run.title, run.total_steps) as bar:
        bar.advance(state.position.step, run.begin())
        while True:
            step = state.position.step
            try:
                if run.evaluate():
                    if stop() and group.is_main:  # otherwise a request during the last step would be lost
                        run.save()
                        raise _interrupted(run)
                    break
                if _stop_or_pause(run, stop, pause):
                    continue
                started = time.monotonic()
                set_learning_rate(state.optimizers, run.learning_rate_share())
                with run.step_weights():
                    loss = accumulate(config, run.windows, state.position.batch(), run.backend, group)
                group.sum_gradients(state.model.parameters())
                grad_norm = clip(state, config.clip_grad_norm)
                if problem := run.find_trouble(loss, grad_norm):
                    raise Diverged(problem)
                ratio = _update_and_measure(state, group)
            except Diverged as trouble:
                goes_on = run.recover(trouble)
                bar.advance(state.position.step - step)
                if not goes_on:
                    if stop() and group.is_main:
                        raise _interrupted(run) from None
                    break
                continue
            result = StepResult(loss=loss, grad_norm=grad_norm, update_ratio=ratio, seconds=time.monotonic() - started)
            bar.advance(1, run.record(result))
            if state.position.step % config.save_every_steps == 0:
                run.save()


def _stop_or_pause(run: Run[Any], stop: Callable[[], bool], pause: Pause) -> bool:
    """Stop or wait a second if there is a reason in any process of the group; returns whether it waited.

    Raises:
        Interrupted: there is a reason to stop; a checkpoint was written first.
    """
    low, wait = disk_is_low(run.run_dir, run.state.size()), pause.reason()
    stop_now, pause_now = (reasons > 0 for reasons in run.group.sum(bool(stop() or low), bool(wait)))
    if stop_now:
        run.save()
        raise _interrupted(run, f" ({low}: free some space)" if low else "")
    return pause.wait(pause_now, run.save, run.progress)


def _interrupted(run: Run[Any], why: str = "") -> Interrupted:
    """The error that ends a run of which a checkpoint was just written."""
    at = f"step {run.state.position.step:,} of {run.total_steps:,}{run.of_what}"
    return Interrupted(f"stopped at {at}{why}; saved: run the same command again to continue from there")


def _update_and_measure(state: TrainState[Any], group: ProcessGroup) -> float | None:
    """`update`, and the update ratio in every step that measures it.

    Raises:
        Diverged: the weights are no longer numbers in some process of the group.
    """
    if (state.position.step + 1) % UPDATE_RATIO_EVERY_STEPS:
        update(state)
        return None
    before = copy_matrices(state.model)
    update(state)
    ratio = update_ratio(before, state.model)
    if group.sum(not math.isfinite(ratio))[0]:
        raise Diverged("the weights are no longer numbers", in_weights=True)
    return ratio
