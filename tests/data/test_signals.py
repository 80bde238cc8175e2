"""Tests the statistical quality filter: it removes junk and keeps verse and lists."""

import pytest

from bulletlm.config.schema import CleanConfig
from bulletlm.data.log import Log
from bulletlm.data.rules import Clean
from bulletlm.data.signals import Batch, judge, measure, repeated_characters, sign
from paths import SAMPLE_CORPUS


def document(text: str, language: str = "mr") -> Clean:
    paragraphs = text.split("\n")
    return Clean("a.txt", 1, language, "", paragraphs, list(range(1, len(paragraphs) + 1)))


def reasons(*documents: Clean, **settings: object) -> dict[str, int]:
    log = Log()
    judge(list(documents), CleanConfig(**{"preset": "web", "languages": ["mr", "en"], **settings}), log)  # type: ignore[arg-type]
    return dict(log.counts)


def test_measures() -> None:
    batch = Batch.of([document("आज १२ मुले आहेत !"), document("The cat, it sat. 3.5\nOn 1 mat", "en")])
    found = {name: values.tolist() for name, values in measure(batch).items()}
    assert found["words"] == [5, 8]
    assert found["letters"] == pytest.approx([10 / 13, 16 / 22])
    assert found["digits"] == pytest.approx([2 / 13, 3 / 22])
    assert found["letter_words"] == pytest.approx([3 / 5, 6 / 8])
    assert found["word_length"] == pytest.approx([13 / 5, 22 / 8])
    assert found["common_words"] == pytest.approx([1 / 4, 3 / 9]), "आहेत of आज १२ मुले आहेत; the, it, on"


def test_repeated_characters() -> None:
    texts = ["हाहाहाहाहाहाहाहाहाहाहाहा", "aaaaaaaaaaaaaaaaaaaaaaaa", "Boooooooo!", "साधा मजकूर आहे आणि तो तसाच राहतो", "x", ""]
    shares = repeated_characters(texts)
    assert shares[0] == pytest.approx(1) and shares[1] == pytest.approx(1)
    assert shares[2:].tolist() == [0, 0, 0, 0]


STORY = (SAMPLE_CORPUS / "explanations.mr.txt").read_text(encoding="utf-8").split("\n\n")
JUNK = {
    "repeated_words": "आजच खरेदी करा आणि मोठी सूट मिळवा " * 12,
    "repeated_characters": "ओळ " + "खी" * 40,
    "many_digits": " ".join(f"क्र {n} रु {n * 7919} सन २०१५" for n in range(1000, 1030)),
    "few_letters": " ".join("अ) ... --- /// " for _ in range(30)),
    "few_letter_words": "आहे 1 2 3 " * 3 + " ".join(f"{n} {n + 1} नावाचीयादी" for n in range(40)),
    "short_words": " ".join("अ ब क ड आहे ई फ".split() * 10),
    "long_words": " ".join("अतिशयलांबचलांबशब्दजोडलेलाआहे" + "अआइईउऊएऐओऔ"[n % 10] for n in range(60)),
    "few_common_words": " ".join(f"खुर्ची{n} टेबल{n} कपाट{n}" for n in "अआइईउऊएऐओऔकखगघचछजझटठ"),
}


@pytest.mark.parametrize("rule", JUNK)
def test_each_kind_of_junk_goes(rule: str) -> None:
    loose = {"repeated_words": 1.0} if rule not in ("repeated_words",) else {}
    if rule == "many_digits":
        loose |= {"min_letters": 0, "min_letter_words": 0}
    if rule == "few_letter_words":
        loose |= {"max_digits": 1, "min_letters": 0}
    assert rule in reasons(document(JUNK[rule]), **loose)


def test_every_rule_can_be_switched_off() -> None:
    off = {
        "repeated_words": 1,
        "repeated_characters": 1,
        "max_digits": 1,
        "min_letters": 0,
        "min_letter_words": 0,
        "min_word_length": 0,
        "max_word_length": 1000,
        "min_common_words": 0,
    }
    assert reasons(*(document(text) for text in JUNK.values()), **off) == {}


def test_real_text_stays() -> None:
    assert reasons(*(document(text) for text in STORY)) == {}


def test_short_documents_and_conversations_are_not_judged_by_quality() -> None:
    talk = Clean("a", 1, "mr", "", messages=[{"role": "user", "content": "१२ + ३०?"}, {"role": "assistant", "content": "४२ " * 60}])
    assert "many_digits" not in reasons(talk, repeated_words=1, repeated_characters=1)
    assert reasons(document("१२३४ ५६७८")) == {}


def test_a_repetitive_paragraph_goes_and_the_rest_stays() -> None:
    log = Log()
    batch = judge([document(STORY[0] + "\n" + JUNK["repeated_words"])], CleanConfig(preset="web", languages=["mr", "en"]), log)
    assert batch.documents[0].text == STORY[0]
    assert log.counts == {"repeated_words": 1}


def test_both_directions_of_a_translation_are_not_alike() -> None:
    english, marathi = "the quick brown fox jumps over the lazy dog again and again " * 2, STORY[1].split("\n")[0]
    turns = [("user", english), ("assistant", marathi)], [("user", marathi), ("assistant", english)]
    talks = [Clean("a", 1, "mr", "", messages=[{"role": role, "content": text} for role, text in turn]) for turn in turns]
    whole, parts = sign(Batch.of([*talks, talks[0]]))
    assert len(whole) == 3 and len(parts) == 0
    assert not (whole["bands"][0] == whole["bands"][1]).any()
    assert (whole["bands"][0] == whole["bands"][2]).all()
