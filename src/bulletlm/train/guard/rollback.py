"""Rollback: notice that training diverges, return to the last good state, skip the batch, lower the learning rate.

The last good state is the newest checkpoint of an evaluated step that is at least ROLLBACK_MARGIN_STEPS before the problem.
All decisions depend on step numbers and losses only, and checkpoints store these. A run that was interrupted anywhere
therefore makes the same decisions.
"""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from bulletlm.config.schema import TrainConfig
from bulletlm.errors import BulletError
from bulletlm.files import remove_owned
from bulletlm.progress import Progress
from bulletlm.train.checkpoint import CHECKPOINT_FILES, Checkpoint, list_checkpoints, load_checkpoint
from bulletlm.train.state import TrainPosition, TrainState

LR_BACKOFF = (1.0, 0.6, 0.2)
"""Factors of the learning rate. Every rollback takes the next one: 5e-4, 3e-4, 1e-4."""

LOSS_HISTORY_STEPS = 100
"""Number of preceding losses that a loss is compared with."""

LEVEL_STEPS = 10
"""Number of preceding losses whose median is the present level of the loss."""

MIN_HISTORY_STEPS = 20
"""Number of preceding losses below which a loss is not compared with them."""

SEQUENCE_NOISE = 0.4
"""Smallest noise that is assumed for the loss of one sequence, nats per token. The losses of neighbouring steps show less: at the beginning
of a training all text is equally unknown, and a small share of the text in another language is in few batches."""

ROLLBACK_MARGIN_STEPS = 10
"""Number of steps before a problem in which the weights may be damaged already."""

ROLLBACK_HELPED_AFTER_STEPS = 500
"""Number of steps without a problem after which the last rollback counts as successful."""


class Diverged(Exception):
    """Training went wrong in this step. The loop catches it and recovers.

    Attributes:
        problem: what is wrong, in words.
        in_weights: whether the weights are known to be damaged already.
    """

    def __init__(self, problem: str, in_weights: bool = False) -> None:
        super().__init__(problem)
        self.problem, self.in_weights = problem, in_weights


class Hopeless(BulletError):
    """Training cannot go on: it diverges at the lowest learning rate too, or there is no checkpoint to return to.

    The message is what happened; `advice` is what the user can do.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem}; {advice}")
        self.problem, self.advice = problem, advice


def find_trouble(loss: float, norm: float, recent: Sequence[float], threshold: float, vocab_size: int, sequences: int) -> str | None:
    """What is wrong with a step, in words; None if nothing is.

    Args:
        loss: mean loss of the batch in nats per token.
        norm: global norm of its gradient.
        recent: the losses of the steps before, at most LOSS_HISTORY_STEPS.
        threshold: how far above its level a loss may be, in robust standard deviations of its noise. Normal runs stay below 5.
            With 0 only NaN and infinity are problems.
        vocab_size: an untrained model has a loss of about log(vocab_size).
        sequences: in the batch; the mean of a few varies more.
    """
    if not math.isfinite(loss):
        return "the loss is no longer a number"
    if not math.isfinite(norm):
        return "the gradient is no longer a number"
    if not threshold:
        return None
    if loss > math.log(vocab_size) + 2:
        return f"the loss of {loss:.2f} is worse than guessing"
    if len(recent) >= MIN_HISTORY_STEPS:
        # Differences of neighbours give the noise and the last few losses the level; both are right while the loss is still falling.
        level = statistics.median(recent[-LEVEL_STEPS:])
        noise = 1.4826 * statistics.median(abs(b - a) for a, b in pairwise(recent)) / math.sqrt(2)
        if loss > level + threshold * max(noise, SEQUENCE_NOISE / math.sqrt(sequences)):
            return f"the loss jumped from {level:.2f} to {loss:.2f}"
    return None


def last_good_step(step: int, eval_every: int) -> int:
    """The step to which a problem at `step` leads back."""
    return max(0, (step - ROLLBACK_MARGIN_STEPS) // eval_every * eval_every)


def may_roll_back_to(candidate: int, step: int, eval_every: int) -> bool:
    """Whether a problem at `step` or later may lead back to the checkpoint of step `candidate`."""
    return candidate >= last_good_step(step, eval_every) and candidate % eval_every == 0


def roll_back(state: TrainState[TrainPosition], checkpoints: Path, trouble: Diverged, config: TrainConfig, progress: Progress) -> None:
    """Return `state` to the last good step, skip the batch that caused the problem, lower the learning rate, and save.

    The position records the rollback. Later checkpoints are deleted.

    Args:
        state: the run; changed.
        checkpoints: folder with its checkpoints.
        trouble: the problem. If it is in the weights already, the batch of the step before is skipped instead of the present one.
        config: settings of the run.
        progress: shows what happened.

    Raises:
        Hopeless: training diverges at the lowest learning rate too, or no checkpoint is intact; the state is unchanged.
        BulletError: the disk is full.
    """
    now = state.position
    backoff_level = now.backoff_level + 1
    if backoff_level == len(LR_BACKOFF):
        if now.step - now.rollbacks[-1]["from_step"] <= ROLLBACK_HELPED_AFTER_STEPS:
            raise _hopeless(state, trouble.problem, config)
        backoff_level -= 1
    skipped = now.batch(back=int(trouble.in_weights and now.step > 0))
    return_to_good(state, checkpoints, config, progress)
    then = state.position
    event = {
        "from_step": now.step,
        "to_step": then.step,
        "skipped_batch": skipped,
        "rate_factor": LR_BACKOFF[backoff_level],
        "reason": trouble.problem,
    }
    then.backoff_level, then.skipped, then.rollbacks = backoff_level, sorted([*now.skipped, skipped]), [*now.rollbacks, event]
    state.save(checkpoints)
    for step, folder in list_checkpoints(checkpoints):
        if step > then.step:
            remove_owned(folder, CHECKPOINT_FILES)
    factor = LR_BACKOFF[backoff_level]
    progress.log(
        f"step {now.step:,}: {trouble.problem}; back to step {then.step:,} without batch {skipped:,}, learning rate x {factor:g} "
        f"(peak {config.learning_rate * factor:.2g})",
        "warning",
    )


def return_to_good(state: TrainState[TrainPosition], checkpoints: Path, config: TrainConfig, progress: Progress) -> None:
    """Replace `state` by the last good one before its step; the best weights on disk remain the best ones, also if they are newer.

    Raises:
        Hopeless: no checkpoint is intact; the state is unchanged.
    """
    now = state.position
    good = max(last_good_step(now.step, config.eval_every_steps), now.schedule_start)
    state.restore(_load_good(checkpoints, good, config.eval_every_steps, now.schedule_start, progress))
    then = state.position
    then.best_loss, then.best_step, then.best_weights = now.best_loss, now.best_step, now.best_weights
    if now.best_step > then.step:
        then.worse_in_a_row = 0  # it counts validations since other best weights


def _load_good(checkpoints: Path, step: int, eval_every: int, start: int, progress: Progress) -> Checkpoint:
    """The checkpoint of the evaluated step `step`, or if that is damaged, the newest intact one before it, from step `start` on."""
    for found, folder in reversed(list_checkpoints(checkpoints)):
        if found > step or found < start or (found % eval_every and found != start):
            continue
        try:
            return load_checkpoint(folder)
        except BulletError as error:
            progress.log(f"{error}; trying an earlier checkpoint", "warning")
    raise Hopeless(f"{checkpoints} has no intact checkpoint to return to", "train again with --restart")


def _hopeless(state: TrainState[TrainPosition], problem: str, config: TrainConfig) -> Hopeless:
    at = state.position
    return Hopeless(
        f"step {at.step:,}: {problem}, also at {LR_BACKOFF[at.backoff_level]:g} of the learning rate and after "
        f"{len(at.rollbacks)} rollbacks",
        f"look for damaged text in the data, or start again with a lower rate: --lr={config.learning_rate / 10:.1g} --restart",
    )
