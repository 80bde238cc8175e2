"""Constraints on the next token, so that every Devanagari combining mark follows a letter that can carry it."""

from functools import lru_cache

from bulletlm.text.pieces import BYTE, NORMAL
from bulletlm.text.tokenizer import SPACE_MARK, Tokenizer

OTHER, CONSONANT, VOWEL, VOWEL_SIGN, MARK, IMPOSSIBLE = 1, 2, 4, 8, 16, 128
"""How a text ends, one bit each. IMPOSSIBLE: no text ends so, and a token that requires it is never chosen."""

ANYTHING = 127
"""The end of a token that is a single byte: it may be part of any character."""


def _classes() -> dict[str, tuple[int, int]]:
    """Devanagari character -> the classes it may follow (0: any) and its own class."""
    spans = (
        ([(0x0900, 0x0903), (0x0951, 0x0954)], CONSONANT | VOWEL | VOWEL_SIGN | MARK, MARK),  # anusvara and similar marks, accents
        ([(0x0904, 0x0914), (0x0950, 0x0950), (0x0960, 0x0961), (0x0972, 0x0977)], 0, VOWEL),
        ([(0x0915, 0x0939), (0x0958, 0x095F), (0x0978, 0x097F)], 0, CONSONANT),
        ([(0x093C, 0x093C)], CONSONANT, CONSONANT),  # nukta
        ([(0x093A, 0x093B), (0x093E, 0x094C), (0x094E, 0x094F), (0x0955, 0x0957), (0x0962, 0x0963)], CONSONANT, VOWEL_SIGN),
        ([(0x094D, 0x094D)], CONSONANT, MARK),  # virama
    )
    return {chr(code): (after, is_) for ranges, after, is_ in spans for a, b in ranges for code in range(a, b + 1)}


_CLASSES = _classes()


@lru_cache(maxsize=4)
def akshara_rules(tokenizer: Tokenizer) -> tuple[bytes, bytes]:
    """For each token, the classes it may follow as a bit set (0: any), and the class of its last character.

    A token that contains a stray combining mark may only follow IMPOSSIBLE.
    """
    after, ends = bytearray(), bytearray()
    for piece in tokenizer.pieces():
        if piece.type == NORMAL:
            needed, end = _rule_of(piece.text.replace(SPACE_MARK, " "))
        else:
            needed, end = 0, ANYTHING if piece.type == BYTE else OTHER
        after.append(needed)
        ends.append(end)
    return bytes(after), bytes(ends)


def _rule_of(text: str) -> tuple[int, int]:
    first, end = _CLASSES.get(text[0], (0, OTHER))
    for character in text[1:]:
        needed, is_ = _CLASSES.get(character, (0, OTHER))
        if needed and not needed & end:
            first = IMPOSSIBLE
        end = is_
    return first, end


def count_broken_letters(text: str) -> int:
    """Number of characters that are no part of a letter: U+FFFD (bytes that are no text), and Devanagari marks that no letter carries."""
    broken, before = text.count("\ufffd"), OTHER
    for character in text:
        if character in "\u200c\u200d":
            continue  # joiners stand between a virama and a letter
        needed, is_ = _CLASSES.get(character, (0, OTHER))
        broken += bool(needed) and not needed & before
        before = is_
    return broken
