"""The folder that a dashboard works in: where runs and uploads are, and which paths a user may name."""

import glob
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bulletlm.data.sources import HUGGING_FACE, is_embedded
from bulletlm.errors import ConfigError
from bulletlm.files import expand_home
from bulletlm.serve.options import is_loopback
from bulletlm.terminal import printable

STATE_FOLDER = ".bullet-dashboard"
"""Folder of the workspace for what belongs to no run: the draft of the next run, measured speed, deleted runs."""

LONGEST_NAME = 100

SOURCE_SETTINGS = ("data.sources", "evaluate.also")

PATH_SETTINGS = (
    *SOURCE_SETTINGS,
    "data.held_out",
    "model.start_from",
    "evaluate.prompts",
    "augment.paraphrase_pairs",
    "augment.paraphrase_models",
    "augment.translation_models",
    "augment.cache",
)
"""Settings that name files or folders, except the folder of the runs."""


@dataclass(frozen=True)
class Workspace:
    """The folder of a dashboard.

    Attributes:
        folder: absolute path; runs are in its subfolder runs, uploaded files in uploads.
        allowed: further folders from which text and models may be read.
    """

    folder: Path
    allowed: tuple[Path, ...] = ()

    @property
    def runs(self) -> Path:
        """The folder of the run folders."""
        return self.folder / "runs"

    @property
    def uploads(self) -> Path:
        """The folder of uploaded files."""
        return self.folder / "uploads"

    @property
    def state(self) -> Path:
        """The folder for what belongs to no run."""
        return self.folder / STATE_FOLDER

    def run_folder(self, name: str) -> Path:
        """The folder of a run that exists.

        Raises:
            ConfigError: there is no run of this name.
        """
        if not is_name(name) or not is_run(self.runs / name):
            raise ConfigError(f"there is no run {printable(name, limit=LONGEST_NAME)!r} in {printable(str(self.runs))}")
        return self.runs / name

    def check(self, path: str) -> None:
        """Check that a path from a user is in the workspace or in an allowed folder. Links are followed.

        Raises:
            ConfigError: it is elsewhere.
        """
        if is_embedded(path) or path.startswith(HUGGING_FACE):
            return
        if "://" in path:
            if is_loopback(urlsplit(path).hostname or ""):
                return
            raise ConfigError(f"{printable(path)} is on another computer, and the dashboard sends no text there: run it in a terminal")
        fixed = expand_home(path)
        if glob.has_magic(path) and not fixed.exists():
            parts = fixed.parts
            plain = next(number for number, part in enumerate(parts) if glob.has_magic(part))
            fixed = Path(*parts[:plain])
            if ".." in parts[plain:]:
                raise ConfigError(f"{printable(path)}: a pattern must not go up with ..: name the folder itself")
        try:
            real = Path(os.path.realpath(self.folder / fixed))
        except (OSError, ValueError):
            raise ConfigError(f"{printable(path)} is not a path: name a file or a folder") from None
        places = [self.folder, *self.allowed]
        if not any(real.is_relative_to(os.path.realpath(place)) for place in places):
            raise ConfigError(
                f"{printable(path)} is outside of the folder of the dashboard ({printable(str(self.folder))}): upload the file, or start "
                f"the dashboard with --allow {printable(str(real if real.is_dir() else real.parent))}"
            )

    def check_settings(self, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield (setting, problem) for every setting in `given` that names a path which may not be used.

        Args:
            given: settings by their full names.
        """
        for setting, path in named_paths(given):
            try:
                self.check(path)
            except ConfigError as error:
                yield setting, str(error)


def named_paths(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(setting, path) of every setting that names a file or a folder, except the folder of the runs.

    The address of an endpoint is a path here too, so that no text is sent to another computer.
    """
    for setting in PATH_SETTINGS:
        for item in _items(given.get(setting)):
            paths = [item.get("path")] if setting in SOURCE_SETTINGS and isinstance(item, dict) else _items(item, values=True)
            yield from ((setting, path) for path in paths if isinstance(path, str))


def _items(value: Any, values: bool = False) -> list[Any]:
    if values and isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else [] if value is None else [value]


def is_name(name: str) -> bool:
    """Whether `name` can be the name of a run, and is no path."""
    return bool(name) and len(name) <= LONGEST_NAME and not name.startswith(".") and not re.search(r"[/\\\x00]", name)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, which may not have begun yet."""
    return (folder / "config.json").is_file() or (folder / "dashboard" / "configuration.json").is_file()


def free_name(wanted: str, folder: Path) -> str:
    """`wanted`, or `wanted` with a number, so that nothing in `folder` has this name."""
    number, name = 1, wanted
    while os.path.lexists(folder / name):
        number += 1
        name = f"{wanted[: LONGEST_NAME - 8]}-{number}"
    return name


def safe_file_name(name: str) -> str:
    """The name for an uploaded file: the last part of what the browser sent, without characters that mean something in a path."""
    base = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    base = "".join(c if c.isprintable() and c not in '*?[]<>:"|$`~' else "_" for c in base).strip(" .")
    stem, dot, suffix = base.rpartition(".")
    if dot:
        base = f"{stem[:60]}.{suffix[:12]}"
    return base[:80].lstrip(".-") or "upload"
