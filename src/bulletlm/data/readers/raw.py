"""The output types of the readers: blocks of a file, documents, and rows that are not documents."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bulletlm.data.sources import SourceFile
from bulletlm.text.documents import Message


@dataclass
class RawDocument:
    """A document as it is in its file: either `paragraphs` or `messages`.

    Attributes:
        line: number of its first line or row, from 1; `lines` has one number for each paragraph.
        group: documents of one group go to the same side of the validation split; "" for a group of its own.
        language: known language code, or "auto".
        changed: per rule of the log, the number of characters that reading removed; negative if reading added characters.
    """

    source: str
    line: int
    language: str
    paragraphs: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    group: str = ""
    changed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class BadRow:
    """A line or row that is not a document; `characters` is its length if `text` is only its beginning."""

    source: str
    line: int
    reason: str
    text: str
    characters: int = -1


@dataclass(frozen=True)
class Block:
    """A part of a file that contains complete documents.

    Attributes:
        first, last: numbers of its first and last line, row or page.
        data: the lines as UTF-8, or rows of a table in Arrow's format.
        plan: information of the reader about the whole file, or None.
        kind: the file type whose reader reads the documents of the block; "" for the type of the file.
    """

    file: SourceFile
    first: int
    last: int
    data: bytes
    plan: Any = None
    kind: str = ""


def ignore(_: str) -> None:
    """Ignore a message."""


@dataclass(frozen=True)
class Listener:
    """The callbacks to which a reader reports.

    Attributes:
        advance: called with the number of bytes of the file that have been read.
        note: called with a message if part of the file, or all of it, cannot be read.
        taken_for: called once with the detected content of the file, such as "text in cp1252".
    """

    advance: Callable[[int], None]
    note: Callable[[str], None]
    taken_for: Callable[[str], None] = ignore


class NotReadError(Exception):
    """The content of the file is not supported; the message says what it is and what to do."""


class NoColumnError(NotReadError):
    """Rows or a table without a known layout; the message names the setting that maps them."""
