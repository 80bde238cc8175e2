"""A quick look at text: how much there is, in which languages and kinds, and how fast it is read and cleaned.

A sample of every kind of file goes through the readers and the cleaning of the data stage. What it gives is projected to all files.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bulletlm.data.clean_corpus import content_hash
from bulletlm.data.language import detect
from bulletlm.data.log import Log, Rejected
from bulletlm.data.reading import DOCUMENT_KINDS, BadRow, DocumentProcess, RawDocument, blocks, documents
from bulletlm.data.rules import clean_document
from bulletlm.data.sources import Skipped, SourceFile, find_files
from bulletlm.progress import Progress

if TYPE_CHECKING:
    from bulletlm.config.schema import CleanConfig, DataConfig

SAMPLE_BYTES = 12_000_000
"""No further block is read after this amount of file."""

SAMPLE_SECONDS = 8.0
"""No further block is read after this time, except the first of each kind of file."""

BLOCKS_OF_A_FILE = 2
"""Blocks of one file in the sample, so that many files are in it; all blocks where SAMPLE_BYTES is not reached."""

KEPT_CHARACTERS = 2_000_000
"""Characters of the sample that `Survey.texts` keeps."""

_WARM_UP = "The first sentence loads the tables of language detection, which takes seconds and is not to be projected."


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a look at the text found. Figures are for all files, projected from the sample unless it was everything.

    Attributes:
        files: number of files that are read.
        bytes: their size on disk.
        kinds: number of files of each kind, such as ".txt".
        skipped: files that are not read, or not to their end.
        characters: characters after cleaning, without exact copies.
        languages: share of the characters in each language.
        conversations: share of the characters in conversations.
        document: median size of a document, in characters.
        seconds: time that reading and cleaning takes in one process.
        complete: whether the sample was all of the text.
        texts: cleaned text of the sample.
    """

    files: int
    bytes: int
    kinds: dict[str, int]
    skipped: tuple[Skipped, ...]
    characters: int
    languages: dict[str, float]
    conversations: float
    document: float
    seconds: float
    complete: bool
    texts: tuple[str, ...]


@dataclass
class _Kind:
    """What the sample of one kind of file holds."""

    read: float = 0
    characters: int = 0
    conversations: int = 0
    seconds: float = 0.0


class _Sample:
    """The part of the text that is read.

    Args:
        config: the rules of cleaning.
        seed: of the run.
        sizes: kind of file -> bytes of all files of this kind.
        log: receives what the rules did, with examples; None for nothing.

    Attributes:
        kinds: kind of file -> what was read of it.
        languages: characters in each language.
        lengths: characters of each document.
        texts: the first documents, about KEPT_CHARACTERS.
        problems: files that are not read to their end.
    """

    def __init__(self, config: "CleanConfig", seed: int, sizes: Counter[str], log: Log | None) -> None:
        self.kinds = {kind: _Kind() for kind in sizes}
        self.languages = Counter[str]()
        self.lengths: list[int] = []
        self.texts: list[str] = []
        self.problems: list[Skipped] = []
        self._config, self._seed, self._log = config, seed, log
        self._too_large = sizes.total() > SAMPLE_BYTES
        self._seen, self._kept = set[int](), 0
        self._begun = time.monotonic()

    @property
    def late(self) -> bool:
        """Whether SAMPLE_SECONDS are over."""
        return time.monotonic() - self._begun > SAMPLE_SECONDS

    def has_enough(self, kind: str) -> bool:
        """Whether no further file of a kind is needed."""
        return bool(self.kinds[kind].read) and (self.late or sum(each.read for each in self.kinds.values()) > SAMPLE_BYTES)

    def read(self, file: SourceFile, process: DocumentProcess) -> bool:
        """Read a file or its beginning; returns whether all of it was read. `process` reads documents such as .docx."""
        started, passed, size = time.monotonic(), 0, file.bytes_on_disk

        def advance(count: int) -> None:
            nonlocal passed
            passed += count

        def note(problem: str) -> None:
            self.problems.append(Skipped(file.name, problem))

        kind, stopped = self.kinds[file.kind], False
        for number, block in enumerate(blocks(file, advance, note, process=process)):
            for raw in (block,) if isinstance(block, BadRow) else documents(block, self._seed):
                self._add(raw, kind)
            if file.kind not in DOCUMENT_KINDS and (self.late or (self._too_large and number + 1 >= BLOCKS_OF_A_FILE)):
                stopped = passed < size
                break
        kind.read += max(1, passed) if stopped else max(1, size)
        kind.seconds += time.monotonic() - started
        return not stopped

    def _add(self, raw: RawDocument | BadRow, kind: _Kind) -> None:
        """Clean a document and count it, unless it is a copy of an earlier one."""
        if isinstance(raw, BadRow):
            if self._log:
                self._log.reject(Rejected(raw.source, raw.line, raw.reason, raw.text, characters=raw.characters))
            return
        document = clean_document(raw, self._config, self._log or Log())
        if document is None or (key := content_hash(document.text)) in self._seen:
            return
        self._seen.add(key)
        length = len(document.text)
        self.lengths.append(length)
        kind.characters += length
        kind.conversations += length if document.messages else 0
        self.languages[document.language] += length
        if self._kept < KEPT_CHARACTERS:
            self.texts.append(document.text)
            self._kept += length


def survey(config: "DataConfig", seed: int, progress: Progress, log: Log | None = None) -> Survey:
    """Look at the sources of a configuration for a few seconds.

    Args:
        config: names the sources and the rules of cleaning.
        seed: of the run.
        progress: shows that something is going on.
        log: receives what the rules of cleaning did to the sample, with examples.

    Raises:
        DataError: a source does not exist, or holds nothing that can be read.
    """
    files, skipped = find_files(config)
    sizes = Counter[str]()
    for file in files:
        sizes[file.kind] += file.bytes_on_disk
    complete = sizes.total() <= SAMPLE_BYTES
    detect(_WARM_UP)
    sample = _Sample(config.clean, seed, sizes, log)
    with progress.task("Looking at the text", None), DocumentProcess() as process:
        for file in _spread(files):
            if sample.has_enough(file.kind):
                complete = False
            else:
                complete &= sample.read(file, process)
    scale = {kind: max(1.0, sizes[kind] / part.read) if part.read else 0.0 for kind, part in sample.kinds.items()}
    characters = sum(part.characters * scale[kind] for kind, part in sample.kinds.items())
    conversations = sum(part.conversations * scale[kind] for kind, part in sample.kinds.items())
    everything = max(1, sample.languages.total())
    return Survey(
        files=len(files),
        bytes=sizes.total(),
        kinds=dict(Counter(file.kind for file in files).most_common()),
        skipped=(*skipped, *sample.problems),
        characters=int(characters),
        languages={name: count / everything for name, count in sample.languages.most_common()},
        conversations=conversations / max(1.0, characters),
        document=float(np.median(sample.lengths)) if sample.lengths else 0.0,
        seconds=sum(part.seconds * scale[kind] for kind, part in sample.kinds.items()),
        complete=complete,
        texts=tuple(sample.texts),
    )


def _spread(files: list[SourceFile]) -> Iterator[SourceFile]:
    """The files in an order in which any beginning is a fair sample: one of each kind first, then by a hash of their labels."""
    ranked = sorted(files, key=lambda file: content_hash(file.label))
    first = {file.kind: file for file in reversed(ranked)}
    yield from first.values()
    yield from (file for file in ranked if first[file.kind] is not file)
