"""Reads Word documents, PDF, EPUB, HTML and Markdown files, which isolated.py parses in a separate process."""

import json
from collections.abc import Iterator

from bulletlm.data.readers.raw import BadRow, Block, RawDocument


def documents(block: Block, seed: int) -> Iterator[RawDocument | BadRow]:
    """Read a part of a document file as one document; most files have one part."""
    part = json.loads(block.data)
    yield RawDocument(block.file.name, block.first, block.file.language, [text for _, text in part], [page for page, _ in part])
