"""Tests that the verdicts can fail: every way to break a model changes a verdict, and the report names what is wrong."""

import copy
import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from micro_run import conversations
from scripted import scripted_model

from bulletlm.cli.output import command_here
from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config, LimitsConfig
from bulletlm.dashboard.remedies import new_run_flags, remedy_words
from bulletlm.data.tokens import write_tokens
from bulletlm.evaluate import evaluate_run
from bulletlm.evaluate.intervals import paired_difference
from bulletlm.evaluate.page import render
from bulletlm.evaluate.report import build_report, measure
from bulletlm.evaluate.report_types import Report, Verdict
from bulletlm.evaluate.summary import sentences, summary
from bulletlm.evaluate.verdict_causes import MORE_TEXT, _with_text
from bulletlm.evaluate.verdict_figures import FEWEST_LEVELS, make_figure
from bulletlm.evaluate.verdicts import judge
from bulletlm.evaluate.weight_checks import check_weights
from bulletlm.evaluate.words import Words
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.formats.npy import read_npy
from bulletlm.progress import SilentProgress
from bulletlm.quant.bq4 import Quantized, dequantize_bq4, pack_bq4, quantize_bq4, unpack_bq4
from bulletlm.quant.types import bits_of_file
from bulletlm.shape import ModelShape
from bulletlm.text.chat import encode_document
from bulletlm.text.documents import Document, read_documents, to_line
from bulletlm.text.tokenizer import Tokenizer

Tensors = dict[str, Any]


def figure(verdict: Verdict, name: str) -> dict[str, Any]:
    return dict(next(each for each in verdict["figures"] if each["name"] == name))


def causes(verdict: Verdict) -> dict[str, str]:
    return {cause["name"]: cause["text"] for cause in verdict["causes"]}


# Quantization: a finished run of a micro model whose file is changed afterwards.


@pytest.fixture(scope="module")
def micro(micro_run: Path, micro_config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = Path(shutil.copytree(micro_run, tmp_path_factory.mktemp("sabotage") / micro_run.name))
    return folder, micro_config.model_copy(update={"runs_dir": str(folder.parent)})


@pytest.fixture(scope="module")
def intact(micro: tuple[Path, Config]) -> Report:
    return evaluate_run(*micro, SilentProgress())


def sabotaged(micro: tuple[Path, Config], tmp_path: Path, change: Callable[[Tensors], None]) -> Report:
    """The report of the run after a change of the stored tensors."""
    folder, config = micro
    file = open_bullet(folder / "model.bullet")
    tensors: Tensors = {name: file.read_blocks(name) for name in file.tensors}
    change(tensors)
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    contents = ModelContents(
        shape=file.shape,
        tensors=tensors,
        types={name: file.type(name) for name in file.tensors},
        tokenizer_proto=file.tokenizer_proto,
        pieces=file.pieces,
        metadata=file.metadata,
    )
    write_bullet(copy / "model.bullet", contents)
    return evaluate_run(copy, config, SilentProgress())


def test_an_intact_file_is_safe(intact: Report) -> None:
    verdict = intact["verdicts"]["quantization"]
    assert verdict["decision"] == "safe" and verdict["title"] == "Safe to ship"
    assert verdict["deciding"] == ["perplexity_change", "kl", "language_change"]
    assert not verdict["causes"] and not verdict["remedies"]


def test_doubled_scales_of_a_layer(micro: tuple[Path, Config], tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith("layers.1.") and isinstance(tensors[name], Quantized)]:
            codes, scales = unpack_bq4(tensors[name].blocks)
            tensors[name] = Quantized("BQ4", pack_bq4(codes, (2 * scales.astype(np.float32)).astype(np.float16)))

    verdict = sabotaged(micro, tmp_path, change)["verdicts"]["quantization"]
    assert verdict["decision"] == "stop"
    assert "layer 1" in causes(verdict)["wrong_scales"] and "2.0" in causes(verdict)["wrong_scales"]
    assert "layer 0" not in json.dumps(verdict["causes"])
    assert verdict["remedies"][0]["command"] == "bullet evaluate RUN"


def test_two_exchanged_rows_of_the_vocabulary(micro: tuple[Path, Config], tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        blocks = np.array(tensors["token_embedding.weight"].blocks)
        blocks[[620, 655]] = blocks[[655, 620]]
        tensors["token_embedding.weight"] = Quantized("BQ8", blocks)

    verdict = sabotaged(micro, tmp_path, change)["verdicts"]["quantization"]
    assert verdict["decision"] == "stop" and verdict["deciding"][0] == "far_rows"
    assert "620 and 655 of token_embedding.weight" in causes(verdict)["exchanged_rows"]


def test_two_bits(micro: tuple[Path, Config], tmp_path: Path) -> None:
    _, exact, _, _ = read_npy(micro[0] / "export" / "npy")

    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if isinstance(tensors[name], Quantized) and tensors[name].type == "BQ4"]:
            blocks = exact[name].reshape(-1, 32)
            scale = np.abs(blocks).max(axis=1, keepdims=True) / 2
            coarse = np.clip(np.round(blocks / scale), -2, 1) * scale
            tensors[name] = Quantized("BQ4", quantize_bq4(coarse.reshape(exact[name].shape).astype(np.float32)))

    verdict = sabotaged(micro, tmp_path, change)["verdicts"]["quantization"]
    assert verdict["decision"] == "stop" and "more coarsely than 4 bits" in causes(verdict)["coarse_rounding"]


def test_weights_that_qat_moved_are_not_damage(micro: tuple[Path, Config], tmp_path: Path) -> None:
    """QAT trains the weights, so they may be far from FP32 while the predictions are not; coarse rounding is still recognized."""
    report = sabotaged(micro, tmp_path, lambda tensors: None)
    for row in report["tensors"]:
        row["relative_rmse"] *= 3
    assert figure(judge(report, LimitsConfig())["quantization"], "weight_error")["status"] == "broken"
    report["quantised"] = {**(report["quantised"] or {}), "qat": {"steps": 300}}
    assert judge(report, LimitsConfig())["quantization"]["decision"] == "safe"

    levels = [(row["levels"], row["plain_levels"]) for row in report["tensors"] if row["type"] == "BQ4"]
    assert levels and all(number is not None and plain and number > FEWEST_LEVELS * plain for number, plain in levels)
    for row in report["tensors"]:
        row["levels"] = row["levels"] and 3.8
    report["comparison"]["intervals"]["kl"] = {"value": 0.5, "low": 0.4, "high": 0.6}
    verdict = judge(report, LimitsConfig())["quantization"]
    assert verdict["decision"] == "stop" and "coarse_rounding" in causes(verdict)


def weights_of_dead_neurons(rng: np.random.Generator) -> Any:
    """A matrix as weight decay leaves it: three quarters of the inputs are nearly zero, the others are alive."""
    alive = rng.random(256) < 0.25
    return (rng.normal(size=(64, 256)) * np.where(alive, 0.1, 0.002)).astype(np.float32)


def row_of(exact: Any, stored: Any, **values: Any) -> dict[str, Any]:
    """A row of the report's tensors, of a file with these weights."""
    check = check_weights(exact, stored)
    found = {key: value for key, value in vars(check).items() if key != "exchanged"}
    return {**found, "name": "layers.0.mlp.down_proj.weight", "type": "BQ4", "exchanged": [], "kl": None, **values}


def judged(intact: Report, row: dict[str, Any], qat: bool) -> tuple[dict[str, str], dict[str, Any]]:
    """The causes and the figure "weight_error" of a file that has this matrix too, and whose KL divergence is too high."""
    report = copy.deepcopy(intact)
    report["tensors"].append(row)  # type: ignore[arg-type]
    report["quantised"] = {**(report["quantised"] or {}), "qat": {"steps": 9} if qat else None}
    report["comparison"]["intervals"]["kl"] = {"value": 0.5, "low": 0.4, "high": 0.6}
    verdict = judge(report, LimitsConfig())["quantization"]
    return causes(verdict), figure(verdict, "weight_error")


@pytest.mark.parametrize("qat", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-9, 0.0])
def test_weights_that_decay_set_to_nearly_zero_are_not_rounded_coarsely(intact: Report, qat: bool, scale: float) -> None:
    exact = weights_of_dead_neurons(np.random.default_rng(0)) * np.float32(scale)
    found, weight_error = judged(intact, row_of(exact, dequantize_bq4(quantize_bq4(exact))), qat)
    assert "coarse_rounding" not in found and weight_error["status"] in ("ok", "unknown")


@pytest.mark.parametrize("qat", [False, True])
def test_two_bits_are_found_also_among_dead_weights(intact: Report, qat: bool) -> None:
    exact = weights_of_dead_neurons(np.random.default_rng(0))
    blocks = exact.reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 2
    stored = (np.clip(np.round(blocks / scale), -2, 1) * scale).reshape(exact.shape).astype(np.float32)
    assert "coarse_rounding" in judged(intact, row_of(exact, stored), qat)[0]


def test_weights_that_calibration_moved_without_effect_are_not_damage(intact: Report) -> None:
    """Calibration compares outputs. Without QAT too, it moves a matrix far whose inputs are nearly zero."""
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(64, 256)).astype(np.float32)
    stored = dequantize_bq4(quantize_bq4(exact + 0.8 * rng.normal(size=exact.shape).astype(np.float32)))
    row = row_of(exact, stored)
    found, weight_error = judged(intact, {**row, "kl": 1e-5, "built_rmse": row["relative_rmse"]}, False)
    assert "coarse_rounding" not in found and weight_error["status"] == "ok"
    for changed in ({"kl": 0.01}, {"kl": None}, {"built_rmse": 0.1}, {"built_rmse": None}):
        found, weight_error = judged(intact, {**row, "kl": 1e-5, "built_rmse": row["relative_rmse"], **changed}, False)
        assert "coarse_rounding" in found and weight_error["status"] == "broken"


# Usefulness: models that know certain texts, on the texts of a run folder.


class Scene:
    """A run folder whose held-out questions are the prompts, and models that answer them in a certain way."""

    def __init__(self, folder: Path, config: Config, tokenizer: Tokenizer) -> None:
        self.folder, self.config, self.tokenizer = folder, config, tokenizer
        shape, *_ = read_npy(folder / "export" / "npy")
        self.shape: ModelShape = replace(shape, max_seq_len=256)
        self.train, self.val = (list(read_documents(folder / "data" / f"{split}.jsonl")) for split in ("train", "val"))

    def report(self, documents: Sequence[Document], answers: Callable[[Document], str] | None = None) -> Report:
        """The report of a model that knows `documents`, and gives other answers to the prompts if `answers` is given."""
        known = [(encode_document(self.tokenizer, document)[0], 1) for document in documents]
        for document in self.val:
            if "messages" in document and answers:
                question = document["messages"][0]
                changed: Document = {**document, "messages": [question, {"role": "assistant", "content": answers(document)}]}
                known.append((encode_document(self.tokenizer, changed)[0], 50))
        model = scripted_model(self.tokenizer, self.shape, known)
        return build_report(self.folder, self.config, measure(self.folder, self.config, (model, model), SilentProgress()))

    def own_answer(self, document: Document) -> str:
        return document["messages"][1]["content"]


@pytest.fixture(scope="module")
def scene(run_folder: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Conversations for training and validation, with prompts of their own."""
    folder = Path(shutil.copytree(run_folder, tmp_path_factory.mktemp("scene") / "micro"))
    rows = conversations()
    for split, part in (("train", [row for n, row in enumerate(rows) if n % 4]), ("val", rows[::4])):
        (folder / "data" / f"{split}.jsonl").write_bytes(b"".join(to_line(row) for row in part))
    write_tokens(folder / "data", tokenizer, "all", folder / "tokens", SilentProgress())
    (folder / "metrics.jsonl").unlink()
    prompts = folder / "prompts.jsonl"
    lines = [
        {
            "prompt": row["messages"][0]["content"],
            "language": row["language"],
            "kind": "short",
            "about": row["messages"][1]["content"].split(),
        }
        for row in rows[::4]
    ]
    prompts.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    config = Config.model_validate(
        {"name": "micro", "runs_dir": str(folder.parent), "evaluate": {"prompts": str(prompts)}, "sampling": {"max_tokens": 60}}
    )
    return Scene(folder, config, tokenizer)


@pytest.fixture(scope="module")
def good(scene: Scene) -> Report:
    """A model that knows everything and answers as people do."""
    return scene.report([*scene.train, *scene.val], scene.own_answer)


def test_a_good_model_is_safe(good: Report) -> None:
    verdict = good["verdicts"]["usefulness"]
    assert verdict["decision"] == "safe", [
        (each["name"], each["value"], each["limit"]) for each in verdict["figures"] if each["status"] != "ok"
    ]
    assert not verdict["causes"] and len(verdict["deciding"]) == 3


def test_trained_on_the_validation_text(scene: Scene) -> None:
    verdict = scene.report(scene.val, scene.own_answer)["verdicts"]["usefulness"]
    assert verdict["decision"] == "stop" and "trained on it" in causes(verdict)["trained_on_validation"]


def test_validation_text_in_the_training_text(scene: Scene, tmp_path: Path) -> None:
    other = Scene(Path(shutil.copytree(scene.folder, tmp_path / "micro")), scene.config, scene.tokenizer)
    other.train += other.val
    (other.folder / "data" / "train.jsonl").write_bytes(b"".join(to_line(row) for row in other.train))
    write_tokens(other.folder / "data", other.tokenizer, "all", other.folder / "tokens", SilentProgress())
    verdict = other.report(other.train, other.own_answer)["verdicts"]["usefulness"]
    assert verdict["decision"] == "stop" and "contamination" in causes(verdict)


def test_only_repeats_its_training_text(scene: Scene) -> None:
    longest = sorted((row["messages"][1]["content"] for row in scene.train if row["language"] == "mr"), key=len)[-30:]

    def answer(document: Document) -> str:
        return longest[len(document["messages"][0]["content"]) % len(longest)]

    verdict = scene.report([*scene.train, *scene.val], answer)["verdicts"]["usefulness"]
    assert verdict["decision"] == "stop" and "repeats its training text" in causes(verdict)["repeats_training_text"]


def test_answers_in_english(scene: Scene) -> None:
    english = [row["messages"][1]["content"] for row in scene.val if row["language"] == "en"]

    def answer(document: Document) -> str:
        return english[len(document["messages"][0]["content"]) % len(english)]

    verdict = scene.report([*scene.train, *scene.val], answer)["verdicts"]["usefulness"]
    assert verdict["decision"] == "stop" and "should be in Marathi are in English" in causes(verdict)["wrong_language"]
    assert any("Marathi" in remedy["text"] and remedy["command"] for remedy in verdict["remedies"])


@pytest.mark.parametrize("kind", ["fixed", "shuffled"])
def test_answers_that_do_not_depend_on_the_question(scene: Scene, kind: str) -> None:
    """Every answer is a good sentence of a person in the right language, but not an answer to its question."""
    rows = {language: [row["messages"] for row in scene.val if row["language"] == language] for language in ("mr", "en")}

    def answer(document: Document) -> str:
        same = rows[document["language"]]
        return same[0 if kind == "fixed" else same.index(document["messages"]) - 9][1]["content"]

    verdict = scene.report([*scene.train, *scene.val], answer)["verdicts"]["usefulness"]
    assert verdict["decision"] == "stop" and figure(verdict, "answer_fit")["status"] == "broken"
    assert "would serve another question" in causes(verdict)["answers_do_not_fit"]


def test_loops(scene: Scene) -> None:
    verdict = scene.report([*scene.train, *scene.val], lambda document: "हो हो आहे " * 8)["verdicts"]["usefulness"]
    assert verdict["decision"] == "stop" and figure(verdict, "loops")["status"] == "broken"
    assert any("--repetition-penalty" in (remedy["command"] or "") for remedy in verdict["remedies"])


def test_limits_are_settings(good: Report) -> None:
    strict = judge(good, LimitsConfig(on_topic=1.0, over_ngram=-5))
    assert strict["usefulness"]["decision"] == "stop" and figure(strict["usefulness"], "over_ngram")["limit"] == -5
    assert strict["quantization"] == good["verdicts"]["quantization"]


def test_remedies_are_in_the_order_of_their_cost(intact: Report) -> None:
    """The micro model is far from useful, so there is much to do."""
    verdict = intact["verdicts"]["usefulness"]
    costs = [("seconds", "minutes", "training", "text").index(remedy["cost"]) for remedy in verdict["remedies"]]
    assert verdict["decision"] == "stop" and costs == sorted(costs) and len(costs) >= 2
    assert verdict["title"].startswith("Do not ship: ")


def exact(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}


def rounding_is_bad(report: Report) -> None:
    report["comparison"]["intervals"]["kl"] = exact(1.0)  # type: ignore[typeddict-item]


def rounding_is_not_calibrated(report: Report) -> None:
    rounding_is_bad(report)
    report["settings"]["quant"]["calibration"] = "none"


def learned_by_heart(report: Report) -> None:
    assert report["training"]
    report["training"]["last_val_loss"] = 99.0


def no_step_was_better(report: Report) -> None:
    learned_by_heart(report)
    assert report["training"]
    report["training"]["best_step"] = report["model"]["step"] = 0


def read_too_often(report: Report) -> None:
    assert report["training"]
    report["training"]["tokens"] = 10**9


def still_learning(report: Report) -> None:
    assert report["training"]
    report["training"]["curves"]["val/loss_ema"] = [[1, 9.0], [2, 8.0], [3, 7.0]]


def answers_in_english(report: Report) -> None:
    report["behaviour"]["wrong_languages"] = {"mr": {"en": 9}}
    report["behaviour"]["rates"]["right_language"] = _rate(0.4)


def loops(report: Report) -> None:
    report["behaviour"]["rates"] |= {"loops": _rate(0.9), "copied": _rate(0.9), "broken_letters": _rate(0.9)}


def trained_on_validation(report: Report) -> None:
    assert report["data_checks"]["training_sample"]
    report["data_checks"]["training_sample"]["gap"] = exact(-1.0)  # type: ignore[typeddict-item]


def parent_trained_on_validation(report: Report) -> None:
    report["origin"] = {"name": "old", "license": "x", "texts": [], "gap": exact(-1.0), "missing": []}  # type: ignore[typeddict-item]


def _rate(value: float) -> Any:
    return {"fp32": exact(value), "bq4": exact(value), "change": exact(0.0), "human": None}


FAULTS = [
    rounding_is_bad,
    rounding_is_not_calibrated,
    learned_by_heart,
    no_step_was_better,
    read_too_often,
    still_learning,
    answers_in_english,
    loops,
    trained_on_validation,
    parent_trained_on_validation,
]


def test_the_model_of_the_start_learned_nothing_by_heart(intact: Report) -> None:
    """If no step was better, the losses of the training say nothing about the model that was kept."""
    report = copy.deepcopy(intact)
    no_step_was_better(report)
    found = judge(report, LimitsConfig(on_topic=1.0))["usefulness"]
    assert {"no_better_step"} <= {cause["name"] for cause in found["causes"]}
    assert not {"overfitting", "too_few_steps"} & {cause["name"] for cause in found["causes"]}
    assert "lower-rate" in next(remedy["command"] for remedy in found["remedies"] if remedy["name"] == "no_better_step")
    assert "memorize" not in " ".join(summary(report, Words()))


def test_commands_of_remedies_are_complete(micro: tuple[Path, Config], intact: Report) -> None:
    """Every setting is accepted, and no two trainings have the same name: the second one would be refused."""
    folder, _ = micro
    commands: set[str] = set()
    for fault in FAULTS:
        report = copy.deepcopy(intact)
        fault(report)
        for verdict in judge(report, LimitsConfig(on_topic=1.0)).values():
            commands |= {remedy["command"] for remedy in verdict["remedies"] if remedy["command"]}  # type: ignore[union-attr]
    for command in sorted(commands):
        assert remedy_words(command, folder) or new_run_flags(command, folder), f"the dashboard can start {command}"
    names: dict[str, str] = {}
    for command in sorted(commands):
        bullet, name, place, *words = shlex.split(command_here(command, folder))
        assert bullet == "bullet" and name in ("run", "evaluate", "qat") and Path(place) in (folder, folder / "config.json")
        if name == "qat":
            assert [word.partition("=")[0] for word in words] == ["--steps"]
            continue
        settings = [word for word in words if word not in ("--restart", "--checkpoints")]
        assert load_config(folder / "config.json", settings), command
        for word in words:
            if word.startswith("--name="):
                assert names.setdefault(word, command) == command
    assert len(commands) >= 12 and len(names) >= 5


def test_commands_name_the_folder_in_the_terminal(tmp_path: Path) -> None:
    """A report has no paths; the command that is printed has them, and names the user's text."""
    folder = tmp_path / "my run"
    folder.mkdir()
    sources = [{"path": "sample"}, {"path": "/texts/a b.txt"}, {"path": "/texts/c.txt"}]
    (folder / "config.json").write_text(json.dumps({"data": {"sources": sources}}), encoding="utf-8")
    command = 'bullet run RUN/config.json --name=x-2 \'--data.sources=["sample", "TEXT", "simple"]\''
    words = shlex.split(command_here(command, folder))
    assert words[2] == f"{folder}/config.json"
    assert json.loads(words[4].removeprefix("--data.sources=")) == ["sample", "/texts/a b.txt", "/texts/c.txt", "simple"]
    sources = [{"path": "sample", "weight": 0.5}, {"path": "/a.csv", "columns": {"user": "q"}, "language": "auto"}]
    (folder / "config.json").write_text(json.dumps({"data": {"sources": sources}}), encoding="utf-8")
    words = shlex.split(command_here(command, folder))
    assert json.loads(words[4].removeprefix("--data.sources=")) == [
        {"path": "sample", "weight": 0.5},
        {"path": "/a.csv", "columns": {"user": "q"}},
        "simple",
    ], "the settings of a source stay"
    assert shlex.split(command_here("bullet evaluate RUN --checkpoints", folder)) == ["bullet", "evaluate", str(folder), "--checkpoints"]


def test_unclear_figures_are_called_noise() -> None:
    """A difference from few answers does not exceed a limit while its interval reaches 0; a clear one does."""
    for b, status in ((7, "ok"), (25, "broken")):
        change = paired_difference([n < 4 for n in range(50)], [n < b for n in range(50)]).to_dict()
        assert make_figure("x", "x", "points", change, 0.05, str, noise_is_fine=True)["status"] == status
    for low, expected in ((0.02, "near"), (0.2, "broken")):
        assert make_figure("x", "x", "share", {"value": 0.3, "low": low, "high": 0.5}, 0.1, str)["status"] == expected
    assert make_figure("x", "x", "share", None, 0.1, str)["status"] == "unknown"


@pytest.mark.parametrize("language", ["en", "mr"])
@pytest.mark.parametrize(("weights", "bits"), [("BQ8", 8), ("F16", 16), ("F32", 32)])
def test_texts_name_the_bits_of_the_model_file(intact: Report, weights: str, bits: int, language: str) -> None:
    report: Any = copy.deepcopy(intact)
    report["quantised"]["weights"] = report["settings"]["quant"]["weights"] = weights
    report["quantised"]["qat"] = None
    report["settings"]["report"]["lang"] = language
    report["training"]["curves"].pop("val/loss_bq4", None)
    say = Words(bits=bits)
    report["summary"], report["verdict"] = summary(report, say), sentences(report, say)
    report["verdicts"] = judge(report, LimitsConfig(perplexity_change=1e-9, kl=1e-9))
    page = render(report)
    assert f"{bits}-bit" in page or f"{bits}-बिट" in page
    assert not re.findall(r"[^>]*\b4(?:-bit|-बिट| bits| बिट)[^<]*", page)


@pytest.mark.parametrize("quantised", [None, "BQ8", ["BQ8"], {}, {"weights": None}, {"weights": ["BQ8"]}, {"weights": "BQ1"}])
def test_a_damaged_report_is_one_of_a_4_bit_file(quantised: Any) -> None:
    assert bits_of_file({"quantised": quantised}) == bits_of_file({}) == 4


@pytest.mark.parametrize(("general", "extra"), [(0.0, "simple"), (0.2, MORE_TEXT)])
def test_text_that_the_mixture_adds_is_not_proposed_again(general: float, extra: str) -> None:
    data = {"sources": [{"path": "source 1"}], "mix": {"general": general}}
    report: Any = {"settings": {"name": "x", "data": data}, "model": {"languages": ["en", "mr"]}}
    assert shlex.split(_with_text(report))[-1] == f'--data.sources=["TEXT", "{extra}"]'
