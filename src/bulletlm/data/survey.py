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
from bulletlm.data.reading import DOCUMENT_KINDS, BadRow, DocumentProcess, blocks, documents
from bulletlm.data.rules import clean_document
from bulletlm.data.sources import Skipped, SourceFile, find_files
from bulletlm.progress import Progress

if TYPE_CHECKING:
    from bulletlm.config.schema import DataConfig

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
    total = sizes.total()
    complete = total <= SAMPLE_BYTES
    found = {kind: _Kind() for kind in sizes}
    languages, seen = Counter[str](), set[int]()
    lengths: list[int] = []
    texts: list[str] = []
    kept = 0
    detect(_WARM_UP)
    begun = time.monotonic()
    with progress.task("Looking at the text", None), DocumentProcess() as process:
        for file in _spread(files):
            kind = found[file.kind]
            late = time.monotonic() - begun > SAMPLE_SECONDS
            if kind.read and (late or sum(each.read for each in found.values()) > SAMPLE_BYTES):
                complete = False
                continue
            started, passed, size = time.monotonic(), 0, file.bytes_on_disk

            def advance(count: int) -> None:
                nonlocal passed
                passed += count

            def note(problem: str, name: str = file.name) -> None:
                skipped.append(Skipped(name, problem))

            stopped = False
            for number, block in enumerate(blocks(file, advance, note, process=process)):
                for raw in (block,) if isinstance(block, BadRow) else documents(block, seed):
                    if isinstance(raw, BadRow):
                        if log:
                            log.reject(Rejected(raw.source, raw.line, raw.reason, raw.text, characters=raw.characters))
                        continue
                    document = clean_document(raw, config.clean, log or Log())
                    if document is None:
                        continue
                    key = content_hash(document.text)
                    if key in seen:
                        continue
                    seen.add(key)
                    length = len(document.text)
                    lengths.append(length)
                    kind.characters += length
                    kind.conversations += length if document.messages else 0
                    languages[document.language] += length
                    if kept < KEPT_CHARACTERS:
                        texts.append(document.text)
                        kept += length
                late = time.monotonic() - begun > SAMPLE_SECONDS
                if file.kind not in DOCUMENT_KINDS and (late or (total > SAMPLE_BYTES and number + 1 >= BLOCKS_OF_A_FILE)):
                    stopped = passed < size
                    break
            kind.read += max(1, passed) if stopped else max(1, size)
            kind.seconds += time.monotonic() - started
            complete = complete and not stopped
    scale = {kind: max(1.0, sizes[kind] / found[kind].read) if found[kind].read else 0.0 for kind in sizes}
    characters = sum(part.characters * scale[kind] for kind, part in found.items())
    conversations = sum(part.conversations * scale[kind] for kind, part in found.items())
    everything = max(1, languages.total())
    return Survey(
        files=len(files),
        bytes=total,
        kinds=dict(Counter(file.kind for file in files).most_common()),
        skipped=tuple(skipped),
        characters=int(characters),
        languages={name: count / everything for name, count in languages.most_common()},
        conversations=conversations / max(1.0, characters),
        document=float(np.median(lengths)) if lengths else 0.0,
        seconds=sum(part.seconds * scale[kind] for kind, part in found.items()),
        complete=complete,
        texts=tuple(texts),
    )


def _spread(files: list[SourceFile]) -> Iterator[SourceFile]:
    """The files in an order in which any beginning is a fair sample: one of each kind first, then by a hash of their labels."""
    ranked = sorted(files, key=lambda file: content_hash(file.label))
    first = {file.kind: file for file in reversed(ranked)}
    yield from first.values()
    yield from (file for file in ranked if first[file.kind] is not file)
