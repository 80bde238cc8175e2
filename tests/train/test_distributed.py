"""Tests training in several real processes: same loss curve as with one, only one writes files, none is left over, none hangs."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bulletlm.config.schema import Config, TrainConfig
from bulletlm.errors import ConfigError, Interrupted
from bulletlm.files import write_json
from bulletlm.progress import SilentProgress, Task
from bulletlm.shape import ModelShape
from bulletlm.train.checkpoint import list_checkpoints
from bulletlm.train.distributed.group import SINGLE_PROCESS, ProcessGroup, ProcessLost, check_shard
from bulletlm.train.distributed.launch import run_main
from bulletlm.train.training import TrainJob

SHAPE = ModelShape(vocab_size=500, dim=32, n_layers=1, n_heads=2, n_kv_heads=2, hidden_dim=64, max_seq_len=16)
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-2,
    "warmup_steps": 10,
    "total_steps": 60,
    "batch_size_per_device": 4,
    "gradient_accumulation_steps": 3,
    "eval_every_steps": 20,
    "save_every_steps": 15,
    "ema_decay": 0.9,
    "threads": 1,
    "precision": "fp32",
    "compile": "off",
}


def task(tokens: Path, folder: Path) -> TrainJob:
    return TrainJob(config=TrainConfig(**SETTINGS), shape=SHAPE, seed=42, tokens_dir=tokens, run_dir=folder, key="key")


def curve(folder: Path) -> list[tuple[str, int, float]]:
    """(event, step, loss) of every event, and a check that no event is there twice."""
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [(e["event"], e["step"], e.get("train/loss", e.get("val/loss"))) for e in events if e["event"] in ("train", "eval")]
    assert len({(event, step) for event, step, _ in found}) == len(found)
    return found


def assert_same_curve(a: Path, b: Path, rel: float = 2e-3) -> None:
    ours, theirs = curve(a), curve(b)
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    assert [row[2] for row in ours] == pytest.approx([row[2] for row in theirs], rel=rel)
    assert ours[0][2] == pytest.approx(theirs[0][2], rel=1e-6)


class AtStep(SilentProgress):
    """Do something when a number of steps is reached."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.steps, self.step, self.act = 0, step, act

    @contextlib.contextmanager
    def task(self, title: str, total: float | None) -> Iterator[Task]:
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.steps += int(amount)
        if self.steps == self.step:
            self.act()


def workers() -> list[psutil.Process]:
    """Training processes that this process has started; it may also have started a server for another test."""
    return [child for child in psutil.Process().children() if "bulletlm.train.distributed.launch" in child.cmdline()]


def signal_worker(number: int) -> Callable[[], None]:
    def act() -> None:
        (worker,) = workers()
        worker.send_signal(number)

    return act


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 12])
def test_shards_are_equal_and_cover_the_step(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessGroup, "__init__", lambda self, rank, size: self.__dict__.update(rank=rank, size=size))
    shares = [list(ProcessGroup(rank, size).shard(12)) for rank in range(size)]
    assert [sequence for share in shares for sequence in share] == list(range(12))
    assert len({len(share) for share in shares}) == 1


def test_a_number_of_processes_that_does_not_divide_the_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^5 processes cannot share the 12 sequences of a step .* equally: 1, 2, 3, 4, 6 or 12 can$"):
        check_shard(5, 12)
    with pytest.raises(ConfigError, match="5 processes cannot share"):
        run_main(task(tmp_path, tmp_path), None, 5, SilentProgress())
    assert not workers()


def test_a_single_process_gets_its_own_values() -> None:
    assert SINGLE_PROCESS.sum(1.5, 2) == [1.5, 2]
    assert SINGLE_PROCESS.broadcast_object({"a": 1}) == {"a": 1}
    assert SINGLE_PROCESS.shard(7) == range(7)


@pytest.mark.slow
def test_started_by_one_continued_by_two_stopped_killed_and_continued_by_one(tokens_dir: Path, tmp_path: Path) -> None:
    """The loss counts on answers only, so the processes have different numbers of targets."""
    run_main(task(tokens_dir, tmp_path / "one"), None, 1, SilentProgress())
    both = task(tokens_dir, tmp_path / "two")
    with pytest.raises(Interrupted, match="stopped at step 7 of 60; saved"):
        run_main(both, None, 1, AtStep(7, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Interrupted, match=r"stopped at step 2[0-9] of 60; saved"):
        run_main(both, None, 2, AtStep(20, signal_worker(signal.SIGTERM)))
    with pytest.raises(ProcessLost, match="worker process 1 was ended by SIGKILL: the same command continues"):
        run_main(both, None, 2, AtStep(50, signal_worker(signal.SIGKILL)))
    assert not workers()
    assert list_checkpoints(tmp_path / "two/checkpoints")[-1][0] in (45, 50)
    run_main(both, None, 1, SilentProgress())
    assert_same_curve(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tokens_dir: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3]); import test_distributed as t; "
        "t.SETTINGS['total_steps'] = 10**6; t.run_main(t.task(Path(sys.argv[1]), Path(sys.argv[2])), None, 2, t.SilentProgress())"
    )
    main_process = subprocess.Popen([sys.executable, "-c", script, str(tokens_dir), str(tmp_path), str(Path(__file__).parent)])
    try:
        wait_for(lambda: (tmp_path / "metrics.jsonl").exists() and "train" in (tmp_path / "metrics.jsonl").read_text(), main_process)
        (worker,) = psutil.Process(main_process.pid).children()
        assert os.getpgid(worker.pid) != os.getpgid(main_process.pid), "Ctrl-C in the terminal must reach the main process only"
    finally:
        main_process.kill()
        main_process.wait()
    assert not psutil.wait_procs([worker], timeout=240)[1]


def wait_for(done: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 240
    while not done():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_torchrun(micro_run: Path, micro_config: Config, tmp_path: Path) -> None:
    """The whole command: one process finds the earlier stages up to date, and all train."""
    folder = tmp_path / "runs" / micro_config.name
    for part in ("data", "tokenizer", "tokens", "stages.json"):
        copy = shutil.copytree if (micro_run / part).is_dir() else shutil.copy
        folder.mkdir(parents=True, exist_ok=True)
        copy(micro_run / part, folder / part)
    config = {**micro_config.model_dump(mode="json"), "runs_dir": str(tmp_path / "runs")}
    write_json(tmp_path / "config.json", config)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", "-m", "bulletlm", "train"]
    result = subprocess.run(
        [*command, str(tmp_path / "config.json")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(folder / "checkpoints/best")
    assert result.stderr.count("Tokens: up to date") == 1
    assert "4 processes" in result.stderr
    # Sums of gradients differ in their last bits. Rounding to integers (the passes, Muon) makes more of that with every step.
    assert_same_curve(folder, micro_run, rel=1e-2)
