"""The metrics for other programs: TensorBoard and trackio, both on this computer."""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bulletlm.errors import BulletError


class Tracker(Protocol):
    """Whoever is told the numbers of every event."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one event by name."""

    def close(self) -> None:
        """End of the run, or of this part of it."""


def open_trackers(names: Sequence[str], run_dir: Path, resume_step: int) -> list[Tracker]:
    """The trackers of these names, "tensorboard" (in RUN/tensorboard) and "trackio" (in RUN/trackio).

    Raises:
        BulletError: the package is not installed.
    """
    made: dict[str, Any] = {"tensorboard": _TensorBoard, "trackio": _Trackio}
    trackers: list[Tracker] = []
    for name in dict.fromkeys(names):
        try:
            trackers.append(made[name](run_dir, resume_step))
        except ImportError:
            raise BulletError(f"train.track names {name}, which is not installed: pip install 'bulletlm[track]'") from None
    return trackers


class _TensorBoard:
    """`tensorboard --logdir RUN/tensorboard` shows it."""

    def __init__(self, run_dir: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard hides what a part of the run that was not saved wrote after this step.
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    """`TRACKIO_DIR=RUN/trackio trackio show` shows it."""

    def __init__(self, run_dir: Path, resume_step: int) -> None:
        os.environ.setdefault("TRACKIO_DIR", str((run_dir / "trackio").resolve()))
        import trackio

        self._trackio = trackio
        with contextlib.redirect_stdout(sys.stderr):  # it prints; standard output is for results
            trackio.init(project="bulletlm", name=run_dir.name, resume="allow", embed=False, auto_log_cpu=False, auto_log_gpu=False)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.finish()  # type: ignore[no-untyped-call]
