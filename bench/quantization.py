"""Compares methods of 4-bit quantization by their loss on the validation text of a finished run.

    bullet run bench/model.jsonc                                                    train the model for this comparison
    python bench/quantization.py runs/bench                                         all methods, llama.cpp's and ours
    python bench/quantization.py runs/bench --file qat.bullet                       also other files of the same model
    python bench/quantization.py runs/bench --only gptq --calibration-tokens 2000 5000 20000 60000
    python bench/quantization.py runs/bench --only gptq --damping 0.01 0.03 0.1 0.3
    python bench/quantization.py runs/bench --only "llama.cpp Q4_0" model.bullet    the rows for the targets of QAT
    python bench/quantization.py --memory                                           memory for calibrating 100M random parameters

All rows predict the same windows, so differences from FP32 are paired; +- is their standard error over windows. llama.cpp itself
rounds its types, and the gguf package reads them; all models compute in float32. Bits count all tensors: blocks with their
scales, embedding, gains. Seconds are the CPU time and the wall time of rounding alone. `--file` takes .bullet files made from the
same FP32 weights. The run's own model.bullet is always included. The targets for QAT apply to the first file that QAT changed. The
exit code is 1 if a target is missed; targets whose rows were left out are not measured and do not count.
"""

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from threadpoolctl import threadpool_limits

import bulletlm
import llama_quants
from bulletlm.data.calibration import calibration_windows
from bulletlm.data.tokens import open_tokens
from bulletlm.errors import BulletError
from bulletlm.evaluate.compare import Comparison, compare
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.npy import read_npy, write_npy
from bulletlm.progress import SilentProgress
from bulletlm.quant import gptq
from bulletlm.quant.bq4 import Quantized, pack_bq4, quantize_bq4
from bulletlm.quant.calibrate import QuantizeOptions, dequantize, quantize
from bulletlm.quant.types import tensor_bytes, weight_types
from bulletlm.runtime import Model, NumpyEngine, Sampling
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer

LARGE = ModelShape(4_000, 768, 14, 12, 12, 2048, 512)
"""102 million parameters."""

Tensors = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


class Rounded(NamedTuple):
    """The weights after quantization with one method, and the bytes of all tensors."""

    weights: Tensors
    bytes: int


class Row(NamedTuple):
    label: str
    make: Callable[[], Rounded]
    qat: bool = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="a run folder with export/npy and tokens")
    parser.add_argument("--memory", action="store_true", help="only the peak memory of calibrating a random model of 100M parameters")
    parser.add_argument("--calibration-tokens", type=int, nargs="+", default=[20_000, 40_000])
    parser.add_argument("--damping", type=float, nargs="+", default=[], help="also measure these shares instead of the usual one")
    parser.add_argument("--file", type=Path, nargs="+", default=[], help=".bullet files of the same FP32 model")
    parser.add_argument("--only", nargs="+", help="only rows whose name contains one of these words")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", type=Path, help="write the rows and the results for the targets to this file")
    arguments = parser.parse_args()
    if bool(arguments.run) == arguments.memory:
        parser.error("name a run folder, or give --memory")
    if arguments.memory:
        print_memory(LARGE, [4_096, 14_096])
        return 0
    try:
        with threadpool_limits(1, user_api="blas"):
            return run(arguments)
    except BulletError as error:
        sys.exit(f"quantization.py: {error}")


def run(arguments: argparse.Namespace) -> int:
    folder = arguments.run
    shape, tensors, proto, _ = read_npy(folder / "export" / "npy")
    tokenizer = Tokenizer(proto)
    text, held_out = (open_tokens(folder / "tokens", split) for split in ("train", "val"))
    fp32 = Model(NumpyEngine(shape, tensors), tokenizer, shape, Sampling(), {})

    def windows(count: int) -> np.ndarray[Any, Any]:
        return calibration_windows(text, tokenizer, count, shape.max_seq_len, arguments.seed)

    files = [path for path in (folder / "model.bullet", *arguments.file) if path.exists() or path in arguments.file]
    rows = [*llamas(shape, tensors, windows(40_000)), *ours(shape, tensors, arguments.calibration_tokens, windows)]
    rows += damped(shape, tensors, arguments.damping, windows)
    rows += [file_row(path, shape) for path in files]
    results: list[dict[str, Any]] = []
    print(f"{folder}: {shape.n_parameters:,} parameters, {len(held_out.tokens) - 1:,} validation tokens\n")
    print(f"{'':<40}{'bits/weight':>11} {'perplexity':>10} {'change':>17}   {'KL':>18} {'CPU s':>7} {'wall s':>7}")
    for label, make, qat in rows:
        if arguments.only and not any(part in label for part in arguments.only):
            continue
        cpu, wall = time.process_time(), time.perf_counter()
        rounded = make()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        result = compare(fp32, Model(NumpyEngine(shape, rounded.weights), tokenizer, shape, Sampling(), {}), held_out, SilentProgress())
        bits = 8 * rounded.bytes / shape.n_parameters
        if not results:
            print(f"{'FP32':<40}{32:>11.2f} {result.a.perplexity:>10.3f}")
        print_row(label, bits, result, cpu, wall)
        results.append({"row": label, "qat": qat, "bits_per_weight": bits, "cpu_seconds": cpu, "wall_seconds": wall, **result.to_dict()})
    for path in files[:1]:
        file = open_bullet(path)
        rest = 8 * (file.size - sum(region.size for region in file.tensors.values())) / shape.n_parameters
        print(f"\nTokenizer and header add {rest:.2f} bits a weight to a .bullet of this model, whatever its types.")
    peak = peak_memory()
    print(f"\nPeak memory of this process, all rows and comparisons: {peak / 1e6:,.0f} MB.\n")
    bars = judge(results)
    for bar in bars:
        if bar["value"] is None:
            print(f"{'':<6}  {bar['name']}: not measured (bar {bar['target']})")
        else:
            print(f"{'met   ' if bar['pass'] else 'MISSED'}  {bar['name']}: {bar['value']:.4g} (bar {bar['target']})")
    if arguments.json:
        versions = {"bulletlm": bulletlm.__version__, "numpy": np.__version__, "python": platform.python_version()}
        report = {"machine": platform.processor() or platform.machine(), "versions": versions, "rows": results, "bars": bars}
        arguments.json.write_text(json.dumps({**report, "peak_bytes": peak}, indent=2) + "\n", encoding="utf-8")
    return 1 if any(bar["pass"] is False for bar in bars) else 0


def peak_memory() -> int:
    """Return the peak memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def print_memory(shape: ModelShape, counts: list[int]) -> None:
    """Measure the peak memory of a process that reads a random model, as `bullet build` does, and calibrates it on random tokens."""
    random = np.random.default_rng(0)
    tensors = {
        name: (random.standard_normal(extents, np.float32) * np.float32(0.02) if len(extents) > 1 else np.ones(extents, np.float32))
        for name, extents in shape.tensors().items()
    }
    print(f"{shape.n_parameters:,} parameters, {4 * shape.n_parameters / 1e6:,.0f} MB as float32")
    with tempfile.TemporaryDirectory() as folder:
        write_npy(Path(folder) / "npy", shape, tensors, b"", {})
        del tensors
        for count in counts:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                empty, peak, seconds = pool.submit(calibrate_alone, Path(folder) / "npy", count).result()
            print(f"{count:,} tokens: {peak / 1e6:,.0f} MB at most, {empty / 1e6:,.0f} MB before the model was read; {seconds:,.0f} CPU s")


def calibrate_alone(folder: Path, count: int) -> tuple[int, int, float]:
    """Calibrate the model in `folder` with the full method: memory before and peak memory in bytes, and CPU seconds."""
    empty = peak_memory()
    shape, tensors, _, _ = read_npy(folder)
    windows = np.random.default_rng(1).integers(0, shape.vocab_size, (count // shape.max_seq_len, shape.max_seq_len))
    with threadpool_limits(1, user_api="blas"):
        quantize(shape, tensors, QuantizeOptions(types=weight_types(shape), method="gptq", windows=windows), SilentProgress())
    return empty, peak_memory(), time.process_time()


def llamas(shape: ModelShape, tensors: Tensors, windows: np.ndarray[Any, Any]) -> Iterator[Row]:
    """Return the rows of llama.cpp's types. The embedding is Q8_0, as in our files, unless the row says otherwise."""
    importance: dict[str, Any] = {}

    def rounded(types: dict[str, str], weighted: bool) -> Rounded:
        if weighted and not importance:
            importance.update(llama_quants.imatrix(shape, tensors, windows))
        weights, size = {}, 0
        for name, weight in tensors.items():
            if weight.ndim == 1:
                weights[name], stored = weight, weight.nbytes
            else:
                weights[name], stored = llama_quants.quantize(weight, types[name], importance.get(name) if weighted else None)
            size += stored
        return Rounded(weights, size)

    def mixed(type: str, embedding: str = "Q8_0") -> dict[str, str]:
        return {name: type if name.startswith("layers.") else embedding for name in tensors}

    if not np.array_equal(rounded(mixed("Q4_0"), False).weights["layers.0.mlp.up_proj.weight"], by_rule(tensors)):
        sys.exit("our rule for BQ4 without calibration is not that of llama.cpp's Q4_0")
    yield Row("llama.cpp Q4_0", lambda: rounded(mixed("Q4_0"), False))
    if llama_quants.fits(shape, "Q6_K"):
        yield Row("llama.cpp Q4_0, embedding Q6_K", lambda: rounded(mixed("Q4_0", "Q6_K"), False))
    yield Row("llama.cpp Q4_0 + imatrix", lambda: rounded(mixed("Q4_0"), True))
    yield Row("llama.cpp IQ4_NL", lambda: rounded(mixed("IQ4_NL"), False))
    yield Row("llama.cpp IQ4_NL + imatrix", lambda: rounded(mixed("IQ4_NL"), True))
    if llama_quants.fits(shape, "Q4_K"):
        yield Row("llama.cpp Q4_K_M", lambda: rounded(llama_quants.q4_k_m(shape), False))
        yield Row("llama.cpp Q4_K_M + imatrix", lambda: rounded(llama_quants.q4_k_m(shape), True))


def by_rule(tensors: Tensors) -> Any:
    return Quantized("BQ4", quantize_bq4(tensors["layers.0.mlp.up_proj.weight"])).dequantize()


def ours(shape: ModelShape, tensors: Tensors, counts: list[int], windows: Callable[[int], Any]) -> Iterator[Row]:
    """Return the rows of the methods of `bullet build`, and of the rule of the first .bullet writer."""
    usual, first_layer, eight = weight_types(shape), weight_types(shape, keep=["layers.0.*=BQ8"]), weight_types(shape, "BQ8")

    def rounded(types: dict[str, str], method: str, count: int = 0) -> Rounded:
        done = quantize(
            shape, tensors, QuantizeOptions(types=types, method=method, windows=windows(count) if count else None), SilentProgress()
        )
        check_grid(done.tensors)
        return Rounded({name: dequantize(tensor) for name, tensor in done.tensors.items()}, size_of(shape, types))

    def oldest() -> Rounded:
        plain = rounded(usual, "none").weights
        return Rounded({n: absmax(tensors[n]) if usual[n] == "BQ4" else plain[n] for n in tensors}, size_of(shape, usual))

    yield Row("RTN, largest / 7", oldest)
    for count in counts:
        label = f"{count // 1000}k tokens"
        yield Row(f"BQ4 search, {label}", lambda count=count: rounded(usual, "search", count))
        yield Row(f"BQ4 gptq, {label}", lambda count=count: rounded(usual, "gptq", count))
    yield Row(f"BQ4 gptq, {counts[-1] // 1000}k, layer 0 BQ8", lambda: rounded(first_layer, "gptq", counts[-1]))
    yield Row("BQ8", lambda: rounded(eight, "none"))


def damped(shape: ModelShape, tensors: Tensors, shares: list[float], windows: Callable[[int], Any]) -> Iterator[Row]:
    """Return rows of the full method with other damping: other shares of the mean diagonal are added to the statistics of the inputs."""
    types = weight_types(shape)

    def rounded(share: float) -> Rounded:
        usual, gptq.DAMPING = gptq.DAMPING, share
        try:
            done = quantize(shape, tensors, QuantizeOptions(types=types, method="gptq", windows=windows(40_000)), SilentProgress())
        finally:
            gptq.DAMPING = usual
        return Rounded({name: dequantize(tensor) for name, tensor in done.tensors.items()}, size_of(shape, types))

    for share in shares:
        yield Row(f"BQ4 gptq, damping {share:g}", lambda share=share: rounded(share))


def absmax(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Round by the rule of the first .bullet writer: scale = |largest| / 7, codes -7 ... 7."""
    blocks = weights.reshape(*weights.shape[:-1], -1, 32)
    scales = (np.abs(blocks).max(-1) / 7).astype(np.float16)
    safe = np.where(scales == 0, 1, scales).astype(np.float32)[..., None]
    steps = np.clip(np.rint(blocks / safe), -7, 7)
    return Quantized("BQ4", pack_bq4((steps + 8).astype(np.uint8).reshape(weights.shape), scales)).dequantize()


def size_of(shape: ModelShape, types: dict[str, str]) -> int:
    return sum(tensor_bytes(types[name], extents) for name, extents in shape.tensors().items())


def check_grid(tensors: dict[str, Any]) -> None:
    """Check that the gguf package reads the same weights from the same bytes: otherwise the row would not describe llama.cpp."""
    for name, tensor in tensors.items():
        if isinstance(tensor, Quantized):
            kind = gguf.GGMLQuantizationType.Q4_0 if tensor.type == "BQ4" else gguf.GGMLQuantizationType.Q8_0
            theirs = gguf.quants.dequantize(tensor.blocks.reshape(len(tensor.blocks), -1), kind)
            if not np.array_equal(theirs, tensor.dequantize()):
                sys.exit(f"{name}: llama.cpp would read other weights than we do")


def file_row(path: Path, shape: ModelShape) -> Row:
    """Return the row of a .bullet file, named by the method in its header. The stage's own qat/model.bullet has it in another field."""
    said = open_bullet(path).metadata
    facts = said.get("quantised", {}).get("qat") or said.get("qat") or {}
    qat = facts.get("chosen", "start") != "start"
    method = said.get("quantised", facts).get("method", "unknown")
    label = f"{path.name} ({method}, {facts['steps']:,} steps of QAT)" if qat else f"{path.name} ({method})"
    return Row(label, lambda: of_file(path, shape), qat)


def of_file(path: Path, shape: ModelShape) -> Rounded:
    file = open_bullet(path)
    if file.shape.to_dict() != shape.to_dict():
        sys.exit(f"{path} is not a model of the shape of export/npy")
    return Rounded({name: file.dequantize(name) for name in file.tensors}, sum(region.size for region in file.tensors.values()))


def print_row(label: str, bits: float, result: Comparison, cpu: float, wall: float) -> None:
    change = f"{result.perplexity_change:+.2%} +- {result.loss_delta.se or 0:.2%}"
    kl = f"{result.kl.mean:.5f} +- {result.kl.se or 0:.5f}"
    print(f"{label:<40}{bits:>11.3f} {result.b.perplexity:>10.3f} {change:>17}   {kl:>18} {cpu:>7.1f} {wall:>7.1f}", flush=True)


def judge(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the targets: post-training against llama.cpp's Q4_0, QAT also against its teacher.

    "value" and "pass" are None if the rows of a target are missing.
    """
    base = next((row for row in results if row["row"] == "llama.cpp Q4_0"), None)
    post = next((row for row in results if row["row"] == "BQ4 gptq, 40k tokens"), None)
    trained = next((row for row in results if row["qat"]), None)

    def part_of_base(row: dict[str, Any] | None, measure: Callable[[dict[str, Any]], float]) -> float | None:
        return measure(row) / measure(base) if row and base else None

    bars = [
        ("gptq: bits a weight", post["bits_per_weight"] if post else None, 4.95),
        ("gptq: KL / KL of Q4_0", part_of_base(post, lambda row: row["kl"]["mean"]), 0.35),
        ("gptq: perplexity loss / that of Q4_0", part_of_base(post, lambda row: row["perplexity_change"]), 0.4),
        ("qat: KL / KL of Q4_0", part_of_base(trained, lambda row: row["kl"]["mean"]), 0.25),
        ("qat: perplexity loss", trained["perplexity_change"] if trained else None, 0.001),
    ]
    return [
        {"name": name, "value": value, "target": target, "pass": None if value is None else value <= target} for name, value, target in bars
    ]


if __name__ == "__main__":
    sys.exit(main())
