"""Which way to do the arithmetic is fastest on this machine: measured in a few seconds at the start of a long run.

The effective batch, the order of the data and the learning rate are the user's; a choice only decides how the same sums
are grouped and rounded. It is kept twice: in the user's cache folder for the next run of the same shape, and with the
checkpoints, so that a run which is resumed goes on exactly as it began.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from bulletlm.train.choice import Choice, Precision, choice_file, note_name, parse_choice, read_choice, write_choice
from bulletlm.train.compute import Compute, activate, set_up
from bulletlm.train.team import ALONE, Team

COMPILE_FROM_FLOPS = 5e13
"""Compiling takes some 20 s the first time and saves a fifth, with int8 half: it pays from a few minutes of training on."""

TUNE_FROM_FLOPS = 3e14
"""Measuring takes some seconds, once per machine and shape: it is done for runs of roughly ten minutes and more."""

TUNE_SECONDS = 25.0
"""No further comparison is begun after this time."""

CLEARLY = 0.97
"""A way must take less than this share of the time of a simpler one to be chosen instead."""

ACTIVATIONS = 700e6
"""Bytes that a larger micro-batch may take for what is kept between forward and backward."""

ROUNDS = 3


def choose_compute(config: TrainConfig, model: Llama, tokens: int, checkpoints: Path, progress: Progress, team: Team = ALONE) -> Compute:
    """Set up this process and `model` for a run over `tokens` training tokens whose checkpoints are in `checkpoints`.

    The leader of a team decides for all, but for the threads, which are those that a machine has.

    Raises:
        ConfigError: this machine cannot compute in the precision that was set, or that the leader of the team chose.
    """
    keep_memory()
    machine = inspect_machine()
    device = model.rope.device.type
    flops = 6.0 * model.shape.n_parameters * tokens
    plain = plain_choice(config, machine, device, flops, team.local_size)
    choice = plain
    if team.leads:
        note = checkpoints / note_name(team.size)
        noted = read_choice(note)
        choice = feasible(_pinned(noted, plain, config) if noted else plain, config, model, machine, progress)
        if noted is None and config.tune == "auto" and device == "cpu" and flops > TUNE_FROM_FLOPS:
            choice = tuned(choice, config, model, machine, progress, team.size)
        if choice != noted:
            write_choice(note, choice)
    told = parse_choice(team.tell(choice.as_dict()))
    assert told is not None
    if not team.leads:
        choice = feasible(dataclasses.replace(told, threads=plain.threads), config, model, machine, progress)
        if choice.precision != told.precision:
            raise ConfigError(f"this machine cannot compute in {told.precision} as the others of its team do: train with --precision=fp32")
    return set_up(choice, model)


def plain_choice(config: TrainConfig, machine: Machine, device: str, flops: float, processes: int = 1) -> Choice:
    """As configured, and where that is left open what suits most: nothing is measured, nor tried.

    Args:
        device: type of torch.device.
        flops: of the whole work.
        processes: on this machine.
    """
    # On Apple's GPU compiling is young.
    compiles = device != "mps" and (config.compile == "on" or (config.compile == "auto" and flops > COMPILE_FROM_FLOPS))
    return Choice(
        compiled=compiles,
        precision=_precision(config, machine, device, compiles),
        threads=config.threads or max(1, machine.cores // processes),
        micro_batch=config.batch_size_per_device,
    )


def feasible(choice: Choice, config: TrainConfig, model: Llama, machine: Machine, progress: Progress) -> Choice:
    """`choice`, or what comes nearest to it of what this machine can do; a change is announced.

    A compiled choice is tried, which compiles it.

    Raises:
        ConfigError: the configuration itself asks for a precision that is not to be had here.
    """
    device = model.rope.device.type
    if choice.precision == "int8" and not (device == "cpu" and products_are_exact()):
        if config.precision == "int8":
            raise ConfigError("train.precision: this processor has no exact 8-bit products: take fp32, or auto for what fits best")
        progress.say("training in fp32 instead of int8: there are no exact 8-bit products here")
        choice = dataclasses.replace(choice, precision="fp32")
    problem = None
    if choice.compiled and device == "cpu" and machine.compiler is None:
        problem = "torch.compile needs a C++ compiler (install g++ or clang++)"
    elif choice.compiled and (failure := _compile_problem(model, choice)):
        problem = f"torch.compile failed ({failure})"
    if problem is None:
        return choice
    # Rounding costs more than it saves where it is not fused by the compiler.
    loses = choice.precision == "int8" and config.precision == "auto"
    progress.say(f"training in eager mode{' and fp32 instead of int8' * loses}, which is slower: {problem}")
    return dataclasses.replace(choice, compiled=False, precision="fp32" if loses else choice.precision)


def _precision(config: TrainConfig, machine: Machine, device: str, compiled: bool) -> Precision:
    """As configured, or the one that is fastest where this machine has it in hardware."""
    if config.precision != "auto":
        return config.precision
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if device == "cpu" and machine.has_bf16:
        return "bf16"
    return "int8" if device == "cpu" and machine.has_int8 and compiled and products_are_exact() else "fp32"


def tuned(plain: Choice, config: TrainConfig, model: Llama, machine: Machine, progress: Progress, processes: int = 1) -> Choice:
    """The fastest of the ways that differ from `plain` in what the configuration leaves open; from the cache where it is known."""
    question = _question(plain, config, model.shape, machine, processes)
    file = choice_file(question)
    if (known := read_choice(file)) is not None:
        return known
    best, speed, deadline = plain, 0.0, time.monotonic() + TUNE_SECONDS
    with progress.task("Measuring which way to compute is fastest here", None):
        for changes in _open_parts(plain, config, model.shape, machine, processes):
            ways = list(dict.fromkeys([best, *(dataclasses.replace(best, **change) for change in changes)]))
            if len(ways) > 1 and time.monotonic() < deadline:
                best, speed = _fastest(ways, model)
    if speed:
        progress.say(f"measured on this machine: {best} is fastest, about {speed:,.0f} tokens/s")
        try:
            write_choice(file, best, question=question, tokens_per_s=round(speed, 1))
        except BulletError as error:
            progress.say(f"measured again the next time: {error}")
    return best


def _open_parts(
    plain: Choice, config: TrainConfig, shape: ModelShape, machine: Machine, processes: int
) -> Iterator[Sequence[Mapping[str, Any]]]:
    """What the configuration leaves open, in the order in which it is decided: changes of a choice, of which one is taken."""
    compiled = {plain.compiled, False} if config.compile == "auto" else {plain.compiled}
    precisions = {plain.precision, "fp32"} if config.precision == "auto" else {plain.precision}
    pairs = [(graph, precision) for graph in sorted(compiled, reverse=True) for precision in sorted(precisions)]
    yield [{"compiled": graph, "precision": precision} for graph, precision in pairs if graph or precision != "int8"]
    sequences = config.batch_size_per_device * config.gradient_accumulation_steps // processes
    room = ACTIVATIONS / _activation_bytes(shape)
    yield [{"micro_batch": n} for n in (2 * plain.micro_batch, 4 * plain.micro_batch) if sequences % n == 0 and n <= room]
    if not config.threads and processes == 1 and machine.cores > 1:
        yield [{"threads": machine.cores // 2}]


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


def _compile_problem(model: Llama, way: Choice) -> str | None:
    """Compile by running it once; what went wrong, in one line."""
    try:
        _pass(model, way)()
    # Tracer, code generator, compiler and cache have exceptions of many kinds; a fault of the model itself shows in eager mode again.
    except Exception as error:
        model.zero_grad(set_to_none=True)
        cause = getattr(error, "inner_exception", error)
        return next(iter(str(cause).splitlines()), type(cause).__name__)
    return None


def _pinned(noted: Choice, plain: Choice, config: TrainConfig) -> Choice:
    """The choice of the run so far, but for what the configuration says expressly."""
    return Choice(
        compiled=noted.compiled if config.compile == "auto" else plain.compiled,
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
