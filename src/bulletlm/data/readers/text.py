"""Reads .txt files: paragraphs, grouped into documents by the structure of the file (bulletlm.data.structure)."""

from collections.abc import Iterator
from functools import partial

from bulletlm.data.encodings import LEGACY_FONT, is_legacy_file
from bulletlm.data.readers import questions, whatsapp, wiki
from bulletlm.data.readers.lines import line_blocks, lines_of
from bulletlm.data.readers.opened import beginning_as_text
from bulletlm.data.readers.raw import BadRow, Block, Listener, NotReadError, RawDocument
from bulletlm.data.sources import SourceFile
from bulletlm.data.structure import Dropped, Structure, TextDocument, begins_document, choose_structure, split_documents

_BORDERS = {"form_feed": b"\f"}
"""The bytes that end a block; an empty line by default."""


def blocks(file: SourceFile, encoding: str, listener: Listener) -> Iterator[Block | BadRow]:
    """Read the text in blocks of complete documents, unless a document is longer than a block."""
    sample = beginning_as_text(file, encoding)
    if is_legacy_file(sample.split("\n")):
        raise NotReadError(LEGACY_FONT)
    if whatsapp.recognize(sample):
        yield from whatsapp.blocks(file, encoding, listener)
        return
    labels = questions.recognize(sample)
    if labels is not None:
        yield from questions.blocks(file, encoding, listener, labels)
        return
    if sample.startswith("<doc "):
        yield from wiki.extracted_blocks(file, encoding, listener)
        return
    structure = choose_structure(sample.split("\n"), file.documents)
    listener.taken_for(f"text, {structure.describe()}" if structure.chosen or structure.width or structure.gutenberg else "text")
    border = partial(_last_heading, structure) if structure.documents == "heading" else _BORDERS.get(structure.documents, b"\n\n")
    parts = 0
    for block in line_blocks(file, encoding, listener, border=border, plan=structure):
        parts += isinstance(block, Block)
        if parts == 2 and structure.documents == "file":
            listener.taken_for(f"text, {structure.describe()}, cut at empty lines into parts of about a megabyte")
        yield block


def _last_heading(structure: Structure, data: bytes) -> int:
    """The position of the last heading in complete lines, which begins a document; 0 if there is none after the first line."""
    end = data.rfind(b"\n")
    while end > 0:
        begin = data.rfind(b"\n", 0, end) + 1
        line, before = data[begin:end].decode("utf-8", "replace"), data[data.rfind(b"\n", 0, max(begin - 1, 0)) + 1 : begin]
        if begin and begins_document(line, not before.isspace(), structure):
            return begin
        end = begin - 1
    return 0


def documents(block: Block, seed: int) -> Iterator[RawDocument | BadRow]:
    """The documents of a block; lines that cannot be decoded come first."""
    lines = list[tuple[int, str]]()
    for item in lines_of(block):
        if isinstance(item, BadRow):
            yield item
        else:
            lines.append(item)
    for document in split_documents(lines, block.plan):
        yield _raw(block.file, document)


def _raw(file: SourceFile, item: TextDocument | Dropped) -> RawDocument | BadRow:
    if isinstance(item, Dropped):
        return BadRow(file.name, item.line, item.reason, item.text)
    return RawDocument(file.name, item.line, file.language, item.paragraphs, item.lines, changed=item.changed)
