"""Reads metrics.jsonl of a run while it is written, and makes curves of at most 600 points."""

import bisect
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

POINTS = 600
"""Points of a curve at most; a screen shows no more."""

TAIL_BYTES = 65_536
"""Bytes at the end of the file that are enough for the last step and the last evaluation."""

MAX_EXPONENT = 700.0
"""exp of a larger number is no float."""

Axis = Literal["step", "tokens", "time"]
Points = list[list[float]]


@dataclass
class Column:
    """The values of one metric: at which step, and the value; the steps rise."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


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
        try:
            event: dict[str, Any] = json.loads(line)
            kind, step = event["event"], int(event["step"])
        except (ValueError, KeyError, TypeError):
            return  # a crash can leave half a line
        if kind == "sample":
            self.samples.append(Sample(step, str(event.get("prompt", "")), str(event.get("answer", ""))))
        elif kind == "rollback":
            self.rollbacks.append(step)
        elif kind == "end":
            self.ended = str(event.get("reason", ""))
        elif kind in ("train", "eval"):
            for name, value in event.items():
                if name not in ("step", "event") and type(value) in (int, float):
                    self._put(name if kind == "train" or name != "memory_mb" else "eval/memory_mb", step, float(value))
            if kind == "train":
                self._tick(float(event.get("seconds", 0.0)))
            else:
                self._put_perplexities(step, event)

    def _put_perplexities(self, step: int, event: dict[str, Any]) -> None:
        """Perplexity of the better of the exact weights, raw or averaged, and of the 4-bit weights."""
        exact = [event.get("val/loss"), event.get("val/loss_ema")]
        for name, losses in (("perplexity", exact), ("perplexity_bq4", [event.get("val/loss_bq4")])):
            known = [float(loss) for loss in losses if isinstance(loss, (int, float)) and loss < MAX_EXPONENT]
            if known:
                self._put(name, step, math.exp(min(known)))

    def _put(self, name: str, step: int, value: float) -> None:
        column = self.columns.setdefault(name, Column())
        if column.steps and column.steps[-1] >= step:  # the run went back and repeats steps
            keep = bisect.bisect_left(column.steps, step)
            del column.steps[keep:], column.values[keep:]
        column.steps.append(step)
        column.values.append(value)

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

    def points(self, name: str, axis: Axis = "step", smoothing: float = 0.0, scale: float = 1.0) -> Points:
        """The curve of a metric: [[x, y], ...] with at most POINTS points.

        Args:
            name: of the metric.
            axis: x is the step, the number of training tokens, or the minutes of training.
            smoothing: weight of the earlier values in an exponential moving average, 0 (none) to less than 1.
            scale: factor of the values.
        """
        column = self.columns.get(name)
        if column is None:
            return []
        x = self._positions(column.steps, axis)
        values = column.values if scale == 1.0 else [scale * value for value in column.values]
        return thin(x, smooth(values, smoothing))

    def _positions(self, steps: Sequence[int], axis: Axis) -> Sequence[float]:
        clock = self.columns.get("tokens")
        if axis == "step" or clock is None:
            return steps
        measured = clock.values if axis == "tokens" else [seconds / 60 for seconds in self._clock]
        if steps is clock.steps or steps == clock.steps:
            return measured
        last = len(measured) - 1
        return [measured[min(last, bisect.bisect_left(clock.steps, step))] if step else 0.0 for step in steps]


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


def thin(x: Sequence[float], y: Sequence[float], points: int = POINTS) -> Points:
    """At most `points` points of a curve: of each part of it the lowest and the highest, so that no spike is lost.

    The first and the last point stay. Values are rounded to five digits, which is more than a screen shows.
    """
    count = len(y)
    if count <= points:
        return [[x[i], rounded(y[i])] for i in range(count)]
    chosen = {0, count - 1}
    parts = (points - 2) // 2
    for part in range(parts):
        start, stop = 1 + part * (count - 2) // parts, 1 + (part + 1) * (count - 2) // parts
        inside = range(start, stop)
        chosen.add(min(inside, key=y.__getitem__))
        chosen.add(max(inside, key=y.__getitem__))
    return [[x[i], rounded(y[i])] for i in sorted(chosen)]


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
        try:
            event = json.loads(line)
            found.setdefault(event["event"], event)
        except (ValueError, KeyError, TypeError):
            continue
    return found.get("train", {}), found.get("eval", {}), found.get("end", {})
