"""The settings of the next run: as a form, as JSON and as a line of flags, which always say the same.

`Draft` holds the three. An edit of one of them changes the other two, and mistakes are reported at the setting that has them.
"""

import json
import re
import shlex
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from bulletlm.config.loader import nested, parse_flags, parse_settings
from bulletlm.config.messages import split_location, what_is_wrong
from bulletlm.config.schema import Config, Section
from bulletlm.dashboard.settings_mr import HELP
from bulletlm.errors import ConfigError
from bulletlm.terminal import printable

BASIC = (
    "name",
    "license",
    "seed",
    "data.loss_on",
    "tokenizer.vocab_size",
    "model.dim",
    "model.n_layers",
    "model.n_heads",
    "model.max_seq_len",
    "train.learning_rate",
    "train.scheduler",
    "train.warmup_steps",
    "train.epochs",
    "train.total_steps",
    "train.batch_size_per_device",
    "train.gradient_accumulation_steps",
    "train.optimizer",
    "train.weight_decay",
    "train.clip_grad_norm",
    "train.ema_decay",
    "train.eval_every_steps",
    "train.save_every_steps",
    "train.patience_early_stop",
    "quant.weights",
    "quant.calibration",
    "qat.steps",
)
"""The settings that the form shows first."""

ELSEWHERE = ("runs_dir", "data.sources")
"""Settings that the form does not show: the dashboard has its own place for runs, and its own part of the page for texts."""

LIMITS = {
    "ge le": "from {low} to {high}",
    "ge lt": "from {low} to less than {high}",
    "gt le": "more than {low}, at most {high}",
    "gt lt": "between {low} and {high}",
    "ge": "{low} or more",
    "gt": "more than {low}",
    "le": "at most {high}",
    "lt": "less than {high}",
}
"""Limits in words, by the rules of the schema."""

Kind = Literal["number", "whole", "choice", "switch", "text", "json"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting as the form shows it.

    Attributes:
        path: its full name.
        kind: "whole" is an integer; "json" is a list or an object, typed as JSON.
        default: value if it is not given.
        help: its description.
        limits: allowed values in words with placeholders, such as "from {low} to {high}", and their values; "" without limits.
        choices: for kind "choice".
        optional: whether null is allowed.
        basic: whether it is among the settings that the form shows first.
    """

    path: str
    kind: Kind
    default: Any
    help: str
    limits: tuple[str, dict[str, str]]
    choices: tuple[str, ...] = ()
    optional: bool = False
    basic: bool = False

    @property
    def section(self) -> str:
        """The group of settings, such as "train"; "" for those of the run itself."""
        return self.path.rpartition(".")[0]

    @property
    def title(self) -> str:
        """The last part of the name."""
        return self.path.rpartition(".")[2]


@cache
def form() -> tuple[Setting, ...]:
    """All settings of the form, in the order of the schema."""
    return tuple(setting for setting in _walk(Config, "") if setting.path not in ELSEWHERE)


def help_of(path: str, language: str) -> str:
    """What a setting does, in the language of the page; "" for one that the form does not show."""
    if language == "mr":
        return HELP.get(path, "")
    return next((setting.help for setting in form() if setting.path == path), "")


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from _walk(info.annotation, f"{prefix}{name}.")
        else:
            yield _setting(f"{prefix}{name}", info)


def _setting(path: str, info: FieldInfo) -> Setting:
    annotation, optional = info.annotation, False
    if get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        optional = len(parts) < len(get_args(annotation))
        annotation = parts[0] if len(parts) == 1 else None
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    kind: Kind = "json"
    choices: tuple[str, ...] = ()
    if get_origin(annotation) is Literal:
        kind, choices = "choice", tuple(map(str, get_args(annotation)))
    elif annotation is bool:
        kind = "switch"
    elif annotation is int:
        kind = "whole"
    elif annotation is float:
        kind = "number"
    elif annotation is str:
        kind = "text"
    default = info.get_default(call_default_factory=True)
    return Setting(
        path=path,
        kind=kind,
        default=list(default) if isinstance(default, tuple) else default,
        help=info.description or "",
        limits=_limits(info),
        choices=choices,
        optional=optional,
        basic=path in BASIC,
    )


def _limits(info: FieldInfo) -> tuple[str, dict[str, str]]:
    values: dict[str, str] = {}
    kinds: list[str] = []
    for rule in info.metadata:
        for kind, name in (("ge", "low"), ("gt", "low"), ("le", "high"), ("lt", "high")):
            if isinstance(rule, getattr(annotated_types, kind.capitalize())):
                values[name] = f"{getattr(rule, kind):,}"
                kinds.append(kind)
    return LIMITS.get(" ".join(sorted(kinds)), ""), values


@dataclass
class Draft:
    """The settings of the next run.

    Attributes:
        given: the settings that are not left at their default, by their full names.
        json_text: the same as JSON; text that the user pasted stays as it is until another part is edited.
        flags_text: a line of flags; it shows the settings that it names with their present values.
        json_problem: why the JSON cannot be read; "" if it can.
        flags_problem: the same for the line of flags.
    """

    given: dict[str, Any] = field(default_factory=dict)
    json_text: str = ""
    flags_text: str = ""
    json_problem: str = ""
    flags_problem: str = ""

    def edit_json(self, text: str) -> None:
        """Take over settings from JSON with comments, which may stand in a Markdown code block; no text clears them."""
        self.json_text = text
        try:
            found = parse_settings(unfenced(text), "the JSON") if text.strip() else {}
        except ConfigError as error:
            self.json_problem = printable(str(error))
            return
        self.json_problem = ""
        # A configuration that names no text does not take away the files that the user has added.
        if text.strip() and "data.sources" in self.given:
            found.setdefault("data.sources", self.given["data.sources"])
        self.given = found
        self._rewrite_flags()

    def edit_flags(self, text: str) -> None:
        """Take over settings from a line of flags; settings that it no longer names keep their values."""
        self.flags_text = text
        found = self.read_flags()
        if any(path not in self.given or self.given[path] != value for path, value in found.items()):
            self.given = {**self.given, **found}
            self._rewrite_json()

    def read_flags(self) -> dict[str, Any]:
        """The settings that the line of flags names. If it cannot be read, `flags_problem` says why, and there are none."""
        try:
            found = parse_flags(split_flags(self.flags_text))
        except ConfigError as error:
            self.flags_problem = printable(str(error).removeprefix("command line: "))
            return {}
        self.flags_problem = ""
        return found

    def edit_setting(self, path: str, value: Any) -> None:
        """Take over one setting; its default value takes it out of `given`."""
        setting = next((each for each in form() if each.path == path), None)
        if setting is not None and value == setting.default and type(value) is type(setting.default):
            self.given.pop(path, None)
        else:
            self.given[path] = value
        self._rewrite_json()
        self._rewrite_flags()

    def value(self, setting: Setting) -> Any:
        """The present value of a setting."""
        return self.given.get(setting.path, setting.default)

    def _rewrite_json(self) -> None:
        self.json_problem = ""
        self.json_text = json.dumps(nested(self.given), ensure_ascii=False, indent=2) if self.given else ""

    def _rewrite_flags(self) -> None:
        """Give every flag of the line its present value, and remove those that are no longer given."""
        if self.flags_problem or not self.flags_text.strip():
            return
        kept = []
        changed = False
        for name, path, value in named_flags(self.flags_text):
            if path not in self.given:
                changed = True
                continue
            changed = changed or self.given[path] != value
            kept.append((name, self.given[path]))
        if changed:
            self.flags_text = " ".join(f"{name}={shlex.quote(as_word(value))}" for name, value in kept)

    def problems(self) -> dict[str, str]:
        """Mistakes by the full name of the setting; under "" what belongs to several settings."""
        return problems(self.given)


def problems(given: Mapping[str, Any]) -> dict[str, str]:
    """Why these settings are no configuration: messages by the full name of the setting, or by "" for several together."""
    found: dict[str, str] = {}
    try:
        Config.model_validate(nested(given))
    except ValidationError as error:
        known = {setting.path for setting in form()} | set(ELSEWHERE)
        for item in error.errors():
            path, inside = split_location(item["loc"], known)
            found.setdefault(path if path in known else "", printable(inside + what_is_wrong(item)))
    except ConfigError as error:
        message = printable(str(error))
        first = re.match(r"\w+", message)
        path = next((setting.path for setting in form() if first and setting.title == first[0]), "")
        found[path] = message
    return found


def unfenced(text: str) -> str:
    """The contents of the first Markdown code block in `text`; `text` itself if it has none."""
    block = re.search(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```", text, re.DOTALL | re.MULTILINE)
    return block[1] if block else text


def split_flags(text: str) -> list[str]:
    """The words of a line of flags: as a shell splits them, with its line continuations, but nothing is executed.

    Words before the first flag, such as `bullet run my.jsonc`, and the marks of a code block are left out.

    Raises:
        ConfigError: a quotation mark is not closed.
    """
    joined = re.sub(r"\\[ \t]*\r?\n", " ", unfenced(text))
    try:
        words = shlex.split(joined, comments=False)
    except ValueError as error:
        raise ConfigError(f"the flags cannot be split into words ({str(error).lower()}): close the quotation mark") from None
    words = [word for word in words if word not in ("\\", "```", "`")]
    first = next((number for number, word in enumerate(words) if word.startswith("-")), len(words))
    if words and first == len(words):
        raise ConfigError(f"{words[0]!r} is no flag: write settings as --name=value")
    return words[first:]


def named_flags(text: str) -> list[tuple[str, str, Any]]:
    """(flag as written, full name of the setting, value) of every flag in a line that can be read."""
    rest, found = split_flags(text), []
    while rest:
        word = rest.pop(0)
        words = [word] if "=" in word else [word, rest.pop(0)]
        name = word.partition("=")[0]
        if name.lower() == "--set" and len(words) == 2:
            name = f"--{words[1].partition('=')[0]}"
        ((path, value),) = parse_flags(words).items()
        found.append((name, path, value))
    return found


def as_word(value: Any) -> str:
    """The text after the = of a flag that sets this value."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
