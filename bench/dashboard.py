"""Measures the dashboard: first page, a list of many runs, a page with long curves, and what an open page costs.

    python bench/dashboard.py [--runs 1000] [--points 10000] [--json FILE] [--quick]

It makes run folders with invented metrics in a temporary folder and asks a real dashboard for its pages; a page in a browser
(Debian's chromium) is opened if there is one.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bulletlm import __version__
from bulletlm.config.schema import Config
from bulletlm.dashboard.metrics import Metrics
from bulletlm.dashboard.runs import STAGES, Runs
from bulletlm.dashboard.workspace import Workspace
from bulletlm.files import write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "dashboard"))
from running_dashboard import CHROMIUM, CHROMIUM_OPTIONS, RunningDashboard

FIRST_PAGE, LIST, OPEN, SHOWN, IDLE = 1.0, 1.0, 1.0, 2.0, 0.02
"""Limits: seconds of the first page, of the list, of a run page, and until a new step is shown; share of a core of an open run page."""

LIVE = "live"
"""Name of the run that is running."""

LIVE_SECONDS = 20

STEP_SECONDS, LINES_BETWEEN = 0.3, 7
"""Seconds between the steps of the run that is running, and steps between two whose way to the screen is timed."""


def write_runs(folder: Path, runs: int, points: int) -> None:
    """Run folders that look finished, with the metrics of a long training."""
    lines = []
    for step in range(1, points + 1):
        loss = 2 + 6 / math.sqrt(step)
        values = {"train/loss": loss, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_s": 10_000.0, "seconds": step / 10}
        lines.append(json.dumps({"event": "train", "step": step, "tokens": step * 1024, **values}))
        if step % 100 == 0:
            losses = {"val/loss": loss + 0.1, "val/loss_ema": loss, "val/loss_bq4": loss + 0.2, "val/bpb": loss / 2}
            lines.append(json.dumps({"event": "eval", "step": step, **losses, "best": True, "memory_mb": 500}))
    metrics = "\n".join([*lines, json.dumps({"event": "end", "step": points, "reason": "end of schedule"})]) + "\n"
    master = folder / "metrics.jsonl"
    master.write_text(metrics, encoding="utf-8")
    config = Config.model_validate({"train": {"total_steps": points}}).model_dump(mode="json")
    for number in range(runs):
        run = folder / "runs" / f"run-{number:04d}"
        run.mkdir(parents=True)
        (run / "metrics.jsonl").hardlink_to(master)  # the same file, so that the disk need not hold all of them
        write_json(run / "config.json", {**config, "name": run.name, "recorded": {"fingerprint": str(number)}})
        write_json(run / "stages.json", {stage: {} for stage in STAGES})
        write_json(run / "checkpoints" / "best" / "state.json", {"step": points, "val_loss": 2.0 + number / runs})
        comparison = {"perplexity_change": 0.01}
        rows = [{"prompt": "x" * 100, "fp32": {"text": "y" * 300}, "bq4": {"text": "z" * 300}} for _ in range(40)]
        write_json(run / "report.json", {"comparison": comparison, "model": {"parameters": 1_000_000}, "generations": {"rows": rows}})
        (run / "model.bullet").write_bytes(b"x" * 1000)


def write_running_run(folder: Path, points: int) -> Path:
    """A run folder that looks as if this process trained it, after `points` steps of twice as many."""
    run = folder / "runs" / LIVE
    run.mkdir(parents=True)
    config = Config.model_validate({"train": {"total_steps": 2 * points + LIVE_SECONDS * 1000}}).model_dump(mode="json")
    write_json(run / "config.json", {**config, "name": LIVE, "recorded": {"fingerprint": LIVE}})
    write_json(run / "stages.json", {stage: {} for stage in STAGES[: STAGES.index("train")]})
    write_json(run / "process.json", {"pid": os.getpid(), "started": psutil.Process().create_time()})
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if '"end"' not in line), encoding="utf-8")
    return run


def step_line(step: int) -> str:
    """A line of metrics.jsonl for a training step."""
    values = {"train/loss": 2 + step % 7 / 10, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_s": 10_000.0, "seconds": step / 10}
    return json.dumps({"event": "train", "step": step, "tokens": step * 1024, **values}) + "\n"


def watch_running_run(page: Any, process: psutil.Process, run: Path, points: int, seconds: float) -> dict[str, float]:
    """Share of a core that the dashboard needs for the open page of a run that writes steps, and the longest time until one is shown."""
    delays, step = [], points
    before, began = sum(process.cpu_times()[:2]), time.perf_counter()
    while time.perf_counter() - began < seconds:
        written = time.perf_counter()
        step += 1
        with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(step_line(step))
        shown = page.get_by_text(f"step {step:,} of")
        shown.wait_for()
        delays.append(time.perf_counter() - written)
        for _ in range(LINES_BETWEEN):  # steps whose time on the page is not measured
            step += 1
            with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(step_line(step))
            time.sleep(STEP_SECONDS)
    share = (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - began)
    return {"running_page_core_share": share, "step_on_screen": max(delays)}


def timed(call: Any) -> tuple[float, Any]:
    """Seconds of a call, and its result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def in_browser(dashboard: RunningDashboard, name_of_run: str, live: Path, points: int, idle_seconds: float) -> dict[str, float]:
    """Seconds until pages are on the screen, and the share of a core that the open page of a run costs the dashboard."""
    from playwright.sync_api import sync_playwright

    found: dict[str, float] = {}
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        page = browser.new_page()
        page.goto(dashboard.address)  # fills the browser's cache, as for a user who was there before
        page.get_by_role("link", name=name_of_run).wait_for()
        for name, path, shown in (("list_on_screen", "/", f"text={name_of_run}"), ("run_on_screen", f"/run/{name_of_run}", "canvas")):
            began = time.perf_counter()
            page.goto(dashboard.address + path)
            page.locator(shown).first.wait_for()
            found[name] = time.perf_counter() - began
        assert dashboard.process is not None
        process = psutil.Process(dashboard.process.pid)
        time.sleep(2)
        before, began = sum(process.cpu_times()[:2]), time.perf_counter()
        time.sleep(idle_seconds)
        found["open_page_core_share"] = (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - began)
        page.goto(f"{dashboard.address}/run/{LIVE}")
        page.locator("canvas").first.wait_for()
        time.sleep(2)
        found |= watch_running_run(page, process, live, points, idle_seconds * 2)
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="few runs and short curves: checks only that the script works")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.runs, arguments.points = 5, 200
    rows: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_runs(folder, arguments.runs, arguments.points)
        workspace = Workspace(folder)
        rows["list_first_time"], summaries = timed(lambda: Runs(workspace).all())
        rows["list_with_index"], again = timed(lambda: Runs(workspace).all())
        if len(summaries) != arguments.runs or summaries != again or summaries[0].state != "finished":
            raise SystemExit("the list of runs is wrong")
        metrics = Metrics(folder / "runs" / "run-0000" / "metrics.jsonl")
        rows["read_curves"], _ = timed(metrics.refresh)
        rows["thin_curves"], points = timed(lambda: [metrics.points(name) for name in metrics.columns])
        if max(map(len, points)) > 600:
            raise SystemExit("a curve has too many points")
        live = write_running_run(folder, arguments.points)
        dashboard = RunningDashboard(folder)
        rows["start"], _ = timed(dashboard.start)
        try:
            dashboard.get("/")
            rows["first_page"], _ = timed(lambda: dashboard.get("/"))
            rows["run_page"], _ = timed(lambda: dashboard.get("/run/run-0001"))
            if CHROMIUM:
                rows |= in_browser(dashboard, summaries[0].name, live, arguments.points, 2 if arguments.quick else 10)
        finally:
            dashboard.kill()
    bars = [
        {"name": name, "value": rows[name], "target": target, "pass": rows[name] < target}
        for name, target in (
            ("first_page", FIRST_PAGE),
            ("list_with_index", LIST),
            ("run_page", OPEN),
            ("list_on_screen", LIST),
            ("run_on_screen", OPEN),
            ("open_page_core_share", IDLE),
            ("running_page_core_share", IDLE),
            ("step_on_screen", SHOWN),
        )
        if name in rows
    ]
    print(f"{arguments.runs:,} runs with {arguments.points:,} points each")
    for name, value in rows.items():
        unit = "of a core" if name.endswith("share") else "s"
        limit = next((f"  (limit {bar['target']:g})" for bar in bars if bar["name"] == name), "")
        print(f"  {name.replace('_', ' '):<24}{value:8.3f} {unit}{limit}")
    if arguments.json:
        machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version(), "bulletlm": __version__}
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
        write_json(arguments.json, {**machine, "commit": commit, "rows": rows, "bars": bars})


if __name__ == "__main__":
    main()
