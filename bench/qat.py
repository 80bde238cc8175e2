"""Measures the QAT stage: its speed and what it makes of the KL, in the native library and in torch, and the KL of llama.cpp's Q4_0.

    bullet build runs/NAME --no-qat --out calibrated.bullet          the weights with which the stage starts
    python bench/qat.py runs/NAME calibrated.bullet                  speed, and the KL of Q4_0 and of the start
    python bench/qat.py runs/NAME calibrated.bullet --steps 300      also the KL after that many steps, natively and in torch in FP32
    python bench/qat.py runs/NAME calibrated.bullet --steps 300 --only native --learning-rate-share 0.25 --tokens-per-step 1024
    python bench/qat.py runs/NAME calibrated.bullet --instructions avx2 avx512_half      what those of other CPUs would take

Speed is in tokens per second of CPU time with one thread, of passes over one step (teacher, student, gradients, without the optimizer).
All ways take turns (A B A B ...), and the medians are printed. KL is that of the FP32 model from the rounded one in nats per token, on the
validation text, computed in the same way for all rows; +- is its standard error over windows.
"""

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

import llama_quants
from bulletlm.config.loader import load_config
from bulletlm.config.schema import QatConfig, TrainConfig
from bulletlm.data.tokens import TokenFile, open_tokens
from bulletlm.errors import BulletError
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.npy import read_npy
from bulletlm.pipeline.build import stored_tensor
from bulletlm.progress import SilentProgress
from bulletlm.quant.calibrate import Floats, Tensor, dequantize
from bulletlm.shape import ModelShape
from bulletlm.train.backend.native import Trainer, why_no_distillation
from bulletlm.train.backend.plan import inspect_capabilities
from bulletlm.train.batches import TrainingWindows, validation_batches
from bulletlm.train.distil import DistilJob, choose_backend, distil
from bulletlm.train.model import IGNORE, Transformer
from bulletlm.train.step import GradientBackend

NATIVE = "native"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run with export/npy and tokens")
    parser.add_argument("start", type=Path, help="a .bullet file with the calibrated weights of this run")
    parser.add_argument("--rounds", type=int, default=3, help="passes that are timed; 0 times nothing")
    parser.add_argument("--compile", action="store_true", help="compile torch's passes, as the stage does if it is long enough")
    parser.add_argument("--steps", type=int, default=0, help="train this number of steps and measure the KL afterwards")
    parser.add_argument("--tokens-per-step", type=int, help="default: that of the run's configuration")
    parser.add_argument("--learning-rate-share", type=float, help="default: that of the run's configuration")
    parser.add_argument("--only", choices=[NATIVE, "fp32", "bf16"], nargs="+", help="only these ways of computing")
    parser.add_argument("--instructions", nargs="+", default=[], help="also time the native library with these instruction sets")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except BulletError as error:
        sys.exit(f"qat.py: {error}")


def run(arguments: argparse.Namespace) -> None:
    shape, teacher, _, _ = read_npy(arguments.run / "export" / "npy")
    config = load_config(arguments.run / "config.json", ())
    text, held_out = (open_tokens(arguments.run / "tokens", split) for split in ("train", "val"))
    file = open_bullet(arguments.start)
    start = {name: stored_tensor(file, name) for name in file.tensors}
    job = DistilJob(
        shape=shape,
        teacher=teacher,
        start=start,
        keep_scales=True,
        types={name: file.type(name) for name in file.tensors},
        config=QatConfig(
            steps=arguments.steps,
            tokens_per_step=arguments.tokens_per_step or config.qat.tokens_per_step,
            learning_rate_share=arguments.learning_rate_share or config.qat.learning_rate_share,
        ),
        train=config.train.model_copy(update={"threads": 1, "device": "cpu", "pause_on_battery": 0}),
        seed=config.seed + 1,
        text=text,
        held_out=held_out,
        run_dir=arguments.run,
        checkpoints=arguments.run,
        key="bench",
    )
    torch.set_num_threads(1)
    ways = arguments.only or [*([] if why_no_distillation() else [NATIVE]), "fp32", inspect_capabilities("cpu").best_float]
    ways = list(dict.fromkeys(ways))
    print(f"{arguments.run}: {shape.n_parameters:,} parameters, {len(held_out.tokens) - 1:,} validation tokens")
    if arguments.rounds:
        print_speed(job, ways, arguments.instructions, arguments.rounds, arguments.compile)
    print_kl("llama.cpp Q4_0", job, q4_0(teacher))
    print_kl("start", job, start)
    for way in ways if arguments.steps else []:
        before = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            done = distil(replaced(job, precision(job.train, way, arguments.compile), Path(folder)), SilentProgress())
        seconds = time.process_time() - before
        print_kl(f"{way}, {arguments.steps} steps, {done.chosen}", job, done.tensors, f"   {seconds:.0f} s of CPU time")


def replaced(job: DistilJob, train: TrainConfig, folder: Path) -> DistilJob:
    return DistilJob(**{**vars(job), "train": train, "run_dir": folder, "checkpoints": folder / "checkpoints"})


def precision(train: TrainConfig, way: str, compile: bool) -> TrainConfig:
    return train.model_copy(update={"precision": "auto" if way == NATIVE else way, "compile": "on" if compile else "off"})


def transformer(shape: ModelShape, weights: Mapping[str, Floats]) -> Transformer:
    model = Transformer(shape)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(np.array(weights[name], np.float32)))
    return model


def rounded(tensors: Mapping[str, Tensor]) -> dict[str, Floats]:
    return {name: dequantize(tensor) for name, tensor in tensors.items()}


def q4_0(weights: Mapping[str, Floats]) -> dict[str, Floats]:
    """As in bench/quantization.py: matrices of the layers Q4_0, embedding and output matrix Q8_0."""
    return {
        name: weight if weight.ndim == 1 else llama_quants.quantize(weight, "Q4_0" if name.startswith("layers.") else "Q8_0")[0]
        for name, weight in weights.items()
    }


# ---- speed ----


def print_speed(job: DistilJob, ways: list[str], instructions: list[str], rounds: int, compile: bool) -> None:
    length = job.shape.max_seq_len
    sequences = max(1, round(job.config.tokens_per_step / length))
    tokens, targets = TrainingWindows(job.text, length, job.seed).batch(0, sequences)
    passes: dict[str, Callable[[], object]] = {}
    for way in ways:
        teacher, student = transformer(job.shape, job.teacher), transformer(job.shape, rounded(job.start))
        train = precision(job.train, way, compile)
        backend, _ = choose_backend(teacher, student, train, sequences, 10**9 if compile else 0, SilentProgress())
        passes[way if way == NATIVE else f"torch {way}{', compiled' if compile else ''}"] = one_step(backend, tokens, targets)
    for name in instructions:
        student = transformer(job.shape, rounded(job.start))
        trainer = Trainer(student, 1, name, teacher=transformer(job.shape, job.teacher))
        trainer.load_weights()
        passes[f"{NATIVE}, {name}"] = functools.partial(trainer.accumulate_gradients, tokens, targets, tokens.numel())
    speeds: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(rounds + 1):
        for name, run_pass in passes.items():
            before = time.process_time()
            run_pass()
            if number:
                speeds[name].append(tokens.numel() / (time.process_time() - before))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, speed in medians.items():
        ratio = f"   {medians[NATIVE] / speed:.2f} times as fast natively" if name != NATIVE and NATIVE in medians else ""
        print(f"{name:<40}{speed:>8,.0f} tokens/s, one thread{ratio}")


def one_step(backend: GradientBackend, tokens: torch.Tensor, targets: torch.Tensor) -> Callable[[], object]:
    size = backend.pass_size(len(tokens))
    count = float((targets != IGNORE).sum())

    def run() -> None:
        backend.load_weights()
        for first in range(0, len(tokens), size):
            backend.accumulate_gradients(tokens[first : first + size], targets[first : first + size], count)

    return run


# ---- KL ----


def print_kl(label: str, job: DistilJob, tensors: Mapping[str, Tensor], note: str = "") -> None:
    mean, error = held_out_kl(job.shape, job.teacher, rounded(tensors), job.held_out)
    print(f"{label:<40}KL {mean:.5f} +- {error:.5f}{note}", flush=True)


def held_out_kl(shape: ModelShape, teacher: Mapping[str, Floats], student: Mapping[str, Floats], file: TokenFile) -> tuple[float, float]:
    """Mean KL per token over a file, and its standard error over windows, in nats."""
    train = TrainConfig(precision="fp32" if why_no_distillation() else "auto", threads=1, compile="off")
    backend, measure = choose_backend(transformer(shape, teacher), transformer(shape, student), train, 8, 0, SilentProgress())
    backend.load_weights()
    sums, counts = [], []
    with torch.no_grad():
        for tokens, targets in validation_batches(file, shape.max_seq_len, 1):
            sums.append(float(measure(tokens, targets)))
            counts.append(int((targets != IGNORE).sum()))
    total, n = sum(counts), len(sums)
    mean = sum(sums) / total
    residuals = np.array(sums) - mean * np.array(counts)
    return mean, float(np.sqrt((residuals**2).sum() * n / max(n - 1, 1)) / total)


if __name__ == "__main__":
    main()
