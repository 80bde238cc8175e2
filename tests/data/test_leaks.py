"""Tests that copies of validation text in the training text are found, also changed copies, and that nothing else is removed."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bulletlm.config.schema import DataConfig
from bulletlm.data.leaks import Index, check_leaks, find_copies, load_index
from bulletlm.data.log import Log, characters_of
from bulletlm.data.prepare import remove_leaks
from bulletlm.data.store import DataJob
from bulletlm.data.train_val import Splits
from bulletlm.progress import SilentProgress
from bulletlm.text.documents import Document, to_line
from paths import SAMPLE_CORPUS

STORIES = (SAMPLE_CORPUS / "stories.mr.txt").read_text(encoding="utf-8").strip().split("\n\n")


def document(text: str) -> Document:
    return {"id": "0", "source": "a", "language": "mr", "text": text}


def talk(*contents: str) -> Document:
    messages = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    return {"id": "0", "source": "a", "language": "mr", "messages": messages}  # type: ignore[typeddict-item]


def found(validation: list[Document], *training: Document) -> list[tuple[int, int, bool]]:
    return find_copies(Index(validation), b"".join(map(to_line, training)))


LONG = max(STORIES[0].split("\n"), key=len)
OTHER = STORIES[20:40]


def test_unrelated_text_is_no_leak() -> None:
    assert found([document(story) for story in STORIES[:20]], *map(document, OTHER)) == []


@pytest.mark.parametrize(
    "disguised",
    [
        LONG,
        LONG.replace(".", " ! ").replace(",", ""),
        "“" + LONG.upper() + "”",
        OTHER[0].split("\n")[0] + " " + LONG + " " + OTHER[1].split("\n")[0],
        " ".join(LONG.split()[: 2 * len(LONG.split()) // 3]),
        " ".join(word if n != 15 else "वेगळा" for n, word in enumerate(LONG.split())),
    ],
    ids=["same", "punctuation", "case and quotes", "inside other text", "two thirds of it", "one word changed"],
)
def test_a_copied_passage_is_found(disguised: str) -> None:
    assert len(LONG.split()) >= 25
    validation = [document(STORIES[1]), document(STORIES[0])]
    assert [where[:2] for where in found(validation, document(OTHER[3]), document(OTHER[2] + "\n" + disguised))] == [
        (1, len(OTHER[2].split("\n")))
    ]
    assert found(validation, talk("हे वाच", disguised))[0][:2] == (0, 1)


def test_short_lines_are_language_and_together_a_copy() -> None:
    poem = ["पाऊस आला धावत", "छत्री माझी गेली", "वारा म्हणे मला", "चल भिजायला ये", "आई म्हणे थांब", "मी म्हटलं नको", "नाचत गेलो पुढे", "चिंब झालो सारे"]
    assert found([document("\n".join(poem))], document(poem[0]), document(poem[1])) == []
    changed = [*poem[:6], "उड्या मारत पुढे", poem[7]]
    assert found([document("\n".join(poem))], document("\n".join(changed))) == [(0, -1, False)]
    assert found([talk("धन्यवाद", "तुमचं स्वागत आहे")], talk("धन्यवाद", "स्वागत आहे")) == []


def test_the_check_tells_kinds_apart() -> None:
    index = Index([document(LONG)])
    words = LONG.split()
    near = " ".join([*words[:3], "निराळा", *words[4:]])
    for text, kinds in ((LONG, {"exact", "ngrams", "near"}), (near, {"ngrams", "near"}), (OTHER[0], set())):
        counts, rows = check_leaks(index, to_line(document(OTHER[5])) + to_line(document(text)))
        assert {kind for kind in ("exact", "ngrams", "near") if counts[kind]} == kinds
        assert rows == ([1] if kinds else [])
        assert counts["passages"] >= 1


def test_a_leak_is_taken_out_of_training_and_fails_nobody(tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_bytes(b"".join(to_line(document(story)) for story in STORIES[:5]))
    clean = b"".join(to_line(document(story)) for story in OTHER)
    (tmp_path / "train.jsonl").write_bytes(clean)
    passages = sum(story.count("\n") + 2 for story in OTHER)
    splits = Splits(rows=Counter({"a": 99}), characters=Counter({"a": 99_999}))
    log = Log()
    job = DataJob(config=DataConfig(), seed=1, files=[], folder=tmp_path, log=log, workers=1, progress=SilentProgress())
    found = remove_leaks(job, load_index(tmp_path / "val.jsonl"), "copy_of_validation", splits)
    assert found == {"passages": passages, "exact": 0, "ngrams": 0, "near": 0, "rows_taken_out": 0}
    leaking = document(OTHER[0] + "\n" + LONG)
    with open(tmp_path / "train.jsonl", "ab") as file:
        file.write(to_line(leaking) * 2)
    assert remove_leaks(job, load_index(tmp_path / "val.jsonl"), "copy_of_validation", splits)["rows_taken_out"] == 1
    assert (tmp_path / "train.jsonl").read_bytes() == clean
    assert log.characters["a"]["copy_of_validation"] == characters_of(leaking["text"]) == 99_999 - splits.characters["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.jsonl", "val.jsonl"]


def test_overlaps_are_counted_as_sets_would() -> None:
    """Compares the result with a simple implementation, on random texts with a small vocabulary."""
    rng = np.random.default_rng(4)
    vocabulary = [f"शब्द{n}" for n in range(6)]

    def text() -> str:
        return " ".join(vocabulary[n] for n in rng.integers(0, 6, int(rng.integers(5, 40))))

    def grams(line: str) -> set[tuple[str, ...]]:
        words = line.split()
        return {tuple(words[n : n + 8]) for n in range(len(words) - 7)}

    pool = [text() for _ in range(12)]
    validation = [pool[n % 12] + " " + text() for n in range(20)]
    training = [text() + " " + pool[n % 12] for n in range(60)]
    expected = {
        n
        for n, line in enumerate(training)
        for other in validation
        if (shared := len(grams(line) & grams(other))) >= 4 and 2 * shared >= min(len(grams(line)), len(grams(other)))
    }
    assert {where[0] for where in found([document(line) for line in validation], *map(document, training))} == expected
    assert 5 < len(expected) < 60, json.dumps(len(expected))


def test_a_song_of_few_words_is_taken_out_before_the_check_finds_it() -> None:
    """Of few different sequences, so that counting shared ones says nothing."""
    validation = [talk("गा", "टम टी टी " * 9)]
    training = talk("गाणे म्हण", "टम टी टी " * 11)
    assert found(validation, training) == [(0, 1, False)]
    assert check_leaks(Index(validation), to_line(training))[0]["near"] == 1


def test_test_texts_are_found_at_any_length_and_inside_other_text() -> None:
    """Compares with a search for the words as text."""
    tests = ["Go home.", "तू कुठे जातोस?", "I have never seen the sea.", "पाऊस आला की मोर नाचतो"]
    rows = [
        "go home",
        "They go home in the evening.",
        "तू कुठे जातोस",
        "Translate into Marathi: I have never seen the sea.",
        "I have never seen the seas.",
        "मोर आला की पाऊस नाचतो",
        "आई म्हणते, पाऊस आला की मोर नाचतो आणि गातो.",
        "seen the sea",
    ]
    index = Index([document(text) for text in tests], strict=True)
    copies = {row for row, _, _ in find_copies(index, b"".join(to_line(document(text)) for text in rows))}

    def words(text: str) -> str:
        return " " + " ".join("".join(c for c in text.lower() if c not in ".,?:").split()) + " "

    expected = {
        n
        for n, row in enumerate(rows)
        for text in tests
        if words(row) == words(text) or (len(words(text).split()) >= 4 and words(text) in words(row))
    }
    assert copies == expected == {0, 2, 3, 6}
