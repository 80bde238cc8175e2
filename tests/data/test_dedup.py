"""Tests deduplication (exact, near, boilerplate, outliers): compares the array code with plain Python on real text."""

import json
from pathlib import Path
from typing import Any

import pytest

from bulletlm.config.schema import DataConfig
from bulletlm.data.clean_corpus import Cleaned, clean_files
from bulletlm.data.dedup import REASONS, find_repeats
from bulletlm.data.shingles import words_of
from bulletlm.data.sources import find_files
from bulletlm.progress import SilentProgress
from paths import SAMPLE_CORPUS

STORIES = (SAMPLE_CORPUS / "stories.mr.txt").read_text(encoding="utf-8").strip().split("\n\n")


def cleaned(folder: Path, files: dict[str, str], **clean: Any) -> tuple[Cleaned, DataConfig]:
    (folder / "texts").mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / "texts" / name).write_text(text, encoding="utf-8")
    clean = {"preset": "web", "languages": ["mr", "en"], **clean}
    config = DataConfig(sources=[{"path": str(folder / "texts"), "documents": "blank_line"}], clean=clean)  # type: ignore[list-item, arg-type]
    return clean_files(find_files(config)[0], config.clean, 1, folder / "cleaned", 1, SilentProgress()), config


def verdicts(folder: Path, files: dict[str, str], **clean: Any) -> tuple[list[list[str]], list[str]]:
    """The reason of each paragraph, document by document, and of each document."""
    found, config = cleaned(folder, files, **clean)
    verdict = find_repeats(found, config.clean)
    names = [REASONS[reason] for reason in verdict.paragraphs]
    parts = [names[begin:end] for begin, end in zip(verdict.first[:-1], verdict.first[1:], strict=True)]
    return parts, [REASONS[reason] for reason in verdict.documents]


def test_repeated_paragraphs_and_documents(tmp_path: Path) -> None:
    long = [story.split("\n")[1] for story in STORIES[:6]]
    assert all(len(line) >= 30 for line in long)
    documents = [
        f"{long[0]}\n{long[1]}",
        f"हो.\n{long[1]}\n{long[2]}",
        "हो.",
        "हो.\nका?",
        f"{long[2]}\n{long[0]}",
        "हो.",
        f"का?\n{long[3]}",
    ]
    parts, whole = verdicts(tmp_path, {"a.txt": "\n\n".join(documents)}, near_duplicates=0)
    r = "repeated_paragraph"
    assert parts == [["", ""], ["", r, ""], [""], ["", ""], [r, r], [""], ["", ""]]
    assert whole == ["", "", "", "", "", "repeated_document", ""]
    parts, whole = verdicts(tmp_path, {"a.txt": "\n\n".join(documents)}, near_duplicates=0, duplicates=False)
    assert not any(map(any, parts)) and not any(whole)


def test_a_document_that_becomes_another_one_by_losing_paragraphs(tmp_path: Path) -> None:
    long = STORIES[0].split("\n")[1]
    _, whole = verdicts(tmp_path, {"a.txt": f"{long}\n\nहो.\n\nहो.\n{long}"}, near_duplicates=0)
    assert whole == ["", "", "repeated_document"]


def test_a_copy_of_a_document_leaves_none_of_its_lines(tmp_path: Path) -> None:
    """Short lines too: a copy that first lost its long lines would no longer equal the original."""
    lesson = f"हो.\n{STORIES[0]}\nका?\n{STORIES[1]}"
    for lines in ("sentences", "all", "off"):
        parts, whole = verdicts(tmp_path, {"a.txt": lesson, "b copy.txt": lesson, "c.txt": STORIES[2]}, duplicate_lines=lines)
        copied = [n for n, part in enumerate(parts) if n and part == [""] * len(part) and whole[n] == "repeated_document"]
        assert len(copied) == sum(reason == "repeated_document" for reason in whole) > 0, "no line is judged a second time"
        assert not any(reason == "repeated_paragraph" for part in parts for reason in part)


def test_boilerplate(tmp_path: Path) -> None:
    documents = [f"विधानसभा कामकाज\nहो, खरे.\n{STORIES[n]}" for n in range(12)]
    parts, _ = verdicts(tmp_path, {"a.txt": "\n\n".join(documents), "b.txt": "विधानसभा कामकाज"})
    assert [part[0] for part in parts] == ["", *["boilerplate"] * 11, ""], "not the first, and not in another file"
    assert not any(reason for part in parts for reason in part[1:]), "a sentence is no heading"
    parts, _ = verdicts(tmp_path, {"a.txt": "\n\n".join(documents)}, boilerplate=13)
    assert not any(map(any, parts))
    parts, _ = verdicts(tmp_path, {"a.txt": "\n\n".join(documents)}, boilerplate=0)
    assert not any(map(any, parts))


def changed(text: str, every: int) -> str:
    """A copy in which every n-th word is replaced."""
    words = text.split(" ")
    return " ".join("बदललेला" if n % every == every // 2 else word for n, word in enumerate(words))


def jaccard(one: str, other: str) -> float:
    a, b = ({tuple(words[n : n + 3]) for n in range(len(words) - 2)} for words in (words_of(one), words_of(other)))
    return len(a & b) / len(a | b)


def test_near_duplicates(tmp_path: Path) -> None:
    stories = [" ".join(story.split("\n")) for story in STORIES[:30]]
    near = [changed(story, 60) for story in stories[:10]]
    far = [changed(story, 8) for story in stories[10:20]]
    text = "\n\n".join([*stories, *near, *far])
    assert all(jaccard(a, b) > 0.87 for a, b in zip(stories, near, strict=False))
    assert all(jaccard(a, b) < 0.6 for a, b in zip(stories[10:], far, strict=False))
    _, whole = verdicts(tmp_path, {"a.txt": text})
    assert whole == [""] * 30 + ["near_duplicate"] * 10 + [""] * 10
    _, whole = verdicts(tmp_path, {"a.txt": text}, near_duplicates=0)
    assert not any(whole)


def test_near_duplicate_paragraphs_in_other_company(tmp_path: Path) -> None:
    stories = [" ".join(story.split("\n")) for story in STORIES[:6]]
    text = f"{stories[0]}\n{stories[1]}\n\n{stories[2]}\n{changed(stories[1], 60)}\n{stories[3]}"
    parts, whole = verdicts(tmp_path, {"a.txt": text})
    assert parts == [["", ""], ["", "near_duplicate", ""]] and not any(whole)


def test_outliers(tmp_path: Path) -> None:
    text = "\n\n".join([*STORIES[:40], "एकच ओळ खूप लांब आहे, " * 400, "मग"])  # 40 stories have more than a hundred paragraphs
    parts, _ = verdicts(tmp_path, {"a.txt": text}, repeated_words=1, long_percentile=99, short_percentile=1)
    assert parts[-2] == ["long_outlier"] and parts[-1] == ["short_outlier"]
    assert not any(reason for part in parts[:-2] for reason in part)
    parts, _ = verdicts(tmp_path, {"a.txt": text}, repeated_words=1, long_percentile=99, long_tokens=5000, short_tokens=0)
    assert not any(map(any, parts)), "within the limits nothing is an outlier"
    talk = [{"prompt": "किती?", "response": "खूप. " * n} for n in [*range(3, 150), 3000]]
    (tmp_path / "texts" / "a.txt").unlink()
    _, whole = verdicts(
        tmp_path,
        {"a.jsonl": "\n".join(map(json.dumps, talk))},
        repeated_words=1,
        repeated_characters=1,
        near_duplicates=0,
        long_percentile=99,
    )
    assert whole == [""] * 147 + ["long_outlier"]


def test_what_is_clean_already_is_not_cleaned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, config = cleaned(tmp_path, {"a.txt": "\n\n".join(STORIES[:5])})
    monkeypatch.setattr("bulletlm.data.clean_corpus._clean_block", lambda *_: pytest.fail("cleaned again"))
    files = find_files(config)[0]
    again = clean_files(files, config.clean, 1, tmp_path / "cleaned", 1, SilentProgress())
    assert (again.documents == found.documents).all()
    for setting, value in (("near_duplicates", 0.5), ("boilerplate", 3), ("long_tokens", 99)):
        other = config.clean.model_copy(update={setting: value})
        clean_files(files, other, 1, tmp_path / "cleaned", 1, SilentProgress())
    for change in ({"min_chars": 3}, {"near_duplicates": 0}):
        with pytest.raises(pytest.fail.Exception):
            clean_files(files, config.clean.model_copy(update=change), 1, tmp_path / "cleaned", 1, SilentProgress())
    with pytest.raises(pytest.fail.Exception):
        clean_files(files, config.clean, 2, tmp_path / "cleaned", 1, SilentProgress())
    path = tmp_path / "cleaned" / "documents.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(pytest.fail.Exception):
        clean_files(files, config.clean, 1, tmp_path / "cleaned", 1, SilentProgress())
    (tmp_path / "texts" / "a.txt").write_text("नवा मजकूर", encoding="utf-8")
    with pytest.raises(pytest.fail.Exception):
        clean_files(files, config.clean, 1, tmp_path / "cleaned", 1, SilentProgress())


def test_the_longest_row_of_few_is_no_outlier(tmp_path: Path) -> None:
    text = "\n\n".join([*STORIES[:10], "एकच ओळ खूप लांब आहे, " * 400])
    parts, _ = verdicts(tmp_path, {"a.txt": text}, repeated_words=1)
    assert not any(map(any, parts))
