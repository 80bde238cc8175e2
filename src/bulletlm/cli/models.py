"""Finds the models and runs in the current folder, so that commands accept their names instead of paths.

It imports little, because `bullet generate` and `bullet chat` start with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bulletlm.errors import BulletError, ConfigError
from bulletlm.formats.packaged import packaged_model

MODEL, STAGES, MANIFEST = "model.bullet", "stages.json", "manifest.json"
SUFFIX = ".bullet"
_MODEL_FILES = (MODEL, MANIFEST, "config.json", "state.json")
"""Files of which every folder with a model has one: a .bullet file, .npy tensors, weights for transformers, a checkpoint."""


@dataclass(frozen=True)
class Found:
    """A model or a run.

    Attributes:
        name: what commands accept: the name of the run folder, or that of the file without .bullet.
        path: the run folder or the file, relative to the folder in which it was looked for.
        is_run: whether it is a run folder.
    """

    name: str
    path: Path
    is_run: bool

    @property
    def model(self) -> Path:
        """The .bullet file; an unfinished run has none."""
        return self.path / MODEL if self.is_run else self.path


def find_models(place: Path = Path()) -> list[Found]:
    """The models and runs in `place` and in its subfolders (as runs/ is one), in the order of their names.

    Hidden folders and folders that cannot be read are left out.
    """
    found = [Found(place.absolute().name, place, True)] if is_run(place) else [*_inside(place)]
    runs = {item.path for item in found if item.is_run}
    for folder in _folders(place):
        if folder not in runs and place not in runs:
            found += _inside(folder)
    return sorted(found, key=lambda item: (item.name, str(item.path)))


def find_model(word: Path, *, other_folders: bool = False) -> Path:
    """The model that a word of the command line means: a path, or else the name of a model or run that `find_models` finds, or else the
    name of a model of the package.

    Args:
        word: a .bullet file, a folder of .npy tensors, a run folder or another folder with a model.bullet (which is meant), or a name.
        other_folders: return folders of other kinds unchanged too, because the command reads more formats.

    Raises:
        ConfigError: several models have this name.
        BulletError: there is no such model, or the run has no model yet.
    """
    if _is_dir(word):
        if is_run(word):
            return _model_of(Found(word.name, word, True))
        if _is_file(word / MANIFEST) or (other_folders and _is_file(word / "config.json")):
            return word
        if _is_file(word / MODEL):
            return word / MODEL
    elif os.path.lexists(word) or not _is_name(word):
        return word
    if found := _named(word, find_models()):
        return _model_of(found)
    if _is_name(word) and (packaged := packaged_model(word.name)):
        return packaged
    raise BulletError(_no_model(word))


def default_model() -> Path:
    """The model of a command that was given none: that of the package.

    Raises:
        ConfigError: this installation has none.
    """
    packaged = packaged_model()
    if packaged is None:
        raise ConfigError("bullet chat requires an argument: the name of a model here (`bullet list` shows them), or a .bullet file")
    return packaged


def find_run(word: Path) -> Path:
    """The run folder that a word of the command line means; `word` itself if it is neither a run folder nor the name of one.

    Raises:
        ConfigError: several runs have this name.
    """
    if is_run(word) or not _is_name(word):
        return word
    found = _named(word, [item for item in find_models() if item.is_run])
    return found.path if found else word


def find_any(word: Path) -> Path:
    """What a word of the command line means to commands that take models of every kind: a path, or else the name of a run or model.

    Returns:
        `word` itself, or the run folder or .bullet file that has this name, or else the file of the package.

    Raises:
        ConfigError: several models have this name.
    """
    if is_run(word) or (os.path.lexists(word) and not _is_dir(word)) or any(_is_file(word / name) for name in _MODEL_FILES):
        return word
    found = _named(word, find_models())
    packaged = packaged_model(word.name) if _is_name(word) and not word.exists() else None
    return found.path if found else packaged or word


def is_run(folder: Path) -> bool:
    """Whether a run has started in `folder`."""
    return _is_file(folder / STAGES)


def _is_name(word: Path) -> bool:
    """Whether a word could be a name: it is not a path of several parts, and not the name of a file."""
    return word.name == str(word) and word.suffix != SUFFIX


def _named(word: Path, known: list[Found]) -> Found | None:
    """The one of `known` that a word names; None if none does. Raises a ConfigError for several."""
    if not _is_name(word):
        return None
    found = [item for item in known if item.name == word.name]
    if len(found) > 1:
        places = " and ".join(str(item.path) for item in found)
        raise ConfigError(f"there are {len(found)} models named {word}: {places}; give the path of one")
    return found[0] if found else None


def _model_of(found: Found) -> Path:
    """The .bullet file. Raises a BulletError for a run that has none yet."""
    if not os.path.lexists(found.model):
        from shlex import quote

        raise BulletError(f"the run {found.path} has no {MODEL} yet: finish it with `bullet run {quote(str(found.path))}`")
    return found.model


def _no_model(word: Path) -> str:
    """The message for a word that names no model."""
    from difflib import get_close_matches
    from shlex import quote

    names = [item.name for item in find_models()]
    near = get_close_matches(word.name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else "`bullet list` shows the models in this folder"
    if not _is_dir(word):
        return f"there is no model {word} here: {hint} (or give the path of a .bullet file)"
    if _is_file(word / "config.json"):
        return f"{word} is a Hugging Face folder: convert it first with `bullet convert {quote(str(word))} NEW.bullet`"
    return f"{word} is a folder without a model: {hint}; to make a model from text in a folder: bullet run {quote(str(word))}"


def _inside(folder: Path) -> Iterator[Found]:
    """The models and runs that are entries of a folder."""
    for entry in _entries(folder):
        path = folder / entry.name
        if entry.name.endswith(SUFFIX) and _is_file(path):
            yield Found(entry.name.removesuffix(SUFFIX), path, False)
        elif is_run(path):
            yield Found(entry.name, path, True)


def _folders(place: Path) -> Iterator[Path]:
    return (place / entry.name for entry in _entries(place) if is_folder(entry))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden; none of a folder that cannot be read."""
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:
        return []


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder; not if that may not be known."""
    try:
        return entry.is_dir()
    except OSError:
        return False


# Methods of Path raise an error where a folder above may not be read; these say no.


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113


def _is_dir(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112
