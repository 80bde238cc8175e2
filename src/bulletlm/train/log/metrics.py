"""metrics.jsonl: one JSON object per line, one line per event. Other programs can read it during training."""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from bulletlm.errors import BulletError
from bulletlm.files import write_text
from bulletlm.train.log.events import parse_event
from bulletlm.train.log.trackers import Tracker
from bulletlm.train.state import TrainPosition

CLOCK = ("seconds", "tokens_per_s", "memory_mb")
"""Names of the values that depend on the machine. All other values of a run are reproducible."""


class MetricsLog:
    """Appends events.

    When a run continues from a checkpoint or returns to one, events after that checkpoint are removed from the file and from
    the trackers, so that every event is there once.

    Args:
        path: the file, which is created if missing; None if another process writes it.
        position: where the run is.
        trackers: receive the numbers of every event too.
    """

    def __init__(self, path: Path | None, position: TrainPosition, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = trackers
        if path is None:
            self._file: TextIO = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open for the whole run
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = self._rewound(position)

    def rewind(self, position: TrainPosition) -> None:
        """Remove all events after `position`, and write its rollbacks that are not in the file yet."""
        self._file.close()
        self._file = self._rewound(position)

    def _rewound(self, position: TrainPosition) -> TextIO:
        last = {"train": position.step, "eval": position.evaluated_step, "sample": position.evaluated_step}
        rollbacks = [_line("rollback", event["to_step"], event) for event in position.rollbacks]
        events = _events(self._path)
        kept = [(line, event) for line, event in events if line in rollbacks or event["step"] <= last.get(event["event"], -1)]
        lines = [line for line, _ in kept]
        write_text(self._path, "".join(line + "\n" for line in [*lines, *(line for line in rollbacks if line not in lines)]))
        numbers_so_far = [(event["step"], numbers) for _, event in kept if event["event"] != "rollback" and (numbers := _numbers(event))]
        for tracker in self._trackers:
            tracker.rewind(position.step, numbers_so_far)
        return open(self._path, "a", encoding="utf-8")

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append one event; the operating system has the line when this returns.

        Raises:
            BulletError: the disk is full.
        """
        try:
            self._file.write(_line(event, step, values) + "\n")
            self._file.flush()
        except OSError as error:
            raise BulletError(f"cannot write {self._path}: {error.strerror}; free some space, then run again") from error
        if numbers := _numbers(values):
            for tracker in self._trackers:
                tracker.write(step, numbers)

    def sync(self) -> None:
        """Write all events to the disk, so that they survive a power cut; called before every checkpoint."""
        os.fsync(self._file.fileno())
        for tracker in self._trackers:
            tracker.flush()

    def close(self) -> None:
        """Close the file and the trackers."""
        with contextlib.suppress(OSError):  # a full disk, which `write` has reported
            self._file.close()
        for tracker in self._trackers:
            tracker.close()


def _line(event: str, step: int, values: dict[str, Any]) -> str:
    return json.dumps({"event": event, "step": step, **values}, ensure_ascii=False, allow_nan=False)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """The numbers of an event, which trackers receive."""
    return {name: float(value) for name, value in values.items() if name != "step" and isinstance(value, (int, float))}


def _events(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of an earlier run and their events, without incomplete or damaged ones that a crash left."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [(line.decode("utf-8"), event) for line in lines if (event := parse_event(line))]
