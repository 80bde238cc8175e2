"""Write the versions of an environment to constraints.txt, and its setuptools to the build requirements (`make pins` runs this).

Run it with the Python of a fresh environment in which the newest allowed versions were installed.
"""

import re
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]

LEFT_OUT = {"bulletlm", "pip", "wheel"}
"""The package itself, and pip, which is there before anything is pinned."""

FOR_CUDA = re.compile(r"(nvidia|cuda)-.*|triton")
"""Packages that only the CUDA builds of torch need; pip takes the versions that torch names."""


def pins(installed: Iterable[tuple[str, str]]) -> str:
    """Lines `name==version`, sorted by name, from names and versions. Local parts such as +cpu are left out: they name a build."""
    versions = {name: version.partition("+")[0] for name, version in installed}
    kept = [name for name in versions if name.lower() not in LEFT_OUT and not FOR_CUDA.fullmatch(name.lower())]
    return "".join(f"{name}=={versions[name]}\n" for name in sorted(kept, key=str.lower))


def pin_build(project: str, setuptools: str) -> str:
    """pyproject.toml with this version of setuptools as the only build requirement."""
    changed, count = re.subn(r"(?m)^requires = \[.*\]$", f'requires = ["setuptools=={setuptools}"]', project)
    if count != 1:
        raise SystemExit("pyproject.toml must have one line that begins with: requires = [")
    return changed


def main() -> None:
    installed = {each.metadata["Name"]: each.version for each in distributions()}
    (ROOT / "constraints.txt").write_text(pins(installed.items()), encoding="utf-8")
    project = ROOT / "pyproject.toml"
    project.write_text(pin_build(project.read_text(encoding="utf-8"), installed["setuptools"]), encoding="utf-8")


if __name__ == "__main__":
    main()
