"""Programs and servers that end in time, together with every process that they started."""

import os
import re
import shlex
import signal
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from check_results import CheckError

PROGRAM_SECONDS = 900
"""Time that a program may take."""

LONG_SECONDS = 3_600
"""Time that an installation, a build or a training may take."""

START_SECONDS, STOP_SECONDS = 120, 60
"""Time that a server may take to start, and to end after SIGTERM."""

Stream = BinaryIO | int
"""A file, or a constant of `subprocess`."""

MISLEADING_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
"""Variables that would make a program use this checkout or the settings of the `make` that runs here."""


def clean_environment(**changes: object) -> dict[str, str]:
    """The variables of this process for a program that must not use this checkout, with changes."""
    inherited = {name: value for name, value in os.environ.items() if name not in MISLEADING_VARIABLES}
    return inherited | {name: str(value) for name, value in changes.items()}


def show_command(command: Sequence[object]) -> str:
    """A command in one line for messages, cut if it is long."""
    return textwrap.shorten(shlex.join(map(str, command)), 240, placeholder=" ...")


def run_program(
    command: Sequence[object],
    *,
    timeout: float = PROGRAM_SECONDS,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    text: str = "",
) -> str:
    """Run a program with `text` as its input; returns what it wrote to stdout.

    Processes that it leaves behind are killed.

    Args:
        timeout: seconds after which it is killed.
        env: all of its variables; None for `clean_environment`.

    Raises:
        CheckError: the program is missing, took longer, or ended with another exit code than 0; with both of its outputs.
    """
    # Files instead of pipes: a process that the program leaves behind could hold a pipe open and delay the end.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(text.encode())
        given.seek(0)
        process = _start(command, cwd, env, (given, out, err))
        try:
            process.wait(timeout)
            ending = f"ended with exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            ending = f"did not end within {timeout:g} s and was killed"
        finally:
            _kill_group(process)
        if process.returncode:
            raise CheckError(f"{show_command(command)} {ending}", _read(out) + _read(err))
        return _read(out)


@contextmanager
def running_server(
    command: Sequence[object],
    pattern: str,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    seconds: tuple[float, float] = (START_SECONDS, STOP_SECONDS),
) -> Iterator[str]:
    """Start a server and give the text in its output that matches `pattern`; stop it at the end, also after an error.

    Args:
        seconds: the longest times for its start and for its end after SIGTERM. A server that takes longer is killed.

    Raises:
        CheckError: the server is missing, ended, or took longer.
    """
    start_seconds, stop_seconds = seconds
    with tempfile.TemporaryFile() as output:
        process = _start(command, cwd, env, (subprocess.DEVNULL, output, subprocess.STDOUT))
        try:
            yield _wait_for(pattern, show_command(command), process, output, start_seconds)
        finally:
            stopped = stop_server(process, stop_seconds)
        if not stopped:
            raise CheckError(f"{show_command(command)} did not end within {stop_seconds:g} s after SIGTERM and was killed", _read(output))


def stop_server(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Ask a process of `_start` to end, and kill it after some seconds; returns whether it ended in time."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    finally:
        _kill_group(process)
    return True


def _start(
    command: Sequence[object], cwd: Path | None, env: Mapping[str, str] | None, streams: tuple[Stream, Stream, Stream]
) -> subprocess.Popen[bytes]:
    """Start a program with stdin, stdout and stderr, in a process group of its own, which `_kill_group` ends."""
    words, variables = [str(word) for word in command], clean_environment() if env is None else env
    stdin, stdout, stderr = streams
    try:
        return subprocess.Popen(words, cwd=cwd, env=variables, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)
    except OSError as error:
        raise CheckError(f"{show_command(command)} does not start: {error.strerror}") from None


def _wait_for(pattern: str, shown: str, process: subprocess.Popen[bytes], output: BinaryIO, seconds: float) -> str:
    """Wait until the output of a server matches a pattern; returns the match. `shown` is its command for messages."""
    end = time.monotonic() + seconds
    while True:
        code, text = process.poll(), _read(output)
        if found := re.search(pattern, text):
            return found[0]
        if code is not None:
            raise CheckError(f"{shown} ended with exit code {code} before it was ready", text)
        if time.monotonic() > end:
            raise CheckError(f"{shown} was not ready within {seconds:g} s and was killed", text)
        time.sleep(0.05)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(file: BinaryIO) -> str:
    """What was written to a file so far, without moving the position that this process shares with the program that writes."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
