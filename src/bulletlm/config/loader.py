"""Reading a configuration: files, command-line flags and the names of settings.

A setting has its full path as its name (`train.learning_rate`), the last part of the path if that is unique (`learning_rate`), and
the short names listed in `Also` (`lr`); `-` and `_` mean the same. Unknown names are errors that suggest the nearest known name.
"""

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import json5
from pydantic import BaseModel, ValidationError

from bulletlm.config.messages import describe_error, format_value, split_location
from bulletlm.config.recipes import find_recipe, recipe_names
from bulletlm.config.schema import Also, Config, FullNameOnly, Section, Source
from bulletlm.errors import ConfigError
from bulletlm.files import read_regular

RECORD_KEY = "recorded"
"""Key of config.json under which a run records versions and data hashes; ignored when the file is read as a configuration."""


class Setting(typing.NamedTuple):
    """One setting, as help texts and name lookup need it."""

    path: str
    names: tuple[str, ...]
    type_name: str
    default: Any
    description: str


def settings() -> list[Setting]:
    """Every setting, in the order of declaration."""
    return list(_walk(Config, ""))


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file, apply settings from the command line, and validate the result.

    Args:
        path: JSON with comments, or the name of a recipe; None for the defaults. `{"dim": 256}` and `{"model": {"dim": 256}}` mean the
            same.
        overrides: words of the command line: `--layers=8`, `--lr 3e-4`, `--set train.epochs=3`.

    Raises:
        ConfigError: the file cannot be read, a name is unknown or a value is not possible.
    """
    values: dict[str, Any] = {}
    if path is not None:
        path = find_recipe(path) or Path(path)
        raw = _read(path)
        raw.pop(RECORD_KEY, None)
        _merge_file(values, raw, "", str(path), {})
        if "name" not in values:
            values["name"] = path.stem
    given = parse_flags(overrides)
    for name, value in given.items():
        _put(values, name, value)
    if broken := _not_unicode(values):
        raise ConfigError(f"{broken}: this is not Unicode text; if it is the name of a file, rename the file")
    return _validate(values, str(path) if path else "command line", given)


def load_run_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """Read config.json of a run folder; name and runs_dir are those of the folder, which may have been renamed or moved.

    Args:
        folder: the run folder.
        overrides: see `load_config`; they may also change the name and the place.

    Raises:
        ConfigError: see `load_config`.
    """
    place = folder if folder.name else folder.resolve()
    return load_config(folder / "config.json", [f"--name={place.name}", f"--runs-dir={place.parent}", *overrides])


def parse_flags(words: Sequence[str]) -> dict[str, Any]:
    """The settings in words of the command line, by their full names; their values are not checked.

    Raises:
        ConfigError: a name is unknown, or a word is not a setting.
    """
    values: dict[str, Any] = {}
    for name, text in _split_flags(words):
        setting = _find(name, "command line", prefix="--")
        values[setting.path] = _parse_value(text, setting)
    return values


def parse_settings(text: str, where: str) -> dict[str, Any]:
    """The settings in the text of a configuration file, by their full names; their values are not checked.

    Args:
        text: JSON with comments.
        where: names the text in error messages.

    Raises:
        ConfigError: the text is not one JSON object, or a name is unknown or given twice.
    """
    raw = _parse(text, where)
    raw.pop(RECORD_KEY, None)
    values: dict[str, Any] = {}
    seen: dict[str, str] = {}
    _merge_file(values, raw, "", where, seen)
    found: dict[str, Any] = {}
    for path in seen:
        value: Any = values
        for part in path.split("."):
            value = value[part]
        found[path] = value
    return found


def nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their full names as an object with sections, as in a configuration file."""
    values: dict[str, Any] = {}
    for path, value in given.items():
        *sections, leaf = path.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[leaf] = value
    return values


def check_flags(given: dict[str, Any]) -> None:
    """Check the values of `parse_flags` without a configuration.

    Raises:
        ConfigError: a value is not possible.
    """
    _validate(nested(given), "command line", given)


def read_values(path: Path) -> dict[str, Any]:
    """The JSON object in a configuration file, as it is.

    Raises:
        ConfigError: the file cannot be read, or does not hold one JSON object.
    """
    return _read(path)


def holds_only_settings(values: dict[str, Any], prefix: str = "") -> bool:
    """Whether an object is a configuration: it is not empty, and every key is the name of a setting or of a group of settings."""
    names, sections = _names(), _sections()

    def known(key: str, value: Any) -> bool:
        name = f"{prefix}{_normal(key)}"
        if name in sections:
            return isinstance(value, dict) and (not value or holds_only_settings(value, f"{name}."))
        return name in names or (not prefix and key == RECORD_KEY)

    return bool(values) and all(known(key, value) for key, value in values.items())


def has_sources(config: Config) -> bool:
    """Whether the configuration names its text; the default of data.sources does not count."""
    return "sources" in config.data.model_fields_set


def _validate(values: dict[str, Any], where: str, given: Mapping[str, Any]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        names = {setting.path for setting in settings()}
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{where}: {_unknown_inside(*split_location(first['loc'], names))}") from None
        raise ConfigError(describe_error(first, names, given, where)) from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = read_regular(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"there is no configuration file {path}: write one with `bullet init`, or name a recipe ({', '.join(recipe_names())})"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder: give the configuration file in it, for example {path}/config.json") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {path} as UTF-8 text ({error.strerror if isinstance(error, OSError) else error}): is it a JSON configuration?"
        ) from None
    return _parse(text, str(path))


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        value = json5.loads(text, allow_duplicate_keys=False)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).replace("<string>:", "line ").split())  # it may quote a line break of the file
        raise ConfigError(f"{where} is not valid JSON (comments are allowed): {reason}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must hold one JSON object {{...}}, but it holds {format_value(value)}")
    return value


def _merge_file(values: dict[str, Any], raw: dict[str, Any], prefix: str, where: str, seen: dict[str, str]) -> None:
    for key, value in raw.items():
        name = f"{prefix}{_normal(key)}"
        if isinstance(value, dict) and name in _sections():
            _merge_file(values, value, name + ".", where, seen)
            continue
        setting = _find(name, where)
        if setting.path in seen:
            raise ConfigError(f"{where}: {setting.path} is given twice, as {seen[setting.path]} and as {prefix}{key}: remove one")
        seen[setting.path] = prefix + key
        _put(values, setting.path, value)


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *sections, leaf = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[leaf] = value


def _not_unicode(value: Any) -> str | None:
    """A string inside `value` that cannot be written as UTF-8, for example a file name in another encoding; None if there is none."""
    if isinstance(value, str):
        return value if any("\ud800" <= character <= "\udfff" for character in value) else None
    items = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return next((found for item in items if (found := _not_unicode(item))), None)


def _split_flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the (name, text) pairs of `--a=1 --b 2 --set c=3`."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise ConfigError(f"command line: unexpected {word}: write settings as --name=value")
        name, equals, text = word[2:].partition("=")
        if not equals:
            if not rest:
                raise ConfigError(f"command line: --{name} needs a value: --{name}=VALUE")
            text = rest.pop(0)
        if _normal(name) == "set":
            name, equals, text = text.partition("=")
            if not equals:
                raise ConfigError(f"command line: --set {name} needs NAME=VALUE, for example --set train.epochs=3")
        yield name, text


def _parse_value(text: str, setting: Setting) -> Any:
    """The value of a flag: parsed as JSON if possible, else as a list if it is in brackets, else the text itself."""
    if setting.type_name == "str":
        return text
    try:
        return json5.loads(text, allow_duplicate_keys=False)
    except ValueError:
        pass
    if text.startswith("[") and text.endswith("]"):
        return [item.strip().strip("\"'") for item in text[1:-1].split(",") if item.strip()]
    return text


def _normal(name: str) -> str:
    return name.strip().replace("-", "_").lower()


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        if _is_section(field.annotation):
            yield from _walk(typing.cast(type[Section], field.annotation), f"{prefix}{name}.")
            continue
        also = tuple(n for item in field.metadata if isinstance(item, Also) for n in item.names)
        names = () if any(isinstance(item, FullNameOnly) for item in field.metadata) else (name, *also)
        default = field.get_default(call_default_factory=True)
        yield Setting(f"{prefix}{name}", names, _type_name(field.annotation), default, field.description or "")


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type_name(get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(part) for part in get_args(annotation) if part is not type(None))
    if origin is Literal:
        return " | ".join(str(part) for part in get_args(annotation))
    if origin in (list, tuple):
        return "list"
    return getattr(annotation, "__name__", str(annotation))


def _sections(model: type[BaseModel] = Config, prefix: str = "") -> set[str]:
    """Full names of all groups of settings, including nested ones such as data.clean."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        if _is_section(field.annotation):
            section = typing.cast(type[Section], field.annotation)
            found |= {f"{prefix}{name}", *_sections(section, f"{prefix}{name}.")}
    return found


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


@cache  # every setting of a configuration is looked up in it
def _names() -> dict[str, list[Setting]]:
    """Every accepted name -> the settings it can mean: full paths, paths that end in a short name, and short names."""
    table: dict[str, list[Setting]] = {setting.path: [setting] for setting in settings()}
    short: dict[str, list[Setting]] = {}
    for setting in settings():
        section = setting.path.rpartition(".")[0]
        for name in setting.names:
            if section:
                table.setdefault(f"{section}.{name}", [setting])
            short.setdefault(name, []).append(setting)
    for name, candidates in short.items():
        # Settings of nested groups have lower priority: `temperature` is sampling.temperature, not data.mix.temperature.
        depth = min(setting.path.count(".") for setting in candidates)
        table.setdefault(name, [setting for setting in candidates if setting.path.count(".") == depth])
    return table


def _find(name: str, where: str, prefix: str = "") -> Setting:
    found = _names().get(_normal(name), [])
    if not found:
        raise ConfigError(f"{where}: {_unknown(name, prefix)}")
    if len(found) > 1:
        paths = " or ".join(prefix + setting.path for setting in found)
        raise ConfigError(f"{where}: {prefix}{name} is ambiguous: use {paths}")
    return found[0]


def _unknown(name: str, prefix: str) -> str:
    section, dot, leaf = _normal(name).rpartition(".")
    known = _names().keys() | (set() if prefix else _sections())  # on the command line, a group of settings takes no value
    if section in _sections():
        elsewhere = [setting.path for setting in _names().get(leaf, [])]
        near = elsewhere or _close(_normal(name), [each for each in known if each.startswith(f"{section}.")], len(section) + 1)
    else:
        near = _close(_normal(name), [each for each in known if not prefix or ("." in each) == bool(dot)])
    hint = f"did you mean {prefix}{near[0]}?" if near else "`bullet config` lists all names"
    return f"unknown setting {prefix}{name}: {hint}"


def _close(name: str, known: Sequence[str], start: int = 0) -> list[str]:
    """The one of `known` that is most like `name`, compared from character `start` on; empty if none is."""
    ends = {each[start:]: each for each in sorted(known)}
    return [ends[end] for end in difflib.get_close_matches(name[start:], ends, n=1, cutoff=0.5)]


def _unknown_inside(name: str, inside: str) -> str:
    """Say that an object in the value of a setting (a source) has an unknown key."""
    if not inside:
        return _unknown(name, "")
    *entry, key = inside.removesuffix(": ").split(": ")
    near = difflib.get_close_matches(_normal(key), Source.model_fields, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(Source.model_fields)}"
    return f"{': '.join([name, *entry])}: unknown setting {key}: {hint}"
