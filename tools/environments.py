"""Virtual environments with the wheel, on the Pythons of this machine, and what they download and take on disk."""

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from check_results import CheckError
from packaging.version import InvalidVersion, Version
from programs import LONG_SECONDS, clean_environment, run_program

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"

PYTHON_VERSIONS = ("3.11", "3.12", "3.13", "3.14")
"""The versions of Python that a release supports."""

NO_COMPILER = {"CC": "no-compiler", "CXX": "no-compiler"}
"""Variables that let every attempt to compile fail."""


class Size(NamedTuple):
    """Bytes of an installation: downloaded and on disk, and the same of torch alone."""

    downloaded: int
    installed: int
    torch_downloaded: int
    torch_installed: int


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the package."""

    folder: Path

    def bullet(self, *words: object, cwd: Path, text: str = "") -> str:
        """Run a command of `bullet` in a folder, without any variable of this process; returns what it printed.

        Raises:
            CheckError: it failed.
        """
        variables = {"PATH": str(self.folder / "bin"), "HOME": str(cwd), "TMPDIR": str(cwd), "LANG": "C.UTF-8"}
        return run_program([self.folder / "bin" / "bullet", *words], timeout=LONG_SECONDS, cwd=cwd, env=variables, text=text)

    def bullet_error(self, *words: object, cwd: Path) -> str:
        """Run a command of `bullet` that must fail; returns what it printed."""
        try:
            self.bullet(*words, cwd=cwd)
        except CheckError as error:
            return error.output
        raise CheckError(f"bullet {' '.join(map(str, words))} must fail, but it ended with exit code 0")


def find_pythons(pyenv: Path | None = None) -> dict[str, Path]:
    """The interpreters on PATH and of pyenv that can make a virtual environment, by version, the oldest version first.

    Args:
        pyenv: the folder of pyenv; None for that of the user.
    """
    pyenv = pyenv or Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found: dict[str, Path] = {}
    for version in PYTHON_VERSIONS:
        on_path = [shutil.which(f"python{version}", path=folder) for folder in os.get_exec_path()]
        for python in [*map(Path, filter(None, on_path)), *pyenv_pythons(version, pyenv)]:
            if _makes_environments(python, version):
                found[version] = python
                break
    return found


def pyenv_pythons(version: str, pyenv: Path) -> list[Path]:
    """pyenv's interpreters of a version such as 3.13, the newest release first; other builds, such as 3.13.0t, are left out."""
    releases: list[tuple[Version, Path]] = []
    for folder in (pyenv / "versions").glob(f"{version}.*"):
        with suppress(InvalidVersion):
            releases.append((Version(folder.name), folder / "bin" / "python"))
    return [python for _, python in sorted(releases, reverse=True)]


def _makes_environments(python: Path, version: str) -> bool:
    """Whether an interpreter starts, has this version, and has what `venv` needs."""
    script = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
    try:
        return run_program([python, "-c", script], timeout=60).strip() == version
    except CheckError:
        return False


def install_wheel(python: Path, wheel: Path, extra: str, folder: Path, constraints: Path | None = CONSTRAINTS) -> tuple[Environment, Size]:
    """Install a wheel with an extra ("" for none) in a fresh environment in `folder`, without a compiler; also returns its size."""
    environment = Environment(folder / "venv")
    run_program([python, "-m", "venv", environment.folder])
    packages = next((environment.folder / "lib").glob("python*/site-packages"))
    before = {entry.name for entry in packages.iterdir()}  # pip, and on Python 3.11 setuptools
    what = f"{wheel}[{extra}]" if extra else str(wheel)
    pip = [environment.folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    pins = ["--constraint", constraints] if constraints else []
    with tempfile.TemporaryDirectory(dir=folder) as files:
        variables = clean_environment(**NO_COMPILER)
        download = [*pip, "download", "--only-binary=:all:", *pins, "--dest", files, what]
        run_program(download, timeout=LONG_SECONDS, env=variables)
        run_program([*pip, "install", "--no-index", "--find-links", files, what], timeout=LONG_SECONDS, env=variables)
        new = sum(disk_bytes(packages, entry.name) for entry in packages.iterdir() if entry.name not in before)
        size = Size(disk_bytes(Path(files)), new, disk_bytes(Path(files), "torch-*"), disk_bytes(packages, "torch*"))
    return environment, size


def disk_bytes(folder: Path, name: str = "*") -> int:
    """Bytes of the files in the entries of a folder that `name` matches."""
    files = [file for entry in folder.glob(name) for file in ([entry] if entry.is_file() else entry.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
