"""Stops and kills the QAT stage of a finished run in every way: python qat_kills.py RUN

Each try is a fork, so that torch is imported once. Commands take turns: `bullet run` up to the model file, and `bullet qat`.
The script prints the number of tries.
"""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401 - the optimizers import it late, which would cost every child two seconds

from bulletlm import files
from bulletlm.config.loader import load_config
from bulletlm.data.language import detect
from bulletlm.errors import BulletError, Interrupted
from bulletlm.files import sha256_of_file
from bulletlm.pipeline import qat
from bulletlm.pipeline.runner import finish_run, run_stages
from bulletlm.progress import Progress, SilentProgress, Task
from bulletlm.train import checkpoint, distil

SETTINGS = ("--qat.steps=12", "--qat.tokens_per_step=256", "--calibration-tokens=1024")
STOPPED, NO_ROOM = 11, 12


def signal_here(number: int) -> None:
    os.kill(os.getpid(), number)


class AtStep(SilentProgress):
    """Sends a signal to this process when the progress bar of QAT reaches a step."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    @contextlib.contextmanager
    def task(self, title: str, total: float | None) -> Iterator[Task]:
        with super().task(title, total) as bar:
            yield self if title == "Distilling" else bar

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.step -= int(amount)
        if self.step == 0:
            signal_here(self.number)


def kill_before(module: Any, name: str, matches: Callable[..., bool] = lambda *_: True) -> None:
    """Kill this process at the first call of module.name with such arguments."""
    original = getattr(module, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if matches(*arguments):
            signal_here(signal.SIGKILL)
        return original(*arguments, **named)

    setattr(module, name, call)


def is_checkpoint(step: int) -> Callable[..., bool]:
    return lambda _, target: Path(target).name == f"step-{step:06d}"


def do(run: Path, command: str, progress: Progress) -> None:
    if command == "qat":
        finish_run(run, SETTINGS, progress)
    else:
        place = f"--name={run.name}", f"--runs-dir={run.parent}"
        run_stages(load_config(run / "config.json", (*place, *SETTINGS)), "build", progress)


def attempt(run: Path, command: str, progress: Progress, prepare: Callable[[], None] = lambda: None) -> int:
    """Run it in a child process; return 0, -N if signal N ended it, STOPPED, or NO_ROOM."""
    child = os.fork()
    if not child:
        code = 0
        try:
            prepare()
            do(run, command, progress)
        except Interrupted:
            code = STOPPED
        except BulletError as error:
            assert "cannot write" in str(error) and "free some space" in str(error), error
            code = NO_ROOM
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def small_disk(size: int, save_every: int) -> Callable[[], None]:
    """A limit on file sizes stops a write as a full disk would."""

    def limit() -> None:
        distil.SAVE_EVERY_STEPS = save_every
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of_file(path) for path in folder.rglob("*") if path.is_file()}


def main(run: Path) -> None:
    # The language model is unpacked to a file, which is larger than the small disks below; children inherit the loaded model.
    detect("Der Zug nach Berlin hat heute leider wieder eine halbe Stunde Verspaetung gehabt.")
    distil.SAVE_EVERY_STEPS = 2
    killed, nothing = -signal.SIGKILL, SilentProgress()
    moments: list[tuple[Progress, Callable[[], None]]] = [
        (nothing, lambda: kill_before(qat, "fit_to_text")),
        (nothing, lambda: kill_before(qat, "distil")),
        (AtStep(2, signal.SIGKILL), lambda: None),
        (nothing, lambda: kill_before(files.os, "replace", is_checkpoint(2))),
        (nothing, lambda: kill_before(checkpoint, "remove_owned", lambda folder, *_: Path(folder).name == "step-000002")),
        (AtStep(8, signal.SIGKILL), lambda: None),
    ]
    tries = 0
    for progress, prepare in moments:
        assert attempt(run, ("run", "qat")[tries % 2], progress, prepare) == killed, tries
        tries += 1
    assert attempt(run, "run", AtStep(8, signal.SIGTERM)) == STOPPED
    checkpoints = run / "qat/checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000006", "step-000008"]
    before = hashes(run / "qat")
    assert attempt(run, "qat", nothing, small_disk(60_000, save_every=3)) == NO_ROOM  # no checkpoint fits
    assert attempt(run, "run", nothing, small_disk(100_000, save_every=100)) == NO_ROOM  # the model file does not
    assert hashes(run / "qat") == before
    late: list[Callable[[], None]] = [
        lambda: kill_before(qat, "write_bullet"),
        lambda: kill_before(qat, "write_json"),
        lambda: kill_before(qat, "remove_checkpoints", lambda folder: Path(folder).name == "checkpoints"),
    ]
    for prepare in late:
        assert attempt(run, ("run", "qat")[tries % 2], nothing, prepare) == killed, tries
        tries += 1
    assert attempt(run, "run", nothing) == 0
    print(tries, "kills")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
