"""Which way to do the arithmetic is fastest on this machine: measured in a few seconds at the start of a long run.

The effective batch, the order of the data and the learning rate are the user's; a choice only decides how the same sums
are grouped and rounded. It is kept twice: in the user's cache folder for the next run of the same shape, and with the
checkpoints, so that a run which is resumed goes on exactly as it began.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from bulletlm import __version__
from bulletlm.config.schema import TrainConfig
from bulletlm.errors import BulletError, ConfigError
from bulletlm.hardware import Machine, inspect_machine, keep_memory
from bulletlm.progress import Progress
from bulletlm.shape import ModelShape
from bulletlm.train.backend.compute import Compute, activate, set_up
from bulletlm.train.backend.native import why_not
from bulletlm.train.backend.plan import ComputePlan, PlanPrecision, cached_plan_file, parse_plan, plan_file_name, read_plan, write_plan
from bulletlm.train.distributed.group import SINGLE_PROCESS, ProcessGroup
from bulletlm.train.model import Transformer

COMPILE_FROM_FLOPS = 5e13
"""Compiling takes some 20 s the first time and saves a fifth: it pays from a few minutes of training on."""

TUNE_FROM_FLOPS = 3e14
"""Measuring takes some seconds, once per machine and shape: it is done for runs of roughly ten minutes and more."""

TUNE_SECONDS = 25.0
"""No further comparison is begun after this time."""

MAX_RELATIVE_TIME = 0.97
"""A way must take less than this share of the time of a simpler one to be chosen instead."""

ACTIVATIONS = 700e6
"""Bytes that a larger micro-batch may take for what is kept between forward and backward."""

ROUNDS = 3


def run_flops(shape: ModelShape, tokens: int) -> float:
    """Arithmetic of a run over so many training tokens, roughly."""
    return 6.0 * shape.n_parameters * tokens


def choose_compute(
    config: TrainConfig, model: Transformer, tokens: int, checkpoints: Path, progress: Progress, group: ProcessGroup = SINGLE_PROCESS
) -> Compute:
    """Set up this process and `model` for a run over `tokens` training tokens whose checkpoints are in `checkpoints`.

    The leader of a group decides for all, but for the threads, which are those that a machine has.

    Raises:
        ConfigError: this machine cannot compute in the precision that was set, or that the leader of the group chose.
    """
    keep_memory()
    machine = inspect_machine()
    device = model.rope.device.type
    flops = run_flops(model.shape, tokens)
    plain = default_plan(config, machine, device, flops, group.local_size)
    choice = plain
    if group.is_main:
        note = checkpoints / plan_file_name(group.size)
        noted = read_plan(note)
        choice = supported(_pinned(noted, plain, config) if noted else plain, plain, model, machine, progress)
        if noted is None and config.tune == "auto" and device == "cpu" and flops > TUNE_FROM_FLOPS:
            choice = autotune(choice, config, model, machine, progress, group.size)
        if choice != noted:
            write_plan(note, choice)
    told = parse_plan(group.broadcast_object(choice.as_dict()))
    assert told is not None
    if not group.is_main:
        choice = supported(dataclasses.replace(told, threads=plain.threads), plain, model, machine, progress)
        if choice.precision != told.precision:
            raise ConfigError(f"this machine cannot compute in {told.precision} as the others of its group do: train with --precision=fp32")
    return set_up(choice, model)


def default_plan(config: TrainConfig, machine: Machine, device: str, flops: float, processes: int = 1) -> ComputePlan:
    """As configured, and where that is left open what suits most: nothing is measured, nor tried.

    Args:
        device: type of torch.device.
        flops: of the whole work.
        processes: on this machine.

    Raises:
        ConfigError: int8 is configured, and not to be had here.
    """
    problem = int8_problem(device)
    if config.precision == "int8" and problem:
        raise ConfigError(f"train.precision: int8 is not to be had here: {problem}. Take fp32, or auto for what fits best")
    best: PlanPrecision = best_floats(machine, device) if problem else "int8"
    precision = best if config.precision == "auto" else config.precision
    threads = config.threads or max(1, machine.cores // processes)
    # The native pass hands out whole sequences: two for each thread, if the step has so many, so that none waits for long.
    sequences = config.batch_size_per_device * config.gradient_accumulation_steps // processes
    wanted = min(2 * threads, sequences) if precision == "int8" else 1
    return ComputePlan(
        compiled=precision != "int8" and pays_to_compile(config, device, flops),
        precision=precision,
        threads=threads,
        micro_batch=max(config.batch_size_per_device, wanted),
    )


def int8_problem(device: str) -> str | None:
    """Why there is no int8 on this type of device; None where there is."""
    return why_not() if device == "cpu" else f"it is for processors, not for {device}"


def best_floats(machine: Machine, device: str) -> Literal["fp32", "bf16"]:
    """What torch computes fastest in."""
    bf16 = torch.cuda.is_bf16_supported() if device == "cuda" else device == "cpu" and machine.has_bf16
    return "bf16" if bf16 else "fp32"


def pays_to_compile(config: TrainConfig, device: str, flops: float) -> bool:
    """Whether torch's passes are to be compiled in so long a run."""
    # On Apple's GPU compiling is young.
    return config.compile == "on" or (config.compile == "auto" and device != "mps" and flops > COMPILE_FROM_FLOPS)


def supported(choice: ComputePlan, plain: ComputePlan, model: Transformer, machine: Machine, progress: Progress) -> ComputePlan:
    """`choice`, or what comes nearest to it of what this machine can do; a change is announced.

    A compiled choice is tried, which compiles it.

    Args:
        plain: what is taken where there is no int8.
    """
    if choice.precision == "int8" and (problem := int8_problem(model.rope.device.type)):
        progress.log(f"training in {plain.precision} instead of int8: {problem}")
        choice = dataclasses.replace(choice, precision=plain.precision, compiled=plain.compiled)
    if choice.compiled and (problem := compile_problem(_pass(model, choice), model, machine)):
        progress.log(f"training in eager mode, which is slower: {problem}")
        choice = dataclasses.replace(choice, compiled=False)
    return choice


def compile_problem(run: Callable[[], object], model: Transformer, machine: Machine) -> str | None:
    """Compile what `run` runs by running it once: what went wrong, in one line. Gradients of `model` are forgotten."""
    if model.rope.device.type == "cpu" and machine.compiler is None:
        return "torch.compile needs a C++ compiler (install g++ or clang++)"
    try:
        run()
    # Tracer, code generator, compiler and cache have exceptions of many kinds; a fault of the model itself shows in eager mode again.
    except Exception as error:
        cause = getattr(error, "inner_exception", error)
        return f"torch.compile failed ({next(iter(str(cause).splitlines()), type(cause).__name__)})"
    finally:
        model.zero_grad(set_to_none=True)
    return None


def autotune(
    plain: ComputePlan, config: TrainConfig, model: Transformer, machine: Machine, progress: Progress, processes: int = 1
) -> ComputePlan:
    """The fastest of the ways that differ from `plain` in what the configuration leaves open; from the cache where it is known."""
    question = _question(plain, config, model.shape, machine, processes)
    file = cached_plan_file(question)
    if (known := read_plan(file)) is not None:
        return known
    with progress.task("Measuring which way to compute is fastest here", None):
        ways = _open_ways(plain, config, model, machine, progress)
        best, speed, deadline = plain, 0.0, time.monotonic() + TUNE_SECONDS
        if len(ways) > 1:
            best, speed = _fastest(ways, model)
        for changes in _open_parts(plain, config, model.shape, machine, processes):
            if changes and time.monotonic() < deadline:
                best, speed = _fastest([best, *(dataclasses.replace(best, **change) for change in changes)], model)
    if speed:
        progress.log(f"measured on this machine: {best} is fastest, about {speed:,.0f} tokens/s")
        try:
            write_plan(file, best, question=question, tokens_per_s=round(speed, 1))
        except BulletError as error:
            progress.log(f"measured again the next time: {error}")
    return best


def _open_ways(plain: ComputePlan, config: TrainConfig, model: Transformer, machine: Machine, progress: Progress) -> list[ComputePlan]:
    """Precisions, compiled or not: `plain`, and what else the configuration allows and this machine can do."""
    best = best_floats(machine, "cpu")
    if plain.precision == "int8":
        floats = {best} - {"fp32"} if config.precision == "auto" else set()  # FP32 takes several times as long
    else:
        floats = {plain.precision, best, "fp32"} if config.precision == "auto" else {plain.precision}
    # Floats that are not compiled by now cannot be, or shall not.
    compiled = plain.compiled or (plain.precision == "int8" and config.compile != "off")
    graphs = (True, False) if compiled and config.compile == "auto" else (compiled,)
    others = [dataclasses.replace(plain, compiled=graph, precision=p) for graph in graphs for p in sorted(floats)]
    graph = next((way for way in others if way.compiled), plain)
    if graph.compiled > plain.compiled and (problem := compile_problem(_pass(model, graph), model, machine)):
        progress.log(f"comparing without compiled ways: {problem}")
        others = [way for way in others if not way.compiled]
    return list(dict.fromkeys([plain, *others]))


def _open_parts(
    plain: ComputePlan, config: TrainConfig, shape: ModelShape, machine: Machine, processes: int
) -> Iterator[Sequence[Mapping[str, Any]]]:
    """What else it leaves open, in the order in which it is decided: changes of a choice, of which one is taken."""
    sequences = config.batch_size_per_device * config.gradient_accumulation_steps // processes
    room = ACTIVATIONS / _activation_bytes(shape)
    yield [{"micro_batch": n} for n in (2 * plain.micro_batch, 4 * plain.micro_batch) if sequences % n == 0 and n <= room]
    if not config.threads and processes == 1 and machine.cores > 1:
        yield [{"threads": machine.cores // 2}]


def _activation_bytes(shape: ModelShape) -> float:
    """Roughly what one sequence keeps between forward and backward, in FP32."""
    layer = 10 * shape.dim + 5 * shape.hidden_dim + 2 * shape.n_heads * shape.max_seq_len
    return 4.0 * shape.max_seq_len * (shape.n_layers * layer + 3 * shape.vocab_size)


def _fastest(ways: list[ComputePlan], model: Transformer) -> tuple[ComputePlan, float]:
    """The first of `ways`, or another one that is clearly faster; and its tokens a second. They run in turns."""
    jobs = {way: _pass(model, way) for way in ways}
    seconds: dict[ComputePlan, float] = {}
    for turn in range(ROUNDS + 1):
        for way, job in jobs.items():
            started = time.perf_counter()
            job()
            if turn:  # the first one compiles and fetches memory
                each = (time.perf_counter() - started) / way.micro_batch
                seconds[way] = min(each, seconds.get(way, each))
    best = min(ways, key=lambda way: seconds[way])
    if seconds[best] > MAX_RELATIVE_TIME * seconds[ways[0]]:
        best = ways[0]
    return best, model.shape.max_seq_len / seconds[best]


def _pass(model: Transformer, way: ComputePlan) -> Callable[[], None]:
    """Forward and backward over one micro-batch; leaves no gradients behind."""
    compute = set_up(way, model)
    compute.load_weights()
    tokens = torch.arange(way.micro_batch * model.shape.max_seq_len, device=model.rope.device).remainder(model.shape.vocab_size)
    tokens = tokens.view(way.micro_batch, -1)

    def run() -> None:
        activate(way, model)
        compute.accumulate_gradients(tokens, tokens, tokens.numel())
        model.zero_grad(set_to_none=True)

    return run


def _pinned(noted: ComputePlan, plain: ComputePlan, config: TrainConfig) -> ComputePlan:
    """The choice of the run so far, but for what the configuration says expressly."""
    precision = noted.precision if config.precision == "auto" else plain.precision
    return ComputePlan(
        compiled=precision != "int8" and (noted.compiled if config.compile == "auto" else config.compile == "on"),
        precision=precision,
        threads=config.threads or noted.threads,
        micro_batch=noted.micro_batch,
    )


def _question(plain: ComputePlan, config: TrainConfig, shape: ModelShape, machine: Machine, processes: int = 1) -> dict[str, Any]:
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
        "int8": why_not() is None,
        "plain": plain.as_dict(),
        "open": {"compile": config.compile, "precision": config.precision, "threads": config.threads},
    }
