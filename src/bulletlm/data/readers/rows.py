"""Reads JSON rows: .jsonl, .json (an array, pretty-printed or not, or concatenated objects), and the rows of Parquet files.

chat.py recognizes the layout of a row.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from bulletlm.data.language_names import language_of_name
from bulletlm.data.parallel import translations
from bulletlm.data.readers.chat import Row, keys_found, mapping_advice, read_row
from bulletlm.data.readers.lines import BLOCK_BYTES, LINE_BYTES, line_blocks, lines_of
from bulletlm.data.readers.opened import at_most, beginning_as_text, pieces
from bulletlm.data.readers.raw import BadRow, Block, Listener, NoColumnError, NotReadError, RawDocument
from bulletlm.data.sources import SourceFile
from bulletlm.text.documents import Message

_SAMPLED_ROWS = 200
_UNKNOWN = ("no_text_or_messages", "messages_without_role_and_content", "not_a_json_object")
"""Reasons for rejection that a setting may avoid."""

WHOLE_FILE_BYTES = 64 << 20
"""Maximum size of a .json file that consists of one object."""

_SPACE = re.compile(r"[\s,\x1e]*")
_TELEGRAM = re.compile(r'"(?:from_id|date_unixtime|actor_id|text_entities)"\s*:')


def line_documents_blocks(file: SourceFile, encoding: str, listener: Listener) -> Iterator[Block | BadRow]:
    """Read a .jsonl file in blocks of complete lines."""
    sample = beginning_as_text(file, encoding)
    rows = [row for line in sample.split("\n")[:_SAMPLED_ROWS] if (row := _parsed(line)) is not None]
    _report(file, rows, listener)
    yield from line_blocks(file, encoding, listener)


def json_blocks(file: SourceFile, encoding: str, listener: Listener) -> Iterator[Block | BadRow]:
    """Read the rows of a .json file as JSON lines; the number of a line is the number of its row."""
    sample = beginning_as_text(file, encoding)
    if _TELEGRAM.search(sample):
        raise NotReadError("a Telegram export, which is not read: export the chat as text, or write its messages as .jsonl")
    lines = list[bytes]()
    first, number, size, reported = 1, 0, 0, False

    def block() -> Block:
        nonlocal reported
        if not reported:
            _report(file, [_parsed(line.decode("utf-8", "replace")) for line in lines[:_SAMPLED_ROWS]], listener)
            reported = True
        return Block(file, first, number, b"\n".join(lines))

    values = _one_conversation(file, encoding, listener) if _is_one_conversation(sample) else None
    for value in values or _values(file, pieces(file, encoding, listener.advance), listener):
        if isinstance(value, BadRow):
            if lines:
                yield block()
            lines, size, number = [], 0, number + 1
            yield value
            continue
        for row in [value] if values else _rows_of(value, file.text):
            number += 1
            first = first if lines else number
            lines.append(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass"))
            size += len(lines[-1])
            if size >= BLOCK_BYTES:
                yield block()
                lines, size = [], 0
    if lines:
        yield block()


def documents(block: Block, seed: int) -> Iterator[RawDocument | BadRow]:
    """The documents of a block of lines of JSON."""
    for item in lines_of(block):
        if isinstance(item, BadRow):
            yield item
        elif item[1] and not item[1].isspace():
            number, line = item
            try:
                value = json.loads(line.removeprefix("\ufeff"))
            except (ValueError, RecursionError):
                yield BadRow(block.file.name, number, "not_json", line)
                continue
            yield from row_documents(block.file, number, value, line, seed)


def row_documents(file: SourceFile, number: int, value: Any, line: str, seed: int) -> Iterator[RawDocument | BadRow]:
    """The documents of one row."""
    row = read_row(value, file.text, file.columns)
    if row.reason:
        yield BadRow(file.name, number, row.reason, line)
    elif row.translations:
        texts = {language_of_name(name) or name: text.strip() for name, text in row.translations.items()}
        group = texts.get("en") or next(iter(texts.values()))
        for request, answer, language in translations(texts, seed):
            asked: list[Message] = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
            yield RawDocument(file.name, number, language, messages=asked, group=group)
    elif row.messages:
        yield RawDocument(file.name, number, file.language, messages=row.messages)
    else:
        paragraphs = [part for part in (row.text or "").splitlines() if part and not part.isspace()]
        yield RawDocument(file.name, number, file.language, paragraphs=paragraphs, lines=[number] * len(paragraphs))


def _report(file: SourceFile, values: list[Any], listener: Listener) -> None:
    """Report the detected layout of the first rows, and how to map rows with an unknown layout."""
    layouts, unknown, others = Counter[str](), list[Any](), 0
    for value in values:
        row: Row = read_row(value, file.text, file.columns)
        if row.reason in _UNKNOWN:
            unknown.append(value)
        elif row.reason:
            others += 1
        else:
            layouts[("conversations" if row.messages else "translations" if row.translations else "text") + f" ({row.layout})"] += 1
    shown = "; ".join(layout for layout, _ in layouts.most_common(3))
    listener.taken_for("rows of JSON" + (f": {shown}" if shown else ""))
    if unknown and not layouts and not others:
        names = [str(name) for name in unknown[0]] if isinstance(unknown[0], dict) else []
        message = f"no known layout of rows (they have {keys_found(unknown[0])}): {mapping_advice(names)}"
        raise NoColumnError(message)
    if unknown:
        names = [str(name) for name in unknown[0]] if isinstance(unknown[0], dict) else []
        listener.note(
            f"{len(unknown)} of the first {len(values)} rows have no known layout, for example {keys_found(unknown[0])}: "
            + mapping_advice(names)
        )


def _parsed(line: str) -> Any:
    """The value of a line, or None if it is not JSON."""
    try:
        return json.loads(line.removeprefix("\ufeff")) if line.strip() else None
    except (ValueError, RecursionError):
        return None


class _Buffer:
    """The text of a file that has been read and not yet used; it starts at `at`."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self.text, self.at, self.ended = "", 0, False
        self._stream, self._cut = stream, b""

    def fill(self, wanted: int) -> None:
        """Read until there are more than `wanted` characters, or the file ends."""
        parts, size = [self.text[self.at :]], len(self.text) - self.at
        while size <= wanted and not self.ended:
            piece = next(self._stream, None)
            self.ended = piece is None
            # A character may be cut at the end of a piece.
            data = self._cut + (piece or b"")
            end = len(data) - (0 if self.ended else _incomplete(data))
            parts.append(data[:end].decode("utf-8", "replace"))
            size += len(parts[-1])
            self._cut = data[end:]
        self.text, self.at = "".join(parts), 0

    def skip_space(self) -> bool:
        """Go to the next character that is not a space or comma; return whether there is one."""
        while True:
            found = _SPACE.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text) or self.ended:
                return self.at < len(self.text)
            self.fill(0)


def _values(file: SourceFile, stream: Iterator[bytes], listener: Listener) -> Iterator[Any]:
    """The rows in the text `stream` of a .json file: the elements of one or several arrays, or concatenated objects."""
    decoder, number = json.JSONDecoder(), 0
    buffer = _Buffer(stream)
    buffer.fill(0)
    buffer.text = buffer.text.removeprefix("\ufeff")
    if not buffer.skip_space():
        return
    arrays, in_array = buffer.text[buffer.at] == "[", False
    most = LINE_BYTES if arrays else WHOLE_FILE_BYTES
    while buffer.skip_space():
        if arrays and buffer.text[buffer.at] == ("]" if in_array else "["):
            in_array = not in_array
            buffer.at += 1
            continue
        number += 1
        try:
            value, end = decoder.raw_decode(buffer.text, buffer.at)
            if end == len(buffer.text) and not buffer.ended:
                raise json.JSONDecodeError("Unterminated", buffer.text, end)
        except (ValueError, RecursionError) as error:
            left = len(buffer.text) - buffer.at
            if not buffer.ended and _is_cut(error, buffer.text) and left <= most:
                buffer.fill(2 * max(left, 1 << 16))  # twice as much each time, so that the time stays linear
                number -= 1
                continue
            shown = buffer.text[buffer.at : buffer.at + 2_000]
            yield BadRow(file.name, number, "longer_than_16_MB" if left > most else "not_json", shown)
            line_end = buffer.text.find("\n", buffer.at)
            if in_array or line_end < 0:
                listener.note(f"it is not JSON after row {number - 1:,}" if number > 1 else "it is not JSON")
                return
            buffer.at = line_end + 1
            continue
        buffer.at = end
        yield value


def _is_cut(error: Exception, text: str) -> bool:
    """Whether a value could not be parsed because the text ends inside it."""
    return isinstance(error, json.JSONDecodeError) and (error.msg.startswith("Unterminated") or error.pos >= len(text) - 12)


def _rows_of(value: Any, text: str) -> list[Any]:
    """The rows of a value of a .json file: itself, or those of the lists and tables in it."""
    if isinstance(value, str):
        return [{text: value}]
    if not isinstance(value, dict) or not read_row(value, text).reason:
        return [value]
    rows = [row for items in value.values() if isinstance(items, list) for row in items if isinstance(row, (dict, list))]
    if not rows and len(value) > 1 and all(isinstance(row, dict) for row in value.values()):
        rows = list(value.values())
    return rows or [value]


def _one_conversation(file: SourceFile, encoding: str, listener: Listener) -> list[Any]:
    """The messages of a file as one value, followed by what is not JSON in it.

    Raises:
        NotReadError: the file is too large to be one conversation.
    """
    found = list(_values(file, at_most(WHOLE_FILE_BYTES, pieces(file, encoding, listener.advance)), listener))
    return [[item for item in found if not isinstance(item, BadRow)], *(item for item in found if isinstance(item, BadRow))]


def _is_one_conversation(sample: str) -> bool:
    """Whether a .json file is a list of messages."""
    start = sample.removeprefix("\ufeff").lstrip()
    if not start.startswith("["):
        return False
    try:
        first, _ = json.JSONDecoder().raw_decode(start[1:].lstrip())
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and bool(read_row(first).reason) and not read_row([first]).reason


def _incomplete(data: bytes) -> int:
    """Number of bytes at the end of `data` that belong to an incomplete character."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            return 0
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < needed else 0
    return 0
