"""Measures which compute plan is fastest on this machine, in a few seconds."""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bulletlm.config.schema import TrainConfig
from bulletlm.progress import Progress
from bulletlm.shape import ModelShape
from bulletlm.train.backend.compute import compile_problem, gradient_pass
from bulletlm.train.backend.plan import Capabilities, ComputePlan
from bulletlm.train.model import Transformer

TUNE_SECONDS = 25.0
"""No further comparison starts after this time."""

MAX_RELATIVE_TIME = 0.97
"""A plan replaces a simpler one only if it takes less than this share of the time."""

MAX_ACTIVATION_BYTES = 700e6
"""Memory that a larger micro-batch may need for what is kept between forward and backward."""

TIMED_ROUNDS = 3
"""How often each plan is timed; its shortest time counts."""


def autotune(
    plan: ComputePlan, config: TrainConfig, model: Transformer, capabilities: Capabilities, progress: Progress, processes: int = 1
) -> tuple[ComputePlan, float | None]:
    """Measure the plans that differ from `plan` only in what the configuration leaves open.

    Args:
        plan: the simplest plan; it is kept unless another one is clearly faster.
        processes: number of training processes, which share the sequences of a step.

    Returns:
        The fastest plan, and its speed in tokens/s; None as the speed if there was nothing to compare.
    """
    best, tokens_per_s, deadline = plan, None, time.monotonic() + TUNE_SECONDS
    with progress.task("Measuring which way to compute is fastest here", None):
        candidates = _precisions_and_graphs(plan, config, model, capabilities, progress)
        if len(candidates) > 1:
            best, tokens_per_s = _fastest(candidates, model)
        for changes in _sizes(plan, config, model.shape, capabilities.machine.cores, processes):
            if changes and time.monotonic() < deadline:
                best, tokens_per_s = _fastest([best, *(dataclasses.replace(best, **change) for change in changes)], model)
    return best, tokens_per_s


def _precisions_and_graphs(
    plan: ComputePlan, config: TrainConfig, model: Transformer, capabilities: Capabilities, progress: Progress
) -> list[ComputePlan]:
    """`plan` first, then the other precisions, compiled or eager, that the configuration allows and this machine supports."""
    best = capabilities.best_float
    if plan.precision == "int8":
        floats = {best} - {"fp32"} if config.precision == "auto" else set()  # FP32 takes several times as long
    else:
        floats = {plan.precision, best, "fp32"} if config.precision == "auto" else {plan.precision}
    # A float plan that is not compiled at this point cannot or must not be compiled.
    compiled = plan.compiled or (plan.precision == "int8" and config.compile != "off")
    graphs = (True, False) if compiled and config.compile == "auto" else (compiled,)
    others = [dataclasses.replace(plan, compiled=graph, precision=p) for graph in graphs for p in sorted(floats)]
    graph = next((other for other in others if other.compiled), plan)
    if graph.compiled > plan.compiled and (problem := compile_problem(gradient_pass(graph, model), model, capabilities)):
        progress.log(f"comparing eager mode only: {problem}")
        others = [other for other in others if not other.compiled]
    return list(dict.fromkeys([plan, *others]))


def _sizes(plan: ComputePlan, config: TrainConfig, shape: ModelShape, cores: int, processes: int) -> Iterator[Sequence[Mapping[str, Any]]]:
    """The comparisons of micro-batch and threads in the order in which they are made; each is a list of changes of a plan."""
    sequences = config.batch_size_per_device * config.gradient_accumulation_steps // processes
    most = MAX_ACTIVATION_BYTES / _activation_bytes(shape)
    yield [{"micro_batch": n} for n in (2 * plan.micro_batch, 4 * plan.micro_batch) if sequences % n == 0 and n <= most]
    if not config.threads and processes == 1 and cores > 1:
        yield [{"threads": cores // 2}]


def _activation_bytes(shape: ModelShape) -> float:
    """Approximate number of bytes that one sequence keeps between forward and backward, in float32."""
    layer = 10 * shape.dim + 5 * shape.hidden_dim + 2 * shape.n_heads * shape.max_seq_len
    return 4.0 * shape.max_seq_len * (shape.n_layers * layer + 3 * shape.vocab_size)


def _fastest(plans: list[ComputePlan], model: Transformer) -> tuple[ComputePlan, float]:
    """The first of `plans`, or another one that is clearly faster; and its tokens/s. They run in turns."""
    passes = {plan: gradient_pass(plan, model) for plan in plans}
    seconds: dict[ComputePlan, float] = {}
    for turn in range(TIMED_ROUNDS + 1):
        for plan, run in passes.items():
            started = time.perf_counter()
            run()
            if turn:  # the first turn compiles and allocates
                per_sequence = (time.perf_counter() - started) / plan.micro_batch
                seconds[plan] = min(per_sequence, seconds.get(plan, per_sequence))
    best = min(plans, key=lambda plan: seconds[plan])
    if seconds[best] > MAX_RELATIVE_TIME * seconds[plans[0]]:
        best = plans[0]
    return best, model.shape.max_seq_len / seconds[best]
