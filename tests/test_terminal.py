"""Tests that `printable` removes everything that could control a terminal, and changes nothing else."""

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from bulletlm.terminal import printable, printable_json

UNSAFE_BIDI = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}


def is_unsafe(character: str) -> bool:
    """By Unicode's own tables: controls, lone surrogates, line and paragraph separators, explicit directions."""
    category = unicodedata.category(character)
    marks = character in "\u200e\u200f\u061c"
    return category in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(character) in UNSAFE_BIDI or marks


def test_every_character_of_unicode() -> None:
    for code in range(0x110000):
        character = chr(code)
        one_line, lines = printable(character), printable(character, lines=True)
        if not is_unsafe(character):
            assert one_line == lines == character
            continue
        assert not is_unsafe(one_line)
        assert lines == (character if character in "\n\t" else "\ufffd")
        assert one_line == (" " if character in "\n\t\r" else "\ufffd")


@given(st.text())
def test_json_keeps_the_value_and_shows_no_control_character(text: str) -> None:
    shown = printable_json({text: [text]})
    assert json.loads(shown) == {text: [text]}
    assert not any(is_unsafe(c) for c in shown if c != "\n")


@given(st.text(), st.integers(3, 20))
def test_limit(text: str, limit: int) -> None:
    assert len(printable(text, limit=limit)) <= limit
    if len(text) <= limit:
        assert printable(text, limit=limit) == printable(text)


def test_devanagari_with_joiners_stays() -> None:
    text = "क्\u200dष र्\u200dय श्री\u200cमान\nनवी ओळ\tटॅब"
    assert printable(text, lines=True) == text
