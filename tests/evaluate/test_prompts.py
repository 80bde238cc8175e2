"""Tests that the packaged prompts agree with docs/evaluation.md, and that a bad file gives one clear line."""

import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from bulletlm.errors import DataError
from bulletlm.evaluate.prompts import Prompt, choose_samples, load_prompts
from paths import SAMPLE_CORPUS


def test_packaged_list() -> None:
    prompts = load_prompts()
    assert Counter(prompt.kind for prompt in prompts) == {"short": 20, "long": 10, "translation": 10}
    by_kind = Counter((prompt.kind, prompt.language) for prompt in prompts)
    assert by_kind["short", "mr"] == 10
    assert by_kind["translation", "mr"] == by_kind["translation", "en"] == 5
    assert {prompt.language for prompt in prompts if prompt.kind == "long"} == {"mr", "en"}
    assert len({prompt.prompt for prompt in prompts}) == 40
    for prompt in prompts:
        assert prompt.prompt == unicodedata.normalize("NFC", prompt.prompt).strip()
        in_marathi = any("\u0900" <= c <= "\u097f" for c in prompt.prompt)
        assert in_marathi == ((prompt.language == "mr") != (prompt.kind == "translation"))
        assert (prompt.reference is not None) == (prompt.kind == "translation") and prompt.words is not None
        assert bool(prompt.about) == (prompt.kind == "short")
        for text in (*prompt.about, prompt.reference or ""):
            assert text == unicodedata.normalize("NFC", text).strip()
    assert max(len(p.prompt) for p in prompts if p.kind == "short") < min(len(p.prompt) for p in prompts if p.kind == "long")


def test_prompts_are_not_in_the_corpus() -> None:
    """The embedded corpus must not contain the evaluation prompts."""
    corpus = "".join(path.read_text(encoding="utf-8") for path in SAMPLE_CORPUS.iterdir())
    for prompt in load_prompts():
        text = prompt.prompt.removeprefix("Translate into Marathi: ").removeprefix("Translate into English: ")
        assert text not in corpus and (prompt.reference is None or prompt.reference not in corpus)


def test_samples_are_two_and_two() -> None:
    prompts = load_prompts()
    both = ("mr", "en")
    shown = [prompts[i] for i in choose_samples(prompts, 4, both)]
    assert [(p.language, p.kind) for p in shown] == [("mr", "short"), ("en", "short"), ("mr", "short"), ("en", "short")]
    assert len({p.prompt for p in shown}) == 4
    assert choose_samples(prompts, 0, both) == []
    assert sorted(choose_samples(prompts, 1000, both)) == list(range(40))
    assert choose_samples([Prompt("a", "mr", "x")], 4, both) == [0]


@pytest.mark.parametrize("language", ["mr", "en"])
def test_a_model_of_one_language_shows_answers_in_that_language(language: str) -> None:
    prompts = load_prompts()
    shown = choose_samples(prompts, 1000, [language, "hi"])
    assert shown == [n for n, prompt in enumerate(prompts) if prompt.language == language]


def test_a_model_of_a_language_without_prompts_shows_the_others() -> None:
    prompts = load_prompts()
    assert choose_samples(prompts, 4, ["hi"]) == choose_samples(prompts, 4, ["mr", "en"])


def test_own_file(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    path.write_text('\ufeff{"prompt": "अ", "language": "mr", "kind": "x"}\r\n\n', encoding="utf-8")
    assert load_prompts(path) == [Prompt("अ", "mr", "x")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has no prompts"),
        (b'{"prompt": "a", "language": "mr", "kind": "x"}\nnot json', "line 2 is not JSON"),
        (b"[" * 100_000, "line 1 is not JSON"),
        (b'["prompt"]', "line 1 must have exactly the keys"),
        (b'{"prompt": "a", "language": "mr"}', "line 1 must have exactly the keys"),
        (b'{"prompt": 3, "language": "mr", "kind": "x"}', "line 1: prompt must be a string"),
        (b'{"prompt": " ", "language": "mr", "kind": "x"}', "line 1: prompt must be a string"),
        (b'{"prompt": "\\ud800", "language": "mr", "kind": "x"}', "line 1: prompt contains a lone surrogate"),
        (b"\xff\xfe", "it is not UTF-8 text"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_prompts(path)
    assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No such file.*evaluate\.prompts"):
        load_prompts(tmp_path / "none.jsonl")
