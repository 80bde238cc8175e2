"""Measures how the loss depends on parameters and tokens, and fits the scaling law of `bullet plan`.

    python bench/scaling.py --minutes 40 --runs-dir /tmp/scaling     make the runs, cheapest first, until the time is used up
    python bench/scaling.py --fit                                    fit the law and write it into the package

Every run uses the real training loop on the text of bench/scaling.jsonc and completes its own schedule, in at most one epoch. Losses
are bits per byte of the same 50,000 held-out tokens. Runs that are already in bench/scaling.json are not repeated. Time is the
CPU time of one core.
"""

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import bulletlm
from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config
from bulletlm.data.tokens import open_tokens
from bulletlm.files import read_json, write_json
from bulletlm.hardware import inspect_machine, keep_memory
from bulletlm.pipeline.runner import run_stages
from bulletlm.progress import ConsoleProgress, SilentProgress
from bulletlm.train.scaling import LAW_FILE, Point, family, fit, leave_one_out
from bulletlm.train.training import TrainJob, train

HERE = Path(__file__).parent
RESULTS = HERE / "scaling.json"
LONGEST = {32: 8_000_000, 64: 8_000_000, 96: 8_000_000, 128: 8_000_000, 160: 4_000_000, 256: 4_000_000}
"""Tokens of the longest run of every width; the others are 1/2, 1/4 ... of 8M down to the shortest."""
SHORTEST = 250_000
REPEATED = (64, 500_000, 3)
"""Width, tokens and number of seeds of the runs that show what chance does."""


def jobs() -> list[tuple[int, int, int]]:
    """Return (width, tokens, seed) of all runs, cheapest first."""
    grid = [
        (dim, tokens, 1)
        for dim, longest in LONGEST.items()
        for tokens in (SHORTEST * 2**k for k in range(6))
        if SHORTEST <= tokens <= longest
    ]
    grid += [(REPEATED[0], REPEATED[1], seed) for seed in range(2, REPEATED[2] + 1)]
    return sorted(grid, key=lambda job: family(job[0], 4000, 128).n_parameters * job[1])


def one_run(config: Config, tokens_dir: Path, folder: Path, dim: int, tokens: int, seed: int) -> dict[str, Any]:
    """Train one model and return its row."""
    shape = family(dim, config.tokenizer.vocab_size, config.model.max_seq_len)
    per_step = config.train.batch_size_per_device * config.train.gradient_accumulation_steps * shape.max_seq_len
    changes = {"total_steps": round(tokens / per_step), "threads": 1, "compile": "off", "tune": "off", "device": "cpu"}
    settings = config.train.model_copy(update=changes)
    started = time.process_time()
    job = TrainJob(config=settings, shape=shape, seed=seed, tokens_dir=tokens_dir, run_dir=folder, key="scaling")
    result = train(job, SilentProgress())
    info = open_tokens(tokens_dir, "val").info
    nats = result.best_loss
    return {
        "dim": dim,
        "layers": shape.n_layers,
        "parameters": shape.n_parameters,
        "layer_parameters": shape.n_parameters - shape.vocab_size * shape.dim,
        "tokens": result.tokens_seen,
        "seed": seed,
        "nats_per_token": nats,
        "bits_per_byte": bits_per_byte(folder),
        "val_bytes": info["bytes"],
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def bits_per_byte(folder: Path) -> float:
    """Return the last validation of a run."""
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return float([event["val/bpb"] for event in events if event["event"] == "eval"][-1])


def make_runs(minutes: float, runs_dir: Path) -> None:
    """Make the missing runs until the time is used up."""
    keep_memory()
    torch.set_num_threads(1)
    config = load_config(HERE / "scaling.jsonc", [f"--runs-dir={runs_dir}"])
    tokens_dir = run_stages(config, "tokens", ConsoleProgress()).folder / "tokens"
    rows: list[dict[str, Any]] = read_json(RESULTS)["runs"] if RESULTS.exists() else []
    done = {(row["dim"], row["tokens"], row["seed"]) for row in rows}
    per_step = config.train.batch_size_per_device * config.train.gradient_accumulation_steps * config.model.max_seq_len
    started = time.process_time()
    for dim, tokens, seed in jobs():
        if (dim, round(tokens / per_step) * per_step, seed) in done:
            continue
        if time.process_time() - started > 60 * minutes:
            print("the time is used up; run the same command again to make the remaining runs")
            break
        rows.append(one_run(config, tokens_dir, runs_dir / f"scaling-{dim}-{tokens}-{seed}", dim, tokens, seed))
        print({name: rows[-1][name] for name in ("dim", "parameters", "tokens", "bits_per_byte", "cpu_seconds")}, flush=True)
        machine = {"processor": inspect_machine().processor, "torch": torch.__version__, "python": platform.python_version()}
        write_json(RESULTS, {"bulletlm": bulletlm.__version__, "machine": machine, "text": text_of(tokens_dir), "runs": rows})


def text_of(tokens_dir: Path) -> dict[str, Any]:
    """Return the size of the training text and of the held-out text, in tokens and bytes."""
    train_info, val_info = (open_tokens(tokens_dir, split).info for split in ("train", "val"))
    return {name: {"tokens": info["tokens"], "bytes": info["bytes"]} for name, info in (("train", train_info), ("val", val_info))}


def fit_runs() -> bool:
    """Fit the law, print it and write its constants. Return false if its error on excluded runs is larger than 5 %."""
    data = read_json(RESULTS)
    rows = data["runs"]
    candidates = {}
    for counted in ("parameters", "layer_parameters"):
        points = [Point(row[counted], row["tokens"], row["bits_per_byte"]) for row in rows]
        candidates[counted] = (fit(points), leave_one_out(points), points)
    counted = min(candidates, key=lambda name: candidates[name][1].mean)
    for name, (law, error, _) in candidates.items():
        constants = "  ".join(f"{key} {getattr(law, key):.4g} +- {error.constants[key]:.2g}" for key in "EAaBb")
        print(f"N = {name + ',':<17} {constants}")
        print(f"   left out: mean error {error.mean:.2%}, largest {error.largest:.2%}, most arithmetic {error.largest_run:.2%}")
    law, error, points = candidates[counted]
    print(f"chosen: N = {counted}\n\n{'width':>5} {'N':>10} {'tokens':>10} {'measured':>9} {'law':>7}")
    for row, point in zip(rows, points, strict=True):
        predicted = law.loss(point.parameters, point.tokens)
        print(f"{row['dim']:>5} {row[counted]:>10,} {row['tokens']:>10,} {row['bits_per_byte']:>9.4f} {predicted:>7.4f}")
    same = [row["bits_per_byte"] for row in rows if row["dim"] == REPEATED[0] and abs(row["tokens"] - REPEATED[1]) < 5_000]
    if len(same) > 1:
        print(f"\n{len(same)} seeds of one run: {min(same):.4f} to {max(same):.4f}")
    text = data["text"]["val"]
    write_json(
        LAW_FILE,
        {
            "unit": "bits per byte",
            "counted": counted,
            "law": asdict(law),
            "error": asdict(error),
            "range": {
                "parameters": [min(p.parameters for p in points), max(p.parameters for p in points)],
                "tokens": [min(p.tokens for p in points), max(p.tokens for p in points)],
            },
            "bytes_per_token": round(text["bytes"] / text["tokens"], 4),
            "printed_by": "python bench/scaling.py --fit",
        },
    )
    print(f"\nwrote {LAW_FILE}")
    return error.mean <= 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="make runs for this long")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--fit", action="store_true", help="fit the law to bench/scaling.json")
    arguments = parser.parse_args()
    if arguments.minutes is None and not arguments.fit:
        parser.error("say --minutes M, --fit or both")
    if arguments.minutes is not None:
        make_runs(arguments.minutes, arguments.runs_dir)
    if arguments.fit and not fit_runs():
        sys.exit(1)


if __name__ == "__main__":
    main()
