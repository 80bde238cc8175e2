"""The documents that remain while the data stage removes text: where each of them is, and rows of files that change."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bulletlm.data.clean_corpus import Cleaned, content_hash, key_of_paragraphs, to_document
from bulletlm.data.dedup import REASONS, Verdict
from bulletlm.data.log import Log, Rejected
from bulletlm.data.rules import REPEAT_CHARACTERS
from bulletlm.data.sources import SourceFile
from bulletlm.progress import Progress
from bulletlm.text.documents import Document, texts_of, to_line

if TYPE_CHECKING:
    from bulletlm.config.schema import DataConfig

BLOCK_BYTES = 1 << 20
"""Bytes of rows that are read or compared at once."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class DataJob:
    """What the steps of the data stage share.

    Attributes:
        config: sources, cleaning and mixture.
        seed: of the validation set, the mixture and the order.
        files: the source files.
        folder: where the files are written.
        log: receives rejected text.
        workers: processes that compare text.
        progress: shows bars and messages.
    """

    config: "DataConfig"
    seed: int
    files: list[SourceFile]
    folder: Path
    log: Log
    workers: int
    progress: Progress


class DocumentStore:
    """The remaining documents, in the cleaned file or, if they have lost paragraphs, in a temporary file.

    Attributes:
        documents: DOCUMENT records; `offset` is negative (-1 - offset) in the temporary file.
        long_keys: uint64, sorted keys of all paragraphs of 30 characters or more; empty until repeats are removed.

    Args:
        cleaned: the documents as they were cleaned.
        folder: of the temporary file.
    """

    def __init__(self, cleaned: Cleaned, folder: Path) -> None:
        self.cleaned = cleaned
        self.documents = cleaned.documents
        self.long_keys: npt.NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._path = folder / "changed.tmp"
        self._whole = open(cleaned.folder / "documents.jsonl", "rb")  # noqa: SIM115
        self._changed = open(self._path, "w+b")  # noqa: SIM115

    def __enter__(self) -> "DocumentStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._whole.close()
        self._changed.close()

    def close(self) -> None:
        """Close both files and remove the temporary one."""
        self.__exit__()
        self._path.unlink()

    @property
    def size(self) -> int:
        """Number of bytes of all rows."""
        return int(self.documents["length"].sum())

    def line(self, number: int) -> bytes:
        """The row of a document."""
        offset, length = int(self.documents["offset"][number]), int(self.documents["length"][number])
        file = self._whole if offset >= 0 else self._changed
        file.seek(offset if offset >= 0 else -1 - offset)
        return file.read(length)

    def read(self, number: int) -> Document:
        """A document."""
        document: Document = json.loads(self.line(number))
        return document

    def rejected(self, number: int, reason: str) -> Rejected:
        """A document as a row of rejected.jsonl; `line` is its first line in its file."""
        document = self.read(number)
        return Rejected(document["source"], int(self.documents["line"][number]), reason, "\n".join(texts_of(document)), row_count(document))

    def shorten(self, number: int, document: Document, keep: npt.NDArray[np.bool_]) -> None:
        """Keep only the paragraphs of a document for which `keep`, bool[paragraphs], is true."""
        paragraphs = [paragraph for paragraph, kept in zip(document["text"].split("\n"), keep, strict=True) if kept]
        part = part_of(document, paragraphs)
        line = to_line(part)
        self._changed.seek(0, 2)
        record = self.documents[number]
        if record["group"] == record["key"]:
            record["group"] = int(part["id"], 16)
        record["offset"], record["length"] = -1 - self._changed.tell(), len(line)
        record["key"], record["rows"], record["characters"] = int(part["id"], 16), len(paragraphs), len(part["text"])
        record["line_ends"] = len(paragraphs) - 1
        self._changed.write(line)

    def cut(self, number: int, limit: int) -> int:
        """Cut a long text into documents of about `limit` characters; return their number. The first one keeps the position of the text."""
        paragraphs = self.read(number)["text"].split("\n")
        ends = part_ends([len(paragraph) for paragraph in paragraphs], limit)
        if len(ends) < 2:
            return 0
        document, first = self.read(number), len(self.documents)
        self.documents = np.concatenate([self.documents, np.repeat(self.documents[number : number + 1], len(ends) - 1)])
        for place, begin, end in zip([number, *range(first, len(self.documents))], [0, *ends], ends, strict=False):
            self.shorten(place, document, (np.arange(len(paragraphs)) >= begin) & (np.arange(len(paragraphs)) < end))
        return len(ends) - 1

    def remove_repeats(self, verdict: Verdict, files: list[SourceFile], log: Log, progress: Progress) -> None:
        """Log and remove duplicates of earlier text; this must be the first change, because `verdict` numbers the cleaned documents."""
        alive = verdict.alive()
        touched = (verdict.documents > 0) | (np.bincount(verdict.owner[verdict.paragraphs > 0], minlength=len(alive)) > 0)
        lines = self.cleaned.paragraphs["line"]
        with progress.task("data: repetitions", int(touched.sum())) as task:
            for number in np.flatnonzero(touched).tolist():
                task.advance()
                document, record = self.read(number), self.documents[number]
                name = files[record["file"]].name
                first = int(verdict.first[number])
                if "messages" in document:
                    text = "\n".join(texts_of(document))
                    log.reject(Rejected(name, int(record["line"]), REASONS[verdict.documents[number]], text))
                    continue
                reasons = verdict.paragraphs[first : int(verdict.first[number + 1])]
                paragraphs = document["text"].split("\n")
                for at in np.flatnonzero(reasons).tolist():
                    log.reject(Rejected(name, int(lines[first + at]), REASONS[reasons[at]], paragraphs[at]))
                left = [paragraph for paragraph, reason in zip(paragraphs, reasons, strict=True) if not reason]
                if verdict.documents[number]:
                    reason = REASONS[verdict.documents[number]]
                    log.reject(Rejected(name, int(record["line"]), reason, "\n".join(left), len(left)))
                elif left:
                    self.shorten(number, document, reasons == 0)
        self.documents = self.documents[alive]
        records = self.cleaned.paragraphs
        kept = (verdict.paragraphs == 0) & alive[verdict.owner] & (records["characters"] >= REPEAT_CHARACTERS)
        self.long_keys = np.sort(records["key"][kept])

    def occurrences(self, keys: npt.NDArray[np.uint64]) -> Ints:
        """[n] how often each long paragraph occurs in all documents."""
        counts: Ints = np.searchsorted(self.long_keys, keys, "right") - np.searchsorted(self.long_keys, keys, "left")
        return counts


def part_of(document: Document, paragraphs: list[str]) -> Document:
    """Some paragraphs of a document as a separate document."""
    keys = np.array([content_hash(paragraph) for paragraph in paragraphs], dtype=np.uint64)
    part = to_document(key_of_paragraphs(keys), document["source"], document["language"])
    part["text"] = "\n".join(paragraphs)
    return part


def part_ends(sizes: list[int], limit: int) -> list[int]:
    """The ends of documents of about `limit` characters, as paragraph indices."""
    ends: list[int] = []
    size = 0
    for number, own in enumerate(sizes, 1):
        size += own
        if size >= limit:
            ends.append(number)
            size = 0
    return ends if ends and ends[-1] == len(sizes) else [*ends, len(sizes)]


def row_count(document: Document) -> int:
    """The number of paragraphs, or 1 for a conversation."""
    return 1 if "messages" in document else document["text"].count("\n") + 1


def long_keys(document: Document) -> list[int]:
    """The keys of the paragraphs of 30 characters or more; empty for a conversation."""
    paragraphs = [] if "messages" in document else document["text"].split("\n")
    return [content_hash(paragraph) for paragraph in paragraphs if len(paragraph) >= REPEAT_CHARACTERS]
