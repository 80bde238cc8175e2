"""Numbers as text with their units, and texts that other stages wrote, for the pages."""

import re
import time

from bulletlm.evaluate.formatting import percent_change, size
from bulletlm.evaluate.words import Words

NOTHING = "–"


def decimal(value: float | None, digits: int = 3) -> str:
    """A number with fixed decimals; a dash for None."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def whole(value: float | None) -> str:
    """A whole number with separators; a dash for None."""
    return NOTHING if value is None else f"{value:,.0f}"


LONG_NUMBER = re.compile(r"\d{1,3}(?:,\d{3}){2,}")


def shortened(text: str, language: str) -> str:
    """The text with short forms of its long numbers, 12.3M for 12,345,678, if it has ten million or more in it; "" otherwise."""
    if not any(len(found) > len("1,234,567") for found in LONG_NUMBER.findall(text)):
        return ""
    return LONG_NUMBER.sub(lambda found: _short(int(found[0].replace(",", "")), language), text)


def _short(value: int, language: str) -> str:
    """12.3M, or 12.3 दशलक्ष in Marathi, which has no usual abbreviation of it."""
    words = unbroken(Words(language).count(value))
    return words.replace("\u00a0million", "M").replace("\u00a0billion", "B")


def unbroken(text: str) -> str:
    """The text with spaces at which no line ends between a number and its unit, or the sign before it."""
    return re.sub(r"(?<=\d) (?=[^\W\d])|(?<=≈) (?=\d)", "\u00a0", text)


def file_size(value: float | None) -> str:
    """Bytes as 1.4 MB; a dash for None."""
    return NOTHING if value is None else unbroken(size(int(value)))


def parameters(value: int | None, language: str) -> str:
    """1.4 million, in a language of the pages; a dash for None."""
    return NOTHING if value is None else unbroken(Words(language).count(value))


def span(seconds: float | None, language: str) -> str:
    """3 min 20 s, in a language of the pages; a dash for None."""
    return NOTHING if seconds is None else unbroken(Words(language).duration(seconds))


def change(value: float | None) -> str:
    """A relative change in percent with its sign; a dash for None."""
    return NOTHING if value is None else percent_change(value)


def date(seconds: float) -> str:
    """Local date and time of seconds since 1970; a dash for 0."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else NOTHING


def text(english: str, language: str) -> str:
    """A text that a stage has made, such as what a rule of cleaning does, in a language of the pages."""
    return Words(language).finished(english)
