"""Reading documents out of files, in blocks of about a megabyte that can be handed to other processes.

    .txt      an empty line separates documents, each line is a paragraph
    .tsv      english<TAB>marathi in either order: translations in both directions; two columns in one script: plain sentences
    .jsonl    {"messages": [...]}, {"prompt", "response"}, {"instruction", "input", "response" or "output"}, {"text"}
    .parquet  the same as columns

Text may be packed as .gz or .xz. Memory stays bounded whatever the size of a file or a line. Where a block ends
depends on the file alone, so that the result does not depend on who reads it.
"""

import gzip
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from bulletlm.data.parallel import translations
from bulletlm.data.sources import SourceFile
from bulletlm.errors import DataError
from bulletlm.text.documents import Message

BLOCK_BYTES = 1 << 20
ROWS_AT_ONCE = 1_000

DOCUMENT_CHARACTERS = 8_000
"""Text that runs on without an empty line is cut after the paragraph that passes this size."""

LINE_BYTES = 16 << 20
"""A longer line is not text that anybody wrote; it is rejected without being read into memory whole."""

_LOOK_AT = 1 << 16
_SHOWN_BYTES = 2_000
_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))
_DEVANAGARI = re.compile("[\u0904-\u0939]")
_LATIN = re.compile("[A-Za-z]")
_COLUMNS = ("messages", "prompt", "response", "instruction", "input", "output")
_TEXT_COLUMNS = ("messages", "prompt", "instruction")


@dataclass
class RawDocument:
    """A document as it stands in its file: either `paragraphs` or `messages`.

    Attributes:
        line: number of its first line or row, from 1; `lines` has one number for each paragraph.
        group: documents of one group go to the same side of the validation split; "" for a group of its own.
        language: known language code, or "auto".
    """

    source: str
    line: int
    language: str
    paragraphs: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    group: str = ""


@dataclass(frozen=True)
class BadRow:
    """A line that is not a document."""

    source: str
    line: int
    reason: str
    text: str


@dataclass(frozen=True)
class Block:
    """Some lines of a file, or some rows of a table in Arrow's format; `first` and `last` are their numbers."""

    file: SourceFile
    first: int
    last: int
    data: bytes


def read_documents(
    file: SourceFile, seed: int, advance: Callable[[int], None], note: Callable[[str], None]
) -> Iterator[RawDocument | BadRow]:
    """Documents of a file in order, and the lines that are none: `documents` of each of its `blocks`."""
    for block in blocks(file, advance, note):
        if isinstance(block, BadRow):
            yield block
        else:
            yield from documents(block, seed)


def blocks(file: SourceFile, advance: Callable[[int], None], note: Callable[[str], None]) -> Iterator[Block | BadRow]:
    """The file in pieces that hold whole documents, and the lines that are too long.

    Args:
        advance: called with the bytes of the file that have been passed.
        note: called with a sentence when the file turns out to be damaged; what comes before the damage is kept.

    Raises:
        DataError: the file, named in the configuration itself, is damaged or is not what its name says.
    """
    passed = 0
    try:
        for block in _table_blocks(file, advance) if file.kind in (".parquet", ".arrow") else _text_blocks(file, advance):
            yield block
            passed = block.last if isinstance(block, Block) else block.line
    except _DAMAGE as error:
        what = _explain(error)
        if file.named:
            if isinstance(error, _NoColumnError):
                raise DataError(f"{file.path}: {what}") from None
            where = f" after line {passed:,}" if passed else ""
            raise DataError(f"{file.path}: {what}{where}: replace the file or take it out of data.sources") from None
        note(f"{what}; used up to line {passed:,}" if passed else what)


class _NotTextError(Exception):
    """The beginning of the file shows that it holds something else."""


class _NoColumnError(_NotTextError):
    """A table without text."""


_DAMAGE = (_NotTextError, EOFError, OSError, lzma.LZMAError, zlib.error)
"""What a packed or unreadable file raises; gzip.BadGzipFile is an OSError."""


def _explain(error: Exception) -> str:
    if isinstance(error, _NotTextError):
        return str(error)
    if isinstance(error, EOFError):
        return "the packed file is cut off"
    if isinstance(error, (gzip.BadGzipFile, lzma.LZMAError, zlib.error)):
        return f"the packed file is damaged ({_one_line(error)})"
    return f"cannot be read ({getattr(error, 'strerror', None) or _one_line(error)})"


def _one_line(error: Exception) -> str:
    """A library's message, which may have several lines and characters that a terminal must not see."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())[:100].rstrip(" .:")


def _text_blocks(file: SourceFile, advance: Callable[[int], None]) -> Iterator[Block | BadRow]:
    """Whole lines, whichever of \\n, \\r\\n and \\r the file uses; in a .txt whole documents, save where one is very long."""
    number, rest, skipping = 1, b"", False
    pieces = _pieces(file.path, advance)
    while True:
        try:
            piece = next(pieces, None)
        except _DAMAGE:
            end = rest.rfind(b"\n") + 1
            if end:  # what follows is the beginning of a line that is lost
                yield _lines_block(file, number, rest[:end])
            raise
        if piece is None:
            break
        if skipping:
            end = piece.find(b"\n") + 1
            if not end:
                continue
            piece, number, skipping = piece[end:], number + 1, False
        rest += piece
        if len(rest) < BLOCK_BYTES:
            continue
        end = rest.rfind(b"\n\n") + 2 if file.kind == ".txt" else 0
        if end < 2:
            end = rest.rfind(b"\n") + 1 if file.kind != ".txt" or len(rest) >= 2 * BLOCK_BYTES else 0
        if end:
            yield (block := _lines_block(file, number, rest[:end]))
            number = block.last + 1
            rest = rest[end:]
        elif len(rest) > LINE_BYTES:
            yield _endless(file, number, rest)
            rest, skipping = b"", True
    if rest:
        yield _lines_block(file, number, rest)


def _lines_block(file: SourceFile, first: int, data: bytes) -> Block:
    return Block(file, first, first + data.count(b"\n") - data.endswith(b"\n"), data)


def _endless(file: SourceFile, number: int, line: bytes) -> BadRow:
    """A line that is too long, with its beginning."""
    return BadRow(file.name, number, "longer_than_16_MB", line[:_SHOWN_BYTES].decode("utf-8", "replace").rstrip("\ufffd"))


def _pieces(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    """The unpacked text bit by bit, with \\n at the end of lines."""
    done, held = 0, b""
    with open(path, "rb") as packed, _unpacked(packed, path.suffix.lower()) as text:
        # read1 gives what there is before a packed file breaks off; read would throw it away.
        _check_is_text(text.read1(_LOOK_AT))  # type: ignore[attr-defined]
        text.seek(0)
        while piece := text.read1(_LOOK_AT):  # type: ignore[attr-defined]
            position = packed.tell()
            advance(position - done)
            done = position
            piece, held = held + piece, b""
            if piece.endswith(b"\r"):
                piece, held = piece[:-1], b"\r"
            yield piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in piece else piece
        if held:
            yield b"\n"


def _unpacked(packed: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix == ".gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=packed))
    if suffix == ".xz":
        return cast(IO[bytes], lzma.LZMAFile(packed))
    return packed


def _check_is_text(beginning: bytes) -> None:
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _NotTextError("the text is UTF-16: save it as UTF-8")
    if len(beginning.translate(None, _CONTROL_BYTES)) < 0.99 * len(beginning):
        raise _NotTextError("this is a binary file, not text")


def _table_blocks(file: SourceFile, advance: Callable[[int], None]) -> Iterator[Block]:
    """Rows of a Parquet or Arrow file, with the columns that can hold text."""
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError:
        raise DataError(f"{file.path}: reading Parquet needs the pyarrow package: pip install 'bulletlm[data]'") from None
    try:
        with pyarrow.memory_map(str(file.path)) as opened:
            if file.kind == ".parquet":
                table = parquet.ParquetFile(opened)
                columns = _text_columns(table.schema_arrow.names, file.text)
                batches: Iterable[Any] = table.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns)
            else:
                stream = ipc.open_stream(opened)
                columns = _text_columns(stream.schema.names, file.text)
                batches = (part for batch in stream for part in _cut(batch.select(columns)))
            total, row = file.path.stat().st_size, 1
            for batch in batches:
                sink = pyarrow.BufferOutputStream()
                with ipc.new_stream(sink, batch.schema) as writer:
                    writer.write_batch(batch)
                yield Block(file, row, row + batch.num_rows - 1, sink.getvalue().to_pybytes())
                row += batch.num_rows
            advance(total)
    except pyarrow.ArrowInvalid as error:
        raise _NotTextError(f"the file is damaged ({_one_line(error)})") from None


def _cut(batch: Any) -> Iterator[Any]:
    for start in range(0, batch.num_rows, ROWS_AT_ONCE):
        yield batch.slice(start, ROWS_AT_ONCE)


def _text_columns(names: Sequence[str], text: str) -> list[str]:
    if text not in names and not any(name in names for name in _TEXT_COLUMNS):
        has = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
        raise _NoColumnError(
            f"there is no column {text}, messages or prompt (it has {has}): say which one holds text, "
            f'as in {{"path": ..., "text": "{names[0] if names else "content"}"}}'
        )
    return [name for name in names if name == text or name in _COLUMNS]


def documents(block: Block, seed: int) -> Iterator[RawDocument | BadRow]:
    """Documents of a block in order, and the lines that are none.

    Args:
        seed: chooses the wording of translation requests.
    """
    file = block.file
    if file.kind in (".parquet", ".arrow"):
        return _from_table(block)
    lines = _lines(block)
    if file.kind == ".txt":
        return _from_text(file, lines)
    if file.kind == ".tsv":
        return _each_row(lines, lambda number, line: _tsv_row(file, number, line, seed))
    return _each_row(lines, lambda number, line: _jsonl_row(file, number, line))


def _lines(block: Block) -> Iterator[tuple[int, str] | BadRow]:
    """Numbered lines without their ends."""
    for number, line in enumerate(block.data.removesuffix(b"\n").split(b"\n"), block.first):
        if len(line) > LINE_BYTES:
            yield _endless(block.file, number, line)
            continue
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError:
            yield BadRow(block.file.name, number, "invalid_utf8", line.decode("utf-8", errors="replace"))


def _from_text(file: SourceFile, lines: Iterator[tuple[int, str] | BadRow]) -> Iterator[RawDocument | BadRow]:
    document, size = RawDocument(file.name, 1, file.language), 0
    for item in lines:
        if isinstance(item, BadRow):
            yield item
            continue
        number, line = item
        empty = not line or line.isspace()
        if document.paragraphs and (empty or size > DOCUMENT_CHARACTERS):
            yield document
            document, size = RawDocument(file.name, number, file.language), 0
        if empty:
            continue
        if not document.paragraphs:
            document.line = number
        document.paragraphs.append(line)
        document.lines.append(number)
        size += len(line)
    if document.paragraphs:
        yield document


def _each_row(
    lines: Iterator[tuple[int, str] | BadRow], read: Callable[[int, str], Iterator[RawDocument | BadRow]]
) -> Iterator[RawDocument | BadRow]:
    """What `read` makes of every line with text; lines that could not be read pass through."""
    for item in lines:
        if isinstance(item, BadRow):
            yield item
        elif item[1] and not item[1].isspace():
            yield from read(*item)


def _tsv_row(file: SourceFile, number: int, line: str, seed: int) -> Iterator[RawDocument | BadRow]:
    columns = [column.strip() for column in line.split("\t")]
    if len(columns) != 2 or not all(columns):
        yield BadRow(file.name, number, "not_two_columns", line)
        return
    marathi_first, marathi_second = (bool(_DEVANAGARI.search(column)) for column in columns)
    english, marathi = columns[::-1] if marathi_first else columns
    if marathi_first != marathi_second and _LATIN.search(english):
        for request, answer, language in translations(english, marathi, seed):
            messages: list[Message] = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
            known = language if language == "en" else file.language
            yield RawDocument(file.name, number, known, messages=messages, group=english)
    else:
        for sentence in columns:
            yield RawDocument(file.name, number, file.language, paragraphs=[sentence], lines=[number])


def _jsonl_row(file: SourceFile, number: int, line: str) -> Iterator[RawDocument | BadRow]:
    try:
        row = json.loads(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        yield BadRow(file.name, number, "not_json", line)
        return
    document = RawDocument(file.name, number, file.language)
    reason = _fill_from_row(document, row, file.text)
    yield BadRow(file.name, number, reason, line) if reason else document


def _from_table(block: Block) -> Iterator[RawDocument | BadRow]:
    from pyarrow import ipc

    for number, values in enumerate(ipc.open_stream(block.data).read_all().to_pylist(), block.first):
        row = {name: value for name, value in values.items() if value is not None}
        document = RawDocument(block.file.name, number, block.file.language)
        reason = _fill_from_row(document, row, block.file.text)
        yield BadRow(block.file.name, number, reason, json.dumps(row, ensure_ascii=False, default=str)) if reason else document


def _fill_from_row(document: RawDocument, row: Any, text: str) -> str | None:
    """Put the row's text into the document; or say why it cannot be done."""
    if not isinstance(row, dict):
        return "not_a_json_object"
    if "messages" in row:
        messages = row["messages"]
        if not _are_messages(messages):
            return "messages_without_role_and_content"
        document.messages = [{"role": message["role"], "content": message["content"]} for message in messages]
        return None
    if "prompt" in row or "instruction" in row:
        answer = row.get("response", row.get("output"))
        request = row.get("prompt", row.get("instruction"))
        extra = row.get("input") or ""
        if not (isinstance(request, str) and isinstance(extra, str) and isinstance(answer, str)):
            return "prompt_without_response"
        if extra.strip():
            request = f"{request}\n{extra}"
        document.messages = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
        return None
    if isinstance(row.get(text), str):
        document.paragraphs = [line for line in row[text].splitlines() if line and not line.isspace()]
        document.lines = [document.line] * len(document.paragraphs)
        return None
    return "no_text_or_messages"


def _are_messages(messages: Any) -> bool:
    return (
        isinstance(messages, Sequence)
        and len(messages) > 0
        and all(
            isinstance(m, Mapping) and m.get("role") in ("system", "user", "assistant") and isinstance(m.get("content"), str)
            for m in messages
        )
    )
