"""The QAT stage: from the finished FP32 model to 4-bit weights that were trained in their rounded form.

qat/model.bullet  the trained weights, in the types and with the rounding that they were trained with
qat/report.json   settings, and the KL from FP32 on the validation text before and after
qat/checkpoints/  only while the stage runs

Only the checkpoints hold the exact weights of the student, which are worse than the FP32 model and the rounded student. The
FP32 weights are always in export/npy.
"""

import time
from pathlib import Path
from typing import Any

from bulletlm.config.schema import Config
from bulletlm.data.tokens import TokenFile
from bulletlm.files import sha256_of_file, sha256_of_json, write_json
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.formats.npy import read_npy
from bulletlm.pipeline.build import fingerprint, fit_to_text
from bulletlm.progress import Progress
from bulletlm.quant.types import weight_types
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.train.checkpoint import remove_checkpoints
from bulletlm.train.distil import DistilJob, distil


def train_on_grid(run: Path, config: Config, text: TokenFile, held_out: TokenFile, progress: Progress) -> dict[str, Any]:
    """Calibrate the tensors of `run`/export/npy, improve them by distillation, write `run`/qat; returns the report.

    After an interruption the same call continues and writes the same bits.

    Args:
        run: the run folder.
        config: its configuration.
        text: training tokens.
        held_out: validation tokens, on which the KL is measured.
        progress: shows bars and messages.

    Raises:
        Interrupted: SIGINT, SIGTERM, a file `stop` in the run folder or a nearly full disk; a checkpoint was written first.
        DataError: the text does not belong to the model, or is too short.
        BulletError: an input is damaged, the loss is no longer a number, or the disk is full.
    """
    folder = run / "qat"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    shape, tensors, proto, metadata = read_npy(run / "export" / "npy")
    tokenizer = Tokenizer(proto)
    types = weight_types(shape, config.quant.weights, config.quant.embedding, config.quant.keep)
    done, method = fit_to_text(shape, tensors, types, tokenizer, config.quant, config.seed, text, progress)
    job = DistilJob(
        shape=shape,
        teacher=tensors,
        start=done.tensors,
        keep_scales=method != "none",
        types=types,
        config=config.qat,
        train=config.train,
        seed=config.seed + 1,  # an order of the text that the teacher has not seen
        text=text,
        held_out=held_out,
        run_dir=run,
        checkpoints=folder / "checkpoints",
        key=_key(fingerprint(tensors), run, config),
    )
    result = distil(job, progress)
    report = {
        "teacher": fingerprint(tensors),
        "steps": config.qat.steps,
        "tokens": result.tokens,
        "learning_rate": config.train.learning_rate * config.qat.learning_rate_share,
        "method": method,
        "calibration_tokens": done.tokens,
        "chosen": result.chosen,
        "kl": result.kl,
        "seconds": round(time.monotonic() - started, 1),
    }
    write_bullet(
        folder / "model.bullet",
        ModelContents(
            shape=shape,
            tensors=result.tensors,
            types=types,
            tokenizer_proto=proto,
            pieces=Tokenizer(proto).pieces(),
            metadata={**metadata, "qat": facts(report)},
        ),
    )
    write_json(folder / "report.json", report)
    remove_checkpoints(folder / "checkpoints")
    return report


def describe(report: dict[str, Any]) -> str:
    """A report in one line."""
    kl = report["kl"]
    before = f"KL from FP32 {kl['start']:.5f} before"
    trained = f"{kl['raw']:.5f} after {report['steps']:,} steps, {kl['ema']:.5f} averaged"
    taken = {
        "start": "not better, so the calibrated weights are kept",
        "raw": "the last weights are the best",
        "ema": "the averaged weights are the best",
    }
    return f"{before}, {trained}: {taken[report['chosen']]}"


def facts(report: dict[str, Any]) -> dict[str, Any]:
    """The report without the values that depend on the machine, for the model file."""
    return {name: value for name, value in report.items() if name != "seconds"}


def _key(teacher: str, run: Path, config: Config) -> str:
    """Fingerprint of everything that decides the result."""
    settings = config.model_dump(mode="json", include={"seed", "quant", "qat"})
    return sha256_of_json([teacher, settings, config.train.reproducibility_fields(), sha256_of_file(run / "tokens" / "train.bin")])
