"""Tests the tokenizer stage: the balanced sample, the report, and the comparison of vocabulary sizes."""

import json
from pathlib import Path

import pytest

from bulletlm.cli.app import main
from bulletlm.config.schema import Config, TokenizerConfig
from bulletlm.data.sizes import compare_sizes, print_sizes
from bulletlm.data.vocabulary import balanced_shares, held_out_texts, prepare_tokenizer, training_texts
from bulletlm.progress import SilentProgress
from bulletlm.text.documents import Document, read_documents, to_line
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.text.tokenizer_report import tokenizer_report
from bulletlm.text.train_tokenizer import train_tokenizer
from paths import SAMPLE_CORPUS


def rows(language: str) -> list[Document]:
    lines = [
        line
        for path in sorted(SAMPLE_CORPUS.glob(f"*.{language}.txt"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if len(line) > 20
    ]
    return [{"id": f"{language}{n}", "source": "sample", "language": language, "text": line} for n, line in enumerate(lines)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run with a data folder: all the Marathi of the sample corpus, a little of its English."""
    config = Config(runs_dir=str(tmp_path_factory.mktemp("runs")))
    config.tokenizer.vocab_size = 1200
    data = config.run_dir / "data"
    data.mkdir(parents=True)
    marathi, english = rows("mr"), rows("en")
    held_out = marathi[:30] + english[:30]
    (data / "val.jsonl").write_bytes(b"".join(map(to_line, held_out)))
    (data / "train.jsonl").write_bytes(b"".join(map(to_line, marathi[30:] + english[30:90])))
    return config


def test_shares_are_by_the_square_root_of_sizes() -> None:
    def text(language: str, size: int) -> Document:
        return {"id": "", "source": "", "language": language, "text": "x" * size}

    assert balanced_shares([text("mr", 9000), text("en", 1000)]) == {"en": 1.0, "mr": pytest.approx(1 / 3)}
    assert balanced_shares([text("mr", 500), text("en", 500)]) == {"en": 1.0, "mr": 1.0}
    tiny = balanced_shares([text("mr", 9000), text("en", 1000), text("und", 20)])
    assert tiny == {"en": 1.0, "mr": pytest.approx(1 / 3), "und": 1.0}, "a few lines of something else change nothing"
    assert balanced_shares([]) == {}


def test_training_texts_are_chosen_by_hash(run: Config) -> None:
    path = run.run_dir / "data" / "train.jsonl"
    everything = list(training_texts(path))
    assert everything == [row.get("text") for row in read_documents(path)]
    some = list(training_texts(path, {"mr": 0.25, "en": 1.0}))
    english = [text for text in everything if text.isascii()]
    assert set(english) <= set(some) < set(everything)
    assert 0.15 < (len(some) - len(english)) / (len(everything) - len(english)) < 0.35
    assert some == list(training_texts(path, {"mr": 0.25, "en": 1.0}))


def test_a_small_language_is_not_drowned(run: Config) -> None:
    """On text that neither vocabulary was trained on, English gains more than Marathi loses."""
    path = run.run_dir / "data" / "train.jsonl"
    held_out = held_out_texts(path.with_name("val.jsonl"))
    shares = balanced_shares(read_documents(path))
    assert shares["en"] == 1.0 and shares["mr"] < 0.7
    tokens = {}
    for name, texts in (("balanced", training_texts(path, shares)), ("all", training_texts(path))):
        tokenizer = Tokenizer(train_tokenizer(texts, 1200, 1, SilentProgress()))
        tokens[name] = {language: row["tokens"] for language, row in tokenizer_report(tokenizer, held_out)["languages"].items()}
    gained = 1 - tokens["balanced"]["en"] / tokens["all"]["en"]
    lost = tokens["balanced"]["mr"] / tokens["all"]["mr"] - 1
    assert gained > max(lost, 0.02)


def test_the_report_has_the_longest_and_rarest_pieces(run: Config, tmp_path: Path) -> None:
    report = prepare_tokenizer(TokenizerConfig(vocab_size=1200), 1, run.run_dir / "data", tmp_path / "tokenizer", SilentProgress())
    assert json.loads((tmp_path / "tokenizer" / "report.json").read_text(encoding="utf-8")) == report
    assert set(report["languages"]) == {"en", "mr"}
    assert report["trained_on_share"]["en"] == 1.0 > report["trained_on_share"]["mr"]
    tokenizer = Tokenizer.load(tmp_path / "tokenizer" / "tokenizer.model")
    ids = [i for text in training_texts(run.run_dir / "data" / "train.jsonl") for i in tokenizer.encode(text)]
    names = [piece.text.replace("\u2581", " ") for piece in tokenizer.pieces()]
    counts = {names[i]: ids.count(i) for i in set(ids)}
    for row in report["rarest_pieces"]:
        assert counts[row["piece"]] == row["count"]
    assert report["unused_pieces"] == sum(i not in set(ids) for i in range(262, tokenizer.vocab_size))
    assert report["rarest_pieces"][0]["count"] == min(counts[names[i]] for i in set(ids) if i >= 262)


def test_sizes_are_compared(run: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulletlm.data.sizes.SIZES", (800, 1600, 60_000))
    result = compare_sizes(run, SilentProgress())
    assert json.loads((run.run_dir / "tokenizer" / "compare.json").read_text(encoding="utf-8")) == result
    by_size = {row["vocab_size"]: row for row in result["rows"]}
    assert list(by_size) == [800, 1200, 1600, 60_000]
    assert by_size[1600]["embedding_parameters"] == 1600 * run.model.dim
    assert by_size[1600]["embedding_share"] == round(1600 * run.model.dim / run.model.shape(1600).n_parameters, 4)
    for language in ("en", "mr"):
        words = [by_size[size]["languages"][language]["tokens_per_word"] for size in (800, 1200, 1600)]
        assert words == sorted(words, reverse=True) and words[0] > words[-1]
        assert by_size[800]["context_words"][language] == round(run.model.max_seq_len / words[0])
    assert "take" in by_size[60_000]["problem"] and "languages" not in by_size[60_000]
    print_sizes(result, Path("compare.json"))
    table = capsys.readouterr().out
    assert "1,200 *" in table and f"{by_size[1600]['languages']['mr']['tokens_per_word']:.2f}" in table and "60,000" in table
    assert max(map(len, table.splitlines())) <= 140


def bullet(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code in (0, None)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulletlm.data.sizes.SIZES", (900,))
    command = ("tokenizer", "demo", f"--runs-dir={tmp_path}", "--vocab-size=1000")
    bullet(*command, "--compare")
    assert "1,000 *" in capsys.readouterr().out
    folder = tmp_path / "demo" / "tokenizer"
    assert [row["vocab_size"] for row in json.loads((folder / "compare.json").read_text())["rows"]] == [900, 1000]
    bullet(*command)
    assert capsys.readouterr().out.strip() == str(folder)
    assert (folder / "compare.json").exists(), "the stage was up to date"


def test_a_short_text_gets_the_vocabulary_that_it_can_fill(run: Config, tmp_path: Path) -> None:
    """A configuration for a large corpus must also work with a small one."""
    said: list[str] = []

    class Listening(SilentProgress):
        def log(self, text: str, level: str = "info") -> None:
            said.append(text)

    prepare_tokenizer(TokenizerConfig(vocab_size=60_000), 1, run.run_dir / "data", tmp_path / "tokenizer", Listening())
    tokenizer = Tokenizer.load(tmp_path / "tokenizer" / "tokenizer.model")
    assert 1_000 < tokenizer.vocab_size < 60_000
    assert f"{tokenizer.vocab_size:,} tokens instead of 60,000" in said[0]
    assert f"of {tokenizer.vocab_size:,} tokens never occur" in said[1] and "--tokenizer.vocab_size=" in said[1] and len(said) == 2
