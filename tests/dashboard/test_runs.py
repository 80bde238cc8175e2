"""Tests that runs are found from their folders alone, with the right state, and that their curves are read while they are written."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given, strategies

from bulletlm.dashboard import processes, queue
from bulletlm.dashboard.metrics import POINTS, Column, Metrics, read_tail, smooth, thin
from bulletlm.dashboard.processes import own_folder
from bulletlm.dashboard.runs import INDEX_VERSION, Runs, configuration, summarize
from bulletlm.dashboard.workspace import Workspace
from bulletlm.errors import ConfigError
from bulletlm.files import write_json
from micro_model import write_micro_config


def event(kind: str, step: int, **values: object) -> str:
    return json.dumps({"event": kind, "step": step, **values}) + "\n"


def training(step: int, loss: float = 5.0, seconds: float | None = None) -> str:
    return event("train", step, tokens=step * 64, **{"train/loss": loss}, tokens_per_s=1000.0, seconds=seconds or step / 10)


def write_run(folder: Path, *, done: tuple[str, ...] = (), code: int | None = None, **values: object) -> Path:
    write_json(own_folder(folder) / "configuration.json", {"total_steps": 100, **values})
    if done:
        write_json(folder / "stages.json", {name: {} for name in done})
    if code is not None:
        write_json(own_folder(folder) / "exit.json", {"code": code, "time": time.time()})
    return folder


STAGES = ("data", "tokenizer", "tokens", "train", "export", "qat", "build", "evaluate")


@pytest.mark.parametrize(
    ("done", "code", "state"),
    [
        ((), None, "stopped"),
        (("data",), 130, "stopped"),
        (("data",), -15, "stopped"),
        (("data",), 1, "failed"),
        (("data",), -9, "failed"),
        (STAGES, 0, "finished"),
        (STAGES, None, "finished"),
        (STAGES, 1, "failed"),
        (STAGES[:5], None, "stopped"),
    ],
)
def test_state_of_a_run(tmp_path: Path, done: tuple[str, ...], code: int | None, state: str) -> None:
    assert summarize(write_run(tmp_path / "a", done=done, code=code)).state == state


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", code=1)
    (own_folder(run) / "output.log").write_text("Data ...\nbullet: data.sources: x does not exist\n", encoding="utf-8")
    assert summarize(run).message == "data.sources: x does not exist"
    write_json(own_folder(run) / "exit.json", {"code": -9, "time": 0})
    assert "SIGKILL" in summarize(run).message


def test_a_process_is_found_again_but_not_another_with_its_number(tmp_path: Path) -> None:
    run, me = write_run(tmp_path / "a"), psutil.Process()
    write_json(run / "process.json", {"pid": me.pid, "started": me.create_time()})
    assert (processes.find(run), summarize(run).state) == (me.pid, "running")
    write_json(run / "process.json", {"pid": me.pid, "started": me.create_time() - 100})
    assert (processes.find(run), summarize(run).state) == (None, "stopped")


@pytest.mark.parametrize("jump", [-86_400.0, 3_600.0])
def test_a_run_is_found_after_the_clock_was_set(tmp_path: Path, jump: float) -> None:
    run, me = write_run(tmp_path / "a"), psutil.Process()
    record = {"pid": me.pid, "started": me.create_time() - jump, "booted": psutil.boot_time() - jump}
    for place in (run / "process.json", own_folder(run) / "process.json"):
        write_json(place, record)
        assert processes.find(run) == me.pid
        write_json(place, {**record, "started": me.create_time() - jump - 100})
        assert processes.find(run) is None
        place.unlink()


ODD_VALUES = ("NaN", "Infinity", "1e400", "9" * 400, "-1", "true", "null", '"x"', "[]", "{}", "[" * 100_000)
ODD_EVENTS = [
    f'{{"event": "{kind}", "step": {step}, "tokens": {value}, "seconds": {value}, "tokens_per_s": {value}, "val/loss": {value}}}\n'.encode()
    for kind, step in (("train", 1), ("eval", 1))
    for value in ODD_VALUES
]
DAMAGE = [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000]
DAMAGE += [b'{"pid": %s, "started": 1.0, "code": 1, "time": 1.0}' % value.encode() for value in ODD_VALUES]
DAMAGE += [b'{"pid": 1, "started": %s, "code": 0, "time": %s, "booted": %s}' % ((value.encode(),) * 3) for value in ODD_VALUES]
DAMAGE += [b'{"train": {"tokens": %s}, "vocab_size": %s, "val_loss": %s}' % ((value.encode(),) * 3) for value in ODD_VALUES]
DAMAGE += [b'{"event": "train", "step": %s}\n' % value.encode() for value in ODD_VALUES]
DAMAGE += [b'{"version": %d, "runs": %s}' % (INDEX_VERSION, value.encode()) for value in ODD_VALUES]
DAMAGE += ODD_EVENTS


@pytest.mark.parametrize("content", DAMAGE, ids=range(len(DAMAGE)))
def test_damaged_files_leave_gaps_but_no_error(tmp_path: Path, content: bytes) -> None:
    workspace = Workspace(tmp_path)
    run = write_run(workspace.runs / "a", done=STAGES)
    names = ("config.json", "report.json", "metrics.jsonl", "process.json", "tokens/index.json", "checkpoints/best/state.json")
    for path in (*(run / name for name in (*names, "dashboard/process.json", "dashboard/exit.json")), workspace.state / "index.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        assert [found.name for found in Runs(workspace).all()] == ["a"]
    metrics = Metrics(run / "metrics.jsonl")
    metrics.refresh()
    for name in metrics.columns:
        assert metrics.points(name, "time", 0.5)
    for stage in ("train", "evaluate"):
        write_json(run / "stages.json", {name: {} for name in STAGES[: STAGES.index(stage)]})
        assert Runs(workspace).get("a").name == "a"


def test_progress_and_time_left(tmp_path: Path) -> None:
    run, me = write_run(tmp_path / "a", done=STAGES[:3]), psutil.Process()
    (run / "metrics.jsonl").write_text("".join(training(step) for step in range(1, 26)), encoding="utf-8")
    write_json(run / "process.json", {"pid": me.pid, "started": me.create_time()})
    found = summarize(run)
    assert (found.stage, found.step, found.total_steps, found.progress) == ("train", 25, 100, 0.25)
    assert found.eta == pytest.approx(75 * 64 / 1000)


def test_the_index_answers_after_a_restart_and_notices_changes(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    run = write_run(workspace.runs / "a", done=STAGES)
    first = Runs(workspace).all()
    again = Runs(workspace)
    assert again._known and again.all() == first
    write_json(run / "stages.json", {"data": {}})
    assert again.all()[0].state == "stopped"
    assert again.get("a").stage == "tokenizer"
    with pytest.raises(ConfigError):
        again.get("../a")


def test_deleted_runs_are_in_the_trash_and_running_ones_stay(tmp_path: Path) -> None:
    workspace, me = Workspace(tmp_path), psutil.Process()
    write_run(workspace.runs / "a")
    running = write_run(workspace.runs / "b")
    write_json(running / "process.json", {"pid": me.pid, "started": me.create_time()})
    runs = Runs(workspace)
    with pytest.raises(ConfigError, match="running"):
        runs.delete(["a", "b"])
    assert {found.name for found in runs.all()} == {"a", "b"}
    (moved,) = runs.delete(["a"])
    assert (moved / "dashboard" / "configuration.json").is_file()
    assert [found.name for found in runs.all()] == ["b"]


# Curves.


@given(strategies.lists(strategies.floats(-1e6, 1e6), min_size=1, max_size=3000), strategies.integers(10, 700))
def test_thinning_keeps_ends_and_extremes(values: list[float], points: int) -> None:
    check_thinned(thin(values, points), values, points)


@given(strategies.lists(strategies.floats(-1e6, 1e6), min_size=1, max_size=3000), strategies.integers(0, 3000))
def test_a_growing_curve_keeps_ends_and_extremes(values: list[float], cut: int) -> None:
    column = Column()
    for step, value in enumerate(values):
        column.append(step, value)
    column.cut(cut)  # a training that went back
    for step in range(len(column.values), len(values)):
        column.append(step, values[step])
    assert column.values == values
    check_thinned(column.shown(), values, POINTS)


def check_thinned(numbers: list[int], values: list[float], points: int) -> None:
    assert len(numbers) <= points or len(values) <= points
    assert numbers == sorted(set(numbers)) and (numbers[0], numbers[-1]) == (0, len(values) - 1)
    assert min(values[number] for number in numbers) == min(values)
    assert max(values[number] for number in numbers) == max(values)


@given(strategies.lists(strategies.floats(-10, 10), min_size=1, max_size=50), strategies.floats(0, 0.99))
def test_smoothing_stays_between_the_extremes(values: list[float], weight: float) -> None:
    out = smooth(values, weight)
    assert len(out) == len(values) and out[0] == pytest.approx(values[0])
    assert all(min(values) - 1e-9 <= value <= max(values) + 1e-9 for value in out)


def test_metrics_are_read_while_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    assert not metrics.refresh() and metrics.points("train/loss") == []
    path.write_text(training(1, 6.0) + training(2)[:20], encoding="utf-8")
    assert metrics.refresh() and metrics.points("train/loss") == [[1, 6.0]]
    path.write_text(training(1, 6.0) + training(2, 5.5) + event("eval", 2, **{"val/loss": 2.0, "val/loss_ema": 1.0}), encoding="utf-8")
    assert metrics.refresh() and metrics.points("train/loss") == [[1, 6.0], [2, 5.5]]
    assert metrics.points("perplexity") == [[2, pytest.approx(math.e, rel=1e-4)]]
    assert metrics.points("val/loss", "tokens") == [[128, 2.0]]
    assert not metrics.refresh()


def test_a_run_that_went_back_has_every_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(training(step) for step in range(1, 11)), encoding="utf-8")
    metrics = Metrics(path)
    metrics.refresh()
    with open(path, "a", encoding="utf-8") as file:
        file.write(event("rollback", 5) + training(6, 1.0, 0.1) + training(7, 2.0, 0.2))
    metrics.refresh()
    assert [x for x, _ in metrics.points("train/loss")] == [1, 2, 3, 4, 5, 6, 7]
    assert metrics.points("train/loss")[-1] == [7, 2.0]
    other = tmp_path / "new"
    other.write_text(training(1), encoding="utf-8")
    os.replace(other, path)
    metrics.refresh()
    assert metrics.points("train/loss") == [[1, 5.0]]


def test_time_goes_on_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(training(1, seconds=60) + training(2, seconds=120) + training(3, seconds=30), encoding="utf-8")
    metrics = Metrics(path)
    metrics.refresh()
    assert [x for x, _ in metrics.points("train/loss", "time")] == [1.0, 2.0, 2.5]


def test_long_curves_are_thinned_and_the_end_is_read_from_the_tail(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(training(step, step % 100) for step in range(1, 5001)), encoding="utf-8")
    metrics = Metrics(path)
    metrics.refresh()
    assert len(metrics.points("train/loss")) <= POINTS
    assert read_tail(path)[0]["step"] == metrics.last_step == 5000


def test_a_training_that_had_ended_and_goes_on_has_not_ended(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(training(1) + '{"event": "end", "step": 1, "reason": "early stop"}\n', encoding="utf-8")
    metrics = Metrics(path)
    metrics.refresh()
    assert metrics.ended == "early stop"
    with path.open("a", encoding="utf-8") as file:
        file.write(training(2))
    metrics.refresh()
    assert metrics.ended is None


# Processes.


def wait(condition: object, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def micro_run_folder(workspace: Workspace, name: str, texts: Path, **changes: object) -> Path:
    folder = workspace.runs / name
    config = write_micro_config(workspace.folder, texts, runs_dir=str(workspace.runs), **changes)
    write_json(own_folder(folder) / "configuration.json", json.loads(config.read_text(encoding="utf-8")))
    return folder


def test_a_run_is_started_stopped_and_found_by_another_process(tmp_path: Path, texts: Path) -> None:
    workspace = Workspace(tmp_path)
    run = micro_run_folder(workspace, "a", texts, total_steps=100_000, save_every=100_000, eval_every=100_000)
    # A dashboard that is killed right after the start must not take the run with it.
    code = (
        "import sys; from pathlib import Path; from bulletlm.dashboard import processes, queue; run = Path(sys.argv[1]);"
        "processes.start(run, queue.run_words(run), Path(sys.argv[2])); import os; os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(run), str(tmp_path)], check=False)
    assert processes.find(run) is not None
    with pytest.raises(ConfigError, match="already running"):
        processes.start(run, ["--help"], tmp_path)
    wait(lambda: summarize(run).step > 2)
    processes.stop(run)
    wait(lambda: processes.find(run) is None and processes.ended(run) is not None)
    found = summarize(run)
    assert (found.state, found.stage) == ("stopped", "train") and found.step > 2
    assert not (run / "process.json").exists()


def test_the_queue_starts_one_run_after_the_other(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (tmp_path / "json5.py").write_text("raise SystemExit('a file of the user was imported')", encoding="utf-8")
    runs = [write_run(workspace.runs / name, data={"sources": [str(tmp_path / "missing.txt")]}) for name in ("a", "b")]
    for run in runs:
        write_json(own_folder(run) / "queued.json", {"time": time.time()})
    assert queue.waiting(workspace) == runs
    assert summarize(runs[1]).state == "waiting"
    queue.work(workspace)
    for run in runs:
        wait(lambda run=run: processes.ended(run) is not None)
        assert summarize(run).state == "failed" and "missing.txt" in summarize(run).message


def test_training_can_be_ended_with_the_best_weights(tmp_path: Path, texts: Path) -> None:
    workspace = Workspace(tmp_path)
    run = micro_run_folder(workspace, "a", texts, total_steps=100_000, save_every=100_000, eval_every=10)
    processes.start(run, queue.run_words(run), tmp_path)
    wait(lambda: (run / "checkpoints" / "best" / "state.json").exists() and processes.is_training(run))
    processes.finish_training(run)
    wait(lambda: processes.find(run) is None and processes.ended(run) is not None)
    found = summarize(run)
    assert (found.state, found.message) == ("finished", "") and found.step < 100_000
    assert not (run / "finish").exists() and (run / "model.bullet").is_file()

    # It can be trained longer.
    with pytest.raises(ConfigError, match="already"):
        queue.extend(run, found.step, workspace)
    queue.extend(run, found.step + 20, workspace)
    wait(lambda: processes.find(run) is None and processes.ended(run) is not None)
    longer = summarize(run)
    assert (longer.state, longer.message) == ("finished", "") and longer.step > 0
    assert configuration(run).train.total_steps == found.step + 20
