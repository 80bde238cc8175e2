"""Reads metrics.jsonl of a run while it is written, and makes curves of at most 600 points."""

import bisect
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bulletlm.dashboard.processes import number
from bulletlm.train.log.events import parse_event

POINTS = 600
"""Points of a curve at most; a screen shows no more."""

MOST_PARTS = POINTS // 2 - 1
"""Parts of a column of which the lowest and the highest value are shown; the first and the last value come on top."""

TAIL_BYTES = 65_536
"""Bytes at the end of the file that are enough for the last step and the last evaluation."""

MAX_EXPONENT = 700.0
"""exp of a larger number is no float."""

Axis = Literal["step", "tokens", "time"]
Points = list[list[float]]


@dataclass
class Column:
    """The values of one metric: at which step, and the value; the steps rise.

    It also keeps which of them a curve of at most POINTS points shows, so that a step more costs no look at all earlier ones. The
    column is divided into parts of equal length, and of each part the lowest and the highest value are known; when there are too many
    parts, the length doubles.
    """

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    _length: int = 1
    _lows: list[int] = field(default_factory=list)
    _highs: list[int] = field(default_factory=list)

    def append(self, step: int, value: float) -> None:
        """Add a value after the last one."""
        number = len(self.values)
        self.steps.append(step)
        self.values.append(value)
        part = number // self._length
        if part == len(self._lows):
            self._lows.append(number)
            self._highs.append(number)
            if len(self._lows) > MOST_PARTS:
                self._double()
        elif value < self.values[self._lows[part]]:
            self._lows[part] = number
        elif value > self.values[self._highs[part]]:
            self._highs[part] = number

    def _double(self) -> None:
        values, pairs = self.values, range(0, len(self._lows), 2)
        self._length *= 2
        self._lows = [min(self._lows[i : i + 2], key=values.__getitem__) for i in pairs]
        self._highs = [max(self._highs[i : i + 2], key=values.__getitem__) for i in pairs]

    def cut(self, length: int) -> None:
        """Keep only the first `length` values."""
        steps, values = self.steps[:length], self.values[:length]
        self.steps, self.values, self._length, self._lows, self._highs = [], [], 1, [], []
        for step, value in zip(steps, values, strict=True):
            self.append(step, value)

    def shown(self) -> list[int]:
        """The numbers of the values that a curve shows, in order: the first, the last, and the lowest and highest of each part."""
        if len(self.values) <= POINTS:
            return list(range(len(self.values)))
        return sorted({0, len(self.values) - 1, *self._lows, *self._highs})


@dataclass
class Sample:
    """The answer to a prompt after some step."""

    step: int
    prompt: str
    answer: str


class Metrics:
    """The metrics of one run. `refresh` reads what was added since the last call, or everything if the file was replaced.

    Attributes:
        columns: the metrics by their names in the file.
        samples: answers during training, in order.
        rollbacks: steps to which the training went back.
        ended: why the training ended; None if it has not.
        version: changes whenever something was read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = 0
        self._identity: tuple[int, int] | None = None
        self._clear()

    def _clear(self) -> None:
        self.columns: dict[str, Column] = {}
        self.samples: list[Sample] = []
        self.rollbacks: list[int] = []
        self.ended: str | None = None
        self._offset = 0
        self._clock: list[float] = []  # seconds of training at each step of the column "tokens"
        self._seconds_before = 0.0  # of the processes before the present one
        self._last_seconds = 0.0

    def refresh(self) -> bool:
        """Read what is new; returns whether there was anything."""
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino)
                if identity != self._identity or status.st_size < self._offset:
                    self._clear()
                    self._identity = identity
                    changed = True
                else:
                    changed = status.st_size > self._offset
                if not changed:
                    return False
                file.seek(self._offset)
                content = file.read()
        except OSError:
            if self._identity is None:
                return False
            self._identity = None
            self._clear()
            self.version += 1
            return True
        whole = content.rfind(b"\n") + 1  # a line that is being written is read the next time
        self._offset += whole
        for line in content[:whole].splitlines():
            self._add(line)
        self.version += 1
        return True

    def _add(self, line: bytes) -> None:
        event = parse_event(line)
        if event is None:
            return  # a crash can leave half a line
        kind, step = event["event"], event["step"]
        if kind == "sample":
            self.samples.append(Sample(step, str(event.get("prompt", "")), str(event.get("answer", ""))))
        elif kind == "rollback":
            self.rollbacks.append(step)
        elif kind == "end":
            self.ended = str(event.get("reason", ""))
        elif kind in ("train", "eval"):
            for name, value in event.items():
                if name not in ("step", "event") and (measured := number(value)) is not None:
                    self._put(name if kind == "train" or name != "memory_mb" else "eval/memory_mb", step, measured)
            if kind == "train":
                self.ended = None  # a training that had ended goes on
                self._tick(number(event.get("seconds")) or 0.0)
            else:
                self._put_perplexities(step, event)

    def _put_perplexities(self, step: int, event: dict[str, Any]) -> None:
        """Perplexity of the better of the exact weights, raw or averaged, and of the 4-bit weights."""
        exact = [event.get("val/loss"), event.get("val/loss_ema")]
        for name, losses in (("perplexity", exact), ("perplexity_bq4", [event.get("val/loss_bq4")])):
            known = [loss for value in losses if (loss := number(value)) is not None and loss < MAX_EXPONENT]
            if known:
                self._put(name, step, math.exp(min(known)))

    def _put(self, name: str, step: int, value: float) -> None:
        column = self.columns.setdefault(name, Column())
        if column.steps and column.steps[-1] >= step:  # the run went back and repeats steps
            column.cut(bisect.bisect_left(column.steps, step))
        column.append(step, value)

    def _tick(self, seconds: float) -> None:
        if seconds < self._last_seconds:  # another process continued
            self._seconds_before += self._last_seconds
        self._last_seconds = seconds
        steps = len(self.columns["tokens"].steps) if "tokens" in self.columns else 0
        del self._clock[max(0, steps - 1) :]
        self._clock.append(self._seconds_before + seconds)

    @property
    def last_step(self) -> int:
        """The last training step; 0 before the first."""
        column = self.columns.get("tokens")
        return column.steps[-1] if column else 0

    def last(self, name: str) -> float | None:
        """The last value of a metric."""
        column = self.columns.get(name)
        return column.values[-1] if column else None

    def best(self, *names: str) -> tuple[int, float] | None:
        """(step, value) of the lowest value among some metrics."""
        found = [pair for name in names if name in self.columns for pair in zip(*_pair(self.columns[name]), strict=True)]
        return min(found, key=lambda pair: pair[1], default=None)

    def recent_speed(self, steps: int = 50) -> float | None:
        """Median tokens per second of the last steps."""
        column = self.columns.get("tokens_per_s")
        if not column:
            return None
        recent = sorted(column.values[-steps:])
        return recent[len(recent) // 2]

    def points(self, name: str, axis: Axis = "step", smoothing: float = 0.0) -> Points:
        """The curve of a metric: [[x, y], ...] with at most POINTS points.

        Args:
            name: of the metric.
            axis: x is the step, the number of training tokens, or the minutes of training.
            smoothing: weight of the earlier values in an exponential moving average, 0 (none) to less than 1.
        """
        column = self.columns.get(name)
        if column is None:
            return []
        y = smooth(column.values, smoothing)
        numbers = thin(y) if smoothing > 0 else column.shown()
        x = self._positions([column.steps[number] for number in numbers], axis)
        return [[place, rounded(y[number])] for place, number in zip(x, numbers, strict=True)]

    def _positions(self, steps: Sequence[int], axis: Axis) -> Sequence[float]:
        """Where points of some steps are on the axis."""
        clock = self.columns.get("tokens")
        if axis == "step" or clock is None or not self._clock:
            return steps
        measured = clock.values if axis == "tokens" else self._clock
        last, unit = len(measured) - 1, 1 if axis == "tokens" else 60
        return [measured[min(last, bisect.bisect_left(clock.steps, step))] / unit if step else 0.0 for step in steps]


def _pair(column: Column) -> tuple[list[int], list[float]]:
    return column.steps, column.values


def smooth(values: Sequence[float], weight: float) -> Sequence[float]:
    """Exponential moving average that is not drawn towards 0 at the beginning; `weight` 0 returns the values."""
    if weight <= 0:
        return values
    out, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        out.append(total / norm)
    return out


def thin(y: Sequence[float], points: int = POINTS) -> list[int]:
    """Numbers of at most `points` values of a curve: of each part of it the lowest and the highest, so that no spike is lost.

    The first and the last value stay.
    """
    count = len(y)
    if count <= points:
        return list(range(count))
    chosen = {0, count - 1}
    parts = (points - 2) // 2
    for part in range(parts):
        inside = range(1 + part * (count - 2) // parts, 1 + (part + 1) * (count - 2) // parts)
        chosen.add(min(inside, key=y.__getitem__))
        chosen.add(max(inside, key=y.__getitem__))
    return sorted(chosen)


def rounded(value: float) -> float:
    """Five significant digits."""
    return float(f"{value:.5g}") if math.isfinite(value) else value


def read_tail(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The last train event, the last evaluation and the end event of metrics.jsonl, each empty if it is not near the end of the file."""
    found: dict[str, dict[str, Any]] = {}
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return {}, {}, {}
    for line in reversed(lines[:-1]):
        if {"train", "eval"} <= found.keys():
            break
        if event := parse_event(line):
            found.setdefault(event["event"], event)
    return found.get("train", {}), found.get("eval", {}), found.get("end", {})
