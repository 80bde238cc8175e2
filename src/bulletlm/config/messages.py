"""Messages about wrong settings, in the words and the notation that users write settings in."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from bulletlm.config.schema import Source
from bulletlm.terminal import printable

LONGEST_VALUE = 60

_SAYINGS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda about: f"must be more than {about['gt']:g}",
    "greater_than_equal": lambda about: f"must be {about['ge']:g} or more",
    "less_than": lambda about: f"must be less than {about['lt']:g}",
    "less_than_equal": lambda about: f"must be {about['le']:g} or less",
    "int_type": lambda about: "must be a whole number",
    "int_parsing": lambda about: "must be a whole number",
    "int_from_float": lambda about: "must be a whole number",
    "int_parsing_size": lambda about: "is too large",
    "float_type": lambda about: "must be a number",
    "float_parsing": lambda about: "must be a number",
    "finite_number": lambda about: "must be a finite number",
    "bool_type": lambda about: "must be true or false",
    "bool_parsing": lambda about: "must be true or false",
    "string_type": lambda about: "must be text",
    "string_too_short": lambda about: "must not be empty",
    "list_type": lambda about: "must be a list, such as [a, b]",
    "tuple_type": lambda about: "must be a list, such as [a, b]",
    "too_short": lambda about: f"needs at least {_entries(about['min_length'])}",
    "too_long": lambda about: f"takes at most {_entries(about['max_length'])}",
    "missing": lambda about: "is missing",
    "dict_type": lambda about: "must be an object, such as {name: value}",
    "model_type": lambda about: "must be an object, such as {name: value}",
    "model_attributes_type": lambda about: "must be an object, such as {name: value}",
    "literal_error": lambda about: f"must be one of {about['expected'].replace(chr(39), '').replace(' or ', ', ')}",
}
"""Pydantic's type of an error -> what is wrong, from the error's context."""

_UNION_PARTS = ("str", "int", "float", "bool")
"""What pydantic adds to the location of a value that may be of several types."""


def describe_error(error: Mapping[str, Any], names: Collection[str], given: Mapping[str, Any], where: str) -> str:
    """One line about an error of pydantic.

    Args:
        error: an entry of `ValidationError.errors()`.
        names: the full names of all settings.
        given: settings from the command line, by their full names.
        where: the file that the other settings come from.
    """
    name, rest = split_location(error["loc"], names)
    what = what_is_wrong(error)
    value = error.get("input")
    if name in given:
        return f"command line: --{name} {format_value(given[name])}: {rest}{what}"
    said = not name or error["type"] == "missing" or (error["type"] == "value_error" and name not in names)
    return f"{where}: {name}{': ' if name else ''}{rest}{what}{'' if said else f', not {format_value(value)}'}"


def split_location(location: Sequence[str | int], names: Collection[str]) -> tuple[str, str]:
    """The name of the setting at a location that pydantic gives, and what is inside its value: "entry 2: language: "."""
    parts = list(location)
    name = ""
    while parts and isinstance(parts[0], str) and name not in names:
        name = f"{name}.{parts.pop(0)}" if name else str(parts.pop(0))
    if parts and parts[-1] in _UNION_PARTS:
        parts.pop()
    inside = [f"entry {part + 1}" if isinstance(part, int) else printable(part) for part in parts]
    return name, "".join(f"{part}: " for part in inside)


def format_value(value: Any) -> str:
    """A value as a user writes it: text as it is, everything else as JSON."""
    if isinstance(value, str):
        return printable(value, limit=LONGEST_VALUE) or '""'
    if isinstance(value, list):
        value = [_source(item) if isinstance(item, dict) and isinstance(item.get("path"), str) else item for item in value]
    return printable(json.dumps(value, ensure_ascii=False, default=str), limit=LONGEST_VALUE)


def _source(item: dict[str, Any]) -> Any:
    """A source without the settings that have their defaults; one with nothing but a path is written as its path."""
    fields = Source.model_fields
    short = {key: value for key, value in item.items() if key not in fields or value != fields[key].get_default(call_default_factory=True)}
    return short["path"] if list(short) == ["path"] else short


def what_is_wrong(error: Mapping[str, Any]) -> str:
    """The rule that a value breaks: "must be more than 0"."""
    saying = _SAYINGS.get(error["type"])
    if saying:
        return saying(error.get("ctx", {}))
    message = str(error["msg"]).removeprefix("Value error, ")
    return message if error["type"] == "value_error" else message[:1].lower() + message[1:]


def _entries(count: int) -> str:
    return "one entry" if count == 1 else f"{count} entries"
