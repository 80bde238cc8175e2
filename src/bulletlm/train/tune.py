"""Which way to do the arithmetic is fastest on this machine: measured in a few seconds at the start of a long run.

The effective batch, the order of the data and the learning rate are the user's; a choice only decides how the same sums
are grouped and rounded. It is kept twice: in the user's cache folder for the next run of the same shape, and with the
checkpoints, so that a run which is resumed goes on exactly as it began.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bulletlm import __version__
from bulletlm.config import TrainConfig
from bulletlm.errors import BulletError, ConfigError
from bulletlm.int8 import products_are_exact
from bulletlm.machine import Machine, inspect_machine, keep_memory
from bulletlm.model import Llama
from bulletlm.progress import Progress
from bulletlm.shape import ModelShape
from bulletlm.train.choice import Choice, Precision, choice_file, parse_choice, read_choice, write_choice
from bulletlm.train.compute import Compute, activate, set_up
from bulletlm.train.team import ALONE, Team

COMPILE_FROM_FLOPS = 5e13
"""Compiling takes some 20 s the first time and saves a fifth, with int8 half: it pays from a few minutes of training on."""

TUNE_FROM_FLOPS = 3e14
"""Measuring takes some seconds, once per machine and shape: it is done for runs of roughly ten minutes and more."""

TUNE_SECONDS = 40.0
"""No further comparison is begun after this time."""

CLEARLY = 0.97
"""A way must take less than this share of the time of a simpler one to be chosen instead."""

ACTIVATIONS = 700e6
"""Bytes that a larger micro-batch may take for what is kept between forward and backward."""

ROUNDS = 3


def choose_compute(config: TrainConfig, model: Llama, tokens: int, checkpoints: Path, progress: Progress, team: Team = ALONE) -> Compute:
    """Set up this process and `model` for a run over `tokens` training tokens whose checkpoints are in `checkpoints`.

    The leader of a team decides for all, but for the threads, which are those that a machine has.
    """
    keep_memory()
    machine = inspect_machine()
    device = model.rope.device.type
    flops = 6.0 * model.shape.n_parameters * tokens
    plain = plain_choice(config, machine, device, flops, progress, team.local_size)
    choice = plain
    if team.leads:
        # Another number of processes rounds its sums differently anyway, and has other threads: it chooses anew.
        note = checkpoints / ("compute.json" if team.size == 1 else f"compute-{team.size}.json")
        noted = read_choice(note)
        if noted is not None:
            choice = _pinned(noted, plain, config, _can_compile(machine, device))
        elif config.tune == "auto" and device == "cpu" and flops > TUNE_FROM_FLOPS:
            choice = tuned(plain, config, model, machine, progress, team.size)
        choice = without_broken_compiler(choice, model, progress)
        if choice != noted:
            write_choice(note, choice)
    told = parse_choice(team.tell(choice.as_dict()))
    assert told is not None
    if not team.leads:
        choice = without_broken_compiler(dataclasses.replace(told, threads=plain.threads), model, progress)
    return set_up(choice, model)


def plain_choice(config: TrainConfig, machine: Machine, device: str, flops: float, progress: Progress, processes: int = 1) -> Choice:
    """As configured, and where that is left open what suits most: nothing is measured.

    Args:
        device: type of torch.device.
        flops: of the whole work.
        processes: on this machine.
    """
    can_compile = _can_compile(machine, device)
    wants_graph = config.compile == "on" or (config.compile == "auto" and flops > COMPILE_FROM_FLOPS)
    if wants_graph and device == "cpu" and not can_compile:
        progress.say("training in eager mode, up to a fifth slower: torch.compile needs a C++ compiler (install g++ or clang++)")
    return Choice(
        compiled=wants_graph and can_compile,
        precision=_precision(config, machine, device, wants_graph and can_compile),
        threads=config.threads or max(1, machine.cores // processes),
        micro_batch=config.batch_size_per_device,
    )


def _can_compile(machine: Machine, device: str) -> bool:
    """Without a compiler torch.compile fails; on Apple's GPU it is young."""
    return {"cpu": machine.compiler is not None, "cuda": True}.get(device, False)


def _precision(config: TrainConfig, machine: Machine, device: str, compiled: bool) -> Precision:
    """As configured, or the one that is fastest where this machine has it in hardware."""
    if config.precision == "int8" and not (device == "cpu" and products_are_exact()):
        raise ConfigError("train.precision: this processor has no exact 8-bit products: take fp32, or auto for what fits best")
    if config.precision != "auto":
        return config.precision
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if device == "cpu" and machine.has_bf16:
        return "bf16"
    # Rounding costs more than it saves where it is not fused by the compiler.
    return "int8" if device == "cpu" and machine.has_int8 and compiled and products_are_exact() else "fp32"


def tuned(plain: Choice, config: TrainConfig, model: Llama, machine: Machine, progress: Progress, processes: int = 1) -> Choice:
    """The fastest of the ways that differ from `plain` in what the configuration leaves open; from the cache where it is known."""
    question = _question(plain, config, model.shape, machine, processes)
    file = choice_file(question)
    if (known := read_choice(file)) is not None:
        return known
    best, speed, deadline = plain, 0.0, time.monotonic() + TUNE_SECONDS
    with progress.task("Measuring which way to compute is fastest here", None):
        for part, values in _open_parts(plain, config, model.shape, machine, processes).items():
            ways = [best, *(dataclasses.replace(best, **{part: value}) for value in values if value != getattr(best, part))]
            if len(ways) > 1 and time.monotonic() < deadline:
                best, speed = _fastest(ways, model)
    if speed:
        progress.say(f"measured on this machine: {best} is fastest, about {speed:,.0f} tokens/s")
        try:
            write_choice(file, best, question=question, tokens_per_s=round(speed, 1))
        except BulletError as error:
            progress.say(f"measured again the next time: {error}")
    return best


def _open_parts(plain: Choice, config: TrainConfig, shape: ModelShape, machine: Machine, processes: int) -> dict[str, list[Any]]:
    """The parts of a choice that the configuration leaves open, in the order in which they are decided, and their values."""
    parts: dict[str, list[Any]] = {}
    if plain.compiled and config.compile == "auto":
        parts["compiled"] = [False]
    if plain.precision != "fp32" and config.precision == "auto":
        parts["precision"] = ["fp32"]
    sequences = config.batch_size_per_device * config.gradient_accumulation_steps // processes
    room = ACTIVATIONS / _activation_bytes(shape)
    parts["micro_batch"] = [n for n in (2 * plain.micro_batch, 4 * plain.micro_batch) if sequences % n == 0 and n <= room]
    if not config.threads and processes == 1 and machine.cores > 1:
        parts["threads"] = [machine.cores // 2]
    return parts


def _activation_bytes(shape: ModelShape) -> float:
    """Roughly what one sequence keeps between forward and backward, in FP32."""
    layer = 10 * shape.dim + 5 * shape.hidden_dim + 2 * shape.n_heads * shape.max_seq_len
    return 4.0 * shape.max_seq_len * (shape.n_layers * layer + 3 * shape.vocab_size)


def _fastest(ways: list[Choice], model: Llama) -> tuple[Choice, float]:
    """The first of `ways`, or another one that is clearly faster; and its tokens a second. They run in turns."""
    jobs = {way: _pass(model, way) for way in ways}
    seconds: dict[Choice, float] = {}
    for turn in range(ROUNDS + 1):
        for way, job in jobs.items():
            started = time.perf_counter()
            job()
            if turn:  # the first one compiles and fetches memory
                each = (time.perf_counter() - started) / way.micro_batch
                seconds[way] = min(each, seconds.get(way, each))
    best = min(ways, key=lambda way: seconds[way])
    if seconds[best] > CLEARLY * seconds[ways[0]]:
        best = ways[0]
    return best, model.shape.max_seq_len / seconds[best]


def _pass(model: Llama, way: Choice) -> Callable[[], None]:
    """Forward and backward over one micro-batch; leaves no gradients behind."""
    compute = set_up(way, model)
    tokens = torch.arange(way.micro_batch * model.shape.max_seq_len, device=model.rope.device).remainder(model.shape.vocab_size)
    tokens = tokens.view(way.micro_batch, -1)

    def run() -> None:
        activate(way, model)
        compute.loss_of(tokens, tokens).backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)

    return run


def without_broken_compiler(choice: Choice, model: Llama, progress: Progress) -> Choice:
    """`choice`, or the same in eager mode where compiling fails, which is announced."""
    if choice.compiled and (problem := _compile_problem(model, choice)):
        progress.say(f"training in eager mode, up to a fifth slower: torch.compile failed ({problem})")
        return dataclasses.replace(choice, compiled=False)
    return choice


def _compile_problem(model: Llama, way: Choice) -> str | None:
    """Compile by running it once; what went wrong, in one line."""
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        _pass(model, way)()
    except BackendCompilerFailed as error:
        model.zero_grad(set_to_none=True)
        return next(iter(str(error.inner_exception).splitlines()), type(error.inner_exception).__name__)
    return None


def _pinned(noted: Choice, plain: Choice, config: TrainConfig, can_compile: bool) -> Choice:
    """The choice of the run so far, but for what the configuration says expressly and what this machine cannot do."""
    return Choice(
        compiled=noted.compiled and can_compile if config.compile == "auto" else plain.compiled,
        precision=noted.precision if config.precision == "auto" else plain.precision,
        threads=config.threads or noted.threads,
        micro_batch=noted.micro_batch,
    )


def _question(plain: Choice, config: TrainConfig, shape: ModelShape, machine: Machine, processes: int = 1) -> dict[str, Any]:
    """Everything that the answer may depend on."""
    return {
        "processor": machine.processor,
        "instruction_sets": list(machine.instruction_sets),
        "cores": machine.cores,
        "compiler": machine.compiler,
        "torch": torch.__version__,
        "bulletlm": __version__,
        "processes": processes,
        "shape": shape.to_dict(),
        "parameters": shape.n_parameters,
        "context": shape.max_seq_len,
        "sequences": config.batch_size_per_device * config.gradient_accumulation_steps,
        "plain": plain.as_dict(),
        "open": {"compile": config.compile, "precision": config.precision, "threads": config.threads},
    }
