"""Computers to test with, so that no test depends on the CPU on which it runs."""

from bulletlm.hardware import Machine


def machine(*instruction_sets: str, processor: str = "a test CPU", cores: int = 2, compiler: str | None = "g++ 12") -> Machine:
    """A computer with these instruction sets and nothing else of note."""
    return Machine(processor, cores, instruction_sets, memory=8 << 30, memory_available=4 << 30, compiler=compiler, system="Linux 6")


MACHINES = {
    "no AVX-512": machine("avx2"),
    "VNNI only": machine("avx2", "avx512f", "avx512_vnni"),
    "BF16 only": machine("avx2", "avx512f", "avx512_bf16"),
    "VNNI and BF16": machine("avx2", "avx512f", "avx512_vnni", "avx512_bf16"),
    "ARM": machine("asimd", "asimddp", "bf16", "i8mm"),
}
"""By what decides how training is computed."""
