"""What each way of rounding to 4 bits costs, on the validation text of a finished run.

    python bench/quantization.py runs/demo                                        the methods of `bullet build`
    python bench/quantization.py runs/demo --calibration-tokens 5000 20000 60000  how much text calibration needs

All rows predict the same windows, so differences from FP32 are paired; +- is their standard error over windows. Before
anything is measured, the blocks of one matrix are read back by the gguf package: a row that llama.cpp would read
otherwise is worth nothing.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from threadpoolctl import threadpool_limits

import bulletlm
from bulletlm.bulletfile.layout import tensor_bytes
from bulletlm.data.calibration import calibration_windows
from bulletlm.data.tokens import open_tokens
from bulletlm.evaluate.compare import Comparison, compare
from bulletlm.export.npy import read_npy
from bulletlm.progress import SilentProgress
from bulletlm.quant.bq4 import Quantized, pack_bq4
from bulletlm.quant.calibrate import Calibrated, dequantise, quantise
from bulletlm.quant.types import weight_types
from bulletlm.runtime import Engine, Model, Sampling
from bulletlm.tokenizer import Tokenizer

PTQ_BARS = {"KL of gptq / KL of Q4_0": 0.35, "perplexity loss of gptq / of Q4_0": 0.4}


def absmax(weights: np.ndarray) -> Quantized:
    """The rule of the first .bullet writer: scale = |largest| / 7, steps -7 ... 7."""
    blocks = weights.reshape(*weights.shape[:-1], -1, 32)
    scales = (np.abs(blocks).max(-1) / 7).astype(np.float16)
    safe = np.where(scales == 0, 1, scales).astype(np.float32)[..., None]
    steps = np.clip(np.rint(blocks / safe), -7, 7)
    return Quantized("BQ4", pack_bq4((steps + 8).astype(np.uint8).reshape(weights.shape), scales))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with export/npy and tokens")
    parser.add_argument("--calibration-tokens", type=int, nargs="+", default=[20_000])
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()

    shape, tensors, proto, _ = read_npy(arguments.run / "export" / "npy")
    tokenizer = Tokenizer(proto)
    text, held_out = open_tokens(arguments.run / "tokens", "train").tokens, open_tokens(arguments.run / "tokens", "val")
    fp32 = Model(Engine(shape, tensors), tokenizer, shape, Sampling(), {})
    types, first_layer = weight_types(shape), weight_types(shape, keep=["layers.0.*=BQ8"])

    def windows(count: int) -> np.ndarray:
        return calibration_windows(text, tokenizer, count, shape.max_seq_len, arguments.seed)

    def rows() -> Iterator[tuple[str, dict[str, str], Calibrated]]:
        done = quantise(shape, tensors, types, "none", None, SilentProgress())
        naive = {name: absmax(tensors[name]) if type == "BQ4" else done.tensors[name] for name, type in types.items()}
        yield "largest / 7", types, Calibrated(naive)
        yield "none (Q4_0)", types, done
        for count in arguments.calibration_tokens:
            label = f"{count // 1000}k"
            chosen = windows(count)
            yield f"search, {label}", types, quantise(shape, tensors, types, "search", chosen, SilentProgress())
            yield f"gptq, {label}", types, quantise(shape, tensors, types, "gptq", chosen, SilentProgress())
            yield f"gptq, {label}, layer 0 BQ8", first_layer, quantise(shape, tensors, first_layer, "gptq", chosen, SilentProgress())
        eight = weight_types(shape, "BQ8")
        yield "BQ8 (Q8_0)", eight, quantise(shape, tensors, eight, "none", None, SilentProgress())

    results: list[dict[str, Any]] = []
    print(f"{arguments.run}: {shape.n_parameters:,} parameters, {len(held_out.tokens) - 1:,} validation tokens\n")
    print(f"{'':<26}{'bits/weight':>11} {'perplexity':>10} {'change':>17}   {'KL':>18} {'seconds':>8}")
    with threadpool_limits(1, user_api="blas"):
        start = time.perf_counter()
        for label, row_types, done in rows():
            seconds = time.perf_counter() - start
            check_grid(done)
            weights = {name: dequantise(tensor) for name, tensor in done.tensors.items()}
            result = compare(fp32, Model(Engine(shape, weights), tokenizer, shape, Sampling(), {}), held_out, SilentProgress())
            bits = 8 * sum(tensor_bytes(row_types[name], extents) for name, extents in shape.tensors().items()) / shape.n_parameters
            if not results:
                print(f"{'FP32':<26}{32:>11.2f} {result.a.perplexity:>10.3f}")
            print_row(label, bits, result, seconds)
            results.append({"row": label, "bits_per_weight": bits, "seconds": seconds, **result.to_dict()})
            start = time.perf_counter()
    if arguments.json:
        write_results(arguments.json, results)


def check_grid(done: Calibrated) -> None:
    """The gguf package must read the same weights from the same bytes."""
    for name, tensor in done.tensors.items():
        if isinstance(tensor, Quantized):
            kind = gguf.GGMLQuantizationType.Q4_0 if tensor.type == "BQ4" else gguf.GGMLQuantizationType.Q8_0
            theirs = gguf.quants.dequantize(tensor.blocks.reshape(len(tensor.blocks), -1), kind)
            if not np.array_equal(theirs, tensor.dequantize()):
                sys.exit(f"{name}: llama.cpp would read other weights than we do")


def print_row(label: str, bits: float, result: Comparison, seconds: float) -> None:
    change = f"{result.perplexity_change:+.2%} +- {result.loss_delta.se or 0:.2%}"
    kl = f"{result.kl.mean:.5f} +- {result.kl.se or 0:.5f}"
    print(f"{label:<26}{bits:>11.2f} {result.b.perplexity:>10.3f} {change:>17}   {kl:>18} {seconds:>8.1f}", flush=True)


def write_results(path: Path, results: list[dict[str, Any]]) -> None:
    base = next(row for row in results if row["row"].startswith("none"))
    best = next(row for row in results if row["row"].startswith("gptq"))
    values = (best["kl"]["mean"] / base["kl"]["mean"], best["perplexity_change"] / base["perplexity_change"])
    bars = [
        {"name": name, "value": value, "target": target, "pass": value <= target}
        for (name, target), value in zip(PTQ_BARS.items(), values, strict=True)
    ]
    versions = {"bulletlm": bulletlm.__version__, "numpy": np.__version__, "python": platform.python_version()}
    report = {"machine": platform.processor() or platform.machine(), "versions": versions, "rows": results, "bars": bars}
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
