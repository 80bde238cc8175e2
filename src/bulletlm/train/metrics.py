"""metrics.jsonl: one JSON object a line, one line an event; safe to tail while training."""

import json
import os
from pathlib import Path
from typing import Any

from bulletlm.files import write_text


class MetricsLog:
    """Appends events.

    A resumed run first drops what the run before it wrote after the checkpoint: every event is there once.

    Args:
        path: the file, made when missing.
        resume_step: steps that the checkpoint has behind it; 0 for a fresh start.
        evaluated_step: the last step that the checkpoint knows to be evaluated; -1 for none.
    """

    def __init__(self, path: Path, resume_step: int, evaluated_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        last = {"train": resume_step, "eval": evaluated_step}
        kept = [line for line in _complete_lines(path) if (event := json.loads(line))["step"] <= last.get(event["event"], -1)]
        write_text(path, "".join(line + "\n" for line in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open for the whole run

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append one event; the line is handed to the system at once."""
        self._file.write(json.dumps({"event": event, "step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Make everything written so far survive a power cut (called with every checkpoint)."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _complete_lines(path: Path) -> list[str]:
    """Lines of an earlier run; a last line cut by a crash is dropped."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    kept = []
    for line in lines:
        try:
            json.loads(line)
        except ValueError:
            continue
        kept.append(line.decode("utf-8"))
    return kept
