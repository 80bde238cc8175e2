"""`bullet doctor`: the machine, the installation, and what is missing."""

import shutil
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bulletlm.extras import EXTRAS, PURPOSES, install_command, missing
from bulletlm.hardware import Machine, inspect_machine
from bulletlm.runtime.native import summary
from bulletlm.terminal import echo, printable_json
from bulletlm.train.backend.native import optimizer_paths, optimizer_problem
from bulletlm.train.backend.plan import Capabilities, cached_plans, inspect_capabilities

GB = 1e9
NEEDED_DISK = 2 * GB
NEEDED_MEMORY = 1.5 * GB
"""Bytes below which `bullet doctor` gives advice."""


def examine(folder: Path) -> dict[str, Any]:
    """Facts about machine and installation; `advice` holds one sentence for each thing that is missing."""
    machine = inspect_machine()
    capabilities = inspect_capabilities("cpu", machine)
    free = shutil.disk_usage(folder).free
    advice = list(_advice(machine, free))
    return {
        **asdict(machine),
        "bf16": capabilities.bf16,
        "int8": capabilities.int8_problem is None,
        "training": _arithmetic(capabilities),
        "optimizer": _optimizer(),
        "disk_free": free,
        "python": sys.version.split()[0],
        "torch": _installed("torch"),
        "runtime": summary(),
        "training_choices": cached_plans(machine.processor),
        "missing_extras": {extra: {"for": PURPOSES[extra], "install": install_command(extra)} for extra in EXTRAS if missing(extra)},
        "advice": advice,
    }


def print_doctor(as_json: bool) -> None:
    """Print the result of `examine` for the current folder, as text or as JSON."""
    facts = examine(Path.cwd())
    if as_json:
        print(printable_json(facts))
        return
    sets = ", ".join(facts["instruction_sets"]) or "none that BulletLM uses"
    rows = [
        ("processor", f"{facts['processor']}, {facts['cores']} cores for this process"),
        ("instructions", sets),
        ("training in", facts["training"]),
        ("optimizer", facts["optimizer"]),
        ("memory", f"{facts['memory'] / GB:.1f} GB, {facts['memory_available'] / GB:.1f} GB free"),
        ("disk here", f"{facts['disk_free'] / GB:.1f} GB free"),
        ("system", f"{facts['system']}, Python {facts['python']}"),
        ("torch", facts["torch"] or "not installed"),
        ("compiler", facts["compiler"] or "none"),
        ("models run on", facts["runtime"]),
    ]
    rows += [("fastest here", choice) for choice in facts["training_choices"][:5]]
    for name, value in rows:
        echo(f"{name:<15}{value}")
    print()
    for sentence in facts["advice"]:
        echo(f"- {sentence}")
    if facts["missing_extras"]:
        print(f"{chr(10) if facts['advice'] else ''}Optional parts that are not installed:\n")
        for name, extra in facts["missing_extras"].items():
            echo(f"  {name:<11}to {extra['for']}\n  {'':<11}{extra['install']}")
        print()
    if not facts["advice"]:
        print("Nothing that is necessary is missing. Start with: bullet run demo")


def _arithmetic(capabilities: Capabilities) -> str:
    """The precisions that train fast here, and why int8 is missing if it is."""
    problem = capabilities.int8_problem
    fast = ["int8"] * (problem is None) + ["bf16"] * capabilities.bf16
    precisions = f"{', '.join(fast)} or fp32" if fast else "fp32"
    return f"{precisions} ({problem})" if problem else precisions


def _optimizer() -> str:
    """What takes the optimizer steps of a training on the CPU."""
    problem = optimizer_problem()
    return f"torch ({problem})" if problem else f"native ({optimizer_paths()[0]})"


def _advice(machine: Machine, free: float) -> list[str]:
    """One sentence for each thing that is missing; `free` is the space on disk in bytes."""
    advice = []
    if modules := missing("train"):
        advice.append(f"models can run but not be trained, since {', '.join(modules)} are not installed: {install_command('train')}")
    if machine.compiler is None:
        advice.append("there is no C++ compiler: QAT and training in fp32 or bf16 are slower; install g++")
    if free < NEEDED_DISK:
        advice.append(
            f"only {free / GB:.1f} GB of disk are free: a run keeps up to five checkpoints; make {NEEDED_DISK / GB:.0f} GB available"
        )
    if machine.memory_available < NEEDED_MEMORY:
        advice.append(f"only {machine.memory_available / GB:.1f} GB of memory are free: close other programs before training")
    return advice


def _installed(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
