"""Joins the JavaScript modules in js/ and the two WebAssembly modules to one script: the library, or the worker of the page."""

import base64
import json
import re
from pathlib import Path

import bulletlm
from bulletlm.errors import BulletError
from bulletlm.files import write_text

HERE = Path(__file__).parent

MODULES = ("errors", "json", "reader", "tokenizer", "code", "normalize", "stream", "random", "chat", "engine", "session", "model")
"""The files of js/ that make the library, each after those that it imports."""

PUBLIC = ("BulletError", "Model", "Session", "load")
WASM = {"simd": "bullet-simd.wasm", "scalar": "bullet-scalar.wasm"}

_IMPORT = re.compile(r"^import .*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*?|class|const|let) (\w+))", re.MULTILINE)
_NO_WASM = "const EMBEDDED_WASM = null;"


def library_source() -> str:
    """The library as one script without exports, with the WebAssembly modules inside it.

    Each module becomes a function that returns what it exports, so its other names stay its own.
    """
    parts = []
    for name in MODULES:
        text = _IMPORT.sub("", (HERE / "js" / f"{name}.js").read_text(encoding="utf-8"))
        names = ", ".join(_EXPORT.findall(text))
        parts.append(f"const {{ {names} }} = (() => {{\n{_EXPORT.sub('', text)}return {{ {names} }};\n}})();\n")
    source = "\n".join(parts)
    modules = {name: base64.b64encode(_wasm(file)).decode() for name, file in WASM.items()}
    assert source.count(_NO_WASM) == 1
    return source.replace(_NO_WASM, f"const EMBEDDED_WASM = {json.dumps(modules)};")


def write_npm_folder(folder: Path) -> None:
    """Write bulletlm.js, bulletlm.d.ts and package.json, ready for `npm publish`.

    Raises:
        BulletError: the folder cannot be written.
    """
    exports = f"\nexport {{ {', '.join(PUBLIC)} }};\n"
    write_text(folder / "bulletlm.js", library_source() + exports)
    write_text(folder / "bulletlm.d.ts", (HERE / "js" / "bulletlm.d.ts").read_text(encoding="utf-8"))
    package = json.loads((HERE / "js" / "package.json").read_text(encoding="utf-8"))
    write_text(folder / "package.json", json.dumps({**package, "version": bulletlm.__version__}, indent=2) + "\n")


def _wasm(name: str) -> bytes:
    try:
        return (HERE / name).read_bytes()
    except OSError:
        raise BulletError(f"{name} is missing in this installation of bulletlm: install it again") from None
