"""The loop: equal gradients, learning, exact resume after stop and kill, damaged checkpoints."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bulletlm.config import TrainConfig
from bulletlm.data.tokens import open_tokens
from bulletlm.errors import BulletError, Interrupted
from bulletlm.files import sha256_of_file
from bulletlm.model import Llama
from bulletlm.progress import SilentProgress
from bulletlm.shape import ModelShape
from bulletlm.train.batches import TrainingWindows
from bulletlm.train.checkpoint import list_checkpoints, load_checkpoint
from bulletlm.train.compute import Compute
from bulletlm.train.evaluation import validate
from bulletlm.train.loop import train
from bulletlm.train.metrics import CLOCK
from bulletlm.train.step import accumulate

SHAPE = ModelShape(vocab_size=500, dim=32, n_layers=1, n_heads=2, n_kv_heads=2, hidden_dim=64, max_seq_len=16)
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-2,
    "warmup_steps": 10,
    "total_steps": 60,
    "batch_size_per_device": 4,
    "gradient_accumulation_steps": 2,
    "eval_every_steps": 20,
    "save_every_steps": 15,
    "ema_decay": 0.9,
    "threads": 1,
    "precision": "fp32",
    "compile": "off",
}


def run(tokens: Path, folder: Path, **changes: Any) -> Any:
    return train(TrainConfig(**{**SETTINGS, **changes}), SHAPE, 42, tokens, folder, "key", SilentProgress())


def events(folder: Path) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def weights_hash(folder: Path) -> tuple[str, str]:
    last = list_checkpoints(folder / "checkpoints")[-1][1]
    return sha256_of_file(last / "model.safetensors"), sha256_of_file(folder / "checkpoints/best/model.safetensors")


@pytest.fixture(scope="module")
def whole(tokens_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run(tokens_dir, folder)
    return folder


def test_it_learns(whole: Path) -> None:
    losses = [event["train/loss"] for event in events(whole) if event["event"] == "train"]
    assert len(losses) == 60
    assert losses[0] == pytest.approx(6.2, abs=0.1)
    assert losses[-1] < 3.5
    evaluated = [event["step"] for event in events(whole) if event["event"] == "eval"]
    assert evaluated == [20, 40, 60]


def test_best_is_the_lowest_validation_loss(whole: Path, tokens_dir: Path) -> None:
    best = load_checkpoint(whole / "checkpoints/best")
    lowest = min(min(e["val/loss"], e["val/loss_ema"]) for e in events(whole) if e["event"] == "eval")
    assert best.state["val_loss"] == lowest
    model = Llama(SHAPE)
    model.load_state_dict(best.tensors["model"])
    nats, count = validate(model, open_tokens(tokens_dir, "val"), 4)
    assert nats / count == pytest.approx(lowest, rel=1e-6)


def test_only_the_last_three_checkpoints_are_kept(whole: Path) -> None:
    assert [step for step, _ in list_checkpoints(whole / "checkpoints")] == [40, 45, 60]


def test_same_seed_same_bytes(whole: Path, tokens_dir: Path, tmp_path: Path) -> None:
    run(tokens_dir, tmp_path)
    assert weights_hash(tmp_path) == weights_hash(whole)
    assert events(tmp_path) == events(whole)


def test_accumulated_gradients_are_those_of_one_batch(tokens_dir: Path) -> None:
    """Targets are unevenly spread over the micro-batches (loss on answers only)."""
    gradients = []
    for size, passes in ((8, 1), (2, 4), (1, 8)):
        model = Llama(SHAPE)
        model.initialise(3)
        windows = TrainingWindows(open_tokens(tokens_dir, "train"), 16, 9)
        config = TrainConfig(batch_size_per_device=size, gradient_accumulation_steps=passes)
        counts = {int((windows.batch(i, 1)[1] >= 0).sum()) for i in range(24, 32)}
        assert len(counts) > 1
        accumulate(config, windows, 3, Compute(model.loss, size, "eager"))
        gradients.append([weight.grad for weight in model.parameters()])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("when", "optimizer"), [(1, "adamw"), (20, "adamw"), (33, "adamw"), (33, "muon")])
def test_a_stopped_run_continues_exactly(whole: Path, tokens_dir: Path, tmp_path: Path, when: int, optimizer: str) -> None:
    class StopAt(SilentProgress):
        class _Task:
            steps = 0

            def advance(self, amount: float = 1, note: str = "") -> None:
                self.steps += int(amount)
                if self.steps == when:
                    os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=f"stopped at step {when} of 60; saved"):
        train(TrainConfig(**SETTINGS, optimizer=optimizer), SHAPE, 42, tokens_dir, tmp_path / "stopped", "key", StopAt())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    run(tokens_dir, tmp_path / "stopped", optimizer=optimizer)
    if optimizer != "adamw":
        whole = tmp_path / "whole"
        run(tokens_dir, whole, optimizer=optimizer)
    assert weights_hash(tmp_path / "stopped") == weights_hash(whole)
    assert events(tmp_path / "stopped") == events(whole)


@pytest.mark.slow
def test_a_killed_run_continues_exactly(whole: Path, tokens_dir: Path, tmp_path: Path) -> None:
    """kill -9 at random moments until a run reaches the end."""
    script = (
        "import sys, json; from pathlib import Path; sys.path[:0] = json.loads(sys.argv[3]); import test_loop; "
        "test_loop.run(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, str(tokens_dir), str(tmp_path), json.dumps([str(Path(__file__).parent)])]
    moments = random.Random(11)
    kills = 0
    for attempt in range(6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        if attempt < 4:
            started = time.monotonic()
            while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() - started < 60:
                time.sleep(0.01)
            time.sleep(moments.uniform(0.02, 0.5))
            process.kill()
        if process.wait(timeout=120) == 0:
            break
        kills += 1
    assert process.returncode == 0
    assert kills >= 1
    assert weights_hash(tmp_path) == weights_hash(whole)
    assert events(tmp_path) == events(whole)


def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(whole: Path, tokens_dir: Path, tmp_path: Path) -> None:
    run(tokens_dir, tmp_path, total_steps=60)
    newest = list_checkpoints(tmp_path / "checkpoints")[-1][1]
    path = newest / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    said: list[str] = []

    class Listening(SilentProgress):
        def say(self, text: str) -> None:
            said.append(text)

    train(TrainConfig(**SETTINGS), SHAPE, 42, tokens_dir, tmp_path, "key", Listening())
    assert any("optimizer.safetensors is damaged" in text for text in said)
    assert any("resuming from" in text and "step-000045" in text for text in said)
    assert weights_hash(tmp_path) == weights_hash(whole)


def test_other_settings_are_not_mixed_in(whole: Path, tokens_dir: Path, tmp_path: Path) -> None:
    run(tokens_dir, tmp_path, total_steps=2)
    with pytest.raises(BulletError, match="trained with other settings or data"):
        train(TrainConfig(**SETTINGS), SHAPE, 42, tokens_dir, tmp_path, "other key", SilentProgress())


def test_early_stopping_keeps_the_best(tokens_dir: Path, tmp_path: Path) -> None:
    changes = {"learning_rate": 0.3, "scheduler": "constant", "spike_threshold": 0}
    result = run(tokens_dir, tmp_path, total_steps=400, eval_every_steps=5, patience_early_stop=2, **changes)
    assert result.stopped_early
    assert result.steps < 400
    assert result.best_step == result.steps - 10
    assert load_checkpoint(tmp_path / "checkpoints/best").state["step"] == result.best_step
    assert events(tmp_path)[-1]["reason"] == "early stop"


def test_bf16_follows_fp32(whole: Path, tokens_dir: Path, tmp_path: Path) -> None:
    run(tokens_dir, tmp_path, precision="bf16", total_steps=60)
    final = [[e["val/loss"] for e in events(folder) if e["event"] == "eval"][-1] for folder in (whole, tmp_path)]
    assert final[0] == pytest.approx(final[1], rel=0.02)
