"""Tests that the package imports on Windows: modules that only POSIX systems have are imported only where their absence is handled."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from paths import ROOT

PACKAGE = ROOT / "src" / "bulletlm"

POSIX_MODULES = {"curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}

POSIX_FUNCTIONS = {"fork", "getpriority", "getuid", "geteuid", "mkfifo", "setpriority", "setsid", "sched_getaffinity", "statvfs", "uname"}
"""Functions of `os` that Windows does not have."""


def guarded(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a node is inside `try ... except ImportError`, `contextlib.suppress(ImportError)` or a check of the system."""
    inner: ast.AST = node
    while inner in parents:
        outer = parents[inner]
        if isinstance(outer, ast.Try) and inner in outer.body:
            caught = " ".join(ast.unparse(handler.type) for handler in outer.handlers if handler.type)
            if "ImportError" in caught or "ModuleNotFoundError" in caught:
                return True
        if isinstance(outer, ast.With) and any("suppress(ImportError" in ast.unparse(item) for item in outer.items):
            return True
        if isinstance(outer, ast.If | ast.IfExp) and any(
            word in ast.unparse(outer.test) for word in ("hasattr", "sys.platform", "os.name")
        ):
            return True
        inner = outer
    return False


def unguarded(source: str) -> Iterator[str]:
    """Uses of what only POSIX systems have, for which nothing is done on other systems."""
    tree = ast.parse(source)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in POSIX_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in POSIX_MODULES:
            names = [node.module or ""]
        elif isinstance(node, ast.Attribute) and node.attr in POSIX_FUNCTIONS and ast.unparse(node.value) == "os":
            names = [f"os.{node.attr}"]
        if not guarded(node, parents):
            yield from (f"line {node.lineno}: {name}" for name in names)  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_needs_posix(path: Path) -> None:
    assert list(unguarded(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import fcntl",
        "from fcntl import flock",
        "def f():\n    import resource",
        "if x:\n    import pwd",
        "try:\n    import pwd\nexcept ValueError:\n    pass",
        "try:\n    pass\nexcept ImportError:\n    import pwd",
        "import os\nos.getpriority(0, 0)",
    ],
)
def test_the_check_sees_it(source: str) -> None:
    assert list(unguarded(source))


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    import fcntl\nexcept ImportError:\n    fcntl = None",
        "import sys\nif sys.platform != 'win32':\n    import fcntl",
        "import contextlib\nwith contextlib.suppress(ImportError):\n    import readline",
        "import os\nn = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1",
    ],
)
def test_the_check_accepts_what_is_handled(source: str) -> None:
    assert list(unguarded(source)) == []
