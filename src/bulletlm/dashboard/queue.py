"""The queue: runs that start one after the other: python -m bulletlm.dashboard.queue WORKSPACE

A waiting run has the file dashboard/queued.json in its folder. A process of its own starts the next one when no run of the workspace
is running, so the queue goes on when the dashboard has ended.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from filelock import FileLock, Timeout

from bulletlm.config.loader import nested, parse_settings
from bulletlm.dashboard import processes
from bulletlm.dashboard.metrics import read_tail
from bulletlm.dashboard.processes import own_folder, read_record
from bulletlm.dashboard.workspace import Workspace, is_run
from bulletlm.errors import BulletError, ConfigError
from bulletlm.files import write_json
from bulletlm.terminal import printable

POLL_SECONDS = 1.0

LAST_LOOK_SECONDS = 3.0


def run_words(run: Path) -> list[str]:
    """The command line that starts or continues a run: with what the dashboard wrote, or of a run from a terminal what that recorded."""
    written = own_folder(run) / "configuration.json"
    place = [f"--name={run.name}", f"--runs-dir={run.parent}"]
    return ["run", str(written if written.is_file() else run / "config.json"), *place]


def extend(run: Path, steps: int, workspace: Workspace) -> None:
    """Continue a run whose training has ended, up to `steps` steps in all.

    Raises:
        ConfigError: the run is running, or has trained as many steps already.
    """
    done: int = read_tail(run / "metrics.jsonl")[0].get("step", 0)
    if steps <= done:
        raise ConfigError(f"the run has trained {done:,} steps already: give more")
    settings = {"train.total_steps": steps, "train.epochs": None}
    written = own_folder(run) / "configuration.json"
    flags = []
    if written.is_file():  # also for the next time that the run is resumed
        write_json(written, nested({**parse_settings(written.read_text(encoding="utf-8"), str(written)), **settings}))
    else:
        flags = [f"--train.total_steps={steps}", "--train.epochs=null"]
    processes.start(run, [*run_words(run), *flags], workspace.folder)


def enqueue(run: Path, workspace: Workspace) -> None:
    """Put a run at the end of the queue, and start the process of the queue if it does not run.

    Raises:
        ConfigError: the run is running.
    """
    if processes.find(run) is not None:
        raise ConfigError(f"{printable(run.name)} is already running")
    write_json(own_folder(run) / "queued.json", {"time": time.time()})
    start_queue(workspace)


def dequeue(run: Path) -> None:
    """Take a run out of the queue; it does nothing if the run does not wait."""
    (own_folder(run) / "queued.json").unlink(missing_ok=True)


def waiting(workspace: Workspace) -> list[Path]:
    """The runs in the queue, the first to start first."""
    found = []
    if workspace.runs.is_dir():
        for run in workspace.runs.iterdir():
            when = read_record(own_folder(run) / "queued.json").get("time")
            if isinstance(when, (int, float)):
                found.append((when, run))
    return [run for _, run in sorted(found)]


def running(workspace: Workspace) -> list[Path]:
    """The runs of the workspace on which a process works."""
    if not workspace.runs.is_dir():
        return []
    return [run for run in workspace.runs.iterdir() if is_run(run) and processes.find(run) is not None]


def advance(workspace: Workspace) -> Path | None:
    """Start the first waiting run if no run is running; returns the run that was started."""
    found = waiting(workspace)
    if not found or running(workspace):
        return None
    try:
        processes.start(found[0], run_words(found[0]), workspace.folder)
    except BulletError as error:
        dequeue(found[0])
        with open(own_folder(found[0]) / "output.log", "a", encoding="utf-8") as log:
            print(f"bullet: {error}", file=log)
        write_json(own_folder(found[0]) / "exit.json", {"code": 1, "time": time.time()})
    return found[0]


def start_queue(workspace: Workspace) -> None:
    """Start the process of the queue, detached. If one works already, the new one ends at once."""
    options = {"creationflags": 0x00000208} if sys.platform == "win32" else {"start_new_session": True}
    command = [sys.executable, "-P", "-m", "bulletlm.dashboard.queue", str(workspace.folder)]
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, cwd=workspace.folder, **options)
    threading.Thread(target=process.wait, daemon=True).start()


def work(workspace: Workspace) -> None:
    """Start one waiting run after the other until none waits."""
    workspace.state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace.state / "queue.lock")
    try:
        lock.acquire(timeout=LAST_LOOK_SECONDS)  # the other process may be about to end
    except Timeout:
        return
    with lock:
        while waiting(workspace):
            advance(workspace)
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    work(Workspace(Path(sys.argv[1])))
