"""The metrics for other programs: TensorBoard and trackio, both on this computer."""

import contextlib
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from bulletlm.errors import BulletError

Event = tuple[int, Mapping[str, float]]
"""Step, and numbers by name."""


class Tracker(Protocol):
    """Whoever is told the numbers of every event."""

    def rewind(self, step: int, events: Sequence[Event]) -> None:
        """Begin, or go back to `step`: from now on, nothing holds but `events`, which are all up to it, in their order."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one event by name."""

    def flush(self) -> None:
        """Let what was written survive the end of this process."""

    def close(self) -> None:
        """End of the run, or of this part of it."""


def open_trackers(names: Sequence[str], run_dir: Path) -> list[Tracker]:
    """The trackers of these names, "tensorboard" (in RUN/tensorboard) and "trackio" (in RUN/trackio); `rewind` begins.

    Raises:
        BulletError: the package is not installed.
    """
    made: dict[str, Any] = {"tensorboard": _TensorBoard, "trackio": _Trackio}
    trackers: list[Tracker] = []
    for name in dict.fromkeys(names):
        try:
            trackers.append(made[name](run_dir))
        except ImportError:
            raise BulletError(f"train.track names {name}, which is not installed: pip install 'bulletlm[track]'") from None
    return trackers


class _TensorBoard:
    """`tensorboard --logdir RUN/tensorboard` shows it."""

    def __init__(self, run_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._open: Any = functools.partial(SummaryWriter, str(run_dir / "tensorboard"))
        self._writer: Any = None

    def rewind(self, step: int, events: Sequence[Event]) -> None:
        self.close()
        # TensorBoard drops what earlier files have from this step on; of that, the events of the step itself are still true.
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
    """`TRACKIO_DIR=RUN/trackio trackio show` shows it."""

    def __init__(self, run_dir: Path) -> None:
        os.environ.setdefault("TRACKIO_DIR", str((run_dir / "trackio").resolve()))
        import trackio

        self._trackio, self._name, self._open = trackio, run_dir.name, False

    def rewind(self, step: int, events: Sequence[Event]) -> None:
        """trackio cannot forget single steps: the run is written again."""
        self.close()
        with contextlib.suppress(ValueError):  # no run was written here yet
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
        """It writes by itself, twice a second; what a kill takes away is written again by `rewind`."""

    def close(self) -> None:
        if self._open:
            self._open = False
            with _to_stderr():
                self._trackio.finish()  # type: ignore[no-untyped-call]


def _to_stderr() -> contextlib.redirect_stdout[TextIO]:
    """trackio prints; standard output is for results."""
    return contextlib.redirect_stdout(sys.stderr)
