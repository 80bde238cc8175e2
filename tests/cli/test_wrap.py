"""Tests that wrapping keeps the text, never exceeds the terminal, and breaks lines only where it may."""

import unicodedata
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bulletlm.cli.wrap import WordWrapper, pad, split_letters, text_width

WORDS = st.sampled_from(
    ["नमस्कार", "श्री", "क्षमा", "a", "word", "extraordinarily", "मुलगी", "👨‍👩‍👧", "日本語", "कर्त्तव्यनिष्ठा", "e\u0301tude", "ऱ्हास"]
)
TEXTS = st.lists(st.one_of(WORDS, st.sampled_from([" ", "  ", "\n", "\n\n", "\u00a0", "\t", "- "])), max_size=40).map("".join)


def wrap(text: str, columns: int, sizes: list[int] | None = None) -> str:
    """Wrap a text that arrives in pieces of the given sizes, again and again."""
    wrapper, shown, at, turn = WordWrapper(lambda: columns), "", 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)] if sizes else len(text)
        shown += wrapper.feed(text[at : at + size])
        at, turn = at + size, turn + 1
    return shown + wrapper.finish()


def without_breaks(text: str) -> str:
    return "".join(text.split())


@given(TEXTS, st.integers(4, 40), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_any_text_in_any_pieces(text: str, columns: int, sizes: list[int]) -> None:
    shown = wrap(text, columns, sizes)
    assert without_breaks(shown) == without_breaks(text)
    assert shown == wrap(text, columns)
    widest = max((text_width(letter) for letter in split_letters(text)), default=0)
    assert all(text_width(line.replace("\t", "    ").rstrip(" ")) <= max(columns, widest + 1) for line in shown.split("\n"))
    for before, after in pairwise(shown):
        assert before != "\n" or not unicodedata.category(after).startswith("M"), "a mark has lost its letter"


@given(TEXTS)
def test_a_wide_terminal_changes_nothing(text: str) -> None:
    expected = "\n".join(line.replace("\t", "    ").rstrip(" \t") for line in text.split("\n"))
    assert "\n".join(line.rstrip(" ") for line in wrap(text, 10_000).split("\n")) == expected


def test_words_stay_whole() -> None:
    text = "एका गावात एक शेतकरी राहत होता आणि त्याची मुलगी हुशार होती"
    lines = wrap(text, 20).split("\n")
    assert len(lines) == 3
    assert [word for line in lines for word in line.split()] == text.split()
    assert all(text_width(line) > 8 for line in lines[:-1])


def test_a_word_longer_than_a_line_breaks_between_letters() -> None:
    lines = wrap("क्षत्रियकुलावतंस" * 3, 10).split("\n")
    assert "".join(lines) == "क्षत्रियकुलावतंस" * 3
    assert all(4 < text_width(line) <= 10 for line in lines[:-1])
    assert split_letters("नमस्ते क्ष") == ["न", "म", "स्ते", " ", "क्ष"]


def test_the_width_may_change_while_text_arrives() -> None:
    columns = 40
    wrapper = WordWrapper(lambda: columns)
    shown = wrapper.feed("one two three four five six seven eight ")
    columns = 12
    shown += wrapper.feed("nine ten eleven twelve thirteen") + wrapper.finish()
    assert max(map(len, shown.split("\n")[-3:])) <= 12


def test_widths() -> None:
    assert [text_width(text) for text in ("", "abc", "का", "कि", "कु", "क्ष", "日本", "e\u0301")] == [0, 3, 2, 2, 1, 2, 4, 1]
    assert pad("का", 4) == "का  " and pad("12", 4, left=True) == "  12" and pad("12345", 4) == "12345"
