"""Calls the JavaScript library in a Node.js process (driver.mjs)."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

NODE = shutil.which("node")
DRIVER = Path(__file__).with_name("driver.mjs")


class LibraryError(Exception):
    """An error that the library reported with one line (BulletError in JavaScript)."""


class Library:
    """Calls the JavaScript library. Every call of `ask` is one request to the process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, do: str, **values: Any) -> Any:
        """The result of a request; raises LibraryError for a BulletError, and AssertionError for any other error."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process ended with {self._process.poll()}"
        answer = json.loads(line)
        if "error" in answer:
            if answer["known"]:
                raise LibraryError(answer["error"])
            raise AssertionError(answer["stack"])
        return answer["result"]
