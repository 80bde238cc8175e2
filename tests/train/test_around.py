"""Tests the features around the training steps: stop file, full disk, pauses, samples, trackers, `bullet prove`."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from psutil import _ntuples as system
from test_loop import SHAPE, job, run

from bulletlm.cli.app import main
from bulletlm.config.schema import TrainConfig
from bulletlm.data.tokens import open_tokens, write_tokens
from bulletlm.errors import BulletError, Interrupted
from bulletlm.evaluate.perplexity import score
from bulletlm.files import sha256_of_file
from bulletlm.progress import SilentProgress
from bulletlm.runtime import Sampling, Session, load
from bulletlm.runtime.engine import NumpyEngine
from bulletlm.text.chat import encode_prompt
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.train import prove
from bulletlm.train.backend.plan import default_plan, inspect_capabilities
from bulletlm.train.checkpoint import list_checkpoints, load_checkpoint
from bulletlm.train.guard import stopping
from bulletlm.train.guard.stopping import disk_is_low, reason_to_wait
from bulletlm.train.log.diagnostics import activation_rms, copy_matrices, update_ratio
from bulletlm.train.log.trackers import open_trackers
from bulletlm.train.model import Transformer
from bulletlm.train.state import initial_state
from bulletlm.train.training import train
from bulletlm.train.validation import evaluate


class AtStep(SilentProgress):
    """Calls `action` when the bar has moved by `step` steps; keeps all messages."""

    def __init__(self, step: int, action: Any) -> None:
        self.left, self.action, self.said = step, action, list[str]()

    def __enter__(self) -> "AtStep":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def task(self, title: str, total: float | None) -> Any:
        return self

    def log(self, text: str, level: str = "info") -> None:
        self.said.append(text)

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.left -= int(amount)
        if self.left == 0:
            self.action()


def train_with(progress: Any, tokens: Path, folder: Path, **changes: Any) -> Any:
    return train(job(tokens, folder, **changes), progress)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_a_stop_file_stops_like_ctrl_c(tokens_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="stopped at step 7 of 60; saved: run the same command again to continue from there"):
        train_with(AtStep(7, (tmp_path / "stop").touch), tokens_dir, tmp_path)
    assert not (tmp_path / "stop").exists()
    assert list_checkpoints(tmp_path / "checkpoints")[-1][0] == 7
    assert run(tokens_dir, tmp_path, total_steps=9).steps == 9


def test_little_room_on_the_disk_stops_while_there_is_some(tokens_dir: Path, tmp_path: Path) -> None:
    """A separate small disk, which is filled during training."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk needs root")
    try:
        with pytest.raises(Interrupted, match=r"stopped at step 8 of 60 \(only \d\d MB are free .*: free some space\); saved"):
            train_with(AtStep(8, lambda: (disk / "film").write_bytes(bytes(20_000_000))), tokens_dir, disk / "run")
        (disk / "film").unlink()
        assert run(tokens_dir, disk / "run", total_steps=10).steps == 10
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_room_for_two_checkpoints_is_asked_for(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert disk_is_low(tmp_path, 1000) is None
    assert "free on the disk of" in str(disk_is_low(tmp_path, free))


def test_a_checkpoint_that_does_not_fit_leaves_the_old_ones_whole(tokens_dir: Path, tmp_path: Path) -> None:
    """A limit on file sizes stops every write at 60 KB, as a full disk would; the weights have 110 KB."""
    run(tokens_dir, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train_with(AtStep(33, (tmp_path / "stop").touch), tokens_dir, tmp_path)
    before = {path: sha256_of_file(path) for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    script = (
        "import resource, sys; from pathlib import Path; import test_loop; from bulletlm.errors import BulletError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000,) * 2)\n"
        "try: test_loop.run(Path(sys.argv[1]), Path(sys.argv[2]))\nexcept BulletError as error: print(error)"
    )
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", script, str(tokens_dir), str(tmp_path)]
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.startswith("cannot write ")
    assert "free some space" in result.stdout
    after = {path: sha256_of_file(path) for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    assert after == before
    run(tokens_dir, tmp_path)
    assert prove.find_difference(tmp_path / "whole", tmp_path) is None


def test_pauses_are_decided_from_what_the_system_tells() -> None:
    low, plugged = system.sbattery(18.2, 3600, False), system.sbattery(18.2, 3600, True)
    assert "18 % left" in str(reason_to_wait(low, {}, 20, True))
    assert reason_to_wait(plugged, {}, 100, True) is None
    assert reason_to_wait(system.sbattery(80, 7200, False), {}, 20, True) is None
    assert reason_to_wait(system.sbattery(80, 7200, False), {}, 100, True) is not None
    assert reason_to_wait(system.sbattery(100, 7200, False), {}, 100, True) is not None, "whenever unplugged"
    assert reason_to_wait(low, {}, 0, True) is None
    assert reason_to_wait(system.sbattery(18.2, -1, None), {}, 20, True) is None, "unknown is no reason"
    cool, hot = system.shwtemp("Core 0", 71.0, 100.0, 100.0), system.shwtemp("Core 1", 97.5, 100.0, 100.0)
    odd = [system.shwtemp("", 40.0, None, None), system.shwtemp("x", 38.0, 0.0, 0.0), system.shwtemp("y", 30.0, 65261.8, 65261.8)]
    assert reason_to_wait(None, {"coretemp": [cool], "acpitz": odd}, 20, True) is None
    assert "coretemp Core 1 is at 98 of at most 100 degrees" in str(reason_to_wait(None, {"coretemp": [cool, hot]}, 20, True))
    assert reason_to_wait(None, {"coretemp": [cool, hot]}, 20, False) is None


def test_a_pause_saves_and_ends(tokens_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power cable is disconnected at step 6 and connected again at the next check."""
    looks = iter([system.sbattery(15, 900, False)])
    monkeypatch.setattr(stopping, "SENSOR_INTERVAL_SECONDS", 0.0)
    progress = AtStep(6, lambda: monkeypatch.setattr("psutil.sensors_battery", lambda: next(looks, None)))
    train_with(progress, tokens_dir, tmp_path / "run", total_steps=20)
    paused = [line for line in progress.said if "paused" in line or line == "going on"]
    assert paused == ["paused: on battery with 15 % left (train.pause_on_battery); everything is saved", "going on"]
    shutil.rmtree(tmp_path / "run/checkpoints/step-000006")  # saved because of the pause
    run(tokens_dir, tmp_path / "whole", total_steps=20)
    assert prove.find_difference(tmp_path / "whole", tmp_path / "run") is None


def test_nice_is_raised_and_never_lowered() -> None:
    script = (
        "import os; from bulletlm.train.guard.stopping import be_nice; be_nice(12); be_nice(3); print(os.getpriority(os.PRIO_PROCESS, 0))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(result.stdout) >= 12


def test_what_is_observed_is_what_it_says(tokens_dir: Path, tmp_path: Path) -> None:
    model = Transformer(SHAPE)
    model.initialize(1)
    before = copy_matrices(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.01)
    assert update_ratio(before, model) == pytest.approx(0.01, rel=1e-4)
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    tokens = torch.arange(16)[None]
    expected = float(model.token_embedding(tokens).detach().pow(2).mean().sqrt())
    assert activation_rms(model, tokens) == pytest.approx(expected, rel=1e-5)
    run(tokens_dir, tmp_path)
    ratios = {event["step"]: event["update_ratio"] for event in events(tmp_path, "train") if "update_ratio" in event}
    assert sorted(ratios) == [25, 50]
    assert all(1e-4 < ratio < 0.1 for ratio in ratios.values())
    assert all(event["activation_rms"] > 0 and event["memory_mb"] > 50 for event in events(tmp_path, "eval"))


def test_samples_are_those_of_the_kept_weights(micro_run: Path, tmp_path: Path) -> None:
    """Every evaluation has prompts in both languages, and the best checkpoint reproduces the last answers."""
    samples = events(micro_run, "sample")
    evaluated = [event["step"] for event in events(micro_run, "eval")]
    assert [event["step"] for event in samples] == [step for step in evaluated for _ in range(2)]
    assert any("\u0900" <= c <= "\u097f" for c in samples[0]["prompt"])
    assert samples[1]["prompt"].isascii()
    best = load_checkpoint(micro_run / "checkpoints/best")
    tokenizer = Tokenizer.load(micro_run / "tokenizer/tokenizer.model")
    model = load(micro_run / "export/npy")
    for event in samples:
        if event["step"] != best.state["step"]:
            continue
        ids = encode_prompt(tokenizer, [{"role": "user", "content": event["prompt"]}])
        text = "".join(token.text for token in Session(model).generate(ids, Sampling(temperature=0, max_tokens=24)))
        assert event["answer"] == " ".join(text.split())


@pytest.mark.parametrize("loss_on", ["all", "answers"])
def test_bits_per_byte_are_those_of_the_evaluation(micro_run: Path, tmp_path: Path, loss_on: str) -> None:
    """This also holds if only answers have a loss: then only their bytes count."""
    tokenizer = Tokenizer.load(micro_run / "tokenizer/tokenizer.model")
    about = {"source": "made", "language": "mr"}
    rows: list[dict[str, Any]] = [{"id": "0", **about, "text": "नदी डोंगरातून समुद्राकडे वाहते. The river runs to the sea."}]
    talks = [("नमस्कार! तुझे नाव काय?", "माझे नाव बुलेट आहे."), ("Who wrote it, and when?", "Nobody knows.")]
    for number, (question, answer) in enumerate(talks, 1):
        talk = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"id": str(number), **about, "messages": talk})
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_tokens(tmp_path / "data", tokenizer, loss_on, tmp_path / "tokens", SilentProgress())
    file, shape = open_tokens(tmp_path / "tokens", "val"), dataclasses.replace(SHAPE, vocab_size=tokenizer.vocab_size)
    state = initial_state(TrainConfig(ema_decay=0), shape, 3, torch.device("cpu"))
    measured = evaluate(state, file, 4).values
    engine = NumpyEngine(shape, {name: weight.detach().numpy() for name, weight in state.model.named_parameters()})
    total = score(engine, file, tokenizer, SilentProgress()).total
    assert measured["val/bpb"] == pytest.approx(total.bits_per_byte, rel=1e-5)
    assert (total.bytes < file.info["bytes"]) == (loss_on == "answers")


TRACKED = """
import os, signal, sys
from pathlib import Path
import test_around as t
import torch
from bulletlm.progress import SilentProgress
from bulletlm.train import loop

def update_and_break(state, update=loop.update):
    update(state)
    if state.position.step == 53 and not state.position.rollbacks:
        with torch.no_grad():
            state.model.final_norm.weight[3] = float("nan")

loop.update = update_and_break
progress = t.AtStep(43, lambda: os.kill(os.getpid(), signal.SIGKILL)) if sys.argv[3] == "killed" else SilentProgress()
t.train_with(progress, Path(sys.argv[1]), Path(sys.argv[2]), track=["tensorboard", "trackio"])
"""


def test_tensorboard_and_trackio_have_every_number_once(tokens_dir: Path, tmp_path: Path) -> None:
    """Killed after an evaluation, later rolled back. In processes of their own: trackio fixes its folder when it is imported."""
    pytest.importorskip("tensorboard")
    pytest.importorskip("trackio")
    folder = tmp_path / "mine"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    for how, code in ("killed", -signal.SIGKILL), ("whole", 0):
        command = [sys.executable, "-c", TRACKED, str(tokens_dir), str(folder), how]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == code, result.stderr
        assert result.stdout == "", "standard output is for results"
    assert [(event["from_step"], event["to_step"]) for event in events(folder, "rollback")] == [(53, 40)]
    expected: dict[str, list[tuple[int, Any]]] = {}
    for event in [*events(folder, "train"), *events(folder, "eval")]:
        for name, value in event.items():
            if name not in ("event", "step"):
                expected.setdefault(name, []).append((event["step"], pytest.approx(float(value))))
    assert [step for step, _ in expected["train/loss"]] == list(range(1, 61))
    assert [step for step, _ in expected["val/loss"]] == [20, 40, 60]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    assert {name: [(scalar.step, scalar.value) for scalar in board.Scalars(name)] for name in board.Tags()["scalars"]} == expected

    import sqlite3

    kept: dict[str, list[tuple[int, Any]]] = {}
    database = sqlite3.connect(folder / "trackio/bulletlm.db")
    for name, step, metrics in database.execute("select run_name, step, metrics from metrics order by step, id"):
        assert name == "mine"
        for metric, value in json.loads(metrics).items():
            kept.setdefault(metric, []).append((step, value))
    assert kept == expected


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("trackio", "trackio")])
def test_a_missing_tracker_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BulletError, match=rf"train.track names {name}, which is not installed: .* -m pip install .*\[track\]'"):
        open_trackers([name], tmp_path)


@pytest.mark.slow
def test_prove_resume_proves_it(micro_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With two processes, and a second half on the 4-bit grid."""
    shutil.copytree(micro_run, tmp_path / "micro", ignore=shutil.ignore_patterns("checkpoints"))
    before = sorted(tmp_path.rglob("*"))
    settings = ["--train.workers=2", "--qat.start=0.5", f"--runs-dir={tmp_path}"]
    with pytest.raises(SystemExit) as ended:
        main(["train", str(tmp_path / "micro/config.json"), *settings, "--prove-resume"])
    assert not ended.value.code
    said = capsys.readouterr().out
    assert re.match(r"killed after step \d+ of 12 and continued as 2 processes: all 1\d lines .* are the same, byte for byte", said)
    assert "computed like the whole run: fp32, eager, 1 thread" in said
    assert sorted(tmp_path.rglob("*")) == before, "it cleans up"


@pytest.mark.slow
def test_prove_resume_computes_as_the_long_run_does(
    micro_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of that many steps is compiled, or in int8 if that is available."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(micro_run, tmp_path / "micro", ignore=shutil.ignore_patterns("checkpoints"))
    settings = ["--total-steps=4000000", "--train.threads=2", "--compile=auto", "--precision=auto", "--tune=off", f"--runs-dir={tmp_path}"]
    with pytest.raises(SystemExit) as ended:
        main(["train", str(tmp_path / "micro/config.json"), *settings, "--prove-resume"])
    assert not ended.value.code
    here = inspect_capabilities("cpu")
    plan = default_plan(TrainConfig(threads=2, batch_size_per_device=1), here, flops=1e20)
    how = "native" if plan.precision == "int8" else "compiled" if here.machine.compiler else "eager"
    assert f"computed like the whole run: {plan.precision}, {how}, 2 threads" in capsys.readouterr().out


def test_the_proof_sees_differences(tokens_dir: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 42), ("b", 42), ("c", 43)):
        train(dataclasses.replace(job(tokens_dir, tmp_path / name, total_steps=3), seed=seed), SilentProgress())
    assert prove.find_difference(tmp_path / "a", tmp_path / "b") is None
    assert "line 1 of metrics.jsonl" in str(prove.find_difference(tmp_path / "a", tmp_path / "c"))
    file = next((tmp_path / "b/checkpoints").glob("step-*/ema.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert "ema.safetensors" in str(prove.find_difference(tmp_path / "a", tmp_path / "b"))
