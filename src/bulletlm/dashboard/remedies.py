"""What the remedies of a report card start: a command for this run, or the draft of a new one.

A report can come from another computer, so its commands are read, and only what is known to be harmless is started.
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from bulletlm.config.loader import parse_flags
from bulletlm.dashboard.drafts import short_source
from bulletlm.dashboard.forms import as_word
from bulletlm.dashboard.runs import configuration
from bulletlm.data.sources import is_embedded
from bulletlm.errors import ConfigError
from bulletlm.evaluate.verdict_causes import MORE_TEXT, RUN, TEXT

COMMANDS = ("qat", "evaluate", "build")
"""Commands that a remedy may start; "build" is what reports of earlier versions say."""

CHANGED = ("quant.", "qat.", "sampling.", "evaluate.samples")
"""Beginnings of the names of settings that a remedy may change in a finished run: none of them names a path or an address."""


@dataclass(frozen=True)
class PreparedRun:
    """The draft of a new run with the settings of another one.

    Attributes:
        flags: what differs, as a line of flags.
        wants_text: whether the user has to add text.
    """

    flags: str
    wants_text: bool


def remedy_words(command: str, folder: Path) -> list[str] | None:
    """The words after `bullet` of a remedy, for this run; None if it is not a command that may be started for it."""
    words = _split(command)
    if len(words) < 3 or words[0] != "bullet" or words[1] not in COMMANDS:
        return None
    name, where, flags = words[1], Path(words[2]), words[3:]
    if not {where.name, where.parent.name} & {RUN, folder.name}:
        return None
    if name == "evaluate" and flags == ["--checkpoints"]:
        return ["evaluate", str(folder), "--checkpoints"]
    if name == "qat":
        flags = ["--qat.steps" + flag.removeprefix("--steps") if flag.partition("=")[0] == "--steps" else flag for flag in flags]
    try:
        settings = parse_flags(flags)
    except ConfigError:
        return None
    if not all(path.startswith(CHANGED) for path in settings):
        return None
    changes = [f"--{path}={as_word(value)}" for path, value in settings.items()]
    return ["qat" if name == "qat" else "evaluate", str(folder), *changes]


def new_run_flags(command: str, folder: Path) -> PreparedRun | None:
    """The draft of a remedy that trains again with the settings of the run `folder`; None if it is no such command.

    The draft is checked like everything that a user types, and it is started by the user. A remedy that restarts the run itself
    becomes a new run too, so that the model stays.
    """
    words = _split(command)
    if len(words) < 4 or words[:2] != ["bullet", "run"]:
        return None
    flags = words[3:]
    if flags == ["--restart"]:
        return PreparedRun("", wants_text=False)
    names = [flag for flag in flags if flag.startswith("--name=")]
    if not names or names == [f"--name={folder.name}"]:
        return None
    kept, wants_text = [], False
    for flag in flags:
        name, _, value = flag.partition("=")
        if name == "--data.sources":
            sources, wants_text = _sources(value, folder)
            flag = f"{name}={as_word(sources)}"
        kept.append(flag)
    return PreparedRun(shlex.join(kept), wants_text)


def _sources(text: str, folder: Path) -> tuple[list[object], bool]:
    """The sources that a remedy names, with those of the run in place of TEXT, and whether the user has to add text."""
    config = configuration(folder)
    own = [short_source(source.model_dump(mode="json")) for source in config.data.sources if not is_embedded(source.path)] if config else []
    try:
        listed = json.loads(text)
    except ValueError:
        listed = []
    listed = listed if isinstance(listed, list) else [listed]
    return [path for item in listed if item != MORE_TEXT for path in (own if item == TEXT else [item])], MORE_TEXT in listed


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []
