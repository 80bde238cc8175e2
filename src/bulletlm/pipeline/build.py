"""The build stage: quantizes a folder of FP32 tensors to a `.bullet` file, which records the quantization error.

The rounding itself is in `bulletlm.quant`. This module gives it calibration text, compares the result with FP32 and writes the file.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from bulletlm.config.schema import QuantConfig
from bulletlm.data.calibration import calibration_windows
from bulletlm.data.tokens import TokenFile
from bulletlm.errors import BulletError, ConfigError
from bulletlm.evaluate.compare import compare
from bulletlm.files import write_json
from bulletlm.formats.bullet.reader import BulletFile, open_bullet
from bulletlm.formats.bullet.version1 import fold_gains, write_v1
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.formats.npy import read_npy
from bulletlm.formats.provenance import without_paths
from bulletlm.formats.stored import StoredModel
from bulletlm.progress import Progress
from bulletlm.quant.bq4 import Quantized
from bulletlm.quant.calibrate import Calibrated, Floats, QuantizeOptions, Tensor, dequantize, quantize, tensor_report
from bulletlm.quant.sensitivity import sensitivity
from bulletlm.quant.types import METHOD_WORDS, weight_types
from bulletlm.runtime import Model, NumpyEngine
from bulletlm.runtime.sampling import Sampling
from bulletlm.shape import ModelShape
from bulletlm.text.chat import CHAT_TEMPLATE
from bulletlm.text.tokenizer import Tokenizer

SENSITIVITY_TOKENS = 1_024
"""Number of held-out tokens for measuring each matrix alone; it is enough to find the matrices with a large error."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a model file is built.

    Attributes:
        config: types and method.
        seed: decides which text is used for calibration, unless `config` has a seed of its own.
        calibration: text to draw the calibration windows from; needed for BQ4 unless the method is "none".
        validation: held-out text for the measurement; without it the file does not record the quantization error.
        report: JSON file for the errors of every tensor and layer; None writes none.
        version: version of the file; 1 has four bits for everything and is written as its runtime reads it (docs/bullet-format.md).
        trained: the file that QAT made from the same FP32 tensors; its weights are used unchanged.
    """

    config: QuantConfig
    seed: int
    calibration: TokenFile | None = None
    validation: TokenFile | None = None
    report: Path | None = None
    version: int = 2
    trained: Path | None = None


@dataclass(frozen=True, kw_only=True)
class FloatModel:
    """An FP32 model and the types that its tensors will have.

    Attributes:
        shape: the shape of the model.
        tensors: float32 arrays by name.
        types: type of every tensor in the file.
        tokenizer: the tokenizer of the model.
    """

    shape: ModelShape
    tensors: dict[str, Floats]
    types: dict[str, str]
    tokenizer: Tokenizer


def build_bullet(npy_folder: Path, path: Path, options: BuildOptions, progress: Progress) -> dict[str, Any]:
    """Quantize the tensors of `npy_folder`, measure the result and write `path`; the same inputs give the same bytes.

    Args:
        npy_folder: an export/npy folder.
        path: the file to write; it appears when it is complete.
        options: how it is built.
        progress: shows the bars.

    Returns:
        What the header says under "quantised" (docs/quantization.md).

    Raises:
        ConfigError: there is no calibration text for a method that needs it, a rule of `keep` matches no tensor, or types other than
            BQ4 are requested for version 1.
        DataError: calibration or validation text does not belong to the model, or is too short.
        FormatError: the folder is incomplete, or version 1 cannot hold a model of this shape.
        BulletError: a weight is not finite, or the disk is full; an older file stays as it was.
    """
    shape, tensors, proto, metadata = read_npy(npy_folder)
    tokenizer = Tokenizer(proto)
    config, seed, embedding = options.config, options.seed, options.config.embedding
    if options.version == 1:
        if config.weights != "BQ4" or embedding not in (None, "BQ4") or config.keep:
            raise ConfigError("version 1 stores every tensor in four bits: omit other types (--quant, --embedding, --keep)")
        shape, tensors = fold_gains(shape, tensors)
        embedding = "BQ4"
    types = weight_types(shape, config.weights, embedding, config.keep)
    model = FloatModel(shape=shape, tensors=tensors, types=types, tokenizer=tokenizer)
    # BLAS threads busy-wait for each other: with one other busy program this becomes ten times slower (`bulletlm.quant.calibrate`).
    with threadpool_limits(1, user_api="blas"):
        qat = None
        if options.trained:
            done, method, qat = _trained(options.trained, tensors, types)
        elif metadata.get("training", {}).get("qat_start") is not None:
            # These weights were trained on the grid: rounding to nearest gives exactly the same weights, and calibration would change them.
            plain = config.model_copy(update={"calibration": "none"})
            done, method = fit_to_text(model, plain, seed, None, progress)
        else:
            done, method = fit_to_text(model, config, seed, options.calibration, progress)
        quantized: dict[str, Any] = {
            "weights": config.weights,
            "embedding": types["token_embedding.weight"],
            "keep": config.keep,
            "method": method,
            "calibration_tokens": done.tokens,
        }
        if qat:
            quantized["qat"] = qat
        costs: tuple[dict[str, float], dict[str, float]] = {}, {}
        if options.validation:
            rounded = {name: dequantize(tensor) for name, tensor in done.tensors.items()}
            quantized |= _measure(model, rounded, options.validation, progress)
            if options.report:
                costs = sensitivity(shape, tensors, rounded, _held_out(options.validation, shape.max_seq_len), progress)
    named = {**without_paths(metadata), "chat_template": CHAT_TEMPLATE, "quantised": quantized}
    if options.version == 1:
        write_v1(path, StoredModel(shape, done.tensors, proto, named))
    else:
        write_bullet(
            path,
            ModelContents(shape=shape, tensors=done.tensors, types=types, tokenizer_proto=proto, pieces=tokenizer.pieces(), metadata=named),
        )
    if options.report:
        by_matrix, by_part = costs
        rows = {name: {**row.to_dict(), "kl": by_matrix.get(name)} for name, row in done.report.items()}
        write_json(options.report, {**quantized, "layers": by_part or None, "tensors": rows})
    return quantized


def fit_to_text(
    model: FloatModel, config: QuantConfig, seed: int, calibration: TokenFile | None, progress: Progress
) -> tuple[Calibrated, str]:
    """Round float32 tensors to their types, calibrated according to `config`; returns them and the method that was used.

    Raises:
        ConfigError: there is no calibration text for a method that needs it.
        DataError: the text does not belong to the model, or is too short.
    """
    method, windows = config.calibration if "BQ4" in model.types.values() else "none", None
    if method != "none":
        if calibration is None:
            raise ConfigError(f'calibration "{method}" needs text: give it with --calibration tokens.bin, or use --method none')
        chosen = seed if config.seed is None else config.seed
        windows = calibration_windows(calibration, model.tokenizer, config.calibration_tokens, model.shape.max_seq_len, chosen)
    with threadpool_limits(1, user_api="blas"):
        options = QuantizeOptions(types=model.types, method=method, windows=windows)
        return quantize(model.shape, model.tensors, options, progress), method


def _trained(path: Path, exact: dict[str, Floats], types: dict[str, str]) -> tuple[Calibrated, str, dict[str, Any]]:
    """Return the weights of a file that QAT made from `exact`, their calibration method, and the QAT entry of the file's header."""
    file = open_bullet(path)
    file.verify()
    facts = file.metadata.get("qat", {})
    if facts.get("teacher") != fingerprint(exact) or {name: file.type(name) for name in file.tensors} != types:
        raise BulletError(f"{path} was made from another model or for other weight types: run the qat stage again")
    done = Calibrated(tokens=facts["calibration_tokens"])
    for name, type in types.items():
        done.tensors[name] = stored_tensor(file, name)
        if exact[name].ndim > 1:
            done.report[name] = tensor_report(exact[name], done.tensors[name], type)
    return done, facts["method"], facts


def stored_tensor(file: BulletFile, name: str) -> Tensor:
    """A tensor of a file as `write_bullet` took it."""
    tensor = file.read_blocks(name)
    return tensor if isinstance(tensor, Quantized) else file.dequantize(name)


def fingerprint(tensors: dict[str, Floats]) -> str:
    """SHA-256 of float32 tensors: which FP32 model weights were trained from."""
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(np.ascontiguousarray(tensor, dtype="<f4").data)
    return digest.hexdigest()


def _measure(model: FloatModel, rounded: dict[str, Floats], validation: TokenFile, progress: Progress) -> dict[str, Any]:
    """Return loss and perplexity of both models, and the difference between their predictions, over the validation windows."""
    exact, quantized = (
        Model(NumpyEngine(model.shape, weights), model.tokenizer, model.shape, Sampling(), {}) for weights in (model.tensors, rounded)
    )
    result = compare(exact, quantized, validation, progress)
    return {
        "val_tokens": result.b.tokens,
        "val_loss": result.b.loss,
        "perplexity": result.b.perplexity,
        "bits_per_byte": result.b.bits_per_byte,
        "fp32_val_loss": result.a.loss,
        "perplexity_change": result.perplexity_change,
        "loss_delta_se": result.loss_delta.se,
        "kl": result.kl.mean,
        "kl_se": result.kl.se,
    }


def _held_out(validation: TokenFile, length: int) -> npt.NDArray[np.int64]:
    """The first SENSITIVITY_TOKENS held-out tokens as windows, int64[count, length]; one shorter window where there are fewer."""
    tokens = np.asarray(validation.tokens[:SENSITIVITY_TOKENS], dtype=np.int64)
    length = min(length, len(tokens))
    return tokens[: len(tokens) // length * length].reshape(-1, length)


def summary(quantized: dict[str, Any]) -> str:
    """Return one line that summarizes the header's "quantised" entry."""
    text = f"{quantized['weights']}, {METHOD_WORDS[quantized['method']]}"
    if quantized["calibration_tokens"]:
        text += f" on {quantized['calibration_tokens']:,} tokens"
    if qat := quantized.get("qat"):
        if "problem" in qat:
            text += " (QAT diverged)"
        elif not qat["steps"]:
            text += " (QAT was not needed)"
        else:
            text += f", {qat['steps']:,} steps of QAT" if qat["chosen"] != "start" else f" ({qat['steps']:,} steps of QAT were no better)"
    if "kl" in quantized:
        text += f": perplexity {quantized['perplexity']:.2f} ({quantized['perplexity_change']:+.2%} against FP32), KL {quantized['kl']:.5f}"
    return text
