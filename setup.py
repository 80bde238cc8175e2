"""The C code, built where there is a compiler; everything else stands in pyproject.toml.

Without a compiler (or with one that fails) the installation goes on: models then run in numpy and are trained by torch alone,
and `bullet doctor` says so.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

PACKAGE = Path("src/bulletlm")


def native(package: str, *borrowed: str) -> Extension:
    """The C files of `package`, and others, as its module `_native`: a shared library that Python opens with ctypes.

    For gcc and clang; Python's headers are not needed.
    """
    own = PACKAGE / package / "native"
    return Extension(
        f"bulletlm.{package}._native",
        sources=sorted(str(path) for path in [*own.glob("*.c"), *(PACKAGE / name for name in borrowed)]),
        depends=sorted(str(path) for path in PACKAGE.glob("*/native/*.h")),
        extra_compile_args=[
            "-std=gnu11",
            "-O3",
            "-fvisibility=hidden",
            # errno and floating-point traps are nobody's business here, and stand in the way of vectors. Nothing that changes
            # results: the same sums are rounded in the same order everywhere.
            "-fno-math-errno",
            "-fno-trapping-math",
            "-ffp-contract=off",
            "-fno-wrapv",  # Python's own flag; it costs 5 % here
            "-pthread",
        ],
        extra_link_args=["-pthread"],
        libraries=["m"],
        optional=True,
    )


extensions = [native("runtime"), native("train", "runtime/native/threads.c")]
setup(ext_modules=extensions if os.name == "posix" and sys.byteorder == "little" else [])
