"""What the shell completes: names of models, runs and recipes, and paths.

`bullet --install-completion` writes a script that asks for these whenever Tab is pressed, so this module imports little.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from bulletlm.cli.models import SUFFIX, Found, find_models, is_folder
from bulletlm.config.recipes import recipe_names
from bulletlm.files import expand_home
from bulletlm.formats.packaged import packaged_names
from bulletlm.terminal import printable

if TYPE_CHECKING:
    from cyclopts.completion._engine import CompletionContext

CONFIGURATIONS = (".json", ".jsonc", ".json5")

Candidates = list[tuple[str, str]]
"""What can stand at the cursor, each with a word that describes it or "". A folder ends in a slash."""

TEXT_OF_BASH = r"""
# A completed folder gets no space after it, so that the path can continue.
_bullet_paths() {
  _bullet "$@"
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]]; then compopt -o nospace; fi
}
complete -F _bullet_paths bullet
"""
"""Follows the script of the command-line library for bash and takes its place."""

LINE_OF_ZSH = "(( ${#_cyc_vals} )) && compadd -d _cyc_disp -a _cyc_vals"
"""The line of the library's script for zsh that offers the candidates."""

LINES_OF_ZSH = """local -a _cyc_folders=("${(@M)_cyc_vals:#*/}")
    _cyc_vals=("${(@)_cyc_vals:#*/}")
    _cyc_disp=("${(@)_cyc_disp:#*/}")
    (( ${#_cyc_folders} )) && compadd -S '' -a _cyc_folders
    (( ${#_cyc_vals} )) && compadd -d _cyc_disp -a _cyc_vals"""
"""What takes its place."""


def finish_script(script: str, shell: str) -> str:
    """The completion script of the command-line library, changed so that bash and zsh add no space after a folder."""
    if shell == "bash":
        return script + TEXT_OF_BASH
    return script.replace(LINE_OF_ZSH, LINES_OF_ZSH) if shell == "zsh" else script


def complete_model(context: CompletionContext) -> Candidates:
    """Models here, models of the package, and paths of .bullet files and folders."""
    word = context.incomplete
    return _distinct(_models(word), _packaged(word), _paths(word, (SUFFIX,), every=False))


def complete_any_model(context: CompletionContext) -> Candidates:
    """Models here, models of the package, and paths of folders and model files, also of llama.cpp."""
    word = context.incomplete
    return _distinct(_models(word), _packaged(word), _paths(word, (SUFFIX, ".gguf"), every=False))


def complete_run(context: CompletionContext) -> Candidates:
    """Runs here, finished or not, and paths of folders."""
    word = context.incomplete
    return _distinct(_runs(word), _paths(word, (), every=False))


def complete_configuration(context: CompletionContext) -> Candidates:
    """Recipes of the package, and paths of configurations and folders."""
    word = context.incomplete
    return _distinct(_recipes(word), _paths(word, CONFIGURATIONS))


def complete_run_or_configuration(context: CompletionContext) -> Candidates:
    """Runs here, recipes of the package, and paths of configurations and folders."""
    word = context.incomplete
    return _distinct(_runs(word), _recipes(word), _paths(word, CONFIGURATIONS))


def complete_text(context: CompletionContext) -> Candidates:
    """Recipes of the package for the first word, and all paths."""
    word = context.incomplete
    return _distinct(iter(()) if context.index else _recipes(word), _paths(word, ("",)))


def _distinct(*groups: Iterator[tuple[str, str]]) -> Candidates:
    """All candidates, the first of those with the same name. Names that a terminal may not show are left out."""
    found: dict[str, str] = {}
    for name, description in chain(*groups):
        if printable(name) == name:
            found.setdefault(name, description)
    return list(found.items())


def _models(word: str) -> Iterator[tuple[str, str]]:
    return ((item.name, "run" if item.is_run else "model") for item in _found(word) if item.model.exists())


def _runs(word: str) -> Iterator[tuple[str, str]]:
    return ((item.name, "run") for item in _found(word) if item.is_run)


def _found(word: str) -> Iterator[Found]:
    """The models and runs here whose name begins with `word`."""
    return (item for item in find_models() if item.name.startswith(word)) if "/" not in word else iter(())


def _packaged(word: str) -> Iterator[tuple[str, str]]:
    return ((name, "model of the package") for name in packaged_names() if name.startswith(word))


def _recipes(word: str) -> Iterator[tuple[str, str]]:
    return ((name, "recipe") for name in recipe_names() if name.startswith(word))


def _paths(word: str, endings: tuple[str, ...], *, every: bool = True) -> Iterator[tuple[str, str]]:
    """Folders, and files with one of these endings, that begin with `word`. Without `every`, an empty word has none."""
    if not word and not every:
        return
    folder, start = os.path.split(word)
    try:
        entries = sorted(os.scandir(expand_home(folder or ".")), key=lambda entry: entry.name)
    except (OSError, RuntimeError):  # there is no such folder, or no such user
        return
    for entry in entries:
        if entry.name.startswith(start) and (start.startswith(".") or not entry.name.startswith(".")):
            path = os.path.join(folder, entry.name)  # noqa: PTH118 - as it was typed: ./ and ~ stay
            if is_folder(entry):
                yield f"{path}/", ""
            elif entry.name.endswith(endings):
                yield path, ""
