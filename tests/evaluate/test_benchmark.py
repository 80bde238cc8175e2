"""Tests the benchmarks against an independent computation with transformers on the exported folder, and the readers of test sets."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.cli.app import main
from bulletlm.cli.measure import RESULTS_START
from bulletlm.errors import BulletError, ConfigError, DataError
from bulletlm.evaluate.benchmark import published, run_benchmark, table
from bulletlm.evaluate.benchmark_tasks import Pair, Question, Sentence, Task, load_suite, read_tasks
from bulletlm.evaluate.language_models import BulletModel, _stored, _windows, log_probs, open_model
from bulletlm.formats.gguf import write_gguf
from bulletlm.formats.hf import write_hf
from bulletlm.formats.stored import StoredModel
from bulletlm.progress import SilentProgress
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import BOS, Tokenizer
from tiny_model import ENGLISH, MARATHI, random_tensors

GOOD = ["The children ran to the bridge.", "What is a friend?", "ऋतू बदलतात, झाडे फुलतात.", "एका गावात एक शेतकरी राहत होता."]
BAD = ["The children runs to the bridge.", "What are a friend?", "ऋतू बदलते, झाडे फुलतात.", "एका गावात एक शेतकरी राहत होती."]


@pytest.fixture(scope="module")
def stored(tiny_tokenizer: Tokenizer) -> StoredModel:
    """A random model whose context holds every sentence here."""
    shape = ModelShape(tiny_tokenizer.vocab_size, 64, 2, 4, 2, 64, 256)
    return StoredModel(shape, random_tensors(shape, 3), tiny_tokenizer.proto, {"languages": ["mr", "en"]})


@pytest.fixture(scope="module")
def own(stored: StoredModel) -> BulletModel:
    return BulletModel(_stored(stored), "own")


@pytest.fixture(scope="module")
def scored(stored: StoredModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Natural logarithms of the probabilities of a text's tokens, by transformers on the exported folder: text -> (ids, float64)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("export") / "model-hf"
    write_hf(folder, stored)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)

    def score(text: str) -> tuple[list[int], np.ndarray]:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.inference_mode():
            log_p = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)
        return ids, log_p[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()

    score.tokenizer = tokenizer  # type: ignore[attr-defined]
    return score


def values(own: BulletModel, **task: Any) -> dict[str, Any]:
    [result] = run_benchmark([own], [Task(name="t", language="en", **task)], SilentProgress())
    return result["models"][0]


def test_halves_equal_transformers(own: BulletModel, scored: Any) -> None:
    sentences = [*MARATHI.splitlines(), *ENGLISH.splitlines()]
    expected = []
    for sentence in sentences:
        ids, log_p = scored(sentence)
        half = len(scored.tokenizer(sentence[: len(sentence) // 2], add_special_tokens=False)["input_ids"])
        assert len(ids) - 1 == len(log_p) > half
        expected.append(-log_p[half:].sum() / math.log(2))
    result = values(own, kind="halves", items=sentences)
    assert result["value"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert result["low"] < result["value"] < result["high"]


def test_pairs_equal_transformers(own: BulletModel, scored: Any) -> None:
    for delimiter in ("", " "):
        right = [scored(delimiter + good)[1].sum() > scored(delimiter + bad)[1].sum() for good, bad in zip(GOOD, BAD, strict=True)]
        pairs = [Pair(good, bad, "first" if n < 2 else "rest") for n, (good, bad) in enumerate(zip(GOOD, BAD, strict=True))]
        result = values(own, kind="pairs", items=pairs, delimiter=delimiter)
        assert result["value"] == 100 * np.mean(right)
        assert result["details"]["groups"] == {"first": 100 * np.mean(right[:2]), "rest": 100 * np.mean(right[2:])}


def test_a_pair_of_equal_sentences_is_half_right(own: BulletModel) -> None:
    assert values(own, kind="pairs", items=[Pair("same", "same")])["value"] == 50


def test_choices_equal_transformers(own: BulletModel, scored: Any) -> None:
    questions = [Question("What is a friend? ", ("A boat", "A friend is somebody who tells you the truth", "River"), n) for n in range(3)]
    totals = []
    for option in questions[0].options:
        _, whole = scored(f"What is a friend? {option}")
        start = len(scored.tokenizer("What is a friend?", add_special_tokens=False)["input_ids"])
        totals.append(whole[start:].sum())
    best = int(np.argmax(totals))
    normalized = int(np.argmax([total / len(option) for total, option in zip(totals, questions[0].options, strict=True)]))
    for n, question in enumerate(questions):
        result = values(own, kind="choice", items=[question], delimiter=" ")
        assert result["value"] == 100 * (n == best)
        assert result["details"]["normalised"] == 100 * (n == normalized)
        assert result["details"]["chance"] == pytest.approx(100 / 3)


def test_bits_per_byte_equal_transformers(own: BulletModel, scored: Any) -> None:
    documents = [ENGLISH, MARATHI[:200]]
    bits = -sum(scored(document)[1].sum() for document in documents) / math.log(2)
    result = values(own, kind="text", items=documents)
    assert result["value"] == pytest.approx(bits / sum(len(document.encode()) for document in documents), rel=1e-5)


def test_translations_equal_sacrebleu(own: BulletModel) -> None:
    pytest.importorskip("sacrebleu")
    from sacrebleu.metrics import CHRF

    items = [Sentence("What is a friend?", ("मैत्री म्हणजे काय?", "मित्र म्हणजे काय?")), Sentence("It rained.", ("पाऊस पडला.",))]
    result = values(own, kind="translation", items=items, source_language="en", prompt="Translate into Marathi: {}")
    answers = [sample["answer"] for sample in result["details"]["samples"]]
    assert answers[0] == next(own.answer(["Translate into Marathi: What is a friend?"], sampling())).text.strip()
    references = [["मैत्री म्हणजे काय?", "पाऊस पडला."], ["मित्र म्हणजे काय?", None]]
    assert result["value"] == pytest.approx(CHRF().corpus_score(answers, references).score)


def sampling() -> Any:
    from bulletlm.runtime.sampling import Sampling

    return Sampling(temperature=0, repetition_penalty=1, max_tokens=128, seed=42)


def test_several_models_are_compared_item_by_item(own: BulletModel, stored: StoredModel) -> None:
    other = BulletModel(_stored(stored._replace(tensors=random_tensors(stored.shape, 4))), "other")
    sentences = [*MARATHI.splitlines(), *ENGLISH.splitlines()]
    [result] = run_benchmark([own, other], [Task(name="t", kind="halves", language="mr", items=sentences)], SilentProgress())
    [difference] = result["differences"]
    a, b = (row["value"] for row in result["models"])
    assert difference["value"] == pytest.approx(b - a) and difference["against"] == "own"
    assert difference["low"] is not None and difference["low"] <= difference["value"] <= difference["high"]  # type: ignore[operator]
    [same] = run_benchmark([own, own], [Task(name="t", kind="halves", language="mr", items=sentences)], SilentProgress())
    assert same["differences"][0]["value"] == 0
    assert any("within the noise" in line for line in table(same))


@given(length=st.integers(2, 200), context=st.integers(2, 40))
def test_windows_score_each_token_once_with_half_a_context(length: int, context: int) -> None:
    done = 0
    for start, end, first in _windows(length, context):
        assert first == done and start <= first < end <= length - 1 and end - start <= context
        assert start == 0 or first - start >= context // 2
        done = end
    assert done == length - 1


def test_long_texts_are_scored_in_windows(stored: StoredModel) -> None:
    """A short context sees less, but a token within it has the same probability as with a long one."""
    long = BulletModel(_stored(stored), "long")
    shape = ModelShape(**{**stored.shape.to_dict(), "max_seq_len": 16})
    short = BulletModel(_stored(stored._replace(shape=shape)), "short")
    ids = [BOS, *long.encode(MARATHI)]
    [whole], [cut] = log_probs(long, [ids[:250]]), log_probs(short, [ids[:250]])
    assert len(whole) == len(cut) == 249
    np.testing.assert_allclose(cut[:16], whole[:16], atol=1e-5)
    window = ids[8:25]  # the second window scores the inputs 16 to 23, after those from 8
    [direct] = log_probs(long, [window])
    np.testing.assert_allclose(cut[16:24], direct[8:16], atol=1e-5)


def test_batches_do_not_change_the_scores(own: BulletModel) -> None:
    texts = [[BOS, *own.encode(text)] for text in (*GOOD, MARATHI[:150], "a", "")]
    together = list(log_probs(own, texts))
    assert [len(scores) for scores in together] == [len(ids) - 1 for ids in texts]
    for ids, scores in zip(texts, together, strict=True):
        np.testing.assert_allclose(scores, next(log_probs(own, [ids])), atol=1e-5)


def test_llama_cpp_computes_the_same(stored: StoredModel, own: BulletModel, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "m.gguf", stored)
    assert open_model(tmp_path / "m.gguf").engine == "BulletLM"
    # With another name for a mark, the tokenizer is no longer one of BulletLM.
    content = (tmp_path / "m.gguf").read_bytes()
    assert content.count(b"<|user|>") >= 1
    (tmp_path / "foreign.gguf").write_bytes(content.replace(b"<|user|>", b"<|oser|>"))
    foreign = open_model(tmp_path / "foreign.gguf")
    assert foreign.engine == "llama.cpp"
    for text in (GOOD[0], GOOD[3]):
        assert foreign.encode(text) == own.encode(text)
        ids = [BOS, *own.encode(text)]
        [theirs], [ours] = log_probs(foreign, [ids]), log_probs(own, [ids])
        np.testing.assert_allclose(theirs, ours, atol=0.05)  # llama.cpp keeps keys and values in 16 bits
    written = list(foreign.answer(["What is a friend?"], sampling()))
    assert len(written) == 1 and written[0].tokens <= 128


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def kinds(tasks: list[Task]) -> list[tuple[str, str, str, int]]:
    return sorted((task.benchmark, task.kind, task.language, len(task.items)) for task in tasks)


def test_the_published_layouts_are_read(tmp_path: Path) -> None:
    data = tmp_path / "benchmarks"
    write(data / "flores200_dataset/devtest/eng_Latn.devtest", "One boat.", "Two boats.", "Three.")
    write(data / "flores200_dataset/devtest/mar_Deva.devtest", "एक होडी.", "दोन होड्या.", "तीन.")
    write(data / "flores200_dataset/devtest/hin_Deva.devtest", "एक नाव.", "दो नावें.", "तीन.")
    write(data / "flores200_dataset/dev/mar_Deva.dev", "एक.")
    write(data / "NTREX-128/newstest2019-src.eng.txt", "One.", "Two.")
    write(data / "NTREX-128/newstest2019-ref.eng-GB.txt", "One!", "Two!")
    write(data / "NTREX-128/newstest2019-ref.mar.txt", "एक.", "दोन.")
    row = {"sentence_good": "Who left?", "sentence_bad": "Who leave?", "UID": "agreement", "field": "syntax"}
    write(data / "blimp/data/agreement.jsonl", json.dumps(row), json.dumps(row))
    write(data / "blimp/data/other.jsonl", json.dumps({**row, "UID": "other"}))
    write(data / "multiblimp/mar/data.tsv", "sen\twrong_sen\tphenomenon", "तो आला\tतो आली\tSV-G", "ती आली\tती आला\tSV-G")
    write(
        data / "tatoeba/eng-mar.tsv",
        "1\tHow are you?\t7\tतुम्ही कसे आहात?",
        "1\tHow are you?\t8\tतू कसा आहेस?",
        "2\tIt is raining now.\t9\tआता पाऊस पडत आहे.",
    )

    def load(name: str, languages: tuple[str, ...] = ("mr", "en")) -> list[Task]:
        return load_suite(name, data, languages)

    assert kinds(load("flores")) == [
        ("", "translation", "en", 3),
        ("", "translation", "mr", 3),
        ("flores", "halves", "en", 3),
        ("flores", "halves", "mr", 3),
    ]
    assert {task.split for task in load("flores") if task.kind == "halves"} == {"devtest"}
    ntrex = load("ntrex")
    assert kinds(ntrex) == [
        ("", "translation", "en", 2),
        ("", "translation", "mr", 2),
        ("ntrex", "halves", "en", 2),
        ("ntrex", "halves", "mr", 2),
    ]
    assert next(task for task in ntrex if (task.kind, task.language) == ("halves", "en")).items == ["One.", "Two."]
    [blimp] = load("blimp")
    assert (blimp.language, len(blimp.items), {pair.group for pair in blimp.items}) == ("en", 3, {"agreement", "other"})
    [multi] = load("multiblimp")
    assert (multi.benchmark, multi.language) == ("multiblimp", "mr") and multi.items[0] == Pair("तो आला", "तो आली", "SV-G")
    tatoeba = load("tatoeba")
    assert kinds(tatoeba) == [("", "translation", "en", 3), ("", "translation", "mr", 2)]
    into_marathi = next(task for task in tatoeba if task.language == "mr")
    assert into_marathi.items[0] == Sentence("How are you?", ("तुम्ही कसे आहात?", "तू कसा आहेस?"))
    assert into_marathi.prompt == "Translate into Marathi: {}"
    assert len(load_suite("flores", data, ("mr",), limit=2)[0].items) == 2


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["How are you?\tतुम्ही कसे आहात?", "It is raining now.\tआता पाऊस पडत आहे."], ["en", "mr"]),
        (["How are you?\tतुम्ही कसे आहात?\tCC-BY 2.0 (France) Attribution: tatoeba.org"], ["en", "mr"]),
        (["eng\tmar\tHow?\tकसे?"], ["en", "mr"]),
    ],
)
def test_tables_of_sentence_pairs(tmp_path: Path, lines: list[str], expected: list[str]) -> None:
    tasks = read_tasks(write(tmp_path / "pairs.tsv", *lines))
    assert sorted(task.language for task in tasks) == expected


def test_questions_with_answers_in_every_form(tmp_path: Path) -> None:
    rows = [
        {"question": "Q", "choices": ["a b", "c d"], "answer": 1},
        {"question": "Q", "choices": ["a b", "c d"], "answer": "B"},
        {"question": "Q", "choices": ["a b", "c d"], "answer": "c d"},
        {"ctx": "Q", "endings": ["a b", "c d"], "label": "1"},
        {"question": "Q", "choices": {"text": ["a b", "c d"], "label": ["1", "2"]}, "answerKey": "2"},
    ]
    [task] = read_tasks(write(tmp_path / "q.jsonl", *map(json.dumps, rows)))
    assert task.kind == "choice" and {item.answer for item in task.items} == {1}


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.jsonl", ['{"good": "a", "bad": "b"}', "nonsense"], "line 2 is not JSON"),
        ("a.jsonl", ['{"good": "a", "bad": "b"}', '{"good": "a"}'], "line 2: bad must be a text"),
        ("a.jsonl", ['{"x": 1}'], "unknown layout"),
        ("a.jsonl", ["[1]"], "must be an object"),
        ("a.jsonl", ['{"question": "q", "choices": ["a", "b"], "answer": 2}'], "line 1: the answer 2"),
        ("a.jsonl", ['{"question": "q", "choices": ["a"], "answer": 0}'], "at least two"),
        ("a.tsv", ["one sentence"], "line 1 has no tab"),
        ("a.tsv", ["one\t"], "line 1 has an empty sentence"),
        ("mar_Deva.devtest", ["एक", "", "दोन"], "line 2 is empty"),
    ],
)
def test_a_file_that_is_no_test_set_is_named_with_its_line(tmp_path: Path, name: str, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tasks(write(tmp_path / name, *lines))


def test_a_list_of_tasks(tmp_path: Path) -> None:
    write(tmp_path / "good.jsonl", '{"good": "a", "bad": "b"}')
    write(tmp_path / "a.en", "One.", "Two.")
    write(tmp_path / "a.mr", "एक.", "दोन.")
    suite = tmp_path / "suite.jsonc"
    suite.write_text(
        json.dumps(
            {
                "tasks": [
                    {"kind": "pairs", "file": "good.jsonl", "language": "en", "delimiter": " ", "name": "mine"},
                    {"kind": "halves", "file": "a.en", "language": "en"},
                    {
                        "kind": "translation",
                        "source": "a.en",
                        "target": "a.mr",
                        "language": "mr",
                        "source_language": "en",
                        "prompt": "{} in Marathi?",
                    },
                ]
            }
        )
        + "// a comment\n"
    )
    pairs, halves, translation = load_suite(str(suite), tmp_path)
    assert (pairs.name, pairs.delimiter) == ("mine", " ")
    assert halves.items == ["One.", "Two."]
    assert translation.items[1] == Sentence("Two.", ("दोन.",)) and translation.prompt == "{} in Marathi?"
    for wrong, message in (
        ({"kind": "pairs"}, "needs file"),
        ({"kind": "poetry", "file": "good.jsonl"}, "kind is 'poetry'"),
        ({"kind": "pairs", "file": "good.jsonl", "langauge": "en"}, "unknown key 'langauge'"),
        ({"kind": "choice", "file": "good.jsonl"}, "holds 0 tasks"),
    ):
        suite.write_text(json.dumps({"tasks": [wrong]}))
        with pytest.raises(ConfigError, match=message):
            load_suite(str(suite), tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no files of flores, such as"):
        load_suite("flores", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="the names are flores, ntrex"):
        load_suite("floers", tmp_path)
    write(tmp_path / "mar_Deva.devtest", "एक")
    with pytest.raises(DataError, match="has only halves in mr"):
        load_suite("flores", tmp_path, kinds=("pairs",))


def test_the_table_places_the_model_among_published_scores(own: BulletModel) -> None:
    task = Task(name="FLORES dev", kind="halves", language="mr", items=MARATHI.splitlines(), benchmark="flores", split="dev")
    [result] = run_benchmark([own], [task], SilentProgress())
    lines = table(result)
    values = [row["value"] for row in published() if (row["benchmark"], row["language"]) == ("flores", "mr")]
    assert len(values) >= 8 and min(values) == 82.32
    assert [line for line in lines if " > own" in line] and "devtest, which has other sentences than dev" in lines[-1]
    shown = [float(line.split("[")[0].split()[-1]) for line in lines[1 : 2 + len(values)]]
    assert shown == sorted(shown) and len(shown) == len(values) + 1


def run_command(*words: object) -> None:
    with pytest.raises(SystemExit) as end:
        main(["benchmark", *map(str, words)])
    assert end.value.code == 0


def test_the_command(micro_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "pairs.jsonl", *(json.dumps({"good": good, "bad": bad}) for good, bad in zip(GOOD, BAD, strict=True)))
    write(tmp_path / "text.txt", ENGLISH)
    out = tmp_path / "results.json"
    suites = ["--suite", str(tmp_path / "pairs.jsonl"), "--suite", str(tmp_path / "text.txt")]
    run_command(micro_run, *suites, "--out", out)
    shown = capsys.readouterr().out
    assert f"> {micro_run} (FP32)" in shown and f"> {micro_run} (4-bit)" in shown
    assert out.read_bytes().startswith(RESULTS_START), "so that the command may replace it"
    results = json.loads(out.read_text())["results"]
    assert [result["kind"] for result in results] == ["pairs", "text"]
    assert [len(result["models"]) for result in results] == [2, 2]
    run_command(micro_run / "checkpoints" / "best", "--suite", tmp_path / "text.txt", "--json")
    best = json.loads(capsys.readouterr().out)["results"][0]["models"][0]["value"]
    assert best == pytest.approx(results[1]["models"][0]["value"], rel=1e-6), "the export has the weights of the best checkpoint"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "flores"], "needs a model"),
        (["MODEL", "--suite", "flores", "--tasks", "poetry"], "--tasks poetry"),
        (["MODEL", "--suite", "flores", "--limit", "0"], "--limit is 0"),
        (["nowhere.bullet", "--suite", "flores"], "does not exist"),
    ],
)
def test_wrong_use_is_one_line(bullet_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["benchmark", *(str(bullet_path) if word == "MODEL" else word for word in words)])
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_models_that_cannot_be_opened_say_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BulletError, match="holds no model"):
        open_model(tmp_path / "empty")
    (tmp_path / "checkpoints" / "best").mkdir(parents=True)
    (tmp_path / "checkpoints" / "best" / "state.json").write_text("{}")
    with pytest.raises(BulletError, match="is not in a run folder"):
        open_model(tmp_path / "checkpoints" / "best")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(BulletError, match="cannot"):
        open_model(tmp_path / "broken.gguf")
