"""Metrics for TensorBoard and trackio, in files on this computer."""

import contextlib
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from bulletlm.errors import BulletError
from bulletlm.extras import install_command

Event = tuple[int, Mapping[str, float]]
"""(step, numbers by name)"""


class Tracker(Protocol):
    """Receives the numbers of every event."""

    def rewind(self, step: int, events: Sequence[Event]) -> None:
        """Begin, or return to `step`: replace everything written so far by `events`, which are all events up to `step`, in order."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the numbers of one event."""

    def flush(self) -> None:
        """Write everything to the disk."""

    def close(self) -> None:
        """End this part of the run."""


def open_trackers(names: Sequence[str], run_dir: Path) -> list[Tracker]:
    """Open the named trackers: "tensorboard" writes to RUN/tensorboard, "trackio" to RUN/trackio. `rewind` begins a run.

    Raises:
        BulletError: the package is not installed.
    """
    made: dict[str, Any] = {"tensorboard": _TensorBoard, "trackio": _Trackio}
    trackers: list[Tracker] = []
    for name in dict.fromkeys(names):
        try:
            trackers.append(made[name](run_dir))
        except ImportError:
            raise BulletError(f"train.track names {name}, which is not installed: {install_command('track')}") from None
    return trackers


class _TensorBoard:
    """`tensorboard --logdir RUN/tensorboard` shows the metrics."""

    def __init__(self, run_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._open: Any = functools.partial(SummaryWriter, str(run_dir / "tensorboard"))
        self._writer: Any = None

    def rewind(self, step: int, events: Sequence[Event]) -> None:
        self.close()
        # TensorBoard drops everything from this step on, also the events of the step itself, which are still valid.
        self._writer = self._open(purge_step=step)
        for at, values in events:
            if at == step:
                self.write(at, values)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        if self._writer:
            self._writer.close()


class _Trackio:
    """`TRACKIO_DIR=RUN/trackio trackio show` shows the metrics."""

    def __init__(self, run_dir: Path) -> None:
        os.environ.setdefault("TRACKIO_DIR", str((run_dir / "trackio").resolve()))
        import trackio

        self._trackio, self._name, self._open = trackio, run_dir.name, False

    def rewind(self, step: int, events: Sequence[Event]) -> None:
        """trackio cannot delete single steps, so the whole run is written again."""
        self.close()
        with contextlib.suppress(ValueError):  # there is no run yet
            for run in self._trackio.Api().runs("bulletlm"):
                if run.name == self._name:
                    run.delete()
        with _to_stderr():
            self._trackio.init(project="bulletlm", name=self._name, embed=False, auto_log_cpu=False, auto_log_gpu=False)
        self._open = True
        for at, values in events:
            self.write(at, values)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def flush(self) -> None:
        """trackio writes twice a second by itself. `rewind` writes again what a kill lost."""

    def close(self) -> None:
        if self._open:
            self._open = False
            with _to_stderr():
                self._trackio.finish()  # type: ignore[no-untyped-call]


def _to_stderr() -> contextlib.redirect_stdout[TextIO]:
    """trackio prints messages, but standard output is for results."""
    return contextlib.redirect_stdout(sys.stderr)
