"""Tests augmentation as a whole: which texts are added, filters, the cache, resuming, and that validation text is kept out."""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loopback_endpoint import loopback

pytest.importorskip("sacrebleu", reason="sacrebleu is not installed (extra augment)")

from sacrebleu.metrics import CHRF

from bulletlm.config.schema import AugmentConfig
from bulletlm.data.augment import augment_training, reproducibility_fields
from bulletlm.data.augment.cache import FILE, Cache, key_of
from bulletlm.data.augment.filters import RULES, Filters, ValidationGuard, main_script
from bulletlm.data.augment.sentences import split_sentences, words_only
from bulletlm.errors import BulletError, ConfigError
from bulletlm.progress import SilentProgress
from bulletlm.text.documents import Document, read_documents, texts_of, to_line
from paths import SHARED_DATA

SENTENCES = [
    "The old man walked slowly to the river.",
    "She reads a long book every quiet evening.",
    "Children play loudly near the village well.",
    "My mother makes warm bread for everybody.",
    "The rain came very late this year.",
    "We saw 12 birds on the tall tree.",
    "He wrote a short letter to his friend.",
    "The farmer sells fresh vegetables at the market.",
    "Nobody knew the answer to that question.",
    "A small boat crossed the wide lake at night.",
]
HELD_OUT = "The teacher told us a story about honest people."
WORDS = {
    "walked": "went",
    "reads": "is reading",
    "play": "are playing",
    "makes": "bakes",
    "came": "arrived",
    "saw": "noticed",
    "wrote": "sent",
    "sells": "is selling",
    "knew": "had",
    "crossed": "passed",
    "told": "gave",
}


def in_other_words(sentence: str) -> str:
    return " ".join(WORDS.get(word, word) for word in sentence.split(" "))


def documents() -> list[Document]:
    rows: list[Document] = [
        {"id": f"{n:016x}", "source": "a.txt", "language": "en", "text": f"{SENTENCES[n]} {SENTENCES[n + 1]}\n{SENTENCES[n + 2]}"}
        for n in range(8)
    ]
    for n, sentence in enumerate(SENTENCES):
        request = "Tell me something about " + " ".join(SENTENCES[n - 1].split()[:3])
        messages: Any = [{"role": "user", "content": request}, {"role": "assistant", "content": sentence}]
        rows.append({"id": f"{100 + n:016x}", "source": "b.jsonl", "language": "en", "messages": messages})
    rows.append({"id": f"{200:016x}", "source": "a.txt", "language": "mr", "text": "मला सकाळी गरम चहा आवडतो. तो रोज शाळेत जातो."})
    return rows


def run_folder(folder: Path, held_out: str = HELD_OUT) -> Path:
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(b"".join(map(to_line, documents())))
    (folder / "val.jsonl").write_bytes(to_line({"id": "0", "source": "a.txt", "language": "en", "text": held_out}))
    return folder


def augment(folder: Path, config: AugmentConfig, seed: int = 1) -> tuple[dict[str, Any], list[Document]]:
    """The report, and the rows that were added."""
    before = (folder / "train.jsonl").read_bytes()
    held_out = (folder / "val.jsonl").read_bytes()
    report = augment_training(config, seed, folder, folder.parent / "cache", SilentProgress())
    assert (folder / "val.jsonl").read_bytes() == held_out
    assert (folder / "train.jsonl").read_bytes().startswith(before), "the documents themselves stay as they are"
    assert sorted(path.name for path in folder.iterdir()) == ["train.jsonl", "val.jsonl"]
    return report, list(read_documents(folder / "train.jsonl"))[len(documents()) :]


def test_off_by_default(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "data")
    report, rows = augment(folder, AugmentConfig())
    assert rows == [] and report["documents_added"] == 0 and report["methods"] == []
    assert reproducibility_fields(AugmentConfig()) is None
    assert not (tmp_path / "cache").exists()


def test_documents_and_answers_come_back_in_other_words(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "data")
    with loopback(in_other_words) as server:
        report, rows = augment(folder, AugmentConfig(paraphrase_models={"en": server.url}, share=1.0))
        assert sorted(server.asked) == sorted(SENTENCES), "every sentence once, none of another language, none of the requests"
    originals = [row for row in documents() if row["language"] == "en"]
    assert len(rows) == len(originals) == report["documents_added"]
    assert report["characters_added"] == sum(len(text) for row in rows for text in texts_of(row))
    for old, new in zip(originals, rows, strict=True):
        assert (new["source"], new["language"]) == (f"{old['source']} (paraphrase)", "en")
        if "messages" in old:
            assert new["messages"][0] == old["messages"][0]
            assert new["messages"][1] == {"role": "assistant", "content": in_other_words(old["messages"][1]["content"])}
        else:
            assert new["text"] == "\n".join(in_other_words(line) for line in old["text"].split("\n"))
    assert len({row["id"] for row in [*documents(), *rows]}) == len(documents()) + len(rows)
    (part,) = report["methods"]
    assert (part["method"], part["language"], part["sentences"], part["kept"]) == ("paraphrase", "en", 10, 10)
    assert [row["filter"] for row in part["filters"]] == list(RULES)
    assert part["examples"]["kept"][0] == {"before": SENTENCES[0], "after": in_other_words(SENTENCES[0])}
    assert json.dumps(report, ensure_ascii=False)


def test_back_translation_asks_there_and_back(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "data")
    marathi = {sentence: f"वाक्य क्रमांक {'अआइईउऊएऐओऔ'[n]}" for n, sentence in enumerate(SENTENCES)}
    english = {there: old for old, there in marathi.items()}

    def answer(sentence: str) -> str:
        if sentence in marathi:
            return marathi[sentence]
        return in_other_words(english[sentence]) if sentence in english else "मला सकाळी गरम चहा फार आवडतो."

    with loopback(answer) as server:
        pairs = {"en-mr": server.url, "mr-en": server.url}
        report, rows = augment(folder, AugmentConfig(translation_models=pairs, share=1.0))
    english_part, marathi_part = report["methods"]
    assert (english_part["method"], english_part["language"], english_part["kept"]) == ("back-translation", "en", 10)
    assert english_part["models"] == [server.url, server.url]
    assert (marathi_part["language"], marathi_part["sentences"]) == ("mr", 2)
    assert {row["source"] for row in rows} == {"a.txt (back-translation)", "b.jsonl (back-translation)"}
    assert rows[0].get("text") == "\n".join(in_other_words(line) for line in documents()[0].get("text", "").split("\n"))


def test_each_filter_counts_and_shows_what_it_dropped(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "data")
    answers = {
        SENTENCES[0]: "...",
        SENTENCES[1]: SENTENCES[1].upper(),
        SENTENCES[2]: "Children खेळतात near विहिरीजवळ गावाच्या.",
        SENTENCES[3]: "My mother makes warm bread for 7 people.",
        SENTENCES[4]: "Rain came.",
        SENTENCES[5]: "Quite unlike: jazz music moves us, 12 pm.",
        SENTENCES[6]: "He wrote a short letter to his friends.",
        SENTENCES[7]: "The teacher told us all a story about honest people.",
        SENTENCES[8]: "Nobody at all had an answer to that question.",
        SENTENCES[9]: "Nobody at all had an answer to that question!",
    }
    expected = {
        "no_answer": SENTENCES[0],
        "unchanged": SENTENCES[1],
        "other_script": SENTENCES[2],
        "other_numbers": SENTENCES[3],
        "length_ratio": SENTENCES[4],
        "chrf_low": SENTENCES[5],
        "chrf_high": SENTENCES[6],
        "validation": SENTENCES[7],
    }
    config = AugmentConfig(share=1.0, chrf=(10.0, 94.0), length_ratio=(0.5, 1.6), sentences_at_once=64)
    with loopback(answers.__getitem__) as server:
        report, rows = augment(folder, config.model_copy(update={"paraphrase_models": {"en": server.url}}))
    (part,) = report["methods"]
    for rule, sentence in expected.items():
        assert [row["before"] for row in part["examples"][rule]] == [sentence], rule
    dropped = {row["filter"]: row["dropped"] for row in part["filters"]}
    assert dropped == {**dict.fromkeys(expected, 1), "repeated": 1} and part["kept"] == 1 == part["filters"][-1]["left"]
    assert not any(HELD_OUT.split()[1] in text for row in rows for text in texts_of(row))


def test_no_copy_of_validation_text_gets_in(tmp_path: Path) -> None:
    """No output is added if a model repeats the validation text in nearly the same words."""
    said = [
        HELD_OUT,
        HELD_OUT.upper() + "!!",
        HELD_OUT.replace("us", "them"),
        "Today " + HELD_OUT.lower(),
        "He wrote that the teacher told us a story about honest people.",
    ]
    for n, sentence in enumerate(said):
        folder = run_folder(tmp_path / str(n) / "data")
        with loopback(lambda asked, sentence=sentence: sentence) as server:  # type: ignore[misc]
            config = AugmentConfig(paraphrase_models={"en": server.url}, share=1.0, chrf=(1.0, 99.0), length_ratio=(0.1, 9.0))
            report, rows = augment(folder, config)
        dropped = {row["filter"]: row["dropped"] for row in report["methods"][0]["filters"]}
        assert rows == [] and dropped["validation"] > 0, sentence


def test_validation_sentences_are_never_asked_about(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "data")
    with loopback(in_other_words) as server:
        augment(
            folder,
            AugmentConfig(paraphrase_models={"en": server.url}, translation_models={"en-mr": server.url, "mr-en": server.url}, share=1.0),
        )
        assert not any("teacher" in sentence for sentence in server.asked)


def test_the_same_seed_gives_the_same_bytes_and_another_chooses_others(tmp_path: Path) -> None:
    outputs = []
    with loopback(in_other_words) as server:
        for n, seed in enumerate((1, 1, 2)):
            folder = run_folder(tmp_path / str(n) / "data")
            augment(folder, AugmentConfig(paraphrase_models={"en": server.url}, share=0.5), seed)
            outputs.append((folder / "train.jsonl").read_bytes())
    assert outputs[0] == outputs[1] != outputs[2]
    added = len(outputs[0].splitlines()) - len(documents())
    assert 3 <= added <= 15


def test_a_failed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "data")
    with loopback(in_other_words) as server:
        config = AugmentConfig(paraphrase_models={"en": server.url}, share=1.0, sentences_at_once=2)
        server.answer = lambda sentence: in_other_words(sentence) if len(server.asked) <= 5 else (400, b"out of memory")
        with pytest.raises(BulletError, match="out of memory"):
            augment(folder, config)
        done = sorted(server.asked)[:0] + server.asked[:4]
        server.asked.clear()
        server.answer = in_other_words
        (folder / "augmented.tmp").unlink()  # the stage's unfinished folder is deleted completely
        report, rows = augment(folder, config)
        assert sorted(server.asked) == sorted(set(SENTENCES) - set(done)), "the two batches that were done are not asked again"
        assert len(rows) == report["documents_added"] == 18

        server.asked.clear()
        again = run_folder(tmp_path / "again" / "data")
        augment(again, config.model_copy(update={"cache": str(tmp_path / "cache")}))
        assert server.asked == [], "and a shared cache answers everything"
        assert (again / "train.jsonl").read_bytes() == (folder / "train.jsonl").read_bytes()


KILLED = """
import sys
from pathlib import Path
from bulletlm.config.schema import AugmentConfig
from bulletlm.data.augment import augment_training
from bulletlm.progress import SilentProgress
config = AugmentConfig(paraphrase_models={"en": sys.argv[1]}, share=1.0, sentences_at_once=1)
augment_training(config, 1, Path(sys.argv[2]), Path(sys.argv[3]), SilentProgress())
"""


def test_a_killed_run_loses_at_most_one_batch(tmp_path: Path) -> None:
    folder, cache = run_folder(tmp_path / "data"), tmp_path / "cache"
    with loopback(in_other_words) as server:
        over = threading.Event()

        def slowly(sentence: str) -> str:
            if len(server.asked) > 4:
                over.wait()
            return in_other_words(sentence)

        server.answer = slowly
        process = subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(folder), str(cache)])
        while len(server.asked) <= 4 and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        over.set()
        assert len(server.asked) == 5
        done = server.asked[:4]
        server.asked.clear()
        server.answer = in_other_words
        (folder / "augmented.tmp").unlink()
        augment(folder, AugmentConfig(paraphrase_models={"en": server.url}, share=1.0, sentences_at_once=1))
        assert sorted(server.asked) == sorted(set(SENTENCES) - set(done))


def test_pairs_replace_sentences_that_occur(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "data")
    pairs = tmp_path / "pairs.tsv"
    lines = [
        f"{SENTENCES[0]}\tSlowly the old man walked to the river.",
        f"Very late came the rain this year.\t{SENTENCES[4]}",
        f"{SENTENCES[4].upper()}\tThis year the rain came very late!",
        f"{SENTENCES[2]}\t{HELD_OUT}",
        "मला सकाळी गरम चहा आवडतो\tसकाळी मला गरम चहा आवडतो.",
        "nothing of this\toccurs anywhere",
        "one column",
    ]
    pairs.write_text("\n".join(lines), encoding="utf-8")
    report, rows = augment(folder, AugmentConfig(paraphrase_pairs=[str(pairs)], chrf=(5.0, 99.0)))
    (part,) = report["methods"]
    assert part["lines_skipped"] == 1
    assert part["examples"]["validation"] == [{"before": SENTENCES[2], "after": HELD_OUT}]
    after = {row["before"]: row["after"] for row in part["examples"]["kept"]}
    assert after[SENTENCES[0]] == "Slowly the old man walked to the river."
    assert after[SENTENCES[4]] in ("Very late came the rain this year.", "This year the rain came very late!")
    assert after["मला सकाळी गरम चहा आवडतो."] == "सकाळी मला गरम चहा आवडतो."
    assert {row["source"] for row in rows} == {"a.txt (paraphrase pairs)", "b.jsonl (paraphrase pairs)"}
    assert not any("teacher" in text for row in rows for text in texts_of(row))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read .*No such file"), (b"no columns\n", "has no line with two columns"), (b"\xff\xfea\tb", "cannot read")],
)
def test_a_file_of_pairs_that_is_none(tmp_path: Path, content: bytes | None, message: str) -> None:
    folder, pairs = run_folder(tmp_path / "data"), tmp_path / "pairs.tsv"
    if content is not None:
        pairs.write_bytes(content)
    with pytest.raises(ConfigError, match=f"augment.paraphrase_pairs: .*{message}"):
        augment_training(AugmentConfig(paraphrase_pairs=[str(pairs)]), 1, folder, tmp_path / "cache", SilentProgress())


def test_what_decides(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("a b\tb a\n", encoding="utf-8")
    config = AugmentConfig(paraphrase_pairs=[str(pairs)], paraphrase_models={"en": "http://localhost:1/v1"})
    first = reproducibility_fields(config)
    assert first == reproducibility_fields(config.model_copy(update={"cache": "elsewhere", "endpoint_timeout": 5.0}))
    assert first != reproducibility_fields(config.model_copy(update={"share": 0.3}))
    pairs.write_text("a b\tb c\n", encoding="utf-8")
    assert first != reproducibility_fields(config)
    with pytest.raises(ConfigError, match="there is no folder"):
        reproducibility_fields(AugmentConfig(paraphrase_models={"en": str(tmp_path / "none")}))


def test_sacrebleu_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.chrf", None)
    with pytest.raises(BulletError, match=r"pip install .*\[augment\]'"):
        augment(run_folder(tmp_path / "data"), AugmentConfig(paraphrase_models={"en": "http://127.0.0.1:1/v1"}))


def sentences() -> st.SearchStrategy[str]:
    words = st.sampled_from(
        [*" ".join(SENTENCES).split(), "मला", "चहा", "आवडतो.", "१२", "12", "7", "“हो”", "\u200d", "...", "Éa", "x" * 40]
    )
    return st.lists(words, min_size=1, max_size=14).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(old=sentences(), new=sentences(), low=st.floats(0, 60), high=st.floats(61, 100))
def test_what_passes_has_every_property(old: str, new: str, low: float, high: float) -> None:
    if not words_only(old):
        return
    config = AugmentConfig(chrf=(low, high), length_ratio=(0.6, 1.7))
    guard = ValidationGuard([HELD_OUT, SENTENCES[3]])
    filters = Filters(config, guard)
    objection = filters.objection(old, new)
    assert objection is None or objection in RULES
    if objection is None:
        assert words_only(new) and words_only(new) != words_only(old)
        assert 0.6 <= len(new) / len(old) <= 1.7
        assert low <= CHRF().sentence_score(new, [old]).score <= high
        assert sorted(int(c) for c in old if c.isdecimal()) == sorted(int(c) for c in new if c.isdecimal())
        assert not guard.refuses(new)
        script, _ = main_script(old)
        assert not script or main_script(new)[0]
        assert filters.objection(old, new) is None, "the same answer for the same sentence may come again"
        assert filters.objection("Entirely different words " + old, new) is not None, "but not for another one"


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab Xé.!?।॥…\n\"”')म ् ि १3"), max_size=60))
@example("Dr. Rao came. He left.")
def test_splitting_loses_nothing(text: str) -> None:
    pieces = split_sentences(text)
    assert "".join(pieces) == text
    assert all(not piece.strip(" \n") for piece in pieces[1::2])


def test_sentences_end_where_they_should() -> None:
    text = "Dr. Rao came at 3.30 yesterday. “Who is it?” she asked. डॉ. पाटील आले. ते म्हणाले! हो।\nनवी ओळ"
    assert split_sentences(text)[::2] == [
        "Dr. Rao came at 3.30 yesterday.",
        "“Who is it?”",
        "she asked.",
        "डॉ. पाटील आले.",
        "ते म्हणाले!",
        "हो।",
        "नवी ओळ",
    ]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SENTENCES), st.integers(0, 10**9))
def test_the_guard_knows_a_sentence_again(sentence: str, seed: int) -> None:
    """The sentence is found in capitals, with other punctuation, with one word changed, and inside a longer sentence."""
    guard = ValidationGuard(["Something else. " + " ".join(SENTENCES)])
    rng = random.Random(seed)
    words = sentence.split()
    assert guard.refuses(sentence)
    assert guard.refuses("  ".join(words).upper().replace(".", " !") + " ?")
    at = rng.randrange(len(words))
    if len(words[at]) <= 3:
        assert guard.refuses(" ".join([*words[:at], "xyz", *words[at + 1 :]])) or len(sentence) < 45
    assert guard.refuses(f"Yesterday somebody said that {sentence[0].lower()}{sentence[1:-1]}, and then went away again.")
    rng.shuffle(words)
    assert not guard.refuses("Completely new things happen in another town.")


def test_the_guard_knows_eight_words_in_a_row() -> None:
    guard = ValidationGuard(["One two three four five. Six seven eight nine ten eleven twelve, " + "and much more besides " * 10])
    around = " ".join(f"word{n}" for n in range(30))
    assert guard.refuses(f"{around} four five six seven eight nine ten eleven {around}"), "also over the end of a sentence"
    assert not guard.refuses(f"{around} four five six seven eight nine ten {around}")


def test_an_empty_validation_set_refuses_nothing() -> None:
    assert not ValidationGuard([]).refuses("a b c")
    assert not ValidationGuard(["...", ""]).refuses("a b c")


def test_the_cache_keeps_answers(tmp_path: Path) -> None:
    one, two = key_of("m", "en", "mr", "a"), key_of("m", "en", "mr", "b")
    assert len({one, two, key_of("m", "en", "hi", "a"), key_of("n", "en", "mr", "a"), key_of("m", "mr", "mr", "a")}) == 5
    with Cache(tmp_path / "c") as cache:
        assert cache.get([one, two]) == {}
        cache.put({one: "एक"})
    with Cache(tmp_path / "c") as cache, Cache(tmp_path / "c") as other:
        assert cache.get([one, two]) == {one: "एक"}
        other.put({two: "", one: "1"})
        assert cache.get([two, one]) == {one: "1", two: ""}


def test_a_damaged_cache_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, but long enough to be read as the first page of one" * 20)
    with pytest.raises(BulletError, match=r"sentences.sqlite is damaged .*: delete it"):
        Cache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BulletError, match="cannot make the folder"):
        Cache(tmp_path / "file" / "below")


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="../shared is absent")
@pytest.mark.parametrize("language", ["mr", "en"])
def test_thresholds_suit_real_paraphrases(language: str) -> None:
    """Most pairs with the same meaning pass the filter, and very few pairs of the same length with different meanings."""
    lines = (SHARED_DATA / "paraphrase" / f"{language}-tatoeba.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in random.Random(1).sample(lines, 600)]
    guard = ValidationGuard([])
    passed = [Filters(AugmentConfig(), guard).objection(a, b) is None for a, b in pairs]
    assert sum(passed) > 0.93 * len(passed)
    ordered = sorted({a for a, _ in pairs}, key=lambda sentence: (len(sentence), sentence))
    wrong = [Filters(AugmentConfig(), guard).objection(a, b) is None for a, b in zip(ordered, ordered[7:], strict=False)]
    assert sum(wrong) < 0.05 * len(wrong)
