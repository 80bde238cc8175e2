"""Continuing a finished run: more steps and more text, from which state, what is refused, and that interruptions do not matter."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config, TrainConfig
from bulletlm.data import prepare
from bulletlm.data.tokens import read_index
from bulletlm.errors import ConfigError, Interrupted
from bulletlm.files import read_json, sha256_of_file
from bulletlm.pipeline.runner import run_stages
from bulletlm.progress import SilentProgress
from bulletlm.text.documents import read_documents
from bulletlm.train import training
from bulletlm.train.checkpoint import list_checkpoints, load_checkpoint
from bulletlm.train.schedule import decay_start, learning_rate
from micro_model import write_micro_config
from paths import SAMPLE_CORPUS

BEST = "checkpoints/best/model.safetensors"
SHORT: dict[str, Any] = {"total_steps": 50, "eval_every": 10, "save_every": 15}


class Listening(SilentProgress):
    """Records the messages; sends SIGTERM to this process when the training bar reaches a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.said: list[str] = []
        self.left = stop_at

    def log(self, text: str, level: str = "info") -> None:
        if level != "debug":
            self.said.append(text)

    def task(self, title: str, total: float | None) -> Any:
        return _Bar(self) if title == "Training" and self.left else super().task(title, total)


class _Bar:
    def __init__(self, owner: Listening) -> None:
        self.owner = owner

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None: ...

    def advance(self, amount: float = 1, note: str = "") -> None:
        assert self.owner.left is not None
        self.owner.left -= int(amount)
        if self.owner.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def run(path: Path, *flags: str, until: str = "train", stop_at: int | None = None) -> tuple[Config, list[str]]:
    progress = Listening(stop_at)
    return run_stages(load_config(path, flags), until, progress).config, progress.said


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def finished(folder: Path, texts: Path, **changes: Any) -> Path:
    """The configuration of a run that has been trained."""
    path = write_micro_config(folder, texts, **{**SHORT, **changes})
    run(path)
    return path


@pytest.fixture(scope="module")
def cosine(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("cosine"), texts)


@pytest.fixture(scope="module")
def wsd(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("wsd"), texts, scheduler="wsd", decay_share=0.3)


def copied(path: Path, folder: Path) -> Path:
    """A copy of a run with its configuration."""
    shutil.copytree(path.parent / "runs", folder / "runs")
    values = {**json.loads(path.read_text()), "runs_dir": str(folder / "runs")}
    (folder / "micro.jsonc").write_text(json.dumps(values), encoding="utf-8")
    return folder / "micro.jsonc"


def test_wsd_continues_from_the_last_state_before_the_decay(wsd: Path, tmp_path: Path) -> None:
    path = copied(wsd, tmp_path)
    config, said = run(path, "--total-steps=70")
    assert any("continued with another number of steps" in line for line in said)
    assert any("continuing from step 35, the last state before the learning rate fell" in line for line in said)
    rates = {event["step"]: event["lr"] for event in events(config.run_dir, "train")}
    assert list(rates) == list(range(1, 71)), "every step is in the metrics once"
    assert [rates[step + 1] for step in range(70)] == [pytest.approx(learning_rate(config.train, step, 70)) for step in range(70)]
    (tmp_path / "whole").mkdir()
    sources = Path(json.loads(wsd.read_text())["data"]["sources"][0])
    whole, _ = run(write_micro_config(tmp_path / "whole", sources, **SHORT, scheduler="wsd", decay_share=0.3), "--total-steps=70")
    assert sha256_of_file(config.run_dir / BEST) == sha256_of_file(whole.run_dir / BEST), "as if it had been planned so"


def test_cosine_continues_from_the_best_weights_with_a_warm_up(cosine: Path, tmp_path: Path) -> None:
    path = copied(cosine, tmp_path)
    before = read_json(tmp_path / "runs/micro/checkpoints/best/state.json")
    config, said = run(path, "--total-steps=100")
    wanted = f"from the best weights (step {before['step']:,}) with a fresh warm-up, because its learning rate fell"
    assert any(wanted in line for line in said)
    rates = {event["step"]: event["lr"] for event in events(config.run_dir, "train")}
    assert list(rates) == list(range(1, 101))
    assert [rates[step + 1] for step in range(50, 100)] == [
        pytest.approx(learning_rate(config.train, step - 50, 50)) for step in range(50, 100)
    ]
    evaluated = [event for event in events(config.run_dir, "eval") if event["step"] >= 50]
    assert evaluated[0]["step"] == 50 and min(evaluated[0]["val/loss"], evaluated[0]["val/loss_ema"]) == pytest.approx(before["val_loss"])
    after = read_json(config.run_dir / "checkpoints/best/state.json")
    assert after["val_loss"] < before["val_loss"]
    assert run(path, "--total-steps=100")[1][-1] == "Training: up to date"


@pytest.mark.parametrize("kind", ["wsd", "cosine"])
def test_an_extended_run_may_be_interrupted(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(kind)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, broken = copied(source, tmp_path / "a"), copied(source, tmp_path / "b")
    config, _ = run(whole, "--total-steps=70")
    with pytest.raises(Interrupted):
        run(broken, "--total-steps=70", stop_at=57)
    again, said = run(broken, "--total-steps=70")
    assert any("resuming from" in line for line in said)
    assert sha256_of_file(again.run_dir / BEST) == sha256_of_file(config.run_dir / BEST)
    assert [e["train/loss"] for e in events(again.run_dir, "train")] == [e["train/loss"] for e in events(config.run_dir, "train")]


def test_the_model_of_before_stays_if_more_training_is_worse(wsd: Path, tmp_path: Path) -> None:
    path = copied(wsd, tmp_path)
    before = load_checkpoint(tmp_path / "runs/micro/checkpoints/best")
    config, said = run(path, "--total-steps=51", "--patience=1", "--eval-every=1")  # ends early, before the rate falls
    after = load_checkpoint(config.run_dir / "checkpoints/best")
    if after.state["val_loss"] == before.state["val_loss"]:
        assert any("is not better" in line and "its model stays" in line for line in said)
        assert all((after.tensors["model"][name] == tensor).all() for name, tensor in before.tensors["model"].items())
    else:
        assert after.state["val_loss"] < before.state["val_loss"]
    assert not (config.run_dir / "checkpoints/best-earlier").exists()


@pytest.mark.parametrize("damaged", [False, True], ids=["", "the earlier weights are damaged"])
def test_an_extended_run_that_keeps_diverging_gives_the_best_weights_of_both(
    damaged: bool, wsd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 46 on every loss counts as divergence; from the last good state before that, only step 40 is validated."""
    path = copied(wsd, tmp_path)
    before = load_checkpoint(tmp_path / "runs/micro/checkpoints/best")

    def trouble(*arguments: Any) -> str | None:
        if damaged:
            (tmp_path / "runs/micro/checkpoints/best-earlier/model.safetensors").write_bytes(b"damaged")
        return original(*arguments) or ("the loss jumped" if len(arguments[2]) >= 46 else None)

    original = training.find_trouble
    monkeypatch.setattr(training, "find_trouble", trouble)
    config, said = run(path, "--total-steps=70")
    after = load_checkpoint(config.run_dir / "checkpoints/best")
    assert not (config.run_dir / "checkpoints/best-earlier").exists()
    step = 40 if damaged else before.state["step"]
    assert after.state["step"] == step and any(f"best weights so far, of step {step}" in line for line in said)
    assert any("best-earlier" in line and "the best weights of the longer training are used" in line for line in said) == damaged


def add_text(path: Path) -> dict[str, Any]:
    """Name more text in the configuration `path`; returns the configuration."""
    text = (SAMPLE_CORPUS / "thoughts.en.txt").read_text(encoding="utf-8").splitlines(keepends=True)[:150]
    more = path.with_name("more.txt")
    more.write_text("".join(text), encoding="utf-8")
    values: dict[str, Any] = json.loads(path.read_text())
    values["data"]["sources"].append(str(more))
    path.write_text(json.dumps(values))
    return values


def test_more_text_keeps_the_tokenizer_and_holds_out_only_new_text(cosine: Path, tmp_path: Path) -> None:
    path = copied(cosine, tmp_path)
    folder = tmp_path / "runs" / "micro"
    tokenizer, tokens = sha256_of_file(folder / "tokenizer/tokenizer.model"), read_index(folder / "tokens")["train"]["tokens"]
    trained = {line for row in read_documents(folder / "data/train.jsonl") for line in row.get("text", "").split("\n") if len(line) > 30}
    values = add_text(path)
    config, said = run(path, until="build")
    assert any("continued with more text" in line for line in said)
    assert any("with a fresh warm-up" in line for line in said)
    assert sha256_of_file(folder / "tokenizer/tokenizer.model") == tokenizer
    assert read_index(folder / "tokens")["train"]["tokens"] > tokens
    held_out = {line for row in read_documents(folder / "data/val.jsonl") for line in row.get("text", "").split("\n") if len(line) > 30}
    assert held_out and not held_out & trained
    assert [event["step"] for event in events(folder, "train")][-1] == 100, "as many steps as before, on all of the text"
    assert run(path, until="build")[1][-1] == "Build: up to date"
    with pytest.raises(ConfigError, match="holds a model trained with other settings"):  # text cannot be taken away again
        values["data"]["sources"].pop()
        path.write_text(json.dumps(values))
        run(path)
    assert config.run_dir == folder


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--total-steps=30"], r"has trained 50 steps, and these settings end at 30: give more, for example --total-steps=100"),
        (["--lr=0.02"], r"train.learning_rate 0.01 -> 0.02.*--name=micro-2 --from=.*micro.*--restart"),
        (["--total-steps=100", "--lr=0.02"], r"holds a model trained with other settings"),
        (["--layers=3"], r"model.n_layers 2 -> 3\): give this run another name \(--name=micro-2\), or train again with --restart"),
        (["--total-steps=100", "--seed=7"], r"seed 42 -> 7"),
    ],
)
def test_what_cannot_be_continued_says_what_to_do(flags: list[str], message: str, cosine: Path, tmp_path: Path) -> None:
    path = copied(cosine, tmp_path)
    best = sha256_of_file(tmp_path / "runs/micro" / BEST)
    with pytest.raises(ConfigError, match=message):
        run(path, *flags)
    assert sha256_of_file(tmp_path / "runs/micro" / BEST) == best


def test_the_checkpoint_before_the_decay_is_kept(wsd: Path) -> None:
    steps = [step for step, _ in list_checkpoints(wsd.parent / "runs/micro/checkpoints")]
    assert 35 in steps and decay_start(TrainConfig(scheduler="wsd", decay_share=0.3, total_steps=50, warmup_steps=10), 50) == 35


@pytest.mark.parametrize("scheduler", ["constant", "noam", "cosine", "wsd"])
def test_decay_start_is_where_the_rate_begins_to_fall(scheduler: Any) -> None:
    config = TrainConfig(scheduler=scheduler, warmup_steps=10, total_steps=100, learning_rate=1e-2)
    rates = np.array([learning_rate(config, step, 100) for step in range(100)])
    start = decay_start(config, 100)
    if scheduler == "cosine":
        assert start is None and (np.diff(rates[10:]) <= 0).all()
    elif scheduler == "wsd":
        assert start is not None and (rates[10 : start + 1] == rates[10]).all() and rates[start + 1] < rates[10]
    else:
        assert start == 100


@pytest.mark.parametrize("stopped", [False, True])
def test_other_steps_after_more_text_keep_the_tokenizer(
    stopped: bool, cosine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the run with more text was stopped before it had prepared the text: what was trained on is not held out."""
    path = copied(cosine, tmp_path)
    folder = tmp_path / "runs" / "micro"
    tokenizer = sha256_of_file(folder / "tokenizer/tokenizer.model")
    trained = {line for row in read_documents(folder / "data/train.jsonl") for line in row.get("text", "").split("\n") if len(line) > 30}
    add_text(path)
    with monkeypatch.context() as patch:
        if stopped:
            patch.setattr(prepare, "clean_files", _stop)
            with pytest.raises(Interrupted):
                run(path)
        else:
            run(path)
    done = 50 if stopped else 100
    _, said = run(path, f"--total-steps={done + 10}")
    assert any("is continued with" in line for line in said)
    assert sha256_of_file(folder / "tokenizer/tokenizer.model") == tokenizer
    held_out = {line for row in read_documents(folder / "data/val.jsonl") for line in row.get("text", "").split("\n") if len(line) > 30}
    assert held_out and not held_out & trained
    assert [event["step"] for event in events(folder, "train")] == list(range(1, done + 11))


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
