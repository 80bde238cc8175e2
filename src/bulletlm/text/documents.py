"""Reads and writes the rows of train.jsonl and val.jsonl: one document or conversation per line."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from bulletlm.errors import BulletError
from bulletlm.files import open_regular


class Message(TypedDict):
    """One turn; `role` is "user" or "assistant" (or "system" before a conversation is put in order)."""

    role: str
    content: str


class Document(TypedDict):
    """Either `text` (paragraphs separated by newlines) or `messages` (user and assistant in turn)."""

    id: str
    source: str
    language: str
    text: NotRequired[str]
    messages: NotRequired[list[Message]]


def texts_of(document: Document) -> list[str]:
    """The text of a document, or of each message of a conversation."""
    if "messages" in document:
        return [message["content"] for message in document["messages"]]
    return [document["text"]]


def to_line(document: Document) -> bytes:
    """One row of a .jsonl file, newline included."""
    return json.dumps(document, ensure_ascii=False, separators=(", ", ": ")).encode() + b"\n"


def parse_document(line: bytes) -> Document | None:
    """The document in a row of a .jsonl file; None if the row is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("id", "source", "language")):
        return None
    if "messages" in row:
        turns = row["messages"] if isinstance(row["messages"], list) else [None]
        whole = all(isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str) for turn in turns)
    else:
        whole = isinstance(row.get("text"), str)
    return cast("Document", row) if whole else None


def read_documents(path: Path, advance: Callable[[int], None] | None = None) -> Iterator[Document]:
    """Read the rows that the data stage wrote, calling `advance` with the bytes of each.

    Raises:
        BulletError: the file is missing or damaged.
    """
    try:
        with open_regular(path) as file:
            for number, line in enumerate(file, 1):
                document = parse_document(line)
                if document is None:
                    raise BulletError(f"{path} is damaged at line {number}: run `bullet data` again")
                yield document
                if advance:
                    advance(len(line))
    except FileNotFoundError:
        raise BulletError(f"{path} is missing: run `bullet data` first") from None
    except OSError as error:
        raise BulletError(f"cannot read {path} ({error.strerror}): run `bullet data` again") from None
