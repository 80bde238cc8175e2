"""Runs mutated model files through the reader, every path of the native engine, and `load` and `Session` as programs use them.

Each file must give one clear error or numbers, and never a crash.

    python tests/native/mutate.py SECONDS [LIBRARY]

LIBRARY is another build of the engine, such as one with AddressSanitizer (`make sanitize`).
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from bulletlm.errors import BulletError
from bulletlm.formats.bullet.layout import HEADER_END
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.quant.types import standard_types
from bulletlm.runtime import Session, load, native
from bulletlm.runtime.random import seeded
from bulletlm.runtime.sampling import Sampling
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.text.train_tokenizer import model_of_pieces

SEED = 20


def seeds(folder: Path) -> list[bytes]:
    """Small valid files: the usual types, and every type."""
    proto = model_of_pieces([("ab", -1.0), ("▁ab", -2.0)])
    pieces = Tokenizer(proto).pieces()
    shape = ModelShape(len(pieces), 32, 2, 4, 2, 32, 24)
    rng = np.random.default_rng(SEED)
    weights = {name: (rng.standard_normal(extents) * 0.2).astype(np.float32) for name, extents in shape.tensors().items()}
    usual = standard_types(shape)
    kinds = ("BQ8", "F16", "F32", "BQ4")
    every = {name: type if type == "F32" else kinds[i % 4] for i, (name, type) in enumerate(usual.items())}
    files = []
    for types in (usual, every):
        write_bullet(
            folder / "seed.bullet",
            ModelContents(
                shape=shape,
                tensors=weights,
                types=types,
                tokenizer_proto=proto,
                pieces=pieces,
                metadata={"license": "CC0-1.0", "sampling": {"temperature": 1, "top_k": 5}},
            ),
        )
        files.append((folder / "seed.bullet").read_bytes())
    return files


def mutated(file: bytes, rng: np.random.Generator) -> bytes:
    """Change a few bytes anywhere, or numbers of the header (whose length is kept, so that the rest stays in its place)."""
    out = bytearray(file)
    end = file.index(HEADER_END)
    kind = rng.integers(4)
    if kind == 0:  # bytes of the tensors: always a model that loads, or a scale that is not finite
        for at in rng.integers(end, len(out), rng.integers(1, 200)):
            out[at] = rng.integers(256)
    elif kind == 1:
        for at in rng.integers(0, len(out), rng.integers(1, 8)):
            out[at] ^= 1 << rng.integers(8)
    elif kind == 2:
        digits = [i for i in range(end) if chr(out[i]).isdigit()]
        for at in rng.choice(digits, rng.integers(1, 4)):
            out[at] = ord("0") + rng.integers(10)
    else:
        return _another_shape(file, end, rng)
    return bytes(out)


def _another_shape(file: bytes, end: int, rng: np.random.Generator) -> bytes:
    """A valid header in which one field of the shape is another number; all offsets as before."""
    header = json.loads(file[:end])
    name = rng.choice([name for name, value in header["shape"].items() if type(value) is int])
    header["shape"][name] = int(rng.choice([0, 1, 2, 3, 16, 31, 33, 64, 1 << 16, 1 << 31, 1 << 62, -1]))
    text = json.dumps(header).encode()
    return text + b" " * max(0, end - len(text)) + file[end:] if len(text) <= end else text + file[end:]


def try_file(path: Path, paths: list[str]) -> bool:
    """Read and run a file on every path; return whether it could be run. Every error except BulletError is raised."""
    try:
        file = open_bullet(path)
        tensors = {name: file.read_blocks(name) for name in file.tensors}
        for name in paths:
            engine = native.NativeEngine(file.shape, tensors, name, turbo=len(name) % 2 == 0)
            sampler = native.NativeSampler(Sampling(), seeded([0]), [1, 2], file.shape.vocab_size)
            tokens = np.arange(min(15, file.shape.max_seq_len)) % file.shape.vocab_size
            engine.generate(tokens, engine.new_cache(), sampler, [2], 12)
            engine.score(tokens[None])
    except BulletError as error:
        if "\n" in str(error):
            raise AssertionError(f"not one line: {error!r}") from error
        return False
    return True


def try_door(path: Path, turbo: bool) -> bool:
    """The same with a file that is loaded as `bullet generate` loads it."""
    try:
        model = load(path, engine="native", turbo=turbo, threads=2)
        ids = model.tokenizer.encode("ab कखग ab")
        list(Session(model).generate(ids, replace(model.sampling, max_tokens=4)))
    except BulletError as error:
        if not str(error).isprintable():
            raise AssertionError(f"not one line: {error!r}") from error
        return False
    return True


def run(seconds: float, least: int) -> tuple[int, int]:
    """Try files for `seconds`, at least `least` files; return their number, and how many of them could be run."""
    rng = np.random.default_rng(SEED)
    tried = ran = 0
    paths = native.available_paths()
    with tempfile.TemporaryDirectory() as folder:
        files, path = seeds(Path(folder)), Path(folder) / "mutated.bullet"
        for content in files:
            path.write_bytes(content)
            assert try_file(path, paths) and try_door(path, turbo=False)
        end = time.monotonic() + seconds
        while tried < least or time.monotonic() < end:
            path.unlink()  # a new file, so that no mapping of the old one is cut
            path.write_bytes(mutated(files[tried % len(files)], rng))
            ran += try_file(path, paths)
            try_door(path, turbo=tried % 3 == 0)
            tried += 1
    return tried, ran


if __name__ == "__main__":
    if len(sys.argv) > 2:
        native.library_path = lambda: sys.argv[2]  # type: ignore[assignment]
    total, good = run(float(sys.argv[1]), 100)
    print(f"{total} mutated files, of which {good} could be run, on {', '.join(native.available_paths())}")
