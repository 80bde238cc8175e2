"""Shows with a user's configuration that a killed run continues exactly: `bullet train CONFIG --prove-resume`.

It runs two short trainings in processes of their own, in a folder beside the run. One runs without interruption. The other
one kills itself with SIGKILL after a random step and is started again. Afterwards their metrics and weights have to be
equal, byte for byte. With `train.workers` each is a group of that many processes, whose main process is killed.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config, TrainConfig
from bulletlm.data.tokens import vocabulary_size
from bulletlm.errors import BulletError
from bulletlm.files import sha256_of_file
from bulletlm.hardware import park_idle_threads
from bulletlm.progress import Progress, SilentProgress
from bulletlm.shape import ModelShape
from bulletlm.train.backend.plan import default_plan, inspect_capabilities, plan_file_name, read_plan, run_flops, write_plan

STEPS = 12
"""Optimizer steps of each training. An evaluation follows every third step, a checkpoint every second one."""

NAMES = "whole", "killed"


def prove_resume(run_dir: Path, workers: int, progress: Progress) -> str:
    """Run both trainings with the configuration and the tokens of a run folder; returns the result in one line.

    Args:
        run_dir: the run folder.
        workers: number of processes that share every step; run folders do not record it.
        progress: shows what happens.

    Raises:
        BulletError: the trainings differ, or one of them failed; the message says how.
    """
    kill_at = random.SystemRandom().randrange(1, STEPS)
    folder = Path(tempfile.mkdtemp(prefix=f"{run_dir.name}.prove-", dir=run_dir.parent))
    try:
        whole, killed = (folder / name for name in NAMES)
        group = f" as {workers} processes" if workers > 1 else ""
        progress.log(f"training {STEPS} steps{group} without interruption")
        _train_in_process(run_dir, whole, workers, None)
        progress.log(f"training {STEPS} steps{group}, killed after step {kill_at}")
        _train_in_process(run_dir, killed, workers, kill_at)
        progress.log("continuing the killed training")
        _train_in_process(run_dir, killed, workers, None)
        difference = find_difference(whole, killed)
        if difference:
            raise BulletError(f"killed after step {kill_at} and continued, the run differs from an uninterrupted one: {difference}")
        files = _weights(whole)
        size = sum(path.stat().st_size for path in files.values())
        lines = len(_events(whole))
        plan = read_plan(whole / "checkpoints" / plan_file_name(workers))
        return (
            f"killed after step {kill_at} of {STEPS} and continued{group}: all {lines} lines of metrics and all {len(files)} files of "
            f"weights ({size / 1e6:.1f} MB) are the same, byte for byte, as those of an uninterrupted run; "
            f"computed like the whole run: {plan}"
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_difference(whole: Path, killed: Path) -> str | None:
    """The first difference between two run folders, in words; None if metrics and weights are equal."""
    ours, theirs = _events(whole), _events(killed)
    for number, (a, b) in enumerate(zip(ours, theirs, strict=False), 1):
        if a != b:
            return f"line {number} of metrics.jsonl is {json.dumps(b)}, not {json.dumps(a)}"
    if len(ours) != len(theirs):
        return f"metrics.jsonl has {len(theirs)} lines, not {len(ours)}"
    files, others = _weights(whole), _weights(killed)
    for name in sorted(files.keys() | others.keys()):
        if name not in files or name not in others or sha256_of_file(files[name]) != sha256_of_file(others[name]):
            return name
    return None


def _events(folder: Path) -> list[dict[str, Any]]:
    from bulletlm.train.log.metrics import CLOCK

    lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in CLOCK} for line in lines]


def _weights(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.glob("checkpoints/*/*.safetensors")}


def _train_in_process(run_dir: Path, folder: Path, workers: int, kill_at: int | None) -> None:
    command = [sys.executable, "-m", __name__, str(run_dir), str(folder), str(workers), str(kill_at or 0)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != (-signal.SIGKILL if kill_at else 0):
        lines = result.stderr.strip().splitlines() or [f"it ended with code {result.returncode}"]
        raise BulletError(f"a training of the proof failed: {lines[-1].removeprefix('bullet: ')}")


def _short(config: Config) -> TrainConfig:
    """The user's settings, except the number of steps and how often the training saves and evaluates."""
    length: dict[str, Any] = {"total_steps": STEPS, "epochs": None, "patience_early_stop": 0}
    often = {"eval_every_steps": 3, "save_every_steps": 2}
    return TrainConfig(**{**config.train.model_dump(), **length, **often, "track": []})


def _keep_plan(config: Config, shape: ModelShape, run_dir: Path, folder: Path, workers: int) -> None:
    """Make the training in `folder` compute like the whole run, for which a plan other than that of a short training may be faster."""
    from bulletlm.data.tokens import open_tokens
    from bulletlm.train.backend.compute import pick_device
    from bulletlm.train.batches import TrainingWindows
    from bulletlm.train.schedule import count_steps, sequences_per_step

    of_run, of_proof = (each / "checkpoints" / plan_file_name(workers) for each in (run_dir, folder))
    plan = read_plan(of_proof) or read_plan(of_run)
    if plan is None:
        windows = TrainingWindows(open_tokens(run_dir / "tokens", "train"), shape.max_seq_len, config.seed)
        steps, _ = count_steps(config.train, windows.count)
        flops = run_flops(shape, steps * sequences_per_step(config.train) * shape.max_seq_len)
        capabilities = inspect_capabilities(pick_device(config.train.device).type).for_shape(shape)
        plan = default_plan(config.train, capabilities, flops, workers)
    of_proof.parent.mkdir(parents=True, exist_ok=True)
    write_plan(of_proof, plan)


class _KillAt(SilentProgress):
    """Kills this process when the bar has moved by `step` steps."""

    def __init__(self, step: int) -> None:
        self.left = step

    @contextlib.contextmanager
    def task(self, title: str, total: float | None) -> Iterator["_KillAt"]:
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.left -= int(amount)
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _main(run_dir: Path, folder: Path, workers: int, kill_at: int) -> None:
    park_idle_threads()
    from bulletlm.train.distributed.launch import run_main
    from bulletlm.train.training import TrainJob

    config = load_config(run_dir / "config.json")
    shape = config.model.shape(vocabulary_size(run_dir / "tokens"))
    _keep_plan(config, shape, run_dir, folder, workers)
    job = TrainJob(
        config=_short(config),
        shape=shape,
        seed=config.seed,
        tokens_dir=run_dir / "tokens",
        run_dir=folder,
        key="proof",
        types=config.weight_types(),
        qat_start=config.qat.start,
        start=run_dir / "start" / "npy" if config.model.start_from is not None else None,
    )
    run_main(job, None, workers, _KillAt(kill_at) if kill_at else SilentProgress())


if __name__ == "__main__":
    try:
        _main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    except BulletError as error:
        sys.exit(f"bullet: {error}")
