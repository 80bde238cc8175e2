"""The native engine, built where there is a C compiler; everything else stands in pyproject.toml.

Without a compiler (or with one that fails) the installation goes on: models then run in numpy, and `bullet doctor` says so.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("src/bulletlm/runtime/native")

# gcc and clang; a shared library that Python opens with ctypes, so Python's headers are not needed.
native = Extension(
    "bulletlm.runtime._native",
    sources=sorted(str(path) for path in NATIVE.glob("*.c")),
    depends=sorted(str(path) for path in NATIVE.glob("*.h")),
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

setup(ext_modules=[native] if os.name == "posix" and sys.byteorder == "little" else [])
