"""Teams of two, forked so that torch is imported once: python two_processes.py CLEAN SPOILT OUT

OUT/stopped  both are stopped in the steps that the garbage in SPOILT takes back, and go on
OUT/broken   a weight of the second one becomes NaN, before a step and again before a validation; what each has at the end
             is written to OUT/broken/process-0 and process-1
"""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import test_stability as t
import torch
import torch._dynamo  # the optimisers import it late, which would cost every child two seconds
import torch.distributed as dist

from bulletlm.config.schema import TrainConfig
from bulletlm.errors import Interrupted
from bulletlm.progress import Progress, SilentProgress
from bulletlm.train import loop
from bulletlm.train.checkpoint import save_checkpoint
from bulletlm.train.distributed.group import Team, join
from bulletlm.train.state import TrainState


def both(store: Path, work: Callable[[Team], None]) -> None:
    """Do `work` in two processes that meet through the file `store`."""
    children = []
    for rank in range(2):
        child = os.fork()
        if not child:
            with join(rank, 2, dist.FileStore(str(store), 2)) as team:
                work(team)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


def train(team: Team, tokens: Path, folder: Path, progress: Progress) -> None:
    loop.train(TrainConfig(**t.SETTINGS), t.SHAPE, t.SEED, tokens, folder, "key", progress, team)


def break_a_weight(team: Team, tokens: Path, folder: Path) -> None:
    states: list[TrainState] = []
    broken: list[int] = []
    update = loop.update

    class Kept(TrainState):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            states.append(self)

    def update_and_break(state: TrainState) -> None:
        update(state)
        step = state.position.step
        if team.rank == 1 and step in (34, 75) and step not in broken:
            broken.append(step)
            with torch.no_grad():
                state.model.final_norm.weight[3] = float("nan")

    loop.TrainState, loop.update = Kept, update_and_break  # type: ignore[attr-defined, misc]
    train(team, tokens, folder, SilentProgress())
    save_checkpoint(folder / f"process-{team.rank}", states[0].checkpoint())


def stop(team: Team, tokens: Path, folder: Path) -> None:
    with contextlib.suppress(Interrupted):
        train(team, tokens, folder, t.Listening(44 if team.leads else None))
        raise AssertionError("it was not stopped")


def main(clean: Path, spoilt: Path, out: Path) -> None:
    out.mkdir()
    both(out / "store-1", lambda team: stop(team, spoilt, out / "stopped"))
    both(out / "store-2", lambda team: train(team, spoilt, out / "stopped", SilentProgress()))
    both(out / "store-3", lambda team: break_a_weight(team, clean, out / "broken"))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
