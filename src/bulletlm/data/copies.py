"""Removes text that repeats other text: validation text, or the texts of data.held_out."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bulletlm.data.clean_corpus import to_document
from bulletlm.data.leaks import Index, find_copies
from bulletlm.data.log import REJECTIONS, Log, Rejected
from bulletlm.data.readers.raw import BadRow
from bulletlm.data.reading import read_documents
from bulletlm.data.rules import clean_text
from bulletlm.data.sources import find_held_out
from bulletlm.data.store import BLOCK_BYTES, DataJob, DocumentStore, Ints
from bulletlm.data.workers import ordered_map
from bulletlm.errors import DataError
from bulletlm.progress import Progress
from bulletlm.terminal import printable
from bulletlm.text.documents import Document

if TYPE_CHECKING:
    from bulletlm.config.schema import DataConfig

_NO_TEXT = ("no_time", "chat_notice", "chat_media", "chat_deleted", "page_furniture", "gutenberg")
"""Rules of rows that are not text of a document."""

_UNREAD_SHOWN = 15


def held_out_texts(config: "DataConfig", seed: int, progress: Progress) -> list[Document]:
    """The texts of data.held_out, cleaned as the sources are. A request for a translation contains a text that its answer repeats.

    Args:
        config: names the files.
        seed: of the run.
        progress: receives what cannot be read and is therefore not held out.

    Raises:
        DataError: there are files, and none of them has a text that can be read.
    """
    texts: list[Document] = []
    files, skipped = find_held_out(config)
    unread: list[tuple[str, str]] = [(item.name, item.reason) for item in skipped if not item.reason.startswith("hidden")]
    for file in files:
        bad = Counter[str]()
        for raw in read_documents(file, seed, advance=lambda _: None, note=partial(_add_problem, unread, file.name)):
            if isinstance(raw, BadRow):
                bad[raw.reason] += 1
                continue
            messages = [message["content"] for message in raw.messages if message["role"] == "assistant" or not raw.group]
            for text in messages or raw.paragraphs:
                document = to_document(0, file.name, "und")
                document["text"] = "\n".join(clean_text(line, config.clean, [])[0] for line in text.split("\n"))
                texts.append(document)
        unread += [(file.name, f"{REJECTIONS[reason]} ({count:,})") for reason, count in bad.items() if reason not in _NO_TEXT]
    for name, reason in unread[:_UNREAD_SHOWN]:
        progress.log(f"data: not held out: {printable(name)}: {printable(reason)}", "warning")
    if len(unread) > _UNREAD_SHOWN:
        progress.log(f"data: not held out: {len(unread) - _UNREAD_SHOWN:,} more parts of data.held_out that are not read", "warning")
    if files and not texts:
        reason = f" ({printable(unread[0][0])}: {printable(unread[0][1])})" if unread else ""
        raise DataError(f"data.held_out: there is no text that is read in {printable(files[0].name)}{reason}: nothing would be held out")
    return texts


def _add_problem(unread: list[tuple[str, str]], name: str, problem: str) -> None:
    unread.append((name, problem))


def remove_held_out(store: DocumentStore, job: DataJob, index: Index) -> None:
    """Remove what repeats the texts of data.held_out, of which `index` is made.

    Raises:
        DataError: nothing else is left.
    """
    everything = np.arange(len(store.documents))
    gone, lost = remove_copies(store, job, everything, index, ("held_out", "held_out"), "data: held-out texts")
    store.documents = store.documents[~gone]
    job.progress.log(f"data: {lost:,} characters that repeat texts of data.held_out are left out; see rejected.jsonl")
    if not len(store.documents):
        raise DataError("all text of data.sources is also in data.held_out: name other files in one of the two")


def remove_copies(
    store: DocumentStore, job: DataJob, numbers: Ints, index: Index, reasons: tuple[str, str], title: str
) -> tuple[npt.NDArray[np.bool_], int]:
    """Remove passages that repeat the texts of `index` from documents.

    Args:
        store: the documents; those that lose passages become shorter in it.
        job: receives what is removed in its log.
        numbers: the documents to look at.
        index: the texts that must not be repeated.
        reasons: the rules to log for equal and for similar text.
        title: of the progress bar.

    Returns:
        [documents] whether nothing is left of a document, and the number of characters lost.
    """
    gone = np.zeros(len(store.documents), dtype=bool)
    lost = 0
    while len(numbers):  # the rest of a shortened document may in turn be equal to a text of the index
        found: dict[int, list[tuple[int, bool]]] = {}
        with job.progress.task(title, len(numbers)) as task:
            for (batch, _), copied in ordered_map(_find_copies, index, _batches(store, numbers), job.workers):
                for row, part, same in copied:
                    found.setdefault(batch[row], []).append((part, same))
                task.advance(len(batch))
        shortened: list[int] = []
        for number, parts in found.items():
            lost += _remove_parts(store, number, parts, reasons, job.log, gone)
            if not gone[number]:
                shortened.append(number)
        numbers = np.array(shortened, dtype=np.int64)
    return gone, lost


def _remove_parts(
    store: DocumentStore, number: int, parts: list[tuple[int, bool]], reasons: tuple[str, str], log: Log, gone: npt.NDArray[np.bool_]
) -> int:
    """Remove parts (-1: all) of a document that are copies, or mark it as gone; return the number of characters lost."""
    equal, similar = reasons
    document = store.read(number)
    whole = [same for part, same in parts if part < 0]
    if "messages" in document or whole:
        same = any(same for _, same in parts) if "messages" in document else any(whole)
        log.reject(store.rejected(number, equal if same else similar))
        gone[number] = True
        return int(store.documents["characters"][number])
    lost = 0
    paragraphs = document["text"].split("\n")
    keep = np.ones(len(paragraphs), dtype=bool)
    for part, same in parts:
        keep[part] = False
        lost += len(paragraphs[part])
        line = int(store.documents["line"][number])
        log.reject(Rejected(document["source"], line, equal if same else similar, paragraphs[part]))
    if keep.any():
        store.shorten(number, document, keep)
    else:
        gone[number] = True
    return lost


def _batches(store: DocumentStore, numbers: Ints) -> Iterator[tuple[list[int], bytes]]:
    """Batches of rows of about a megabyte, with the numbers of their documents."""
    batch: list[int] = []
    lines: list[bytes] = []
    size = 0
    for number in numbers.tolist():
        line = store.line(number)
        batch.append(number)
        lines.append(line)
        size += len(line)
        if size >= BLOCK_BYTES:
            yield batch, b"".join(lines)
            batch, lines, size = [], [], 0
    if batch:
        yield batch, b"".join(lines)


def _find_copies(index: Index, batch: tuple[list[int], bytes]) -> list[tuple[int, int, bool]]:
    return find_copies(index, batch[1])
