"""Compares optimizers, with and without the moving average of the weights, by the loss that they reach in the same CPU time.

The script trains one small model several times on the same text. Each run has the number of steps that fit into the same CPU time: the
cost of a step is measured first, with the optimizers in turns. Every run completes its learning-rate schedule; the result is the loss on
held-out text at the end. Time is the CPU time of one thread instead of wall time, so other programs on the machine have little influence.

    python bench/quality.py ../shared/data/quick/mr.txt ../shared/data/quick/en.txt --seconds=150
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config, TrainConfig
from bulletlm.data.tokens import open_tokens
from bulletlm.pipeline.runner import run_stages
from bulletlm.progress import ConsoleProgress, SilentProgress
from bulletlm.train.backend.choose import choose_compute
from bulletlm.train.backend.compute import CPU
from bulletlm.train.batches import TrainingWindows
from bulletlm.train.checkpoint import load_checkpoint
from bulletlm.train.state import initial_state
from bulletlm.train.step import accumulate, clip, update
from bulletlm.train.training import TrainJob, train
from bulletlm.train.validation import validate

VARIANTS: dict[str, dict[str, Any]] = {
    "AdamW, 5e-4": {"optimizer": "adamw", "learning_rate": 5e-4},
    "AdamW, 1e-3": {"optimizer": "adamw", "learning_rate": 1e-3},
    "AdamW, 3e-3": {"optimizer": "adamw", "learning_rate": 3e-3},
    "Muon, 0.0025 (AdamW part 3e-3)": {"optimizer": "muon", "learning_rate": 3e-3, "muon_learning_rate": 0.0025},
    "Muon, 0.005 (AdamW part 3e-3)": {"optimizer": "muon", "learning_rate": 3e-3, "muon_learning_rate": 0.005},
    "Muon, 0.01 (AdamW part 3e-3)": {"optimizer": "muon", "learning_rate": 3e-3, "muon_learning_rate": 0.01},
    "Muon, 0.005 (AdamW part 1e-3)": {"optimizer": "muon", "learning_rate": 1e-3, "muon_learning_rate": 0.005},
}

RECIPE = "demo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=["sample"], help="text files; default: the corpus of the package")
    parser.add_argument("--seconds", type=float, default=60, help="processor seconds of each training")
    parser.add_argument("--recipe", default=RECIPE, help="model and batch size: a recipe or a configuration; default: demo")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            f"--runs-dir={folder}",
            "--threads=1",
            "--compile=off",
            "--tune=off",
            f"--set=data.sources={json.dumps(arguments.sources)}",
        ]
        config = load_config(arguments.recipe, flags)
        run_stages(config, "tokens", ConsoleProgress())
        rows = compare(config, arguments.seconds)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(rows)


def compare(config: Config, seconds: float) -> list[dict[str, Any]]:
    """Train every variant for `seconds` of CPU time and return one row for each."""
    costs = step_costs(config)
    rows = []
    for name, changes in VARIANTS.items():
        steps = round(seconds / costs[changes["optimizer"]])
        print(f"{name}: {steps} steps of {costs[changes['optimizer']]:.3f} s", file=sys.stderr)
        rows.append({"variant": name, **changes, **train_variant(config, variant(config, changes, steps))})
    return rows


def variant(config: Config, changes: dict[str, Any], steps: int) -> TrainConfig:
    """Return the training section of the recipe with another optimizer and length, and with one evaluation at the end."""
    same = {"epochs": None, "total_steps": steps, "eval_every_steps": steps, "save_every_steps": steps}
    return TrainConfig(**{**config.train.model_dump(), **same, **changes})


def step_costs(config: Config, rounds: int = 12) -> dict[str, float]:
    """Return the median CPU seconds of a step, including the moving average, for each optimizer, measured in turns."""
    shape = config.model.shape(config.tokenizer.vocab_size)
    windows = TrainingWindows(open_tokens(config.run_dir / "tokens", "train"), shape.max_seq_len, config.seed)
    taken: dict[str, list[float]] = {"adamw": [], "muon": []}
    states = {name: initial_state(variant(config, {"optimizer": name}, 1), shape, config.seed, CPU) for name in taken}
    computes = {name: choose_compute(config.train, state.model, 0, config.run_dir, SilentProgress()) for name, state in states.items()}
    for _ in range(rounds):
        for name, state in states.items():
            started = time.process_time()
            accumulate(config.train, windows, state.position.step, computes[name])
            clip(state, config.train.clip_grad_norm)
            update(state)
            taken[name].append(time.process_time() - started)
    return {name: statistics.median(times[2:]) for name, times in taken.items()}


def train_variant(config: Config, settings: TrainConfig) -> dict[str, Any]:
    """Train and return the losses in nats per token of the raw and the averaged weights, and the CPU seconds."""
    shape = config.model.shape(config.tokenizer.vocab_size)
    tokens = config.run_dir / "tokens"
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        result = train(
            TrainJob(config=settings, shape=shape, seed=config.seed, tokens_dir=tokens, run_dir=Path(folder), key=""), SilentProgress()
        )
        seconds = time.process_time() - started
        lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        best = load_checkpoint(Path(folder) / "checkpoints/best")
    (measured,) = (event for event in map(json.loads, lines) if event["event"] == "eval")
    state = initial_state(settings, shape, config.seed, CPU)
    choose_compute(settings, state.model, 0, config.run_dir, SilentProgress())
    state.model.load_state_dict(best.tensors["model"], strict=False)
    nats, count = validate(state.model, open_tokens(tokens, "val"), settings.batch_size_per_device)
    if abs(nats / count - result.best_loss) > 1e-6 or result.steps != settings.total_steps:
        raise SystemExit(f"the kept weights have a loss of {nats / count}, the run says {result.best_loss} after {result.steps} steps")
    return {
        "steps": result.steps,
        "processor_seconds": round(seconds, 1),
        "loss": round(measured["val/loss"], 4),
        "loss_ema": round(measured["val/loss_ema"], 4),
        "bpb": round(measured["val/bpb"], 4),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    print("| optimizer, learning rate | steps | CPU s | loss, raw weights | loss, EMA |")
    print("|---|---:|---:|---:|---:|")
    best = min(min(row["loss"], row["loss_ema"]) for row in rows)
    for row in rows:
        raw, ema = (f"**{value:.3f}**" if value == best else f"{value:.3f}" for value in (row["loss"], row["loss_ema"]))
        print(f"| {row['variant']} | {row['steps']:,} | {row['processor_seconds']:.0f} | {raw} | {ema} |")


if __name__ == "__main__":
    main()
