"""Tests that imports between packages run downwards only, so that the list of packages is also the order in which to read them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from paths import ROOT

PACKAGE = ROOT / "src" / "bulletlm"

ORDER = ("cli", "dashboard", "pipeline", "serve", "evaluate", "train", "data", "runtime", "formats", "config", "quant", "text", "shared")
"""Packages from the commands down to the foundations; "shared" stands for the modules directly below bulletlm."""


def layer(module: str) -> str:
    """The package of a dotted module name below bulletlm."""
    first = module.split(".")[1] if "." in module else ""
    if first == "__main__":
        return ORDER[0]
    return first if (PACKAGE / first / "__init__.py").is_file() and first else "shared"


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of every bulletlm module that a source text names: imports anywhere in it, and strings."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write the whole name"
            if node.module == "bulletlm":
                yield from ((node.lineno, f"bulletlm.{alias.name}") for alias in node.names)
            elif node.module and node.module.startswith("bulletlm."):
                yield node.lineno, node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("bulletlm"))
        # Strings of a whole name, as for import_module and `python -m`; prose in docstrings has spaces.
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"bulletlm(\.\w*)+", node.value):
            yield node.lineno, node.value


def violations(source: str, own: str) -> list[str]:
    """The imports in `source`, a module of layer `own`, that run upwards."""
    return [f"line {line}: {own} imports {name}" for line, name in imported(source) if ORDER.index(layer(name)) < ORDER.index(own)]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path: Path) -> None:
    name = ".".join(["bulletlm", *path.relative_to(PACKAGE).with_suffix("").parts])
    assert violations(path.read_text(encoding="utf-8"), layer(name)) == []


def test_every_package_has_its_place() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == set(ORDER) - {"shared"}


@pytest.mark.parametrize(
    "source",
    [
        "from bulletlm.train.loop import train",
        "import bulletlm.train.loop",
        "from bulletlm import train",
        "def f():\n    from bulletlm.train.loop import train",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bulletlm.train.loop import train",
        "import importlib\nimportlib.import_module('bulletlm.train.loop')",
        "import importlib\nimportlib.import_module(f'bulletlm.train.{name}')",
    ],
)
def test_the_check_sees_every_way_to_import(source: str) -> None:
    assert violations(source, "text")
    assert not violations(source, "cli")
