"""Tests what counts as validation text inside the training text: copies and excerpts do; names, formulas and template words do not."""

import json
from pathlib import Path

import numpy as np
import pytest

from bulletlm.config.schema import DataConfig
from bulletlm.data.leaks import RUN_WORDS, Index, check_leaks
from bulletlm.data.prepare import prepare_data
from bulletlm.data.tokens import open_tokens, write_tokens
from bulletlm.evaluate.contamination import find_contamination
from bulletlm.evaluate.report_types import ContaminationValues
from bulletlm.progress import SilentProgress
from bulletlm.text.chat import encode_documents
from bulletlm.text.documents import Document, read_documents, to_line
from bulletlm.text.tokenizer import Tokenizer
from paths import SAMPLE_CORPUS, SHARED_DATA

STORIES = (SAMPLE_CORPUS / "stories.mr.txt").read_text(encoding="utf-8").strip().split("\n\n")
PARAGRAPHS = [paragraph for story in STORIES for paragraph in story.split("\n") if len(paragraph.split()) >= 25]
FORMULA = (
    "हे खरे आहे काय, असल्यास, याप्रकरणी शासनाने चौकशी केली आहे काय, चौकशीत काय आढळून आले व त्यानुसार शासनाने कोणती कारवाई केली "
    "वा करण्यात येत आहे, नसल्यास, विलंबाची कारणे काय आहेत ?"
)


def text(content: str) -> Document:
    return {"id": "0", "source": "a", "language": "mr", "text": content}


def talk(question: str, answer: str) -> Document:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": "0", "source": "a", "language": "mr", "messages": messages}  # type: ignore[typeddict-item]


def measure(tokenizer: Tokenizer, train: list[Document], val: list[Document]) -> ContaminationValues:
    streams = [np.array([token for ids, _ in encode_documents(tokenizer, rows) for token in ids], dtype="<u2") for rows in (train, val)]
    return find_contamination(streams[0], streams[1], tokenizer)


def leaks(train: list[Document], val: list[Document]) -> int:
    counts, _ = check_leaks(Index(val), b"".join(map(to_line, train)))
    return counts["exact"] + counts["ngrams"] + counts["near"]


def official(paragraph: str) -> Document:
    """A long question to a ministry: its own matter, then the formula of all such questions."""
    return text(f"{paragraph} {paragraph[::-1]} {FORMULA}")


NOT_COPIES = {
    "formula": ([official(p) for p in PARAGRAPHS[:12]], [official(p) for p in PARAGRAPHS[12:16]]),
    "name": (
        [text(f"{p} युरोपियन युनियन/युरोपियन आर्थिक क्षेत्रातील") for p in PARAGRAPHS[:6]],
        [text(f"युरोपियन युनियन/युरोपियन आर्थिक क्षेत्रातील {p}") for p in PARAGRAPHS[6:9]],
    ),
    "template": (
        [talk("What does this mean in English? " + p, q) for p, q in zip(PARAGRAPHS[:6], PARAGRAPHS[6:12], strict=True)],
        [talk("What does this mean in English? " + p, q) for p, q in zip(PARAGRAPHS[12:15], PARAGRAPHS[15:18], strict=True)],
    ),
    "address": (
        [text(f"https://example.com/a?b=c&d=e {p}") for p in PARAGRAPHS[:6]],
        [text(f"{p} https://example.com/a?b=c&d=e") for p in PARAGRAPHS[6:9]],
    ),
}


@pytest.mark.parametrize("name", NOT_COPIES)
def test_what_comes_back_in_every_text_is_no_copy(tokenizer: Tokenizer, name: str) -> None:
    train, val = NOT_COPIES[name]
    found = measure(tokenizer, train, val)
    assert found["phrases"] > 0.02 and found["share"] == found["removable"] == 0
    assert leaks(train, val) == 0


LONG = max(PARAGRAPHS, key=len)
COPIES = {
    "same": LONG,
    "punctuation": LONG.replace(".", " ! ").replace(",", ""),
    "inside other text": f"{PARAGRAPHS[3]} {LONG}",
    "two thirds": " ".join(LONG.split()[: 2 * len(LONG.split()) // 3]),
    "one word changed": " ".join(word if n != 15 else "वेगळा" for n, word in enumerate(LONG.split())),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_that_the_data_stage_removes_are_measured(tokenizer: Tokenizer, name: str) -> None:
    others = [text(p) for p in PARAGRAPHS if p != LONG]
    val, train = [others[0], text(LONG), others[1]], [*others[4:10], text(f"{PARAGRAPHS[2]}\n{COPIES[name]}"), *others[10:12]]
    found = measure(tokenizer, train, val)
    words = [len(document["text"].split()) for document in val]
    assert leaks(train, val)
    assert found["share"] == found["removable"] == pytest.approx(words[1] / sum(words), rel=0.45)
    assert measure(tokenizer, [row for row in train if "\n" not in row["text"]], val)["share"] == 0


def test_messages_of_a_copied_conversation(tokenizer: Tokenizer) -> None:
    rows = [talk(question, answer) for question, answer in zip(PARAGRAPHS[:10], PARAGRAPHS[10:20], strict=True)]
    found = measure(tokenizer, rows, rows[2:4])
    assert found["share"] == found["removable"] == found["phrases"] == 1 and found["sequence"] == 24
    other = talk(PARAGRAPHS[21], rows[2]["messages"][1]["content"])
    assert 0 < measure(tokenizer, [*rows[5:], other], rows[2:4])["share"] < 0.5


def test_an_excerpt_counts_although_the_data_stage_keeps_it(tokenizer: Tokenizer) -> None:
    """A quarter of a long passage is no copy for the leak check; preparing the text again would not remove it."""
    quoted = " ".join(PARAGRAPHS[0:6]).split()
    quoted = quoted[: RUN_WORDS + 20]
    val = [text(" ".join([*" ".join(PARAGRAPHS[10:18]).split(), *quoted]))]
    train = [text(" ".join([*quoted, *" ".join(PARAGRAPHS[18:26]).split()]))]
    assert not leaks(train, val)
    found = measure(tokenizer, train, val)
    assert found["removable"] == 0 and found["share"] == pytest.approx(len(quoted) / len(val[0]["text"].split()), rel=0.1)
    shorter = [text(" ".join([*quoted[: RUN_WORDS - 5], *" ".join(PARAGRAPHS[18:26]).split()]))]
    assert measure(tokenizer, shorter, val)["share"] == 0


def test_streams_without_text_in_common(tokenizer: Tokenizer) -> None:
    val = [text(PARAGRAPHS[0])]
    assert measure(tokenizer, [text(PARAGRAPHS[1])], val)["phrases"] == 0
    assert measure(tokenizer, [text(PARAGRAPHS[0][:9])], val)["share"] == measure(tokenizer, val, [text("नमस्कार")])["share"] == 0
    assert find_contamination(np.zeros(0, "<u2"), np.zeros(0, "<u2"), tokenizer)["share"] == 0
    streamed = np.array(tokenizer.encode(LONG), dtype="<u2")  # other programs may write no marks between documents
    assert find_contamination(streamed, streamed, tokenizer)["share"] == 1


@pytest.mark.parametrize("duplicates", [True, False])
def test_the_report_agrees_with_the_data_stage(tokenizer: Tokenizer, tmp_path: Path, duplicates: bool) -> None:
    """Official questions, conversations, stories and copies of them, as users have them: what the data stage leaves is no leak."""
    files = [SAMPLE_CORPUS / "stories.mr.txt", SAMPLE_CORPUS / "thoughts.en.txt"]
    if SHARED_DATA.is_dir():
        files += [SHARED_DATA.parent / "cases" / "whatsapp.txt", SHARED_DATA / "mono" / "mr-misc.txt"]
    for number, file in enumerate(files):
        (tmp_path / f"{number}.txt").write_text(file.read_text(encoding="utf-8")[:60_000], encoding="utf-8")
        (tmp_path / f"{number} (copy).txt").write_text(file.read_text(encoding="utf-8")[10_000:50_000], encoding="utf-8")
    (tmp_path / "questions.txt").write_text("\n\n".join(official(p)["text"] for p in PARAGRAPHS[:30]), encoding="utf-8")
    clean = {"duplicates": duplicates, "near_duplicates": 0.8 if duplicates else 0}
    config = DataConfig.model_validate({"sources": [{"path": str(tmp_path / "*.txt")}], "val_tokens": 4000, "clean": clean, "workers": 1})
    data = tmp_path / "run" / "data"
    report = prepare_data(config, 1, data, SilentProgress())
    assert report["leaks"]["exact"] == report["leaks"]["ngrams"] == report["leaks"]["near"] == 0
    write_tokens(data, tokenizer, "all", tmp_path / "tokens", SilentProgress())
    train, val = (open_tokens(tmp_path / "tokens", split) for split in ("train", "val"))
    found = find_contamination(train.tokens, val.tokens, tokenizer)
    assert found["removable"] == 0 and found["share"] < 0.02
    rows = list(read_documents(data / "val.jsonl"))  # a copy that came in afterwards is found
    with open(data / "train.jsonl", "ab") as file:
        file.writelines(to_line(row) for row in rows[::2])
    write_tokens(data, tokenizer, "all", tmp_path / "tokens", SilentProgress())
    leaked = find_contamination(open_tokens(tmp_path / "tokens", "train").tokens, val.tokens, tokenizer)
    assert leaked["removable"] > 0.3 and leaked["share"] >= leaked["removable"]
    json.dumps(leaked)
