"""The QAT stage: trains the finished FP32 model further with rounded weights, which gives the 4-bit weights.

qat/model.bullet  the trained weights, in the types and with the rounding that they were trained with
qat/report.json   settings, and the KL from FP32 on the validation text before and after
qat/checkpoints/  only while the stage runs
qat/calibrated.bullet  only while the stage runs: the calibrated initial weights, so that a resumed stage need not calibrate again

Only the checkpoints hold the exact weights of the student, which are worse than the FP32 model and the rounded student. The
FP32 weights are always in export/npy.
"""

import contextlib
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bulletlm.config.schema import Config
from bulletlm.data.tokens import TokenFile
from bulletlm.errors import BulletError
from bulletlm.files import sha256_of_file, sha256_of_json, write_json
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.formats.npy import read_npy
from bulletlm.formats.provenance import without_paths
from bulletlm.pipeline.build import FloatModel, fingerprint, fit_to_text, stored_tensor
from bulletlm.progress import Progress
from bulletlm.quant.bq4 import Quantized
from bulletlm.quant.calibrate import Calibrated, Tensor
from bulletlm.quant.types import weight_types
from bulletlm.terminal import printable
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.train.checkpoint import remove_checkpoints
from bulletlm.train.distil import DistilJob, distil
from bulletlm.train.schedule import count_steps, sequences_per_step

CALIBRATED = "calibrated.bullet"

SHARE_OF_TOKENS = 0.1
"""Tokens of QAT as a share of those of the training. A token of QAT costs 1.85 times as much as one of training in int8, because there are
two models and their predictions are exact, so this is less than a fifth of the training time; in torch it is more."""

MOST_STEPS = 400
FEWEST_STEPS = 20
"""Fewer steps than these do not get past the warm-up."""


def train_on_grid(
    run: Path, config: Config, text: TokenFile, held_out: TokenFile, progress: Progress, folder: Path | None = None
) -> dict[str, Any]:
    """Calibrate the tensors of `run`/export/npy, improve them by distillation, write model.bullet and report.json; returns the report.

    After an interruption the same call continues and writes the same bits.

    Args:
        run: the run folder.
        config: its configuration.
        text: training tokens.
        held_out: validation tokens, on which the KL is measured.
        progress: shows bars and messages.
        folder: where to write; default: `run`/qat.

    Raises:
        Interrupted: SIGINT, SIGTERM, SIGHUP, a file `stop` in the run folder or a nearly full disk; a checkpoint was written first.
        DataError: the text does not belong to the model, or is too short.
        BulletError: an input is damaged, or the disk is full.
    """
    folder = folder or run / "qat"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    shape, tensors, proto, metadata = read_npy(run / "export" / "npy")
    metadata = without_paths(metadata)
    model = ModelContents(
        shape=shape,
        tensors=tensors,
        types=weight_types(shape, config.quant.weights, config.quant.embedding, config.quant.keep),
        tokenizer_proto=proto,
        pieces=Tokenizer(proto).pieces(),
        metadata=metadata,
    )
    types = dict(model.types)
    done, method = _calibrated(model, run, folder / CALIBRATED, config, text, progress)
    steps = count_qat_steps(config, len(text.tokens))
    job = DistilJob(
        shape=shape,
        teacher=tensors,
        start=done.tensors,
        keep_scales=method != "none",
        types=types,
        config=config.qat.model_copy(update={"steps": steps}),
        train=config.train,
        seed=config.seed + 1,  # an order of the text that the teacher has not seen
        text=text,
        held_out=held_out,
        run_dir=run,
        checkpoints=folder / "checkpoints",
        key=_key(fingerprint(tensors), run, config),
        skip_noise=config.qat.steps is None,
    )
    result = distil(job, progress)
    report = {
        "teacher": fingerprint(tensors),
        "steps": steps if result.tokens or result.problem else 0,
        "tokens": result.tokens,
        "learning_rate": config.train.learning_rate * config.qat.learning_rate_share,
        "method": method,
        "calibration_tokens": done.tokens,
        "chosen": result.chosen,
        "kl": result.kl,
        "seconds": round(time.monotonic() - started, 1),
    }
    if result.problem:
        report["problem"] = result.problem
        progress.log(
            f"QAT: {result.problem}, so the weights from before it are kept. A lower learning rate may help: "
            f"bullet qat {shlex.quote(printable(str(run)))} --learning-rate-share={config.qat.learning_rate_share / 4:g}",
            "warning",
        )
    write_bullet(
        folder / "model.bullet",
        replace(model, tensors=result.tensors, metadata={**metadata, "qat": facts(report)}),
    )
    write_json(folder / "report.json", report)
    remove_checkpoints(folder / "checkpoints")
    (folder / CALIBRATED).unlink(missing_ok=True)
    return report


def count_qat_steps(config: Config, training_tokens: int) -> int:
    """Steps of the stage: qat.steps, or its default for a training text of that many tokens.

    The tokens of QAT are a share of those of the training, because a step of QAT costs a multiple of a training step.
    """
    if config.qat.steps is not None:
        return config.qat.steps
    length = config.model.max_seq_len
    windows = (training_tokens - length) // length
    seen = count_steps(config.train, windows)[0] * sequences_per_step(config.train) * length
    steps = min(MOST_STEPS, round(SHARE_OF_TOKENS * seen / config.qat.tokens_per_step))
    return steps if steps >= FEWEST_STEPS else 0


def _calibrated(model: ModelContents, run: Path, file: Path, config: Config, text: TokenFile, progress: Progress) -> tuple[Calibrated, str]:
    """The weights of `model` rounded and calibrated, and the method; taken from `file` (calibrated.bullet) if that has them already."""
    exact = {name: tensor for name, tensor in model.tensors.items() if not isinstance(tensor, Quantized)}
    key = sha256_of_json(
        [
            fingerprint(exact),
            config.model_dump(mode="json", include={"seed", "quant"}, exclude={"quant": {"auto_fix"}}),
            sha256_of_file(run / "tokens" / "train.bin"),
        ]
    )
    with contextlib.suppress(BulletError, OSError):  # a damaged file is made again
        stored = open_bullet(file)
        facts = stored.metadata.get("calibrated", {})
        if facts.get("key") == key:
            stored.verify()
            progress.log("QAT: the weights are calibrated already")
            done = Calibrated(tensors={name: _copy(stored_tensor(stored, name)) for name in model.types}, tokens=int(facts["tokens"]))
            return done, str(facts["method"])
    tokenizer = Tokenizer(model.tokenizer_proto)
    floats = FloatModel(shape=model.shape, tensors=exact, types=dict(model.types), tokenizer=tokenizer)
    done, method = fit_to_text(floats, config.quant, config.seed, text, progress)
    facts = {"key": key, "tokens": done.tokens, "method": method}
    write_bullet(file, replace(model, tensors=done.tensors, metadata={"calibrated": facts}))
    return done, method


def _copy(tensor: Tensor) -> Tensor:
    """In memory, because the file is deleted at the end."""
    return Quantized(tensor.type, np.array(tensor.blocks)) if isinstance(tensor, Quantized) else np.array(tensor)


def describe(report: dict[str, Any]) -> str:
    """A report in one line."""
    kl = report["kl"]
    before = f"KL from FP32 {kl['start']:.5f} before"
    if "problem" in report:
        return f"{before}; the steps diverged, so the weights from before them are kept"
    if not report["steps"]:
        return f"{before}, which is less than the validation text can show, so no steps are needed"
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
    settings = config.model_dump(mode="json", include={"seed", "quant", "qat"}, exclude={"quant": {"auto_fix"}})
    return sha256_of_json([teacher, settings, config.train.reproducibility_fields(), sha256_of_file(run / "tokens" / "train.bin")])
