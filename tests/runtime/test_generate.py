"""Generation and streaming."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulletlm.errors import BulletError
from bulletlm.runtime import Model, Sampling, generate, stream_text
from bulletlm.runtime.generate import _shortened
from bulletlm.tokenizer import BOS, END, EOS, FIRST_BYTE

REAL_MARATHI = Path(__file__).parents[3] / "shared" / "data" / "quick" / "mr.txt"
GREEDY = Sampling(temperature=0, repetition_penalty=1, max_tokens=12)


def prompt(model: Model) -> list[int]:
    return [BOS, *model.tokenizer.encode("एका गावात एक")]


def test_greedy_generation_is_the_likeliest_path(model: Model) -> None:
    ids = prompt(model)
    for token in generate(model, ids, GREEDY, []):
        assert token == model.engine.score(np.array([ids]))[0, -1].argmax()
        ids = [*ids, token]
    assert len(ids) == len(prompt(model)) + 12


def test_the_seed_decides(model: Model) -> None:
    def text(seed: int) -> list[int]:
        return list(generate(model, prompt(model), Sampling(temperature=1.5, top_k=0, seed=seed, max_tokens=20), []))

    assert text(1) == text(1)
    assert len({tuple(text(seed)) for seed in range(5)}) == 5


def test_stop_tokens_end_it_and_are_not_given_out(model: Model) -> None:
    free = list(generate(model, prompt(model), GREEDY, []))
    stop = free[5]
    assert list(generate(model, prompt(model), GREEDY, {stop})) == free[: free.index(stop)]


def test_stop_tokens_are_not_penalised(model: Model) -> None:
    """A chat that has ended many turns still ends the next one."""
    rng = np.random.default_rng(0)
    while True:  # until the likeliest token is one that the prompt has already
        ids = rng.integers(0, model.shape.vocab_size, 24)
        best = int(model.engine.score(ids[None])[0, -1].argmax())
        if best in ids:
            break
    strong = Sampling(temperature=0, repetition_penalty=10, max_tokens=1)
    assert list(generate(model, ids.tolist(), strong, [])) != [best]
    assert list(generate(model, ids.tolist(), strong, [best])) == []


def test_an_empty_prompt(model: Model) -> None:
    with pytest.raises(BulletError, match="prompt is empty"):
        next(generate(model, [], GREEDY, []))


def test_generation_goes_on_when_the_context_is_full(model: Model) -> None:
    window = model.shape.max_seq_len
    sampling = Sampling(temperature=0, repetition_penalty=1, max_tokens=3 * window)
    ids = prompt(model)
    given_out = list(generate(model, ids, sampling, []))
    assert len(given_out) == 3 * window
    beginning = min(len(ids), window // 4)
    context = list(ids)
    for token in given_out:  # the documented rule, step by step, without a cache
        if len(context) > window:
            context = context[:beginning] + context[-((window - beginning) // 2) :]
        assert token == model.engine.score(np.array([context]))[0, -1].argmax()
        context.append(token)


def test_a_prompt_longer_than_the_context(model: Model) -> None:
    window = model.shape.max_seq_len
    ids = ([BOS, *model.tokenizer.encode("नदीला पूर आला की मुले शाळेत जाऊ शकत नसत ")] * 9)[: 3 * window]
    kept = ids[: window // 4] + ids[-((window - window // 4) // 2) :]
    assert next(generate(model, ids, GREEDY, [])) == model.engine.score(np.array([kept]))[0, -1].argmax()


@given(length=st.integers(1, 200), beginning=st.integers(0, 50), window=st.integers(1, 64))
def test_shortening(length: int, beginning: int, window: int) -> None:
    beginning = min(beginning, window // 4, length)
    context = list(range(length + window))
    short = _shortened(context, beginning, window)
    assert 1 <= len(short) <= window
    assert short[:beginning] == context[:beginning]
    assert short[-1] == context[-1] and short == sorted(set(short))


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


def check_stream(model: Model, ids: list[int]) -> None:
    text = model.tokenizer.decode(ids)
    parts = list(stream_text(model, iter(ids)))
    assert "".join(parts) == text
    assert all(parts)
    clusters, built = letters(text), ""
    ends = set()
    for cluster in clusters:
        built += cluster
        ends.add(len(built))
    at = 0
    for part in parts:
        at += len(part)
        assert at in ends, f"{part!r} ends inside a letter"


def test_streaming_marathi_cut_at_every_token(model: Model, marathi: list[str]) -> None:
    for line in marathi:
        ids = model.tokenizer.encode(line)
        for cut in range(len(ids) + 1):
            check_stream(model, ids[:cut])


def test_streaming_bytes(model: Model, marathi: list[str]) -> None:
    """The hardest case: every letter in byte tokens, so that each token is a third of a character."""
    for line in [*marathi, "र्‍य श्‍री क्‌ष 👩‍🚀 é e\u0301 — ok\r\n"]:
        ids = [FIRST_BYTE + byte for byte in line.encode()]
        whole = list(stream_text(model, ids))
        assert "".join(whole) == line
        for cut in range(len(ids) + 1):
            assert "".join(stream_text(model, ids[:cut])) == model.tokenizer.decode(ids[:cut])
        check_stream(model, ids)


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="कषतरय\u094d\u093e\u093f\u0902\u093c\u200c\u200da é\u0301\n", max_size=20))
def test_streaming_any_mix_of_signs(model: Model, text: str) -> None:
    check_stream(model, model.tokenizer.encode(text))
    check_stream(model, [FIRST_BYTE + byte for byte in text.encode()])


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 479), max_size=30))
def test_streaming_any_tokens(model: Model, ids: list[int]) -> None:
    assert "".join(stream_text(model, ids)) == model.tokenizer.decode(ids)


def test_a_letter_waits_for_the_next_one(model: Model) -> None:
    def bytes_of(text: str) -> list[int]:
        return [FIRST_BYTE + byte for byte in text.encode()]

    def stream(*tokens: int) -> list[str]:
        given_out: list[str] = []

        def source() -> Iterator[int]:
            for token in tokens:
                yield token
                seen.append("".join(given_out))

        seen: list[str] = []
        for part in stream_text(model, source()):
            given_out.append(part)
        return [*seen, "".join(given_out)]

    assert set(stream(*bytes_of("क्षि"))[:-1]) == {""}  # one letter of four characters
    assert stream(*bytes_of("ab"), EOS, *bytes_of("क"))[-3:] == ["a", "ab", "abक"]
    assert stream(END) == ["", ""]


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_MARATHI.exists(), reason="shared data is not here")
def test_streaming_real_marathi(model: Model) -> None:
    lines = [line for line in REAL_MARATHI.read_text(encoding="utf-8").splitlines() if line][:400]
    for line in lines:
        check_stream(model, model.tokenizer.encode(line))
