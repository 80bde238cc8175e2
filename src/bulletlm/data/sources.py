"""Finding the files that the configuration names, and reading documents out of them one by one.

    .txt     an empty line separates documents, each line is a paragraph
    .tsv     english<TAB>marathi in either order: translations; two columns in one script: plain sentences
    .jsonl   {"messages": [...]}, {"prompt", "response"}, {"instruction", "input", "response" or "output"}, {"text"}

Each may be packed as .gz or .xz. Memory stays bounded whatever the size of a file.
"""

import difflib
import glob
import gzip
import importlib.resources
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from bulletlm.data.documents import Message
from bulletlm.data.parallel import translation
from bulletlm.errors import DataError

if TYPE_CHECKING:
    from bulletlm.config import DataConfig

SAMPLE = "sample"
"""The source that stands for the corpus of the package."""

KINDS = (".txt", ".jsonl", ".tsv")
PACKINGS = (".gz", ".xz")
DOCUMENT_CHARACTERS = 8_000
"""Text that runs on without an empty line is cut after the paragraph that passes this size."""

LINE_BYTES = 16 << 20
"""A longer line is not text that anybody wrote; it is rejected without being read into memory whole."""

_NOT_DATA = ("credits", "licence", "license", "readme")
_LOOK_AT = 1 << 16
_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))
_DEVANAGARI = re.compile("[\u0904-\u0939]")
_LATIN = re.compile("[A-Za-z]")


@dataclass(frozen=True)
class SourceFile:
    """One file to read.

    Attributes:
        name: what rows and reports call it: the same on every machine.
        language: a language code, or "auto".
        named: the configuration names this very file, so damage in it is an error and not a note.
    """

    path: Path
    name: str
    kind: str
    language: str
    named: bool


@dataclass(frozen=True)
class Skipped:
    """A file in a folder that was not read, or not to its end."""

    name: str
    reason: str


@dataclass
class RawDocument:
    """A document as it stands in its file: either `paragraphs` or `messages`.

    Attributes:
        line: number of its first line, from 1; `lines` has one number for each paragraph.
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


def source_files(config: "DataConfig") -> list[Path]:
    """Every file that the configuration reads, in reading order.

    Raises:
        DataError: as `find_files`.
    """
    return [file.path for file in find_files(config)[0]]


def find_files(config: "DataConfig") -> tuple[list[SourceFile], list[Skipped]]:
    """The files to read, in reading order, and those in folders that are left out.

    Raises:
        DataError: a path does not exist (with the nearest name that does), holds nothing to read, or is of unknown kind.
    """
    files: dict[Path, SourceFile] = {}
    skipped: dict[str, Skipped] = {}
    for source in config.sources:
        found, left_out = _find(source.path, source.language)
        for file in found:
            files.setdefault(file.path.resolve(), file)
        for item in left_out:
            skipped.setdefault(item.name, item)
    return list(files.values()), list(skipped.values())


def _find(text: str, language: str) -> tuple[list[SourceFile], list[Skipped]]:
    if text == SAMPLE:
        folder = Path(str(importlib.resources.files("bulletlm.data"))) / "sample"
        return _in_folder(folder, folder, SAMPLE, language)
    path = Path(text).expanduser()
    if path.is_dir():
        return _in_folder(path, path, path.resolve().name, language)
    if path.is_file():
        kind = _kind(path)
        if kind is None:
            endings = ", ".join(KINDS)
            raise DataError(f"data.sources: {text} is of no known kind: its name must end in one of {endings} (also packed as .gz or .xz)")
        return [SourceFile(path, path.name, kind, language, named=True)], []
    if glob.has_magic(text):
        return _matching(text, language)
    raise DataError(f"data.sources: {text} does not exist{_suggestion(path)}")


def _in_folder(folder: Path, top: Path, name: str, language: str) -> tuple[list[SourceFile], list[Skipped]]:
    files, skipped = [], []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(top)
        if not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        kind, shown = _kind(path), f"{name}/{inside.as_posix()}"
        if kind is None:
            skipped.append(Skipped(shown, "not a .txt, .jsonl or .tsv file"))
        elif any(word in path.name.lower() for word in _NOT_DATA):
            skipped.append(Skipped(shown, "named as credits, licence or readme"))
        else:
            files.append(SourceFile(path, shown, kind, language, named=False))
    if not files:
        raise DataError(f"data.sources: there is no .txt, .jsonl or .tsv file in the folder {folder}: name another folder")
    return files, skipped


def _matching(pattern: str, language: str) -> tuple[list[SourceFile], list[Skipped]]:
    # Path.glob takes no absolute patterns.
    matches = [Path(match) for match in sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))]  # noqa: PTH207
    if not matches:
        raise DataError(f"data.sources: nothing matches {pattern}: check the pattern, or name a file or folder")
    files: list[SourceFile] = []
    skipped: list[Skipped] = []
    for match in matches:
        if match.is_dir():
            continue
        kind = _kind(match)
        if kind is None:
            skipped.append(Skipped(match.name, "not a .txt, .jsonl or .tsv file"))
        else:
            files.append(SourceFile(match, match.name, kind, language, named=False))
    if not files:
        raise DataError(f"data.sources: no .txt, .jsonl or .tsv file matches {pattern}: name another pattern")
    return files, skipped


def _kind(path: Path) -> str | None:
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in PACKINGS:
        endings.pop()
    return endings[-1] if endings and endings[-1] in KINDS else None


def _suggestion(path: Path) -> str:
    """The nearest thing that does exist, for a path that does not."""
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    near = difflib.get_close_matches(path.name, [entry.name for entry in parent.iterdir()], n=1, cutoff=0.6)
    if near:
        return f": did you mean {parent / near[0]}?"
    return f": there is nothing of that name in {parent.resolve()}"


def read_documents(
    file: SourceFile, seed: int, advance: Callable[[int], None], note: Callable[[str], None]
) -> Iterator[RawDocument | BadRow]:
    """Documents of a file in order, and the lines that are none.

    Args:
        seed: chooses direction and wording of translation requests.
        advance: called with the bytes of the file that have been passed.
        note: called with a sentence when the file turns out to be damaged; what comes before the damage is kept.

    Raises:
        DataError: the file, named in the configuration itself, is damaged or is not text.
    """
    lines = _text_lines(file, advance, note)
    if file.kind == ".txt":
        return _from_text(file, lines)
    if file.kind == ".tsv":
        return _from_tsv(file, lines, seed)
    return _from_jsonl(file, lines)


def _text_lines(file: SourceFile, advance: Callable[[int], None], note: Callable[[str], None]) -> Iterator[tuple[int, str] | BadRow]:
    """Numbered lines without their ends."""
    number = 0
    try:
        for number, line in enumerate(_lines(file.path, advance), 1):
            if line is None:
                yield BadRow(file.name, number, "longer_than_16_MB", "")
                continue
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError:
                yield BadRow(file.name, number, "invalid_utf8", line.decode("utf-8", errors="replace"))
    except _DAMAGE as error:
        what = _explain(error)
        if file.named:
            where = f" after line {number:,}" if number else ""
            raise DataError(f"{file.path}: {what}{where}: replace the file or take it out of data.sources") from None
        note(f"{what}; used up to line {number:,}" if number else what)


class _NotTextError(Exception):
    """The beginning of the file shows that it holds something else."""


_DAMAGE = (_NotTextError, EOFError, OSError, lzma.LZMAError, zlib.error)
"""What a packed or unreadable file raises; gzip.BadGzipFile is an OSError."""


def _explain(error: Exception) -> str:
    if isinstance(error, _NotTextError):
        return str(error)
    if isinstance(error, EOFError):
        return "the packed file is cut off"
    if isinstance(error, (gzip.BadGzipFile, lzma.LZMAError, zlib.error)):
        return f"the packed file is damaged ({error})"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _lines(path: Path, advance: Callable[[int], None]) -> Iterator[bytes | None]:
    """Raw lines without their ends, whichever of \\n, \\r\\n and \\r the file uses; None for one that is too long."""
    done = 0
    with open(path, "rb") as packed, _unpacked(packed, path.suffix.lower()) as text:
        _check_is_text(text.read(_LOOK_AT))
        text.seek(0)
        while line := text.readline(LINE_BYTES):
            position = packed.tell()
            if position - done >= _LOOK_AT:
                advance(position - done)
                done = position
            if len(line) == LINE_BYTES and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = text.readline(LINE_BYTES)
                yield None
                continue
            line = line.rstrip(b"\r\n")
            if b"\r" in line:
                yield from line.split(b"\r")
            else:
                yield line
        advance(packed.tell() - done)


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


def _from_tsv(file: SourceFile, lines: Iterator[tuple[int, str] | BadRow], seed: int) -> Iterator[RawDocument | BadRow]:
    for item in lines:
        if isinstance(item, BadRow):
            yield item
            continue
        number, line = item
        if not line or line.isspace():
            continue
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) != 2 or not all(columns):
            yield BadRow(file.name, number, "not_two_columns", line)
            continue
        marathi_first, marathi_second = (bool(_DEVANAGARI.search(column)) for column in columns)
        english, marathi = columns[::-1] if marathi_first else columns
        if marathi_first != marathi_second and _LATIN.search(english):
            request, answer, language = translation(english, marathi, seed)
            messages: list[Message] = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
            yield RawDocument(file.name, number, language, messages=messages, group=english)
        else:
            for sentence in columns:
                yield RawDocument(file.name, number, file.language, paragraphs=[sentence], lines=[number])


def _from_jsonl(file: SourceFile, lines: Iterator[tuple[int, str] | BadRow]) -> Iterator[RawDocument | BadRow]:
    for item in lines:
        if isinstance(item, BadRow):
            yield item
            continue
        number, line = item
        if not line or line.isspace():
            continue
        try:
            row = json.loads(line.removeprefix("\ufeff"))
        except (ValueError, RecursionError):
            yield BadRow(file.name, number, "not_json", line)
            continue
        document = RawDocument(file.name, number, file.language)
        reason = _fill_from_row(document, row)
        yield BadRow(file.name, number, reason, line) if reason else document


def _fill_from_row(document: RawDocument, row: Any) -> str | None:
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
    if isinstance(row.get("text"), str):
        document.paragraphs = [line for line in row["text"].splitlines() if line and not line.isspace()]
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
