"""Measures the speed of a .bullet file and compares it with llama.cpp on the same weights as GGUF.

    python bench/runtime.py                        a random model of the seed's shape
    python bench/runtime.py --model FILE.bullet    another model
    python bench/runtime.py --llama libllama.so    a native build of llama.cpp (default: the one inside xllamacpp)
    python bench/runtime.py --quick                few rounds, only to check that the script works

llama.cpp is called through its C API, with one llama_decode per token and without sampling; ours is the call that `bullet
generate` makes, including the greedy choice. All programs run in turns (A B C A B C ...) and their medians are compared, so other
load on the machine affects all of them equally. Before the timing, the logits are compared with a forward pass in float64 on
the same dequantized weights, because a wrong kernel can be faster: on Marathi and English text with --model, otherwise on random
ids. The exit code is 1 if a target is missed, but not with --quick.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import bulletlm
from bulletlm.evaluate.llama_cpp import LlamaCpp, find_llama_cpp
from bulletlm.evaluate.speed import whole_process
from bulletlm.formats.bullet.reader import BulletFile, open_bullet
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.formats.gguf import write_gguf
from bulletlm.formats.stored import StoredModel
from bulletlm.progress import SilentProgress
from bulletlm.quant.bq4 import Quantized
from bulletlm.quant.types import standard_types
from bulletlm.runtime import NativeEngine, NumpyEngine, Sampling
from bulletlm.runtime.native import NativeSampler, available_paths
from bulletlm.runtime.random import seeded
from bulletlm.runtime.reference import reference
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import BOS, Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer

SEED_SHAPE = ModelShape(4000, 256, 8, 4, 4, 1024, 512)
TOKENS = 128
SAMPLE = Path(bulletlm.__file__).parent / "data" / "sample"


def random_model(folder: Path, shape: ModelShape = SEED_SHAPE) -> Path:
    rng = np.random.default_rng(0)
    weights = {
        name: (rng.standard_normal(extents) * extents[-1] ** -0.5 if len(extents) == 2 else np.ones(extents)).astype(np.float32)
        for name, extents in shape.tensors().items()
    }
    texts = [line for file in sorted(SAMPLE.glob("*.*")) for line in file.read_text(encoding="utf-8").splitlines()]
    proto = train_tokenizer(texts, shape.vocab_size, 0, SilentProgress())
    path = folder / "seed-shape.bullet"
    write_bullet(
        path,
        ModelContents(
            shape=shape,
            tensors=weights,
            types=standard_types(shape),
            tokenizer_proto=proto,
            pieces=Tokenizer(proto).pieces(),
            metadata={},
        ),
    )
    return path


def stored_tensors(file: BulletFile) -> dict[str, Any]:
    return {name: file.read_blocks(name) for name in file.tensors}


def sample_text(tokenizer: Tokenizer, count: int) -> np.ndarray:
    """Return int32[count]: <s> and the beginning of the sample corpus, half Marathi and half English."""
    ids = [BOS]
    for language, end in (("mr", (count + 1) // 2), ("en", count)):
        text = (SAMPLE / f"stories.{language}.txt").read_text(encoding="utf-8")[: 20 * count]
        ids += tokenizer.encode(text)[: end - len(ids)]
    return np.array(ids, np.int32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def divergence(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean KL divergence of next-token distributions, in nats."""
    p, q = log_softmax(a), log_softmax(b)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def in_turns(jobs: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Return the tokens per second of every job in every round; a job returns the number of tokens that it computed."""
    speeds: dict[str, list[float]] = {name: [] for name in jobs}
    for i in range(rounds + 1):
        for name, job in jobs.items():
            time.sleep(0.02)  # OpenMP's threads keep spinning for a short time and would slow down the next job
            start = time.perf_counter()
            tokens = job()
            if i:  # the first round warms up
                speeds[name].append(tokens / (time.perf_counter() - start))
    return speeds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--llama", help="a libllama.so; by default the one inside xllamacpp")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="2 rounds; missed targets do not change the exit code")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 2
    rows: list[tuple[str, float, float]] = []
    bars: list[dict[str, Any]] = []

    def bar(name: str, value: float, target: float, at_least: bool = True) -> None:
        bars.append({"name": name, "value": value, "target": target, "pass": value >= target if at_least else value <= target})

    with tempfile.TemporaryDirectory() as name:
        path = arguments.model or random_model(Path(name))
        file = open_bullet(path)
        shape, tensors = file.shape, stored_tensors(file)
        floats = {n: t.dequantize() if isinstance(t, Quantized) else t.astype(np.float32) for n, t in tensors.items()}
        n = min(TOKENS, shape.max_seq_len - 1)
        if arguments.model:
            ids = sample_text(file.tokenizer(), n)
        else:
            ids = np.random.default_rng(1).integers(6, shape.vocab_size, n).astype(np.int32)

        expected = reference(shape, {name: tensor.astype(np.float64) for name, tensor in floats.items()}, ids)
        slow_engine = NumpyEngine(shape, floats)
        print(f"{'numpy':<20} logits differ by at most {np.abs(slow_engine.forward(ids, slow_engine.new_cache()) - expected).max():.2g}")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        engines: dict[str, NativeEngine] = {}
        for kernel in available_paths():
            for turbo in (False, True):
                mode = f"{kernel} {'turbo' if turbo else 'exact'}"
                engine = engines[mode] = NativeEngine(shape, tensors, kernel, turbo)
                logits = engine.forward(ids, engine.new_cache())
                error, kl = float(np.abs(logits - expected).max()), divergence(expected, logits)
                print(f"{mode:<20} logits differ by at most {error:.2g}, mean KL {kl:.2g}")
                if not (kl < 0.01 if turbo else error < 0.005):
                    print("the numbers are wrong, so nothing is timed")
                    return 1
                if kernel == available_paths()[0]:
                    if turbo:
                        bar("mean KL, turbo", kl, 0.01, at_least=False)
                    else:
                        bar("largest logit error, exact", error, 0.005, at_least=False)

        jobs: dict[str, Callable[[], int]] = {}
        prefills: dict[str, Callable[[], int]] = {}
        library = arguments.llama
        if library is None and importlib.util.find_spec("xllamacpp"):
            library = find_llama_cpp()
        llama_name = "llama.cpp"
        if library:
            proto = file.tokenizer().proto
            write_gguf(Path(name) / "model.gguf", StoredModel(shape, tensors, proto, {}))
            llama = LlamaCpp(library, Path(name) / "model.gguf")
            llama.threads(1)
            llama.clear()
            theirs = []
            for i in range(n):
                llama.feed(ids[i : i + 1])
                theirs.append(llama.logits(shape.vocab_size))
            kl = divergence(expected, np.stack(theirs))
            print(f"{llama_name:<20} {library}: mean KL {kl:.2g}\n{'':<20} {llama.info}")
            assert kl < 0.01, "llama.cpp does not run the same model"

            def llama_decode(threads: int) -> Callable[[], int]:
                def job() -> int:
                    llama.threads(threads)
                    llama.clear()
                    for i in range(n):
                        llama.feed(ids[i : i + 1])
                    return n

                return job

            def llama_prefill(threads: int) -> Callable[[], int]:
                def job() -> int:
                    llama.threads(threads)
                    llama.clear()
                    llama.feed(ids)
                    return n

                return job

            for threads in sorted({1, cores}):
                jobs[f"{llama_name}, {threads} thread{'s' * (threads > 1)}"] = llama_decode(threads)
                prefills[f"{llama_name}, {threads} thread{'s' * (threads > 1)}"] = llama_prefill(threads)

        def ours_decode(engine: NativeEngine) -> Callable[[], int]:
            cache, sampling = engine.new_cache(), Sampling(temperature=0, repetition_penalty=1)

            def job() -> int:
                cache.length = 0
                return len(engine.generate(ids[:1], cache, NativeSampler(sampling, seeded([0]), [], shape.vocab_size), [], n))

            return job

        def ours_prefill(engine: NativeEngine, threads: int) -> Callable[[], int]:
            cache = engine.new_cache()

            def job() -> int:
                cache.length = 0
                engine.threads = threads
                engine.prefill(ids, cache)
                return n

            return job

        best = available_paths()[0]
        for mode, engine in engines.items():
            jobs[mode] = ours_decode(engine)
            if mode.startswith(best):
                for threads in sorted({1, cores}):
                    prefills[f"{mode}, {threads} thread{'s' * (threads > 1)}"] = ours_prefill(engine, threads)

        # The upper limit for any kernel, as long as the weights have 4.5 bits and do not fit into the inner caches.
        words = np.arange(sum(file.tensors[name].size for name in file.tensors) // 8)

        def read_weights() -> int:
            for _ in range(n):
                np.bitwise_or.reduce(words)
            return n

        jobs["the weights only read"] = read_weights

        def numpy_decode() -> int:
            cache = slow_engine.new_cache()
            for token in ids[:16].tolist():
                slow_engine.prefill([token], cache)
            return 16

        # Spinning threads would slow down the next job, so each thread count has separate rounds.
        slow = {mode: job for mode, job in jobs.items() if mode.startswith("portable")}
        several = {mode: job for mode, job in jobs.items() if f"{cores} threads" in mode and cores > 1}
        alone = {mode: job for mode, job in jobs.items() if mode not in slow and mode not in several}
        medians: dict[str, float] = {}
        for title, group, rounds in (
            ("decode", alone, arguments.rounds),
            (f"prefill {n}", {mode: job for mode, job in prefills.items() if "1 thread" in mode}, arguments.rounds),
            ("decode", {**slow, "numpy": numpy_decode}, 3),
            ("decode", several, arguments.rounds),
            (f"prefill {n}", {mode: job for mode, job in prefills.items() if "1 thread" not in mode}, arguments.rounds),
        ):
            for mode, speeds in in_turns(group, rounds).items():
                medians[f"{title}: {mode}"] = statistics.median(speeds)
                rows.append((f"{title}: {mode}", statistics.median(speeds), max(speeds)))

        start = time.perf_counter()
        NativeEngine(shape, stored_tensors(open_bullet(path)))
        load = time.perf_counter() - start
        process = whole_process(path)

    print(f"\n{'tokens/s':<42}{'median':>10}{'best':>10}")
    for title, median, most in rows:
        print(f"{title:<42}{median:>10,.0f}{most:>10,.0f}")
    print(f"\nload {load * 1e3:.1f} ms, `bullet generate` of 100 tokens {process['process_seconds']:.3f} s")
    if library:
        decode = medians[f"decode: {llama_name}, 1 thread"]
        prefill = medians[f"prefill {n}: {llama_name}, 1 thread"]
        bar("decode, 1 thread: exact / llama.cpp", medians[f"decode: {best} exact"] / decode, 2.5)
        bar("decode, 1 thread: turbo / llama.cpp", medians[f"decode: {best} turbo"] / decode, 3)
        bar("prefill, 1 thread: exact / llama.cpp", medians[f"prefill {n}: {best} exact, 1 thread"] / prefill, 1.5)
        theirs_best = max(speed for mode, speed in medians.items() if mode.startswith(f"decode: {llama_name}"))
        bar("decode, best threads: exact / llama.cpp", medians[f"decode: {best} exact"] / theirs_best, 1)
    else:
        print("llama.cpp was not found: pip install xllamacpp, or give --llama libllama.so")
    bar("numpy decode, tokens/s", medians["decode: numpy"], 300)
    bar("`bullet generate` of 100 tokens, s", process["process_seconds"], 0.15, at_least=False)
    if "memory_bytes" in process:
        # The memory of a process that writes 100 tokens, minus that of an empty Python; the mapped file is included.
        memory = (process["memory_bytes"] - process["kv_bytes"]) / file.size
        bar("memory of a process without KV cache / file", memory, 3, at_least=False)
    print()
    for b in bars:
        print(f"{'pass' if b['pass'] else 'MISS':<6}{b['name']:<44}{b['value']:>10.3g}   target {b['target']:g}")
    if arguments.json:
        machine = {"processor": platform.processor() or platform.machine(), "system": platform.platform(), "cores": cores}
        report = {"machine": machine, "rows": [{"name": r[0], "median": r[1], "best": r[2]} for r in rows], "bars": bars}
        arguments.json.write_text(json.dumps(report, indent=1))
    return 1 if not arguments.quick and not all(bar["pass"] for bar in bars) else 0


if __name__ == "__main__":
    sys.exit(main())
