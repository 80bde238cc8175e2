"""Descriptions of machines for tests, so that no test depends on the CPU on which it runs."""

from bulletlm.hardware import Machine
from bulletlm.train.backend.native import NO_AVX2, NO_INT8
from bulletlm.train.backend.plan import Capabilities


def machine(*instruction_sets: str, cores: int = 2, compiler: str | None = "g++ 12") -> Machine:
    """A computer with these instruction sets and default values for everything else."""
    return Machine("a test CPU", cores, instruction_sets, memory=8 << 30, memory_available=4 << 30, compiler=compiler, system="Linux 6")


MACHINES = {
    "no-avx512": machine("avx2"),
    "vnni": machine("avx2", "avx512f", "avx512_vnni"),
    "bf16": machine("avx2", "avx512f", "avx512_bf16"),
    "vnni-bf16": machine("avx2", "avx512f", "avx512_vnni", "avx512_bf16"),
    "arm": machine("asimd", "asimddp", "bf16", "i8mm"),
}
"""The kinds of CPU that differ in how training is computed."""

PRETENDED = {**MACHINES, "no-compiler": machine("avx2", compiler=None), "many-cores": machine("avx2", cores=32)}
"""What pytest's option --machine can pretend to run on (conftest.py)."""


def capabilities(computer: Machine, device: str = "cpu") -> Capabilities:
    """What `computer` can compute if the native training library was built for it."""
    return Capabilities(
        computer,
        device,
        bf16=device == "cpu" and computer.has_bf16,
        int8_problem=None if computer.has_int8 else NO_INT8,
        distillation_problem=None if device == "cpu" and "avx2" in computer.instruction_sets else NO_AVX2,
    )
