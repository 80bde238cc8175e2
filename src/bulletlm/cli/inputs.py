"""What the words after `bullet run` and `bullet plan` are: a configuration, or text."""

from collections.abc import Sequence
from pathlib import Path

from bulletlm.errors import ConfigError
from bulletlm.terminal import printable

LARGEST_CONFIGURATION = 1_000_000
"""Bytes of a .json file above which it is not looked at: a configuration has a few thousand."""


def split_words(words: Sequence[str], command: str) -> tuple[list[str], list[str]]:
    """The paths before the first option, and the rest.

    Raises:
        ConfigError: there is no path.
    """
    count = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
    if not count:
        raise ConfigError(
            f"bullet {command} requires an argument: a folder of text (bullet {command} my-texts), files, or a configuration "
            f"(bullet {command} demo)"
        )
    return list(words[:count]), list(words[count:])


def find_configuration(paths: Sequence[str]) -> Path | None:
    """The configuration that `paths` name, or None if they are text.

    A configuration is a .jsonc or .json5 file, a .json file with one object that holds only names of settings, the folder of a run, or
    a recipe of the package.

    Raises:
        ConfigError: a configuration stands among other paths.
    """
    found = [path for path in map(Path, paths) if _is_configuration(path)]
    if found and len(paths) > 1:
        raise ConfigError(
            f"{found[0]} is a configuration, and a configuration comes alone: name the text in it (data.sources), or leave it out"
        )
    if not found:
        return None
    from bulletlm.config.recipes import find_recipe

    if recipe := find_recipe(found[0]):
        return recipe
    return found[0] / "config.json" if found[0].is_dir() else found[0]


def almost_a_configuration(paths: Sequence[str]) -> str | None:
    """Why a .json file with names of settings is read as text, in words; None if the paths are anything else."""
    from bulletlm.config.loader import holds_only_settings, read_values

    path = Path(paths[0])
    if len(paths) > 1 or path.suffix.lower() != ".json" or not path.is_file() or path.stat().st_size > LARGEST_CONFIGURATION:
        return None
    try:
        values = read_values(path)
    except ConfigError:
        return None
    unknown = [key for key, value in values.items() if not holds_only_settings({key: value})]
    if len(unknown) in (0, len(values)):
        return None
    return f"it is read as text and not as a configuration, because {printable(unknown[0])} is not a setting or holds one that is none"


def _is_configuration(path: Path) -> bool:
    """Whether a path is a configuration and not text; of a missing .json file, the error about a configuration is the better one."""
    from bulletlm.config.loader import RECORD_KEY, holds_only_settings, read_values
    from bulletlm.config.recipes import find_recipe

    if find_recipe(path) or path.suffix.lower() in (".jsonc", ".json5"):
        return True
    file = path / "config.json" if path.is_dir() else path
    if file.suffix.lower() != ".json" or not file.is_file():
        return path.suffix.lower() == ".json" and not path.exists()
    if file.stat().st_size > LARGEST_CONFIGURATION:
        return False
    try:
        values = read_values(file)
    except ConfigError:
        return False
    return holds_only_settings(values) and (not path.is_dir() or RECORD_KEY in values)
