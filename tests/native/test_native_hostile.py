"""Runs a short version of `make sanitize`: mutated files, and the C checks in a normal build."""

import shutil
import subprocess
from pathlib import Path

import mutate
import pytest

from bulletlm.runtime.native import Unavailable, available_paths, library_path

try:
    PATHS = available_paths()
except Unavailable as error:
    pytest.skip(f"no native engine: {error}", allow_module_level=True)

NATIVE = Path(mutate.native.__file__).with_name("native")


def test_mutated_files() -> None:
    tried, ran = mutate.run(seconds=0, least=400)
    assert 0.1 < ran / tried < 0.9  # both kinds of ends are tried


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
def test_checks_in_c(tmp_path: Path) -> None:
    sources = [Path(__file__).with_name("check.c"), *sorted(NATIVE.glob("*.c"))]
    subprocess.run(["cc", "-std=gnu11", "-O2", "-pthread", *sources, "-lm", "-o", tmp_path / "check"], check=True, timeout=120)
    done = subprocess.run([tmp_path / "check"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[0].split()[1:] == PATHS


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize("library", [[], ["-DTRAIN_AVX512"], ["-DTRAIN_AVX2"]], ids=["engine", "training, 512 bits", "training, 256 bits"])
def test_errors_of_approximations(tmp_path: Path, library: list[str]) -> None:
    command = ["cc", "-std=gnu11", "-O2", "-ffp-contract=off", *library, Path(__file__).with_name("check_approx.c"), "-lm"]
    subprocess.run([*command, "-o", tmp_path / "check"], check=True, timeout=120)
    done = subprocess.run([tmp_path / "check"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_the_library_exports_its_api_only() -> None:
    names = subprocess.run(["nm", "-D", "--defined-only", library_path()], capture_output=True, text=True, check=True, timeout=30).stdout
    assert all(line.split()[-1].startswith(("bullet_", "_")) for line in names.splitlines()), names
