"""Prints the kept checkpoints of a run as a table."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from bulletlm.config.loader import load_run_config
from bulletlm.pipeline.checkpoints import evaluate_checkpoints
from bulletlm.progress import Progress
from bulletlm.terminal import echo, printable, printable_json


def print_checkpoints(folder: Path, settings: Sequence[str], progress: Progress, *, as_json: bool) -> None:
    """Measure the kept checkpoints of a run folder and print one line for each; the lowest loss first.

    Raises:
        BulletError: the folder has no checkpoints, or one is damaged.
    """
    rows = sorted(evaluate_checkpoints(folder, load_run_config(folder, settings), progress), key=lambda row: row["loss"])
    if as_json:
        print(printable_json(rows))
        return
    heads = ("checkpoint", "step", "weights", "loss", "perplexity", "bits/byte", "language", "loops", "invented", "on topic", "fits")
    print("".join(f"{head:<14}" if n == 0 else f"{head:>11}" for n, head in enumerate(heads)))
    for row in rows:
        bits, rates = row["bits_per_byte"], row["rates"]
        shares = [rates[name] for name in ("right_language", "loops", "invented_words", "on_topic")]
        cells = [
            f"{row['step']:,}",
            row["weights"],
            f"{row['loss']:.4f}",
            f"{row['perplexity']:.2f}",
            "-" if bits is None else f"{bits:.4f}",
        ]
        cells += ["-" if share is None else f"{share:.1%}" for share in (*shares, row["answer_fit"])]
        mark = " *" if row["used"] else ""
        print(f"{printable(row['name']) + mark:<14}" + "".join(f"{cell:>11}" for cell in cells))
    echo("\n* is used by model.bullet. language: answers in the right one; fits: how often an answer is closer to a person's answer to the")
    echo("same question than to one to another question (chance: 50 %).")
    others = [row["name"] for row in rows if not row["used"]]
    if others:
        echo(f"To use another one:  bullet evaluate {shlex.quote(str(folder))} --use {others[0]}")
