"""Reads documents from files, in blocks of about a megabyte that can be sent to other processes.

`bulletlm.data.readers` has one module for each file type; this module chooses among them. Where a block ends depends only on the
file, so the result does not depend on the process that reads it. docs/reading.md lists the file types.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from bulletlm.data.readers import documents as document_parts
from bulletlm.data.readers import isolated, parquet, questions, rows, subtitles, tables, text, whatsapp, wiki
from bulletlm.data.readers.isolated import DocumentProcess
from bulletlm.data.readers.opened import DAMAGE, explain, find_encoding
from bulletlm.data.readers.raw import BadRow, Block, Listener, NoColumnError, RawDocument, ignore
from bulletlm.data.sources import SourceFile
from bulletlm.errors import DataError

__all__ = ["BadRow", "Block", "DocumentProcess", "RawDocument", "blocks", "documents", "read_documents"]

_TEXT_READERS: dict[str, Callable[[SourceFile, str, Listener], Iterator[Block | BadRow]]] = {
    ".txt": text.blocks,
    ".jsonl": rows.line_documents_blocks,
    ".json": rows.json_blocks,
    ".tsv": tables.blocks,
    ".csv": tables.blocks,
    ".srt": subtitles.blocks,
    ".wiki": wiki.extracted_blocks,
    ".xml": wiki.dump_blocks,
}
"""File type of text files -> the function that reads blocks, given the encoding."""

_OTHER_READERS: dict[str, Callable[[SourceFile, Listener], Iterator[Block | BadRow]]] = {
    ".parquet": parquet.blocks,
    ".arrow": parquet.blocks,
}

DOCUMENT_KINDS = (".docx", ".pdf", ".epub", ".html", ".md")

_DOCUMENTS: dict[str, Callable[[Block, int], Iterator[RawDocument | BadRow]]] = {
    ".txt": text.documents,
    ".jsonl": rows.documents,
    ".json": rows.documents,
    ".tsv": tables.documents,
    ".csv": tables.documents,
    ".parquet": parquet.documents,
    ".arrow": parquet.documents,
    ".srt": subtitles.documents,
    ".wiki": wiki.extracted_documents,
    ".xml": wiki.dump_documents,
    "whatsapp": whatsapp.documents,
    "questions": questions.documents,
    **dict.fromkeys(DOCUMENT_KINDS, document_parts.documents),
}
"""File type -> the function that reads the documents of a block."""


def read_documents(
    file: SourceFile, seed: int, advance: Callable[[int], None], note: Callable[[str], None], taken_for: Callable[[str], None] = ignore
) -> Iterator[RawDocument | BadRow]:
    """Read the documents of a file in order, and the lines that are not documents: `documents` of each of its `blocks`."""
    for block in blocks(file, advance, note, taken_for):
        if isinstance(block, BadRow):
            yield block
        else:
            yield from documents(block, seed)


def blocks(
    file: SourceFile,
    advance: Callable[[int], None],
    note: Callable[[str], None],
    taken_for: Callable[[str], None] = ignore,
    process: DocumentProcess | None = None,
) -> Iterator[Block | BadRow]:
    """Read the file in blocks of complete documents, and the lines that are too long.

    Args:
        advance: called with the number of bytes of the file that have been read.
        note: called with a message if the file is damaged; the text before the damage is kept.
        taken_for: called with the detected content of the file, such as "text in cp1252".
        process: the process for documents; without it, one is started for this file if needed.

    Raises:
        DataError: the file, named in the configuration itself, is damaged or does not have the type of its name.
    """
    passed = 0
    try:
        for block in _blocks(file, Listener(advance, note, taken_for), process):
            yield block
            passed = block.last if isinstance(block, Block) else block.line
    except DAMAGE as error:
        what = explain(error)
        if file.named:
            if isinstance(error, NoColumnError):
                raise DataError(f"{file.path}: {what}") from None
            where = f" after line {passed:,}" if passed else ""
            raise DataError(f"{file.path}: {what}{where}: replace the file or take it out of data.sources") from None
        note(f"{what}; used up to line {passed:,}" if passed else what)


def documents(block: Block, seed: int) -> Iterator[RawDocument | BadRow]:
    """Read the documents of a block in order, and the lines that are not documents.

    Args:
        seed: chooses the wording of translation requests.
    """
    return _DOCUMENTS[block.kind or block.file.kind](block, seed)


def _blocks(file: SourceFile, listener: Listener, process: DocumentProcess | None) -> Iterator[Block | BadRow]:
    if file.kind in DOCUMENT_KINDS:
        with contextlib.ExitStack() as stack:
            yield from isolated.blocks(file, listener, process or stack.enter_context(DocumentProcess()))
        return
    if file.kind in _OTHER_READERS:
        yield from _OTHER_READERS[file.kind](file, listener)
        return
    encoding = find_encoding(file)
    if encoding != "utf-8":
        report = listener.taken_for
        listener = replace(listener, taken_for=lambda what: report(f"{what} in {encoding}"))
    yield from _TEXT_READERS[file.kind](file, encoding, listener)
