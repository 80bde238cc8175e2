"""Numbers as text with their units, and texts that other stages wrote, for the pages."""

import time

from bulletlm.evaluate.formatting import percent_change, size
from bulletlm.evaluate.words import Words

NOTHING = "–"


def decimal(value: float | None, digits: int = 3, unit: str = "") -> str:
    """A number with fixed decimals and its unit; a dash for None."""
    return NOTHING if value is None else f"{value:.{digits}f} {unit}".rstrip()


def whole(value: float | None) -> str:
    """A whole number with separators; a dash for None."""
    return NOTHING if value is None else f"{value:,.0f}"


def file_size(value: float | None) -> str:
    """Bytes as 1.4 MB; a dash for None."""
    return NOTHING if value is None else size(int(value))


def parameters(value: int | None, language: str) -> str:
    """1.4 million, in a language of the pages; a dash for None."""
    return NOTHING if value is None else Words(language).count(value)


def span(seconds: float | None, language: str) -> str:
    """3 min 20 s, in a language of the pages; a dash for None."""
    return NOTHING if seconds is None else Words(language).duration(seconds)


def change(value: float | None) -> str:
    """A relative change in percent with its sign; a dash for None."""
    return NOTHING if value is None else percent_change(value)


def date(seconds: float) -> str:
    """Local date and time of seconds since 1970; a dash for 0."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else NOTHING


def text(english: str, language: str) -> str:
    """A text that a stage has made, such as what a rule of cleaning does, in a language of the pages."""
    return Words(language).finished(english)
