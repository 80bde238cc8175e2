"""log.txt of a run folder: what the run did and when, with levels, whatever the terminal shows."""

import contextlib
import time
import traceback
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from bulletlm.errors import BulletError
from bulletlm.files import open_regular
from bulletlm.progress import Level, Progress, Task
from bulletlm.terminal import printable

LOG = "log.txt"
FIRST_LINE = "# What bulletlm did in this folder, and when. Lines are only added; the file may be deleted.\n"


class LoggedProgress:
    """Shows everything in another `Progress`, and adds it to log.txt of a run folder.

    A log that cannot be written (no space, no permission, a file of this name that is not from a run) is reported once; the run continues.
    """

    def __init__(self, progress: Progress, folder: Path) -> None:
        self._progress, self._path = progress, folder / LOG
        self._problem: str | None = None
        try:
            with open_regular(self._path) as file:
                if file.read(len(FIRST_LINE.encode())) not in (b"", FIRST_LINE.encode()):
                    self._give_up("it was not written by a run")
        except FileNotFoundError:
            pass
        except OSError as error:
            self._give_up(error.strerror or str(error))

    @contextlib.contextmanager
    def task(self, title: str, total: float | None) -> Iterator[Task]:
        started = time.monotonic()
        self._write("DEBUG", f"{title}: begins")
        with self._progress.task(title, total) as task:
            yield task
        self._write("DEBUG", f"{title}: {time.monotonic() - started:.1f} s")

    def log(self, text: str, level: Level = "info") -> None:
        self._write(level.upper(), text)
        self._progress.log(text, level)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Add the error that ends the block to the log; a bug in BulletLM with its traceback."""
        try:
            yield
        except BulletError as error:
            self._write("ERROR", str(error))
            raise
        except KeyboardInterrupt:
            self._write("ERROR", "stopped by a signal")
            raise
        except Exception:
            self._write("ERROR", traceback.format_exc().rstrip())
            raise

    def _write(self, level: str, text: str) -> None:
        if self._problem:
            return
        when = datetime.now().astimezone().isoformat(timespec="seconds")
        lines = printable(text, lines=True).replace("\n", "\n    ")
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                if not file.tell():
                    file.write(FIRST_LINE)
                file.write(f"{when} {level:<7} {lines}\n")
        except OSError as error:
            self._give_up(error.strerror or str(error))

    def _give_up(self, problem: str) -> None:
        self._problem = problem
        self._progress.log(f"note: {printable(str(self._path))} is not written: {problem}", "warning")
