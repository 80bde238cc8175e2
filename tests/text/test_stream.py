"""Tests that streamed text never contains part of a character."""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulletlm import evaluate
from bulletlm.runtime import TextStream
from bulletlm.text.tokenizer import END, EOS, FIRST_BYTE, Tokenizer
from paths import SHARED_DATA

PROMPTS = Path(evaluate.__file__).with_name("prompts.jsonl")
REAL_MARATHI = SHARED_DATA / "quick" / "mr.txt"


def letters(text: str) -> list[str]:
    """Extended grapheme clusters of Devanagari and Latin text, written apart from the code under test (UAX #29, GB9-GB9c)."""
    out: list[str] = []
    for character in text:
        extends = unicodedata.category(character)[0] == "M" or character in "\u200c\u200d"
        bare = out[-1].rstrip("\u200d") if out else ""
        conjunct = bare.endswith("\u094d") and "\u0904" <= character <= "\u0939" and not out[-1].endswith("\u200c")
        if out and (extends or conjunct):
            out[-1] += character
        else:
            out.append(character)
    return out


def stream(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    text = TextStream(tokenizer)
    return [*(text.add(token) for token in ids), text.finish()]


def check_stream(tokenizer: Tokenizer, ids: list[int]) -> None:
    text = tokenizer.decode(ids)
    parts = stream(tokenizer, ids)
    # bytes that are not a character yet are no text
    assert text.startswith("".join(parts)) and set(text[len("".join(parts)) :]) <= {"\ufffd"}
    text = "".join(parts)
    clusters, built = letters(text), ""
    ends = {0}
    for cluster in clusters:
        built += cluster
        ends.add(len(built))
    at = 0
    for part in parts:
        at += len(part)
        assert at in ends, f"{part!r} ends inside a letter"


def test_streaming_marathi_cut_at_every_token(tokenizer: Tokenizer, marathi: list[str]) -> None:
    for line in marathi:
        ids = tokenizer.encode(line)
        for cut in range(len(ids) + 1):
            check_stream(tokenizer, ids[:cut])


def test_streaming_bytes(tokenizer: Tokenizer, marathi: list[str]) -> None:
    """The hardest case: every letter in byte tokens, so that each token is a third of a character."""
    for line in [*marathi, "र्‍य श्‍री क्‌ष 👩‍🚀 é e\u0301 — ok\r\n"]:
        ids = [FIRST_BYTE + byte for byte in line.encode()]
        assert "".join(stream(tokenizer, ids)) == line
        for cut in range(len(ids) + 1):
            check_stream(tokenizer, ids[:cut])


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="कषतरय\u094d\u093e\u093f\u0902\u093c\u200c\u200da é\u0301\n", max_size=20))
def test_streaming_any_mix_of_signs(tokenizer: Tokenizer, text: str) -> None:
    check_stream(tokenizer, tokenizer.encode(text))
    check_stream(tokenizer, [FIRST_BYTE + byte for byte in text.encode()])


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 479), max_size=30))
def test_streaming_any_tokens(tokenizer: Tokenizer, ids: list[int]) -> None:
    text, whole = "".join(stream(tokenizer, ids)), tokenizer.decode(ids)
    assert whole.startswith(text) and set(whole[len(text) :]) <= {"\ufffd"}


def test_a_letter_waits_for_the_next_one(tokenizer: Tokenizer) -> None:
    def bytes_of(text: str) -> list[int]:
        return [FIRST_BYTE + byte for byte in text.encode()]

    def so_far(*tokens: int) -> list[str]:
        """Return the streamed text after each token, and at the end."""
        parts = stream(tokenizer, tokens)
        return ["".join(parts[: n + 1]) for n in range(len(parts))]

    assert set(so_far(*bytes_of("क्षि"))[:-1]) == {""}  # one letter of four characters
    assert so_far(*bytes_of("ab"), EOS, *bytes_of("क")) == ["", "a", "a", "a", "a", "ab", "abक"]
    assert so_far(END) == ["", ""]


def stopped_by(tokenizer: Tokenizer, text: str, stop: Sequence[str]) -> tuple[list[str], bool]:
    found = TextStream(tokenizer, stop)
    parts = []
    for byte in text.encode():
        parts.append(found.add(FIRST_BYTE + byte))
        if found.stopped:
            return parts, True
    return [*parts, found.finish()], False


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("one twi", ["two"], None),
        ("aab", ["ab"], "a"),
        ("aabaabc", ["aabc"], "aab"),
        ("line\n\nnext", ["\n\n"], "line"),
        ("कथा संपली. पुढे", ["संपली"], "कथा "),
        ("काका", ["ाक"], "क"),  # a stop string may begin inside a letter
        ("x", ["x"], ""),
        ("abc", ["abcd"], None),
        ("abc", [], None),
    ],
)
def test_stop_strings(tokenizer: Tokenizer, text: str, stop: list[str], expected: str | None) -> None:
    parts, stopped = stopped_by(tokenizer, text, stop)
    assert stopped == (expected is not None)
    assert "".join(parts) == (text if expected is None else expected)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet="abक\u093e\u094d", max_size=12), stop=st.lists(st.text(alphabet="abक\u093e", min_size=1, max_size=3), max_size=2)
)
def test_stop_strings_in_any_text(tokenizer: Tokenizer, text: str, stop: list[str]) -> None:
    parts, stopped = stopped_by(tokenizer, text, stop)
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    assert stopped == bool(ends)
    first = min(end for end, _ in ends) if ends else None
    expected = text if first is None else text[: min(start for end, start in ends if end == first)]
    assert "".join(parts) == expected
    if not stopped:
        check_stream(tokenizer, [FIRST_BYTE + byte for byte in text.encode()])


def test_every_prompt_of_evaluation(tokenizer: Tokenizer) -> None:
    rows = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    prompts = [row["prompt"] for row in rows if row["language"] == "mr"]
    assert len(prompts) >= 10
    for text in prompts:
        for ids in (tokenizer.encode(text), [FIRST_BYTE + byte for byte in text.encode()]):
            for cut in range(len(ids) + 1):
                check_stream(tokenizer, ids[:cut])


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_MARATHI.exists(), reason="../shared is absent")
def test_streaming_real_marathi(tokenizer: Tokenizer) -> None:
    lines = [line for line in REAL_MARATHI.read_text(encoding="utf-8").splitlines() if line][:400]
    for line in lines:
        check_stream(tokenizer, tokenizer.encode(line))
