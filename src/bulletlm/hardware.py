"""What this computer has: processor, memory, compiler, disk. Read from the system, never assumed."""

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "asimd", "asimddp", "bf16", "i8mm")
"""The extensions that decide speed here, x86-64 first, then ARM; spelled as Linux spells them."""


@dataclass(frozen=True)
class Machine:
    """A snapshot of the computer; memory in bytes."""

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
        """Whether 8-bit integers are multiplied and summed by one instruction (VNNI): several times faster than FP32."""
        return any(name in self.instruction_sets for name in ("avx512_vnni", "avx_vnni"))


def inspect_machine() -> Machine:
    """Look at the computer; takes a few milliseconds."""
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
    """Cores this process may use (a container or `taskset` may allow fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_folder() -> Path:
    """Where what can be made again is kept for the next run of this user; it need not exist yet."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "bulletlm"


def largest_size(process: int | str = "self") -> int | None:
    """Bytes that a process has filled at the most so far; None where the system does not tell (Linux does) or it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def keep_memory() -> bool:
    """Ask glibc to keep freed memory instead of returning it each step; worth 10-20 % of training speed.

    Returns:
        Whether the C library took the advice (false where it is not glibc).
    """
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
    except (OSError, AttributeError, TypeError):
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # from malloc.h
    return bool(mallopt(mmap_threshold, 1 << 30) and mallopt(trim_threshold, (1 << 31) - 1) and mallopt(top_pad, 64 << 20))


def park_idle_threads() -> None:
    """Let OpenMP threads spin only for a moment before they sleep while they wait for each other; call it before torch is imported.

    By default they spin for milliseconds, which beside another busy program is time spent waiting for a partner that is not
    running. Measured on two cores (tokens/s, two runs each): alone 12,500-12,900 by default, 11,400-14,000 so, 9,200-10,100
    when they sleep at once; beside one busy program 700-4,700, 2,400-5,700 and 2,600-7,000.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _processor() -> tuple[str, set[str]]:
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
    """First line of the C++ compiler's version; torch.compile needs one."""
    import shutil
    import subprocess

    path = shutil.which("g++") or shutil.which("clang++")
    if path is None:
        return None
    result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10)
    return result.stdout.splitlines()[0] if result.returncode == 0 and result.stdout else None
