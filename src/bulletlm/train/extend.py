"""Continuing a trained run under a longer schedule, or with more text (docs/training.md).

The run continues from the last state before its learning rate began to fall. Where there is no such state, because the rate falls
from the warm-up on (cosine) or the checkpoint is gone, it continues from its best weights with a fresh optimizer and a new warm-up.
"""

from dataclasses import dataclass
from pathlib import Path

from bulletlm.errors import BulletError
from bulletlm.files import remove_owned
from bulletlm.progress import Progress
from bulletlm.train.checkpoint import (
    CHECKPOINT_FILES,
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from bulletlm.train.state import TrainPosition, TrainState

EARLIER = "best-earlier"
"""Folder of the best weights of the run before it was extended, until the extended run has ended."""


@dataclass(frozen=True, kw_only=True)
class Extension:
    """How a run differs from the one that trained the checkpoints.

    Attributes:
        decay_start: the step at which the learning rate of that run began to fall; None if it fell from the warm-up on.
        more_text: whether text was added; losses on the two validation texts are then not comparable.
    """

    decay_start: int | None
    more_text: bool


def extend(state: TrainState[TrainPosition], extension: Extension, checkpoints: Path, progress: Progress) -> None:
    """Write a checkpoint from which the run continues, unless that was done before, and say which state it is.

    Args:
        state: a state of the new run; changed.
        extension: what is different.
        checkpoints: folder with the checkpoints of the earlier run.
        progress: receives the message.

    Raises:
        BulletError: no checkpoint is intact, or the disk is full.
    """
    newest = newest_checkpoint(checkpoints, "train again with --restart", progress)
    if newest is None or newest[1].state["key"] == state.key:
        return
    done = state.position.from_json(newest[1].state)
    found = _before_decay(checkpoints, extension.decay_start)
    best = checkpoints / "best"
    if found:
        folder, checkpoint = found
        if not (checkpoints / EARLIER / "state.json").is_file() and not extension.more_text and (best / "state.json").is_file():
            kept = load_checkpoint(best)
            save_checkpoint(checkpoints / EARLIER, kept)
        for step, later in list_checkpoints(checkpoints):
            if step > int(folder.name.removeprefix("step-")):
                remove_owned(later, CHECKPOINT_FILES)
        state.restore(checkpoint)
        reason = "the last state before the learning rate fell" if extension.decay_start != done.step else "the last state"
        progress.log(f"continuing from step {state.position.step:,}, {reason}")
    else:
        _start_again(state, load_checkpoint(best), done)
        why = "no state before the learning rate fell is kept" if extension.decay_start else "its learning rate fell from the warm-up on"
        progress.log(f"continuing from the best weights (step {done.best_step:,}) with a fresh warm-up, because {why}")
    position = state.position
    position.best_loss, position.best_step, position.worse_in_a_row = None, -1, 0
    state.save(checkpoints)


def _before_decay(checkpoints: Path, decay_start: int | None) -> tuple[Path, Checkpoint] | None:
    """The newest intact checkpoint whose next step still has the rate of before the decay."""
    for step, folder in reversed(list_checkpoints(checkpoints)):
        if decay_start is not None and 0 < step <= decay_start:
            try:
                return folder, load_checkpoint(folder)
            except BulletError:
                continue
    return None


def _start_again(state: TrainState[TrainPosition], best: Checkpoint, done: TrainPosition) -> None:
    """Put weights into a fresh state, and count the schedule from the steps that are done."""
    state.load_weights({name: tensor.numpy() for name, tensor in best.tensors["model"].items()})
    state.position = TrainPosition(step=done.step, schedule_start=done.step, evaluated_step=max(0, done.step - 1))


def keep_the_better(state: TrainState[TrainPosition], checkpoints: Path, progress: Progress) -> None:
    """At the end of an extended run: restore the best weights of before if the longer training did not improve them.

    Raises:
        BulletError: the disk is full; or the weights of before are damaged, and the longer training has none.
    """
    folder = checkpoints / EARLIER
    if not (folder / "state.json").is_file():
        return
    try:
        earlier = load_checkpoint(folder)
    except BulletError as error:
        if state.position.best_loss is None:
            raise
        progress.log(f"{error}; the best weights of the longer training are used", "warning")
    else:
        _compare(state, earlier, checkpoints, progress)
    (folder / "state.json").unlink()  # first, so that a folder that is removed in part does not count
    remove_owned(folder, CHECKPOINT_FILES)


def _compare(state: TrainState[TrainPosition], earlier: Checkpoint, checkpoints: Path, progress: Progress) -> None:
    """Make `earlier` the best weights if they have a lower loss than those of the longer training."""
    position, loss = state.position, earlier.state["val_loss"]
    if position.best_loss is not None and position.best_loss <= loss:
        return
    if position.best_loss is None:
        line = f"the extended run has no validation: the model of the run before it (validation loss {loss:.4f}) stays"
    else:
        line = (
            f"the extended run is not better (validation loss {position.best_loss:.4f}) than the run before it ({loss:.4f}): "
            "its model stays"
        )
    progress.log(line)
    save_checkpoint(checkpoints / "best", Checkpoint(earlier.tensors, {**earlier.state, "key": state.key}))
    position.best_loss, position.best_step, position.best_weights = loss, earlier.state["step"], earlier.state["weights"]
    state.save(checkpoints)
