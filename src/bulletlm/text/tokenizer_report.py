"""The tokenizer report: how well a vocabulary fits the text of each language."""

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from bulletlm.text.pieces import NORMAL
from bulletlm.text.tokenizer import FIRST_BYTE, SPACE_MARK, Tokenizer


def tokenizer_report(tokenizer: Tokenizer, texts_by_language: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """How well the vocabulary fits each language.

    Per language: characters, bytes (UTF-8), words (split at white space), tokens, tokens_per_word, bytes_per_token,
    chars_per_token, share_starting_with_mark (tokens that begin with a combining sign, cut from its letter) and
    share_in_bytes (characters other than control characters that are not in the vocabulary).
    """
    import numpy as np

    pieces = tokenizer.pieces()
    starts_with_mark = np.array([p.type == NORMAL and unicodedata.category(p.text[0]).startswith("M") for p in pieces])
    # A character outside the vocabulary shows as its first byte; 0x80-0xBF are the bytes that follow.
    first_bytes = np.zeros(len(pieces), dtype=bool)
    first_bytes[[FIRST_BYTE + byte for byte in range(256) if byte >= 0xC2 or 0x20 <= byte < 0x7F]] = True
    languages = {}
    for language, texts in texts_by_language.items():
        characters = size = words = tokens = marks = in_bytes = 0
        for text in texts:
            ids = np.array(tokenizer.encode(text), dtype=np.int64)
            characters += len(text)
            size += len(text.encode())
            words += len(text.split())
            tokens += len(ids)
            marks += int(starts_with_mark[ids].sum())
            in_bytes += int(first_bytes[ids].sum())
        if tokens:
            languages[language] = {
                "characters": characters,
                "bytes": size,
                "words": words,
                "tokens": tokens,
                "tokens_per_word": round(tokens / max(words, 1), 4),
                "bytes_per_token": round(size / tokens, 4),
                "chars_per_token": round(characters / tokens, 4),
                "share_starting_with_mark": round(marks / tokens, 6),
                "share_in_bytes": round(in_bytes / characters, 6),
            }
    normal = [p.text for p in pieces if p.type == NORMAL]
    single = sum(len(text) == 1 for text in normal)
    return {
        "vocab_size": tokenizer.vocab_size,
        "pieces": {"special": FIRST_BYTE, "bytes": 256, "characters": single, "longer": len(normal) - single},
        "longest_pieces": [text.replace(SPACE_MARK, " ") for text in sorted(normal, key=lambda text: (-len(text), text))[:20]],
        "languages": languages,
    }
