"""Tests the tokenizer on typical Indian text: digits, danda, white space, emoji, two languages in one line."""

import re

import pytest

from bulletlm.progress import SilentProgress
from bulletlm.text.pieces import BYTE, NORMAL
from bulletlm.text.tokenizer import FIRST_BYTE, Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer
from paths import SAMPLE_CORPUS


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Of the corpus that comes with the package."""
    texts = [line for path in sorted(SAMPLE_CORPUS.glob("*.txt")) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return Tokenizer(train_tokenizer(texts, 1500, 1, SilentProgress()))


def pieces_of(tokenizer: Tokenizer, text: str) -> list[str]:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    names = tokenizer.pieces()
    return [names[i].text for i in ids]


def learned(tokenizer: Tokenizer) -> list[str]:
    return [piece.text for piece in tokenizer.pieces() if piece.type == NORMAL]


@pytest.mark.parametrize("text", ["2026", "२०२६", "१,००,०००", "3.14159", "12:45:07", "₹५००"])
def test_every_digit_is_a_token(tokenizer: Tokenizer, text: str) -> None:
    assert pieces_of(tokenizer, text) == list(text)
    assert pieces_of(tokenizer, f"क {text}")[1:] == ["\u2581", *text], "also after a space"


def test_no_piece_holds_a_digit_and_something_else(tokenizer: Tokenizer) -> None:
    assert [piece for piece in learned(tokenizer) if len(piece) > 1 and re.search(r"\d", piece)] == []


def test_danda_stands_alone(tokenizer: Tokenizer) -> None:
    assert pieces_of(tokenizer, "हो। नाही।")[1::2] == ["।", "।"]
    assert pieces_of(tokenizer, "॥ १२ ॥") == ["॥", "\u2581", "१", "२", "\u2581", "॥"]
    assert [piece for piece in learned(tokenizer) if re.search("[।॥]", piece) and re.search("[\u0904-\u0963]", piece)] == []


def test_white_space_is_kept_as_it_is(tokenizer: Tokenizer) -> None:
    assert pieces_of(tokenizer, "a  b") == ["a", "\u2581", "\u2581b"] or pieces_of(tokenizer, "a  b") == ["a", "\u2581", "\u2581", "b"]
    assert pieces_of(tokenizer, "\n\t\r") == ["<0x0A>", "<0x09>", "<0x0D>"]
    for text in ("  two before", "two after  ", "\u00a0no break\u2009thin\u3000wide", " \n \n ", "\u200b\ufeff"):
        pieces_of(tokenizer, text)
    assert [piece for piece in learned(tokenizer) if "\u2581" in piece[1:]] == [], "a piece has a space at its beginning or none"


@pytest.mark.parametrize("emoji", ["🙏", "👍🏽", "👩‍👩‍👧‍👦", "🇮🇳", "❤️", "😀😀😀"])
def test_emoji_come_back_whole(tokenizer: Tokenizer, emoji: str) -> None:
    inside = pieces_of(tokenizer, f"ठीक{emoji}ok")
    assert inside[0].startswith("ठी") and "".join(inside).endswith("ok")
    alone = tokenizer.encode(emoji)
    kinds = {tokenizer.pieces()[i].type for i in alone}
    assert kinds <= {BYTE, NORMAL} and min(alone) >= FIRST_BYTE
    assert len(alone) <= len(emoji.encode())


def test_two_languages_in_one_line_are_cut_as_each_alone(tokenizer: Tokenizer) -> None:
    assert [piece for piece in learned(tokenizer) if re.search("[A-Za-z]", piece) and re.search("[\u0900-\u097f]", piece)] == []
    mixed = "आज मी morning walk ला गेलो आणि friends भेटले"
    one_by_one = [piece for n, word in enumerate(mixed.split(" ")) for piece in pieces_of(tokenizer, " " * bool(n) + word)]
    assert pieces_of(tokenizer, mixed) == one_by_one


@pytest.mark.parametrize("text", ["WhatsAppवर", "PDFची", "storyतून"])
def test_endings_on_foreign_words_begin_a_token(tokenizer: Tokenizer, text: str) -> None:
    latin = re.match("[A-Za-z]+", text)
    assert latin is not None
    lengths = [len(piece) for piece in pieces_of(tokenizer, text)]
    ends = {sum(lengths[:n]) for n in range(len(lengths) + 1)}
    assert latin.end() in ends
