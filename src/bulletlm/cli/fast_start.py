"""Starting `bullet generate` and `bullet chat` at once: without the library that reads all other command lines.

The commands are ordinary functions, which app.py registers too, so there is one definition of their options. What is read here
is only what cannot be meant otherwise: options by their exact names, each with a value of its type. For anything else
(--help, abbreviations, mistakes) the full command line takes over, with its messages.
"""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from bulletlm.errors import BulletError, BulletWarning

NAMES = ("generate", "chat")
ALIASES = {"-p": "--prompt"}

_KINDS: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float, "Path": Path}
"""How annotations are written in the signatures of those functions -> what makes a value of a word."""


def run_fast(words: Sequence[str]) -> bool:
    """Run `words` if they are one of our commands, plainly written; whether they were."""
    if not words or words[0] not in NAMES:
        return False
    command: Callable[..., None] = getattr(import_module(f"bulletlm.cli.{words[0]}"), words[0])
    arguments = parse(command, words[1:])
    if arguments is None:
        return False
    report_errors(lambda: command(*arguments[0], **arguments[1]))
    return True


def parse(command: Callable[..., None], words: Sequence[str]) -> tuple[list[Any], dict[str, Any]] | None:
    """Positional and named arguments for `command`, whose annotations are strings; None if the words are not that plain."""
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
        if len(files) != len(positional) or set(named) - set(command.__kwdefaults__ or ()) - set(values):
            return None
        return [_KINDS[kinds[name]](file) for name, file in zip(positional, files, strict=True)], values
    except (IndexError, KeyError, ValueError):
        return None


_usual = warnings.formatwarning


def _formatted(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    return f"bullet: {message}\n" if issubclass(category, BulletWarning) else _usual(message, category, filename, lineno, line)


def report_errors(call: Callable[[], object]) -> None:
    """A user's mistake is one line and exit code 1 or 2, a warning of ours one line; only our own bugs show a traceback."""
    warnings.formatwarning = _formatted
    try:
        call()
    except BulletError as error:
        fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong and end the program."""
    print(f"bullet: {message}", file=sys.stderr)
    sys.exit(code)
