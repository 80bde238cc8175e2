"""Exact repetitions, found by 64-bit hashes: a set of them takes about 90 bytes a paragraph, whatever its length."""

import hashlib

from bulletlm.data.clean import Clean, Log, Rejected

REPEAT_CHARACTERS = 30
"""Shorter lines ("Yes." "आणि मग?") may stand in many documents; longer ones are copies or boilerplate."""


def content_hash(*texts: str) -> int:
    """64 bits that tell contents apart, the same on every machine."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\0")
    return int.from_bytes(digest.digest(), "little")


def hash_of(document: Clean) -> int:
    """`content_hash` of a whole document or conversation."""
    if document.messages:
        return content_hash(*(part for message in document.messages for part in (message["role"], message["content"])))
    return content_hash(*document.paragraphs)


class Deduplicator:
    """Remembers what has been seen."""

    def __init__(self) -> None:
        self._paragraphs: set[int] = set()
        self._documents: set[int] = set()

    def is_new(self, document: Clean, log: Log) -> bool:
        """Take out of `document` the long paragraphs that an earlier document had; False where nothing new is left.

        A paragraph repeated inside one document, such as a refrain, stays.
        """
        if document.paragraphs:
            self._remove_repeated_paragraphs(document, log)
            if not document.paragraphs:
                return False
        key = hash_of(document)
        if key in self._documents:
            text = "\n".join(document.paragraphs or [message["content"] for message in document.messages])
            log.reject(Rejected(document.source, document.line, "repeated_document", text, document.rows))
            return False
        self._documents.add(key)
        return True

    def _remove_repeated_paragraphs(self, document: Clean, log: Log) -> None:
        kept: list[str] = []
        lines: list[int] = []
        own: set[int] = set()
        for line, paragraph in zip(document.lines, document.paragraphs, strict=True):
            if len(paragraph) >= REPEAT_CHARACTERS:
                key = content_hash(paragraph)
                if key in self._paragraphs:
                    log.reject(Rejected(document.source, line, "repeated_paragraph", paragraph))
                    continue
                own.add(key)
            kept.append(paragraph)
            lines.append(line)
        self._paragraphs |= own
        document.paragraphs, document.lines = kept, lines
