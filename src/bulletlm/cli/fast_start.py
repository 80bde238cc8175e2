"""A fast start for `bullet generate` and `bullet chat`: these run without importing the command-line library.

The two commands are ordinary functions that app.py registers as well, so their options are defined once. This module only parses
unambiguous command lines: options with their exact names, each with a value of its type. Everything else (--help, abbreviations,
mistakes) is left to the full command line and its error messages.
"""

import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from bulletlm.errors import BulletError, BulletWarning
from bulletlm.terminal import printable

NAMES = ("generate", "chat")
ALIASES = {"-p": "--prompt"}

_KINDS: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float, "Path": Path}
"""Annotation as written in the signatures of those functions -> the function that converts a word of the command line."""


def run_fast(words: Sequence[str]) -> bool:
    """Run the command line `words` if `parse` can read it; returns whether it ran."""
    if not words or words[0] not in NAMES:
        return False
    command: Callable[..., None] = getattr(import_module(f"bulletlm.cli.{words[0]}"), words[0])
    arguments = parse(command, words[1:])
    if arguments is None:
        return False
    report_errors(lambda: command(*arguments[0], **arguments[1]))
    return True


def parse(command: Callable[..., None], words: Sequence[str]) -> tuple[list[Any], dict[str, Any]] | None:
    """Positional and keyword arguments for `command` (whose annotations are strings), or None if `words` need the full parser."""
    kinds = {name: kind.removesuffix(" | None") for name, kind in command.__annotations__.items()}
    code = command.__code__
    positional, named = code.co_varnames[: code.co_argcount], code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
    files: list[str] = []
    values: dict[str, Any] = {}
    rest = list(words)
    try:
        while rest:
            word = rest.pop(0)
            if not word.startswith("-"):
                files.append(word)
                continue
            option, equals, value = word.partition("=")
            name = ALIASES.get(option, option).removeprefix("--").replace("-", "_")
            if name not in named or name in values or "_" in option:
                return None
            if kinds[name] == "bool":
                if equals:
                    return None
                values[name] = True
                continue
            if not equals:
                value = rest.pop(0)
                if value.startswith("-"):
                    return None
            values[name] = _KINDS[kinds[name]](value)
        least = len(positional) - len(command.__defaults__ or ())
        if not least <= len(files) <= len(positional) or set(named) - set(command.__kwdefaults__ or ()) - set(values):
            return None
        return [_KINDS[kinds[name]](file) for name, file in zip(positional, files, strict=False)], values
    except (IndexError, KeyError, ValueError):
        return None


_format_other_warning = warnings.formatwarning
"""Python's own form, for warnings that are not for the user."""


def _format_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning for the user in one line; the parameters are those of `warnings.formatwarning`."""
    if issubclass(category, BulletWarning):
        return f"bullet: {printable(str(message))}\n"
    return _format_other_warning(message, category, filename, lineno, line)


def report_errors(call: Callable[[], object], program: str = "bullet") -> None:
    """Call `call` and report errors and warnings for the user in one line; the exit code of an error (1 or 2) ends the program.

    These are BulletError and BulletWarning, errors of the operating system (a file that cannot be read, too many open files), and
    libraries that only an extra installs. Any other exception is a bug in BulletLM and keeps its traceback.
    """
    warnings.formatwarning = _format_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that the terminal's encoding does not have must not end the program
            stream.reconfigure(errors="backslashreplace")
    try:
        call()
    except BulletError as error:
        fail(str(error), error.exit_code, program)
    except ModuleNotFoundError as error:
        from bulletlm.extras import explain

        message = explain(error)
        if message is None:
            raise
        fail(message, 1, program)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the system
            raise
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
        fail(f"{where}{error.strerror}", 1, program)


def fail(message: str, code: int, program: str = "bullet") -> NoReturn:
    """Print an error message in one line on standard error and exit with `code`."""
    print(f"{program}: {printable(message)}", file=sys.stderr)
    sys.exit(code)
