"""Trains in groups of two processes, forked so that torch is imported only once: python two_processes.py CLEAN SPOILT OUT

OUT/stopped  both are stopped in the steps that are rolled back because of the garbage in SPOILT, and continue
OUT/broken   a weight of the second one becomes NaN, before a step and again before a validation; what each has at the end
             is written to OUT/broken/process-0 and process-1
"""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import test_stability as t
import torch
import torch._dynamo  # the optimizers import it at first use, which would cost every child two seconds
import torch.distributed as dist

from bulletlm.errors import Interrupted
from bulletlm.progress import Progress, SilentProgress
from bulletlm.train import loop, training
from bulletlm.train.checkpoint import save_checkpoint
from bulletlm.train.distributed.group import ProcessGroup, join
from bulletlm.train.state import TrainPosition, TrainState, initial_state


def both(store: Path, work: Callable[[ProcessGroup], None]) -> None:
    """Do `work` in two processes that meet through the file `store`."""
    children = []
    for rank in range(2):
        child = os.fork()
        if not child:
            with join(rank, 2, dist.FileStore(str(store), 2)) as group:
                work(group)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


def train(group: ProcessGroup, tokens: Path, folder: Path, progress: Progress) -> None:
    training.train(t.job(tokens, folder), progress, group)


def break_a_weight(group: ProcessGroup, tokens: Path, folder: Path) -> None:
    states: list[TrainState[TrainPosition]] = []
    broken: list[int] = []
    update = loop.update

    def initial_and_kept(*arguments: Any) -> TrainState[TrainPosition]:
        states.append(initial_state(*arguments))
        return states[0]

    def update_and_break(state: TrainState[TrainPosition]) -> None:
        update(state)
        step = state.position.step
        if group.rank == 1 and step in (34, 75) and step not in broken:
            broken.append(step)
            with torch.no_grad():
                state.model.final_norm.weight[3] = float("nan")

    training.initial_state, loop.update = initial_and_kept, update_and_break
    train(group, tokens, folder, SilentProgress())
    save_checkpoint(folder / f"process-{group.rank}", states[0].checkpoint())


def stop(group: ProcessGroup, tokens: Path, folder: Path) -> None:
    with contextlib.suppress(Interrupted):
        train(group, tokens, folder, t.Listening(44 if group.is_main else None))
        raise AssertionError("it was not stopped")


def main(clean: Path, spoilt: Path, out: Path) -> None:
    out.mkdir()
    both(out / "store-1", lambda group: stop(group, spoilt, out / "stopped"))
    both(out / "store-2", lambda group: train(group, spoilt, out / "stopped", SilentProgress()))
    both(out / "store-3", lambda group: break_a_weight(group, clean, out / "broken"))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
