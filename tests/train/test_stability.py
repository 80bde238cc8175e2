"""Tests bad batches, divergence and broken weights in the real training loop, and that an interruption does not change the result."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bulletlm.config.schema import TrainConfig
from bulletlm.data.tokens import open_tokens
from bulletlm.errors import BulletError, Interrupted
from bulletlm.files import read_json, sha256_of_file, write_json
from bulletlm.formats.npy import write_npy
from bulletlm.progress import SilentProgress
from bulletlm.shape import ModelShape
from bulletlm.train import loop, training
from bulletlm.train.backend.compute import pick_device
from bulletlm.train.batches import TrainingWindows
from bulletlm.train.checkpoint import list_checkpoints, load_checkpoint, prune_checkpoints
from bulletlm.train.distributed.launch import run_main
from bulletlm.train.guard.rollback import find_trouble, last_good_step, may_roll_back_to, return_to_good
from bulletlm.train.log.metrics import CLOCK
from bulletlm.train.model import Transformer
from bulletlm.train.state import TrainPosition, TrainState, initial_state
from bulletlm.train.training import TrainJob, train

SHAPE = ModelShape(vocab_size=500, dim=32, n_layers=1, n_heads=2, n_kv_heads=2, hidden_dim=64, max_seq_len=16)
SEED = 42
SETTINGS: dict[str, Any] = {
    "learning_rate": 2e-2,
    "scheduler": "constant",
    "warmup_steps": 5,
    "total_steps": 90,
    "batch_size_per_device": 4,
    "gradient_accumulation_steps": 2,
    "eval_every_steps": 15,
    "save_every_steps": 20,
    "ema_decay": 0.9,
    "threads": 1,
    "precision": "fp32",
    "compile": "off",
}


class Listening(SilentProgress):
    """Records the messages; sends SIGTERM when the progress bar has moved `stop_at` steps, including rolled back ones."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.said: list[str] = []
        self.steps, self.stop_at = 0, stop_at

    def log(self, text: str, level: str = "info") -> None:
        self.said.append(text)

    def task(self, title: str, total: float | None) -> Any:
        outer = self

        class Bar:
            def __enter__(self) -> "Bar":
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def advance(self, amount: float = 1, note: str = "") -> None:
                outer.steps += 1
                if outer.steps == outer.stop_at:
                    os.kill(os.getpid(), signal.SIGTERM)

        return Bar()


def job(tokens: Path, folder: Path, **changes: Any) -> TrainJob:
    config = TrainConfig(**{**SETTINGS, **changes})
    return TrainJob(config=config, shape=SHAPE, seed=SEED, tokens_dir=tokens, run_dir=folder, key="key")


def run(tokens: Path, folder: Path, progress: Any = None, **changes: Any) -> Any:
    return train(job(tokens, folder, **changes), progress or SilentProgress())


def events(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines if kind in (None, line["event"])]


def result(folder: Path) -> tuple[Any, ...]:
    last = list_checkpoints(folder / "checkpoints")[-1][1]
    best = folder / "checkpoints/best/model.safetensors"
    return sha256_of_file(last / "model.safetensors"), sha256_of_file(last / "optimizer.safetensors"), sha256_of_file(best), events(folder)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch and more of a walk that is easy to learn."""
    folder = tmp_path_factory.mktemp("clean")
    random = np.random.default_rng(5)
    index: dict[str, Any] = {"dtype": "uint16", "vocab_size": 500, "loss_on": "all"}
    for split, n in (("train", 16_000), ("val", 700)):
        walk = np.cumsum(random.choice([1, 1, 1, 7, 13], n)) % 64 + 100
        (folder / f"{split}.bin").write_bytes(walk.astype("<u2").tobytes())
        index[split] = {"tokens": n, "bytes": 3 * n, "documents": 1 if split == "train" else [], "by_language": {}}
    write_json(folder / "index.json", index)
    return folder


def poisoned(clean: Path, folder: Path, *batches: int) -> Path:
    """A copy in which the text of these effective batches is garbage."""
    shutil.copytree(clean, folder)
    tokens = np.fromfile(folder / "train.bin", "<u2")
    windows = TrainingWindows(open_tokens(clean, "train"), SHAPE.max_seq_len, SEED)
    windows.batch(0, 1)
    random = np.random.default_rng(1)
    for batch in batches:
        for start in windows._starts[batch * 8 : batch * 8 + 8]:
            tokens[start : start + 16] = random.integers(0, 500, 16)
    tokens.tofile(folder / "train.bin")
    return folder


@pytest.fixture(scope="module")
def spoilt(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens with garbage in batch 52."""
    return poisoned(clean, tmp_path_factory.mktemp("spoilt") / "tokens", 52)


@pytest.fixture(scope="module")
def recovered(spoilt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run over them."""
    folder = tmp_path_factory.mktemp("recovered")
    run(spoilt, folder)
    return folder


def test_a_poisoned_batch_is_left_out(clean: Path, spoilt: Path, recovered: Path, tmp_path: Path) -> None:
    (event,) = events(recovered, "rollback")
    assert event["from_step"] == event["skipped_batch"] == 52
    assert (event["step"], event["to_step"], event["rate_factor"]) == (30, 30, 0.6)
    assert "the loss" in event["reason"]
    steps = [e["step"] for e in events(recovered, "train")]
    assert steps == list(range(1, 91)), "every step is there once"
    rates = [e["lr"] for e in events(recovered, "train")]
    assert set(rates[5:30]) == {2e-2}
    assert set(rates[30:]) == {2e-2 * 0.6}
    assert max(e["train/loss"] for e in events(recovered, "train")[30:]) < 4
    run(clean, tmp_path)
    assert not events(tmp_path, "rollback")
    ours, other = (events(folder, "eval")[-1]["val/loss"] for folder in (recovered, tmp_path))
    assert ours == pytest.approx(other, abs=0.1)
    position = read_json(list_checkpoints(recovered / "checkpoints")[-1][1] / "state.json")["position"]
    assert position["skipped"] == [52]


def test_without_the_check_it_would_have_been_learnt_from(spoilt: Path, tmp_path: Path) -> None:
    run(spoilt, tmp_path, spike_threshold=0, total_steps=54)
    assert events(tmp_path, "train")[52]["train/loss"] > 6


@pytest.mark.parametrize("stop_at", [44, 52, 53, 60, 100])
def test_an_interrupted_recovery_ends_the_same(spoilt: Path, recovered: Path, tmp_path: Path, stop_at: int) -> None:
    """The run stops before the bad batches, in the steps that are rolled back, at the rollback, and after it."""
    with pytest.raises(Interrupted):
        run(spoilt, tmp_path, Listening(stop_at))
    run(spoilt, tmp_path)
    assert result(tmp_path) == result(recovered)


def test_a_kill_between_the_files_of_a_rollback_changes_nothing(
    spoilt: Path, recovered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is written, the metrics are not yet."""
    from bulletlm.train.log.metrics import MetricsLog

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "rewind", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(spoilt, tmp_path)
    run(spoilt, tmp_path)
    assert result(tmp_path) == result(recovered)


def test_a_run_that_starts_anew_has_no_rollbacks_of_the_old_one(spoilt: Path, recovered: Path, tmp_path: Path) -> None:
    shutil.copy(recovered / "metrics.jsonl", tmp_path)
    run(spoilt, tmp_path)
    assert events(tmp_path) == events(recovered)


def test_a_learning_rate_that_diverges_is_lowered_until_it_does_not(clean: Path, tmp_path: Path) -> None:
    listening = Listening()
    run(clean, tmp_path, listening, learning_rate=1.0, warmup_steps=20)
    rollbacks = events(tmp_path, "rollback")
    assert [e["rate_factor"] for e in rollbacks] == [0.6, 0.2][: len(rollbacks)] != []
    assert any("back to step" in line and "learning rate x 0.6 (peak 0.6)" in line for line in listening.said)
    assert events(tmp_path, "eval")[-1]["val/loss"] < 5


@pytest.fixture(scope="module")
def hopeless(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens with garbage in three batches: more than there are lower learning rates."""
    return poisoned(clean, tmp_path_factory.mktemp("hopeless") / "tokens", 40, 52, 61)


def test_when_nothing_helps_it_ends_with_the_best_weights_and_one_line(hopeless: Path, tmp_path: Path) -> None:
    listening = Listening()
    found = run(hopeless, tmp_path, listening)
    assert found.best_step == 45 and found.best_loss < 4
    assert load_checkpoint(tmp_path / "checkpoints/best").state["step"] == 45
    (line,) = (line for line in listening.said if "the training ends here" in line)
    assert line.startswith("step 59: the loss ") and "also at 0.2 of the learning rate and after 2 rollbacks" in line
    assert "the best weights so far, of step 45" in line and line.endswith("--restart") and "\n" not in line
    assert len(events(tmp_path, "rollback")) == 2
    assert events(tmp_path, "end") == [{"event": "end", "step": 59, "reason": "diverged"}]
    last = load_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1][1])
    assert all(bool(torch.isfinite(weight).all()) for weight in last.tensors["model"].values()), "a longer run may continue from it"
    best = sha256_of_file(tmp_path / "checkpoints/best/model.safetensors")
    run(hopeless, tmp_path)  # the process was killed before the pipeline recorded that the training had ended
    assert sha256_of_file(tmp_path / "checkpoints/best/model.safetensors") == best
    assert events(tmp_path, "end") == [{"event": "end", "step": 59, "reason": "diverged"}]


def test_a_request_to_stop_is_not_lost_when_training_gives_up(hopeless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bulletlm.train.training import TextTraining

    def give_up(self: TextTraining, trouble: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        original(self, trouble)

    original = TextTraining._give_up
    monkeypatch.setattr(TextTraining, "_give_up", give_up)
    with pytest.raises(Interrupted, match="run the same command again"):
        run(hopeless, tmp_path)


@pytest.mark.parametrize("every", [15, 90], ids=["validated", "never validated"])
@pytest.mark.parametrize("trained", [True, False], ids=["from a model", "from random weights"])
def test_without_a_validation_better_than_the_start_it_is_an_error(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, trained: bool
) -> None:
    """Every gradient is wrong. Where the run starts from a model, the model itself is the best."""
    start = tmp_path / "start"
    if trained:
        model = Transformer(SHAPE)
        model.initialize(3)
        write_npy(start, SHAPE, {name: weight.detach().numpy() for name, weight in model.named_parameters()}, b"", {})
    monkeypatch.setattr("bulletlm.train.training.find_trouble", lambda *_: "the loss jumped")
    broken = dataclasses.replace(job(clean, tmp_path / "run", eval_every_steps=every), start=start if trained else None)
    with pytest.raises(BulletError, match=r"and no validation was better than the start; look for damaged text .*--restart") as error:
        train(broken, SilentProgress())
    assert "\n" not in str(error.value)


def test_it_ends_with_the_best_weights_also_where_no_checkpoint_is_left(
    spoilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All checkpoints but the best one are damaged at the moment of the fault."""

    def damage(*arguments: Any) -> Any:
        for _, folder in list_checkpoints(tmp_path / "checkpoints"):
            (folder / "model.safetensors").write_bytes(b"damaged")
        return original(*arguments)

    original = training.roll_back
    monkeypatch.setattr(training, "roll_back", damage)
    listening = Listening()
    found = run(spoilt, tmp_path, listening)
    assert found.best_step == 45
    assert any("has no intact checkpoint to return to: the training ends here" in line for line in listening.said)


def test_trouble_long_after_the_last_rollback_does_not_end_the_run(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulletlm.train.guard.rollback.ROLLBACK_HELPED_AFTER_STEPS", 8)
    tokens = poisoned(clean, tmp_path / "tokens", 40, 52, 65)
    run(tokens, tmp_path / "run")
    assert [e["rate_factor"] for e in events(tmp_path / "run", "rollback")] == [0.6, 0.2, 0.2]


@pytest.mark.parametrize("at", [33, 44, 48, 49])
def test_weights_that_break_are_given_back(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """One weight becomes NaN, as after a flipped bit: at 33 the loss shows it, at 44 the validation, at 49 the update ratio.

    The batch that was learnt from then is left out, not the next one.
    """
    broken = []

    def update(state: TrainState) -> None:
        original(state)
        if state.position.step == at + 1 and not broken:
            broken.append(True)
            with torch.no_grad():
                state.model.layers[0].mlp.up_proj.weight[3, 3] = float("nan")  # type: ignore[union-attr, index]

    original = loop.update
    monkeypatch.setattr(loop, "update", update)
    run(clean, tmp_path)
    (event,) = events(tmp_path, "rollback")
    what = {33: "the loss is no", 44: "the validation loss is no", 48: "the loss is no", 49: "the weights are no"}
    assert event["reason"].startswith(what[at])
    assert event["skipped_batch"] == at
    assert [e["step"] for e in events(tmp_path, "train")] == list(range(1, 91))
    assert events(tmp_path, "eval")[-1]["val/loss"] < 2


@pytest.mark.slow
def test_two_processes_go_back_together(clean: Path, spoilt: Path, recovered: Path, tmp_path: Path) -> None:
    """As one process does, to rounding; byte for byte also when both were stopped in the steps that are taken back."""
    script = Path(__file__).with_name("two_processes.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(script.parent), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(script), str(clean), str(spoilt), str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    run_main(job(spoilt, tmp_path / "whole"), None, 2, SilentProgress())
    assert result(tmp_path / "two/stopped") == result(tmp_path / "whole")
    (ours,), (theirs,) = (events(folder, "rollback") for folder in (tmp_path / "whole", recovered))
    assert {**ours, "reason": theirs["reason"]} == theirs
    losses = [[e["train/loss"] for e in events(folder, "train")] for folder in (tmp_path / "whole", recovered)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert_all_went_back(tmp_path / "two/broken")


def assert_all_went_back(folder: Path) -> None:
    """A weight of the process that writes nothing was NaN: first the loss of a step shows it, then a validation."""
    first, second = events(folder, "rollback")
    assert (first["from_step"], first["to_step"], first["skipped_batch"], "the loss" in first["reason"]) == (34, 15, 33, True)
    assert (second["from_step"], second["to_step"], second["rate_factor"], "the validation" in second["reason"]) == (75, 60, 0.2, True)
    assert [e["step"] for e in events(folder, "train")] == list(range(1, 91))
    leader, other = (load_checkpoint(folder / f"process-{rank}") for rank in range(2))
    assert leader.state == other.state
    assert leader.tensors.keys() == other.tensors.keys() == {"model", "optimizer", "ema"}
    for file, tensors in leader.tensors.items():
        assert tensors.keys() == other.tensors[file].keys()
        assert all(torch.equal(tensor, other.tensors[file][name]) for name, tensor in tensors.items())


def test_noise_and_falling_losses_are_no_trouble() -> None:
    random = np.random.default_rng(3)
    losses = list(3 + 5 * np.exp(-np.arange(3000) / 200) + 0.1 * random.standard_normal(3000))
    assert all(find_trouble(x, 1.0, losses[max(0, i - 100) : i], 10, 4000, 64) is None for i, x in enumerate(losses))
    assert find_trouble(losses[-1] + 1.5, 1.0, losses[-100:], 10, 4000, 64) is not None
    assert find_trouble(losses[-1] + 1.5, 1.0, losses[-19:], 10, 4000, 64) is None
    assert find_trouble(10.4, 1.0, [], 10, 4000, 64) is not None
    for loss, norm in ((float("nan"), 1.0), (float("inf"), 1.0), (3.0, float("nan")), (3.0, float("inf"))):
        assert find_trouble(loss, norm, [], 0, 4000, 64) is not None
    assert find_trouble(99.0, 1.0, losses[-100:], 0, 4000, 64) is None


@given(
    share=st.floats(0.02, 0.2),
    sequences=st.sampled_from([1, 2, 4, 8, 32]),
    harder=st.floats(0.5, 2.5),
    seed=st.integers(0, 1_000),
)
@settings(max_examples=30, deadline=None)
def test_a_few_texts_of_another_kind_are_no_trouble(share: float, sequences: int, harder: float, seed: int) -> None:
    """A share of the sequences has a loss that falls less, as text in a second language has."""
    random = np.random.default_rng(seed)
    common = 3 + 3.5 * np.exp(-np.arange(600) / 60)
    rare = np.minimum(common + harder, 6.6)
    kinds = random.random((600, sequences)) < share
    losses = (np.where(kinds, rare[:, None], common[:, None]) + 0.15 * random.standard_normal((600, sequences))).mean(axis=1).tolist()
    assert all(find_trouble(x, 1.0, losses[max(0, i - 100) : i], 10, 800, sequences) is None for i, x in enumerate(losses))


def test_the_last_good_step_is_kept(tmp_path: Path) -> None:
    assert [last_good_step(step, 20) for step in (0, 9, 29, 30, 49, 50)] == [0, 0, 0, 20, 20, 40]
    for step in (0, 7, 15, 20, 25, 40, 41, 42, 43):
        (tmp_path / f"step-{step:06d}").mkdir()
        (tmp_path / f"step-{step:06d}/state.json").touch()
    prune_checkpoints(tmp_path, 3, lambda step: may_roll_back_to(step, 43, 20))
    assert [step for step, _ in list_checkpoints(tmp_path)] == [20, 40, 41, 42, 43]


def test_skipped_batches_are_never_used() -> None:
    position = TrainPosition(skipped=[2, 3, 6])
    used = []
    for step in range(6):
        position.step = step
        used.append(position.batch())
    assert used == [0, 1, 4, 5, 7, 8]


def test_patience_begins_again_if_the_best_weights_are_of_after_the_good_state(tmp_path: Path) -> None:
    config = TrainConfig(eval_every_steps=10, ema_decay=0, precision="fp32")
    state = initial_state(config, SHAPE, 1, pick_device("cpu"), "key")
    position = state.position
    position.step, position.best_loss, position.best_step, position.worse_in_a_row = 20, 2.0, 10, 1
    state.save(tmp_path)
    position.step, position.best_loss, position.best_step, position.worse_in_a_row = 35, 1.5, 30, 0
    return_to_good(state, tmp_path, config, SilentProgress())
    assert (state.position.step, state.position.best_step, state.position.worse_in_a_row) == (20, 30, 0)
