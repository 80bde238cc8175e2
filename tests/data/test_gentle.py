"""Tests that the default preset changes no valid content: text of any language and structure, code and chat stay the same.

Every character is accounted for, whatever the preset and the kind of file.
"""

import csv
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from legacy_fonts import KRUTI_DEV, stored_in

from bulletlm.config.schema import CleanConfig, DataConfig
from bulletlm.data.log import CHANGES, KEEP, REJECTIONS, Log
from bulletlm.data.prepare import prepare_data
from bulletlm.data.readers.raw import RawDocument
from bulletlm.data.rules import clean_document
from bulletlm.errors import DataError
from bulletlm.progress import SilentProgress
from bulletlm.text.documents import read_documents, texts_of
from bulletlm.text.normalize import normalize

LANGUAGES: dict[str, str] = json.loads((Path(__file__).parent / "languages" / "short-texts.json").read_text(encoding="utf-8"))
EYELASH_RA = ("\u0930\u094d\u200d", "\u0931\u094d")
"""Nepali writes it the older way; both are the same letter."""


class Screen(SilentProgress):
    """A Progress that records the lines printed to the screen."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str, level: str = "info") -> None:
        self.lines.append(text)


def text_document(*lines: str, preset: str = "gentle", **clean: Any) -> tuple[list[str], Log]:
    log = Log()
    raw = RawDocument("a", 1, "auto", list(lines), list(range(1, len(lines) + 1)))
    found = clean_document(raw, CleanConfig(preset=preset, **clean), log)  # type: ignore[arg-type]
    return (found.paragraphs if found else []), log


def chat(question: str, answer: str, preset: str = "gentle") -> tuple[list[str], Log]:
    log = Log()
    raw = RawDocument("a", 1, "auto", messages=[{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
    found = clean_document(raw, CleanConfig(preset=preset), log)  # type: ignore[arg-type]
    return ([message["content"] for message in found.messages] if found else []), log


@pytest.mark.parametrize("preset", ["gentle", "web"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_stays(language: str, preset: str) -> None:
    text = LANGUAGES[language]
    expected = text.replace(*EYELASH_RA)
    assert text_document(text, preset=preset)[0] == [expected]
    assert chat("?", text, preset)[0] == ["?", expected]
    assert normalize(text) == expected


@pytest.mark.parametrize("preset", ["gentle", "web"])
@pytest.mark.parametrize(
    "line",
    [
        "raamaH vana.m gacchati, siitaa ca tena saha gacchati; lakShmaNo.api tau anugacchati.",
        '{"name": "ferry", "stops": [12, 7, 9], "open": true, "note": "runs on Sundays"}',
        "for (std::size_t i = 0; i < v.size(); ++i) { sum += v[i] * w[i]; }",
        "iPhone 15, OnePlus Nord CE4, Galaxy S24 FE, Redmi Note 13, Pixel 8a, moto g84, vivo T3x",
        "r = a[i] ? b[j] : c[k]; s |= 1 << (r & 7); t ^= ~s;",
    ],
)
def test_what_only_looks_strange_stays(line: str, preset: str) -> None:
    assert text_document(line, preset=preset)[0] == [line]
    assert chat("?", line, preset)[0] == ["?", line]


@pytest.mark.parametrize("answer", ["👍", "❤️🔥", "👩‍👩‍👧", "42", "हो", "؟", "🙏🏽🙏🏽", "..."])
def test_short_answers_are_answers(answer: str) -> None:
    assert chat("हो ना?", answer)[0] == ["हो ना?", answer]


CODE = """def area(r):
    # twice  the spaces
    if r<b && c>d:
        return 3.14159265358979 * r**2   # **not bold**

    __init__ = {"a": [1, 2]}
\tindented by a tab
"""


@pytest.mark.parametrize("preset", ["gentle", "web"])
@pytest.mark.parametrize(
    "answer",
    [
        "if (a<b && c>d) x = a**b**c;",
        f"Like this:\n```python\n{CODE}```\nThat is all.",
        f"~~~\n{CODE}~~~",
        "def f(x):\n    return x\nprint(f(2))",
        "int main() {\n  const int MOD = 1000000007;\n  return 0;\n}",
        "The <b> tag makes text bold, and <p> begins a paragraph.",
        "Use `__init__` and **bold**, see [the page](https://example.org).",
        "# Title\n- one\n- two\n\n| a | b |\n|---|---|".replace("\n\n", "\n"),
    ],
)
def test_code_and_markup_in_answers_stay(answer: str, preset: str) -> None:
    expected = answer.replace("------", " ")
    assert chat("How?", answer, preset)[0] == ["How?", expected]
    assert normalize(answer) == answer.strip("\n"), "a prompt keeps what training text keeps"


def test_markup_goes_only_from_documents_that_are_markup() -> None:
    prose = ["The <b> tag makes text bold.", "Use <p> and </p> for paragraphs, and __init__ for 2 ** 3.", "AT&T and R&D"]
    assert text_document(*prose)[0] == prose
    page = ["<html><body><h1>Ferries</h1>", "<p>They leave at <b>noon</b>.</p>", "</body></html>"]
    assert text_document(*page)[0] == ["Ferries", "They leave at noon."]
    markdown = ["# Ferries", "They leave at **noon**, see [the list](https://example.org/list).", "```", "x = a**b**c  # <b>", "```"]
    assert text_document(*markdown)[0] == ["Ferries", "They leave at noon, see the list.", *markdown[2:]]
    assert text_document("They leave at <b>noon</b>.", markup="everywhere")[0] == ["They leave at noon."]
    assert text_document(*page, markup="off")[0] == page


@pytest.mark.parametrize(("old", "new"), [(True, "everywhere"), (False, "off")])
def test_settings_that_were_switches_take_the_same_values_still(old: bool, new: str) -> None:
    assert CleanConfig(markup=old).markup == CleanConfig(entities=old).entities == new  # type: ignore[arg-type]
    assert CleanConfig(legacy_font=old).legacy_font == ("likely" if old else "off")  # type: ignore[arg-type]


def test_a_setting_goes_before_its_preset() -> None:
    assert CleanConfig(preset="web", rulers=False).rulers is False
    assert CleanConfig(min_letters=0.5).min_letters == 0.5
    assert CleanConfig(preset="web").model_dump() != CleanConfig().model_dump()
    resolved = CleanConfig(preset="web", boilerplate=3)
    assert CleanConfig(**resolved.model_dump()) == resolved


def test_a_long_line_is_split_at_sentences_and_dropped_only_without_a_border() -> None:
    sentence = "The ferry left at noon, and nobody on the quay could say when it would be back. "
    pieces, log = text_document((sentence * 1500).strip())
    assert " ".join(pieces) == (sentence * 1500).strip() and all(len(piece) <= 2_000 and piece.endswith(".") for piece in pieces)
    assert log.characters["a"]["split_long"] == len(pieces) - 1
    assert "".join(text_document("今天下雨了。" * 9_000)[0]) == "今天下雨了。" * 9_000
    assert " ".join(text_document("word " * 9_000)[0]) == ("word " * 9_000).strip()
    pieces, log = text_document("x" * 30_000, "a line that stays")
    assert pieces == ["a line that stays"] and log.characters["a"]["too_long"] == 30_000


WORDS = "ferry harbour lamp river stone bread winter letter garden bridge market silver window forest candle morning".split()


def prose(seed: int, sentences: int) -> str:
    chosen = random.Random(seed)
    return " ".join(" ".join(chosen.choices([*WORDS, "the", "of", "and", "was"], k=11)).capitalize() + "." for _ in range(sentences))


def write_play() -> str:
    names = ("GUARD:", "QUEEN:", "ALL:", "FIRST SAILOR:")
    return "\n\n".join(f"{random.Random(n).choice(names)}\n{prose(n, 2)}" for n in range(200))


def write_recipes() -> str:
    return "\n\n".join(f"पाककृती {n}\nसाहित्य\nमीठ {n} चमचे\nतेल {n + 1} वाटी\nकृती\n{prose(n, 2)}" for n in range(150))


def write_song(stanzas: int = 200) -> str:
    refrain = "चला सख्यांनो खेळू आता मोकळ्या या अंगणी सारे"
    return "\n\n".join(f"{' '.join(random.Random(n).choices(WORDS, k=5))}\nवारा वाहे झुळझुळ गाणी {n}\n{refrain}" for n in range(stanzas))


def prepared(folder: Path, files: dict[str, str], **settings: Any) -> tuple[dict[str, Any], list[str], list[str]]:
    """The report, every line of training and validation text, and the lines on the screen."""
    (folder / "texts").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / "texts" / name).write_text(text, encoding="utf-8")
    screen = Screen()
    config = DataConfig(sources=[str(folder / "texts")], workers=1, **settings)  # type: ignore[list-item]
    report = prepare_data(config, 1, folder / "data", screen)
    lines = [
        line
        for split in ("train", "val")
        for document in read_documents(folder / "data" / f"{split}.jsonl")
        for text in texts_of(document)
        for line in text.split("\n")
    ]
    return report, lines, screen.lines


@pytest.mark.parametrize("write", [write_play, write_recipes, write_song, lambda: write_song(5) + "\n\n" + prose(1, 30)])
def test_plays_recipes_and_songs_keep_every_line(tmp_path: Path, write: Any) -> None:
    text = write()
    report, lines, screen = prepared(tmp_path, {"a.txt": text, "b.txt": "\n".join(prose(900 + n, 3) for n in range(60))})
    ours = [line for line in text.split("\n") if line]
    missing = {line: ours.count(line) - lines.count(line) for line in set(ours) if lines.count(line) < ours.count(line)}
    # Validation text leaves out a line that training text has too; nothing else is missing.
    shared = report["rules"]["shared_with_training"]["rejected"]
    assert sum(missing.values()) <= shared <= 0.1 * len(ours)
    losses = [line for line in screen if re.match(r" +\d+\.\d% of ", line)]
    assert all("shared_with_training" in line for line in losses), screen


def test_chapters_of_a_book_stay_together_and_in_order(tmp_path: Path) -> None:
    chapters = [f"Chapter {n}\n\n" + "\n\n".join(prose(10 * n + p, 4) for p in range(6)) for n in range(1, 9)]
    _, _, _ = prepared(tmp_path, {"a.txt": "\n\n".join(chapters)})
    texts = [document["text"] for document in read_documents(tmp_path / "data" / "train.jsonl")]
    assert len(texts) == 1
    headings = [line for line in texts[0].split("\n") if line.startswith("Chapter")]
    assert headings == [f"Chapter {n}" for n in range(1, len(headings) + 1)] and len(headings) >= 6


def test_whole_sentences_that_an_earlier_document_has_go_and_nothing_else_does(tmp_path: Path) -> None:
    sentence = "The keeper of the lighthouse wrote one line in his book every evening."
    verse = "\n".join(f"and the lamp went round and round again {n % 3}\nover the water, over the sand" for n in range(8))
    listed = "- take the boat across the river at noon.\n- bring bread, a lamp and a warm coat."
    spoken = "“I shall not be back before the winter comes,” she said to them."
    code = "total = compute(first_value, second_value);"
    common = "\n".join([verse, listed, spoken, code])
    files = {f"{n}.txt": f"{prose(n, 4)}\n{sentence}\n{common}\n{prose(50 + n, 4)}" for n in range(6)}
    report, lines, _ = prepared(tmp_path, files)
    rules = {rule: entry["rejected"] for rule, entry in report["rules"].items() if entry.get("rejected")}
    assert rules.pop("repeated_paragraph") == 5 and lines.count(sentence) == 1
    assert set(rules) <= {"shared_with_training"}
    held_back = rules.get("shared_with_training", 0)
    assert sum(lines.count(line) for line in common.split("\n") if line in set(lines)) + held_back >= 6 * len(set(common.split("\n")))


def test_little_text_gets_a_small_validation_set(tmp_path: Path) -> None:
    report, _, screen = prepared(tmp_path, {"a.txt": "\n\n".join(prose(n, 2) for n in range(16))})
    assert 0 < report["validation"]["characters"] < 1000 < report["train"]["characters"] < 5000
    assert any("is not a reliable measure" in line for line in screen)
    with pytest.raises(DataError, match="contain one paragraph of"):
        prepared(tmp_path / "one", {"a.txt": prose(1, 3)})


@pytest.mark.parametrize("seed", range(24))
def test_copies_of_validation_never_fail_a_run(tmp_path: Path, seed: int) -> None:
    """Documents that share lines in every way, with and without the removal of duplicates."""
    chosen = random.Random(seed)
    pool = [prose(10_000 + n, 1) for n in range(chosen.randint(30, 200))]
    documents = ["\n".join(chosen.choices(pool, k=chosen.randint(1, 6))) for _ in range(120)]
    clean = {"duplicates": bool(seed % 2), "preset": ("gentle", "web")[seed % 3 == 0]}
    sources = [{"path": str(tmp_path / "a.txt"), "documents": "blank_line"}]
    (tmp_path / "a.txt").write_text("\n\n".join(documents), encoding="utf-8")
    report = prepare_data(DataConfig(sources=sources, clean=clean, workers=1), seed, tmp_path / "data", SilentProgress())  # type: ignore[arg-type]
    assert {kind: report["leaks"][kind] for kind in ("exact", "ngrams", "near", "rows_taken_out")} == dict.fromkeys(
        ("exact", "ngrams", "near", "rows_taken_out"), 0
    )
    train, val = (
        {line for d in read_documents(tmp_path / "data" / f"{split}.jsonl") for line in d["text"].split("\n")} for split in ("train", "val")
    )
    assert train and val and not train & val


def test_only_a_document_full_of_the_words_of_an_old_font_is_one() -> None:
    lines = [
        stored_in(KRUTI_DEV, text)
        for text in (LANGUAGES["mr"], "आज सकाळी पाऊस पडत होता, म्हणून आम्ही घरीच बसलो आणि गोष्टी ऐकल्या. ही गोष्ट आहे आणि ती नाही.")
    ]
    assert text_document(*lines)[1].counts["legacy_font"] == 2
    assert text_document(*lines, legacy_font="off")[0] == [normalize(line) for line in lines]
    assert text_document("ls ds dh", "ls -la dk.txt", *[prose(n, 2) for n in range(5)])[1].counts["legacy_font"] == 0


def test_the_screen_names_what_was_dropped_and_the_setting_that_keeps_it(tmp_path: Path) -> None:
    files = {"good.txt": "\n".join(prose(n, 3) for n in range(80)), "blob.txt": "QUJD" * 9_000, "seps.txt": "----\n====\n" * 300}
    _, _, screen = prepared(tmp_path, files, clean={"no_letters": True})
    table = [line for line in screen if line.startswith("  ")]
    assert any("too_long" in line and "data.clean.max_chars=" in line for line in table)
    assert any("no_letters" in line and "data.clean.no_letters=false" in line for line in table)
    assert any("nothing is left of texts/blob.txt" in line and "too_long" in line for line in screen)
    assert any("nothing is left of texts/seps.txt" in line and "no_letters" in line for line in screen)
    report, _, screen = prepared(tmp_path / "kept", files, clean={"max_chars": 1_000_000})
    assert not any("nothing is left" in line for line in screen)
    assert report["rules"]["too_long"]["rejected"] == 0


def test_every_rule_with_a_setting_names_a_value_that_turns_it_off() -> None:
    for rule, keep in KEEP.items():
        name, _, value = keep.partition("=")
        assert rule in CHANGES | REJECTIONS
        CleanConfig(**{name: json.loads(value) if value[0] in "[0123456789tf" else value})


NASTY = [
    "&amp; &nbsp;", "caf\u00c3\u00a9", "अ\ufffdब", "<p>एक</p>", "[[पुणे]] **ठळक**", "\uf0b7 bullet", "मजकू\ue123र", "------", "\ufeffBOM",
    "a\x07b",     "दोन\u200b शब्द", "\u0958लम", "अॅप", "tabs\tand   spaces ", "उद्भ्ावत", "a.b@example.org",
    "मो. 9800000001/9400000002", "खाते 123456789012",
    "x", "1234", "…", "QUJD" * 60, "vkgs vkf.k ukgh ;k o gs rs rh gk", "la la la la la la la la la la la la la la la",
    "```", "def f(x):", "    return x;",
    "Сегодня идёт дождь и мы сидим дома", "The same sentence stands in several places here.",
    "या वाक्याची प्रत अनेक ठिकाणी जशीच्या तशी सापडते.",
    "One sentence. " * 60, "\x07", " \u200b ",
]  # fmt: skip
LINES = st.lists(st.one_of(st.sampled_from(NASTY), st.integers(0, 60).map(lambda n: prose(n, 1 + n % 3))), min_size=1, max_size=25)


def as_file(kind: str, documents: list[list[str]]) -> str:
    if kind == ".txt":
        return "\n\n".join("\n".join(lines) for lines in documents)
    if kind == ".jsonl":
        rows = [
            {"text": "\n".join(lines)} if n % 2 else {"prompt": lines[0], "response": "\n\n".join(lines[1:]) or "हो"}
            for n, lines in enumerate(documents)
        ]
        return "\n".join([*(json.dumps(row, ensure_ascii=False) for row in rows), "{broken"])
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t" if kind == ".tsv" else ",")
    writer.writerow(["English", "मराठी"])
    writer.writerows([prose(n, 1), LANGUAGES["mr"][n % 40 :] + lines[0].replace("\n", " ")] for n, lines in enumerate(documents))
    return file.getvalue()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    documents=st.lists(LINES, min_size=2, max_size=8),
    preset=st.sampled_from(["gentle", "web"]),
    kind=st.sampled_from([".txt", ".jsonl", ".tsv", ".csv"]),
    structure=st.sampled_from(["auto", "blank_line", "file"]),
    limit=st.sampled_from([300, 20_000]),
)
def test_every_character_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[str]], preset: str, kind: str, structure: str, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("books")
    (folder / "texts").mkdir()
    (folder / "texts" / "base.txt").write_text("\n\n".join(prose(500 + n, 2) for n in range(40)), encoding="utf-8")
    (folder / "texts" / f"a{kind}").write_text(text := as_file(kind, documents), encoding="utf-8")
    clean: dict[str, Any] = {"preset": preset, "max_chars": limit, "languages": ["mr", "en"] if limit == 300 else []}
    sources = [{"path": str(folder / "texts"), "documents": structure}]
    report = prepare_data(DataConfig(sources=sources, clean=clean, workers=1), 1, folder / "data", SilentProgress())  # type: ignore[arg-type]
    out: dict[str, int] = {}
    for split in ("train", "val"):
        for document in read_documents(folder / "data" / f"{split}.jsonl"):
            size = sum(len(line) for part in texts_of(document) for line in part.split("\n"))
            out[document["source"]] = out.get(document["source"], 0) + size
    for source in report["sources"]:
        assert set(source["dropped"]) <= set(REJECTIONS) and set(source["changed"]) <= set(CHANGES)
        books = source["characters_out"] + sum(source["dropped"].values()) + sum(source["changed"].values())
        assert source["characters_in"] == books, source
        assert source["characters_out"] == out.get(source["source"], 0), (source, out)
    if kind == ".txt":
        read = next(source for source in report["sources"] if source["source"].endswith("a.txt"))
        assert read["characters_in"] == sum(len(line) for line in text.split("\n") if line.strip()), read
