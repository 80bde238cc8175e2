"""Tests the checks of one answer, and what an answer has in common with the training text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.evaluate.checks import contains_answer, is_in_language, is_loop, shares_topic, stem
from bulletlm.evaluate.facts import choose_facts
from bulletlm.evaluate.prompts import Prompt
from bulletlm.evaluate.training_text import PASSAGE_WORDS, TrainingText, real_words
from bulletlm.evaluate.weight_checks import check_weights
from bulletlm.text.akshara import count_broken_letters
from bulletlm.text.documents import Document
from bulletlm.text.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("the cat sat on the mat and looked at the moon", False),
        ("no no no", False),
        ("हो हो हो हो हो हो", True),
        ("I am fine. I am fine. I am fine.", True),
        ("go home now. Then eat. go home now. Then sleep. go home now.", True),
        ("हाहाहाहाहाहाहाहाहाहाहाहा", True),
        ("", False),
    ],
)
def test_loops(text: str, loop: bool) -> None:
    assert is_loop(text) is loop


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5), st.integers(3, 6))
def test_every_repeated_sequence_is_a_loop(words: list[str], times: int) -> None:
    assert is_loop(" ".join(times * words)) or times * len(words) < 6


def test_languages() -> None:
    assert is_in_language("मी उद्या घरी येणार आहे.", "mr") and not is_in_language("I will come home.", "mr")
    assert is_in_language("I will come home.", "en") and not is_in_language("123 !?", "en")


@pytest.mark.parametrize(
    ("text", "broken"), [("नमस्कार, क्षण!", 0), ("ि", 1), ("का ी", 1), ("a\ufffdb", 1), ("क्\u200dष", 0), ("hello", 0), ("आी", 1)]
)
def test_broken_letters(text: str, broken: int) -> None:
    assert count_broken_letters(text) == broken


def test_topic() -> None:
    assert stem("परीक्षेला") == stem("परीक्षेचा")
    assert shares_topic("चहा घेणार का?", "नको, चहा नको.") is True
    assert shares_topic("चहा घेणार का?", "उद्या पाऊस पडेल.") is False
    assert shares_topic("चहा घेणार का?", "एक कप चालेल.", ("कप",)) is True
    assert shares_topic("का?", "हो") is None


def test_answers_of_facts() -> None:
    assert contains_answer("There are seven days.", "seven") and not contains_answer("There are six days.", "seven")
    assert contains_answer("It has 12 months", "12") and not contains_answer("It has 112 months", "12")
    assert contains_answer("Boil the water, then add sugar and milk", "Boil water with sugar and milk")


def test_copies_of_the_training_text() -> None:
    passage = "one two three four five six seven eight nine ten"
    text = TrainingText([f"before {passage} after", "short text here"])
    whole, part, none = text.copies([passage.upper() + "!", f"a b {passage[:23]} c d e f g h", "nothing of it stands there at all"])
    assert (whole.longest, whole.share) == (10, 1.0)
    assert part.longest == 5 and part.share == 0 and PASSAGE_WORDS > 5
    assert (none.longest, none.share) == (0, 0)
    assert text.unknown(["one", "eleven"]).tolist() == [False, True]
    assert real_words("Three 3 घरे, x2!") == ["three", "घरे", "x2"]


@given(st.lists(st.sampled_from("abcd"), min_size=4, max_size=30), st.lists(st.sampled_from("abcd"), min_size=4, max_size=30))
def test_longest_copy_by_search(train: list[str], answer: list[str]) -> None:
    def common(n: int) -> bool:
        runs = {tuple(train[i : i + n]) for i in range(len(train) - n + 1)}
        return any(tuple(answer[i : i + n]) in runs for i in range(len(answer) - n + 1))

    longest = max((n for n in range(4, len(answer) + 1) if common(n)), default=0)
    assert TrainingText([" ".join(train)]).copies([" ".join(answer)])[0].longest == longest


def test_facts(tiny_tokenizer: Tokenizer) -> None:
    prompts = [Prompt("How many days has a week?", "en", "x", answer="seven"), Prompt("Why?", "en", "x")]
    documents: list[Document] = [
        {"id": str(n), "source": "s", "language": "en", "messages": [
            {"role": "user", "content": f"What is thing {n}?"}, {"role": "assistant", "content": f"It is number {n}."}]}
        for n in range(90)
    ]  # fmt: skip
    facts = choose_facts(prompts, documents, tiny_tokenizer, 4096, 1)
    assert [fact.kind for fact in facts] == ["prompt", *["question"] * 50]
    assert (
        facts
        == choose_facts(prompts, documents[::-1], tiny_tokenizer, 4096, 1)
        != choose_facts(prompts, documents, tiny_tokenizer, 4096, 2)
    )
    assert facts[0].is_right("A week has seven days") and not facts[0].is_right("eight")
    text: Document = {"id": "t", "source": "s", "language": "en", "text": "The small bird sat in the old tree. No."}
    (fact,) = choose_facts([], [text], tiny_tokenizer, 4096, 1)
    assert (fact.question, fact.expected, fact.kind) == ("The small bird sat in the", "old tree.", "sentence")
    assert choose_facts([], [text], tiny_tokenizer, 8, 1) == []


def test_weights() -> None:
    exact = np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32)
    noisy = exact + 0.1 * np.random.default_rng(1).normal(size=exact.shape).astype(np.float32)
    found = check_weights(exact, noisy)
    assert found.scale is None and found.far_rows == 0 and found.relative_rmse == pytest.approx(0.1, rel=0.1)
    moved = exact.copy()
    moved[5] *= 0.4  # far, but still more like its own row than like any other
    assert check_weights(exact, moved).far_rows == 0
    moved[5] *= -1
    assert check_weights(exact, moved).far_rows == 1
    assert check_weights(exact, moved, trained=True).far_rows == 0  # QAT may move weights anywhere
    assert check_weights(exact, 2 * noisy).scale == pytest.approx(2, rel=0.05)
    noisy[[3, 30]] = noisy[[30, 3]]
    assert check_weights(exact, noisy).exchanged == [[3, 30]] and check_weights(exact, noisy).first_far == [3, 30]
    assert check_weights(exact, noisy, trained=True).exchanged == [[3, 30]]
