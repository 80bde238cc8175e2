"""Builds the C libraries; everything else is in pyproject.toml.

The libraries are optional. Without a C compiler, or if compilation fails, the installation succeeds without them: models then run in
numpy, training uses torch, and `bullet doctor` says so.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

PACKAGE = Path("src/bulletlm")


def native(package: str, *shared: str) -> Extension:
    """The shared library `_native` of `package`, which Python opens with ctypes: its own C files, and `shared` files of other packages.

    It is built with gcc or clang. Python's headers are not needed.
    """
    own = PACKAGE / package / "native"
    return Extension(
        f"bulletlm.{package}._native",
        sources=sorted(str(path) for path in [*own.glob("*.c"), *(PACKAGE / name for name in shared)]),
        depends=sorted(str(path) for path in PACKAGE.glob("*/native/*.h")),
        extra_compile_args=[
            "-std=gnu11",
            "-O3",
            "-fvisibility=hidden",
            # errno and floating-point traps are not used, and prevent vectorization. No flag changes results: the order of sums and
            # their rounding are the same with every compiler.
            "-fno-math-errno",
            "-fno-trapping-math",
            "-ffp-contract=off",
            "-fno-wrapv",  # -fwrapv comes from Python's build and makes the kernels 5 % slower
            "-pthread",
        ],
        extra_link_args=["-pthread"],
        libraries=["m"],
        optional=True,
    )


extensions = [native("runtime"), native("train", "runtime/native/threads.c")]
setup(ext_modules=extensions if os.name == "posix" and sys.byteorder == "little" else [])
