"""`bullet list`: the models and runs in the current folder, with what is known about each."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bulletlm.cli.models import STAGES, Found, find_models
from bulletlm.errors import BulletError
from bulletlm.files import read_json
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.packaged import BASE, packaged_names
from bulletlm.terminal import echo, printable, printable_json
from bulletlm.train.checkpoint import list_checkpoints

STAGE_NAMES = ("data", "tokenizer", "tokens", "train", "export", "qat", "build", "evaluate")
"""The stages of a run in the order in which stages.json records them."""

HEADINGS = ("NAME", "KIND", "PARAMETERS", "SIZE", "CHANGED", "STATE", "PATH")


def print_list(as_json: bool) -> None:
    """Print a table of the models and runs in the current folder, or the same as JSON."""
    rows = [describe(found) for found in find_models()]
    if as_json:
        print(printable_json(rows))
    elif rows:
        for line in _table([HEADINGS, *map(_cells, rows)]):
            echo(line)
    else:
        print("There are no models and no runs in this folder. To make a model from a folder of text: bullet run FOLDER")
    if not as_json and (names := packaged_names()):
        talk = f"; `bullet chat` without a name talks with {BASE}" if BASE in names else ""
        print(f"\nIn the package: {', '.join(names)}{talk}.")


def describe(found: Found) -> dict[str, Any]:
    """What `bullet list` says about one model or run.

    Returns:
        name, kind ("run" or "model"), parameters (None if unknown), bytes (of the .bullet file, None if there is none), changed (when,
        in seconds since 1970), state (one phrase) and path.
    """
    parameters, problem = None, None
    if found.model.exists():
        try:
            parameters = open_bullet(found.model).shape.n_parameters
        except BulletError as error:
            problem = str(error).removeprefix(f"{found.model}: ")
    state = _run_state(found.path) if found.is_run else "ready"
    status = _status(found.model) or _status(found.path / STAGES if found.is_run else found.path)
    return {
        "name": found.name,
        "kind": "run" if found.is_run else "model",
        "parameters": parameters,
        "bytes": status.st_size if status and found.model.exists() else None,
        "changed": status.st_mtime if status else None,
        "state": f"not usable: {problem}" if problem else state,
        "path": str(found.path),
    }


def _run_state(folder: Path) -> str:
    """finished, running, or the stage with which the run continues."""
    if _is_locked(folder):
        return "running"
    try:
        done = read_json(folder / STAGES)
    except BulletError:
        return f"not usable: {STAGES} is damaged"
    missing = [name for name in STAGE_NAMES if not isinstance(done, dict) or name not in done]
    if not missing:
        return "finished"
    if missing[0] == "train" and (checkpoints := list_checkpoints(folder / "checkpoints")):
        return f"stopped in train, step {checkpoints[-1][0]:,}"
    return f"stopped before {missing[0]}" if done else "started"


def _is_locked(folder: Path) -> bool:
    """Whether a process is working in the run folder. Only an existing lock file is looked at; a folder without one is not changed."""
    path = folder / ".lock"
    if not path.exists():
        return False
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # a folder that this user may only read
        return False
    lock.release()
    return False


def _status(path: Path) -> os.stat_result | None:
    """`path.stat()`; None if it cannot be asked for."""
    try:
        return path.stat()
    except OSError:
        return None


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["changed"])) if row["changed"] is not None else "-"
    return (
        printable(row["name"]),
        row["kind"],
        _millions(row["parameters"]),
        _bytes(row["bytes"]),
        changed,
        printable(row["state"], limit=70),
        printable(row["path"]),
    )


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f}M" if count >= 50_000 else f"{count / 1e3:.0f}k"


def _bytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f} MB" if count >= 50_000 else f"{count / 1e3:.0f} kB"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns; numbers are aligned to the right."""
    from bulletlm.cli.wrap import pad, text_width

    widths = [max(text_width(row[column]) for row in rows) for column in range(len(HEADINGS))]
    right = (HEADINGS.index("PARAMETERS"), HEADINGS.index("SIZE"))
    return [
        "  ".join(pad(cell, width, left=n in right) for n, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
