"""Progress as the stages see it, and as a terminal shows it."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Literal, Protocol

from bulletlm.terminal import printable

Level = Literal["debug", "info", "warning"]
"""debug: details, which only a log file and --verbose show; info: what happens; warning: something that the user should know."""

LEVELS: tuple[Level, ...] = ("debug", "info", "warning")


class Task(Protocol):
    """One running bar."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Move the bar by `amount` units and show `note` (for example "loss 3.21") beside it."""


class Progress(Protocol):
    """Where a stage tells what it is doing."""

    def task(self, title: str, total: float | None) -> contextlib.AbstractContextManager[Task]:
        """Show a bar with an ETA until the block ends; `total` None means the amount is unknown."""

    def log(self, text: str, level: Level = "info") -> None:
        """Print one line that stays."""


class _NoBar:
    """A bar that is not shown."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        pass


class SilentProgress:
    """Shows nothing (tests, scripts that want only the result)."""

    @contextlib.contextmanager
    def task(self, title: str, total: float | None) -> Iterator[Task]:
        yield _NoBar()

    def log(self, text: str, level: Level = "info") -> None:
        pass


class ConsoleProgress:
    """Bars on standard error: live in a terminal, one line every ten seconds in a log file.

    Args:
        level: the lowest level that is shown; there are no bars with "warning".
    """

    LOG_EVERY_SECONDS = 10.0

    def __init__(self, level: Level = "info") -> None:
        from rich.console import Console

        self._shown = LEVELS[LEVELS.index(level) :]
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def task(self, title: str, total: float | None) -> Iterator[Task]:
        if "info" not in self._shown:
            yield _NoBar()
        elif self.console.is_terminal:
            with self._live(title, total) as task:
                yield task
        else:
            yield _LoggedTask(self, title, total)

    @contextlib.contextmanager
    def _live(self, title: str, total: float | None) -> Iterator[Task]:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description:<20}", markup=False),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self.console) as bars:
            identity = bars.add_task(printable(title), total=total, note="")

            class _Bar:
                def advance(self, amount: float = 1, note: str = "") -> None:
                    if note:
                        bars.update(identity, advance=amount, note=printable(note))
                    else:
                        bars.update(identity, advance=amount)

            yield _Bar()

    def log(self, text: str, level: Level = "info") -> None:
        if level in self._shown:
            self.console.print(printable(text, lines=True), markup=False)


class _LoggedTask:
    def __init__(self, progress: ConsoleProgress, title: str, total: float | None) -> None:
        self._progress, self._title, self._total = progress, title, total
        self._started = self._last = time.monotonic()
        self._done = 0.0
        progress.log(f"{title} ...")

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last < ConsoleProgress.LOG_EVERY_SECONDS or not self._total or not self._done:
            return
        self._last = now
        left = (now - self._started) * max(self._total - self._done, 0.0) / self._done
        share = min(self._done / self._total, 1.0)
        self._progress.log(f"{self._title}  {share:.0%}  {format_duration(left)} left  {note}".rstrip())


def format_duration(seconds: float) -> str:
    """A time in the unit that suits it: "40 s", "12 min", "1.6 h", "2.5 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
