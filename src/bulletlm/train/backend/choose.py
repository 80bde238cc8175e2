"""The compute plan of a run is decided here, once, before the first step.

In this order: the default plan; a saved plan instead, if there is one; the settings that override it; what this machine supports
of it; and, in a long run without a saved plan, the fastest plan that was measured.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from bulletlm import __version__
from bulletlm.config.schema import TrainConfig
from bulletlm.errors import BulletError, ConfigError
from bulletlm.hardware import keep_memory
from bulletlm.progress import Progress
from bulletlm.shape import ModelShape
from bulletlm.train.backend.autotune import autotune
from bulletlm.train.backend.compute import Compute, compile_problem, gradient_pass, set_up
from bulletlm.train.backend.plan import (
    Capabilities,
    ComputePlan,
    cached_plan_file,
    default_plan,
    inspect_capabilities,
    overridden,
    parse_plan,
    plan_file_name,
    read_plan,
    run_flops,
    write_plan,
)
from bulletlm.train.distributed.group import SINGLE_PROCESS, ProcessGroup
from bulletlm.train.model import Transformer

TUNE_FROM_FLOPS = 3e14
"""Measuring takes some seconds, once for each machine and shape: it is done for runs of roughly ten minutes or more."""


def choose_compute(
    config: TrainConfig,
    model: Transformer,
    tokens: int,
    checkpoints: Path,
    progress: Progress,
    group: ProcessGroup = SINGLE_PROCESS,
    capabilities: Capabilities | None = None,
) -> Compute:
    """Decide the compute plan of a run and set up this process and `model` for it.

    The main process decides for the whole group. Only the number of threads is each process's own, because machines differ.

    Args:
        tokens: number of tokens on which the run trains.
        checkpoints: folder of the run's checkpoints, in which the plan is saved.
        capabilities: what can be computed here; None inspects this machine.

    Raises:
        ConfigError: this machine does not support the precision that is configured, or that the main process chose.
    """
    keep_memory()
    capabilities = (capabilities or inspect_capabilities(model.rope.device.type)).for_shape(model.shape)
    flops = run_flops(model.shape, tokens)
    default = plan = default_plan(config, capabilities, flops, group.local_size)
    if group.is_main:
        file = checkpoints / plan_file_name(group.size)
        saved = read_plan(file)
        if saved:
            plan = overridden(saved, default, config)
        plan = supported(plan, default, model, capabilities, progress)
        if not saved and config.tune == "auto" and capabilities.device == "cpu" and flops > TUNE_FROM_FLOPS:
            plan = measured(plan, config, model, capabilities, progress, group.size)
        if plan != saved:
            write_plan(file, plan)
    received = parse_plan(group.broadcast_object(plan.as_dict()))
    assert received is not None
    if not group.is_main:
        plan = supported(dataclasses.replace(received, threads=default.threads), default, model, capabilities, progress)
        if plan.precision != received.precision:
            raise ConfigError(
                f"this machine does not support {received.precision}, in which the other processes of its group train: "
                "train with --precision=fp32"
            )
    return set_up(plan, model)


def supported(plan: ComputePlan, default: ComputePlan, model: Transformer, capabilities: Capabilities, progress: Progress) -> ComputePlan:
    """`plan`, or the nearest plan that this machine supports; a difference is reported.

    A compiled plan is tried, which also compiles it.

    Args:
        default: gives the precision if int8 is not available.
    """
    if plan.precision == "int8" and capabilities.int8_problem:
        progress.log(f"training in {default.precision} instead of int8: {capabilities.int8_problem}", "warning")
        plan = dataclasses.replace(plan, precision=default.precision, compiled=default.compiled)
    if plan.compiled and (problem := compile_problem(gradient_pass(plan, model), model, capabilities)):
        progress.log(f"training in eager mode, which is slower: {problem}", "warning")
        plan = dataclasses.replace(plan, compiled=False)
    return plan


def measured(
    plan: ComputePlan, config: TrainConfig, model: Transformer, capabilities: Capabilities, progress: Progress, processes: int = 1
) -> ComputePlan:
    """The fastest of the plans that differ from `plan` only in what the configuration leaves open.

    It is read from the user's cache folder if it was measured before, and saved there otherwise.
    """
    question = _question(plan, config, model.shape, capabilities, processes)
    file = cached_plan_file(question)
    if (known := read_plan(file)) is not None:
        return known
    best, tokens_per_s = autotune(plan, config, model, capabilities, progress, processes)
    if tokens_per_s:
        progress.log(f"measured on this machine: {best} is fastest, about {tokens_per_s:,.0f} tokens/s")
        try:
            write_plan(file, best, question=question, tokens_per_s=round(tokens_per_s, 1))
        except BulletError as error:
            progress.log(f"the next run will measure again, because the result was not saved: {error}")
    return best


def _question(plan: ComputePlan, config: TrainConfig, shape: ModelShape, capabilities: Capabilities, processes: int = 1) -> dict[str, Any]:
    """Everything on which the measured plan may depend; the name of its file in the cache is made from this."""
    machine = capabilities.machine
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
        "int8": capabilities.int8_problem is None,
        "plain": plan.as_dict(),
        "open": {"compile": config.compile, "precision": config.precision, "threads": config.threads},
    }
