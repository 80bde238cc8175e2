"""A run folder as the stages write it, with a tiny model of random weights."""

import json
from pathlib import Path

import pytest
from micro_run import CLEAN_REPORT, COMPARED_SIZES, SHAPE, documents, random_tensors

from bulletlm.config.schema import Config, QuantConfig
from bulletlm.data.tokens import open_tokens, write_tokens
from bulletlm.formats.npy import write_npy
from bulletlm.pipeline.build import BuildOptions, build_bullet
from bulletlm.progress import SilentProgress
from bulletlm.text.documents import read_documents, texts_of, to_line
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.text.tokenizer_report import tokenizer_report
from bulletlm.text.train_tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    texts = [text for document in documents() for text in texts_of(document)]
    return Tokenizer(train_tokenizer(texts, SHAPE.vocab_size, 1, SilentProgress()))


@pytest.fixture(scope="session")
def run_folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with all outputs except the report; tests that change files copy it."""
    folder = tmp_path_factory.mktemp("runs") / "micro"
    data = folder / "data"
    data.mkdir(parents=True)
    rows = documents()
    for split, part in (("train", rows[20:]), ("val", rows[::8])):
        (data / f"{split}.jsonl").write_bytes(b"".join(to_line(row) for row in part))
    (data / "clean-report.json").write_text(json.dumps(CLEAN_REPORT), encoding="utf-8")
    write_tokens(data, tokenizer, "all", folder / "tokens", SilentProgress())
    by_language = {
        language: [text for row in read_documents(data / "train.jsonl") if row["language"] == language for text in texts_of(row)]
        for language in ("mr", "en")
    }
    (folder / "tokenizer").mkdir()
    facts = {**tokenizer_report(tokenizer, by_language), "unused_pieces": 71, "rarest_pieces": [{"piece": "ळ", "count": 2}]}
    (folder / "tokenizer" / "report.json").write_text(json.dumps(facts), encoding="utf-8")
    (folder / "tokenizer" / "compare.json").write_text(json.dumps(COMPARED_SIZES), encoding="utf-8")
    write_npy(folder / "export" / "npy", SHAPE, random_tensors(SHAPE, 5), tokenizer.proto, {"training": {"weights": "ema"}})
    train, val = (open_tokens(folder / "tokens", split) for split in ("train", "val"))
    quant, report = QuantConfig(calibration="search", calibration_tokens=1024), folder / "quantization.json"
    options = BuildOptions(config=quant, seed=1, calibration=train, validation=val, report=report)
    build_bullet(folder / "export" / "npy", folder / "model.bullet", options, SilentProgress())
    events = [
        {
            "event": "train",
            "step": n,
            "tokens": 100 * n,
            "train/loss": 9 / n,
            "lr": 0.001,
            "grad_norm": 1.0,
            "tokens_per_s": 50.0,
            "seconds": 2.0 * n,
        }
        for n in range(1, 21)
    ]
    events += [
        {"event": "eval", "step": 10, "val/loss": 5.0, "val/loss_ema": 4.5, "val/bpb": 2.0, "best": True},
        {"event": "eval", "step": 20, "val/loss": 6.0, "val/loss_ema": 5.5, "val/bpb": 2.5, "best": False},
        {"event": "end", "step": 20, "reason": "end of schedule"},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return folder


@pytest.fixture
def config(run_folder: Path) -> Config:
    """Settings of that run; short answers."""
    return Config.model_validate(
        {"name": "micro <&>", "runs_dir": str(run_folder.parent), "tokenizer": {"vocab_size": 600}, "sampling": {"max_tokens": 12}}
    )
