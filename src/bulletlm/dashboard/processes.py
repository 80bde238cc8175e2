"""Starts and stops `bullet run` as a process of its own, and finds it again after the dashboard was restarted.

A run that the dashboard starts has these files in RUN/dashboard:

    configuration.json   what it was started with
    process.json         the supervising process (supervise.py): process id and time of its start
    output.log           everything the run prints
    exit.json            its exit code, written by the supervisor when it ends
    queued.json          when it was put into the queue, while it waits
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bulletlm.errors import BulletError, ConfigError
from bulletlm.files import read_regular, write_json
from bulletlm.pipeline.run_folder import PROCESS
from bulletlm.terminal import printable
from bulletlm.train.log.events import LARGEST_NUMBER

FOLDER = "dashboard"
"""Subfolder of a run folder with the files of the dashboard."""

LOG_TAIL_BYTES = 24_000

MOST_RECORD_BYTES = 64_000_000
"""A larger JSON file of a run is damage, and is not read. The largest one is the report, of less than a megabyte."""

LARGEST_PID = 2**31 - 1

SAME_START_SECONDS = 1.5
"""Two times of the start of a process within this many seconds are the same; another process with a reused id started later."""


@dataclass(frozen=True)
class Ended:
    """How a run that the dashboard started ended: its exit code (negative: the signal), and when (seconds since 1970)."""

    code: int
    time: float


def own_folder(run: Path) -> Path:
    """The dashboard's folder in a run folder."""
    return run / FOLDER


def start(run: Path, words: list[str], workspace: Path) -> int:
    """Start `bullet WORDS` for a run, detached: it goes on when the dashboard ends. Returns the id of the supervising process.

    Args:
        run: the run folder; its subfolder dashboard receives output and exit code.
        words: the command line after `bullet`.
        workspace: the working directory.

    Raises:
        ConfigError: a process is working in the folder.
        BulletError: the process cannot be started.
    """
    if find(run) is not None:
        raise ConfigError(f"{printable(run.name)} is already running: stop it first")
    own = own_folder(run)
    own.mkdir(parents=True, exist_ok=True)
    for name in ("exit.json", "queued.json"):
        (own / name).unlink(missing_ok=True)
    (run / "stop").unlink(missing_ok=True)
    command = [sys.executable, "-P", "-m", "bulletlm.dashboard.supervise", str(own), *words]
    options: dict[str, Any] = (
        {"creationflags": 0x00000008 | 0x00000200}  # DETACHED_PROCESS, CREATE_NEW_PROCESS_GROUP
        if sys.platform == "win32"
        else {"start_new_session": True}
    )
    try:
        with open(own / "output.log", "ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=workspace, **options)
    except OSError as error:
        raise BulletError(f"cannot start the run: {error.strerror}") from None
    started = _start_time(process.pid) or time.time()
    write_json(own / "process.json", {"pid": process.pid, "started": started, "booted": psutil.boot_time(), "words": words})
    threading.Thread(target=process.wait, daemon=True).start()  # otherwise the ended process stays as a zombie
    return process.pid


def find(run: Path) -> int | None:
    """The id of the process that works on a run, also if another program started it; None if there is none."""
    own = own_folder(run)
    # The supervisor lives for a moment after it has written the exit code.
    supervisor = [] if (own / "exit.json").exists() else [own / "process.json"]
    for path in (*supervisor, run / PROCESS):
        record = read_record(path)
        pid, started, booted = record.get("pid"), record.get("started"), record.get("booted")
        if type(pid) is not int or not 0 < pid <= LARGEST_PID or (began := number(started)) is None:
            continue
        if is_alive(pid, began, number(booted)):
            return pid
    return None


def is_alive(pid: int, started: float, booted: float | None = None) -> bool:
    """Whether the process with this id and time of start still runs.

    Args:
        pid: its id.
        started: when it started, by the clock of that time.
        booted: when the computer was started, by the same clock. With it the answer is right also after the clock was set, as after a
            long sleep: both times move with the clock.
    """
    known = _start_time(pid)
    moved = 0.0 if booted is None else psutil.boot_time() - booted
    return known is not None and abs(known - moved - started) < SAME_START_SECONDS


def _start_time(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def stop(run: Path) -> None:
    """Ask a run to stop. A training saves a checkpoint after its present step; another stage ends at once and is repeated later.

    Raises:
        ConfigError: no process works on it.
    """
    pid = find(run)
    if pid is None:
        raise ConfigError(f"{printable(run.name)} is not running")
    write_json(own_folder(run) / "stopping.json", {"pid": pid})
    if is_training(run):
        (run / "stop").touch()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def finish_training(run: Path) -> None:
    """Ask a training to end after its present step, so that the best weights so far become the model.

    Raises:
        ConfigError: the run is not training.
    """
    if find(run) is None or not is_training(run):
        raise ConfigError(f"{printable(run.name)} is not training now")
    (run / "finish").touch()


def is_training(run: Path) -> bool:
    """Whether the training has begun and its result is not there yet."""
    return "tokens" in done_stages(run) and "train" not in done_stages(run)


def done_stages(run: Path) -> list[str]:
    """The stages of a run that are finished, in order."""
    return list(read_record(run / "stages.json"))


def ended(run: Path) -> Ended | None:
    """How the last process of the run ended; None if it runs, was started elsewhere, or its supervisor was killed too."""
    record = read_record(own_folder(run) / "exit.json")
    code, when = record.get("code"), number(record.get("time"))
    return Ended(code, when) if type(code) is int and when is not None else None


def read_log(run: Path, size: int = LOG_TAIL_BYTES) -> str:
    """The end of what a run has printed; of a run that was started in a terminal, the end of its log file."""
    for path in (own_folder(run) / "output.log", run / "log.txt"):
        try:
            with open(path, "rb") as file:
                length = os.fstat(file.fileno()).st_size
                file.seek(max(0, length - size))
                content = file.read()
        except OSError:
            continue
        if length > size:
            content = content[content.find(b"\n") + 1 :]
        return printable(content.decode("utf-8", "replace"), lines=True)
    return ""


def failure(run: Path) -> str:
    """Why a run failed, in one line: its error message, or the last line that it printed."""
    lines = [line.strip() for line in read_log(run).splitlines() if line.strip()]
    messages = [line.removeprefix("bullet: ") for line in lines if line.startswith("bullet: ")]
    found = ended(run)
    if found and found.code < 0:
        name = signal.Signals(-found.code).name if -found.code in set(signal.Signals) else str(-found.code)
        hint = "; the system may have had too little memory" if name == "SIGKILL" else ""
        return f"it was ended by the signal {name}{hint}"
    return messages[-1] if messages else lines[-1] if lines else ""


def read_record(path: Path) -> dict[str, Any]:
    """A small JSON object; empty if the file is missing or damaged, which only means that nothing is known."""
    try:
        value = json.loads(read_regular(path, MOST_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def section(value: Any, *names: str) -> dict[str, Any]:
    """The object in a JSON value under these names, one inside the other; empty if something else is there."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a JSON value that should be a list of them; everything else is left out."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A value of a JSON file that should be a number; None if it is something else, infinite or too large to compute with."""
    return float(value) if type(value) in (int, float) and -LARGEST_NUMBER < value < LARGEST_NUMBER else None


@dataclass(frozen=True)
class Load:
    """What a run uses now: processor in cores, memory in bytes."""

    cores: float
    memory: int


class LoadMeter:
    """Measures the processor time and memory of the processes of a run, between two calls."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._before: tuple[float, float] | None = None

    def read(self) -> Load | None:
        """The load since the last call; None if the run does not run, or at the first call."""
        pid = find(self._run)
        if pid is None:
            self._before = None
            return None
        seconds, memory = 0.0, 0
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(pid)
            for process in [top, *top.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    seconds += times.user + times.system
                    memory += process.memory_info().rss
        now = time.monotonic()
        before, self._before = self._before, (now, seconds)
        if before is None or now <= before[0]:
            return None
        return Load(max(0.0, (seconds - before[1]) / (now - before[0])), memory)
