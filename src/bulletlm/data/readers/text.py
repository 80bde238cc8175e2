""".txt: an empty line separates documents, each line is a paragraph."""

from collections.abc import Iterator

from bulletlm.data.readers.lines import line_blocks, lines_of
from bulletlm.data.readers.raw import BadRow, Block, Listener, RawDocument
from bulletlm.data.sources import SourceFile

DOCUMENT_CHARACTERS = 8_000
"""Text that runs on without an empty line is cut after the paragraph that passes this size."""


def blocks(file: SourceFile, encoding: str, listener: Listener) -> Iterator[Block | BadRow]:
    """The text in blocks of whole documents, except where a document is very long."""
    listener.taken_for("text")
    yield from line_blocks(file, encoding, listener, border=b"\n\n")


def documents(block: Block, seed: int) -> Iterator[RawDocument | BadRow]:
    """The documents of a block."""
    file = block.file
    document, size = RawDocument(file.name, 1, file.language), 0
    for item in lines_of(block):
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
