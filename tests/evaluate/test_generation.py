"""Tests that the same seed gives the same answers, and that the automatic checks count correctly."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.evaluate.generation import answer_prompts, distinct_2, longest_repeat, mean_checks, script_share
from bulletlm.evaluate.prompts import Prompt, load_prompts
from bulletlm.progress import SilentProgress
from bulletlm.runtime import generate, load
from bulletlm.runtime.sampling import Sampling
from bulletlm.text.chat import encode_prompt
from bulletlm.text.tokenizer import END, EOS

HOT = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, max_tokens=10, seed=0)


def test_answers(run_folder: Path) -> None:
    model = load(run_folder / "model.bullet")
    prompts = load_prompts()[:4]
    answers = answer_prompts(model, prompts, HOT, 7, SilentProgress())
    assert answers == answer_prompts(model, prompts, HOT, 7, SilentProgress())
    assert answers != answer_prompts(model, prompts, HOT, 8, SilentProgress())
    # An answer does not depend on what was asked before it.
    assert answers[2:] == answer_prompts(model, prompts[2:], HOT, 7, SilentProgress())
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = encode_prompt(model.tokenizer, [{"role": "user", "content": prompt.prompt}])
        same = list(generate(model, ids, replace(HOT, seed=7), {END, EOS}))
        assert model.tokenizer.decode(same) == answer.text
        assert answer.ended == (len(same) < 10)


def test_prompt_longer_than_the_context(run_folder: Path) -> None:
    model = load(run_folder / "model.bullet")
    answers = answer_prompts(model, [Prompt("शब्द " * 500, "mr", "x")], HOT, 1, SilentProgress())
    assert answers[0].tokens > 0


def test_distinct_2() -> None:
    assert distinct_2("") is None
    assert distinct_2("one") is None
    assert distinct_2("a b c") == 1
    assert distinct_2("a b a b a") == 0.5


@pytest.mark.parametrize(
    ("text", "words"),
    [("", 0), ("a b c", 0), ("a b a", 1), ("a a a a", 3), ("x a b c y a b c z", 3), ("घर हे घर हे घर", 3)],
)
def test_longest_repeat(text: str, words: int) -> None:
    assert longest_repeat(text) == words


@given(st.lists(st.sampled_from("abc"), max_size=14))
def test_longest_repeat_by_search(words: list[str]) -> None:
    def occurs_twice(n: int) -> bool:
        runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        return len(set(runs)) < len(runs)

    assert longest_repeat(" ".join(words)) == max((n for n in range(1, len(words)) if occurs_twice(n)), default=0)


def test_script_share() -> None:
    assert script_share("नमस्कार, १२३! क्\u200dष", "mr") == 1
    assert script_share("hello", "mr") == 0
    assert script_share("कab", "en") == pytest.approx(2 / 3)
    assert script_share("123 !?", "en") is None
    assert script_share("", "mr") is None
    assert script_share("hello", "tlh") is None


def test_mean_checks(run_folder: Path) -> None:
    answers = answer_prompts(load(run_folder / "model.bullet"), load_prompts()[:3], HOT, 7, SilentProgress())
    means = mean_checks(answers)
    assert means["tokens"] == sum(answer.tokens for answer in answers) / 3
    assert mean_checks([]) == dict.fromkeys(means)
