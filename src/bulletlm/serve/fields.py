"""Types of the fields of requests, for all interfaces of the server."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MAX_NESTING = 32
"""Maximum nesting depth of objects and lists in a request; the known fields need six levels."""

ANY_TOKEN = 0x7FFF_FFFF
"""Placeholder for the highest token id of the model that is served."""

MAX_STOPS = 16
"""Largest number of stop strings of one request."""

MAX_COMBINING_MARKS = 30
"""Combining marks in a row: the limit of Unicode's Stream-Safe Text Format. The time of Python's normalization grows with the
square of their number, to minutes for a megabyte."""

_MARKS = re.compile(
    f"[{''.join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.combining(chr(code)))}]{{{MAX_COMBINING_MARKS + 1}}}"
)


def _valid_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text has half of a surrogate pair, which is not Unicode") from None
    if not text.isascii() and _MARKS.search(text):
        raise ValueError(f"the text has more than {MAX_COMBINING_MARKS} combining marks in a row")
    return text


def _integral(value: Any, depth: int = 1) -> Any:
    """Convert numbers such as 1.0 to int: in JSON they are integers."""
    if isinstance(value, list | dict) and depth > MAX_NESTING:
        raise ValueError(f"objects and lists are nested more than {MAX_NESTING} deep")
    if isinstance(value, list):
        return [_integral(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {key: _integral(item, depth + 1) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Strict(BaseModel):
    """An object whose values are not converted ("1" is not 1). The first unknown field is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _integers(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        unknown = None
        if cls.model_config.get("extra") == "forbid":
            unknown = next((key for key in value if key not in cls.model_fields), None)
        return {key: _integral(item, 2) for key, item in value.items() if key in cls.model_fields or key == unknown}


class Lenient(Strict):
    """An object whose unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


def unsupported(reason: str) -> PydanticCustomError:
    """The error of a field that asks for something that the server does not do."""
    return PydanticCustomError("unsupported_value", reason)


class Neutral:
    """For `Annotated`: a field that asks for something unsupported. It accepts null and `values`, which ask for nothing.

    Args:
        reason: why other values are refused.
        values: JSON values.
    """

    def __init__(self, reason: str, *values: Any) -> None:
        self.reason, self.values = reason, values

    def check(self, value: Any) -> Any:
        if value is None or any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in self.values):
            return value
        raise unsupported(self.reason)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [None, *self.values], "description": f"Other values are refused: {self.reason}."}


class OneOf:
    """For `Annotated`: a string that must be one of `names`.

    Args:
        reason: why other strings are refused.
        names: the accepted strings.
        refused: known but unsupported strings with their own reasons.
    """

    def __init__(self, reason: str, *names: str, refused: Mapping[str, str] | None = None) -> None:
        self.reason, self.names, self.refused = reason, names, refused or {}

    def check(self, value: str) -> str:
        if value not in self.names:
            raise unsupported(self.refused.get(value, self.reason))
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": list(self.names)}


_TOKEN = r"(0|[1-9][0-9]{0,8})"
_MAX_BIAS = 100


def _first_wrong_bias(value: Any) -> Any:
    """Keep only the first wrong entry of an object, because pydantic would report each of them."""
    for token, bias in value.items() if isinstance(value, dict) else ():
        if not re.fullmatch(_TOKEN, token) or type(bias) not in (int, float) or not abs(bias) <= _MAX_BIAS:
            return {token: bias}
    return value


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("it must be 1 or more, or -1 for no limit")
    return value


# fail_fast: each error takes a kilobyte, and a request of a megabyte can have 300,000 wrong numbers. The first error is enough.
Text = Annotated[str, AfterValidator(_valid_unicode)]
TokenId = Annotated[int, Field(ge=0, le=ANY_TOKEN)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
Stop = Annotated[str, Field(min_length=1), AfterValidator(_valid_unicode)]
Stops = Annotated[list[Stop], Field(fail_fast=True, max_length=MAX_STOPS)]
MaxTokens = Annotated[
    int,
    Field(ge=-1),
    AfterValidator(_not_zero),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": -1}], "description": "-1: up to the context length."}),
]
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=f"^{_TOKEN}$")], Annotated[float, Field(ge=-_MAX_BIAS, le=_MAX_BIAS)]],
    BeforeValidator(_first_wrong_bias),
    Field(description="Token id -> number added to its logit; -100 forbids the token."),
]
TopK = Annotated[int, Field(ge=-1, le=1 << 20, description="Not in OpenAI's interface. 0 or -1 keeps all tokens.")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=10, description="Not in OpenAI's interface.")]
