"""The first half of the data stage: cleans each document on its own, in one process per core.

The results in a folder beside the data folder are all that the second half needs, so a change of weights, shares,
budgets, similarity thresholds or validation set size does not repeat the cleaning.

    documents.jsonl   clean documents, a row each, as they go into train.jsonl and val.jsonl
    documents.bin     DOCUMENT records: the position of each row and its metadata
    paragraphs.bin    PARAGRAPH records of all documents that are not conversations
    whole.bin         SIGNATURE records of documents and conversations
    parts.bin         SIGNATURE records of paragraphs
    rejected.jsonl    rows left out so far
    summary.json      the key of settings and sources, and the log of the cleaning rules
"""

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bulletlm import __version__
from bulletlm.data.kinds import PACKINGS
from bulletlm.data.log import Log, Rejected, characters_of
from bulletlm.data.reading import BadRow, Block, DocumentProcess, RawDocument, blocks, documents
from bulletlm.data.rules import REPEAT_CHARACTERS, Clean, clean_document, split_paragraphs
from bulletlm.data.shingles import SIGNATURE
from bulletlm.data.signals import judge, sign
from bulletlm.data.sources import Skipped, SourceFile
from bulletlm.data.workers import cores, ordered_map
from bulletlm.errors import BulletError
from bulletlm.files import atomic_folder, read_json, sha256_of_file, sha256_of_json, write_json
from bulletlm.progress import Progress
from bulletlm.text.code import code_lines
from bulletlm.text.documents import Document, texts_of, to_line

if TYPE_CHECKING:
    from bulletlm.config.schema import CleanConfig

FILES = ("documents.jsonl", "documents.bin", "paragraphs.bin", "whole.bin", "parts.bin", "rejected.jsonl")
"""The files that cleaning writes, in the order in which their sizes are recorded; summary.json comes last."""

DOCUMENT = np.dtype(
    [
        ("offset", "<i8"),
        ("length", "<i8"),
        ("key", "<u8"),
        ("group", "<u8"),
        ("file", "<i4"),
        ("rows", "<i4"),
        ("line", "<i8"),
        ("characters", "<i8"),
        ("line_ends", "<i4"),
        ("language", "S15"),
        ("conversation", "?"),
    ]
)
"""`key`: hash of the content; `group`: documents of one group stay on the same side of the validation split; `rows`: number of
paragraphs, or 1; `characters` includes the `line_ends` line ends between paragraphs."""

PARAGRAPH = np.dtype([("key", "<u8"), ("characters", "<i4"), ("line", "<i8"), ("heading", "?"), ("sentence", "?")])
"""`heading`: a short line that does not end like a sentence; `sentence`: a line of whole sentences that is neither verse nor
dialogue, list or code."""

PARALLEL_FROM_BYTES = 8 << 20
"""Smaller inputs are finished before other processes have started, so they are cleaned in this process."""

_PACKED_TIMES = 5
_SECOND_HALF = {"near_duplicates", "boilerplate", "duplicate_lines", "short_percentile", "short_tokens", "long_percentile", "long_tokens"}
"""Settings that only the second half of the data stage reads."""

_SENTENCE_END = re.compile(r"[.!?।॥…][)\"”’'\]]*$")
_WHOLE_SENTENCE = re.compile(r"[.!?।…。！？؟۔።៕။][)\"”’'»\]」』）]*$")
_NO_PROSE = re.compile(
    r"^(?:[-–—•*·▪◦>#|]|[\"“„«‘'「『]|\(?(?:[0-9०-९]{1,3}|[A-Za-z]|[ivxIVX]{1,4})[.):]\s|[^\W\d_][^.!?।:]{0,30}:(?:\s|$))"
    r"|[।|॥]{2}|॥"
)
"""List items, dialogue, speakers of a play, verse numbers."""

_VERSE_LINE = 60
_VERSE_WINDOW = 3
"""A line counts as verse if it and the lines around it are short and most of them do not end like a sentence."""


@dataclass
class Cleaned:
    """The results of `clean_files`.

    Attributes:
        rows, characters: numbers read from each file, by file name; line ends and blank lines are not counted.
        log: the log of the cleaning rules.
        skipped: damaged files, in order.
        taken_for: the detected content of each file, by file name.
    """

    folder: Path
    documents: npt.NDArray[np.void]
    paragraphs: npt.NDArray[np.void]
    whole: npt.NDArray[np.void]
    parts: npt.NDArray[np.void]
    rows: Counter[str]
    characters: Counter[str]
    log: Log
    skipped: list[Skipped]
    taken_for: dict[str, str]


@dataclass
class _Part:
    """A block after cleaning, as a worker process returns it."""

    lines: bytes
    documents: npt.NDArray[np.void]
    paragraphs: npt.NDArray[np.void]
    whole: npt.NDArray[np.void]
    parts: npt.NDArray[np.void]
    rejected: bytes
    log: Log
    rows: int
    characters: int

    def place(self, file: int, offset: int, documents: int, paragraphs: int) -> None:
        """Number the records as those of one corpus: the file, and the bytes, documents and paragraphs before this block."""
        self.documents["offset"] += offset
        self.documents["file"] = file
        self.whole["row"] += documents
        self.parts["row"] += paragraphs

    def outputs(self) -> tuple[bytes, ...]:
        """The bytes for each of FILES."""
        arrays = (self.documents, self.paragraphs, self.whole, self.parts)
        return (self.lines, *(array.tobytes() for array in arrays), self.rejected)


def content_hash(*texts: str) -> int:
    """A 64-bit hash of a content, the same on every machine."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\0")
    return int.from_bytes(digest.digest(), "little")


def key_of_paragraphs(keys: npt.NDArray[np.uint64]) -> int:
    """The `key` of a document, computed from the keys of its paragraphs."""
    return int.from_bytes(hashlib.blake2b(keys.astype("<u8").tobytes(), digest_size=8).digest(), "little")


def to_document(key: int, source: str, language: str) -> Document:
    """A row without its text."""
    return {"id": f"{key:016x}", "source": source, "language": language}


def clean_files(files: list[SourceFile], config: "CleanConfig", seed: int, folder: Path, workers: int, progress: Progress) -> Cleaned:
    """Clean all files into `folder`, or reuse its contents if nothing has changed.

    The bytes written do not depend on the number of processes.

    Raises:
        DataError: a file that the configuration names is damaged. BulletError: the disk is full, a process died.
    """
    contents = {path: sha256_of_file(path) for path in {file.path for file in files}}
    hashes = [
        [file.name, file.label, file.kind, file.language, file.text, dict(file.columns), file.documents, file.member, file.named]
        + [contents[file.path]]
        + ([file.share] if file.share < 1 else [])
        for file in files
    ]
    settings = {**config.model_dump(mode="json", exclude=_SECOND_HALF), "signatures": config.near_duplicates > 0}
    key = sha256_of_json({"version": __version__, "settings": settings, "seed": seed, "files": hashes})
    if not _is_complete(folder, key):
        with atomic_folder(folder, (*FILES, "summary.json")) as fresh:
            _clean(files, config, seed, fresh, workers, progress, key)
    else:
        progress.log("data: cleaning is up to date")
    return _open(folder)


def _clean(files: list[SourceFile], config: "CleanConfig", seed: int, folder: Path, workers: int, progress: Progress, key: str) -> None:
    """Clean `files` and write FILES and summary.json, which records `key`, into `folder`; `workers` is 0 for one process a core."""
    sizes = {file.name: file.bytes_on_disk for file in files}
    unpacked = sum(sizes[file.name] * (_PACKED_TIMES if file.member or file.path.suffix.lower() in PACKINGS else 1) for file in files)
    workers = (workers or cores()) if unpacked >= PARALLEL_FROM_BYTES else 1
    skipped: list[Skipped] = []
    taken_for: dict[str, str] = {}
    rows, characters = Counter[str](), Counter[str]()
    log = Log()
    numbers = {file.name: number for number, file in enumerate(files)}

    def note(file: SourceFile, problem: str) -> None:
        skipped.append(Skipped(file.name, problem))

    with contextlib.ExitStack() as stack:
        outputs = {name: stack.enter_context(open(folder / name, "wb")) for name in FILES}
        log.write = outputs["rejected.jsonl"].write
        task = stack.enter_context(progress.task("data: cleaning", sum(sizes.values())))
        offset = n_documents = n_paragraphs = 0
        for item, part in ordered_map(_clean_block, (config, seed), _blocks(files, task.advance, note, taken_for), workers):
            name = item.source if isinstance(item, BadRow) else item.file.name
            rows[name] += part.rows
            characters[name] += part.characters
            log.add(part.log)
            part.place(numbers[name], offset, n_documents, n_paragraphs)
            offset += len(part.lines)
            n_documents += len(part.documents)
            n_paragraphs += len(part.paragraphs)
            for output, content in zip(outputs.values(), part.outputs(), strict=True):
                output.write(content)
    summary = {
        "key": key,
        "sizes": {name: (folder / name).stat().st_size for name in FILES},
        "rows": rows,
        "characters": characters,
        "examples": log.examples,
        "rule_rows": log.rows,
        "rule_characters": log.characters,
        "skipped": [asdict(item) for item in skipped],
        "taken_for": taken_for,
    }
    write_json(folder / "summary.json", summary)


def _blocks(
    files: list[SourceFile], advance: Callable[[int], None], note: Callable[[SourceFile, str], None], taken_for: dict[str, str]
) -> Iterator[Block | BadRow]:
    read: dict[int, float] = {}  # of each source, the blocks that its share allows so far
    with DocumentProcess() as process:
        for file in files:
            for block in blocks(file, advance, partial(note, file), partial(taken_for.__setitem__, file.name), process):
                before = read.get(file.source, 1 - file.share)  # so that the first block is read
                read[file.source] = before + file.share
                if int(read[file.source] + 1e-9) > int(before + 1e-9):
                    yield block


def _clean_block(settings: tuple["CleanConfig", int], block: Block | BadRow) -> _Part:
    """Apply all cleaning steps that need only the documents of one block."""
    config, seed = settings
    rejected: list[bytes] = []
    log = Log(write=rejected.append)
    rows = characters = 0
    kept: list[Clean] = []
    for raw in [block] if isinstance(block, BadRow) else documents(block, seed):
        if isinstance(raw, BadRow):
            rows += 1
            row = Rejected(raw.source, raw.line, raw.reason, raw.text, characters=raw.characters)
            characters += characters_of(raw.text) if raw.characters < 0 else raw.characters
            log.reject(row)
            continue
        characters += _size(raw) + sum(raw.changed.values())
        split_paragraphs(raw, config, log)  # each piece counts as a row
        rows += 1 if raw.messages else len(raw.paragraphs)
        document = clean_document(raw, config, log)
        if document:
            kept.append(document)
    batch = judge(kept, config, log)
    whole, parts = sign(batch) if config.near_duplicates else (np.zeros(0, SIGNATURE), np.zeros(0, SIGNATURE))
    lines, records, paragraphs = _records(batch.documents)
    log.write = _nowhere
    return _Part(lines, records, paragraphs, whole, parts, b"".join(rejected), log, rows, characters)


def _nowhere(line: bytes) -> None:
    """Replaces a log's `write` when the log is sent to another process."""


def _size(raw: RawDocument) -> int:
    """Number of characters in the lines that are not blank."""
    lines = raw.paragraphs or [line for message in raw.messages for line in message["content"].splitlines()]
    return sum(len(line) for line in lines if not line.isspace())


def _records(kept: list[Clean]) -> tuple[bytes, npt.NDArray[np.void], npt.NDArray[np.void]]:
    lines: list[bytes] = []
    records = np.zeros(len(kept), dtype=DOCUMENT)
    paragraphs: list[tuple[int, int, int, bool, bool]] = []
    offset = 0
    for number, document in enumerate(kept):
        if document.messages:
            key = content_hash(*(part for message in document.messages for part in (message["role"], message["content"])))
            row = to_document(key, document.source, document.language)
            row["messages"] = document.messages
            characters = sum(len(message["content"]) for message in document.messages)
        else:
            keys = [content_hash(paragraph) for paragraph in document.paragraphs]
            paragraphs += [
                (own, len(paragraph), line, len(paragraph) < REPEAT_CHARACTERS and not _SENTENCE_END.search(paragraph), sentence)
                for own, paragraph, line, sentence in zip(
                    keys, document.paragraphs, document.lines, sentence_lines(document.paragraphs), strict=True
                )
            ]
            key = key_of_paragraphs(np.array(keys, dtype=np.uint64))
            row = to_document(key, document.source, document.language)
            row["text"] = "\n".join(document.paragraphs)
            characters = len(row["text"])
        line = to_line(row)
        lines.append(line)
        group = content_hash(document.group) if document.group else key
        language = document.language.encode()[:15]
        ends = characters - sum(map(characters_of, texts_of(row)))
        records[number] = (
            offset, len(line), key, group, 0, document.rows, document.line, characters, ends, language, bool(document.messages),
        )  # fmt: skip
        offset += len(line)
    return b"".join(lines), records, np.array(paragraphs, dtype=PARAGRAPH)


def sentence_lines(paragraphs: list[str]) -> list[bool]:
    """[paragraphs] whether each is a line of complete sentences, of 30 characters or more, and not verse, dialogue, a list or code."""
    ends = [_WHOLE_SENTENCE.search(paragraph) is not None for paragraph in paragraphs]
    code = code_lines(paragraphs)
    found = [False] * len(paragraphs)
    for n, paragraph in enumerate(paragraphs):
        if not ends[n] or code[n] or len(paragraph) < REPEAT_CHARACTERS or _NO_PROSE.search(paragraph):
            continue
        around = range(max(n - _VERSE_WINDOW, 0), min(n + _VERSE_WINDOW + 1, len(paragraphs)))
        short = sum(len(paragraphs[m]) <= _VERSE_LINE for m in around)
        verse = len(paragraph) <= _VERSE_LINE and 4 * short >= 3 * len(around) and 3 * sum(ends[m] for m in around) < 2 * len(around)
        found[n] = not verse
    return found


def _is_complete(folder: Path, key: str) -> bool:
    """Whether `folder` already contains the files that `_clean` would write."""
    if not (folder / "summary.json").is_file():
        return False
    try:
        summary = read_json(folder / "summary.json")
        return summary["key"] == key and all(
            (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in summary["sizes"].items()
        )
    except (BulletError, KeyError, TypeError):
        return False


def _open(folder: Path) -> Cleaned:
    summary = read_json(folder / "summary.json")
    return Cleaned(
        folder,
        np.fromfile(folder / "documents.bin", dtype=DOCUMENT),
        np.fromfile(folder / "paragraphs.bin", dtype=PARAGRAPH),
        _map(folder / "whole.bin"),
        _map(folder / "parts.bin"),
        Counter(summary["rows"]),
        Counter(summary["characters"]),
        Log(
            summary["examples"],
            {source: Counter(rules) for source, rules in summary["rule_rows"].items()},
            {source: Counter(rules) for source, rules in summary["rule_characters"].items()},
        ),
        [Skipped(**item) for item in summary["skipped"]],
        summary["taken_for"],
    )


def _map(path: Path) -> npt.NDArray[np.void]:
    """Memory-map a file of signatures; they are read band by band and need not fit in memory."""
    return np.memmap(path, dtype=SIGNATURE, mode="r") if path.stat().st_size else np.zeros(0, dtype=SIGNATURE)
