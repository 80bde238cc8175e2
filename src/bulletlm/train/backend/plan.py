"""The compute plan: in which precision, with how many threads and in which micro-batches the gradients of a run are computed.

Only decisions and their files are here, nothing that computes: torch is not imported, except to ask it about a GPU.
A plan changes how sums are grouped and rounded, and how long they take. The effective batch, the order of the data and the
learning rate are the user's and do not depend on it. A plan is saved in two places: with the checkpoints, so that a resumed
run continues exactly as it began, and, where it was measured, in the user's cache folder for the next run of the same shape.
"""

import contextlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from bulletlm.config.schema import TrainConfig
from bulletlm.errors import BulletError, ConfigError
from bulletlm.files import read_json, sha256_of_json, write_json
from bulletlm.hardware import Machine, cache_folder, inspect_machine
from bulletlm.shape import ModelShape
from bulletlm.train.backend.native import NO_AVX2, NO_INT8, shape_problem, why_no_distillation, why_not

PlanPrecision = Literal["fp32", "bf16", "int8"]
"""Type of the factors of matrix products. int8 is computed by the native library, the other two by torch."""

COMPILE_FROM_FLOPS = 5e13
"""Compiling takes about 20 s the first time and saves a fifth of the run time: it pays off in runs of more than a few minutes."""


@dataclass(frozen=True)
class ComputePlan:
    """How gradients are computed.

    Attributes:
        compiled: whether the layers go through torch.compile; never with int8.
        precision: of matrix products. The weights are float32.
        threads: number of threads of this process.
        micro_batch: number of sequences in one forward and backward pass.
    """

    compiled: bool
    precision: PlanPrecision
    threads: int
    micro_batch: int

    def __str__(self) -> str:
        how = "native" if self.precision == "int8" else "compiled" if self.compiled else "eager"
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.precision}, {how}, {threads}, {self.micro_batch} sequence{'s' * (self.micro_batch > 1)} a pass"

    def as_dict(self) -> dict[str, Any]:
        """JSON values; `parse_plan` reads them."""
        return asdict(self)


@dataclass(frozen=True)
class Capabilities:
    """What can be computed here. Decisions depend on this object alone, never on the machine directly.

    Attributes:
        machine: the computer.
        device: type of the torch.device on which the model is: "cpu", "cuda" or "mps".
        bf16: whether the device multiplies bfloat16 in hardware. Elsewhere bf16 is several times slower than FP32.
        int8_problem: why the native library cannot train, as a clause; None if it can.
        distillation_problem: why it cannot compute the QAT stage, as a clause; None if it can.
    """

    machine: Machine
    device: str
    bf16: bool
    int8_problem: str | None
    distillation_problem: str | None

    @property
    def best_float(self) -> Literal["fp32", "bf16"]:
        """The precision in which torch is fastest."""
        return "bf16" if self.bf16 else "fp32"

    def for_shape(self, shape: ModelShape) -> Self:
        """These capabilities for a model of that shape, which may be too large for the native library."""
        problem = shape_problem(shape)
        return replace(self, int8_problem=problem, distillation_problem=problem) if problem else self


def inspect_capabilities(device: str, machine: Machine | None = None) -> Capabilities:
    """What can be computed on a device of type `device` of this computer.

    Args:
        device: type of a torch.device.
        machine: the computer; None inspects this one.
    """
    machine = machine or inspect_machine()
    if device != "cpu":
        problems = [f"{what} runs on the CPU, not on {device}" for what in ("int8 training", "native QAT")]
        return Capabilities(machine, device, device == "cuda" and _cuda_has_bf16(), *problems)
    # A system that does not list instruction sets (only Linux does) leaves the question to the library.
    sets = machine.instruction_sets
    int8_problem = NO_INT8 if sets and not machine.has_int8 else why_not()
    return Capabilities(machine, device, machine.has_bf16, int8_problem, NO_AVX2 if sets and "avx2" not in sets else why_no_distillation())


def _cuda_has_bf16() -> bool:
    import torch

    return bool(torch.cuda.is_bf16_supported())


def run_flops(shape: ModelShape, tokens: int) -> float:
    """Approximate number of floating-point operations to train on `tokens` tokens: 6 for each parameter and token.

    Attention is left out, so a model whose context is much longer than its width needs more.
    """
    return 6.0 * shape.n_parameters * tokens


def pays_to_compile(config: TrainConfig, device: str, flops: float) -> bool:
    """Whether a run of `flops` operations should compile torch's passes."""
    # torch.compile is still immature on Apple's GPUs.
    return config.compile == "on" or (config.compile == "auto" and device != "mps" and flops > COMPILE_FROM_FLOPS)


def default_plan(config: TrainConfig, capabilities: Capabilities, flops: float, processes: int = 1) -> ComputePlan:
    """The plan that follows from the configuration and the capabilities alone; nothing is measured or tried.

    Args:
        flops: floating-point operations of the whole run.
        processes: number of training processes on this machine, which share its cores.

    Raises:
        ConfigError: int8 is configured but not available.
    """
    problem = capabilities.int8_problem
    if config.precision == "int8" and problem:
        raise ConfigError(f"train.precision: {problem}; set fp32, or auto for the fastest precision that is available")
    best: PlanPrecision = capabilities.best_float if problem else "int8"
    precision = best if config.precision == "auto" else config.precision
    threads = config.threads or max(1, capabilities.machine.cores // processes)
    # The native pass gives whole sequences to threads: two for each thread, if the step has enough, so that no thread waits long.
    sequences = config.batch_size_per_device * config.gradient_accumulation_steps // processes
    wanted = min(2 * threads, sequences) if precision == "int8" else 1
    return ComputePlan(
        compiled=precision != "int8" and pays_to_compile(config, capabilities.device, flops),
        precision=precision,
        threads=threads,
        micro_batch=max(config.batch_size_per_device, wanted),
    )


def overridden(saved: ComputePlan, default: ComputePlan, config: TrainConfig) -> ComputePlan:
    """The saved plan, except where the configuration sets a value explicitly."""
    precision = saved.precision if config.precision == "auto" else default.precision
    return ComputePlan(
        compiled=precision != "int8" and (saved.compiled if config.compile == "auto" else config.compile == "on"),
        precision=precision,
        threads=config.threads or saved.threads,
        micro_batch=saved.micro_batch,
    )


def parse_plan(value: Any) -> ComputePlan | None:
    """The plan of which `as_dict` returned `value`; None if `value` is anything else."""
    names = {"compiled": bool, "precision": str, "threads": int, "micro_batch": int}
    if not isinstance(value, dict) or value.keys() != names.keys() or any(type(value[name]) is not kind for name, kind in names.items()):
        return None
    plan = ComputePlan(**value)
    known = plan.precision in get_args(PlanPrecision) and not (plan.compiled and plan.precision == "int8")
    return plan if known and plan.threads > 0 and plan.micro_batch > 0 else None


def read_plan(path: Path) -> ComputePlan | None:
    """The plan in a file that `write_plan` wrote; None if the file is missing or damaged, because a plan can be made again."""
    with contextlib.suppress(BulletError, OSError):
        value = read_json(path)
        return parse_plan(value.get("choice")) if isinstance(value, dict) else None
    return None


def write_plan(path: Path, plan: ComputePlan, **facts: Any) -> None:
    """Write a plan, and the facts on which it rests, as JSON.

    Raises:
        BulletError: the file cannot be written.
    """
    write_json(path, {"choice": plan.as_dict(), **facts})


def plan_file_name(processes: int) -> str:
    """Name of the file beside a run's checkpoints that holds its plan.

    There is one file for each number of processes: another number groups the sums differently and gets its own plan.
    """
    return "compute.json" if processes == 1 else f"compute-{processes}.json"


def cached_plan_file(question: dict[str, Any]) -> Path:
    """The file in the user's cache folder for the plan that was measured for `question` (machine, versions, shape, settings)."""
    return cache_folder() / "tune" / f"{sha256_of_json(question)[:16]}.json"


def cached_plans(processor: str) -> list[str]:
    """The plans that were measured on this processor, newest first, each as one line of text."""
    lines: list[tuple[float, str]] = []
    for path in (cache_folder() / "tune").glob("*.json"):
        plan = read_plan(path)
        if plan is None:
            continue
        facts = read_json(path)
        with contextlib.suppress(KeyError, TypeError, ValueError):
            question = facts["question"]
            if question["processor"] == processor:
                size = f"{question['parameters'] / 1e6:.1f}M x {question['context']}"
                lines.append((path.stat().st_mtime, f"{size}: {plan}, {facts['tokens_per_s']:,.0f} tokens/s"))
    return [line for _, line in sorted(lines, reverse=True)]
