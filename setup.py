"""Builds the C libraries; everything else is in pyproject.toml.

The libraries are optional. Without a C compiler, or if compilation fails, the installation succeeds without them: models then run in
numpy, training uses torch, and `bullet doctor` says so.

Python opens the libraries with ctypes, so they do not depend on its version: one wheel (py3-none-PLATFORM) serves every Python 3.
"""

import gzip
import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

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


class BuildLibraries(build_ext):
    """Names the libraries without the version of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"


class PackCorpus(build_py):
    """Packs the text of the corpus: it takes 9 MB, and a computer that only runs models does not read it."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for part in ("sample", "simple"):
            for path in (Path(self.build_lib) / "bulletlm/data" / part).iterdir():
                if path.suffix in (".jsonl", ".tsv", ".txt"):
                    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
                    path.unlink()


class PlatformWheel(bdist_wheel):
    """A wheel for every Python 3 on one platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


extensions = [native("runtime"), native("train", "runtime/native/threads.c")]
setup(
    ext_modules=extensions if os.name == "posix" and sys.byteorder == "little" else [],
    cmdclass={"bdist_wheel": PlatformWheel, "build_ext": BuildLibraries, "build_py": PackCorpus},
)
