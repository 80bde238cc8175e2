"""Tests the tokenizer: exact round trip for any text, whole Devanagari letters, reproducible bytes."""

import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bulletlm.errors import BulletError, ConfigError, DataError, FormatError
from bulletlm.progress import SilentProgress
from bulletlm.text.tokenizer import ASSISTANT, BOS, END, EOS, FIRST_BYTE, FIRST_PIECE, SPECIAL_TOKENS, UNK, USER, Tokenizer
from bulletlm.text.tokenizer_report import tokenizer_report
from bulletlm.text.train_tokenizer import model_of_pieces, train_tokenizer

MARATHI = """आज सकाळी लवकर उठून आम्ही शेतावर गेलो. आजोबा म्हणाले, पाऊस उद्या येईल.
विद्यार्थ्यांनी पुस्तके वाचली आणि शिक्षकांना प्रश्न विचारले. त्यांच्या प्रश्नांची उत्तरे सोपी नव्हती.
माझ्या आईने स्वयंपाकघरात पोळ्या केल्या. आम्ही सगळ्यांनी एकत्र बसून जेवण केले.
लक्ष्मीच्या दुकानात दररोज ताज्या भाज्या मिळतात. तिथे १२ ते १५ लोक रांगेत उभे होते.
दर्‍या आणि डोंगर ओलांडून वाऱ्याने ढग आणले. कृष्णा नदीला पूर आला.
मुलांनो, खोटे बोलू नका; सत्य बोलण्याचे धैर्य ठेवा. मित्र संकटात ओळखला जातो.
"""
ENGLISH = """We woke up early this morning and walked to the field. Grandfather said it would rain tomorrow.
The students read their books and asked the teacher questions. The answers were not easy.
My mother made bread in the kitchen. We all sat together and ate, and nobody wanted to leave.
Fresh vegetables come to the shop every day; between 12 and 15 people were waiting in the line.
"""
SIZE = 800


def train(texts: list[str], size: int = SIZE, seed: int = 1) -> bytes:
    return train_tokenizer(texts, size, seed, SilentProgress())


@pytest.fixture(scope="module")
def proto() -> bytes:
    return train([MARATHI, ENGLISH])


@pytest.fixture(scope="module")
def tokenizer(proto: bytes) -> Tokenizer:
    return Tokenizer(proto)


def texts() -> st.SearchStrategy[str]:
    """Any Unicode, with what is hard for a tokenizer mixed in."""
    hard = ["\u200d", "\u200c", "\0", "\u2581", "\u2585", "\u2047", " ", "  ", "\n", "\r\n", "\t", "\ufeff", "\ufffd", "\u0301"]
    hard += [
        "<|user|>",
        "<s>",
        "</s>",
        "<unk>",
        "<0x41>",
        "र्‍य",
        "क्ष्मी",
        "ज़",
        "ि",
        "्",
        "👩‍👩‍👧",
        "१२",
        "12",
        "।",
        "\U00020000",
        "\U000f0000",
    ]
    any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    devanagari = st.text(st.characters(min_codepoint=0x900, max_codepoint=0x97F), max_size=12)
    return st.lists(st.one_of(any_text, devanagari, st.sampled_from(hard), st.sampled_from((MARATHI + ENGLISH).split(" ")))).map("".join)


@settings(max_examples=400, deadline=None)
@given(texts())
@example("")
@example(" ")
@example("\u2581\u2581 \u2581a \u2581")
@example("  कर  ")
def test_every_text_comes_back_and_no_special_token_appears(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert all(FIRST_BYTE <= i < tokenizer.vocab_size for i in ids)


@settings(max_examples=50, deadline=None)
@given(st.lists(texts(), max_size=5))
def test_a_batch_is_the_same_as_one_by_one(tokenizer: Tokenizer, batch: list[str]) -> None:
    assert tokenizer.encode_batch(batch) == [tokenizer.encode(text) for text in batch]


def test_the_special_tokens_have_their_ids(tokenizer: Tokenizer) -> None:
    assert (UNK, BOS, EOS, USER, ASSISTANT, END) == (0, 1, 2, 3, 4, 5)
    pieces = tokenizer.pieces()
    assert [p.text for p in pieces[:6]] == list(SPECIAL_TOKENS)
    assert [p.type for p in pieces[:6]] == [2, 3, 3, 3, 3, 3]
    assert [(p.text, p.type) for p in pieces[6:FIRST_PIECE]] == [(f"<0x{b:02X}>", 6) for b in range(256)]
    assert {p.type for p in pieces[FIRST_PIECE:]} == {1}
    assert tokenizer.vocab_size == len(pieces) == SIZE
    assert len({p.text for p in pieces}) == SIZE
    scores = [p.score for p in pieces[FIRST_PIECE:]]
    assert scores == sorted(scores, reverse=True)
    assert tokenizer.decode([BOS, *tokenizer.encode("हो"), END, EOS]) == "हो"


def test_the_same_input_and_seed_give_the_same_bytes(proto: bytes) -> None:
    assert train([MARATHI, ENGLISH]) == proto
    assert train([ENGLISH, MARATHI]) == proto, "the order of the texts does not matter either"
    assert Tokenizer(proto).proto == proto


def test_sentencepiece_itself_reads_the_model_and_agrees(proto: bytes, tokenizer: Tokenizer) -> None:
    model = sentencepiece.SentencePieceProcessor(model_proto=proto)
    for line in (MARATHI + ENGLISH).splitlines():
        assert model.encode(line) == tokenizer.encode(line)
        assert model.decode(model.encode(line)) == line
    assert (model.unk_id(), model.bos_id(), model.eos_id(), model.pad_id()) == (0, 1, 2, -1)


def test_a_list_of_pieces_gives_the_model_back(proto: bytes, tokenizer: Tokenizer) -> None:
    assert model_of_pieces((piece.text, piece.score) for piece in tokenizer.pieces()[FIRST_PIECE:]) == proto


def test_pieces_do_not_begin_inside_a_devanagari_letter(tokenizer: Tokenizer) -> None:
    longer = [p.text for p in tokenizer.pieces() if p.type == 1 and len(p.text) > 1]
    assert [text for text in longer if unicodedata.category(text[0]).startswith("M")] == []
    assert any("\u0915" <= text[0] <= "\u0939" and "\u093e" <= text[1] <= "\u094d" for text in longer)
    report = tokenizer_report(tokenizer, {"mr": [MARATHI], "en": [ENGLISH], "xx": []})
    assert report["languages"]["mr"]["share_starting_with_mark"] < 0.05
    assert report["languages"]["en"]["share_starting_with_mark"] == 0
    assert set(report["languages"]) == {"mr", "en"}


def test_whole_letters_are_single_tokens(tokenizer: Tokenizer) -> None:
    """Common letters with their signs are joined wherever they stand, in the order a reader of the word would join them."""
    for letter in ("म्ह", "त्या", "च्या", "क्ष", "र्‍या"):
        ids = tokenizer.encode(letter)
        assert len(ids) == 1, [tokenizer.pieces()[i].text for i in ids]


def test_digits_stand_alone_and_newlines_are_one_token(tokenizer: Tokenizer) -> None:
    for text in ("2016", "२०१६", "12 15"):
        assert len(tokenizer.encode(text)) == len(text)
    assert tokenizer.encode("\n") == [FIRST_BYTE + 10]
    assert not [p for p in tokenizer.pieces()[FIRST_PIECE:] if len(p.text) > 1 and any(c.isdigit() for c in p.text)]
    assert not [p for p in tokenizer.pieces()[FIRST_PIECE:] if "\n" in p.text]


def test_the_report_counts_right(tokenizer: Tokenizer) -> None:
    text = "हो ok\n👍"
    report = tokenizer_report(tokenizer, {"x": [text]})
    row = report["languages"]["x"]
    assert (row["characters"], row["bytes"], row["words"]) == (len(text), len(text.encode()), 3)
    assert row["tokens"] == len(tokenizer.encode(text))
    assert row["share_in_bytes"] == pytest.approx(1 / 7, abs=1e-6), "the emoji; a newline is always a byte"
    assert report["pieces"]["characters"] + report["pieces"]["longer"] + FIRST_PIECE == SIZE


def test_the_largest_possible_size_is_named_and_right() -> None:
    texts = [MARATHI]
    with pytest.raises(ConfigError, match=r"take \d+ or less") as caught:
        train(texts, 4000)
    largest = int(str(caught.value).split("take ")[1].split()[0])
    assert Tokenizer(train(texts, largest)).vocab_size == largest
    with pytest.raises(ConfigError, match=r"take \d+ or less"):
        train(texts, largest + 50)
    assert train_tokenizer(texts, largest + 50, 0, SilentProgress(), at_most=True) == train_tokenizer(texts, largest, 0, SilentProgress())


@pytest.mark.parametrize("text", ["a", "a b", "\u2581", "\0\n\t", "你好 " * 50, "https://example.org/" + "x" * 5000, "\U00020000" * 3])
def test_odd_text_is_an_error_of_one_line_or_works(text: str) -> None:
    with pytest.raises(ConfigError, match=r"take \d+ or less, or add text"):
        train([text], 5000)


def test_no_text_is_an_error() -> None:
    for texts in ([], [""], ["\n\n"]):
        with pytest.raises(DataError, match="no text"):
            train(texts)


def test_a_tiny_vocabulary_still_holds_everything() -> None:
    tokenizer = Tokenizer(train([MARATHI, ENGLISH], 400))
    assert tokenizer.vocab_size == 400
    assert tokenizer.decode(tokenizer.encode(MARATHI)) == MARATHI
    with pytest.raises(ConfigError, match="too small"):
        train([MARATHI], 300)


def test_half_a_surrogate_pair_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="surrogate"):
        tokenizer.encode("a\ud800")


def test_other_files_are_refused(tmp_path: Path, proto: bytes) -> None:
    (tmp_path / "good").write_bytes(proto)
    (tmp_path / "bad").write_bytes(b"not a model")
    assert Tokenizer.load(tmp_path / "good").encode("हो") == Tokenizer(proto).encode("हो")
    with pytest.raises(FormatError, match="bad"):
        Tokenizer.load(tmp_path / "bad")
    with pytest.raises(BulletError, match="missing"):
        Tokenizer.load(tmp_path / "missing")
    with pytest.raises(FormatError):
        Tokenizer(proto[: len(proto) // 2])
    with pytest.raises(FormatError, match=r"piece 11 is .*, but must be '<0x05>'") as caught:
        Tokenizer(proto.replace(b"<0x05>", b"<0x\x065>"))
    assert str(caught.value).isprintable()


def test_a_large_corpus_is_sampled_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulletlm.text.train_tokenizer.SAMPLE_CHARACTERS", 500)
    lines = (MARATHI + ENGLISH).splitlines()
    protos = {seed: train(lines, 420, seed) for seed in (1, 2)}
    assert protos[1] != protos[2]
    assert train(lines[::-1], 420, 1) == protos[1]
