"""A small real text and a configuration that trains a micro model in a second."""

import json
from pathlib import Path

from paths import SAMPLE_CORPUS

MICRO = {
    "vocab_size": 700,
    "dim": 64,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "hidden_dim": 96,
    "seq_len": 32,
    "lr": 1e-2,
    "warmup": 10,
    "total_steps": 60,
    "batch": 8,
    "grad_accum": 1,
    "ema": 0.9,
    "eval_every": 20,
    "save_every": 25,
    "threads": 1,
    "precision": "fp32",  # the same numbers on every processor
    "data": {"val_tokens": 600},
    "sampling": {"max_tokens": 16},
    "qat": {"steps": 0},
}
"""A configuration that trains in a second, with grouped heads and a hidden width that is not 4 x dim."""


def write_texts(folder: Path, share: float = 1.0) -> Path:
    """About 100 KB of the embedded corpus, or a share of that: text, conversations and sentence pairs in both languages."""
    folder.mkdir()
    for name, lines in {"stories.mr.txt": 120, "stories.en.txt": 200, "conversations.en.jsonl": 60, "parallel.tsv": 150}.items():
        text = (SAMPLE_CORPUS / name).read_text(encoding="utf-8").splitlines(keepends=True)[: round(lines * share)]
        (folder / name).write_text("".join(text), encoding="utf-8")
    return folder


def write_micro_config(folder: Path, texts: Path, **changes: object) -> Path:
    """A configuration file for a micro model on `texts`, with its runs under `folder`/runs."""
    values = {**MICRO, "runs_dir": str(folder / "runs"), **changes}
    values["data"] = {"val_tokens": 600, "sources": [str(texts)]}
    path = folder / "micro.jsonc"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path
