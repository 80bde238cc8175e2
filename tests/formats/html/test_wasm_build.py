"""Tests that the WebAssembly modules in the package are what the C code compiles to, and that the library can be published."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from javascript import NODE

from bulletlm import __version__
from bulletlm.formats.html.bundle import MODULES, WASM, write_npm_folder
from paths import DOCS, ROOT

sys.path.insert(0, str(ROOT / "tools"))
import build_wasm

needs_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the modules, compiled now."""
    if shutil.which("clang") is None or shutil.which("wasm-ld") is None:
        pytest.skip("clang and wasm-ld are not installed: apt-get install clang lld")
    folder = tmp_path_factory.mktemp("wasm")
    for name in build_wasm.VARIANTS:
        build_wasm.compile_module(name, folder / name)
    return folder


@pytest.mark.parametrize("name", build_wasm.VARIANTS)
def test_the_modules_are_up_to_date(built: Path, name: str) -> None:
    if build_wasm.compiler() != build_wasm.COMPILER:
        pytest.skip(f"this is {build_wasm.compiler()}, and other versions make other bytes")
    assert (built / name).read_bytes() == (build_wasm.HTML / name).read_bytes(), "run python tools/build_wasm.py"


@needs_node
@pytest.mark.parametrize("name", build_wasm.VARIANTS)
def test_a_module_of_any_compiler_computes_the_same(built: Path, tmp_path: Path, bullet_path: Path, name: str) -> None:
    script = f"""
        import {{ readFileSync }} from "node:fs";
        const {{ load }} = await import({json.dumps((build_wasm.HTML / "js" / "model.js").as_uri())});
        const file = readFileSync({json.dumps(str(bullet_path))});
        const run = async (path) => {{
            const wasm = readFileSync(path);
            const model = await load(file, {{ wasm: {{ simd: wasm, scalar: wasm }} }});
            return model.logits(Array.from({{ length: 30 }}, (_, i) => (i * 29) % 480), true);
        }};
        const [ours, theirs] = [await run({json.dumps(str(built / name))}), await run({json.dumps(str(build_wasm.HTML / name))})];
        process.exitCode = ours.length > 1000 && ours.every((x, i) => x === theirs[i]) ? 0 : 1;
    """
    (tmp_path / "compare.mjs").write_text(script, encoding="utf-8")
    subprocess.run([NODE, tmp_path / "compare.mjs"], check=True, timeout=60)


def test_modules_are_small_and_need_nothing_from_outside() -> None:
    for name in WASM.values():
        content = (build_wasm.HTML / name).read_bytes()
        assert content.startswith(b"\0asm\1\0\0\0") and len(content) < 100_000
    assert set(WASM.values()) == set(build_wasm.VARIANTS)
    assert {path.stem for path in (build_wasm.HTML / "js").glob("*.js")} == set(MODULES)


@needs_node
def test_the_example_of_the_documentation(tmp_path: Path, bullet_path: Path) -> None:
    """The folder for npm, used as docs/browser.md shows."""
    write_npm_folder(tmp_path / "node_modules" / "bulletlm")
    package = json.loads((tmp_path / "node_modules" / "bulletlm" / "package.json").read_text(encoding="utf-8"))
    assert package["version"] == __version__
    assert all((tmp_path / "node_modules" / "bulletlm" / name).is_file() for name in package["files"])
    example = re.search(r"```js\n(.*?)```", (DOCS / "browser.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example and len(example[1].splitlines()) <= 20
    (tmp_path / "example.mjs").write_text(example[1], encoding="utf-8")
    shutil.copy(bullet_path, tmp_path / "model.bullet")
    done = subprocess.run([NODE, "example.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ tokens", done.stdout)


def test_the_types_name_what_the_library_has() -> None:
    types = (build_wasm.HTML / "js" / "bulletlm.d.ts").read_text(encoding="utf-8")
    source = (build_wasm.HTML / "js" / "model.js").read_text(encoding="utf-8")
    body = source[source.index("export class Model") :]
    methods = set(re.findall(r"^  (?:async \*|get )?([a-z]\w+)\([^)]*(?:\{[^}]*\}[^)]*)?\) \{$", body, re.MULTILINE)) - {"constructor"}
    assert methods >= {"tokenize", "generate", "close"}
    assert [name for name in methods if not re.search(rf"^  (?:readonly )?{name}[(:]", types, re.MULTILINE)] == []
    options = re.search(r"const SETTINGS = \{(.*?)\};", source, re.DOTALL)
    assert options
    assert [name for name in re.findall(r"^  (\w+):", options[1], re.MULTILINE) if f"  {name}?: number;" not in types] == []
