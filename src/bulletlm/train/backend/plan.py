"""Ways to do the arithmetic of a run, and which of them was measured to be fastest on this machine. Needs no torch."""

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from bulletlm.errors import BulletError
from bulletlm.files import read_json, sha256_of_json, write_json
from bulletlm.hardware import cache_folder

PlanPrecision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class ComputePlan:
    """How gradients are computed. None of it changes what is computed, only how it is rounded and how long it takes.

    Attributes:
        compiled: the layers go through torch.compile; never with int8.
        precision: of matrix products; weights are FP32. int8 is the native pass (train/native.py), the others are torch's.
        threads: of this process.
        micro_batch: sequences in one forward and backward pass.
    """

    compiled: bool
    precision: PlanPrecision
    threads: int
    micro_batch: int

    def __str__(self) -> str:
        how = "native" if self.precision == "int8" else "compiled" if self.compiled else "eager"
        return f"{self.precision}, {how}, {self.threads} thread{'s' * (self.threads > 1)}, {self.micro_batch} sequences a pass"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `parse_plan` reads it."""
        return asdict(self)


def parse_plan(value: Any) -> ComputePlan | None:
    """What `as_dict` returned; None where it is anything else."""
    names = {"compiled": bool, "precision": str, "threads": int, "micro_batch": int}
    if not isinstance(value, dict) or value.keys() != names.keys() or any(type(value[name]) is not kind for name, kind in names.items()):
        return None
    choice = ComputePlan(**value)
    known = choice.precision in get_args(PlanPrecision) and not (choice.compiled and choice.precision == "int8")
    return choice if known and choice.threads > 0 and choice.micro_batch > 0 else None


def read_plan(path: Path) -> ComputePlan | None:
    """The choice in a file of ours; None where it is missing or damaged, which costs no more than measuring again."""
    with contextlib.suppress(BulletError, OSError):
        value = read_json(path)
        return parse_plan(value.get("choice")) if isinstance(value, dict) else None
    return None


def plan_file_name(processes: int) -> str:
    """The file of a run's checkpoints that keeps its choice. Another number of processes rounds its sums differently, and chooses anew."""
    return "compute.json" if processes == 1 else f"compute-{processes}.json"


def cached_plan_file(question: dict[str, Any]) -> Path:
    """Where the answer to `question` (machine, versions, shape, settings) is kept, in the cache folder of the user."""
    return cache_folder() / "tune" / f"{sha256_of_json(question)[:16]}.json"


def write_plan(path: Path, choice: ComputePlan, **facts: Any) -> None:
    """Keep a choice, and what it rests on."""
    write_json(path, {"choice": choice.as_dict(), **facts})


def cached_plans(processor: str) -> list[str]:
    """What was measured on this processor, newest first, one line for each shape."""
    lines: list[tuple[float, str]] = []
    for path in (cache_folder() / "tune").glob("*.json"):
        choice = read_plan(path)
        if choice is None:
            continue
        facts = read_json(path)
        with contextlib.suppress(KeyError, TypeError, ValueError):
            question = facts["question"]
            if question["processor"] == processor:
                size = f"{question['parameters'] / 1e6:.1f}M x {question['context']}"
                lines.append((path.stat().st_mtime, f"{size}: {choice}, {facts['tokens_per_s']:,.0f} tokens/s"))
    return [line for _, line in sorted(lines, reverse=True)]
