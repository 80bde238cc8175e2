"""When training goes wrong: notice it, go back to the last good state, leave the batch out, learn more slowly.

The last good state is the newest checkpoint that an evaluation was made of and that is at least ROLLBACK_MARGIN_STEPS steps old when the
trouble shows. All of it depends on step numbers and losses only, and is stored in the checkpoints: a run that was
interrupted anywhere makes the same decisions.
"""

import math
import shutil
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from bulletlm.config.schema import TrainConfig
from bulletlm.errors import BulletError
from bulletlm.progress import Progress
from bulletlm.train.checkpoint import Checkpoint, list_checkpoints, load_checkpoint
from bulletlm.train.state import TrainPosition, TrainState

LR_BACKOFF = (1.0, 0.6, 0.2)
"""Factors of the learning rate, one further down at each rollback: 5e-4, 3e-4, 1e-4."""

LOSS_HISTORY_STEPS = 100
"""A loss is judged by so many before it."""

LEVEL_STEPS = 10
"""The median of so many is what the loss is now."""

MIN_HISTORY_STEPS = 20
"""Fewer losses than these say nothing about what is usual."""

ROLLBACK_MARGIN_STEPS = 10
"""Weights can be spoilt some steps before the loss shows it."""

ROLLBACK_HELPED_AFTER_STEPS = 500
"""Steps without trouble after which the last rollback counts as having helped."""


class Diverged(Exception):
    """Training went wrong in this step. The loop catches it and recovers.

    Attributes:
        problem: what is wrong, in words.
        in_weights: whether the weights are known to be damaged already.
    """

    def __init__(self, problem: str, in_weights: bool = False) -> None:
        super().__init__(problem)
        self.problem, self.in_weights = problem, in_weights


def find_trouble(loss: float, norm: float, recent: Sequence[float], threshold: float, vocab_size: int) -> str | None:
    """What is wrong with a step, in words; None where nothing is.

    Args:
        loss: mean loss of the batch in nats a token.
        norm: global norm of its gradient.
        recent: the losses before it, at most LOSS_HISTORY_STEPS.
        threshold: how far above its level, in robust standard deviations of its noise, a loss may be; 0 looks for NaN and
            infinity only. Sound runs stay below 5.
        vocab_size: a model that knows nothing has a loss of log(vocab_size).
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
        # Noise from the differences of neighbours, level from the last few: a loss that still falls hides neither.
        level = statistics.median(recent[-LEVEL_STEPS:])
        noise = 1.4826 * statistics.median(abs(b - a) for a, b in pairwise(recent)) / math.sqrt(2)
        if loss > level + threshold * max(noise, 0.01):
            return f"the loss jumped from {level:.2f} to {loss:.2f}"
    return None


def last_good_step(step: int, eval_every: int) -> int:
    """The step to which trouble at `step` leads back."""
    return max(0, (step - ROLLBACK_MARGIN_STEPS) // eval_every * eval_every)


def may_roll_back_to(candidate: int, step: int, eval_every: int) -> bool:
    """Whether a problem at `step` or later may lead back to the checkpoint of step `candidate`."""
    return candidate >= last_good_step(step, eval_every) and candidate % eval_every == 0


def roll_back(state: TrainState[TrainPosition], checkpoints: Path, trouble: Diverged, config: TrainConfig, progress: Progress) -> None:
    """Bring `state` back to the last good step, without the batch that did it and one backoff_level down the ladder; saves that.

    What happened is kept in the position.

    Args:
        learnt: whether the damage is in the weights already: then it is the batch before the one at hand that is left out.

    Raises:
        BulletError: the bottom of the ladder is reached and training still goes wrong.
    """
    now = state.position
    backoff_level = now.backoff_level + 1
    if backoff_level == len(LR_BACKOFF):
        if now.step - now.rollbacks[-1]["from_step"] <= ROLLBACK_HELPED_AFTER_STEPS:
            raise _hopeless(state, trouble.problem, config)
        backoff_level -= 1
    skipped = now.batch(back=int(trouble.in_weights and now.step > 0))
    state.restore(_load_good(checkpoints, last_good_step(now.step, config.eval_every_steps), config.eval_every_steps, progress))
    then = state.position
    event = {
        "from_step": now.step,
        "to_step": then.step,
        "skipped_batch": skipped,
        "rate_factor": LR_BACKOFF[backoff_level],
        "reason": trouble.problem,
    }
    then.backoff_level, then.skipped, then.rollbacks = backoff_level, sorted([*now.skipped, skipped]), [*now.rollbacks, event]
    # Best weights that were found on the way are on disk and remain the best.
    then.best_loss, then.best_step, then.best_weights = now.best_loss, now.best_step, now.best_weights
    state.save(checkpoints)
    for step, folder in list_checkpoints(checkpoints):
        if step > then.step:
            shutil.rmtree(folder)
    factor = LR_BACKOFF[backoff_level]
    progress.log(
        f"step {now.step:,}: {trouble.problem}; back to step {then.step:,} without batch {skipped:,}, learning rate x {factor:g} "
        f"(peak {config.learning_rate * factor:.2g})"
    )


def _load_good(checkpoints: Path, step: int, eval_every: int, progress: Progress) -> Checkpoint:
    """The evaluated checkpoint of `step`, or where that is damaged the newest whole one before it."""
    for found, folder in reversed(list_checkpoints(checkpoints)):
        if found > step or found % eval_every:
            continue
        try:
            return load_checkpoint(folder)
        except BulletError as error:
            progress.log(f"{error}; going back further")
    raise BulletError(f"{checkpoints} holds no whole checkpoint to go back to: train anew with --restart")


def _hopeless(state: TrainState[TrainPosition], problem: str, config: TrainConfig) -> BulletError:
    at = state.position
    kept = f"; the best weights so far, of step {at.best_step:,}, are kept" if at.best_loss is not None else ""
    return BulletError(
        f"step {at.step:,}: {problem}, also at {LR_BACKOFF[at.backoff_level]:g} of the learning rate and after "
        f"{len(at.rollbacks)} rollbacks{kept}; "
        f"look for damaged text in the data, or start anew with a lower rate: --lr={config.learning_rate / 10:.1g} --restart"
    )
