"""Tests the training loop: equal gradients, falling loss, exact resume after stop and kill, damaged checkpoints."""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bulletlm.config.schema import TrainConfig
from bulletlm.data.tokens import open_tokens
from bulletlm.errors import BulletError, Interrupted
from bulletlm.files import sha256_of_file
from bulletlm.progress import SilentProgress
from bulletlm.quant.types import weight_types
from bulletlm.shape import ModelShape
from bulletlm.train import training
from bulletlm.train.backend.compute import set_up
from bulletlm.train.backend.native import why_not
from bulletlm.train.backend.plan import ComputePlan
from bulletlm.train.batches import TrainingWindows
from bulletlm.train.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from bulletlm.train.distil import TeacherBackend
from bulletlm.train.log.metrics import CLOCK
from bulletlm.train.model import Transformer
from bulletlm.train.state import TrainPosition
from bulletlm.train.step import accumulate
from bulletlm.train.training import TrainJob, train
from bulletlm.train.validation import validate

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


class StopAt(SilentProgress):
    """Sends a signal, by default SIGTERM, to this process when the progress bar reaches a step."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGTERM) -> None:
        self.left, self.number = step, number

    @contextlib.contextmanager
    def task(self, title: str, total: float | None) -> Iterator["StopAt"]:
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.left -= int(amount)
        if self.left == 0:
            os.kill(os.getpid(), self.number)


class FreezeAfter(SilentProgress):
    """Closes a file after a number of steps, and waits there to be killed."""

    def __init__(self, steps: int, file: int) -> None:
        self.left, self.file = steps, file

    @contextlib.contextmanager
    def task(self, title: str, total: float | None) -> Iterator["FreezeAfter"]:
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.left -= bool(note)  # what an earlier run has done comes without
        if not self.left:
            os.close(self.file)
            while True:
                signal.pause()


def job(tokens: Path, folder: Path, **changes: Any) -> TrainJob:
    config = TrainConfig(**{**SETTINGS, **changes})
    return TrainJob(config=config, shape=SHAPE, seed=42, tokens_dir=tokens, run_dir=folder, key="key")


def run(tokens: Path, folder: Path, progress: SilentProgress | None = None, **changes: Any) -> Any:
    return train(job(tokens, folder, **changes), progress or SilentProgress())


def events(folder: Path) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def weights_hash(folder: Path) -> tuple[str, str]:
    last = list_checkpoints(folder / "checkpoints")[-1][1]
    return sha256_of_file(last / "model.safetensors"), sha256_of_file(folder / "checkpoints/best/model.safetensors")


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of_file(path) for path in folder.rglob("*") if path.is_file()}


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
    model = Transformer(SHAPE)
    model.load_state_dict(best.tensors["model"])
    nats, count = validate(model, open_tokens(tokens_dir, "val"), 4)
    assert nats / count == pytest.approx(lowest, rel=1e-6)


def test_only_the_last_three_checkpoints_are_kept(whole: Path) -> None:
    assert [step for step, _ in list_checkpoints(whole / "checkpoints")] == [40, 45, 60]


class Lines(SilentProgress):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str, level: str = "info") -> None:
        self.lines.append(text)


@pytest.mark.parametrize(("planned", "times"), [(1e-9, 1), (1e9, 0), (None, 0)])
def test_a_training_that_takes_longer_than_planned_says_so_once(
    tokens_dir: Path, tmp_path: Path, planned: float | None, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the file that ends the training with the best weights."""
    monkeypatch.setattr(training, "LEAST_TIMED_SECONDS", 0.0)
    progress, folder = Lines(), tmp_path / "a run"
    slow = dataclasses.replace(job(tokens_dir, folder, total_steps=6), planned_seconds=planned)
    train(slow, progress)
    said = [line for line in progress.lines if "as planned" in line]
    assert len(said) == times
    for line in said:
        assert shlex.split(line.rpartition(": ")[2]) == ["touch", str(folder / training.FINISH)]


def test_same_seed_same_bytes(whole: Path, tokens_dir: Path, tmp_path: Path) -> None:
    run(tokens_dir, tmp_path)
    assert weights_hash(tmp_path) == weights_hash(whole)
    assert events(tmp_path) == events(whole)


def test_accumulated_gradients_are_those_of_one_batch(tokens_dir: Path) -> None:
    """Targets are unevenly spread over the micro-batches (loss on answers only)."""
    gradients = []
    for size, passes in ((8, 1), (2, 4), (1, 8)):
        model = Transformer(SHAPE)
        model.initialize(3)
        windows = TrainingWindows(open_tokens(tokens_dir, "train"), 16, 9)
        config = TrainConfig(batch_size_per_device=size, gradient_accumulation_steps=passes)
        counts = {int((windows.batch(i, 1)[1] >= 0).sum()) for i in range(24, 32)}
        assert len(counts) > 1
        accumulate(config, windows, 3, set_up(ComputePlan(False, "fp32", 1, size), model))
        gradients.append([weight.grad for weight in model.parameters()])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("per_pass", [1, 3, 5, 8])
def test_passes_of_any_size_give_the_gradients_of_one_batch(tokens_dir: Path, per_pass: int) -> None:
    """Also where the last pass has fewer sequences than the others, as distillation allows."""
    config = TrainConfig(batch_size_per_device=8, gradient_accumulation_steps=1)
    windows = TrainingWindows(open_tokens(tokens_dir, "train"), 16, 9)
    gradients, losses = [], []
    for size in (8, per_pass):
        model = Transformer(SHAPE)
        model.initialize(3)
        backend = TeacherBackend(model.loss, size, torch.device("cpu"))
        assert backend.pass_size(8) == size
        losses.append(accumulate(config, windows, 3, backend))
        gradients.append([weight.grad for weight in model.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("when", "optimizer"), [(1, "adamw"), (20, "adamw"), (33, "adamw"), (60, "adamw"), (33, "muon")])
def test_a_stopped_run_continues_exactly(whole: Path, tokens_dir: Path, tmp_path: Path, when: int, optimizer: str) -> None:
    with pytest.raises(Interrupted, match=f"stopped at step {when} of 60; saved"):
        train(job(tokens_dir, tmp_path / "stopped", optimizer=optimizer), StopAt(when))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    run(tokens_dir, tmp_path / "stopped", optimizer=optimizer)
    if optimizer != "adamw":
        whole = tmp_path / "whole"
        run(tokens_dir, whole, optimizer=optimizer)
    assert weights_hash(tmp_path / "stopped") == weights_hash(whole)
    assert events(tmp_path / "stopped") == events(whole)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_every_request_to_stop_saves(tokens_dir: Path, tmp_path: Path, name: str) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped at step 3 of 60; saved"):
        train(job(tokens_dir, tmp_path), StopAt(3, number))
    assert signal.getsignal(number) == before
    assert (tmp_path / "checkpoints" / "step-000003" / "state.json").is_file()


def test_a_signal_that_is_ignored_stays_ignored(tokens_dir: Path, tmp_path: Path) -> None:
    """nohup starts programs that ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        train(job(tokens_dir, tmp_path, total_steps=5), StopAt(3, signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("when", [29, 30, 31])
def test_a_run_that_is_stopped_where_it_goes_onto_the_grid_continues_exactly(tokens_dir: Path, tmp_path: Path, when: int) -> None:
    """The average restarts there: after one step it holds 2/11 of the weights of step 30 and 9/11 of the next ones."""

    def on_grid(folder: Path, progress: SilentProgress) -> None:
        exact = job(tokens_dir, folder, ema_decay=0.999, save_every_steps=1, keep_checkpoints=60, total_steps=60)
        train(dataclasses.replace(exact, types=weight_types(SHAPE), qat_start=0.5), progress)

    with pytest.raises(Interrupted):
        on_grid(tmp_path / "stopped", StopAt(when))
    on_grid(tmp_path / "stopped", SilentProgress())
    on_grid(tmp_path / "whole", SilentProgress())
    assert weights_hash(tmp_path / "stopped") == weights_hash(tmp_path / "whole")
    assert events(tmp_path / "stopped") == events(tmp_path / "whole")
    before, after = (load_checkpoint(tmp_path / f"whole/checkpoints/step-0000{step}").tensors for step in (30, 31))
    for name, average in after["ema"].items():
        torch.testing.assert_close(average, before["model"][name] * 2 / 11 + after["model"][name] * 9 / 11)


KILLS = """
import os, random, select, signal, sys, time
from pathlib import Path
import test_loop
import torch._dynamo  # the optimizers import it late, which would cost every child two seconds

tokens, folder, kills = Path(sys.argv[1]), Path(sys.argv[2]), 20
moments, metrics = random.Random(11), folder / "metrics.jsonl"
for _ in range(kills):
    lines = moments.randrange(1, 6)
    frozen, freeze = os.pipe()
    child = os.fork()  # torch is imported once, not once a kill
    if not child:
        # However seldom this process has its turn, no child gets so far that twenty are too many.
        test_loop.run(tokens, folder, test_loop.FreezeAfter(11, freeze), **test_loop.KILLED)
        os._exit(0)
    os.close(freeze)
    seen, size = 0, None
    while seen < lines and not select.select([frozen], [], [], 0.001)[0]:
        now = metrics.stat().st_size if metrics.exists() else 0
        seen += size is not None and now > size
        size = now
    time.sleep(moments.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), "it ended by itself"
    os.close(frozen)
test_loop.run(tokens, folder, **test_loop.KILLED)
print(kills)
"""
KILLED = {"total_steps": 240, "save_every_steps": 4}


@pytest.mark.slow
def test_a_run_killed_twenty_times_continues_exactly(tokens_dir: Path, tmp_path: Path) -> None:
    """kill -9 at random moments, also while checkpoints and metrics are being written."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", KILLS, str(tokens_dir), str(tmp_path / "killed")]
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600, check=False)
    assert result.stdout.strip() == "20", result.stderr
    run(tokens_dir, tmp_path / "whole", **KILLED)
    assert weights_hash(tmp_path / "killed") == weights_hash(tmp_path / "whole")
    assert events(tmp_path / "killed") == events(tmp_path / "whole")


def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(whole: Path, tokens_dir: Path, tmp_path: Path) -> None:
    run(tokens_dir, tmp_path, total_steps=60)
    newest = list_checkpoints(tmp_path / "checkpoints")[-1][1]
    path = newest / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    cut_off = tmp_path / "checkpoints/step-000047.partial"
    cut_off.mkdir()
    said: list[str] = []

    class Listening(SilentProgress):
        def log(self, text: str, level: str = "info") -> None:
            said.append(text)

    train(job(tokens_dir, tmp_path), Listening())
    assert not cut_off.exists()
    assert (tmp_path / "checkpoints/step-000060.damaged").is_dir()
    assert any("optimizer.safetensors is damaged" in text for text in said)
    assert any("resuming from" in text and "step-000045" in text for text in said)
    assert weights_hash(tmp_path) == weights_hash(whole)


def test_damaged_lines_of_metrics_are_removed_when_the_run_continues(whole: Path, tokens_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    file = tmp_path / "run/metrics.jsonl"
    lines = [b"[]", b"3", b"null", b"{}", b'{"event": "train"}', b'{"event": "train", "step": "x"}', b'{"event": 1, "step": 1}', b"\xff"]
    lines += [b'{"event": "train", "step": NaN}', b'{"event": "train", "step": 1, "train/loss": 1e999}', b"[" * 100_000]
    lines += [json.dumps({"event": "train", "step": 1}).encode("utf-16")]
    file.write_bytes(b"".join(line + b"\n" for line in lines) + file.read_bytes() + b"\n".join(lines))
    assert run(tokens_dir, tmp_path / "run") == run(tokens_dir, whole)
    assert hashes(tmp_path / "run") == hashes(whole)


@pytest.mark.parametrize("name", ["step-000060", "best"])
def test_a_kill_between_two_renames_loses_no_checkpoint(name: str, whole: Path, tokens_dir: Path, tmp_path: Path) -> None:
    """Where folders cannot be exchanged in one step: the older folder has a temporary name then, and the newer one is not there yet."""
    shutil.copytree(whole, tmp_path / "run")
    folder = tmp_path / "run/checkpoints" / name
    folder.rename(folder.with_name(f"{name}.replaced.partial"))
    folder.with_name(f"{name}.partial").mkdir()
    assert run(tokens_dir, tmp_path / "run") == run(tokens_dir, whole)
    assert hashes(tmp_path / "run") == hashes(whole)
    assert not list((tmp_path / "run/checkpoints").glob("step-*.partial"))


def test_a_best_model_is_not_replaced_because_all_checkpoints_are_damaged(whole: Path, tokens_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    for _, folder in list_checkpoints(tmp_path / "run/checkpoints"):
        (folder / "model.safetensors").unlink()
    before = hashes(tmp_path / "run")
    for _ in range(2):
        with pytest.raises(
            BulletError, match=r"no checkpoint in .* is intact \(.*is missing\): restore .* or train again with --restart"
        ) as stop:
            run(tokens_dir, tmp_path / "run")
        assert "\n" not in str(stop.value)
    assert hashes(tmp_path / "run") == before


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with everything that a run's has."""
    folder = tmp_path_factory.mktemp("small") / "step-000020"
    event = {"from_step": 40, "to_step": 20, "skipped_batch": 39, "rate_factor": 0.6, "reason": "the loss jumped"}
    position = TrainPosition(20, 20, 20, 1.25, "ema", 0, [3.5, 1e-05, 2.25], 1, [39], [event])
    tensors = {name: {"weight": torch.arange(4.0)} for name in ("model", "optimizer", "ema")}
    save_checkpoint(folder, Checkpoint(tensors, {"key": "key", **position.to_json()}))
    return folder


def test_the_position_in_a_checkpoint_keeps_its_names(small: Path) -> None:
    """Checkpoints of earlier versions stay readable, and those versions can read these."""
    state = json.loads((small / "state.json").read_text(encoding="utf-8"))
    names = "step evaluated_step best_step best_loss best_weights worse_in_a_row recent_losses rung skipped rollbacks"
    assert list(state["position"]) == names.split() and state["position"]["rung"] == 1
    position = TrainPosition.from_json(state)
    assert position.backoff_level == 1
    assert position.to_json()["position"] == state["position"]


@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**32),
            "types": st.none() | st.just(weight_types(SHAPE)),
            "qat_start": st.none() | st.floats(0, 0.99),
            "key": st.text(),
            "config": st.builds(TrainConfig, learning_rate=st.floats(1e-5, 1.0), track=st.just(["tensorboard"])),
        },
    )
)
def test_a_job_survives_its_way_to_the_workers(changes: dict[str, Any]) -> None:
    sent = dataclasses.replace(job(Path("/tokens"), Path("/run")), **changes)
    assert TrainJob.from_json(json.loads(json.dumps(sent.to_json()))) == sent


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_in_the_state_is_believed(small: Path, data: st.DataObject) -> None:
    path = small / "state.json"
    right, expected = path.read_bytes(), load_checkpoint(small).state
    flipped = bytearray(right)
    flipped[data.draw(st.integers(0, len(right) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(flipped)
        with contextlib.suppress(BulletError):
            assert load_checkpoint(small).state == expected, "such as a capital E in 1e-05"
    finally:
        path.write_bytes(right)


def test_every_digit_of_the_state_counts(small: Path) -> None:
    path = small / "state.json"
    right = path.read_text()
    try:
        for match in re.finditer(r"\d", right):
            path.write_text(right[: match.start()] + str((int(match[0]) + 1) % 10) + right[match.end() :])
            with pytest.raises(BulletError, match=r"state.json is damaged|safetensors is damaged"):
                load_checkpoint(small)
        for value in ("NaN", "1e999", '"\\ud800"'):
            path.write_text(right.replace("1.25", value))
            with pytest.raises(BulletError, match=r"state.json is damaged"):
                load_checkpoint(small)
    finally:
        path.write_text(right)


def test_a_checkpoint_that_cannot_be_read_is_one_line(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing disk returns EIO."""

    def read(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("bulletlm.train.checkpoint.sha256_of_file", read)
    with pytest.raises(BulletError, match=r"^cannot read .*model.safetensors: Input/output error$"):
        load_checkpoint(small)


def test_other_settings_are_not_mixed_in(whole: Path, tokens_dir: Path, tmp_path: Path) -> None:
    run(tokens_dir, tmp_path, total_steps=2)
    with pytest.raises(BulletError, match="trained with other settings or data"):
        train(dataclasses.replace(job(tokens_dir, tmp_path), key="other key"), SilentProgress())


def test_early_stopping_keeps_the_best(tokens_dir: Path, tmp_path: Path) -> None:
    changes = {"learning_rate": 0.3, "scheduler": "constant", "spike_threshold": 0}
    said: list[str] = []

    class Listening(SilentProgress):
        def log(self, text: str, level: str = "info") -> None:
            said.append(text)

    result = run(tokens_dir, tmp_path, Listening(), total_steps=400, eval_every_steps=5, patience_early_stop=2, **changes)
    assert result.stopped_early
    kept = f"not fallen for 2 validations (train.patience_early_stop); the best weights, of step {result.best_step}, are kept"
    assert said[-1] == f"the training ends at step {result.steps} of 400: the validation loss has {kept}"
    assert result.steps < 400
    assert result.best_step == result.steps - 10
    assert load_checkpoint(tmp_path / "checkpoints/best").state["step"] == result.best_step
    assert events(tmp_path)[-1]["reason"] == "early stop"


def test_early_stopping_counts_on_after_a_break(tokens_dir: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"learning_rate": 0.3, "scheduler": "constant", "spike_threshold": 0}
    changes |= {"total_steps": 400, "eval_every_steps": 5, "patience_early_stop": 3, "save_every_steps": 1}
    whole = run(tokens_dir, tmp_path / "whole", **changes)
    for steps in range(whole.best_step + 4, whole.steps, 4):  # between the evaluations that count
        with pytest.raises(Interrupted):
            train(job(tokens_dir, tmp_path / "parts", **changes), StopAt(steps))
    assert run(tokens_dir, tmp_path / "parts", **changes) == whole
    assert run(tokens_dir, tmp_path / "parts", **changes) == whole, "a run that stopped early is over"
    assert events(tmp_path / "parts") == events(tmp_path / "whole")


needs_int8 = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.mark.parametrize("precision", ["bf16", pytest.param("int8", marks=needs_int8)])
def test_other_precisions_follow_fp32(precision: str, whole: Path, tokens_dir: Path, tmp_path: Path) -> None:
    run(tokens_dir, tmp_path, precision=precision, total_steps=60)
    final = [[e["val/loss"] for e in events(folder) if e["event"] == "eval"][-1] for folder in (whole, tmp_path)]
    assert final[0] == pytest.approx(final[1], rel=0.02)


@needs_int8
def test_a_stopped_run_in_int8_continues_exactly_and_with_other_threads(tokens_dir: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "precision": "int8"}
    with pytest.raises(Interrupted):
        train(job(tokens_dir, tmp_path / "stopped", **settings), StopAt(33))
    run(tokens_dir, tmp_path / "stopped", precision="int8", threads=3)
    run(tokens_dir, tmp_path / "whole", precision="int8")
    torch.set_num_threads(1)
    assert weights_hash(tmp_path / "stopped") == weights_hash(tmp_path / "whole")
