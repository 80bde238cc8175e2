"""Tests that Devanagari combining marks are accepted only in valid positions."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from bulletlm.runtime import Model, Sampling, Session, load
from bulletlm.runtime.native import Unavailable, library
from bulletlm.text.akshara import ANYTHING, CONSONANT, IMPOSSIBLE, MARK, OTHER, VOWEL, VOWEL_SIGN, _rule_of, akshara_rules
from bulletlm.text.tokenizer import BOS, FIRST_BYTE, FIRST_PIECE, Tokenizer

SIGNS = "\u093e\u093f\u0940\u0941\u0942\u0943\u0947\u0948\u094b\u094c\u0902\u0901\u0903\u094d\u093c"


@pytest.mark.parametrize(
    ("text", "after", "end"),
    [
        ("क", 0, CONSONANT),
        ("कि", 0, VOWEL_SIGN),
        ("अं", 0, MARK),
        ("आ", 0, VOWEL),
        ("\u093e", CONSONANT, VOWEL_SIGN),
        ("\u0902", CONSONANT | VOWEL | VOWEL_SIGN | MARK, MARK),
        ("\u094dय", CONSONANT, CONSONANT),
        (" \u093e", IMPOSSIBLE, VOWEL_SIGN),
        ("क\u093e\u093f", IMPOSSIBLE, VOWEL_SIGN),
        ("the ", 0, OTHER),
        ("ज़", 0, CONSONANT),
    ],
)
def test_what_a_token_must_come_after_and_ends_in(text: str, after: int, end: int) -> None:
    assert _rule_of(text) == (after, end)


def test_real_text_is_allowed(tokenizer: Tokenizer, marathi: list[str]) -> None:
    after, ends = akshara_rules(tokenizer)
    assert after[FIRST_BYTE] == 0 and ends[FIRST_BYTE] == ANYTHING
    for line in marathi:
        before = OTHER
        for token in tokenizer.encode(line):
            assert after[token] == 0 or after[token] & before, tokenizer.decode([token])
            before = ends[token]


@pytest.mark.parametrize("engine", ["numpy", "native"])
def test_a_sign_never_stands_where_it_does_not_belong(bullet_path: Path, engine: str) -> None:
    if engine == "native":
        try:
            library()
        except Unavailable as error:
            pytest.skip(str(error))
    model = load(bullet_path, engine=engine)
    # A model that writes mostly signs and letters.
    wanted = [i for i in range(FIRST_PIECE, model.shape.vocab_size) if any(c in SIGNS + "कआ " for c in model.tokenizer.decode([i]))]
    bias = {**dict.fromkeys(range(FIRST_PIECE), -math.inf), **dict.fromkeys(wanted, 12.0)}  # no bytes, which may be anything
    free = Sampling(temperature=2, top_k=0, top_p=1, min_p=0, repetition_penalty=1, max_tokens=200, logit_bias=bias, seed=1)
    assert stray(text_of(model, free)) > 20
    for seed in range(3):
        assert stray(text_of(model, replace(free, whole_letters=True, seed=seed))) == 0
    model_says = [list(Session(model).generate([BOS, 300], replace(free, whole_letters=True), logprobs=n, stop_ids=())) for n in (None, 0)]
    assert [token.id for token in model_says[0]] == [token.id for token in model_says[1]]


def text_of(model: Model, sampling: Sampling) -> str:
    return "".join(token.text for token in Session(model).generate([BOS], sampling, stop_ids=()))


def stray(text: str) -> int:
    """Signs that stand behind no letter; written apart from the code under test."""
    return sum(
        sign in SIGNS[:10] and not ("\u0915" <= before <= "\u0939" or before == "\u093c")
        for before, sign in zip(" " + text, text, strict=False)
    )
