"""The stages in order: text -> clean -> tokenizer -> tokens -> train -> export -> qat -> build -> evaluate.

A run that starts from an existing model begins with one more stage, start, which keeps that model in the run folder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bulletlm.files import sha256_of_file
from bulletlm.pipeline import stage_settings, stage_work
from bulletlm.pipeline.run import Run


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        title: name in messages.
        settings: the part of the configuration that decides the outputs, as JSON values.
        inputs: earlier stages whose outputs this one reads.
        outputs: files whose hashes stages.json records, relative to the run folder. A name with a slash at the end stands for those
            of the stage's files that are in this folder.
        also: further files that the stage writes, as `fnmatch` patterns.
        checked: whether files.json records the files. Checkpoints have their own hashes.
        work: writes the outputs.
    """

    title: str
    settings: Callable[[Run], Any]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...]
    also: tuple[str, ...] = ()
    checked: bool = True
    work: Callable[[Run], None]

    @property
    def files(self) -> tuple[str, ...]:
        """Patterns of all files that the stage may write, relative to the run folder."""
        return (*(name for name in self.outputs if not name.endswith("/")), *self.also)

    def output_hashes(self, folder: Path) -> dict[str, str | None]:
        """SHA-256 of every output file in a run folder; None for a missing file, and for a folder of `outputs` without files."""
        hashes: dict[str, str | None] = {}
        for name in self.outputs:
            path = folder / name
            if name.endswith("/"):
                inside = [f"{name}{file.name}" for file in sorted(path.glob("*")) if file.is_file()]
                found = [each for each in inside if any(fnmatchcase(each, pattern) for pattern in self.files)]
                hashes |= {each: sha256_of_file(folder / each) for each in found}
                if not found:
                    hashes[name] = None
            else:
                hashes[name] = sha256_of_file(path) if path.is_file() else None
        return hashes


_TENSOR_FILES = (
    "manifest.json",
    "tokenizer.model",
    "token_embedding.weight.npy",
    "layers.*.weight.npy",
    "final_norm.weight.npy",
    "lm_head.weight.npy",
)
"""Files of a folder of FP32 tensors."""

START = Stage(
    title="Start",
    settings=stage_settings.start,
    outputs=("start/npy/",),
    also=tuple(f"start/npy/{name}" for name in _TENSOR_FILES),
    work=stage_work.start,
)
"""The first stage of a run that starts from an existing model."""

STAGES: dict[str, Stage] = {
    "data": Stage(
        title="Data",
        settings=stage_settings.data,
        outputs=("data/train.jsonl", "data/val.jsonl", "data/rejected.jsonl", "data/clean-report.json"),
        also=(
            "cleaned/documents.jsonl",
            "cleaned/documents.bin",
            "cleaned/paragraphs.bin",
            "cleaned/whole.bin",
            "cleaned/parts.bin",
            "cleaned/rejected.jsonl",
            "cleaned/summary.json",
        ),
        work=stage_work.data,
    ),
    "tokenizer": Stage(
        title="Tokenizer",
        settings=stage_settings.tokenizer,
        inputs=("data",),
        outputs=("tokenizer/tokenizer.model", "tokenizer/report.json"),
        also=("tokenizer/compare.json",),
        work=stage_work.tokenizer,
    ),
    "tokens": Stage(
        title="Tokens",
        settings=stage_settings.tokens,
        inputs=("data", "tokenizer"),
        outputs=("tokens/train.bin", "tokens/val.bin", "tokens/index.json"),
        also=("tokens/train.learn.bin", "tokens/val.learn.bin", "tokens/train.sources.bin", "tokens/val.sources.bin"),
        work=stage_work.tokens,
    ),
    "train": Stage(
        title="Training",
        settings=stage_settings.train,
        inputs=("tokens",),
        outputs=("checkpoints/best/model.safetensors", "checkpoints/best/state.json"),
        checked=False,
        work=stage_work.train,
    ),
    "export": Stage(
        title="Export",
        settings=stage_settings.export,
        inputs=("tokenizer", "train"),
        outputs=("export/npy/",),
        also=tuple(f"export/npy/{name}" for name in _TENSOR_FILES),
        work=stage_work.export,
    ),
    "qat": Stage(
        title="QAT",
        settings=stage_settings.qat,
        inputs=("tokens", "export"),
        outputs=("qat/",),
        also=("qat/model.bullet", "qat/report.json", "qat/calibrated.bullet"),
        work=stage_work.qat,
    ),
    "build": Stage(
        title="Build",
        settings=stage_settings.build,
        inputs=("tokens", "export", "qat"),
        outputs=("model.bullet", "quantization.json"),
        also=tuple(f"auto-fix/{name}" for name in ("model.bullet", "quantization.json", "qat.bullet", "report.json", "calibrated.bullet")),
        work=stage_work.build,
    ),
    "evaluate": Stage(
        title="Evaluation",
        settings=stage_settings.evaluate,
        inputs=("tokens", "export", "build"),
        outputs=("report.json", "report.html"),
        work=stage_work.evaluate,
    ),
}
"""The stages of every run by name."""


def stages_of(run: Run) -> dict[str, Stage]:
    """The stages of a run by name, in order."""
    return {"start": START, **STAGES} if run.parent else STAGES
