"""Compiles the C engine to WebAssembly, and makes the library for web developers a folder that npm can publish.

    python tools/build_wasm.py                 writes src/bulletlm/formats/html/bullet-simd.wasm and bullet-scalar.wasm
    python tools/build_wasm.py --check         compares them with what this compiler makes, and fails if they differ
    python tools/build_wasm.py --npm FOLDER    writes bulletlm.js, its types and package.json

It needs clang and wasm-ld (Debian: `apt-get install clang lld`), no other library, and no emscripten. The files in the package were made
with the compiler that `COMPILER` names; another version makes other bytes that compute the same.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "src" / "bulletlm" / "runtime" / "native"
HTML = ROOT / "src" / "bulletlm" / "formats" / "html"

COMPILER = "Debian clang version 14.0.6"
VARIANTS: dict[str, tuple[list[str], set[str]]] = {
    "bullet-simd.wasm": (["-msimd128"], {"threads.c", "kernels_portable.c"}),
    "bullet-scalar.wasm": ([], {"threads.c"}),
}
"""Name of each module -> flags of the compiler, and files of the engine that it does not have. WebAssembly has one thread (libc.c).

A browser without 128-bit vectors takes the second module.
"""

FLAGS = [
    "--target=wasm32",
    "-std=gnu11",
    "-O3",
    "-nostdlibinc",
    "-fvisibility=hidden",
    # As in setup.py: no flag changes results.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
]
LINK = ["--no-entry", "--export-dynamic", "--stack-first", "-z", "stack-size=262144", "--strip-all", "--export=malloc", "--export=free"]


def compile_module(name: str, target: Path) -> None:
    """Compile the module `name` to `target`; on an error of the compiler, print its message and raise CalledProcessError."""
    flags, left_out = VARIANTS[name]
    sources = [path for path in sorted(ENGINE.glob("*.c")) if path.name not in left_out] + sorted((HTML / "native").glob("*.c"))
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for source in sources:
            object_ = Path(folder) / f"{source.stem}.o"
            # memcpy and the like would otherwise be compiled to calls of themselves, and the engine's small copies must not be calls.
            builtin = ["-fno-builtin"] if source.name == "libc.c" else []
            includes = [f"-I{HTML / 'native' / 'include'}", f"-I{ENGINE}"]
            command = ["clang", *FLAGS, *flags, *builtin, *includes, "-c", source.relative_to(ROOT), "-o", object_]
            subprocess.run(command, check=True, cwd=ROOT, timeout=300)
            objects.append(object_)
        subprocess.run(["wasm-ld", *LINK, *objects, "-o", target], check=True, timeout=300)


def compiler() -> str:
    """The first line that clang prints about itself."""
    return subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()[0]


def check() -> int:
    """Compile again and compare the bytes; returns 1 if they differ though the compiler is the same."""
    if compiler() != COMPILER:
        print(f"not compared: this is {compiler()}, and the files in the package were made with {COMPILER}")
        return 0
    result = 0
    with tempfile.TemporaryDirectory() as folder:
        for file in VARIANTS:
            compile_module(file, Path(folder) / file)
            if (Path(folder) / file).read_bytes() != (HTML / file).read_bytes():
                print(f"{file} is not what the C code compiles to: run python tools/build_wasm.py", file=sys.stderr)
                result = 1
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--npm", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.npm:
        sys.path.insert(0, str(ROOT / "src"))
        from bulletlm.formats.html.bundle import write_npm_folder

        write_npm_folder(arguments.npm)
        return 0
    if arguments.check:
        return check()
    for name in VARIANTS:
        compile_module(name, HTML / name)
        print(f"{name}: {(HTML / name).stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
