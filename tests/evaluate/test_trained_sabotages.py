"""The same faults as in test_verdicts.py with real models, which are trained for seconds on the wrong text."""

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from micro_run import SHAPE, conversations

from bulletlm.config.schema import Config, TrainConfig
from bulletlm.data.tokens import write_tokens
from bulletlm.evaluate.report import build_report, measure
from bulletlm.evaluate.report_types import Report
from bulletlm.formats.npy import write_npy
from bulletlm.progress import SilentProgress
from bulletlm.runtime import Model, Sampling
from bulletlm.runtime.engine import NumpyEngine
from bulletlm.text.documents import Document, to_line
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.train.checkpoint import list_checkpoints, load_checkpoint
from bulletlm.train.training import TrainJob, train

WIDER = replace(SHAPE, dim=64, n_heads=4, n_kv_heads=2, hidden_dim=96, max_seq_len=128)
ROWS = conversations()
TRAINING, VALIDATION = [row for n, row in enumerate(ROWS) if n % 4], ROWS[::4]


class School:
    """A run folder with conversations for training and validation, and models that are trained on other text."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        prompts = folder / "prompts.jsonl"
        lines = [{"prompt": row["messages"][0]["content"], "language": row["language"], "kind": "short"} for row in VALIDATION[::3]]
        prompts.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        self.config = Config.model_validate(
            {
                "name": "school",
                "runs_dir": str(folder.parent),
                "evaluate": {"prompts": str(prompts)},
                "sampling": {"max_tokens": 36, "temperature": 0.0},
            }
        )

    def write(self, folder: Path, documents: Sequence[Document]) -> None:
        """Data and tokens of a run that trains on `documents`."""
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for split, part in (("train", documents), ("val", VALIDATION)):
            (folder / "data" / f"{split}.jsonl").write_bytes(b"".join(to_line(row) for row in part))
        shutil.rmtree(folder / "tokens", ignore_errors=True)
        write_tokens(folder / "data", self.tokenizer, "all", folder / "tokens", SilentProgress())

    def train(self, folder: Path, documents: Sequence[Document], steps: int, start: Path | None = None) -> Path:
        """Train a model, and return the folder with its weights."""
        self.write(folder, documents)
        settings = {"batch_size_per_device": 8, "gradient_accumulation_steps": 1, "learning_rate": 5e-3, "warmup_steps": 10, "threads": 1}
        settings |= {"total_steps": steps, "eval_every_steps": steps, "save_every_steps": steps, "ema_decay": 0.9, "compile": "off"}
        config = TrainConfig.model_validate({**settings, "precision": "fp32"})
        job = TrainJob(config=config, shape=WIDER, seed=1, tokens_dir=folder / "tokens", run_dir=folder, key="key", start=start)
        train(job, SilentProgress())
        found = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1][1])
        tensors = {name: found.tensors["model"][name].float().numpy() for name in WIDER.tensors()}
        write_npy(folder / "weights", WIDER, tensors, self.tokenizer.proto, {"name": folder.name})
        self.model = Model(NumpyEngine(WIDER, tensors), self.tokenizer, WIDER, Sampling(), {})
        return folder / "weights"

    def report(self, parent: Path | None = None) -> Report:
        """The report of the model that was trained last, as if it had been trained on TRAINING."""
        models = (self.model, self.model)
        return build_report(self.folder, self.config, measure(self.folder, self.config, models, SilentProgress(), parent))


@pytest.fixture(scope="module")
def school(run_folder: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> School:
    folder = Path(shutil.copytree(run_folder, tmp_path_factory.mktemp("school") / "school"))
    (folder / "metrics.jsonl").unlink()
    made = School(folder, tokenizer)
    made.write(folder, TRAINING)
    return made


def causes(report: Report) -> dict[str, str]:
    verdict = report["verdicts"]["usefulness"]
    assert verdict["decision"] == "stop"
    return {cause["name"]: cause["text"] for cause in verdict["causes"]}


@pytest.fixture(scope="module")
def knows_validation(school: School, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A model that was trained on the validation text, and its report."""
    weights = school.train(tmp_path_factory.mktemp("knows") / "old model", VALIDATION, 120)
    return weights, school.report()


def test_trained_on_the_validation_text(knows_validation: tuple[Path, Report]) -> None:
    _, report = knows_validation
    assert "trained on it" in causes(report)["trained_on_validation"]


def test_the_parent_was_trained_on_the_validation_text(school: School, knows_validation: tuple[Path, Report], tmp_path: Path) -> None:
    """The new model learned only its own text; the report names the model from which it started."""
    parent, _ = knows_validation
    school.train(tmp_path / "child", TRAINING, 40, parent)
    report = school.report(parent)
    found = causes(report)
    assert "old model" in found["parent_trained_on_validation"] and "trained_on_validation" not in found
    assert any("--model.start-from=none" in (remedy["command"] or "") for remedy in report["verdicts"]["usefulness"]["remedies"])
    assert report["origin"] and report["origin"]["texts"][0]["parent"]


def test_a_parent_that_knows_neither_text_is_not_named(school: School, tmp_path: Path) -> None:
    parent = school.train(tmp_path / "fresh", TRAINING[:10], 2)
    school.train(tmp_path / "child", TRAINING, 40, parent)
    assert not {"parent_trained_on_validation", "trained_on_validation"} & set(causes(school.report(parent)))


def test_one_repeated_document(school: School, tmp_path: Path) -> None:
    """It has one answer for every question."""
    longest = max((row for row in TRAINING if row["language"] == "mr"), key=lambda row: len(row["messages"][1]["content"].split()))
    school.train(tmp_path / "one", [longest] * 150, 60)
    report = school.report()
    assert "would serve another question" in causes(report)["answers_do_not_fit"]
    fit = report["behaviour"]["answer_fit"]
    assert fit and fit["rate"]["bq4"]["value"] == pytest.approx(0.5, abs=0.1)


def test_english_answers_to_marathi_questions(school: School, tmp_path: Path) -> None:
    english = [row["messages"][1] for row in TRAINING if row["language"] == "en"]
    random.Random(3).shuffle(english)
    marathi = [row for row in TRAINING if row["language"] == "mr"]
    wrong: list[Document] = [{**row, "messages": [row["messages"][0], answer]} for row, answer in zip(marathi, english, strict=False)]
    school.train(tmp_path / "english", wrong, 120)
    report = school.report()
    assert causes(report)
    assert any("should be in Marathi are in English" in cause["text"] for cause in report["verdicts"]["usefulness"]["causes"])
