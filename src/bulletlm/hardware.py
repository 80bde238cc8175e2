"""What this computer has: CPU, memory, compiler. All values are read from the system."""

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "asimd", "asimddp", "bf16", "i8mm")
"""The instruction sets on which the speed of this program depends, x86-64 first, then ARM; the names are those of Linux."""


@dataclass(frozen=True)
class Machine:
    """The state of the computer at one moment.

    Attributes:
        processor: name of the CPU.
        cores: number of cores that this process may use.
        instruction_sets: those of INSTRUCTION_SETS that the CPU has; always empty on systems other than Linux.
        memory: in bytes.
        memory_available: bytes that programs can still allocate without swapping.
        compiler: first line of the version of the C++ compiler; None if there is none.
        system: name and release of the operating system.
    """

    processor: str
    cores: int
    instruction_sets: tuple[str, ...]
    memory: int
    memory_available: int
    compiler: str | None
    system: str

    @property
    def has_bf16(self) -> bool:
        """Whether the CPU has bfloat16 matrix products (without them bf16 is several times slower than FP32)."""
        return any(name in self.instruction_sets for name in ("avx512_bf16", "amx_bf16", "bf16"))

    @property
    def has_int8(self) -> bool:
        """Whether one instruction multiplies and sums 8-bit integers (VNNI), which is several times faster than FP32."""
        return any(name in self.instruction_sets for name in ("avx512_vnni", "avx_vnni"))


def inspect_machine() -> Machine:
    """Read the properties of this computer; takes a few milliseconds."""
    import platform

    import psutil

    memory = psutil.virtual_memory()
    processor, flags = _processor()
    return Machine(
        processor=processor,
        cores=available_cores(),
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        memory=memory.total,
        memory_available=memory.available,
        compiler=_compiler(),
        system=f"{platform.system()} {platform.release()}",
    )


def available_cores() -> int:
    """Number of cores that this process may use; a container or `taskset` may allow fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_folder() -> Path:
    """The user's folder for files that can be made again; it may not exist yet."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "bulletlm"


def largest_size(process: int | str = "self") -> int | None:
    """Peak memory of a process so far (resident set size), in bytes; None if it has ended or the system is not Linux."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def keep_memory() -> bool:
    """Ask glibc to keep freed memory instead of returning it to the system at each step; training is 10-20 % faster.

    Returns:
        Whether the C library accepted this; False if it is not glibc.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
    except (OSError, AttributeError, TypeError):
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # from malloc.h
    return bool(mallopt(mmap_threshold, 1 << 30) and mallopt(trim_threshold, (1 << 31) - 1) and mallopt(top_pad, 64 << 20))


def park_idle_threads() -> None:
    """Let OpenMP threads that wait for each other spin only briefly before they sleep. Call this before torch is imported.

    By default they spin for milliseconds. If another program is busy, that time is spent waiting for a thread that is not running.
    Measured on two cores, tokens/s, two runs each:

    | | default | with this | threads sleep at once |
    |---|---|---|---|
    | nothing else runs | 12,500-12,900 | 11,400-14,000 | 9,200-10,100 |
    | one busy program | 700-4,700 | 2,400-5,700 | 2,600-7,000 |
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _processor() -> tuple[str, set[str]]:
    """Name of the CPU and Linux's names of its features; the features are empty on other systems."""
    import platform

    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine(), set()
    name, flags = platform.machine(), set[str]()
    for line in info.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip().lower() in ("flags", "features"):
            flags = set(value.split())
    return name, flags


def _compiler() -> str | None:
    """First line of the C++ compiler's version; None if there is none. torch.compile needs a compiler."""
    import shutil
    import subprocess

    path = shutil.which("g++") or shutil.which("clang++")
    if path is None:
        return None
    result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10)
    return result.stdout.splitlines()[0] if result.returncode == 0 and result.stdout else None
