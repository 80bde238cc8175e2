"""Tests the data stage as a whole, on small corpora that the tests write and on real text if it is available."""

import gzip
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bulletlm.config.schema import DataConfig
from bulletlm.data import clean_corpus
from bulletlm.data import prepare as prepare_module
from bulletlm.data.copies import held_out_texts
from bulletlm.data.prepare import prepare_data
from bulletlm.data.readers import lines
from bulletlm.errors import DataError
from bulletlm.progress import SilentProgress
from bulletlm.text.documents import Document, read_documents, texts_of
from paths import SHARED_DATA

FILES = ["clean-report.json", "rejected.jsonl", "train.jsonl", "val.jsonl"]

MARATHI = "पाऊस ऊन वारा ढग नदी डोंगर रस्ता घर शेत झाड फूल पान मूल आई बाबा आजी मित्र शाळा पुस्तक गोष्ट चहा पाणी दूध भाकरी आणि ते".split()
ENGLISH = "the rain and sun of wind in cloud river hill road house field tree flower leaf child mother father friend book tea".split()


def sentence(rng: np.random.Generator, words: list[str], end: str) -> str:
    return " ".join(words[n] for n in rng.integers(0, len(words), 12)) + end


def make_corpus(folder: Path) -> Path:
    """A small corpus with faults: two languages, four file types, and at least one fault in each."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True)
    stories = ["\n".join(sentence(rng, MARATHI, " आहे.") for _ in range(4)) for _ in range(60)]
    stories[10] = stories[3]  # a repeated document
    stories[20] = "ही ओळ अनेक ठिकाणी जशीच्या तशी येते म्हणून ती नको.\n" + stories[20]
    stories[30] = "ही ओळ अनेक ठिकाणी जशीच्या तशी येते म्हणून ती नको.\n" + stories[30]
    stories[40] = "-----\nक\nअ\ufffdब हरवले\n\ufeff  दोन   शब्द\u200b आहेत\n" + stories[40]
    (folder / "stories.txt").write_text("\n\n".join(stories), encoding="utf-8")
    essays = ["\n".join(sentence(rng, ENGLISH, ".") for _ in range(4)) for _ in range(60)]
    (folder / "essays.txt").write_bytes("\n\n".join(essays).encode() + b"\n\nbroken \xff\xfe line\n")
    pairs = [f"{sentence(rng, ENGLISH, '.')}\t{sentence(rng, MARATHI, ' आहे.')}" for _ in range(80)]
    (folder / "pairs.tsv").write_text("\n".join([*pairs, pairs[0], "no tab here"]) + "\n", encoding="utf-8")
    chats: list[Any] = [{"prompt": sentence(rng, MARATHI, "?"), "response": sentence(rng, MARATHI, ".")} for _ in range(80)]
    chats += [chats[5], {"prompt": "एकटा प्रश्न?"}, {"prompt": "प्रश्न?", "response": "..."}]
    chats.append({"messages": [{"role": "assistant", "content": "आधी उत्तर"}, *turns("प्रश्न एक?", "उत्तर एक."), *turns("आणखी?")]})
    (folder / "chat.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in chats) + "\n{broken\n", encoding="utf-8")
    return folder


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]


def prepare(out: Path, *paths: object, seed: int = 3, **settings: Any) -> dict[str, Any]:
    clean = {"preset": "web", "languages": ["mr", "en"], **settings.pop("clean", {})}
    sources = [{"path": str(path), "documents": "blank_line"} for path in paths]
    config = DataConfig(sources=sources, val_tokens=settings.pop("val_tokens", 700), clean=clean, **settings)  # type: ignore[arg-type]
    return prepare_data(config, seed, out, SilentProgress())


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("run") / "data"
    return out, prepare(out, corpus)


def check_books(report: dict[str, Any], out: Path, times_may_differ: bool = False) -> None:
    """Every row is in a split or in rejected.jsonl, and the report says which."""
    written: Counter[str] = Counter()
    seen: set[str] = set()
    for split in ("train", "val"):
        for document in read_documents(out / f"{split}.jsonl"):
            if times_may_differ and document["id"] in seen:
                continue
            seen.add(document["id"])
            written[document["source"]] += 1 if "messages" in document else document["text"].count("\n") + 1
    rejected = rows_of(out / "rejected.jsonl")
    assert all(row["line"] > 0 for row in rejected)
    for source in report["sources"]:
        assert source["rows_out"] == written[source["source"]]
        assert source["rows_in"] >= source["rows_out"]
    by_rule = {rule: entry["rejected"] for rule, entry in report["rules"].items() if "rejected" in entry}
    assert sum(s["rows_in"] - s["rows_out"] for s in report["sources"]) == sum(by_rule.values())
    assert {row["reason"] for row in rejected} <= {rule for rule, count in by_rule.items() if count} | {"unanswered"}
    for entry in report["rules"].values():
        count = entry.get("rejected", entry.get("changed"))
        assert 1 <= len(entry["examples"]) <= 3 if count else not entry["examples"]


def contents(document: Document) -> tuple[str, ...]:
    return tuple(texts_of(document))


def check_split(out: Path) -> None:
    train = {contents(d) for d in read_documents(out / "train.jsonl")}
    val = [contents(d) for d in read_documents(out / "val.jsonl")]
    assert val and train
    assert not train & set(val)
    paragraphs = {p for texts in train for text in texts for p in text.split("\n") if len(p) >= 30}
    assert not [p for texts in val if len(texts) == 1 for p in texts[0].split("\n") if p in paragraphs]


def test_the_four_files(run: tuple[Path, dict[str, Any]]) -> None:
    out, report = run
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert json.loads((out / "clean-report.json").read_text(encoding="utf-8")) == report
    check_books(report, out)
    check_split(out)
    ids = [d["id"] for split in ("train", "val") for d in read_documents(out / f"{split}.jsonl")]
    assert len(set(ids)) == len(ids)


def test_every_fault_of_the_corpus_is_found(run: tuple[Path, dict[str, Any]]) -> None:
    rules = run[1]["rules"]
    found = {rule: count for rule, entry in rules.items() if (count := entry.get("rejected", entry.get("changed")))}
    found.pop("copy_of_validation", None)  # the other direction of a pair
    assert found == {
        "byte_order_mark": 1,
        "zero_width": 1,
        "spaces": 1,
        "unanswered": 1,
        "invalid_utf8": 1,
        "not_json": 1,
        "prompt_without_response": 1,
        "wrong_number_of_columns": 1,
        "broken_unicode": 1,
        "too_short": 1,
        "no_letters": 1,
        "no_answer": 1,
        "repeated_paragraph": 1,
        "repeated_document": 7,
    }
    example = rules["byte_order_mark"]["examples"][0]
    assert example["before"].startswith("<U+FEFF>") and example["source"] == "corpus/stories.txt"
    assert rules["no_letters"]["examples"][0]["line"] == 40 * 5 + 3, "40 stories of 5 lines, two of them with one more"


def test_conversations_are_put_in_order(run: tuple[Path, dict[str, Any]]) -> None:
    everything = [d for split in ("train", "val") for d in read_documents(run[0] / f"{split}.jsonl")]
    found = [d["messages"] for d in everything if "messages" in d and d["messages"][0]["content"] == "प्रश्न एक?"]
    assert found == [turns("प्रश्न एक?", "उत्तर एक.")]
    for document in everything:
        roles = [m["role"] for m in document.get("messages", [])]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_languages_and_sizes(run: tuple[Path, dict[str, Any]]) -> None:
    out, report = run
    for split, name in (("train", "train"), ("val", "validation")):
        languages: Counter[str] = Counter()
        for document in read_documents(out / f"{split}.jsonl"):
            languages[document["language"]] += sum(map(len, texts_of(document)))
        assert {language: entry["characters"] for language, entry in report[name]["by_language"].items()} == dict(languages)
        assert sum(languages.values()) == report[name]["characters"]
        assert set(languages) == {"en", "mr"}
    assert abs(report["validation"]["characters"] - 2100) < 600
    assert len({d["source"] for d in read_documents(out / "val.jsonl")}) >= 3


def test_training_documents_are_mixed(run: tuple[Path, dict[str, Any]]) -> None:
    order = [d["source"] for d in read_documents(run[0] / "train.jsonl")]
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes > len(order) / 3


def test_the_same_input_and_seed_give_the_same_bytes(corpus: Path, run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bulletlm.config.schema import DataConfig; "
        "from bulletlm.data.prepare import prepare_data;"
        "from bulletlm.progress import SilentProgress;"
        "sources = [{'path': sys.argv[1], 'documents': 'blank_line'}];"
        "clean = {'preset': 'web', 'languages': ['mr', 'en']};"
        "prepare_data(DataConfig(sources=sources, val_tokens=700, clean=clean), 3, Path(sys.argv[2]), SilentProgress())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    subprocess.run([sys.executable, "-c", code, str(corpus), str(tmp_path / "again")], check=True, env=environment)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (run[0] / name).read_bytes(), name
    prepare(tmp_path / "other", corpus, seed=4)
    assert (tmp_path / "other" / "train.jsonl").read_bytes() != (run[0] / "train.jsonl").read_bytes()
    assert (tmp_path / "other" / "val.jsonl").read_bytes() != (run[0] / "val.jsonl").read_bytes()


def test_without_dedup_no_copy_of_a_validation_document_is_trained_on(corpus: Path, tmp_path: Path) -> None:
    twice = tmp_path / "twice"
    twice.mkdir()
    (twice / "stories.txt").write_bytes((corpus / "stories.txt").read_bytes() + b"\n\n" + (corpus / "stories.txt").read_bytes())
    report = prepare(tmp_path / "out", twice, clean={"duplicates": False, "near_duplicates": 0})
    train = {contents(d) for d in read_documents(tmp_path / "out" / "train.jsonl")}
    val = {contents(d) for d in read_documents(tmp_path / "out" / "val.jsonl")}
    assert not train & val
    assert report["rules"]["copy_of_validation"]["rejected"] > 0
    assert report["rules"]["repeated_document"]["rejected"] == 0
    check_books(report, tmp_path / "out")


def test_translations_of_one_sentence_stay_on_one_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    lines = []
    for _ in range(150):
        english = sentence(rng, ENGLISH, ".")
        lines += [f"{english}\t{sentence(rng, MARATHI, ' आहे.')}" for _ in range(3)]
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    prepare(tmp_path / "out", folder)

    def sides(split: str) -> set[str]:
        found = set()
        for document in read_documents(tmp_path / "out" / f"{split}.jsonl"):
            texts = texts_of(document)
            found.add(texts[1] if document["language"] == "en" else texts[0].split("? ")[-1].split(": ")[-1])
        return found

    assert sides("val") and not sides("val") & sides("train")


def test_a_language_can_be_given(corpus: Path, tmp_path: Path) -> None:
    config = DataConfig(sources=[{"path": str(corpus / "*.txt"), "language": "gom"}], val_tokens=500)  # type: ignore[list-item]
    report = prepare_data(config, 1, tmp_path / "out", SilentProgress())
    assert set(report["train"]["by_language"]) == {"gom"}


def test_a_small_corpus_gives_a_tenth(corpus: Path, tmp_path: Path) -> None:
    report = prepare(tmp_path / "out", corpus, val_tokens=8000)
    validation = report["validation"]
    assert validation["limited_to_a_tenth_of_the_data"]
    total = validation["characters"] + report["train"]["characters"]
    assert 0.07 * total < validation["characters"] < 0.12 * total


def test_long_documents_without_borders(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    (tmp_path / "a.txt").write_text("\n".join(sentence(rng, ENGLISH, ".") for _ in range(500)), encoding="utf-8")
    report = prepare(tmp_path / "out", tmp_path / "a.txt", val_tokens=700)
    assert 1500 < report["validation"]["characters"] < 2500
    check_books(report, tmp_path / "out")
    check_split(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("a.txt", "थोडासा मजकूर आहे.\n", r"the sources contain one paragraph of 17 characters, of which nothing can be held out"),
        ("a.txt", "", r"there is no text in a\.txt: the files are empty"),
        ("a.txt", "\n \n\n", r"there is no text in a\.txt"),
        ("a.jsonl", "{bad\n{worse\n", r"nothing is left of 2 rows in a\.jsonl \(not_json 2\)"),
        ("a.txt", "----\n12\nx\n", r"nothing is left of 3 rows in a\.txt \(no_letters 2, too_short 1\)"),
    ],
)
def test_too_little_text(tmp_path: Path, name: str, content: str, wrong: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=wrong) as caught:
        prepare(tmp_path / "out", tmp_path / name)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "cleaned"], "nothing half-written stays"


def test_a_failed_run_leaves_the_older_files(corpus: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "out", corpus)
    before = (tmp_path / "out" / "train.jsonl").read_bytes()
    (tmp_path / "a.txt").write_text("थोडे\n", encoding="utf-8")
    with pytest.raises(DataError):
        prepare(tmp_path / "out", tmp_path / "a.txt")
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == before


def test_one_broken_file_in_a_folder_does_not_stop_the_rest(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    shutil.copytree(corpus, folder)
    (folder / "picture.txt").write_bytes(bytes(range(256)) * 50)
    report = prepare(tmp_path / "out", folder)
    assert {"file": "corpus/picture.txt", "reason": "this is a binary file, not text"} in report["skipped_files"]
    with pytest.raises(DataError, match=r"picture\.txt: this is a binary file"):
        prepare(tmp_path / "out", folder / "picture.txt")


def test_the_embedded_corpus(tmp_path: Path) -> None:
    report = prepare(tmp_path / "out", "sample", val_tokens=4000)
    check_books(report, tmp_path / "out")
    check_split(tmp_path / "out")
    assert {"en", "mr"} <= set(report["train"]["by_language"])
    assert all(document["source"].startswith("sample/") for document in read_documents(tmp_path / "out" / "train.jsonl"))


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED_DATA.exists(), reason="../shared is absent")
def test_real_text(tmp_path: Path) -> None:
    report = prepare(
        tmp_path / "out",
        SHARED_DATA / "quick",
        SHARED_DATA / "mono" / "mr-wiki.txt",
        SHARED_DATA / "mono" / "mr-poetry.txt",
        val_tokens=8000,
    )
    check_books(report, tmp_path / "out")
    check_split(tmp_path / "out")
    kept = sum(s["rows_out"] for s in report["sources"]) / sum(s["rows_in"] for s in report["sources"])
    assert 0.95 < kept < 1, "this part of the data is clean"
    assert abs(report["validation"]["characters"] - 24_000) < 3_000
    assert set(report["validation"]["by_language"]) == {"en", "mr"}


def test_any_number_of_processes_gives_the_same_bytes(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "corpus"
    shutil.copytree(corpus, folder)
    (folder / "copy.txt").write_bytes((corpus / "stories.txt").read_bytes().replace("पाऊस".encode(), "वादळ".encode()))
    monkeypatch.setattr(lines, "BLOCK_BYTES", 20_000)
    for module in (clean_corpus, prepare_module):
        monkeypatch.setattr(module, "PARALLEL_FROM_BYTES", 0)
    prepare(tmp_path / "one" / "data", folder, workers=1)
    prepare(tmp_path / "two" / "data", folder, workers=2)
    for name in FILES:
        assert (tmp_path / "one" / "data" / name).read_bytes() == (tmp_path / "two" / "data" / name).read_bytes(), name
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1 << 20)
    prepare(tmp_path / "big" / "data", folder, workers=1)
    assert (tmp_path / "big" / "data" / "train.jsonl").read_bytes() == (tmp_path / "one" / "data" / "train.jsonl").read_bytes()


def test_changing_the_mixture_cleans_nothing_again(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(tmp_path / "data", corpus)
    monkeypatch.setattr(clean_corpus, "_clean_block", lambda *_: pytest.fail("cleaned again"))
    mix = {"languages": {"mr": 0.7, "en": 0.3}, "tokens": 20_000}
    report = prepare(tmp_path / "data", corpus, mix=mix, val_tokens=600, clean={"near_duplicates": 0.7})
    assert first["train"] != report["train"]
    with pytest.raises(pytest.fail.Exception):
        prepare(tmp_path / "data", corpus, clean={"min_chars": 5})


def test_the_mixture(corpus: Path, tmp_path: Path) -> None:
    plain = prepare(tmp_path / "plain", corpus)
    mix = {"languages": {"mr": 0.7, "en": 0.3}, "conversations": 0.5, "tokens": 12_000}
    sources = [{"path": str(corpus / "*.txt"), "weight": 2.0, "documents": "blank_line"}, {"path": str(corpus)}]
    clean = {"preset": "web", "languages": ["mr", "en"]}
    report = prepare_data(DataConfig(sources=sources, mix=mix, val_tokens=700, clean=clean), 3, tmp_path / "mixed", SilentProgress())  # type: ignore[arg-type]
    check_books(report, tmp_path / "mixed", times_may_differ=True)
    check_split(tmp_path / "mixed")
    assert report["train"]["characters"] == pytest.approx(36_000, rel=0.03)
    assert report["train"]["by_language"]["mr"]["characters"] == pytest.approx(0.7 * 36_000, rel=0.03)
    train = list(read_documents(tmp_path / "mixed" / "train.jsonl"))
    talk = sum(sum(map(len, texts_of(d))) for d in train if "messages" in d)
    assert talk == pytest.approx(18_000, rel=0.03)
    assert report["validation"]["characters"] == pytest.approx(plain["validation"]["characters"], rel=0.05)
    rows = report["mixture"]
    assert sum(row["stream_tokens"] for row in rows) == pytest.approx(12_000, rel=0.03)
    assert {row["kind"] for row in rows} == {"documents", "conversations"}
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=0.001)
    left_out = report["rules"]["left_out_by_mix"]["rejected"]
    assert left_out > 0 and [row["reason"] for row in rows_of(tmp_path / "mixed" / "rejected.jsonl")].count("left_out_by_mix") > 0
    assert all(row["times"] == 1 for row in plain["mixture"]) and plain["rules"]["left_out_by_mix"]["rejected"] == 0


def test_near_copies_of_validation_stay_out_of_training(corpus: Path, tmp_path: Path) -> None:
    """A second file with every story reworded a little, which the settings of deduplication let pass."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    stories = (corpus / "stories.txt").read_text(encoding="utf-8")
    (folder / "a.txt").write_text(stories, encoding="utf-8")
    (folder / "b.txt").write_text(stories.replace("मित्र", "सखा").replace("\n\n", "\n\nनवीन ओळ आहे.\n"), encoding="utf-8")
    report = prepare(tmp_path / "out", folder, clean={"duplicates": False, "near_duplicates": 0, "boilerplate": 0})
    assert report["rules"]["near_copy_of_validation"]["rejected"] > 5
    assert report["leaks"] == {**report["leaks"], "exact": 0, "ngrams": 0, "near": 0} and report["leaks"]["passages"] > 100
    check_books(report, tmp_path / "out")
    val = " ".join(text for d in read_documents(tmp_path / "out" / "val.jsonl") for text in texts_of(d)).replace("मित्र", "सखा").split()
    train = " ".join(text for d in read_documents(tmp_path / "out" / "train.jsonl") for text in texts_of(d)).replace("मित्र", "सखा").split()
    grams = {tuple(train[n : n + 10]) for n in range(len(train) - 9)}
    assert sum(tuple(val[n : n + 10]) in grams for n in range(len(val) - 9)) < 0.1 * len(val)


def test_every_broken_file_of_a_folder_is_listed(corpus: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = tmp_path / "corpus"
    shutil.copytree(corpus, folder)
    packed = gzip.compress("".join(f"ही {n * 7919} क्रमांकाची ओळ आहे.\n" for n in range(3000)).encode())
    (folder / "cut.txt.gz").write_bytes(packed[: len(packed) // 2])
    (folder / "picture.txt").write_bytes(bytes(range(256)) * 50)
    (folder / "utf16.txt").write_text("मराठी", encoding="utf-16")
    parquet.write_table(pyarrow.table({"id": [1]}), folder / "table.parquet")
    (folder / "half.parquet").write_bytes((folder / "table.parquet").read_bytes()[:100])
    (folder / "notes.docx").write_bytes(b"PK")
    report = prepare(tmp_path / "out", folder)
    reasons = {item["file"].removeprefix("corpus/"): item["reason"] for item in report["skipped_files"]}
    assert set(reasons) == {"cut.txt.gz", "picture.txt", "table.parquet", "half.parquet", "notes.docx"}
    assert reasons["cut.txt.gz"].startswith("the compressed file is truncated; used up to line ")
    assert next(item["rows_out"] for item in report["sources"] if item["source"] == "corpus/utf16.txt") == 1
    assert "there is no column text, messages or prompt (it has id)" in reasons["table.parquet"]
    assert "damaged" in reasons["half.parquet"]
    assert all("\n" not in reason for reason in reasons.values())
    assert {row["source"]: row["rows_out"] for row in report["sources"]}["corpus/cut.txt.gz"] > 500
    check_books(report, tmp_path / "out")


def test_parquet_gives_what_jsonl_gives(corpus: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    stories = (corpus / "stories.txt").read_text(encoding="utf-8").split("\n\n")
    stories += (corpus / "essays.txt").read_text(encoding="utf-8", errors="ignore").split("\n\n")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))
    parquet.write_table(pyarrow.table({"text": stories}), tmp_path / "a.parquet")
    prepare(tmp_path / "one", tmp_path / "a.jsonl")
    prepare(tmp_path / "two", tmp_path / "a.parquet")
    for name in ("train.jsonl", "val.jsonl"):
        one, two = ((tmp_path / run / name).read_text(encoding="utf-8") for run in ("one", "two"))
        assert one.replace("a.jsonl", "a.parquet") == two


def test_a_seed_changes_the_choice_and_not_the_amount(corpus: Path, tmp_path: Path) -> None:
    reports = [prepare(tmp_path / str(seed), corpus, seed=seed) for seed in (1, 2)]
    sizes = [report["validation"]["characters"] for report in reports]
    assert abs(sizes[0] - sizes[1]) < 500
    val = [{d["id"] for d in read_documents(tmp_path / str(seed) / "val.jsonl")} for seed in (1, 2)]
    assert val[0] != val[1]


def test_held_out_texts_reach_neither_training_nor_validation(corpus: Path, tmp_path: Path) -> None:
    pairs = (corpus / "pairs.tsv").read_text(encoding="utf-8").splitlines()[5:15]
    line = (corpus / "stories.txt").read_text(encoding="utf-8").split("\n\n")[7].split("\n")[1]
    (tmp_path / "test.tsv").write_text("\n".join(pairs) + "\n", encoding="utf-8")
    (tmp_path / "test.txt").write_text(line.removesuffix("आहे.") + "नाही.\n", encoding="utf-8")
    held = [str(tmp_path / "test.tsv"), str(tmp_path / "test.txt")]
    report = prepare(tmp_path / "data", corpus, held_out=held)
    assert report["rules"]["held_out"]["rejected"] >= 2 * len(pairs) + 1
    assert report["leaks"]["held_out"]["rows_taken_out"] == 0
    written = "".join((tmp_path / "data" / f"{split}.jsonl").read_text(encoding="utf-8") for split in ("train", "val"))
    for pair in pairs:
        assert not [text for text in pair.split("\t") if text in written]
    assert line not in written and (corpus / "stories.txt").read_text(encoding="utf-8").split("\n\n")[7].split("\n")[2] in written
    for row in report["sources"]:
        removed = sum(row["dropped"].values()) if isinstance(row["dropped"], dict) else None
        assert removed is None or row["characters_in"] == row["characters_out"] + removed + sum(row["changed"].values())
    with pytest.raises(DataError, match=r"data\.held_out: .* does not exist"):
        prepare(tmp_path / "other", corpus, held_out=[str(tmp_path / "nowhere.txt")])


def test_what_of_held_out_is_not_read_is_reported(tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "choices.jsonl").write_text('{"stem": "Which?", "choices": ["a", "b"]}\n' * 3)
    (tests / "sheet.xlsx").write_text("x")
    progress = Listening()
    config = DataConfig.model_validate({"sources": ["sample"], "held_out": [str(tests)]})
    with pytest.raises(
        DataError, match=r"data\.held_out: there is no text that is read in tests/choices\.jsonl .*: nothing would be held out"
    ):
        held_out_texts(config, 1, progress)
    (tests / "half.jsonl").write_text('{"text": "A test sentence of the right kind."}\n{broken\n')
    progress.said.clear()
    assert [text["text"] for text in held_out_texts(config, 1, progress)] == ["A test sentence of the right kind."]
    assert [line.partition(": not held out: ")[2].partition(":")[0] for line in progress.said] == [
        "tests/sheet.xlsx",
        "tests/choices.jsonl",
        "tests/half.jsonl",
    ]
    assert progress.said[2].endswith("lines that are not JSON (1)")


class Listening(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def log(self, text: str, level: str = "info") -> None:
        self.said.append(text)
