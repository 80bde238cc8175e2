"""`bullet bench`: how fast a model file runs on this computer, alone or beside llama.cpp with the same weights."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bulletlm.errors import BulletError, ConfigError
from bulletlm.formats.bullet.reader import BulletFile, open_bullet
from bulletlm.hardware import available_cores
from bulletlm.runtime import NativeEngine, NumpyEngine, Sampling, Session, load
from bulletlm.runtime.native import NativeSampler, TensorBytes, Unavailable, working_path
from bulletlm.runtime.random import seeded
from bulletlm.terminal import echo
from bulletlm.text.tokenizer import BOS

Job = Callable[[], int]
"""Does something and says how many tokens it was."""

CLEAR_MARGIN = 0.5
"""Where our likeliest token is this far (in logits) before the next, llama.cpp must find the same. Nearer ones it may exchange: it
rounds activations to 8 bits, which moves logits by a few tenths."""

_MEMORY = """
import sys
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
empty = peak()
from bulletlm.runtime import Sampling, Session, load
session = Session(load(sys.argv[1]))
for token in session.generate([1], Sampling(max_tokens=100), stop_ids=()): pass
print(peak() - empty, session.nbytes)
"""


def bench(file: Path, against: str | None = None, tokens: int | None = None, rounds: int = 9) -> dict[str, Any]:
    """Measure decode, prefill, start and memory; the jobs run in turns, so that whatever else the computer does hits all alike.

    Args:
        file: a .bullet file.
        against: "llama.cpp", or None.
        tokens: length of prompts and answers; by default 128, or the model's context if that is shorter.
        rounds: how often each job is measured; medians count.

    Returns:
        tokens_per_second (job -> median and best), seconds and bytes of a whole process, and with `against` the ratios.

    Raises:
        BulletError: there is no such file, or no llama.cpp, or it finds other tokens.
        ConfigError: a number is out of range.
    """
    model_file = open_bullet(file)
    shape = model_file.shape
    tokens = min(128, shape.max_seq_len) if tokens is None else tokens
    if not 2 <= tokens <= shape.max_seq_len:
        raise ConfigError(f"tokens is {tokens}: it must be from 2 to the model's context, {shape.max_seq_len}")
    if rounds < 1:
        raise ConfigError(f"rounds is {rounds}: it must be 1 or more")
    ids = _text(file, tokens)
    exact, engines = _engines(model_file)
    jobs = {name: job for mode, engine in engines.items() for name, job in _jobs(mode, engine, ids).items()}
    result: dict[str, Any] = {"file": str(file), "bytes": model_file.size, "parameters": shape.n_parameters, "cores": available_cores()}
    result |= {"engine": f"native, {exact.path}" if isinstance(exact, NativeEngine) else "numpy", "tokens": tokens, "rounds": rounds}
    with tempfile.TemporaryDirectory() as folder:
        if against:
            llama, result["against"] = _same_model(model_file, Path(folder), exact, ids)
            jobs |= _llama_jobs(llama, ids)
        speeds = in_turns(jobs, rounds)
    if isinstance(exact, NativeEngine):  # not in turn with the others: it takes fifteen times as long
        reference = NumpyEngine(shape, {name: model_file.dequantize(name) for name in model_file.tensors})
        speeds |= in_turns({"decode, numpy": _jobs("numpy", reference, ids[:32])["decode, numpy"]}, 3)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    result["tokens_per_second"] = {name: {"median": round(medians[name]), "best": round(max(speeds[name]))} for name in speeds}
    if against:
        result["against"]["ratios"] = {
            name: round(medians[name] / medians[f"{name.split(',')[0]}, llama.cpp"], 3)
            for name in jobs
            if "llama.cpp" not in name and "threads" not in name
        }
    return result | whole_process(file)


def in_turns(jobs: dict[str, Job], rounds: int) -> dict[str, list[float]]:
    """Tokens a second of every job in each round, A B C A B C; a first round only warms up."""
    speeds: dict[str, list[float]] = {name: [] for name in jobs}
    for i in range(rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            count = job()
            if i:
                speeds[name].append(count / (time.perf_counter() - start))
    return speeds


def print_bench(result: dict[str, Any]) -> None:
    """The figures for people."""
    echo(f"{result['file']}: {result['parameters'] / 1e6:.1f}M parameters, engine {result['engine']}, {result['cores']} cores\n")
    title = f"tokens/s ({result['tokens']} tokens, {result['rounds']} rounds)"
    print(f"{title:<36}{'median':>10}{'best':>10}")
    for name, speed in result["tokens_per_second"].items():
        print(f"{name:<36}{speed['median']:>10,}{speed['best']:>10,}")
    print(f"\nwhole `bullet generate` of 100 tokens  {result['process_seconds']:.3f} s (best of 5)")
    if "memory_bytes" in result:
        share = (result["memory_bytes"] - result["kv_bytes"]) / result["bytes"]
        print(f"memory over an empty Python            {result['memory_bytes'] / 1e6:.1f} MB; without the KV cache {share:.2f} x the file")
    if "against" in result:
        against = result["against"]
        print(f"\nllama.cpp ({against['library']}): same likeliest token in {against['same_likeliest']:.1%} of places")
        for name, ratio in against["ratios"].items():
            print(f"{name:<36}{ratio:>9.2f}x llama.cpp on one thread")


def _text(file: Path, count: int) -> list[int]:
    """Tokens as the model itself writes them: text it has an opinion about."""
    session = Session(load(file, engine="auto"))
    answer = session.generate([BOS], Sampling(temperature=1, top_k=0, top_p=1, min_p=0, max_tokens=count - 1, seed=1), stop_ids=())
    return [BOS, *(token.id for token in answer)]


def _engines(file: BulletFile) -> tuple[NativeEngine | NumpyEngine, dict[str, NativeEngine | NumpyEngine]]:
    """The engine that is used by default, and all that are measured, each on one thread."""
    try:
        path, _ = working_path(turbo=False)
    except Unavailable:
        exact = NumpyEngine(file.shape, {name: file.dequantize(name) for name in file.tensors})
        return exact, {"numpy": exact}
    tensors = {name: TensorBytes(file.type(name), file.read_bytes(name), mapped=True) for name in file.tensors}
    native = NativeEngine(file.shape, tensors, path)
    return native, {"exact": native, "turbo": NativeEngine(file.shape, tensors, path, turbo=True)}


def _jobs(mode: str, engine: NativeEngine | NumpyEngine, ids: Sequence[int]) -> dict[str, Job]:
    sampling, cache = Sampling(temperature=0, repetition_penalty=1), engine.new_cache()

    def decode() -> int:
        cache.length = 0
        if isinstance(engine, NativeEngine):
            return len(engine.generate(ids[:1], cache, NativeSampler(sampling, seeded([0]), [], engine.shape.vocab_size), (), len(ids)))  # type: ignore[arg-type]
        for token in ids:
            engine.prefill([token], cache)  # type: ignore[arg-type]
        return len(ids)

    def prefill(threads: int) -> Job:
        def job() -> int:
            cache.length = 0
            if isinstance(engine, NativeEngine):
                engine.threads = threads
            engine.prefill(ids, cache)  # type: ignore[arg-type]
            return len(ids)

        return job

    jobs = {f"decode, {mode}": decode, f"prefill, {mode}": prefill(1)}
    if mode == "exact" and available_cores() > 1:
        jobs[f"prefill, {mode}, {available_cores()} threads"] = prefill(available_cores())
    return jobs


def _same_model(file: BulletFile, folder: Path, engine: NativeEngine | NumpyEngine, ids: Sequence[int]) -> tuple[Any, dict[str, Any]]:
    """llama.cpp with the weights of `file` as GGUF, after it has found the same tokens as we do."""
    from bulletlm.evaluate.llama_cpp import LlamaCpp, find_llama_cpp
    from bulletlm.formats.gguf import write_gguf
    from bulletlm.formats.stored import StoredModel, view_tensor

    library = find_llama_cpp()
    shapes = file.shape.tensors()
    tensors = {name: view_tensor(np.frombuffer(file.read_bytes(name), np.uint8), file.type(name), shapes[name]) for name in shapes}
    write_gguf(folder / "model.gguf", StoredModel(file.shape, tensors, file.tokenizer_proto, {}))
    llama = LlamaCpp(library, folder / "model.gguf")
    llama.threads(1)
    llama.clear()
    theirs = []
    for token in ids:
        llama.feed(np.array([token], dtype=np.int32))
        theirs.append(llama.logits(file.shape.vocab_size))
    ours = engine.forward(ids, engine.new_cache())  # type: ignore[arg-type]
    same = ours.argmax(axis=1) == np.stack(theirs).argmax(axis=1)
    best_two = np.partition(ours, -2, axis=1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] >= CLEAR_MARGIN
    if not same[clear].all():
        raise BulletError(f"llama.cpp finds another likeliest token in {int((clear & ~same).sum())} of {len(ids)} places: nothing is timed")
    return llama, {"library": Path(library).name, "system": llama.info, "same_likeliest": round(float(same.mean()), 4)}


def _llama_jobs(llama: Any, ids: Sequence[int]) -> dict[str, Job]:
    tokens = np.array(ids, dtype=np.int32)

    def decode() -> int:
        llama.clear()
        for i in range(len(tokens)):
            llama.feed(tokens[i : i + 1])
        return len(tokens)

    def prefill() -> int:
        llama.clear()
        llama.feed(tokens)
        return len(tokens)

    return {"decode, llama.cpp": decode, "prefill, llama.cpp": prefill}


def whole_process(file: Path) -> dict[str, Any]:
    """Seconds of `bullet generate` with 100 tokens, best of 5, and the peak memory of a process that does the same.

    Returns:
        "process_seconds", and where /proc tells it "memory_bytes", over an empty Python, and "kv_bytes", the part of the KV cache.
    """
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    path = str(file.absolute())  # a relative one may begin with "-"
    command = [sys.executable, "-m", "bulletlm", "generate", path, "--prompt", "abc", "--max-tokens", "100", "--temperature", "0"]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        times.append(time.perf_counter() - start)
    figures: dict[str, Any] = {"process_seconds": round(min(times), 4)}
    if Path("/proc/self/status").exists():
        done = subprocess.run([sys.executable, "-c", _MEMORY, str(file)], check=True, capture_output=True, text=True, env=environment)
        figures["memory_bytes"], figures["kv_bytes"] = (int(word) for word in done.stdout.split())
    return figures
