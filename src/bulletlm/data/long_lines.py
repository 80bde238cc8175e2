"""Splits lines that are too long for one paragraph: at sentence ends, or else at spaces."""

import re

_AFTER_SENTENCE = re.compile(r"(?:[.!?…][)\"”’'»\]]*(?=\s)|[।॥؟۔።៕][)\"”’'»\]]*|[。！？｡][」』）”’]*|(?<=\s)၊|။)\s*")
_AFTER_WORD = re.compile(r"[\s\u200b]+|[、，；：]")


def split_long(text: str, limit: int) -> list[str]:
    """Split a text into pieces of at most `limit` characters, at sentence ends, or at a space if no sentence ends before the limit.

    A piece without a sentence end or space stays longer than `limit`. Only white space at the split positions is removed.
    """
    pieces: list[str] = []
    start = 0
    while len(text) - start > limit:
        end = _last_border(text, start, limit)
        piece = text[start:end].strip()
        if piece:
            pieces.append(piece)
        start = end
    rest = text[start:].strip()
    return [*pieces, rest] if rest else pieces


def _last_border(text: str, start: int, limit: int) -> int:
    """End of the piece from `start`: after the last sentence, or else word, that fits; or after the first that does not fit."""
    for pattern in (_AFTER_SENTENCE, _AFTER_WORD):
        end = 0
        for found in pattern.finditer(text, start, min(start + limit + 200, len(text))):
            if len(text[start : found.end()].rstrip()) > limit:
                break
            end = found.end()
        if end > start:
            return end
    first = _AFTER_WORD.search(text, start + limit)
    return first.end() if first else len(text)
