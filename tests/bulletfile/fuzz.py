"""Mutated model files of every format through their readers: one clear line each, or a model; never anything else.

    python tests/bulletfile/fuzz.py SECONDS       (`make fuzz`)

Seeded, so a run of as many files does the same again. Half of the .bullet files get a right SHA-256 after the damage.
"""

import hashlib
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import example_file
import numpy as np

from bulletlm.bulletfile.layout import HEADER_END
from bulletlm.bulletfile.legacy import read_v1, write_v1
from bulletlm.bulletfile.reader import open_bullet
from bulletlm.convert import read_model
from bulletlm.errors import BulletError, FormatError
from bulletlm.export.gguf import read_gguf, write_gguf
from bulletlm.export.stored import StoredModel
from bulletlm.shape import ModelShape

SEED = 2
NUMBERS = (0, 1, 2, 3, 17, 31, 64, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
"""What lengths, offsets and counts are replaced by."""


def read_bullet(path: Path) -> None:
    """What a careful program does: open, decode every tensor, verify."""
    file = open_bullet(path)
    for name in file.tensors:
        assert np.isfinite(file.tensor(name)).all()
    file.verify()


def seeds(folder: Path) -> list[tuple[str, bytes, Callable[[Path], object]]]:
    """A whole and sound file of each format, and its reader."""
    bullet = example_file.write(folder / "seed.bullet")
    _, model = read_model(folder / "seed.bullet")
    write_gguf(folder / "seed.gguf", model)
    shape = ModelShape(**{**model.shape.to_dict(), "hidden_dim": 128, "n_kv_heads": 2})
    random = np.random.default_rng(SEED)
    weights = {name: random.standard_normal(extents).astype(np.float32) for name, extents in shape.tensors().items()}
    write_v1(folder / "old.bullet", StoredModel(shape, weights, model.tokenizer_proto, model.metadata))
    return [
        ("bullet", bullet, read_bullet),
        ("gguf", (folder / "seed.gguf").read_bytes(), read_gguf),
        ("bullet v1", (folder / "old.bullet").read_bytes(), read_v1),
    ]


def mutated(good: bytes, random: np.random.Generator) -> bytes:
    """Flip bits, write bytes or numbers, cut, repeat, remove, or change a value of the JSON, once or a few times."""
    data = bytearray(good)
    end = max(good.find(HEADER_END), 64) if good.startswith(b"{") else len(good)
    for _ in range(int(random.integers(1, 4))):
        kind = int(random.integers(8))
        # Half of the damage goes where lengths and names are.
        at = int(random.integers(min(len(data), end) if random.integers(2) else len(data)))
        if kind == 0:
            data[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            data[at] = int(random.integers(256))
        elif kind == 2:
            width = int(random.choice([1, 2, 4, 8]))
            data[at : at + width] = (int(random.choice(NUMBERS[:12])) % (1 << (8 * width))).to_bytes(width, "little")
        elif kind == 3:
            del data[at : at + int(random.integers(1, 200))]
        elif kind == 4:
            data[at:at] = data[at : at + int(random.integers(1, 200))]
        elif kind == 5:
            del data[max(at, 1) :]
        elif kind == 6:
            digits = [i for i in range(min(end, len(data))) if 48 <= data[i] < 58]
            if digits:
                data[int(random.choice(digits))] = 48 + int(random.integers(10))
        else:
            data = _another_value(data, random)
        if not data:
            break
    return bytes(data)


def _another_value(data: bytearray, random: np.random.Generator) -> bytearray:
    """One value somewhere in the JSON of a .bullet replaced; the header keeps its length where it can."""
    end = data.find(HEADER_END)
    try:
        header = json.loads(data[:end])
    except ValueError:
        return data
    place = header
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return data
        key = keys[int(random.integers(len(keys)))]
        if isinstance(place[key], (dict, list)) and random.integers(8):
            place = place[key]
            continue
        values = (None, True, -1, 1.5, "", "\x1b[2J", [], {}, 1 << 62, *NUMBERS)
        place[key] = values[int(random.integers(len(values)))]
        break
    return bytearray(json.dumps(header).encode().ljust(end)) + data[end:]


def sealed(data: bytes) -> bytes:
    """With a right SHA-256 and END! in place of the last 36 bytes."""
    content = data[:-36]
    return content + hashlib.sha256(content).digest() + b"END!"


def run(seconds: float, least: int) -> Counter[str]:
    """Try files for `seconds`, but `least` in any case; how many of each format were refused, and how many could be read."""
    random = np.random.default_rng(SEED)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        formats, path = seeds(Path(folder)), Path(folder) / "mutated"
        for _, good, read in formats:
            path.write_bytes(good)
            read(path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        end, tried = time.monotonic() + seconds, 0
        while tried < least or time.monotonic() < end:
            name, good, read = formats[tried % len(formats)]
            data = mutated(good, random)
            path.unlink()  # a new file, so that no mapping of the old one is cut
            path.write_bytes(sealed(data) if name == "bullet" and random.integers(2) else data)
            try:
                read(path)
                counts[f"{name} read"] += 1
            except BulletError as error:
                if not str(error).isprintable() or (not isinstance(error, FormatError) and data):
                    raise AssertionError(f"file {tried}: {error!r}") from error
                counts[f"{name} refused"] += 1
            tried += 1
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 64, f"memory grew by {grown:.0f} MB"
    return counts


if __name__ == "__main__":
    found = run(float(sys.argv[1]), 100)
    print(f"{sum(found.values()):,} mutated files, each read or refused in one line: {dict(sorted(found.items()))}")
