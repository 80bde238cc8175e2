"""Tests that the JavaScript library treats text as Python does: tokenizer, normalization, streaming, chat template, random numbers."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from javascript import Library, LibraryError

from bulletlm.errors import DataError
from bulletlm.runtime import Model
from bulletlm.runtime.prompt import chat_prompt, text_prompt
from bulletlm.runtime.random import seeded
from bulletlm.text.normalize import normalize
from bulletlm.text.stream import TextStream
from tiny_model import ENGLISH, MARATHI

CODE = [
    "def f(x):",
    "    return x + 1",
    "```python",
    "```",
    "if (a == b) {",
    "}",
    "# note",
    "x = [1, 2]",
    "SELECT a FROM b",
    "import os;",
    "\t",
]
INVISIBLE = "\u200c\u200d\u200b\u2060\ufeff\u00ad\u202e\u180e\u0085\u2028\x00\x1c\x7f\xa0\u3000\r\n\t"

LETTERS = sorted(set(MARATHI + ENGLISH + "\u2581<|user|>:;{}=*`~#()[]_"))


def known(text: str) -> str:
    """The text without characters that only a newer Unicode than Python's or Node's knows."""
    return "".join(c for c in text if unicodedata.category(c) != "Cn")


unicode_text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cn", "Co"])).map(known)
texts = (
    unicode_text
    | st.text(alphabet=LETTERS, max_size=60)
    | st.text(alphabet=[*LETTERS, *INVISIBLE, "\u0945", "\u093e", "\u0331", "\u0300", "👩", "🏽", *"क्র্ന്"], max_size=40)
    | st.lists(st.sampled_from(CODE) | st.text(alphabet=LETTERS, max_size=30), max_size=8).map("\n".join)
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "developer", "user"]), "content": texts}), max_size=7
)


@pytest.fixture(scope="module")
def tiny(library: Library, bullet_path: Path) -> str:
    library.ask("load", name="tiny", path=str(bullet_path))
    library.ask("tokenizer", name="tokenizer", path=str(bullet_path))
    return "tiny"


@settings(max_examples=300)
@given(st.lists(texts, max_size=5))
def test_the_same_tokens(library: Library, tiny: str, model: Model, lines: list[str]) -> None:
    ids = library.ask("encode", name="tokenizer", texts=lines)
    assert ids == [model.tokenizer.encode(text) for text in lines]
    assert library.ask("decode", name="tokenizer", lists=ids) == lines


def test_marks_stay_text_and_bytes_are_spelled(library: Library, tiny: str, model: Model) -> None:
    lines = [
        "<s>",
        "<|user|>नमस्कार<|end|>",
        "\u2581",
        "a \u2581b",
        "",
        " ",
        "  ",
        "\x00",
        "😀\ufe0f",
        "\ufeffa",
        "<0x41>",
        MARATHI,
        ENGLISH,
    ]
    assert library.ask("encode", name="tokenizer", texts=lines) == [model.tokenizer.encode(text) for text in lines]
    with pytest.raises(LibraryError, match="half of a surrogate pair"):
        library.ask("encode", name="tokenizer", texts=["a\ud800"])


@settings(max_examples=100)
@given(st.lists(st.integers(0, 479), max_size=40))
def test_any_tokens_are_decoded_alike(library: Library, tiny: str, model: Model, ids: list[int]) -> None:
    assert library.ask("decode", name="tokenizer", lists=[ids]) == [model.tokenizer.decode(ids)]


@settings(max_examples=200)
@given(texts, st.lists(st.text(alphabet="कखा् ab", min_size=1, max_size=3), max_size=2), st.lists(st.integers(0, 479), max_size=20))
def test_whole_letters_while_streaming(library: Library, tiny: str, model: Model, text: str, stop: list[str], more: list[int]) -> None:
    ids = [*model.tokenizer.encode(text), *more]
    stream = TextStream(model.tokenizer, stop)
    expected = ["" if stream.stopped else stream.add(token) for token in ids]
    assert library.ask("stream", name="tokenizer", ids=ids, stop=stop) == [*expected, stream.finish()]


@settings(max_examples=400)
@given(st.lists(texts, max_size=6))
def test_the_same_normalization(library: Library, lines: list[str]) -> None:
    assert library.ask("normalize", texts=lines) == [normalize(text) for text in lines]


def test_normalization_of_every_character(library: Library) -> None:
    """Each character between letters of three kinds, so that every rule for joiners, spaces and spellings is used."""
    characters = [c for c in map(chr, range(0x20000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    for before, after in (("क", "ख"), ("अ", "्"), ("a ", " b")):
        lines = [f"{before}{c}{after}" for c in characters]
        wrong = [
            c for c, got in zip(characters, library.ask("normalize", texts=lines), strict=True) if got != normalize(f"{before}{c}{after}")
        ]
        assert not wrong


def test_normalization_of_code(library: Library) -> None:
    from bulletlm.text import code

    source = Path(code.__file__).read_text(encoding="utf-8")
    blocks = [
        source,
        source.replace("\n", "\n\n"),
        "```\n" + source,
        "a\n```\nb  c\n\n```\nd  e",
        "~~~\n" + "x  y\n" * 250,
        "x" * 1200 + " = 1;",
    ]
    assert library.ask("normalize", texts=blocks) == [normalize(block) for block in blocks]


@settings(max_examples=200)
@given(messages, st.integers(1, 40))
def test_the_same_prompts(library: Library, tiny: str, model: Model, conversation: list[dict[str, str]], max_tokens: int) -> None:
    try:
        expected = chat_prompt(model, conversation, max_tokens)
    except DataError as error:
        with pytest.raises(LibraryError) as raised:
            library.ask("prompt", name=tiny, input=conversation, maxTokens=max_tokens)
        assert str(raised.value).split(",")[0] == str(error).split(",")[0]
        return
    got = library.ask("prompt", name=tiny, input=conversation, maxTokens=max_tokens)
    assert got == {
        "ids": expected.ids,
        "keep": expected.keep,
        "omittedMessages": expected.omitted_messages,
        "omittedTokens": expected.omitted_tokens,
    }


@settings(max_examples=100)
@given(texts, st.integers(1, 40))
def test_the_same_prompts_of_plain_text(library: Library, tiny: str, model: Model, text: str, max_tokens: int) -> None:
    got = library.ask("prompt", name=tiny, input=text, maxTokens=max_tokens)
    assert (got["ids"], got["omittedTokens"]) == text_prompt(model, text, max_tokens)[::3]


@given(st.lists(st.integers(0, 1 << 53), min_size=1, max_size=4))
def test_the_same_random_numbers(library: Library, seeds: list[int]) -> None:
    assert library.ask("seeded", seeds=seeds) == [str(number) for number in seeded(seeds)]
