"""Tests the evaluation stage end to end on a micro run, and the HTML page that it writes."""

import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bulletlm.config.schema import Config
from bulletlm.errors import BulletError, DataError
from bulletlm.evaluate import evaluate_run
from bulletlm.evaluate.formatting import duration, percent_change, perplexity, size, small
from bulletlm.evaluate.page import render
from bulletlm.evaluate.report import named_languages, read_training, thin
from bulletlm.progress import SilentProgress

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'and' <b>\x00\x1b[31m\u202etxt.exe ]]> --> </style>"
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Fails on tags that do not nest; keeps tags, attributes and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [str(value) for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def folder(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


@pytest.fixture(scope="module")
def report(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = Path(shutil.copytree(run_folder, tmp_path_factory.mktemp("report") / "run"))
    config = Config.model_validate({"name": "micro", "tokenizer": {"vocab_size": 600}, "sampling": {"max_tokens": 12}})
    return evaluate_run(folder, config, SilentProgress())


def test_stage(folder: Path, config: Config) -> None:
    report = evaluate_run(folder, config, SilentProgress())
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == report
    assert report["fp32"]["loss"] + report["comparison"]["loss_delta"]["mean"] == pytest.approx(report["bq4"]["loss"])
    assert report["bq4"]["bytes"] == (folder / "model.bullet").stat().st_size
    assert len(report["generations"]["rows"]) == 40
    assert report["generations"]["samples"] == [0, 10, 1, 11]
    assert set(report["by_language"]) == {"mr", "en"}
    assert {row["type"] for row in report["tensors"]} == {"BQ4", "BQ8", "F32"}
    for row in report["tensors"]:
        low, high = {"BQ4": (0.03, 0.2), "BQ8": (0.001, 0.02), "F32": (0, 0)}[row["type"]]
        assert low <= row["relative_rmse"] <= high
        assert (row["kl"] is None) == (row["output_error"] is None and row["type"] == "F32") == (row["type"] == "F32")
    assert not list(folder.glob("*.partial"))
    html = (folder / "report.html").read_bytes()
    again = evaluate_run(folder, config, SilentProgress())
    assert again == report and (folder / "report.html").read_bytes() == html


def test_page_is_whole_and_alone(report: dict[str, Any]) -> None:
    html = render(report)
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.tags and "iframe" not in page.tags
    for _, name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "xlink:href", "src"):
            assert value is not None and value.startswith("#") and value[1:] in page.ids
    for address in re.findall(r"https?://[^\s\"'<]+", html):
        assert address.startswith("http://www.w3.org/")  # namespaces of SVG
    assert all(value[5:-1] in page.ids for value in re.findall(r"url\(#[^)]*\)", html))
    assert "@import" not in html and page.tags.count("svg") == 5
    for row in report["generations"]["rows"]:
        assert row["prompt"] in page.text
    for word in (
        "FP32",
        "4-bit",
        "Marathi",
        "English",
        "perplexity",
        "micro",
        "bullet chat",
        "1,190 were kept (99.2",
        "paragraphs that are too short",
        "Training mixture",
        "4,449",
        "2,380 passages of training text were compared",
        "and 2 more",
        "data.clean.min_chars",
        "or are turned off: legacy font.",
        "back-translation, Marathi",
        "(augment.chrf) 12.",
        "तो घरी पोहोचला.",
        "and 71 tokens that do not occur in it",
        "600 (this run)",
        "more than this text can fill",
        "Effect of each matrix alone",
        "Error of the outputs",
        "whole layer",
        "Do not ship: ",
        "What to do, the cheapest first",
        "report.limits.right_language",
        "Facts of the training text",
        "The losses with logarithmic axes",
        "bits per byte of a 5-gram model of the same text",
    ):
        assert word in page.text


def test_everything_is_escaped(report: dict[str, Any]) -> None:
    """Replaces every text of the report with a hostile one."""
    kept = {"curves", "type", "path", "lang", "setting", "status", "decision", "deciding", "unit", "better", "limits", "cost"}
    names = {"figures"}

    def poison(value: Any, key: str = "") -> Any:
        if key in kept:
            return value
        if key in names:
            return [{**figure, "label": figure["label"] + HOSTILE, "text": figure["text"] + HOSTILE} for figure in value]
        if isinstance(value, dict):
            return {name: poison(part, name) for name, part in value.items()}
        if isinstance(value, list):
            return [poison(part, key) for part in value]
        return value + HOSTILE if isinstance(value, str) else value

    bad = poison(report)
    for field in ("by_language", "by_source"):
        bad[field] = {label + HOSTILE: part for label, part in bad[field].items()}
    html = render(bad)
    page = Page(html)
    clean = Page(render(report))
    assert set(page.tags) <= set(clean.tags) | {"svg"}
    assert "script" not in page.tags
    assert {name for _, name, _ in page.attributes} == {name for _, name, _ in clean.attributes}
    assert not set(html) & {*map(chr, range(9)), "\x1b", "\u202e"}
    assert page.text.count("<script>alert(1)</script>") > 60


def test_nothing_optional(folder: Path, config: Config) -> None:
    (folder / "metrics.jsonl").unlink()
    (folder / "tokenizer" / "report.json").unlink()
    (folder / "tokenizer" / "compare.json").unlink()
    (folder / "data" / "clean-report.json").unlink()
    (folder / "quantization.json").unlink()
    report = evaluate_run(folder, config, SilentProgress())
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert report["training"] is None and report["tokenizer"] is None and report["data"] is None
    assert report["vocabulary_sizes"] is None and "Other vocabulary sizes" not in page.text
    assert "svg" not in page.tags
    assert "Not available: the learning curves (metrics.jsonl is missing)" in page.text
    assert "Not available: the statistics of the tokenizer" in page.text
    assert "Not available: the effect of each matrix (quantization.json is missing)" in page.text
    assert "Effect of each matrix alone" not in page.text and "Error of the weights" in page.text
    assert "Not available: the counts of the cleaning rules (data/clean-report.json is missing)" in page.text


@pytest.mark.parametrize("name", ["model.bullet", "export/npy/manifest.json", "tokens/val.bin"])
def test_needed_files(folder: Path, config: Config, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BulletError) as caught:
        evaluate_run(folder, config, SilentProgress())
    assert Path(name).name in str(caught.value) and "\n" not in str(caught.value)
    assert not (folder / "report.json").exists() and not (folder / "report.html").exists()


def test_own_prompts(folder: Path, config: Config, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "फक्त एक?", "language": "mr", "kind": "my kind"}\n', encoding="utf-8")
    config.evaluate.prompts = str(path)
    report = evaluate_run(folder, config, SilentProgress())
    assert [row["prompt"] for row in report["generations"]["rows"]] == ["फक्त एक?"]
    assert "my kind" in (folder / "report.html").read_text(encoding="utf-8")
    config.evaluate.prompts = str(tmp_path / "none.jsonl")
    with pytest.raises(DataError):
        evaluate_run(folder, config, SilentProgress())


def test_training_log(tmp_path: Path) -> None:
    """A run that was killed at step 3, resumed from step 2, with a line cut in the middle."""

    def train(step: int, loss: float) -> str:
        values = {"tokens": 10 * step, "train/loss": loss, "lr": 0.1, "grad_norm": 1.0, "tokens_per_s": 5.0, "seconds": 1.0}
        return json.dumps({"event": "train", "step": step, **values})

    def evaluate(step: int, loss: float, best: bool) -> str:
        return json.dumps({"event": "eval", "step": step, "val/loss": loss, "val/bpb": 1.0, "best": best})

    lines = [
        train(1, 9.0),
        train(2, 8.0),
        evaluate(2, 7.0, True),
        train(3, 99.0),
        '{"event": "tra',
        train(3, 7.0),
        train(4, 6.0),
        evaluate(4, 7.5, False),
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    missing: list[str] = []
    training = read_training(path, missing)
    assert training is not None
    assert training["curves"]["train/loss"] == [[1, 9.0], [2, 8.0], [3, 7.0], [4, 6.0]]
    assert training["curves"]["val/loss"] == [[2, 7.0], [4, 7.5]]
    assert "val/loss_ema" not in training["curves"]
    assert (training["steps"], training["tokens"], training["best_step"], training["last_val_loss"]) == (4, 40, 2, 7.5)
    assert training["seconds"] == pytest.approx(40 / 5)
    assert training["ended"] is None
    assert missing == ["1 unreadable line of metrics.jsonl"]
    odd = ["[]", "3", "{}", "[" * 100_000, '{"event": [], "step": 1}', '{"event": "train", "step": "5"}', '{"event": "eval", "step": 6}']
    odd += ['{"event": "train", "step": 5, "tokens": "x", "tokens_per_s": 1.0}', '{"event": "end", "step": 4, "reason": {}}']
    odd += [f'{{"event": "train", "step": 5, "tokens": 50, "tokens_per_s": {value}}}' for value in ("NaN", "-Infinity", "1e999", "9" * 999)]
    path.write_text("\n".join([*odd, *lines]), encoding="utf-8")
    missing = []
    assert read_training(path, missing) == training
    assert missing == [f"{len(odd) + 1} unreadable lines of metrics.jsonl"]
    path.write_text("")
    assert read_training(path, missing) is None and "no training step" in missing[-1]


def test_a_prompt_may_hold_any_line_separator(tmp_path: Path) -> None:
    """JSON does not escape U+2028 and U+0085, which are not ends of lines in metrics.jsonl."""
    rows = [{"event": "train", "step": 1, "tokens": 10, "tokens_per_s": 5.0}]
    rows += [{"event": "sample", "step": 1, "prompt": "a\u2028b\u0085c", "answer": "d"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    missing: list[str] = []
    assert read_training(tmp_path / "metrics.jsonl", missing) and not missing


def test_thinning_keeps_the_mean() -> None:
    points = [[float(n), float(n % 7)] for n in range(3000)]
    thinned = thin(points)
    assert len(thinned) == 300 and thinned[-1][0] == 2999
    assert sum(value for _, value in thinned) / 300 == pytest.approx(sum(value for _, value in points) / 3000)
    assert thin(points[:300]) == points[:300]


def test_numbers_for_people() -> None:
    assert [size(n) for n in (0, 999, 1000, 1_400_000, 250_000_000)] == ["0 bytes", "999 bytes", "1.0 KB", "1.4 MB", "250 MB"]
    assert [duration(s) for s in (0, 0.03, 0.42, 0.6)] == ["0.1 s", "0.1 s", "0.4 s", "1 s"]
    assert [duration(s) for s in (3.4, 60, 200.2, 3600, 98_000)] == ["3 s", "1 min 00 s", "3 min 20 s", "1 h 00 min", "27 h 13 min"]
    assert [small(x) for x in (0, 0.00891, 0.5, 3.2e-8, 12.3)] == ["0", "0.0089", "0.50", "3.2 × 10⁻⁸", "12"]
    assert [perplexity(x) for x in (1.234, 22.712, 345.67, 12345.6)] == ["1.23", "22.71", "345.7", "12,346"]
    assert [percent_change(x) for x in (0.00934, -0.001, 2.5)] == ["+0.93\u00a0%", "−0.10\u00a0%", "+250\u00a0%"]
    assert perplexity(math.exp(700.0)) == "1.0 × 10³⁰⁴"


def test_starts_fast() -> None:
    """Reading a report's code must not cost the import of torch or matplotlib."""
    code = "import sys, bulletlm.evaluate; sys.exit(bool({'torch', 'matplotlib'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_file_names_no_language_of_a_few_stray_documents() -> None:
    bytes_of = {"en": 900_000, "mr": 40_000, "fr": 51, "und": 50_000}
    rows = {code: {"tokens": count // 3, "bytes": count, "documents": 1} for code, count in bytes_of.items()}
    split: Any = {"tokens": 300_000, "bytes": sum(bytes_of.values()), "by_language": rows, "documents": []}
    index: Any = {"train": split, "val": split}
    assert named_languages(index) == ["en", "mr"]
