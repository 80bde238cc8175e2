"""The pieces (entries) of a vocabulary: piece types and special pieces."""

from typing import NamedTuple

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
PIECE_TYPES = (NORMAL, UNKNOWN, CONTROL, BYTE)
"""Piece types, numbered as in sentencepiece and ggml."""

SPECIAL_PIECES = {"<unk>": "unk", "<s>": "bos", "</s>": "eos", "<|user|>": "user", "<|assistant|>": "assistant", "<|end|>": "end"}
"""Text of a special piece -> its name in the header's tokenizer.special."""


class Piece(NamedTuple):
    """One entry of the vocabulary: text (space as U+2581), score (higher merges first), type."""

    text: str
    score: float
    type: int
